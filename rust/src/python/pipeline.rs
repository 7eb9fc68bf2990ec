//! `Feature` and `FeaturePipeline`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::ArrayRef;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::error::{ArgumentError, bad_shape, detached};
use super::frame::Frame;
use super::matrix::PyFeatureMatrix;
use super::scale::PyMinMaxScaler;
use super::{argument, integer};
use crate::Result;
use crate::column::Column;
use crate::matrix::{Element, Matrix};
use crate::parallel::Threads;
use crate::pipeline::{Feature, Pipeline, Transform};

/// One column of the feature matrix, and how it is computed. Immutable; can be pickled.
///
/// Without `sma` and `rsi` the feature is the source column itself.
///
/// Args:
///     name: Its name in the matrix.
///     source: The float64 column it is computed from.
///     sma: Rows in a simple moving average, 1 to 1048576; see the function `sma`.
///     rsi: Rows in a simple-mean relative strength index, 1 to 1048576; see the function `rsi`.
///     null_as: The value that replaces a missing one when the scaler is fitted. By default,
///         missing values are skipped. Either way their rows are left out of the matrix.
///
/// Raises:
///     ArgumentError: Both `sma` and `rsi` are given, one is out of range, or an argument has the
///         wrong type.
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
        #[pyo3(from_py_with = argument::name)] name: String,
        #[pyo3(from_py_with = argument::source)] source: String,
        #[pyo3(from_py_with = integer::sma)] sma: Option<usize>,
        #[pyo3(from_py_with = integer::rsi)] rsi: Option<usize>,
        #[pyo3(from_py_with = argument::null_as)] null_as: Option<f64>,
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

    /// Its name in the matrix.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The column it is computed from.
    #[getter]
    fn source(&self) -> &str {
        &self.0.source
    }

    /// Rows in the simple moving average, None if it is not one.
    #[getter]
    fn sma(&self) -> Option<usize> {
        match self.0.transform {
            Transform::Sma(window) => Some(window),
            _ => None,
        }
    }

    /// Rows in the simple-mean relative strength index, None if it is not one.
    #[getter]
    fn rsi(&self) -> Option<usize> {
        match self.0.transform {
            Transform::Rsi(window) => Some(window),
            _ => None,
        }
    }

    /// The value that replaces a missing one when the scaler is fitted, None to skip it.
    #[getter]
    fn null_as(&self) -> Option<f64> {
        self.0.null_as
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((&str, &str), Bound<'py, PyDict>)> {
        let options = PyDict::new(py);
        options.set_item("sma", self.sma())?;
        options.set_item("rsi", self.rsi())?;
        options.set_item("null_as", self.null_as())?;
        Ok(((self.name(), self.source()), options))
    }

    fn __repr__(&self) -> String {
        let Feature { name, source, .. } = &self.0;
        let transform = match self.0.transform {
            Transform::Identity => String::new(),
            Transform::Sma(window) => format!(", sma={window}"),
            Transform::Rsi(window) => format!(", rsi={window}"),
        };
        let null_as = self
            .0
            .null_as
            .map_or_else(String::new, |value| format!(", null_as={value:?}"));
        format!("Feature('{name}', '{source}'{transform}{null_as})")
    }
}

/// Features in channel order, and their scalers once fitted.
///
/// Only `fit` changes a pipeline. It can be pickled; the scalers of the copy are the same bit for
/// bit. Threads can share it: each `transform` uses the scalers of one fit.
///
/// Args:
///     features: At least one, with unique names.
///     scalers: One for each feature. With them, the pipeline is already fitted.
///
/// Raises:
///     ArgumentError: There is no feature, a name is not unique, a `null_as` is not finite, the
///         number of scalers is wrong, or an argument has the wrong type.
#[pyclass(name = "FeaturePipeline", module = "atb_fast._core", frozen)]
pub struct PyFeaturePipeline(Mutex<Arc<Pipeline>>);

#[pymethods]
impl PyFeaturePipeline {
    #[new]
    #[pyo3(signature = (features, *, scalers=None))]
    fn new(
        #[pyo3(from_py_with = argument::features)] features: Vec<PyFeature>,
        #[pyo3(from_py_with = argument::scalers)] scalers: Option<Vec<PyMinMaxScaler>>,
    ) -> PyResult<Self> {
        let features = features.into_iter().map(|feature| feature.0).collect();
        let mut pipeline = Pipeline::new(features)?;
        if let Some(fitted) = scalers {
            let fitted = fitted.into_iter().map(|scaler| scaler.0).collect();
            pipeline = pipeline.with_scalers(fitted)?;
        }
        Ok(Self(Mutex::new(Arc::new(pipeline))))
    }

    /// The features in channel order.
    #[getter]
    fn features(&self) -> Vec<PyFeature> {
        let pipeline = self.current();
        pipeline.features().iter().cloned().map(PyFeature).collect()
    }

    /// The name of each feature.
    #[getter]
    fn names(&self) -> Vec<String> {
        let pipeline = self.current();
        let features = pipeline.features().iter();
        features.map(|feature| feature.name.clone()).collect()
    }

