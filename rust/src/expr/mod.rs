//! Expressions over the columns of a frame, evaluated block by block.
//!
//! An expression is a list of nodes: operators, whose arguments are earlier nodes. A [`Pipeline`]
//! puts the expressions of all features into one graph, in which equal parts are shared. It computes
//! each part on a block of rows and the rows before it that the block depends on, so no column ever
//! exists in full, and no result depends on the size of a block or on the number of threads.
//!
//! Null is NaN, and so is a result that is not finite. An operator that looks back on a row before
//! the frame gives NaN.

mod block;
mod clock;
mod elementwise;
mod graph;
pub mod kernels;
pub mod op;
mod pipeline;
mod plan;
#[cfg(test)]
mod tests;

pub use self::block::Input;
pub use self::graph::{Expression, MAX_NODES};
pub use self::pipeline::{Feature, Nulls, Pipeline};
