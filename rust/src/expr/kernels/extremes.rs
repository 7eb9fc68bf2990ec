//! Smallest and largest value over windows, and their positions.
//!
//! Extremes over 1, 2, 4, 8, ... values are built from each other. A window is covered by two of
//! these that may overlap, so every length takes one more step.

use crate::simd::windows as simd;

/// Which extreme of a window to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// Extremes over windows of one series. Windows of several lengths share the work.
///
/// Memory: `log2(longest)` times that of `values`, and as much again with positions.
#[derive(Debug)]
pub struct Extremes {
    side: Side,
    /// `levels[k - 1][i]` is the extreme of the `2^k` values from index `i` on.
    levels: Vec<Vec<f64>>,
    /// `positions[k][i]` is its position within these values, the first of equal ones.
    positions: Vec<Vec<f64>>,
}

impl Extremes {
    /// Returns empty buffers for one side.
    #[must_use]
    pub fn new(side: Side) -> Self {
        let (levels, positions) = (Vec::new(), Vec::new());
        Self {
            side,
            levels,
            positions,
        }
    }

    /// Prepares windows of up to `longest` values; `positions` also prepares their positions.
    ///
    /// # Panics
    /// Unless `1 <= longest <= values.len()`.
    pub fn update(&mut self, values: &[f64], longest: usize, positions: bool) {
        assert!(1 <= longest && longest <= values.len());
        let count = longest.ilog2() as usize;
        let existing = self.levels.len();
        self.levels.resize_with(existing.max(count), Vec::new);
        if positions {
            let existing = self.positions.len();
            self.positions
                .resize_with(existing.max(count + 1), Vec::new);
            let single = values.iter().map(|v| if v.is_nan() { *v } else { 0.0 });
            self.positions[0].clear();
            self.positions[0].extend(single);
        } else {
            self.positions.clear();
        }
        for k in 1..=count {
            let size = 1 << (k - 1);
            let rows = values.len() + 1 - 2 * size;
            let (lower, upper) = self.levels.split_at_mut(k - 1);
            let half = lower.last().map_or(values, Vec::as_slice);
            upper[0].resize(rows, 0.0);
            match self.side {
                Side::Min => simd::minima(&mut upper[0], half, &half[size..]),
                Side::Max => simd::maxima(&mut upper[0], half, &half[size..]),
            }
            if positions {
                let (lower, upper) = self.positions.split_at_mut(k);
                let at = &lower[k - 1];
                let (a, b) = ([half, at], [&half[size..], &at[size..]]);
                upper[0].resize(rows, 0.0);
                self.side.write_at(&mut upper[0], a, b, size);
            }
        }
    }

    /// Writes the extreme of the last `window` values at each of the last `out.len()` positions of
    /// `values`, which are those of [`Self::update`].
    ///
    /// # Panics
    /// When `window` is 0 or longer than `longest` was, or fewer positions have that many values.
    pub fn write(&self, values: &[f64], window: usize, out: &mut [f64]) {
        let (level, first, shift) = self.level(values, window, out.len());
        let (a, b) = (&level[first..], &level[first + shift..]);
        match self.side {
            Side::Min => simd::minima(out, a, b),
            Side::Max => simd::maxima(out, a, b),
        }
    }

    /// Writes the position of the extreme, counted from 0 for the oldest value of the window; the
    /// first of equal values. See [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`], and unless `update` prepared the positions.
    pub fn write_position(&self, values: &[f64], window: usize, out: &mut [f64]) {
        let (level, first, shift) = self.level(values, window, out.len());
        let at = &self.positions[window.ilog2() as usize];
        let a = [&level[first..], &at[first..]];
        let b = [&level[first + shift..], &at[first + shift..]];
        self.side.write_at(out, a, b, shift);
    }

    /// The level for a window, the index of the first window, and by how much the second part
    /// follows the first.
    fn level<'a>(
        &'a self,
        values: &'a [f64],
        window: usize,
        rows: usize,
    ) -> (&'a [f64], usize, usize) {
        assert!(window >= 1);
        let k = window.ilog2() as usize;
        let level = k.checked_sub(1).map_or(values, |k| &self.levels[k]);
        (level, values.len() + 1 - window - rows, window - (1 << k))
    }
}

impl Side {
    fn write_at(self, out: &mut [f64], a: [&[f64]; 2], b: [&[f64]; 2], shift: usize) {
        match self {
            Self::Min => simd::minima_at(out, a, b, shift as f64),
            Self::Max => simd::maxima_at(out, a, b, shift as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{assert_windows, series};
    use super::*;

    proptest! {
        #[test]
        fn agree_with_a_scan_of_each_window(values in series(), windows in prop::collection::vec(1..70_usize, 1..4)) {
            let windows: Vec<usize> = windows.iter().map(|w| 1 + (w - 1) % values.len()).collect();
            let longest = *windows.iter().max().unwrap();
            for side in [Side::Min, Side::Max] {
                let better = |a: f64, b: f64| if side == Side::Min { a < b } else { a > b };
                let first_best = |range: std::ops::Range<usize>| {
                    range.clone().reduce(|best, i| if better(values[i], values[best]) { i } else { best }).unwrap()
                };
                let mut extremes = Extremes::new(side);
                extremes.update(&values, longest, true);
                for window in &windows {
                    let is_nan = |i: usize| values[i].is_nan();
                    let write = |out: &mut [f64]| extremes.write(&values, *window, out);
                    assert_windows(values.len(), *window, write, is_nan, |r| values[first_best(r)], 0.0);
                    let write = |out: &mut [f64]| extremes.write_position(&values, *window, out);
                    let position = |r: std::ops::Range<usize>| (first_best(r.clone()) - r.start) as f64;
                    assert_windows(values.len(), *window, write, is_nan, position, 0.0);
                }
            }
        }
    }

    #[test]
    fn a_long_window_after_a_short_one() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from(i * 7919 % 5003)).collect();
        let mut extremes = Extremes::new(Side::Max);
        extremes.update(&values[..10], 10, false);
        for window in [4095, 4096, 4097, 5000] {
            extremes.update(&values, window, true);
            let max =
                |r: std::ops::Range<usize>| values[r].iter().copied().fold(f64::MIN, f64::max);
            let write = |out: &mut [f64]| extremes.write(&values, window, out);
            assert_windows(values.len(), window, write, |_| false, max, 0.0);
            let write = |out: &mut [f64]| extremes.write_position(&values, window, out);
            let at = |r: std::ops::Range<usize>| {
                let max = max(r.clone());
                values[r].iter().position(|v| *v >= max).unwrap() as f64
            };
            assert_windows(values.len(), window, write, |_| false, at, 0.0);
        }
    }
}