    /// The scaler of each feature; empty before `fit`.
    #[getter]
    fn scalers(&self) -> Vec<PyMinMaxScaler> {
        let pipeline = self.current();
        let scalers = pipeline.scalers().iter().copied();
        scalers.map(PyMinMaxScaler).collect()
    }

    /// Fit the scalers on rows of `frame`, and return this pipeline.
    ///
    /// Each scaler sees every value that its feature has on these rows, including rows that are
    /// left out of the matrix because another feature is missing. Fitting again replaces the
    /// scalers. After an error, they are those from before.
    ///
    /// Args:
    ///     frame: Candles with the source columns, float64.
    ///     rows: Start and end (exclusive) of the rows to fit on. Default: all.
    ///     threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable
    ///         cores. The result does not depend on it.
    ///
    /// Returns:
    ///     This pipeline, as in scikit-learn.
    ///
    /// Raises:
    ///     ArgumentError: `rows` is not within the frame, or `threads` is out of range.
    ///     DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is
    ///         NaN or infinite, timestamps are not strictly ascending, or a feature has no value to
    ///         fit on or too large ones.
    #[pyo3(signature = (frame, *, rows=None, threads=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn fit<'py>(
        this: &Bound<'py, Self>,
        frame: Frame,
        #[pyo3(from_py_with = integer::rows)] rows: Option<(usize, usize)>,
        #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
    ) -> PyResult<Bound<'py, Self>> {
        let threads = Threads::resolve(threads)?;
        let (start, end) = rows.unwrap_or((0, frame.rows()));
        let pipeline = this.get().current();
        let fitted = detached(this.py(), || {
            with_columns(&pipeline, &frame, |columns| {
                let unfitted = Pipeline::clone(&pipeline);
                unfitted.fit(columns, start..end, threads)
            })
        })?;
        *this.get().lock() = Arc::new(fitted);
        Ok(this.clone())
    }

    /// Return the scaled features of every row of `frame` that has all of them.
    ///
    /// Args:
    ///     frame: Candles with the source columns, float64.
    ///     threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable
    ///         cores. The result does not depend on it.
    ///
    /// Returns:
    ///     A matrix of shape (rows, features), float32. It is empty if the frame has fewer rows
    ///     than the longest window.
    ///
    /// Raises:
    ///     ArgumentError: The pipeline is not fitted, or `threads` is out of range.
    ///     DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is
    ///         NaN or infinite, or timestamps are not strictly ascending.
    #[pyo3(signature = (frame, *, threads=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn transform(
        &self,
        py: Python<'_>,
        frame: Frame,
        #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
    ) -> PyResult<PyFeatureMatrix> {
        let matrix = self.scaled::<f32>(py, &frame, threads)?;
        Ok(PyFeatureMatrix::new(matrix, self.names()))
    }

    /// Return the features that `transform` gives, before they are rounded to float32.
    ///
    /// Args:
    ///     frame: As in `transform`.
    ///     threads: As in `transform`.
    ///
    /// Returns:
    ///     Shape (rows, features), float64.
    ///
    /// Raises:
    ///     ArgumentError: As `transform`.
    ///     DataError: As `transform`.
    #[pyo3(signature = (frame, *, threads=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn transform_float64<'py>(
        &self,
        py: Python<'py>,
        frame: Frame,
        #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let matrix = self.scaled::<f64>(py, &frame, threads)?;
        let shape = (matrix.rows(), matrix.columns());
        let array = Array2::from_shape_vec(shape, matrix.into_data()).map_err(bad_shape)?;
        Ok(array.into_pyarray(py))
    }

    #[allow(clippy::type_complexity, reason = "the result that pickle expects")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((Vec<PyFeature>,), Bound<'py, PyDict>)> {
        let scalers = self.scalers();
        let scalers = (!scalers.is_empty()).then_some(scalers);
        Ok(((self.features(),), [("scalers", scalers)].into_py_dict(py)?))
    }

    fn __repr__(&self) -> String {
        let state = if self.current().scalers().is_empty() {
            "not fitted"
        } else {
            "fitted"
        };
        format!("FeaturePipeline({}, {state})", self.names().join(", "))
    }
}

impl PyFeaturePipeline {
    /// Locks the pipeline, for as short a time as it takes to read or replace a pointer.
    fn lock(&self) -> MutexGuard<'_, Arc<Pipeline>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipeline of the last fit. A later fit replaces it and does not change it.
    fn current(&self) -> Arc<Pipeline> {
        Arc::clone(&self.lock())
    }

    fn scaled<T: Element>(
        &self,
        py: Python<'_>,
        frame: &Frame,
        threads: Option<usize>,
    ) -> PyResult<Matrix<T>> {
        let threads = Threads::resolve(threads)?;
        let pipeline = self.current();
        detached(py, || {
            with_columns(&pipeline, frame, |columns| {
                pipeline.transform(columns, threads)
            })
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
