//! `FeatureMatrix`.

use numpy::ndarray::{ArrayView2, ArrayView3, ShapeBuilder};
use numpy::{PyArray1, PyArray2, PyArray3};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict};

use super::error::{ArgumentError, bad_shape, detached};
use super::window::{PyWindowBatches, batch, filled, frame_rows};
use super::{argument, integer};
use crate::matrix::Matrix;
use crate::memory::view::read_only;
use crate::window;

/// The row-major float32 feature matrix, shape (rows, features). Immutable; can be pickled.
///
/// Args:
///     values: Shape (rows, features), float32, at least one feature. They are copied.
///     names: One for each feature.
///     rows: The number of each row in its frame, strictly ascending, shape (rows,), int64.
///         Default: 0, 1, 2 and so on.
///
/// Raises:
///     ArgumentError: `values` is not a two-dimensional float32 array, the number of names or rows
///         is wrong, or rows are not ascending from 0 on.
#[pyclass(name = "FeatureMatrix", module = "atb_fast._core", frozen)]
pub struct PyFeatureMatrix {
    matrix: Matrix<f32>,
    names: Vec<String>,
    rows: PyOnceLock<Py<PyArray1<i64>>>,
}

impl PyFeatureMatrix {
    pub fn new(matrix: Matrix<f32>, names: Vec<String>) -> Self {
        Self {
            matrix,
            names,
            rows: PyOnceLock::new(),
        }
    }

    pub fn matrix(&self) -> &Matrix<f32> {
        &self.matrix
    }
}

#[pymethods]
impl PyFeatureMatrix {
    #[new]
    #[pyo3(signature = (values, names, *, rows=None))]
    fn py_new(
        #[pyo3(from_py_with = argument::matrix)] values: (Vec<f32>, usize),
        #[pyo3(from_py_with = argument::names)] names: Vec<String>,
        #[pyo3(from_py_with = argument::numbers_of_rows)] rows: Option<Vec<i64>>,
    ) -> PyResult<Self> {
        let (data, columns) = values;
        if columns == 0 || columns != names.len() {
            return Err(ArgumentError::new_err(format!(
                "values have {columns} columns and names has {}, expected the same number, at least 1",
                names.len()
            )));
        }
        let matrix = Matrix::from_rows(data, names.len());
        let matrix = match rows {
            Some(rows) => matrix.with_kept(&rows)?,
            None => matrix,
        };
        Ok(Self::new(matrix, names))
    }

