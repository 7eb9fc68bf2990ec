//! `read_archive`.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3_arrow::PyTable;

use super::error::{DataError, detached};
use super::integer;
use crate::archive::{COLUMNS, read_zips};
use crate::parallel::Threads;

/// Read daily files of Binance's bulk archive into one Arrow table.
///
/// The table has the columns timestamp (milliseconds, UTC) and open, high, low, close, volume
/// (float64, each the nearest to the decimal in the file), file after file. Open times in
/// microseconds, as in files from 2025 on, are recognized. Threads share the files.
///
/// Args:
///     files: For each file, the start of its day, milliseconds since 1970, and the content of the
///         zip, which contains one headerless CSV of twelve columns.
///     max_rows: Largest number of rows in a file, at least 1. A CSV that is larger than so many
///         rows can be is rejected.
///     day_ms: Length of a day, milliseconds, at least 1.
///     threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable cores.
///
/// Returns:
///     The table, and (index, reason) for each file that was rejected: the zip is corrupt or too
///     large, or a row does not have twelve columns with plain numbers, did not open on the day and
///     after the row before it, or is an impossible candle.
///
/// Raises:
///     ArgumentError: `max_rows`, `day_ms`, `threads` or a day is out of range.
///     TypeError: `files` is not a sequence of (int, bytes).
#[pyfunction]
#[pyo3(name = "read_archive", signature = (files, *, max_rows, day_ms, threads=None))]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_read_archive(
    py: Python<'_>,
    files: Vec<(integer::Day, PyBackedBytes)>,
    #[pyo3(from_py_with = integer::max_rows)] max_rows: usize,
    #[pyo3(from_py_with = integer::day_ms)] day_ms: i64,
    #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
) -> PyResult<(PyTable, Vec<(usize, String)>)> {
    let threads = Threads::resolve(threads)?;
    let (candles, problems) = detached(py, || {
        let files: Vec<_> = files
            .iter()
            .map(|(day, bytes)| (&bytes[..], day.0..day.0.saturating_add(day_ms)))
            .collect();
        Ok(read_zips(&files, max_rows, threads))
    })?;
    let times = TimestampMillisecondArray::from(candles.times).with_timezone("UTC");
    let values = candles
        .values
        .map(|values| Arc::new(Float64Array::from(values)) as ArrayRef);
    let arrays = std::iter::once(Arc::new(times) as ArrayRef).chain(values);
    let batch = RecordBatch::try_from_iter(COLUMNS.into_iter().zip(arrays))
        .map_err(|error| DataError::new_err(error.to_string()))?;
    let problems = problems
        .into_iter()
        .map(|(number, error)| (number, error.to_string()))
        .collect();
    let schema = batch.schema();
    Ok((PyTable::try_new(vec![batch], schema)?, problems))
}
