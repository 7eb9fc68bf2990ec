//! Data preparation for training sequence models on candles.
//!
//! The kernels are plain Rust over slices and Arrow arrays, independent of Python. [`mod@python`]
//! (feature `python`) is a thin layer that takes Arrow frames and returns `NumPy` arrays.

pub mod archive;
pub mod candles;
pub mod column;
pub mod epoch;
pub mod error;
pub mod expr;
pub mod labels;
pub mod matrix;
pub mod memory;
pub mod merge;
pub mod parallel;
pub mod rolling;
pub mod scale;
pub mod simd;
pub mod window;

#[cfg(feature = "python")]
pub mod python;

pub use error::{Error, Result};
