//! Operators of values in the same row.

use super::op::Op;
use crate::simd::elementwise;

pub use crate::simd::elementwise::clear;

/// Applies `op` to `args` and fills `out`. Returns false if `op` is not such an operator.
///
/// A result that is not finite is NaN. Unused arguments are ignored.
pub fn apply(op: &Op, args: &[&[f64]; 3], out: &mut [f64]) -> bool {
    let [x, y, z] = *args;
    match *op {
        Op::Unary(op) => elementwise::unary(op, x, out),
        Op::Binary(op) => elementwise::binary(op, x, y, out),
        Op::Where => elementwise::choose(x, y, z, out),
        Op::Clip(low, high) => elementwise::clip(x, low.get(), high.get(), out),
        Op::Fill(value) => elementwise::fill(x, value.get(), out),
        _ => return false,
    }
    true
}
