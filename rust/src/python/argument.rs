//! Arguments that are neither frames nor integers: each error names the argument.

use numpy::{
    AllowTypeChange, PyArray1, PyArrayLike1, PyArrayMethods, PyReadonlyArray2,
    PyUntypedArrayMethods, TypeMustMatch,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::error::{ArgumentError, caused, class};
use super::pipeline::{Node, PyFeature};
use super::scale::PyMinMaxScaler;

const NUMBERS: &str = "a one-dimensional array of numbers";

/// Returns the `ArgumentError` for a value of the wrong type, caused by `error`.
pub fn wrong(value: &Bound<'_, PyAny>, name: &str, expected: &str, error: PyErr) -> PyErr {
    caused(value.py(), error, |_| {
        ArgumentError::new_err(format!(
            "{name} is {}, expected {expected}",
            received(value)
        ))
    })
}

/// Describes a value in one line: short values as they are, arrays by shape and dtype, others by
/// type.
fn received(value: &Bound<'_, PyAny>) -> String {
    let attribute = |name| value.getattr(name).and_then(|found| found.str());
    let class = class(value);
    match (attribute("dtype"), attribute("shape"), value.repr()) {
        (Ok(dtype), Ok(shape), _) if shape != "()" => {
            format!("of type {class} with dtype {dtype} and shape {shape}")
        }
        (_, _, Ok(shown)) if shown.to_string().len() <= 40 => shown.to_string(),
        _ => format!("of type {class}"),
    }
}

/// Defines for each array of float64 the function that extracts it and copies it, because other
/// threads may write to it while a kernel runs without the GIL.
macro_rules! arrays {
    ($($name:ident)*) => {
        $(pub fn $name(value: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
            match value.extract::<PyArrayLike1<'_, f64, AllowTypeChange>>() {
                Ok(array) => Ok(array.as_array().to_vec()),
                Err(error) => Err(wrong(value, stringify!($name), NUMBERS, error)),
            }
        })*
    };
}

arrays! { close high low values }

/// Extracts `targets`, and copies them as `values` does.
pub fn targets(value: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    match value.extract::<PyArrayLike1<'_, f32, TypeMustMatch>>() {
        Ok(array) => Ok(array.as_array().to_vec()),
        Err(error) => {
            let expected = "a one-dimensional float32 array";
            Err(wrong(value, "targets", expected, error))
        }
    }
}

/// Extracts `starts`, and copies them as `values` does.
pub fn starts(value: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    integers(value, "starts")
}

/// Extracts `starts` that may be None.
pub fn optional_starts(value: &Bound<'_, PyAny>) -> PyResult<Option<Vec<i64>>> {
    (!value.is_none()).then(|| starts(value)).transpose()
}

/// Extracts the `rows` of a matrix, which may be None.
pub fn numbers_of_rows(value: &Bound<'_, PyAny>) -> PyResult<Option<Vec<i64>>> {
    (!value.is_none())
        .then(|| integers(value, "rows"))
        .transpose()
}

/// Extracts `times`, whole numbers since 1970.
pub fn times(value: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    integers(value, "times")
}

/// Extracts `timestamps`, milliseconds since 1970.
pub fn timestamps(value: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    integers(value, "timestamps")
}

fn integers(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<i64>> {
    let extracted = || {
        if let Ok(array) = value.cast::<PyArray1<i64>>() {
            return Ok(array.readonly().as_array().to_vec());
        }
        // NumPy would truncate fractions.
        let array = value
            .py()
            .import("numpy")?
            .call_method1("asarray", (value,))?;
        let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
        if !matches!(kind.as_str(), "i" | "u") && array.len()? > 0 {
            return Err(PyTypeError::new_err("not integers"));
        }
        let array = array.call_method1("astype", ("int64",))?;
        let array = array.cast::<PyArray1<i64>>()?;
        Ok(array.readonly().as_array().to_vec())
    };
    extracted().map_err(|error| wrong(value, name, "a one-dimensional array of integers", error))
}

/// Extracts the `values` of a matrix, row after row, and the number of columns.
pub fn matrix(value: &Bound<'_, PyAny>) -> PyResult<(Vec<f32>, usize)> {
    match value.extract::<PyReadonlyArray2<'_, f32>>() {
        Ok(array) => Ok((array.as_array().iter().copied().collect(), array.shape()[1])),
        Err(error) => {
            let expected = "a two-dimensional float32 array";
            Err(wrong(value, "values", expected, error))
        }
    }
}

/// Extracts `columns`: one name, or several.
pub fn columns(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    several_names(value, "columns")
}

/// Extracts `names`: one name, or several.
pub fn names(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    several_names(value, "names")
}

fn several_names(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<Vec<String>> {
    if value.is_instance_of::<PyString>() {
        return Ok(vec![value.extract()?]);
    }
    let each =
        || -> PyResult<Vec<String>> { value.try_iter()?.map(|name| name?.extract()).collect() };
    each().map_err(|error| wrong(value, argument, "a name or a list of names", error))
}

/// Defines for each argument the function that extracts it (`#[pyo3(from_py_with = ...)]`).
macro_rules! arguments {
    ($($name:ident: $kind:ty, $expected:literal;)*) => {
        $(pub fn $name(value: &Bound<'_, PyAny>) -> PyResult<$kind> {
            value
                .extract()
                .map_err(|error| wrong(value, stringify!($name), $expected, error))
        })*
    };
}

arguments! {
    column: String, "the name of a column";
    data_max: f64, "a number";
    data_min: f64, "a number";
    features: Vec<PyFeature>, "a list of Feature";
    how: String, "'exact', 'resampled' or 'asof'";
    method: String, "'simple' or 'wilder'";
    name: String, "a string";
    nodes: Vec<Node>, "a list of (operator, arguments, parameters)";
    null_as: Option<f64>, "a number or None";
    scalers: Option<Vec<PyMinMaxScaler>>, "a list of MinMaxScaler or None";
    stop_loss: f64, "a number";
    take_profit: f64, "a number";
}
