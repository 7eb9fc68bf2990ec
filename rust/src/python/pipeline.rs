//! `Feature`, `MinMaxScaler` and `FeaturePipeline`.

use arrow_array::ArrayRef;
use numpy::ndarray::Array2;
use numpy::{AllowTypeChange, IntoPyArray, PyArray1, PyArray2, PyArrayLike1};
use pyo3::prelude::*;

use super::error::{ArgumentError, detached};
use super::frame::{Frame, copied};
use super::matrix::PyFeatureMatrix;
use crate::Result;
use crate::column::Column;
use crate::matrix::{Element, Matrix};
use crate::pipeline::{Feature, Pipeline, Transform};
use crate::scale::MinMax;

/// One column of the feature matrix and how it is computed.
#[pyclass(
    name = "Feature",
    module = "atb_fast._core",
    frozen,
    eq,
    from_py_object
)]
#[derive(Clone, PartialEq)]
pub struct PyFeature(Feature);

#[pymethods]
impl PyFeature {
    #[new]
    #[pyo3(signature = (name, source, *, sma=None, rsi=None, null_as=None))]
    fn new(
        name: String,
        source: String,
        sma: Option<usize>,
        rsi: Option<usize>,
        null_as: Option<f64>,
    ) -> PyResult<Self> {
        let transform = match (sma, rsi) {
            (None, None) => Transform::Identity,
            (Some(window), None) => Transform::Sma(window),
            (None, Some(window)) => Transform::Rsi(window),
            (Some(_), Some(_)) => {
                return Err(ArgumentError::new_err(format!(
                    "feature '{name}' has both sma and rsi, expected at most one"
                )));
            }
        };
        Ok(Self(Feature {
            name,
            source,
            transform,
            null_as,
        }))
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    #[getter]
    fn source(&self) -> &str {
        &self.0.source
    }

    #[getter]
    fn sma(&self) -> Option<usize> {
        match self.0.transform {
            Transform::Sma(window) => Some(window),
            _ => None,
        }
    }

    #[getter]
    fn rsi(&self) -> Option<usize> {
        match self.0.transform {
            Transform::Rsi(window) => Some(window),
            _ => None,
        }
    }

    #[getter]
    fn null_as(&self) -> Option<f64> {
        self.0.null_as
    }

    fn __repr__(&self) -> String {
        let Feature { name, source, .. } = &self.0;
        match self.0.transform {
            Transform::Identity => format!("Feature('{name}', '{source}')"),
            Transform::Sma(window) => format!("Feature('{name}', '{source}', sma={window})"),
            Transform::Rsi(window) => format!("Feature('{name}', '{source}', rsi={window})"),
        }
    }
}

/// A fitted min-max scaler of one feature.
#[pyclass(
    name = "MinMaxScaler",
    module = "atb_fast._core",
    frozen,
    eq,
    from_py_object
)]
#[derive(Clone, PartialEq)]
pub struct PyMinMaxScaler(MinMax);

#[pymethods]
impl PyMinMaxScaler {
    #[new]
    fn new(data_min: f64, data_max: f64) -> PyResult<Self> {
        if !(data_min.is_finite() && data_max.is_finite() && data_min <= data_max) {
            return Err(ArgumentError::new_err(format!(
                "data_min is {data_min} and data_max is {data_max}, expected finite, min <= max"
            )));
        }
        Ok(Self(MinMax::new(data_min, data_max)))
    }

    #[getter]
    fn data_min(&self) -> f64 {
        self.0.data_min
    }

    #[getter]
    fn data_max(&self) -> f64 {
        self.0.data_max
    }

    #[getter]
    fn scale(&self) -> f64 {
        self.0.scale
    }

    #[getter]
    fn min(&self) -> f64 {
        self.0.min
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn transform<'py>(
        &self,
        py: Python<'py>,
        values: PyArrayLike1<'py, f64, AllowTypeChange>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        map(py, &values, |v| self.0.transform(v))
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn inverse_transform<'py>(
        &self,
        py: Python<'py>,
        values: PyArrayLike1<'py, f64, AllowTypeChange>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        map(py, &values, |v| self.0.inverse(v))
    }

