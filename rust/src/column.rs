//! A float64 column from Arrow: one or more chunks, each with or without nulls.

use std::ops::Range;

use arrow_array::{Array, ArrayRef, Float64Array};
use arrow_buffer::NullBuffer;

use crate::{Error, Result, simd};

/// A borrowed float64 column, chunked or not.
#[derive(Debug)]
pub struct Column<'a> {
    name: &'a str,
    chunks: Vec<(usize, &'a Float64Array)>,
    len: usize,
}

impl<'a> Column<'a> {
    /// Returns a view of `chunks`. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::WrongType`] when a chunk is not float64.
    pub fn new(name: &'a str, chunks: &'a [ArrayRef]) -> Result<Self> {
        let mut len = 0;
        let mut typed = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let array = chunk
                .as_any()
                .downcast_ref::<Float64Array>()
                .ok_or_else(|| Error::WrongType {
                    column: name.to_owned(),
                    found: chunk.data_type().to_string(),
                    expected: "float64",
                })?;
            typed.push((len, array));
            len += array.len();
        }
        Ok(Self {
            name,
            chunks: typed,
            len,
        })
    }

    /// Number of rows in all chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the column has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns `rows`, null as NaN: a view of them if they are in one chunk and none is null, else
    /// `buffer` after copying them there.
    ///
    /// # Errors
    /// As [`Self::read`].
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn view<'b>(&self, rows: Range<usize>, buffer: &'b mut [f64]) -> Result<&'b [f64]>
    where
        'a: 'b,
    {
        for &(first, array) in &self.chunks {
            if first <= rows.start && rows.end <= first + array.len() {
                let within = rows.start - first..rows.end - first;
                if nulls_within(array, &within).is_none() {
                    let values = &array.values()[within];
                    self.check_finite(rows.start, values)?;
                    return Ok(values);
                }
            }
        }
        self.read(rows, buffer)?;
        Ok(buffer)
    }

    /// Copies `rows` into `out`, null as NaN.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a value that is not null is NaN or infinite, so that a NaN in
    /// `out` always means null.
    ///
    /// # Panics
    /// When `rows` is outside of the column or `out` has another length.
    pub fn read(&self, rows: Range<usize>, out: &mut [f64]) -> Result<()> {
        assert!(rows.end <= self.len && out.len() == rows.len());
        for &(first, array) in &self.chunks {
            let start = rows.start.max(first);
            let end = rows.end.min(first + array.len());
            if start >= end {
                continue;
            }
            let within = start - first..end - first;
            let target = &mut out[start - rows.start..end - rows.start];
            target.copy_from_slice(&array.values()[within.clone()]);
            if let Some(nulls) = nulls_within(array, &within) {
                // The value behind a null is undefined, so it is overwritten without being checked.
                for (row, value) in target.iter_mut().enumerate() {
                    if nulls.is_null(row) {
                        *value = f64::NAN;
                    } else if !value.is_finite() {
                        return Err(self.not_finite(start + row, *value));
                    }
                }
            } else {
                self.check_finite(start, target)?;
            }
        }
        Ok(())
    }

    /// The rows that are null, ascending.
    pub fn nulls(&self) -> impl Iterator<Item = usize> {
        self.chunks.iter().flat_map(|&(first, array)| {
            let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
            let rows = nulls.map(|nulls| (0..nulls.len()).filter(|row| nulls.is_null(*row)));
            rows.into_iter().flatten().map(move |row| first + row)
        })
    }

    /// Returns an error if one of `values`, which start at row `first`, is NaN or infinite.
    fn check_finite(&self, first: usize, values: &[f64]) -> Result<()> {
        if simd::all_finite(values) {
            return Ok(());
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(bad) => Err(self.not_finite(first + bad, values[bad])),
        }
    }

    fn not_finite(&self, row: usize, value: f64) -> Error {
        Error::NotFinite {
            column: self.name.to_owned(),
            row,
            value,
        }
    }
}

/// Returns which of the rows `within` of an array are null, `None` if none is.
fn nulls_within(array: &Float64Array, within: &Range<usize>) -> Option<NullBuffer> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0)?;
    let nulls = nulls.slice(within.start, within.len());
    (nulls.null_count() > 0).then_some(nulls)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Int64Array;

    use super::*;

    fn chunks(parts: &[&[Option<f64>]]) -> Vec<ArrayRef> {
        parts
            .iter()
            .map(|part| Arc::new(Float64Array::from(part.to_vec())) as ArrayRef)
            .collect()
    }

    #[test]
    fn reads_across_chunks() {
        let arrays = chunks(&[&[Some(1.0), Some(2.0)], &[], &[Some(3.0), None, Some(5.0)]]);
        let column = Column::new("close", &arrays).unwrap();
        let mut out = [0.0; 4];
        column.read(1..5, &mut out).unwrap();
        assert_eq!(out[..2], [2.0, 3.0]);
        assert!(out[2].is_nan());
        assert_eq!(out[3].to_bits(), 5.0_f64.to_bits());
    }

    #[test]
    fn respects_the_offset_of_a_slice() {
        let arrays: Vec<ArrayRef> = chunks(&[&[Some(1.0), None, Some(3.0), Some(4.0)]])
            .iter()
            .map(|array| array.slice(1, 3))
            .collect();
        let column = Column::new("close", &arrays).unwrap();
        let mut out = [0.0; 3];
        column.read(0..3, &mut out).unwrap();
        assert!(out[0].is_nan());
        assert_eq!(out[1..], [3.0, 4.0]);
    }

    #[test]
    fn names_the_first_value_that_is_not_finite() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for other in [Some(1.0), None] {
                let arrays = chunks(&[&[Some(1.0)], &[other, Some(bad)]]);
                let column = Column::new("volume", &arrays).unwrap();
                let error = column.read(0..3, &mut [0.0; 3]).unwrap_err();
                assert!(
                    matches!(&error, Error::NotFinite { column, row: 2, .. } if column == "volume"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn the_value_behind_a_null_is_ignored() {
        let values = arrow_buffer::ScalarBuffer::from(vec![1.0, f64::INFINITY]);
        let nulls = arrow_buffer::NullBuffer::from(vec![true, false]);
        let arrays: Vec<ArrayRef> = vec![Arc::new(Float64Array::new(values, Some(nulls)))];
        let mut out = [0.0; 2];
        Column::new("x", &arrays)
            .unwrap()
            .read(0..2, &mut out)
            .unwrap();
        assert!(out[1].is_nan());
    }

    #[test]
    fn refuses_other_types() {
        let arrays: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1]))];
        let error = Column::new("volume", &arrays).unwrap_err();
        assert_eq!(
            error.to_string(),
            "column 'volume' has dtype Int64, expected float64; cast it first"
        );
    }
}
