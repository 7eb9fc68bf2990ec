//! `CandleMatrix`.

use arrow_array::ArrayRef;
use numpy::ndarray::ArrayView2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::error::{ArgumentError, bad_shape, detached, no_columns};
use super::frame::Frame;
use super::window::{batch, filled, frame_rows};
use super::{argument, integer};
use crate::candles::CandleMatrix;
use crate::column::Column;
use crate::memory::{self, view::read_only};
use crate::{Result, window};

/// Raw candles whose windows are scaled one by one, each by its own values. Immutable.
///
/// Args:
///     frame: Candles with these columns, float64. They are copied. Null is a missing value.
///     columns: Names of the columns, in the order of the matrix, at least one; or one name.
///
/// Raises:
///     ArgumentError: `columns` is empty.
///     DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is NaN
///         or infinite, or timestamps are not strictly ascending.
#[pyclass(name = "CandleMatrix", module = "atb_fast._core", frozen)]
pub struct PyCandleMatrix {
    candles: CandleMatrix,
    names: Vec<String>,
    rows: PyOnceLock<Py<PyArray1<i64>>>,
}

#[pymethods]
impl PyCandleMatrix {
    #[new]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn new(
        py: Python<'_>,
        frame: Frame,
        #[pyo3(from_py_with = argument::columns)] columns: Vec<String>,
    ) -> PyResult<Self> {
        if columns.is_empty() {
            return Err(no_columns());
        }
        let candles = detached(py, || {
            frame.check_order()?;
            let chunks = columns
                .iter()
                .map(|name| Ok((name.as_str(), frame.column(name)?)))
                .collect::<Result<Vec<(&str, Vec<ArrayRef>)>>>()?;
            let read = chunks
                .iter()
                .map(|(name, chunks)| Column::new(name, chunks));
            CandleMatrix::new(&read.collect::<Result<Vec<_>>>()?)
        })?;
        Ok(Self {
            candles,
            names: columns,
            rows: PyOnceLock::new(),
        })
    }

    /// Number of rows and of columns.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.candles.rows(), self.candles.columns())
    }

    /// The name of each column.
    #[getter]
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// The number of each row in the frame: 0, 1, 2 and so on, int64.
    ///
    /// Read-only, and the same array on each access.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        frame_rows(py, &self.rows, || (0..self.candles.rows() as i64).collect())
    }

    /// The unscaled values, shape (rows, columns), float64, NaN where one is missing.
    ///
    /// A read-only view: nothing is copied, and it keeps the matrix alive.
    #[getter]
    fn values<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        read_only(this, |this| {
            ArrayView2::from_shape(this.shape(), this.candles.data()).map_err(bad_shape)
        })
    }

    /// Return the start of each window in which no value is missing, zero or negative.
    ///
    /// Args:
    ///     length: Rows in a window, at least 1.
    ///
    /// Returns:
    ///     First row of each window, ascending, shape (windows,), int64.
    ///
    /// Raises:
    ///     ArgumentError: `length` is out of range.
    fn usable<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = integer::length)] length: usize,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        Ok(detached(py, || Ok(self.candles.usable(length)))?.into_pyarray(py))
    }

    /// Return the lowest and the highest value of one column in each window.
    ///
    /// Args:
    ///     column: Name of the column.
    ///     starts: First row of each window, in any order, shape (windows,), int64.
    ///     length: Rows in a window, at least 1.
    ///
    /// Returns:
    ///     The lowest and the highest values, shape (windows,) each, float64. Missing values are
    ///     skipped.
    ///
    /// Raises:
    ///     ArgumentError: There is no such column, a window does not fit into the matrix, `length`
    ///         is out of range, or `starts` is not a one-dimensional array of integers.
    ///     DataError: The matrix has fewer rows than a window.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn ranges<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = argument::column)] column: String,
        #[pyo3(from_py_with = argument::starts)] starts: Vec<i64>,
        #[pyo3(from_py_with = integer::length)] length: usize,
    ) -> PyResult<[Bound<'py, PyArray1<f64>>; 2]> {
        let Some(index) = self.names.iter().position(|name| *name == column) else {
            return Err(ArgumentError::new_err(format!(
                "column is '{column}', expected one of {}",
                self.names.join(", ")
            )));
        };
        let ends = detached(py, || self.candles.ranges(index, &starts, length))?;
        Ok(ends.map(|values| values.into_pyarray(py)))
    }

    /// Return the windows at `starts`, each scaled by its own values, without the GIL.
    ///
    /// Each column of a window becomes `(x - min) / (max - min)`, computed in float64, where min
    /// and max are those of the rows of the window up to this one. Where they are equal, as on the
    /// first row, the result is 0.5.
    ///
    /// Args:
    ///     starts: First row of each window, in any order, shape (batch,), int64.
    ///     length: Rows in a window, at least 1.
    ///     out: As in `FeatureMatrix.gather`.
    ///
    /// Returns:
    ///     `out`, or a new array of shape (batch, length, columns), float32.
    ///
    /// Raises:
    ///     ArgumentError: A window does not fit into the matrix, `length` is out of range,
    ///         `starts` is not a one-dimensional array of integers, or `out` is read-only or not
    ///         as described.
    ///     DataError: A window has a value that is missing, zero or negative, or the matrix has
    ///         fewer rows than a window.
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
        let columns = self.candles.columns();
        let fill = |windows: &mut [f32]| self.candles.gather_scaled(&starts, length, windows);
        if let Some(out) = out {
            return filled(py, out, [starts.len(), length, columns], fill);
        }
        let windows = detached(py, || {
            window::check_starts(self.candles.rows(), &starts, length)?;
            let shape = [starts.len(), length, columns];
            let values = shape.into_iter().fold(1, usize::saturating_mul);
            let mut windows = memory::room(values)?;
            windows.resize(values, 0.0);
            fill(&mut windows)?;
            Ok(windows)
        })?;
        batch(py, windows, length, columns)
    }

    fn __len__(&self) -> usize {
        self.candles.rows()
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = self.shape();
        format!(
            "CandleMatrix({rows} rows x {columns}: {})",
            self.names.join(", ")
        )
    }
}
