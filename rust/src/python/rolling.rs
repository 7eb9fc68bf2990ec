//! `sma` and `rsi`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::error::{ArgumentError, detached};
use super::{argument, integer};
use crate::rolling;

/// Return the simple moving average: the mean of the last `window` values.
///
/// NaN for the first `window - 1` rows and where the window contains a NaN. Each sum is computed
/// from the values of its window alone, so rounding errors do not accumulate over the rows.
///
/// Args:
///     values: Shape (n,), converted to float64.
///     window: Rows in the mean, at least 1.
///
/// Returns:
///     Shape (n,), float64, in the unit of `values`.
///
/// Raises:
///     ArgumentError: `window` is out of range, or `values` is not a one-dimensional array of
///         numbers.
#[pyfunction]
#[pyo3(name = "sma")]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_sma(
    py: Python<'_>,
    #[pyo3(from_py_with = argument::values)] values: Vec<f64>,
    #[pyo3(from_py_with = integer::window)] window: usize,
) -> PyResult<Bound<'_, PyArray1<f64>>> {
    Ok(detached(py, || Ok(rolling::sma(&values, window)))?.into_pyarray(py))
}

/// Return the relative strength index, from 0 (only losses) to 100 (only gains).
///
/// The formula is `100 - 100 / (1 + mean(gains) / mean(losses))`, where a gain is a positive
/// difference between consecutive values and a loss a negative one without its sign.
///
/// `simple` takes the means over the last `window` differences (Cutler's RSI). The first value has
/// no difference; it counts as 0. NaN for the first `window - 1` rows, where the window contains a
/// NaN, and where there is neither gain nor loss.
///
/// `wilder` starts with the means of the first `window` differences and continues with
/// `(mean * (window - 1) + x) / window` (J. W. Wilder, New Concepts in Technical Trading Systems,
/// 1978). NaN for the first `window` rows, 50 where there is neither gain nor loss. After a NaN it
/// starts again.
///
/// Args:
///     values: Shape (n,), converted to float64.
///     window: Differences in the mean, at least 1.
///     method: Which mean.
///
/// Returns:
///     Shape (n,), float64.
///
/// Raises:
///     ArgumentError: `window` is out of range, `method` is unknown, or `values` is not a
///         one-dimensional array of numbers.
#[pyfunction]
#[pyo3(
    name = "rsi",
    signature = (values, window=14, *, method="simple".to_owned()),
    text_signature = "(values, window=14, *, method='simple')"
)]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_rsi(
    py: Python<'_>,
    #[pyo3(from_py_with = argument::values)] values: Vec<f64>,
    #[pyo3(from_py_with = integer::window)] window: usize,
    #[pyo3(from_py_with = argument::method)] method: String,
) -> PyResult<Bound<'_, PyArray1<f64>>> {
    let kernel = match method.as_str() {
        "simple" => rolling::rsi,
        "wilder" => rolling::rsi_wilder,
        other => {
            return Err(ArgumentError::new_err(format!(
                "method is '{other}', expected 'simple' or 'wilder'"
            )));
        }
    };
    Ok(detached(py, || Ok(kernel(&values, window)))?.into_pyarray(py))
}
