//! `CandleMatrix`: raw candles, whose windows are scaled one by one.

use arrow_array::ArrayRef;
use numpy::ndarray::ArrayView2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayLike1, PyArrayMethods};
use pyo3::prelude::*;

use super::error::{ArgumentError, bad_shape, detached};
use super::frame::{Frame, copied};
use super::matrix::filled;
use crate::Result;
use crate::candles::Candles;
use crate::column::Column;
use crate::memory::{self, view::read_only};

/// Raw candles, whose windows are scaled one by one.
#[pyclass(name = "CandleMatrix", module = "atb_fast._core", frozen)]
pub struct PyCandleMatrix {
    candles: Candles,
    names: Vec<String>,
}

#[pymethods]
impl PyCandleMatrix {
    #[new]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn new(py: Python<'_>, frame: Frame, columns: Vec<String>) -> PyResult<Self> {
        if columns.is_empty() {
            return Err(ArgumentError::new_err(
                "columns is empty, expected at least one name",
            ));
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
            Candles::new(&read.collect::<Result<Vec<_>>>()?)
        })?;
        Ok(Self {
            candles,
            names: columns,
        })
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.candles.rows(), self.candles.columns())
    }

    #[getter]
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let rows = self.candles.rows() as i64;
        (0..rows).collect::<Vec<_>>().into_pyarray(py)
    }

    #[getter]
    fn values<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        read_only(this, |this| {
            let candles = &this.candles;
            let shape = (candles.rows(), candles.columns());
            ArrayView2::from_shape(shape, candles.data()).map_err(bad_shape)
        })
    }

    fn usable<'py>(&self, py: Python<'py>, length: usize) -> PyResult<Bound<'py, PyArray1<i64>>> {
        if length == 0 {
            return Err(ArgumentError::new_err("length is 0, expected at least 1"));
        }
        Ok(detached(py, || Ok(self.candles.usable(length)))?.into_pyarray(py))
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn ranges<'py>(
        &self,
        py: Python<'py>,
        column: &str,
        starts: PyArrayLike1<'py, i64>,
        length: usize,
    ) -> PyResult<[Bound<'py, PyArray1<f64>>; 2]> {
        let Some(index) = self.names.iter().position(|name| name == column) else {
            return Err(ArgumentError::new_err(format!(
                "column is '{column}', expected one of {}",
                self.names.join(", ")
            )));
        };
        let starts = copied(&starts);
        let ends = detached(py, || self.candles.ranges(index, &starts, length))?;
        Ok(ends.map(|values| values.into_pyarray(py)))
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
        let shape = [starts.len(), length, self.candles.columns()];
        let fill = |windows: &mut [f32]| self.candles.gather_scaled(&starts, length, windows);
        if let Some(out) = out {
            return filled(py, out, shape, fill);
        }
        let windows = detached(py, || {
            let values = shape.iter().copied().fold(1, usize::saturating_mul);
            let mut windows = memory::room(values)?;
            windows.resize(values, 0.0);
            fill(&mut windows)?;
            Ok(windows)
        })?;
        windows.into_pyarray(py).reshape(shape)
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
