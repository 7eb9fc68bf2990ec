//! `MinMaxScaler`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::argument;
use super::error::{ArgumentError, detached};
use crate::scale::MinMax;

/// A fitted min-max scaler: `x * scale + min` maps `data_min` to 0 and `data_max` to 1.
///
/// `scale` is `1 / (data_max - data_min)`, or 1 for a constant feature, and `min` is
/// `-data_min * scale`. Results are bit-equal to those of scikit-learn's `MinMaxScaler`. Immutable.
///
/// Args:
///     data_min: Smallest value of the feature.
///     data_max: Largest value of the feature.
///
/// Raises:
///     ArgumentError: The two are not finite numbers, or `data_min` is greater than `data_max`.
#[pyclass(
    name = "MinMaxScaler",
    module = "atb_fast._core",
    frozen,
    eq,
    from_py_object
)]
#[derive(Clone, PartialEq)]
pub struct PyMinMaxScaler(pub MinMax);

#[pymethods]
impl PyMinMaxScaler {
    #[new]
    fn new(
        #[pyo3(from_py_with = argument::data_min)] data_min: f64,
        #[pyo3(from_py_with = argument::data_max)] data_max: f64,
    ) -> PyResult<Self> {
        if !(data_min.is_finite() && data_max.is_finite() && data_min <= data_max) {
            return Err(ArgumentError::new_err(format!(
                "data_min is {data_min:?} and data_max is {data_max:?}, expected finite numbers with \
                 data_min <= data_max"
            )));
        }
        Ok(Self(MinMax::new(data_min, data_max)))
    }

    /// Smallest value of the feature.
    #[getter]
    fn data_min(&self) -> f64 {
        self.0.data_min
    }

    /// Largest value of the feature.
    #[getter]
    fn data_max(&self) -> f64 {
        self.0.data_max
    }

    /// Factor: `1 / (data_max - data_min)`, or 1 for a constant feature.
    #[getter]
    fn scale(&self) -> f64 {
        self.0.scale
    }

    /// Offset: `-data_min * scale`.
    #[getter]
    fn min(&self) -> f64 {
        self.0.min
    }

    /// Return the scaled values. NaN stays NaN.
    ///
    /// Args:
    ///     values: Shape (n,), converted to float64.
    ///
    /// Returns:
    ///     Shape (n,), float64.
    ///
    /// Raises:
    ///     ArgumentError: `values` is not a one-dimensional array of numbers.
    fn transform<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = argument::values)] values: Vec<f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        map(py, values, |v| self.0.transform(v))
    }

    /// Return the values whose scaled values are `values`. NaN stays NaN.
    ///
    /// Args:
    ///     values: Shape (n,), converted to float64.
    ///
    /// Returns:
    ///     Shape (n,), float64, in the unit of the feature.
    ///
    /// Raises:
    ///     ArgumentError: `values` is not a one-dimensional array of numbers.
    fn inverse_transform<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = argument::values)] values: Vec<f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        map(py, values, |v| self.0.inverse(v))
    }

    fn __getnewargs__(&self) -> (f64, f64) {
        (self.0.data_min, self.0.data_max)
    }

    fn __repr__(&self) -> String {
        let MinMax {
            data_min, data_max, ..
        } = self.0;
        format!("MinMaxScaler(data_min={data_min:?}, data_max={data_max:?})")
    }
}

fn map(
    py: Python<'_>,
    mut values: Vec<f64>,
    each: impl Fn(f64) -> f64 + Sync,
) -> PyResult<Bound<'_, PyArray1<f64>>> {
    detached(py, || {
        for value in &mut values {
            *value = each(*value);
        }
        Ok(())
    })?;
    Ok(values.into_pyarray(py))
}
