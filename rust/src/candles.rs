//! Windows of raw candles, each scaled by its own values, as the `basic` recipe uses them.

use crate::column::Column;
use crate::{Error, Result, window};

/// Raw columns of candles, row after row, NaN where a value is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct CandleMatrix {
    data: Vec<f64>,
    columns: usize,
}

impl CandleMatrix {
    /// Returns the matrix of `columns`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or an infinity. A null is a missing value.
    ///
    /// # Panics
    /// Without columns, or when they differ in length.
    pub fn new(columns: &[Column]) -> Result<Self> {
        let rows = columns[0].len();
        let mut data = vec![0.0; rows * columns.len()];
        let mut values = vec![0.0; rows];
        for (i, column) in columns.iter().enumerate() {
            column.read(0..rows, &mut values)?;
            let cells = data.iter_mut().skip(i).step_by(columns.len());
            for (cell, value) in cells.zip(&values) {
                *cell = *value;
            }
        }
        Ok(Self {
            data,
            columns: columns.len(),
        })
    }

    /// The values, row after row.
    #[must_use]
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.columns
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the starts of the windows of `length` rows in which every value is above 0.
    #[must_use]
    pub fn usable(&self, length: usize) -> Vec<i64> {
        let mut good = 0;
        let mut starts = Vec::new();
        for (row, values) in self.data.chunks_exact(self.columns).enumerate() {
            good = if is_good(values) { good + 1 } else { 0 };
            if good >= length {
                starts.push((row + 1 - length) as i64);
            }
        }
        starts
    }

    /// Returns the lowest and the highest value of `column` in each window. NaN is skipped.
    ///
    /// # Errors
    /// As [`window::check_starts`].
    ///
    /// # Panics
    /// When there is no such column.
    pub fn ranges(&self, column: usize, starts: &[i64], length: usize) -> Result<[Vec<f64>; 2]> {
        assert!(column < self.columns);
        window::check_starts(self.rows(), starts, length)?;
        let fold = |first: f64, better: fn(f64, f64) -> f64| {
            let best = |&start: &i64| {
                let values = self.data[start as usize * self.columns + column..].iter();
                let inside = values.step_by(self.columns).take(length);
                inside.copied().fold(first, better)
            };
            starts.iter().map(best).collect()
        };
        Ok([
            fold(f64::INFINITY, f64::min),
            fold(f64::NEG_INFINITY, f64::max),
        ])
    }

    /// Writes the windows at `starts` into `out`, one after the other. Each column of a window becomes
    /// `(x - min) / (max - min)`, where min and max are those of the rows of the window up to this
    /// one. Where they are equal, the result is 0.5.
    ///
    /// # Errors
    /// As [`window::gather_into`], and [`Error::BadWindow`] for a window that is not [`Self::usable`].
    pub fn gather_scaled(&self, starts: &[i64], length: usize, out: &mut [f32]) -> Result<()> {
        window::check_starts(self.rows(), starts, length)?;
        let size = length * self.columns;
        window::check_out(out.len(), starts.len() * size)?;
        let mut ranges = vec![(0.0, 0.0); self.columns];
        for (scaled, &start) in out.chunks_exact_mut(size).zip(starts) {
            let first = start as usize * self.columns;
            let window = &self.data[first..first + size];
            if let Some(row) = window.chunks_exact(self.columns).position(|r| !is_good(r)) {
                return Err(Error::BadWindow {
                    start,
                    row: start as usize + row,
                });
            }
            ranges.fill((f64::INFINITY, f64::NEG_INFINITY));
            let rows = window.chunks_exact(self.columns);
            for (values, cells) in rows.zip(scaled.chunks_exact_mut(self.columns)) {
                for ((cell, &x), (min, max)) in cells.iter_mut().zip(values).zip(&mut ranges) {
                    *min = x.min(*min);
                    *max = x.max(*max);
                    *cell = if *max > *min {
                        ((x - *min) / (*max - *min)) as f32
                    } else {
                        0.5
                    };
                }
            }
        }
        Ok(())
    }
}

/// Returns whether no value is missing (NaN), zero or negative.
fn is_good(values: &[f64]) -> bool {
    values.iter().all(|value| *value > 0.0)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "equal by construction")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array};
    use proptest::prelude::*;

    use super::*;

    fn candles(columns: &[Vec<Option<f64>>]) -> CandleMatrix {
        let chunks: Vec<Vec<ArrayRef>> = columns
            .iter()
            .map(|column| vec![Arc::new(Float64Array::from(column.clone())) as ArrayRef])
            .collect();
        let columns: Vec<_> = chunks
            .iter()
            .map(|chunks| Column::new("x", chunks).unwrap())
            .collect();
        CandleMatrix::new(&columns).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            cells in prop::collection::vec((1..9_i32, 1..9_i32), 1..40), length in 1..12_usize,
        ) {
            prop_assume!(length <= cells.len());
            let column = |pick: fn(&(i32, i32)) -> i32| -> Vec<f64> {
                cells.iter().map(|cell| f64::from(pick(cell)) / 7.0).collect()
            };
            let columns = [column(|c| c.0), column(|c| c.1)];
            let given = columns.clone().map(|c| c.into_iter().map(Some).collect());
            let candles = candles(&given);
            let starts = candles.usable(length);
            prop_assert_eq!(starts.len(), cells.len() - length + 1);
            let mut out = vec![0.0; starts.len() * length * 2];
            candles.gather_scaled(&starts, length, &mut out).unwrap();
            let [low, high] = candles.ranges(1, &starts, length).unwrap();
            for (i, &start) in starts.iter().enumerate() {
                let inside = &columns[1][start as usize..start as usize + length];
                prop_assert!(inside.contains(&low[i]) && inside.contains(&high[i]));
                prop_assert!(inside.iter().all(|x| (low[i]..=high[i]).contains(x)));
            }
            let mut places = out.iter();
            for &start in &starts {
                for t in 0..length {
                    for column in &columns {
                        let seen = &column[start as usize..=start as usize + t];
                        let min = seen.iter().copied().fold(f64::INFINITY, f64::min);
                        let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        let scaled = (seen[t] - min) / (max - min);
                        let expected = if scaled.is_nan() { 0.5 } else { scaled as f32 };
                        prop_assert_eq!(*places.next().unwrap(), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn windows_with_missing_or_non_positive_values_are_not_usable() {
        for bad in [None, Some(0.0), Some(-1.0)] {
            let mut column = vec![Some(2.0); 10];
            column[4] = bad;
            let candles = candles(&[vec![Some(1.0); 10], column]);
            assert_eq!(candles.usable(3), [0, 1, 5, 6, 7]);
            assert_eq!(candles.usable(11), [0; 0]);
            let error = candles.gather_scaled(&[1, 2], 3, &mut [0.0; 12]);
            assert_eq!(error, Err(Error::BadWindow { start: 2, row: 4 }));
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let candles = candles(&[vec![Some(1.0); 10]]);
        assert!(candles.gather_scaled(&[8], 3, &mut [0.0; 3]).is_err());
        assert!(candles.gather_scaled(&[0], 3, &mut [0.0; 4]).is_err());
        assert!(candles.gather_scaled(&[0], 0, &mut []).is_err());
    }
}
