//! `Feature` and `FeaturePipeline`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::ArrayRef;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyTuple};

use super::error::{ArgumentError, bad_shape, detached};
use super::frame::Frame;
use super::matrix::PyFeatureMatrix;
use super::scale::PyMinMaxScaler;
use super::{argument, integer};
use crate::Result;
use crate::column::Column;
use crate::expr::op::{Op, Param};
use crate::expr::{Expression, Feature, Input, Pipeline};
use crate::matrix::{Element, Matrix};
use crate::parallel::Threads;

/// One column of the feature matrix: an expression and its name. Immutable; can be pickled.
///
/// An expression is a list of nodes. A node is a tuple of the name of an operator, the indices of
/// earlier nodes that are its arguments, and its parameters. The last node is the value of the
/// feature. `[("column", (), ("close",)), ("mean", (0,), (7,))]` is the mean of the last 7 closes.
///
/// A null argument gives null, except in `where` and `fill`. A window that contains a null gives
/// null, and so does a result that is not finite.
///
/// Args:
///     name: Its name in the matrix.
///     nodes: 1 to 10,000 nodes.
///     null_as: The value that replaces a missing one when the scaler is fitted. By default,
///         missing values are skipped. Either way their rows are left out of the matrix.
///
/// Raises:
///     ArgumentError: An operator is unknown, has the wrong number of arguments or parameters, or
///         has an argument that is not an earlier node; a parameter is out of range; or an argument
///         has the wrong type.
#[pyclass(
    name = "Feature",
    module = "atb_fast._core",
    frozen,
    eq,
    from_py_object
)]
#[derive(Clone, PartialEq)]
pub struct PyFeature(Feature);

/// A node from Python.
pub type Node = (String, Vec<usize>, Vec<Param>);

impl FromPyObject<'_, '_> for Param {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() {
            return value.extract().map(Self::Text);
        }
        value.extract().map(Self::Number)
    }
}

#[pymethods]
impl PyFeature {
    #[new]
    #[pyo3(signature = (name, nodes, *, null_as=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn new(
        #[pyo3(from_py_with = argument::name)] name: String,
        #[pyo3(from_py_with = argument::nodes)] nodes: Vec<Node>,
        #[pyo3(from_py_with = argument::null_as)] null_as: Option<f64>,
    ) -> PyResult<Self> {
        let expression = Expression::new(&nodes)
            .map_err(|error| ArgumentError::new_err(format!("feature '{name:.80}': {error}")))?;
        Ok(Self(Feature {
            name,
            expression,
            null_as,
        }))
    }

    /// Its name in the matrix.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// Operator, arguments and parameters of each node. The last node is its value.
    #[getter]
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let nodes = self.0.expression.nodes().iter();
        nodes.map(|(op, args)| node(py, op, args)).collect()
    }

    /// The value that replaces a missing one when the scaler is fitted, None to skip it.
    #[getter]
    fn null_as(&self) -> Option<f64> {
        self.0.null_as
    }

    /// The columns that it is computed from, in the order of their first use.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.0.expression.columns().to_vec()
    }

    /// Number of earlier rows that a value depends on.
    #[getter]
    fn lookback(&self) -> usize {
        self.0.expression.lookback()
    }

    /// Number of rows at the start of a frame without a value.
    #[getter]
    fn warmup(&self) -> usize {
        self.0.expression.warmup()
    }

    #[allow(clippy::type_complexity, reason = "the result that pickle expects")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((&str, Vec<Bound<'py, PyTuple>>), Bound<'py, PyDict>)> {
        let options = [("null_as", self.null_as())].into_py_dict(py)?;
        Ok(((self.name(), self.nodes(py)?), options))
    }

    fn __repr__(&self) -> String {
        let count = self.0.expression.nodes().len();
        let null_as = self
            .0
            .null_as
            .map_or_else(String::new, |value| format!(", null_as={value:?}"));
        format!("Feature('{}', {count} nodes{null_as})", self.0.name)
    }
}

