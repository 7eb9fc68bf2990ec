//! `epoch_ms`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::argument;
use crate::epoch::milliseconds;

/// Return whole numbers since 1970 as milliseconds, whichever unit they are in.
///
/// Numbers below 1e11 are seconds, below 1e14 milliseconds, below 1e17 microseconds, and larger
/// ones nanoseconds. So each unit is recognized from 1973 on.
///
/// Args:
///     times: Shape (n,), integers.
///
/// Returns:
///     Shape (n,), int64.
///
/// Raises:
///     ArgumentError: `times` is not a one-dimensional array of integers.
#[pyfunction]
#[pyo3(name = "epoch_ms")]
pub fn py_epoch_ms(
    py: Python<'_>,
    #[pyo3(from_py_with = argument::times)] mut times: Vec<i64>,
) -> Bound<'_, PyArray1<i64>> {
    for time in &mut times {
        *time = milliseconds(*time);
    }
    times.into_pyarray(py)
}
