//! `triple_barrier`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::error::detached;
use super::{argument, integer};
use crate::labels::{self, Barriers, Bars};
use crate::parallel::Threads;

/// Return which barrier around the close of each bar the next `horizon` bars reach first.
///
/// 1 if it is the upper one: a bar has `high >= close * (1 + take_profit)`. -1 if it is the lower
/// one: a bar has `low <= close * (1 - stop_loss)`. If one bar reaches both, the lower one counts.
/// 0 if no bar reaches either (M. Lopez de Prado, Advances in Financial Machine Learning, 2018,
/// chapter 3).
///
/// NaN where the label is not known: fewer than `horizon` bars follow; there is a gap before one of
/// these bars, in which the price may have reached a barrier; the high or low of one of them is
/// missing, infinite, zero or negative; or the close of the row itself is. This does not depend on
/// how early a barrier is reached. Otherwise, rows near the end and near gaps would have a label
/// only if it is not 0.
///
/// Args:
///     timestamps: Open times in milliseconds since 1970, shape (n,), strictly ascending.
///     high: Shape (n,), converted to float64.
///     low: Shape (n,), converted to float64.
///     close: Shape (n,), converted to float64.
///     bar_ms: Length of a bar, milliseconds, at least 1. A bar that does not open `bar_ms` after
///         the one before it follows a gap.
///     horizon: Bars to look at after each bar, at least 1.
///     take_profit: Distance of the upper barrier as a share of the close, above 0; 0.04 is 4%.
///     stop_loss: Distance of the lower barrier as a share of the close, above 0 and below 1.
///     threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable cores.
///         The result does not depend on it.
///
/// Returns:
///     Shape (n,), float64: -1, 0, 1 or NaN.
///
/// Raises:
///     ArgumentError: An argument is out of range or has the wrong type, or the arrays differ in
///         length.
///     DataError: The timestamps are not strictly ascending.
#[pyfunction]
#[pyo3(
    name = "triple_barrier",
    signature = (
        timestamps, high, low, close, *, bar_ms, horizon, take_profit, stop_loss, threads=None
    )
)]
#[allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "pyo3 extracts owned arguments, one for each of Python"
)]
pub fn py_triple_barrier(
    py: Python<'_>,
    #[pyo3(from_py_with = argument::timestamps)] timestamps: Vec<i64>,
    #[pyo3(from_py_with = argument::high)] high: Vec<f64>,
    #[pyo3(from_py_with = argument::low)] low: Vec<f64>,
    #[pyo3(from_py_with = argument::close)] close: Vec<f64>,
    #[pyo3(from_py_with = integer::bar_ms)] bar_ms: i64,
    #[pyo3(from_py_with = integer::horizon)] horizon: usize,
    #[pyo3(from_py_with = argument::take_profit)] take_profit: f64,
    #[pyo3(from_py_with = argument::stop_loss)] stop_loss: f64,
    #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
) -> PyResult<Bound<'_, PyArray1<f64>>> {
    let bars = Bars {
        times: &timestamps,
        high: &high,
        low: &low,
        close: &close,
    };
    let barriers = Barriers {
        horizon,
        take_profit,
        stop_loss,
    };
    let labels = detached(py, || {
        labels::triple_barrier(bars, bar_ms, barriers, Threads::resolve(threads)?)
    })?;
    Ok(labels.into_pyarray(py))
}
