//! Variance, linear trend, covariance, and correlation over windows.
//!
//! Sums of squares and products of deviations from the mean are built from those over 1, 2, 4, 8, ...
//! values (T. F. Chan, G. H. Golub, R. J. `LeVeque`, *Updating Formulae and a Pairwise Algorithm for
//! Computing Sample Variances*, 1979): with `p` and `q` values whose means differ by `d`, the merged
//! sum is `M2 = M2a + M2b + d^2 pq / (p + q)`. Nothing is subtracted from it and no state is carried
//! from row to row. Means are kept as distances from the first value of their window, so that the
//! error is relative to the spread of the values, however far from 0 they are, and equal values give
//! exactly 0.

use crate::simd::windows::{self as simd, CoStep, Part, Step};

/// Means and squared deviations of windows of one length.
#[derive(Debug, Default)]
struct Spread {
    /// Mean minus first value.
    offsets: Vec<f64>,
    /// Sum of squared deviations from the mean.
    squares: Vec<f64>,
}

impl Spread {
    fn resize(&mut self, rows: usize) {
        self.offsets.resize(rows, 0.0);
        self.squares.resize(rows, 0.0);
    }

    fn clear(&mut self) {
        self.offsets.clear();
        self.squares.clear();
    }

    /// The windows from index `at` on.
    fn part<'a>(&'a self, values: &'a [f64], at: usize) -> Part<'a> {
        Part {
            firsts: &values[at..],
            offsets: &self.offsets[at..],
            squares: &self.squares[at..],
        }
    }
}

/// Levels whose values make up a window, from the oldest on: level `k`, values in the levels
/// before, values in this one.
fn levels(window: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let bits = (0..=window.ilog2() as usize).filter(move |k| window >> k & 1 == 1);
    bits.map(move |k| (k, window & ((1 << k) - 1), 1 << k))
}

/// Share of `q` values among `p + q`, and the weight of the squared distance of their means.
fn weights(p: usize, q: usize) -> (f64, f64) {
    let (p, q) = (p as f64, q as f64);
    (q / (p + q), p * q / (p + q))
}

/// Variance and linear trend over windows of one series. Windows of several lengths share the work,
/// and so do results for the same window that are written one after the other.
///
/// Memory: two or, with the trend, three times `log2(longest) + 2` times that of `values`.
#[derive(Debug, Default)]
pub struct Moments {
    /// `levels[k]` describes the `2^k` values from each index on.
    levels: Vec<Level>,
    merged: Level,
    /// The window and the rows that `merged` describes.
    current: Option<(usize, usize)>,
    trend: bool,
}

#[derive(Debug, Default)]
struct Level {
    spread: Spread,
    /// Sum of products of the deviations of value and position; empty without trend.
    trends: Vec<f64>,
}

impl Level {
    fn resize(&mut self, rows: usize, trend: bool) {
        self.spread.resize(rows);
        self.trends.resize(if trend { rows } else { 0 }, 0.0);
    }

    /// The windows of `size` values from index `at` on, which follow `before` values.
    fn step<'a>(&'a self, values: &'a [f64], at: usize, before: usize, size: usize) -> Step<'a> {
        let (share, weight) = weights(before, size);
        Step {
            x: self.spread.part(values, at),
            trends: self.trends.get(at..).unwrap_or_default(),
            share,
            weight,
            // The mean positions of the two differ by half of the sum of their sizes.
            tilt: before as f64 * size as f64 / 2.0,
        }
    }

    fn merge(&mut self, steps: &[Step]) {
        let Self { spread, trends } = self;
        if trends.is_empty() {
            simd::merge(&mut spread.offsets, &mut spread.squares, steps);
        } else {
            simd::merge_trends(&mut spread.offsets, &mut spread.squares, trends, steps);
        }
    }
}

