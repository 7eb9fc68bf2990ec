//! `WindowBatches`, and what classes with windows have in common.

use std::sync::atomic::{AtomicUsize, Ordering};

use numpy::{IntoPyArray, PyArray1, PyArray3, PyArrayMethods, PyReadwriteArray3};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::error::{ArgumentError, detached};
use super::matrix::PyFeatureMatrix;
use crate::{Result, window};

/// The batches of one epoch, as `FeatureMatrix.batches` returns them.
///
/// Iterating yields (windows, targets), float32, shapes (batch, length, features) and (batch,).
/// `len` is the number of batches of the whole epoch. Threads can share the iterator: each batch
/// goes to one of them.
#[pyclass(frozen, name = "WindowBatches", module = "atb_fast._core")]
pub struct PyWindowBatches {
    matrix: Py<PyFeatureMatrix>,
    targets: Vec<f32>,
    starts: Vec<i64>,
    length: usize,
    batch_size: usize,
    next: AtomicUsize,
}

impl PyWindowBatches {
    pub fn new(
        matrix: Py<PyFeatureMatrix>,
        targets: Vec<f32>,
        starts: Vec<i64>,
        length: usize,
        batch_size: usize,
    ) -> Self {
        Self {
            matrix,
            targets,
            starts,
            length,
            batch_size,
            next: AtomicUsize::new(0),
        }
    }
}

type Batch<'py> = (Bound<'py, PyArray3<f32>>, Bound<'py, PyArray1<f32>>);

#[pymethods]
impl PyWindowBatches {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __len__(&self) -> usize {
        self.starts.len().div_ceil(self.batch_size)
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Batch<'py>>> {
        let end = |first: usize| first.saturating_add(self.batch_size).min(self.starts.len());
        let first = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
                Some(end(first))
            })
            .unwrap_or_else(|first| first);
        let part = first..end(first);
        if part.is_empty() {
            return Ok(None);
        }
        let matrix = self.matrix.get().matrix();
        let (starts, targets, length) = (&self.starts[part], &self.targets, self.length);
        let (x, y) = detached(py, || {
            let x = window::gather(matrix, starts, length)?;
            let y: Vec<f32> = starts
                .iter()
                .map(|start| targets[*start as usize + length])
                .collect();
            Ok((x, y))
        })?;
        let x = batch(py, x, length, matrix.columns())?;
        Ok(Some((x, y.into_pyarray(py))))
    }
}

/// Returns gathered windows as an array of shape (batch, length, columns).
pub fn batch(
    py: Python<'_>,
    windows: Vec<f32>,
    length: usize,
    columns: usize,
) -> PyResult<Bound<'_, PyArray3<f32>>> {
    let count = windows.len() / (length * columns);
    windows.into_pyarray(py).reshape([count, length, columns])
}

/// Returns `out` after `fill` has written its values, without the GIL.
pub fn filled<'py>(
    py: Python<'py>,
    out: Bound<'py, PyAny>,
    shape: [usize; 3],
    fill: impl FnOnce(&mut [f32]) -> Result<()> + Send,
) -> PyResult<Bound<'py, PyArray3<f32>>> {
    let out = out
        .cast_into::<PyArray3<f32>>()
        .map_err(|_| ArgumentError::new_err("out is not a float32 array of three dimensions"))?;
    let mut target: PyReadwriteArray3<'py, f32> = out
        .try_readwrite()
        .map_err(|error| ArgumentError::new_err(format!("out cannot be written: {error}")))?;
    if target.as_array().shape() != shape || !target.as_array().is_standard_layout() {
        return Err(ArgumentError::new_err(format!(
            "out has shape {:?}, expected a C-contiguous float32 array of shape {shape:?}",
            target.as_array().shape()
        )));
    }
    let windows = target.as_slice_mut()?;
    detached(py, || fill(windows))?;
    drop(target);
    Ok(out)
}

/// Returns the read-only array in `cell`, which the first call fills with `rows`.
pub fn frame_rows<'py>(
    py: Python<'py>,
    cell: &PyOnceLock<Py<PyArray1<i64>>>,
    rows: impl FnOnce() -> Vec<i64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let array = cell.get_or_try_init(py, || {
        let array = rows().into_pyarray(py);
        array.getattr("flags")?.setattr("writeable", false)?;
        Ok::<_, PyErr>(array.unbind())
    })?;
    Ok(array.bind(py).clone())
}
