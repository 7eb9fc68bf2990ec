//! The row-major feature matrix.

use std::ops::Range;

use crate::memory::Spare;
use crate::parallel::{self, Threads};
use crate::scale::MinMax;
use crate::{Error, Result, simd};

/// A number type of a feature matrix.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Memory of a matrix that was dropped.
    #[doc(hidden)]
    fn spare() -> &'static Spare<Self>;

    /// Returns the nearest value of this type.
    fn from_f64(value: f64) -> Self;
}

impl Element for f64 {
    fn spare() -> &'static Spare<Self> {
        static SPARE: Spare<f64> = Spare::new();
        &SPARE
    }

    #[inline]
    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Element for f32 {
    fn spare() -> &'static Spare<Self> {
        static SPARE: Spare<f32> = Spare::new();
        &SPARE
    }

    #[inline]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

/// A matrix of features, row after row, with the number of each row in its frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix<T: Element> {
    data: Vec<T>,
    columns: usize,
    kept: Vec<Range<usize>>,
}

impl<T: Element> Matrix<T> {
    /// Returns the matrix of `data`, whose rows are numbered from 0.
    ///
    /// # Panics
    /// When `columns` is 0 or does not divide the length of `data`.
    #[must_use]
    pub fn from_rows(data: Vec<T>, columns: usize) -> Self {
        assert!(columns > 0 && data.len().is_multiple_of(columns));
        let rows = data.len() / columns;
        Self {
            data,
            columns,
            kept: std::iter::once(0..rows).collect(),
        }
    }

    /// Returns this matrix with other row numbers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless there is one number for each row, strictly ascending from 0 on.
    pub fn with_kept(mut self, rows: &[i64]) -> Result<Self> {
        let ascending = rows.windows(2).all(|pair| pair[0] < pair[1]);
        if rows.len() != self.rows() || !ascending || rows.first().is_some_and(|row| *row < 0) {
            return Err(Error::InvalidArgument {
                name: "rows",
                value: format!("{} numbers", rows.len()),
                expected: format!("{} strictly ascending ones from 0 on", self.rows()),
            });
        }
        self.kept.clear();
        for &row in rows {
            push(&mut self.kept, row as usize..row as usize + 1);
        }
        Ok(self)
    }

    /// Returns the matrix of the rows that `write` writes for each of `parts`, which are consecutive
    /// rows of a frame. `init` creates the state that a thread reuses for all of its parts.
    ///
    /// # Errors
    /// The first error of `write`.
    ///
    /// # Panics
    /// When `columns` is 0 or `write` writes more rows than its part has.
    pub fn build<S>(
        columns: usize,
        parts: &[Range<usize>],
        threads: Threads,
        init: impl Fn() -> S + Sync,
        write: impl Fn(&mut S, Range<usize>, &mut Writer<T>) -> Result<()> + Sync,
    ) -> Result<Self> {
        assert!(columns > 0);
        let rows: usize = parts.iter().map(ExactSizeIterator::len).sum();
        let mut data = T::spare().take(rows * columns);

        let mut rest = data.as_mut_slice();
        let mut tasks = Vec::with_capacity(parts.len());
        for part in parts {
            let (target, tail) = rest.split_at_mut(part.len() * columns);
            rest = tail;
            tasks.push((part.clone(), target));
        }
        let start = || (init(), Tile::new(columns));
        let written = parallel::map(threads, tasks, start, |(state, tile), (part, target)| {
            let mut writer = Writer {
                target,
                filled: 0,
                kept: Vec::new(),
                tile,
            };
            write(state, part, &mut writer)?;
            Ok((writer.filled, writer.kept))
        });

        // Each part is in its final place unless rows before it were left out. Close these gaps.
        let (mut from, mut to, mut kept) = (0, 0, Vec::new());
        for (part, result) in parts.iter().zip(written) {
            let (filled, ranges) = result?;
            if from != to {
                data.copy_within(from..from + filled, to);
            }
            from += part.len() * columns;
            to += filled;
            for range in ranges {
                push(&mut kept, range);
            }
        }
        data.truncate(to);
        Ok(Self {
            data,
            columns,
            kept,
        })
    }

    /// The values, row after row.
    #[must_use]
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// Returns the values, row after row.
    #[must_use]
    pub fn into_data(mut self) -> Vec<T> {
        std::mem::take(&mut self.data)
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

    /// The numbers of the rows in the frame, as ascending ranges.
    #[must_use]
    pub fn kept(&self) -> &[Range<usize>] {
        &self.kept
    }
}

impl<T: Element> Drop for Matrix<T> {
    fn drop(&mut self) {
        T::spare().keep(std::mem::take(&mut self.data));
    }
}

/// The columns of a block of rows, scaled.
#[derive(Debug)]
struct Tile<T> {
    columns: usize,
    rows: usize,
    /// Distance between the starts of two columns.
    stride: usize,
    values: Vec<T>,
    /// Whether a value of a row is missing.
    missing: Vec<bool>,
    any_missing: bool,
}

impl<T: Element> Tile<T> {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            rows: 0,
            stride: 0,
            values: Vec::new(),
            missing: Vec::new(),
            any_missing: false,
        }
    }
}

