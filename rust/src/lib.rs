//! Data preparation for training sequence models on candles.
//!
//! The kernels are plain Rust over slices and Arrow arrays and know nothing of Python;
//! [`mod@python`] (feature `python`) is the thin layer that hands frames in and `NumPy` views out.

pub mod archive;
pub mod candles;
pub mod column;
pub mod error;
pub mod matrix;
pub mod memory;
pub mod merge;
pub mod parallel;
pub mod pipeline;
pub mod rolling;
pub mod scale;
pub mod window;

#[cfg(feature = "python")]
pub mod python;

pub use error::{Error, Result};