/// Returns a node as Python has it. Integer parameters are ints.
fn node<'py>(py: Python<'py>, op: &Op, args: &[usize]) -> PyResult<Bound<'py, PyTuple>> {
    let params = op.params().into_iter().map(|param| match param {
        Param::Text(text) => text.into_bound_py_any(py),
        Param::Number(value) if op.counts() => (value as i64).into_bound_py_any(py),
        Param::Number(value) => value.into_bound_py_any(py),
    });
    let params = PyTuple::new(py, params.collect::<PyResult<Vec<_>>>()?)?;
    (op.name(), PyTuple::new(py, args)?, params).into_pyobject(py)
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

    /// The columns that the features are computed from, in the order of their first use.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.current().columns().to_vec()
    }

    /// Number of earlier rows that a value of any feature depends on.
    #[getter]
    fn lookback(&self) -> usize {
        self.current().lookback()
    }

    /// Number of rows at the start of a frame in which a feature has no value.
    #[getter]
    fn warmup(&self) -> usize {
        self.current().warmup()
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
    ///     frame: Has the columns of the features, float64.
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
            with_input(&pipeline, &frame, |input| {
                let unfitted = Pipeline::clone(&pipeline);
                unfitted.fit(input, start..end, threads)
            })
        })?;
        *this.get().lock() = Arc::new(fitted);
        Ok(this.clone())
    }

    /// Return the scaled features of every row of `frame` that has all of them.
    ///
    /// Args:
    ///     frame: Has the columns of the features, float64.
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
        array(py, matrix)
    }

    /// Return the unscaled features of every row of `frame`. The pipeline need not be fitted.
    ///
    /// Args:
    ///     frame: As in `transform`.
    ///     threads: As in `transform`.
    ///
    /// Returns:
    ///     Shape (rows, features), float64, NaN where a feature has no value.
    ///
    /// Raises:
    ///     ArgumentError: `threads` is out of range.
    ///     DataError: As `transform`.
    #[pyo3(signature = (frame, *, threads=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        frame: Frame,
        #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let threads = Threads::resolve(threads)?;
        let pipeline = self.current();
        let matrix = detached(py, || {
            with_input(&pipeline, &frame, |input| pipeline.evaluate(input, threads))
        })?;
        array(py, matrix)
    }

    /// Return how many rows of `frame` have no value, by feature and reason.
    ///
    /// Args:
    ///     frame: As in `transform`.
    ///     threads: As in `transform`.
    ///
    /// Returns:
    ///     A dict for each feature. `warmup` counts rows at the start of the frame that do not have
    ///     enough rows before them. `input` counts other rows for which a column of the feature has
    ///     a null, in that row or in an earlier one that the value depends on. `undefined` counts
    ///     the rest, such as 0/0.
    ///
    /// Raises:
    ///     ArgumentError: `threads` is out of range.
    ///     DataError: As `transform`.
    #[pyo3(signature = (frame, *, threads=None))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "pyo3 extracts owned arguments"
    )]
    fn nulls<'py>(
        &self,
        py: Python<'py>,
        frame: Frame,
        #[pyo3(from_py_with = integer::threads)] threads: Option<usize>,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let threads = Threads::resolve(threads)?;
        let pipeline = self.current();
        let nulls = detached(py, || {
            with_input(&pipeline, &frame, |input| pipeline.nulls(input, threads))
        })?;
        let counts = nulls.iter().map(|nulls| {
            [
                ("warmup", nulls.warmup),
                ("input", nulls.input),
                ("undefined", nulls.undefined),
            ]
            .into_py_dict(py)
        });
        counts.collect()
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
            with_input(&pipeline, frame, |input| pipeline.transform(input, threads))
        })
    }
}

fn array(py: Python<'_>, matrix: Matrix<f64>) -> PyResult<Bound<'_, PyArray2<f64>>> {
    let shape = (matrix.rows(), matrix.columns());
    let array = Array2::from_shape_vec(shape, matrix.into_data()).map_err(bad_shape)?;
    Ok(array.into_pyarray(py))
}

fn with_input<T>(
    pipeline: &Pipeline,
    frame: &Frame,
    work: impl FnOnce(Input) -> Result<T>,
) -> Result<T> {
    let times = if pipeline.uses_times() {
        Some(frame.timestamps("timestamp")?)
    } else {
        frame.check_order()?;
        None
    };
    let chunks = pipeline
        .columns()
        .iter()
        .map(|name| Ok((name.as_str(), frame.column(name)?)))
        .collect::<Result<Vec<(&str, Vec<ArrayRef>)>>>()?;
    let columns = chunks
        .iter()
        .map(|(name, chunks)| Column::new(name, chunks))
        .collect::<Result<Vec<_>>>()?;
    work(Input {
        columns: &columns,
        times: times.as_deref().unwrap_or(&[]),
        rows: frame.rows(),
    })
}
