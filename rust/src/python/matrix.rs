//! `FeatureMatrix`, its window views, and the batch iterator.

use std::ops::Range;

use numpy::ndarray::{ArrayView2, ArrayView3, ShapeBuilder};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayLike1, PyArrayMethods, PyReadonlyArray2,
    PyReadwriteArray3,
};
use pyo3::prelude::*;

use super::error::{ArgumentError, bad_shape, detached};
use super::frame::copied;
use crate::matrix::Matrix;
use crate::memory::view::read_only;
use crate::{Error, Result, window};

/// The row-major float32 feature matrix.
#[pyclass(name = "FeatureMatrix", module = "atb_fast._core", frozen)]
pub struct PyFeatureMatrix {
    matrix: Matrix<f32>,
    names: Vec<String>,
}

impl PyFeatureMatrix {
    pub fn new(matrix: Matrix<f32>, names: Vec<String>) -> Self {
        Self { matrix, names }
    }
}

#[pymethods]
impl PyFeatureMatrix {
    #[new]
    #[pyo3(signature = (values, names, *, rows=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn py_new(
        values: PyReadonlyArray2<'_, f32>,
        names: Vec<String>,
        rows: Option<PyArrayLike1<'_, i64>>,
    ) -> PyResult<Self> {
        let values = values.as_array();
        if values.ncols() == 0 || values.ncols() != names.len() {
            return Err(ArgumentError::new_err(format!(
                "values have {} columns and names has {}, expected the same number, at least 1",
                values.ncols(),
                names.len()
            )));
        }
        let data = values.iter().copied().collect();
        let matrix = Matrix::from_rows(data, names.len());
        let matrix = match rows {
            Some(rows) => matrix.with_kept(&copied(&rows))?,
            None => matrix,
        };
        Ok(Self::new(matrix, names))
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.columns())
    }

    #[getter]
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let rows = self.matrix.kept().iter().cloned().flatten();
        rows.map(|row| row as i64)
            .collect::<Vec<_>>()
            .into_pyarray(py)
    }

    #[getter]
    fn values<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        read_only(this, |this| {
            let matrix = &this.matrix;
            let shape = (matrix.rows(), matrix.columns());
            ArrayView2::from_shape(shape, matrix.data()).map_err(bad_shape)
        })
    }

    fn windows<'py>(this: &Bound<'py, Self>, length: usize) -> PyResult<Bound<'py, PyArray3<f32>>> {
        read_only(this, |this| {
            let matrix = &this.matrix;
            let columns = matrix.columns();
            let shape = (window::count(matrix.rows(), length)?, length, columns);
            let shape = shape.strides((columns, columns, 1));
            ArrayView3::from_shape(shape, matrix.data()).map_err(bad_shape)
        })
    }

    #[pyo3(signature = (starts, length, *, out=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn gather<'py>(
        &self,
        py: Python<'py>,
        starts: PyArrayLike1<'py, i64>,
        length: usize,
        out: Option<Bound<'py, PyArray3<f32>>>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let starts = copied(&starts);
        let Some(out) = out else {
            let windows = detached(py, || window::gather(&self.matrix, &starts, length))?;
            return batch(py, windows, length, self.matrix.columns());
        };
        let shape = [starts.len(), length, self.matrix.columns()];
        filled(py, out, shape, |windows| {
            window::gather_into(&self.matrix, &starts, length, windows)
        })
    }

    #[pyo3(signature = (targets, length, batch_size, *, starts=None, seed=None, epoch=0))]
    #[allow(clippy::too_many_arguments, reason = "all but two are keywords")]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn batches(
        this: &Bound<'_, Self>,
        targets: PyArrayLike1<'_, f32>,
        length: usize,
        batch_size: usize,
        starts: Option<PyArrayLike1<'_, i64>>,
        seed: Option<u64>,
        epoch: u64,
    ) -> PyResult<PyWindowBatches> {
        let rows = this.get().matrix.rows();
        let targets = copied(&targets);
        if targets.len() != rows {
            return Err(ArgumentError::new_err(format!(
                "targets has {} values, expected one for each of the {rows} rows",
                targets.len()
            )));
        }
        if batch_size == 0 {
            return Err(ArgumentError::new_err(
                "batch_size is 0, expected at least 1",
            ));
        }
        // The target of a window is the row behind it, so the last row starts no window's end.
        let usable = rows.saturating_sub(1);
        let mut starts = match starts {
            Some(starts) => copied(&starts),
            None => (0..window::count(usable, length)? as i64).collect(),
        };
        window::check_starts(usable, &starts, length)?;
        if let Some(seed) = seed {
            window::shuffle(&mut starts, seed, epoch);
        }
        Ok(PyWindowBatches {
            matrix: this.clone().unbind(),
            targets,
            starts,
            length,
            batch_size,
            next: 0,
        })
    }

    fn __len__(&self) -> usize {
        self.matrix.rows()
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = self.shape();
        format!(
            "FeatureMatrix({rows} rows x {columns}: {})",
            self.names.join(", ")
        )
    }
}

/// The batches of one epoch.
#[pyclass(name = "WindowBatches", module = "atb_fast._core")]
pub struct PyWindowBatches {
    matrix: Py<PyFeatureMatrix>,
    targets: Vec<f32>,
    starts: Vec<i64>,
    length: usize,
    batch_size: usize,
    next: usize,
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

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Batch<'py>>> {
        let part: Range<usize> = self.next
            ..self
                .starts
                .len()
                .min(self.next.saturating_add(self.batch_size));
        if part.is_empty() {
            return Ok(None);
        }
        self.next = part.end;
        let matrix = &self.matrix.get().matrix;
        let (starts, targets, length) = (&self.starts[part], &self.targets, self.length);
        let (x, y) = detached(py, || {
            let x = window::gather(matrix, starts, length)?;
            let y: Vec<f32> = starts
                .iter()
                .map(|start| targets[*start as usize + length])
                .collect();
            Ok::<_, Error>((x, y))
        })?;
        let x = batch(py, x, self.length, matrix.columns())?;
        Ok(Some((x, y.into_pyarray(py))))
    }
}

fn batch(
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
    out: Bound<'py, PyArray3<f32>>,
    shape: [usize; 3],
    fill: impl FnOnce(&mut [f32]) -> Result<()> + Send,
) -> PyResult<Bound<'py, PyArray3<f32>>> {
    let mut target: PyReadwriteArray3<'py, f32> = out.try_readwrite()?;
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
