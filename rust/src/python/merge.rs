//! `merge`.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use pyo3::prelude::*;
use pyo3_arrow::PyTable;

use super::error::{ArgumentError, detached, no_columns};
use super::frame::Frame;
use super::{argument, integer};
use crate::Result;
use crate::column::Column;
use crate::merge::{How, join, take};

/// Join float64 columns of a slower series onto candles by their `timestamp` columns.
///
/// Args:
///     candles: The left frame. The result has one row for each of its rows.
///     other: The right frame.
///     columns: Columns of `other` to join; one name, or a list.
///     how: `exact` takes the row with the same time. `resampled` first repeats `other` forward on
///         a grid of `step_ms` milliseconds that starts at midnight UTC of its first row and ends
///         with its last row, then joins exactly (as pandas' `resample().ffill()` and a left
///         join). `asof` takes the newest row that was at least `lag_ms` old when the candle
///         opened.
///     step_ms: Time between two candles, milliseconds, at least 1. Only with `resampled`, which
///         requires it.
///     lag_ms: Minimum age of a row, milliseconds, at least 0 (the default). Only with `asof`.
///
/// Returns:
///     An Arrow table of `columns`, float64, null where a candle has no row.
///
/// Raises:
///     ArgumentError: `columns` is empty, `how` is unknown or does not go with `step_ms` and
///         `lag_ms`, or one of these is out of range.
///     DataError: `candles` or `other` is not an Arrow frame, a column is missing or not float64, a
///         value is NaN or infinite, or the times are not strictly ascending.
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
    #[pyo3(from_py_with = argument::columns)] columns: Vec<String>,
    #[pyo3(from_py_with = argument::how)] how: String,
    #[pyo3(from_py_with = integer::step_ms)] step_ms: Option<i64>,
    #[pyo3(from_py_with = integer::lag_ms)] lag_ms: Option<i64>,
) -> PyResult<PyTable> {
    let how = match (how.as_str(), step_ms, lag_ms) {
        ("exact", None, None) => How::Exact,
        ("resampled", Some(step), None) => How::Resampled { step },
        ("asof", None, lag) => How::AsOf {
            lag: lag.unwrap_or(0),
        },
        _ => {
            let shown = |ms: Option<i64>| ms.map_or_else(|| "None".to_owned(), |ms| ms.to_string());
            return Err(ArgumentError::new_err(format!(
                "how is '{how}' with step_ms={} and lag_ms={}, expected 'exact', 'resampled' with \
                 step_ms, or 'asof' with an optional lag_ms",
                shown(step_ms),
                shown(lag_ms)
            )));
        }
    };
    if columns.is_empty() {
        return Err(no_columns());
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
            .collect::<Result<Vec<_>>>()
    })?;
    let batch = RecordBatch::try_from_iter_with_nullable(
        merged.into_iter().map(|(name, array)| (name, array, true)),
    )
    .map_err(|error| ArgumentError::new_err(error.to_string()))?;
    let schema = batch.schema();
    PyTable::try_new(vec![batch], schema)
}
