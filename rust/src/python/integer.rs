//! Integer arguments: the type and the range of each name.

use std::fmt::Display;
use std::ops::RangeInclusive;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::argument::wrong;
use super::error::ArgumentError;
use crate::parallel::Threads;

/// Defines for each argument the function that extracts it (`#[pyo3(from_py_with = ...)]`).
macro_rules! integers {
    ($($name:ident: $kind:ty = $range:expr;)*) => {
        $(pub fn $name(value: &Bound<'_, PyAny>) -> PyResult<$kind> {
            Extract::extract(value, stringify!($name), $range)
        })*
    };
}

integers! {
    bar_ms: i64 = 1..=i64::MAX;
    batch_size: usize = 1..=usize::MAX;
    day_ms: i64 = 1..=i64::MAX;
    epoch: u64 = 0..=u64::MAX;
    horizon: usize = 1..=usize::MAX;
    lag_ms: Option<i64> = 0..=i64::MAX;
    length: usize = 1..=usize::MAX;
    max_rows: usize = 1..=usize::MAX;
    seed: Option<u64> = 0..=u64::MAX;
    step_ms: Option<i64> = 1..=i64::MAX;
    threads: Option<usize> = 1..=Threads::MOST;
    window: usize = 1..=usize::MAX;
}

/// Extracts `rows`, a pair of start and end.
pub fn rows(value: &Bound<'_, PyAny>) -> PyResult<Option<(usize, usize)>> {
    if value.is_none() {
        return Ok(None);
    }
    let Ok((start, end)) = value.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>() else {
        return Err(ArgumentError::new_err(format!(
            "rows is {value}, expected a pair of integers (start, end)"
        )));
    };
    let every = 0..=usize::MAX;
    let start = Extract::extract(&start, "rows[0]", every.clone())?;
    Ok(Some((start, Extract::extract(&end, "rows[1]", every)?)))
}

/// The start of the day of a file, milliseconds since 1970.
pub struct Day(pub i64);

impl FromPyObject<'_, '_> for Day {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Extract::extract(&value, "the day of a file", i64::MIN..=i64::MAX).map(Self)
    }
}

/// An integer of a range, or an optional one.
trait Extract<T>: Sized {
    /// Returns `value` if it is in `range`.
    ///
    /// # Errors
    /// An `ArgumentError` that names the argument if it is no integer or not in the range.
    fn extract(value: &Bound<'_, PyAny>, name: &str, range: RangeInclusive<T>) -> PyResult<Self>;
}

impl<T> Extract<T> for T
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr> + PartialOrd + Display,
{
    fn extract(value: &Bound<'_, PyAny>, name: &str, range: RangeInclusive<T>) -> PyResult<Self> {
        // Python's True and False are integers.
        let number = if value.is_instance_of::<PyBool>() {
            Err(PyTypeError::new_err("a bool"))
        } else {
            value.extract::<T>()
        };
        let too_large = match number {
            Ok(number) if range.contains(&number) => return Ok(number),
            Ok(number) => number > *range.end(),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => value.gt(0)?,
            Err(error) => {
                let expected = format!("an integer of at least {}", range.start());
                return Err(wrong(value, name, &expected, error));
            }
        };
        let (word, end) = if too_large {
            ("most", range.end())
        } else {
            ("least", range.start())
        };
        // Python does not print integers of more than 4300 digits.
        let received = value
            .str()
            .map_or_else(|_| "a huge integer".to_owned(), |s| s.to_string());
        Err(ArgumentError::new_err(format!(
            "{name} is {received}, expected an integer of at {word} {end}"
        )))
    }
}

impl<T> Extract<T> for Option<T>
where
    T: Extract<T>,
{
    fn extract(value: &Bound<'_, PyAny>, name: &str, range: RangeInclusive<T>) -> PyResult<Self> {
        if value.is_none() {
            return Ok(None);
        }
        T::extract(value, name, range).map(Some)
    }
}