impl Moments {
    /// Prepares windows of up to `longest` values; `trend` also prepares the linear trend.
    ///
    /// # Panics
    /// Unless `1 <= longest <= values.len()`.
    pub fn update(&mut self, values: &[f64], longest: usize, trend: bool) {
        assert!(1 <= longest && longest <= values.len());
        (self.current, self.trend) = (None, trend);
        let count = longest.ilog2() as usize;
        let existing = self.levels.len();
        self.levels
            .resize_with(existing.max(count + 1), Level::default);
        // A single value deviates from nothing.
        let single = &mut self.levels[0];
        single.spread.clear();
        single.trends.clear();
        single.resize(values.len(), trend);
        for k in 1..=count {
            let (lower, upper) = self.levels.split_at_mut(k);
            let (half, size) = (&lower[k - 1], 1 << (k - 1));
            upper[0].resize(values.len() + 1 - 2 * size, trend);
            upper[0].merge(&[
                half.step(values, 0, 0, size),
                half.step(values, size, size, size),
            ]);
        }
    }

    /// Describes the last `rows` windows of `window` values in `merged`, and returns the index of
    /// the first value of the first window.
    fn merge(&mut self, values: &[f64], window: usize, rows: usize) -> usize {
        assert!(window >= 2);
        let start = values.len() + 1 - window - rows;
        if self.current != Some((window, rows)) {
            let step = |(k, before, size): (usize, usize, usize)| {
                self.levels[k].step(values, start + before, before, size)
            };
            let steps: Vec<Step> = levels(window).map(step).collect();
            self.merged.resize(rows, self.trend);
            self.merged.merge(&steps);
            self.current = Some((window, rows));
        }
        start
    }

    /// Writes the variance (divided by `window - 1`) of the last `window` values at each of the
    /// last `out.len()` positions of `values`, which are those of [`Self::update`]. Exactly 0 where
    /// all values are equal.
    ///
    /// # Panics
    /// When `window` is below 2 or longer than `longest` was, or fewer positions have that many
    /// values.
    pub fn write_var(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        self.merge(values, window, out.len());
        simd::quotients(out, &self.merged.spread.squares, window as f64 - 1.0);
    }

    /// Writes the standard deviation, the square root of [`Self::write_var`].
    ///
    /// # Panics
    /// As [`Self::write_var`].
    pub fn write_std(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        self.merge(values, window, out.len());
        simd::roots(
            out,
            &self.merged.spread.squares,
            1.0 / (window as f64 - 1.0),
        );
    }

    /// Writes the slope, per position, of the line fitted to the last `window` values by least
    /// squares; see [`Self::write_var`].
    ///
    /// # Panics
    /// As [`Self::write_var`], and unless `update` prepared the trend.
    pub fn write_slope(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        self.merge_trend(values, window, out.len());
        simd::quotients(out, &self.merged.trends, position_squares(window));
    }

    /// Writes the coefficient of determination of that line, 0..1; NaN where all values are equal.
    ///
    /// # Panics
    /// As [`Self::write_slope`].
    pub fn write_rsquare(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        self.merge_trend(values, window, out.len());
        let Level { spread, trends } = &self.merged;
        simd::determinations(out, trends, &spread.squares, position_squares(window));
    }

    /// Writes the last value minus that of the line.
    ///
    /// # Panics
    /// As [`Self::write_slope`].
    pub fn write_resid(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        let start = self.merge_trend(values, window, out.len());
        let part = Part {
            firsts: &values[start..],
            offsets: &self.merged.spread.offsets,
            squares: &self.merged.spread.squares,
        };
        let factor = (window as f64 - 1.0) / 2.0 / position_squares(window);
        let lasts = &values[start + window - 1..];
        simd::residuals(out, part, lasts, &self.merged.trends, factor);
    }

    fn merge_trend(&mut self, values: &[f64], window: usize, rows: usize) -> usize {
        assert!(self.trend);
        self.merge(values, window, rows)
    }
}

/// Sum of squared deviations of the positions 0, 1, ..., `window - 1` from their mean.
fn position_squares(window: usize) -> f64 {
    let n = window as f64;
    n * (n * n - 1.0) / 12.0
}

/// Covariance and correlation over windows of two series. Windows of several lengths share the work,
/// and so do results for the same window that are written one after the other.
///
/// Memory: five times `log2(longest) + 2` times that of `x`.
#[derive(Debug, Default)]
pub struct CoMoments {
    levels: Vec<CoLevel>,
    merged: CoLevel,
    current: Option<(usize, usize)>,
}

