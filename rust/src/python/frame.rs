//! Frames from any library that supports the Arrow `PyCapsule` interface.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use crate::merge::check_ascending;
use crate::{Error, Result};

/// Returns a contiguous copy of an array argument. It is copied because other threads may write to
/// the array while a kernel runs without the GIL.
pub fn copied<T: Element + Copy>(array: &PyReadonlyArray1<'_, T>) -> Vec<T> {
    array.as_array().to_vec()
}

/// A frame of record batches that share memory with their Python owner.
pub struct Frame {
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
}

impl FromPyObject<'_, '_> for Frame {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let methods = ["__arrow_c_stream__", "__arrow_c_array__"];
        if !methods
            .iter()
            .any(|name| object.hasattr(*name).unwrap_or(false))
        {
            let found = object.get_type().qualname();
            return Err(PyTypeError::new_err(format!(
                "expected a frame with the Arrow PyCapsule interface \
                 (Polars, pyarrow, pandas >= 2.2 with pyarrow), got {}",
                found.map_or_else(|_| "something else".to_owned(), |name| name.to_string())
            )));
        }
        let reader = object.extract::<AnyRecordBatch>()?.into_reader()?;
        let schema = reader.schema();
        let batches = reader
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| PyTypeError::new_err(error.to_string()))?;
        Ok(Self { batches, schema })
    }
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
    /// the column holds milliseconds in one chunk.
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
        DataType::Int64 => Some(chunk.as_primitive::<Int64Type>().values()),
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
                expected: "a timestamp, or int64 milliseconds since 1970",
            });
        }
    }
    Ok(())
}

fn values<T: ArrowPrimitiveType>(chunk: &ArrayRef) -> &[T::Native] {
    chunk.as_primitive::<T>().values()
}
