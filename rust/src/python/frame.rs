//! Frames from any library that supports the Arrow `PyCapsule` interface.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::error::{DataError, caused, class};
use crate::epoch;
use crate::merge::check_ascending;
use crate::{Error, Result};

/// A frame of record batches that share memory with their Python owner.
pub struct Frame {
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
}

impl FromPyObject<'_, '_> for Frame {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let class = class(&object);
        let has = |name| object.hasattr(name).unwrap_or(false);
        if !has("__arrow_c_stream__") && !has("__arrow_c_array__") {
            return Err(DataError::new_err(format!(
                "got {class}, expected a Polars, pyarrow or pandas frame (pandas 2.2 or newer, \
                 with pyarrow installed)"
            )));
        }
        let reader = object
            .extract::<AnyRecordBatch>()
            .and_then(AnyRecordBatch::into_reader)
            .map_err(|error| {
                caused(object.py(), error, |error| {
                    // pandas' and Polars' series have this method.
                    DataError::new_err(if has("to_frame") {
                        format!("got {class}, expected a frame with named columns; call to_frame()")
                    } else {
                        let reason = reason(object.py(), error);
                        format!(
                            "the {class} cannot be read as a frame with named columns: {reason}"
                        )
                    })
                })
            })?;
        let schema = reader.schema();
        let batches = reader
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| {
                // Polars exports a column without a dtype in a form that is not Arrow's.
                let empty = schema.fields().iter().find(|f| f.data_type().is_null());
                DataError::new_err(match empty {
                    Some(field) => format!(
                        "column '{}' has dtype Null, because all of its values are null; cast it \
                         to another dtype, or drop it",
                        field.name()
                    ),
                    None => format!("the {class} cannot be read as a frame: {error}"),
                })
            })?;
        Ok(Self { batches, schema })
    }
}

/// Returns the reason of an error of another library. pyarrow passes several sentences as several
/// arguments.
fn reason(py: Python<'_>, error: &PyErr) -> String {
    error
        .value(py)
        .getattr("args")
        .and_then(|args| args.extract::<Vec<String>>())
        .map_or_else(|_| error.value(py).to_string(), |args| args.join(". "))
}

impl Frame {
    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Returns the chunks of column `name`.
    pub fn column(&self, name: &str) -> Result<Vec<ArrayRef>> {
        match self.schema.index_of(name) {
            Ok(index) => Ok(self
                .batches
                .iter()
                .map(|batch| batch.column(index).clone())
                .collect()),
            Err(_) => Err(Error::MissingColumn {
                column: name.to_owned(),
                available: self
                    .schema
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Returns an error if there is a `timestamp` column that is not strictly ascending.
    pub fn check_order(&self) -> Result<()> {
        if self.schema.index_of("timestamp").is_ok() {
            self.timestamps("timestamp")?;
        }
        Ok(())
    }

    /// Returns column `name` as strictly ascending milliseconds since 1970. They are not copied if
    /// the column has the dtype of milliseconds and one chunk.
    pub fn timestamps(&self, name: &str) -> Result<ScalarBuffer<i64>> {
        let chunks = self.column(name)?;
        let times = match &chunks[..] {
            [chunk] if chunk.null_count() == 0 => milliseconds(chunk),
            _ => None,
        };
        let times = if let Some(times) = times {
            times.clone()
        } else {
            let mut times = Vec::with_capacity(self.rows());
            for chunk in &chunks {
                push_milliseconds(name, chunk, &mut times)?;
            }
            times.into()
        };
        check_ascending(name, &times)?;
        Ok(times)
    }
}

fn milliseconds(chunk: &ArrayRef) -> Option<&ScalarBuffer<i64>> {
    match chunk.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Some(chunk.as_primitive::<TimestampMillisecondType>().values())
        }
        _ => None,
    }
}

fn push_milliseconds(column: &str, chunk: &ArrayRef, times: &mut Vec<i64>) -> Result<()> {
    if let Some(nulls) = chunk.nulls().filter(|nulls| nulls.null_count() > 0) {
        let row = nulls.iter().position(|valid| !valid).unwrap_or_default();
        return Err(Error::NullTimestamp {
            column: column.to_owned(),
            row: times.len() + row,
        });
    }
    if let Some(values) = milliseconds(chunk) {
        times.extend_from_slice(values);
        return Ok(());
    }
    match chunk.data_type() {
        DataType::Int64 => {
            let numbers = values::<Int64Type>(chunk);
            times.extend(numbers.iter().map(|time| epoch::milliseconds(*time)));
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let seconds = values::<TimestampSecondType>(chunk);
            times.extend(seconds.iter().map(|t| t.saturating_mul(1000)));
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = values::<TimestampMicrosecondType>(chunk);
            times.extend(micros.iter().map(|t| t.div_euclid(1000)));
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = values::<TimestampNanosecondType>(chunk);
            times.extend(nanos.iter().map(|t| t.div_euclid(1_000_000)));
        }
        other => {
            return Err(Error::WrongType {
                column: column.to_owned(),
                found: other.to_string(),
                expected: "a timestamp, or int64 numbers since 1970",
            });
        }
    }
    Ok(())
}

fn values<T: ArrowPrimitiveType>(chunk: &ArrayRef) -> &[T::Native] {
    chunk.as_primitive::<T>().values()
}