    /// Number of rows and of features.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.columns())
    }

    /// The name of each feature.
    #[getter]
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// The number of each row in the frame, ascending, shape (rows,), int64.
    ///
    /// Read-only, and the same array on each access.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        frame_rows(py, &self.rows, || {
            let rows = self.matrix.kept().iter().cloned().flatten();
            rows.map(|row| row as i64).collect()
        })
    }

    /// The matrix itself, shape (rows, features), float32.
    ///
    /// A read-only view: nothing is copied, and it keeps the matrix alive.
    #[getter]
    fn values<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        read_only(this, |this| {
            ArrayView2::from_shape(this.shape(), this.matrix.data()).map_err(bad_shape)
        })
    }

    /// Return every window as a read-only view, shape (rows - length + 1, length, features).
    ///
    /// Window `i` is rows `i` to `i + length - 1`. Nothing is copied: consecutive windows share
    /// their memory with each other and with `values`. No row follows the last window, so a model
    /// that predicts the next row uses all but the last.
    ///
    /// Args:
    ///     length: Rows in a window, at least 1.
    ///
    /// Returns:
    ///     Shape (rows - length + 1, length, features), float32.
    ///
    /// Raises:
    ///     ArgumentError: `length` is out of range.
    ///     DataError: The matrix has fewer rows than a window.
    fn windows<'py>(
        this: &Bound<'py, Self>,
        #[pyo3(from_py_with = integer::length)] length: usize,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        read_only(this, |this| {
            let (rows, columns) = this.shape();
            let shape = (window::count(rows, length)?, length, columns);
            let shape = shape.strides((columns, columns, 1));
            ArrayView3::from_shape(shape, this.matrix.data()).map_err(bad_shape)
        })
    }

    /// Copy the windows at `starts` into one contiguous array, without the GIL.
    ///
    /// Args:
    ///     starts: First row of each window, in any order, shape (batch,), int64.
    ///     length: Rows in a window, at least 1.
    ///     out: Where to write instead of into a new array: C-contiguous float32 of shape (batch,
    ///         length, features). Reusing it avoids the page faults of new memory. No other thread
    ///         may use it during the call.
    ///
    /// Returns:
    ///     `out`, or a new array of shape (batch, length, features), float32.
    ///
    /// Raises:
    ///     ArgumentError: A window does not fit into the matrix, `length` is out of range,
    ///         `starts` is not a one-dimensional array of integers, or `out` is read-only or not
    ///         as described.
    ///     DataError: The matrix has fewer rows than a window.
    ///     MemoryError: The windows do not fit into memory.
    #[pyo3(signature = (starts, length, *, out=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn gather<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = argument::starts)] starts: Vec<i64>,
        #[pyo3(from_py_with = integer::length)] length: usize,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let Some(out) = out else {
            let windows = detached(py, || window::gather(&self.matrix, &starts, length))?;
            return batch(py, windows, length, self.matrix.columns());
        };
        let shape = [starts.len(), length, self.matrix.columns()];
        filled(py, out, shape, |windows| {
            window::gather_into(&self.matrix, &starts, length, windows)
        })
    }

    /// Return an iterator over the batches of one epoch.
    ///
    /// Args:
    ///     targets: The target of each row, shape (rows,), float32. A window that starts at row `s`
    ///         has the target of row `s + length`, the row after its last one.
    ///     length: Rows in a window, at least 1.
    ///     batch_size: Windows in a batch, at least 1. The last batch may be smaller.
    ///     starts: First row of each window, shape (windows,), int64. Default: every window that
    ///         another row follows.
    ///     seed: Seed of the shuffle, 0 to 2**64 - 1. If None, the windows come in order.
    ///     epoch: Number of the epoch, 0 to 2**64 - 1. The order depends on `seed` and `epoch`
    ///         alone.
    ///
    /// Returns:
    ///     An iterator over (windows, targets), float32, shapes (batch, length, features) and
    ///     (batch,).
    ///
    /// Raises:
    ///     ArgumentError: `targets` is not a one-dimensional float32 array with one target for each
    ///         row, `starts` is not a one-dimensional array of integers, a window does not fit, or
    ///         a number is out of range.
    ///     DataError: The matrix has too few rows for one window and its target.
    #[pyo3(signature = (targets, length, batch_size, *, starts=None, seed=None, epoch=0))]
    #[allow(clippy::too_many_arguments, reason = "all but three are keywords")]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn batches(
        this: &Bound<'_, Self>,
        #[pyo3(from_py_with = argument::targets)] targets: Vec<f32>,
        #[pyo3(from_py_with = integer::length)] length: usize,
        #[pyo3(from_py_with = integer::batch_size)] batch_size: usize,
        #[pyo3(from_py_with = argument::optional_starts)] starts: Option<Vec<i64>>,
        #[pyo3(from_py_with = integer::seed)] seed: Option<u64>,
        #[pyo3(from_py_with = integer::epoch)] epoch: u64,
    ) -> PyResult<PyWindowBatches> {
        let rows = this.get().matrix.rows();
        if targets.len() != rows {
            return Err(ArgumentError::new_err(format!(
                "targets has {} values, expected one for each of the {rows} rows",
                targets.len()
            )));
        }
        // The target of a window is in the row after it, so no window contains the last row.
        let usable = rows.saturating_sub(1);
        let mut starts = match starts {
            Some(starts) => starts,
            None => (0..window::count(usable, length)? as i64).collect(),
        };
        window::check_starts(usable, &starts, length)?;
        if let Some(seed) = seed {
            window::shuffle(&mut starts, seed, epoch);
        }
        let matrix = this.clone().unbind();
        Ok(PyWindowBatches::new(
            matrix, targets, starts, length, batch_size,
        ))
    }

    #[allow(clippy::type_complexity, reason = "the result that pickle expects")]
    fn __getnewargs_ex__<'py>(
        this: &Bound<'py, Self>,
    ) -> PyResult<((Bound<'py, PyArray2<f32>>, Vec<String>), Bound<'py, PyDict>)> {
        let rows = this.get().rows(this.py())?;
        let names = this.get().names.clone();
        Ok((
            (Self::values(this)?, names),
            [("rows", rows)].into_py_dict(this.py())?,
        ))
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