#[derive(Debug, Default)]
struct CoLevel {
    x: Spread,
    y: Spread,
    /// Sum of products of the deviations of `x` and `y`.
    products: Vec<f64>,
}

impl CoLevel {
    fn resize(&mut self, rows: usize) {
        self.x.resize(rows);
        self.y.resize(rows);
        self.products.resize(rows, 0.0);
    }

    /// The windows of `size` values from index `at` on, which follow `before` values.
    fn step<'a>(
        &'a self,
        series: [&'a [f64]; 2],
        at: usize,
        before: usize,
        size: usize,
    ) -> CoStep<'a> {
        let (share, weight) = weights(before, size);
        CoStep {
            series: [self.x.part(series[0], at), self.y.part(series[1], at)],
            products: &self.products[at..],
            share,
            weight,
        }
    }

    fn merge(&mut self, steps: &[CoStep]) {
        let Self { x, y, products } = self;
        let spreads = [
            &mut x.offsets,
            &mut x.squares,
            &mut y.offsets,
            &mut y.squares,
            products,
        ];
        simd::merge_products(&mut spreads.map(Vec::as_mut_slice), steps);
    }
}

impl CoMoments {
    /// Prepares windows of up to `longest` values of two series.
    ///
    /// # Panics
    /// Unless `x.len() == y.len()` and `1 <= longest <= x.len()`.
    pub fn update(&mut self, x: &[f64], y: &[f64], longest: usize) {
        assert!(x.len() == y.len() && 1 <= longest && longest <= x.len());
        self.current = None;
        let count = longest.ilog2() as usize;
        let existing = self.levels.len();
        self.levels
            .resize_with(existing.max(count + 1), CoLevel::default);
        // A single value deviates from nothing.
        let single = &mut self.levels[0];
        single.x.clear();
        single.y.clear();
        single.products.clear();
        single.resize(x.len());
        for k in 1..=count {
            let (lower, upper) = self.levels.split_at_mut(k);
            let (half, size) = (&lower[k - 1], 1 << (k - 1));
            upper[0].resize(x.len() + 1 - 2 * size);
            let steps = [
                half.step([x, y], 0, 0, size),
                half.step([x, y], size, size, size),
            ];
            upper[0].merge(&steps);
        }
    }

    fn merge(&mut self, series: [&[f64]; 2], window: usize, rows: usize) {
        assert!(window >= 2);
        if self.current == Some((window, rows)) {
            return;
        }
        let start = series[0].len() + 1 - window - rows;
        let step = |(k, before, size): (usize, usize, usize)| {
            self.levels[k].step(series, start + before, before, size)
        };
        let steps: Vec<CoStep> = levels(window).map(step).collect();
        self.merged.resize(rows);
        self.merged.merge(&steps);
        self.current = Some((window, rows));
    }

    /// Writes the covariance (divided by `window - 1`) of the last `window` values at each of the
    /// last `out.len()` positions of `x` and `y`, which are those of [`Self::update`].
    ///
    /// # Panics
    /// When `window` is below 2 or longer than `longest` was, or fewer positions have that many
    /// values.
    pub fn write_cov(&mut self, x: &[f64], y: &[f64], window: usize, out: &mut [f64]) {
        self.merge([x, y], window, out.len());
        simd::quotients(out, &self.merged.products, window as f64 - 1.0);
    }