    fn __repr__(&self) -> String {
        let MinMax {
            data_min, data_max, ..
        } = self.0;
        format!("MinMaxScaler(data_min={data_min:?}, data_max={data_max:?})")
    }
}

fn map<'py>(
    py: Python<'py>,
    values: &PyArrayLike1<'py, f64, AllowTypeChange>,
    each: impl Fn(f64) -> f64 + Sync,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let mut values = copied(values);
    detached(py, || {
        for value in &mut values {
            *value = each(*value);
        }
        Ok(())
    })?;
    Ok(values.into_pyarray(py))
}

/// Features in channel order, and their scalers once fitted.
#[pyclass(name = "FeaturePipeline", module = "atb_fast._core", frozen)]
pub struct PyFeaturePipeline(Pipeline);

#[pymethods]
impl PyFeaturePipeline {
    #[new]
    #[pyo3(signature = (features, *, scalers=None))]
    fn new(features: Vec<PyFeature>, scalers: Option<Vec<PyMinMaxScaler>>) -> PyResult<Self> {
        let features = features.into_iter().map(|feature| feature.0).collect();
        let pipeline = Pipeline::new(features)?;
        Ok(Self(match scalers {
            Some(fitted) => {
                pipeline.with_scalers(fitted.into_iter().map(|scaler| scaler.0).collect())?
            }
            None => pipeline,
        }))
    }

    #[getter]
    fn features(&self) -> Vec<PyFeature> {
        self.0.features().iter().cloned().map(PyFeature).collect()
    }

    #[getter]
    fn names(&self) -> Vec<&str> {
        let features = self.0.features().iter();
        features.map(|feature| feature.name.as_str()).collect()
    }

    #[getter]
    fn scalers(&self) -> Vec<PyMinMaxScaler> {
        self.0
            .scalers()
            .iter()
            .copied()
            .map(PyMinMaxScaler)
            .collect()
    }

    #[pyo3(signature = (frame, *, rows=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn fit(&self, py: Python<'_>, frame: Frame, rows: Option<(usize, usize)>) -> PyResult<Self> {
        let (start, end) = rows.unwrap_or((0, frame.rows()));
        let fitted = detached(py, || {
            with_columns(&self.0, &frame, |columns| {
                self.0.clone().fit(columns, start..end)
            })
        })?;
        Ok(Self(fitted))
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn transform(&self, py: Python<'_>, frame: Frame) -> PyResult<PyFeatureMatrix> {
        let matrix = self.scaled::<f32>(py, &frame)?;
        let names = self.names().into_iter().map(str::to_owned).collect();
        Ok(PyFeatureMatrix::new(matrix, names))
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn transform_float64<'py>(
        &self,
        py: Python<'py>,
        frame: Frame,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let matrix = self.scaled::<f64>(py, &frame)?;
        let shape = (matrix.rows(), matrix.columns());
        let array = Array2::from_shape_vec(shape, matrix.into_data())
            .map_err(|error| ArgumentError::new_err(error.to_string()))?;
        Ok(array.into_pyarray(py))
    }

    fn __repr__(&self) -> String {
        let state = if self.0.scalers().is_empty() {
            "not fitted"
        } else {
            "fitted"
        };
        format!("FeaturePipeline({}, {state})", self.names().join(", "))
    }
}

impl PyFeaturePipeline {
    fn scaled<T: Element>(&self, py: Python<'_>, frame: &Frame) -> PyResult<Matrix<T>> {
        detached(py, || {
            with_columns(&self.0, frame, |columns| self.0.transform(columns))
        })
    }
}

fn with_columns<T>(
    pipeline: &Pipeline,
    frame: &Frame,
    work: impl FnOnce(&[Column]) -> Result<T>,
) -> Result<T> {
    frame.check_order()?;
    let chunks = pipeline
        .sources()
        .map(|name| Ok((name, frame.column(name)?)))
        .collect::<Result<Vec<(&str, Vec<ArrayRef>)>>>()?;
    let columns = chunks
        .iter()
        .map(|(name, chunks)| Column::new(name, chunks))
        .collect::<Result<Vec<_>>>()?;
    work(&columns)
}
