//! Functions over whole series: the join and the rolling features.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use numpy::{AllowTypeChange, IntoPyArray, PyArray1, PyArrayLike1};
use pyo3::prelude::*;
use pyo3_arrow::PyTable;

use super::error::{ArgumentError, detached};
use super::frame::{Frame, copied};
use crate::Error;
use crate::column::Column;
use crate::merge::{How, join, take};
use crate::rolling;

/// Joins float64 columns of a slower series onto candles by their `timestamp` columns.
#[pyfunction]
#[pyo3(name = "merge", signature = (candles, other, columns, *, how, step_ms=None, lag_ms=None))]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_merge(
    py: Python<'_>,
    candles: Frame,
    other: Frame,
    columns: Vec<String>,
    how: &str,
    step_ms: Option<i64>,
    lag_ms: Option<i64>,
) -> PyResult<PyTable> {
    let how = match (how, step_ms, lag_ms) {
        ("exact", None, None) => How::Exact,
        ("resampled", Some(step), None) => How::Resampled { step },
        ("asof", None, lag) => How::AsOf {
            lag: lag.unwrap_or(0),
        },
        _ => {
            return Err(ArgumentError::new_err(format!(
                "how is '{how}' with step_ms={step_ms:?}, lag_ms={lag_ms:?}; expected 'exact', \
                 'resampled' with step_ms, or 'asof' with an optional lag_ms"
            )));
        }
    };
    if columns.is_empty() {
        return Err(ArgumentError::new_err(
            "columns is empty, expected at least one name",
        ));
    }
    let merged = detached(py, || {
        let times = candles.timestamps("timestamp")?;
        let rows = join(&times, &other.timestamps("timestamp")?, how)?;
        columns
            .iter()
            .map(|name| {
                let chunks = other.column(name)?;
                let taken = take(&Column::new(name, &chunks)?, &rows)?;
                Ok((name.as_str(), Arc::new(taken) as ArrayRef))
            })
            .collect::<Result<Vec<_>, Error>>()
    })?;
    let batch = RecordBatch::try_from_iter_with_nullable(
        merged.into_iter().map(|(name, array)| (name, array, true)),
    )
    .map_err(|error| ArgumentError::new_err(error.to_string()))?;
    let schema = batch.schema();
    PyTable::try_new(vec![batch], schema)
}

/// Simple moving average of a series.
#[pyfunction]
#[pyo3(name = "sma")]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_sma<'py>(
    py: Python<'py>,
    values: PyArrayLike1<'py, f64, AllowTypeChange>,
    window: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    check_window(window)?;
    let values = copied(&values);
    Ok(detached(py, || Ok(rolling::sma(&values, window)))?.into_pyarray(py))
}

/// Relative strength index of a series, simple-mean or Wilder's.
#[pyfunction]
#[pyo3(name = "rsi", signature = (values, window=14, *, method="simple"))]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_rsi<'py>(
    py: Python<'py>,
    values: PyArrayLike1<'py, f64, AllowTypeChange>,
    window: usize,
    method: &str,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    check_window(window)?;
    let kernel = match method {
        "simple" => rolling::rsi,
        "wilder" => rolling::rsi_wilder,
        other => {
            return Err(ArgumentError::new_err(format!(
                "method is '{other}', expected 'simple' or 'wilder'"
            )));
        }
    };
    let values = copied(&values);
    Ok(detached(py, || Ok(kernel(&values, window)))?.into_pyarray(py))
}

fn check_window(window: usize) -> PyResult<()> {
    if window == 0 {
        return Err(ArgumentError::new_err("window is 0, expected at least 1"));
    }
    Ok(())
}