    /// Writes Pearson's correlation, -1..1; NaN where a variance is 0, or where the product of the
    /// two is beyond the range of normal numbers. See [`Self::write_cov`].
    ///
    /// # Panics
    /// As [`Self::write_cov`].
    pub fn write_corr(&mut self, x: &[f64], y: &[f64], window: usize, out: &mut [f64]) {
        self.merge([x, y], window, out.len());
        let CoLevel { x, y, products } = &self.merged;
        simd::correlations(out, products, &x.squares, &y.squares);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::super::testing::{assert_windows, series};
    use super::*;

    /// Two passes: first the means, then the sum of the products of the deviations.
    fn products(x: &[f64], y: &[f64]) -> f64 {
        let mean = |v: &[f64]| v[0] + v.iter().map(|a| a - v[0]).sum::<f64>() / v.len() as f64;
        let (mx, my) = (mean(x), mean(y));
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    }

    fn is_flat(values: &[f64]) -> bool {
        values.iter().all(|v| (v - values[0]).abs() <= 0.0)
    }

    /// Slope, R squared, residual of the last value.
    fn line(y: &[f64]) -> [f64; 3] {
        let t: Vec<f64> = (0..y.len()).map(|i| i as f64).collect();
        let (tt, ty, yy) = (products(&t, &t), products(&t, y), products(y, y));
        let flat = is_flat(y);
        let mean = y.iter().map(|v| v - y[0]).sum::<f64>() / y.len() as f64;
        let resid = y[y.len() - 1] - y[0] - mean - ty / tt * (y.len() - 1) as f64 / 2.0;
        [
            ty / tt,
            if flat { f64::NAN } else { ty * ty / tt / yy },
            resid,
        ]
    }

    /// `write`, and 2 added so that results that nearly cancel are compared absolutely.
    fn plus_two(mut write: impl FnMut(&mut [f64])) -> impl FnMut(&mut [f64]) {
        move |out| {
            write(out);
            for v in out {
                *v += 2.0;
            }
        }
    }

    proptest! {
        #[test]
        fn agree_with_two_passes(x in series(), y in series(), windows in prop::collection::vec(2..70_usize, 1..4)) {
            let count = x.len().min(y.len());
            prop_assume!(count >= 2);
            let (x, y) = (&x[..count], &y[..count]);
            let windows: Vec<usize> = windows.iter().map(|w| 2 + (w - 2) % (count - 1)).collect();
            let longest = *windows.iter().max().unwrap();
            let (mut moments, mut both) = (Moments::default(), CoMoments::default());
            moments.update(x, longest, true);
            both.update(x, y, longest);
            for window in windows {
                let nan_x = |i: usize| x[i].is_nan();
                let nan = |i: usize| x[i].is_nan() || y[i].is_nan();
                let var = |r: Range<usize>| products(&x[r.clone()], &x[r]) / (window - 1) as f64;
                assert_windows(count, window, |out| moments.write_var(x, window, out), nan_x, var, 1e-11);
                let std = |r| var(r).sqrt();
                assert_windows(count, window, |out| moments.write_std(x, window, out), nan_x, std, 1e-11);
                let slope = |r: Range<usize>| line(&x[r])[0] + 2.0;
                let write = plus_two(|out| moments.write_slope(x, window, out));
                assert_windows(count, window, write, nan_x, slope, 1e-11);
                let rsquare = |r: Range<usize>| line(&x[r])[1] + 2.0;
                let write = plus_two(|out| moments.write_rsquare(x, window, out));
                assert_windows(count, window, write, nan_x, rsquare, 1e-11);
                let resid = |r: Range<usize>| line(&x[r])[2] + 2.0;
                let write = plus_two(|out| moments.write_resid(x, window, out));
                assert_windows(count, window, write, nan_x, resid, 1e-9);
                let cov = |r: Range<usize>| products(&x[r.clone()], &y[r]) / (window - 1) as f64 + 2.0;
                let write = plus_two(|out| both.write_cov(x, y, window, out));
                assert_windows(count, window, write, nan, cov, 1e-9);
                let corr = |r: Range<usize>| {
                    let (x, y) = (&x[r.clone()], &y[r]);
                    if is_flat(x) || is_flat(y) {
                        return f64::NAN;
                    }
                    products(x, y) / (products(x, x) * products(y, y)).sqrt() + 2.0
                };
                let write = plus_two(|out| both.write_corr(x, y, window, out));
                assert_windows(count, window, write, nan, corr, 1e-9);
            }
        }
    }

    #[test]
    fn equal_values_have_no_variance() {
        for value in [0.1, 60_000.1, 1e300, -1e-300] {
            let values = vec![value; 200];
            let (mut moments, mut both) = (Moments::default(), CoMoments::default());
            moments.update(&values, 127, true);
            both.update(&values, &values, 127);
            let mut out = [1.0; 5];
            for window in [2, 3, 5, 7, 60, 100, 127] {
                moments.write_var(&values, window, &mut out);
                assert!(out.iter().all(|v| v.abs() <= 0.0));
                moments.write_slope(&values, window, &mut out);
                assert!(out.iter().all(|v| v.abs() <= 0.0));
                moments.write_rsquare(&values, window, &mut out);
                assert!(out.iter().all(|r| r.is_nan()));
                both.write_corr(&values, &values, window, &mut out);
                assert!(out.iter().all(|r| r.is_nan()));
            }
        }
    }

    /// Values that do not depend on what was prepared or written before.
    #[test]
    fn windows_share_the_work() {
        let values: Vec<f64> = (0..300).map(|i| f64::from(i * 7919 % 1009)).collect();
        let mut shared = Moments::default();
        shared.update(&values, 200, false);
        shared.update(&values, 60, true);
        let (mut out, mut expected) = ([0.0; 9], [0.0; 9]);
        for window in [5, 60, 5, 32, 2] {
            let mut alone = Moments::default();
            alone.update(&values, window, false);
            alone.write_std(&values, window, &mut expected);
            shared.write_resid(&values, window, &mut out);
            shared.write_std(&values, window, &mut out);
            assert_eq!(out.map(f64::to_bits), expected.map(f64::to_bits));
        }
    }

    /// Prices near 60,000 in cents with a deviation of about 1, and volumes, so that sums of products are
    /// exact integers.
    #[test]
    fn moments_do_not_drift_over_a_million_rows() {
        let cents: Vec<i64> = (0..1_300_000)
            .map(|i| 6_000_000 + (i * 7919) % 347)
            .collect();
        let lots: Vec<i64> = (0..1_300_000)
            .map(|i| 1 + (i * i % 1009 + i * 31) % 1013)
            .collect();
        let x: Vec<f64> = cents.iter().map(|c| *c as f64 / 100.0).collect();
        let y: Vec<f64> = lots.iter().map(|c| *c as f64).collect();
        let (mut moments, mut both) = (Moments::default(), CoMoments::default());
        moments.update(&x, 60, true);
        both.update(&x, &y, 60);
        for window in [5, 60] {
            let rows = x.len() + 1 - window;
            let mut outs = vec![vec![0.0; rows]; 5];
            moments.write_var(&x, window, &mut outs[0]);
            moments.write_slope(&x, window, &mut outs[1]);
            moments.write_rsquare(&x, window, &mut outs[2]);
            both.write_cov(&x, &y, window, &mut outs[3]);
            both.write_corr(&x, &y, window, &mut outs[4]);
            let n = window as i64;
            for i in 0..rows {
                let (x, y) = (&cents[i..i + window], &lots[i..i + window]);
                // n times the sum of the products of the deviations.
                let products = |f: &dyn Fn(usize) -> i64, g: &dyn Fn(usize) -> i64| {
                    let sum = |h: &dyn Fn(usize) -> i64| (0..window).map(h).sum::<i64>();
                    (n * sum(&|j| f(j) * g(j)) - sum(f) * sum(g)) as f64
                };
                let (px, py, pt) = (
                    |j: usize| x[j] - 6_000_000,
                    |j: usize| y[j],
                    |j: usize| j as i64,
                );
                let (xx, yy, xy) = (products(&px, &px), products(&py, &py), products(&px, &py));
                let (tx, tt) = (products(&pt, &px), products(&pt, &pt));
                let expected = [
                    xx / 1e4 / (n * (n - 1)) as f64,
                    tx / 100.0 / tt,
                    tx / tt * tx / xx,
                    xy / 100.0 / (n * (n - 1)) as f64,
                    xy / (xx * yy).sqrt(),
                ];
                // What the errors of a slope and of a covariance are relative to.
                let scales = [
                    expected[0],
                    (xx / tt).sqrt() / 100.0,
                    1.0,
                    (xx * yy).sqrt() / 100.0 / (n * n) as f64,
                    1.0,
                ];
                for ((out, expected), scale) in outs.iter().zip(expected).zip(scales) {
                    assert!(
                        (out[i] - expected).abs() <= 1e-10 * scale,
                        "{window} {i} {} {expected}",
                        out[i]
                    );
                }
            }
        }
    }
}
