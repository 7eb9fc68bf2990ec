//! Files of the bulk archive, from bytes to an Arrow table.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3_arrow::PyTable;

use super::error::detached;
use crate::Error;
use crate::archive::{COLUMNS, read_zips};

/// Candles of daily files of the exchange's archive, and why some files could not be read.
#[pyfunction]
#[pyo3(name = "read_archive", signature = (files, *, max_rows, day_ms))]
#[allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 extracts owned arguments"
)]
pub fn py_read_archive(
    py: Python<'_>,
    files: Vec<(i64, PyBackedBytes)>,
    max_rows: usize,
    day_ms: i64,
) -> PyResult<(PyTable, Vec<(usize, String)>)> {
    let (batch, problems) = detached(py, || {
        let files: Vec<_> = files
            .iter()
            .map(|(start, bytes)| (&bytes[..], *start..start.saturating_add(day_ms)))
            .collect();
        let (candles, problems) = read_zips(&files, max_rows);
        let times = TimestampMillisecondArray::from(candles.times).with_timezone("UTC");
        let values = candles
            .values
            .map(|values| Arc::new(Float64Array::from(values)) as ArrayRef);
        let arrays = std::iter::once(Arc::new(times) as ArrayRef).chain(values);
        let batch = RecordBatch::try_from_iter(COLUMNS.into_iter().zip(arrays))
            .map_err(|error| Error::Archive(error.to_string()))?;
        Ok((batch, problems))
    })?;
    let problems = problems
        .into_iter()
        .map(|(number, error)| (number, error.to_string()))
        .collect();
    let schema = batch.schema();
    Ok((PyTable::try_new(vec![batch], schema)?, problems))
}
