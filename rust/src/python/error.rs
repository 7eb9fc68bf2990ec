//! The one place that releases the GIL and converts errors of kernels to Python exceptions.

use numpy::ndarray::ShapeError;
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::prelude::*;

use crate::{Error, Result};

pyo3::import_exception!(atb_fast.errors, DataError);
pyo3::import_exception!(atb_fast.errors, ArgumentError);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::InvalidArgument { .. }
            | Error::InvalidNode { .. }
            | Error::NotFitted
            | Error::WindowOutOfRange { .. } => ArgumentError::new_err(message),
            Error::TooLarge { .. } => PyMemoryError::new_err(message),
            _ => DataError::new_err(message),
        }
    }
}

/// Runs `work` without the GIL.
pub fn detached<T: Send>(py: Python<'_>, work: impl Send + FnOnce() -> Result<T>) -> PyResult<T> {
    Ok(py.detach(work)?)
}

/// Returns the exception for an array whose shape does not match its data.
#[allow(clippy::needless_pass_by_value, reason = "the signature of `map_err`")]
pub fn bad_shape(error: ShapeError) -> PyErr {
    ArgumentError::new_err(error.to_string())
}

/// Returns the exception for an empty list of column names.
pub fn no_columns() -> PyErr {
    ArgumentError::new_err("columns is empty, expected at least one name")
}

/// Returns `refused`, caused by `error`. Errors that are not about the value, such as
/// `KeyboardInterrupt`, are returned as they are.
pub fn caused(py: Python<'_>, error: PyErr, refused: impl FnOnce(&PyErr) -> PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) || error.is_instance_of::<PyMemoryError>(py) {
        return error;
    }
    let refused = refused(&error);
    refused.set_cause(py, Some(error));
    refused
}

/// Returns the name of the type of `value`.
pub fn class(value: &Bound<'_, PyAny>) -> String {
    let name = value.get_type().qualname();
    name.map_or_else(|_| "object".to_owned(), |name| name.to_string())
}