/// Minimum number of values in a cache line.
const LINE: usize = 16;

/// Writes rows that are given column by column.
#[derive(Debug)]
pub struct Writer<'a, T> {
    target: &'a mut [T],
    filled: usize,
    kept: Vec<Range<usize>>,
    tile: &'a mut Tile<T>,
}

impl<T: Element> Writer<'_, T> {
    /// Begins a block of that many rows.
    pub fn begin(&mut self, rows: usize) {
        let tile = &mut *self.tile;
        tile.rows = rows;
        // An odd number of cache lines, because the processor keeps only a few lines whose addresses
        // differ by a power of two.
        tile.stride = (rows.div_ceil(LINE) | 1) * LINE;
        let values = tile.columns * tile.stride;
        tile.values
            .resize(tile.values.len().max(values), T::default());
        tile.missing.clear();
        tile.missing.resize(rows, false);
        tile.any_missing = false;
    }

    /// Sets one column of the block, scaled. NaN is missing.
    ///
    /// # Panics
    /// When there is no such column, or it has another number of rows.
    pub fn set(&mut self, column: usize, values: &[f64], scaler: &MinMax) {
        let tile = &mut *self.tile;
        assert!(column < tile.columns && values.len() == tile.rows);
        let out = &mut tile.values[column * tile.stride..][..tile.rows];
        if simd::write_scaled(values, scaler, out) {
            tile.any_missing = true;
            for (missing, value) in tile.missing.iter_mut().zip(values) {
                *missing |= value.is_nan();
            }
        }
    }

    /// Appends the rows of the block, of which the first is row `first` of the frame. Those with a
    /// missing value are left out, unless `all` rows are wanted.
    ///
    /// # Panics
    /// When no room is left.
    pub fn end(&mut self, first: usize, all: bool) {
        let rows = self.tile.rows;
        let mut row = 0;
        while row < rows {
            let start = row;
            let missing = &self.tile.missing;
            let next = |from: usize, wanted: bool| {
                let rest = missing[from..].iter();
                let found = rest.take_while(|missing| **missing != wanted).count();
                from + found
            };
            row = if all || !self.tile.any_missing {
                rows
            } else {
                next(start, true)
            };
            let skipped = next(row, false);
            if start < row {
                self.append(start..row);
                push(&mut self.kept, first + start..first + row);
            }
            row = skipped;
        }
    }

    fn append(&mut self, rows: Range<usize>) {
        let tile = &*self.tile;
        let end = self.filled + rows.len() * tile.columns;
        let target = &mut self.target[self.filled..end];
        self.filled = end;
        simd::write_rows(
            &tile.values[rows.start..],
            tile.stride,
            tile.columns,
            target,
        );
    }
}

/// Appends `range`, merged with the last one if they are adjacent.
fn push(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_filter(
            cells in prop::collection::vec(
                prop::array::uniform3(prop_oneof![9 => -9.0..9.0_f64, 1 => Just(f64::NAN)]), 0..60),
            block in 1..20_usize, part in 1..40_usize, threads in 1..4_usize,
        ) {
            let parts: Vec<_> = (0..cells.len()).step_by(part)
                .map(|start| start..cells.len().min(start + part)).collect();
            let scalers = [1.0, 2.0, 4.0].map(|range| MinMax::new(0.0, range));
            let threads = Threads::new(threads).unwrap();
            let build = |all| Matrix::<f32>::build(3, &parts, threads, || (), |(), rows, writer| {
                let end = rows.end;
                for start in rows.step_by(block) {
                    let rows = &cells[start..end.min(start + block)];
                    writer.begin(rows.len());
                    for (c, scaler) in scalers.iter().enumerate() {
                        let column: Vec<f64> = rows.iter().map(|row| row[c]).collect();
                        writer.set(c, &column, scaler);
                    }
                    writer.end(start, all);
                }
                Ok(())
            }).unwrap();
            let whole = build(true);
            prop_assert_eq!(whole.rows(), cells.len());
            for (got, cell) in whole.data().iter().zip(cells.iter().flatten()) {
                prop_assert_eq!(got.is_nan(), cell.is_nan());
            }
            let matrix = build(false);
            let complete: Vec<usize> = (0..cells.len())
                .filter(|r| cells[*r].iter().all(|v| !v.is_nan())).collect();
            let expected: Vec<f32> = complete.iter()
                .flat_map(|r| (0..3).map(|c| scalers[c].transform(cells[*r][c]) as f32)).collect();
            prop_assert_eq!(matrix.data(), expected.as_slice());
            let kept: Vec<usize> = matrix.kept().iter().cloned().flatten().collect();
            prop_assert_eq!(kept, complete);
            prop_assert!(matrix.kept().windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }

    #[test]
    fn an_error_in_one_part_is_the_result() {
        let error = crate::Error::NotFitted;
        let result = Matrix::<f32>::build(
            1,
            &[0..2, 2..4],
            Threads::ONE,
            || (),
            |(), rows, _| {
                if rows.start == 0 {
                    Ok(())
                } else {
                    Err(error.clone())
                }
            },
        );
        assert_eq!(result, Err(error));
    }
}
