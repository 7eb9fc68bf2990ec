//! Exponential averages.
//!
//! The recursion `y += alpha * (x - y)` depends on all earlier values, but after some rows the weight
//! of a value is too small to matter. An average is therefore a weighted sum over that many values. It
//! is built from sums over 1, 2, 4, 8, ... values, as sums over windows are: nothing is carried from row to row, so
//! the result depends neither on where a series starts nor on what lies before a NaN.

use crate::simd::windows as simd;

/// Weight below which earlier values are ignored.
const WEIGHT: f64 = 1e-13;

/// Returns the lookback of an exponential average with the smoothing factor `alpha`: the smallest
/// `k` with `(1 - alpha)^k <= 1e-13`.
///
/// # Panics
/// Unless `0 < alpha <= 1`.
#[must_use]
pub fn settled_rows(alpha: f64) -> usize {
    assert!(0.0 < alpha && alpha <= 1.0);
    // An alpha of 1 has no memory; its logarithm is minus infinity.
    (WEIGHT.ln() / (-alpha).ln_1p()).ceil() as usize
}

/// Returns the lookback of Wilder's RSI over `window` differences.
///
/// # Panics
/// When `window` is 0.
#[must_use]
pub fn rsi_settled_rows(window: usize) -> usize {
    settled_rows(1.0 / window as f64) + 1
}

/// Buffers for exponential averages, reused so that repeated calls do not allocate.
#[derive(Debug, Default)]
pub struct Averages {
    /// Weighted sums over a power of two of values, and over twice as many.
    sums: [Vec<f64>; 2],
    changes: Vec<f64>,
    losses: Vec<f64>,
}

impl Averages {
    /// Writes the average at each of the last `out.len()` positions of `values`: that of the
    /// recursion `y += alpha * (x - y)` that starts [`settled_rows`] values earlier.
    ///
    /// # Panics
    /// When fewer positions have that many values before them.
    pub fn write_ema(&mut self, values: &[f64], alpha: f64, out: &mut [f64]) {
        write(&mut self.sums, values, alpha, out);
    }

    /// Writes Wilder's RSI over `window` differences, 0..100: `100 * up / (up + down)` of the
    /// averages of gains and losses with an alpha of `1 / window`; 50 where there is neither.
    ///
    /// # Panics
    /// When `window` is 0, or fewer positions have [`rsi_settled_rows`] values before them.
    pub fn write_rsi_wilder(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        if out.is_empty() {
            return;
        }
        let alpha = 1.0 / window as f64;
        let (earlier, later) = (values, &values[1..]);
        self.changes.resize(later.len(), 0.0);
        self.losses.resize(out.len(), 0.0);
        crate::simd::gains(&mut self.changes, later, earlier);
        write(&mut self.sums, &self.changes, alpha, out);
        crate::simd::gains(&mut self.changes, earlier, later);
        write(&mut self.sums, &self.changes, alpha, &mut self.losses);
        simd::wilder_strengths(out, &self.losses);
    }
}

fn write(sums: &mut [Vec<f64>; 2], values: &[f64], alpha: f64, out: &mut [f64]) {
    let (rows, settled) = (out.len(), settled_rows(alpha));
    let oldest = values.len() - settled - rows;
    // Rounding 1 - alpha changes alpha a little; the weights must add up to 1.
    let keep = 1.0 - alpha;
    let [current, next] = sums;
    current.clear();
    current.extend_from_slice(values);
    out.fill(0.0);
    // `factor` is the weight of the previous sum when two sums over `size` values are combined, and
    // `weight` that of a value followed by `newer` values.
    let (mut size, mut factor, mut newer, mut weight) = (1, keep, 0, 1.0);
    while newer < settled {
        if settled & size != 0 {
            let first = values.len() + 1 - rows - newer - size;
            simd::add_weighted(out, &current[first..], weight);
            newer += size;
            weight *= factor;
        }
        let count = current.len().saturating_sub(size);
        next.resize(count, 0.0);
        if newer < settled {
            simd::join_weighted(next, &current[size..], current, factor);
            std::mem::swap(current, next);
        }
        size *= 2;
        factor *= factor;
    }
    simd::settle(out, 1.0 - keep, &values[oldest..], weight);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{assert_windows, series};
    use super::*;
    use crate::rolling;

    #[test]
    fn settled_rows_are_the_fewest_that_suffice() {
        assert_eq!(settled_rows(1.0), 0);
        for alpha in [0.9, 0.5, 2.0 / 61.0, 1.0 / 60.0, 1e-4, 2.0 / 1_048_577.0] {
            let k = settled_rows(alpha) as f64;
            let weight = |k: f64| (k * (-alpha).ln_1p()).exp();
            assert!(
                weight(k) <= WEIGHT * (1.0 + 1e-9) && weight(k - 1.0) > WEIGHT,
                "{alpha} {k}"
            );
        }
        assert_eq!(rsi_settled_rows(1), 1);
    }

    proptest! {
        #[test]
        fn ema_agrees_with_the_recursion(values in series(), alpha in prop::sample::select(vec![0.5, 0.8, 0.97, 1.0])) {
            let settled = settled_rows(alpha);
            let write = |out: &mut [f64]| {
                Averages::default().write_ema(&values, alpha, out);
                for y in out {
                    *y += 1e6;
                }
            };
            let expected = |r: std::ops::Range<usize>| {
                let average = values[r].iter().copied().reduce(|y, x| y + alpha * (x - y));
                average.unwrap() + 1e6
            };
            assert_windows(values.len(), settled + 1, write, |i| values[i].is_nan(), expected, 1e-12);
        }

        #[test]
        fn rsi_agrees_with_the_recursion(mut values in prop::collection::vec(1.0..100.0_f64, 1..400), window in 1..7_usize, nan in 0..400_usize) {
            if let Some(value) = values.get_mut(nan) {
                *value = f64::NAN;
            }
            // With earlier rows, the recursion starts earlier.
            let all = rolling::rsi_wilder(&values, window);
            let write = |out: &mut [f64]| Averages::default().write_rsi_wilder(&values, window, out);
            let expected = |r: std::ops::Range<usize>| all[r.end - 1];
            assert_windows(values.len(), rsi_settled_rows(window) + 1, write, |i| values[i].is_nan(), expected, 1e-8);
        }
    }

    #[test]
    fn long_averages_are_exact() {
        let values: Vec<f64> = (0..40_000).map(|i| f64::from((i * 7919) % 1009)).collect();
        for window in [30, 200, 1000] {
            let alpha = 2.0 / (f64::from(window) + 1.0);
            let mut out = [0.0; 3];
            Averages::default().write_ema(&values, alpha, &mut out);
            let all = values.iter().copied().reduce(|y, x| y + alpha * (x - y));
            assert!((out[2] - all.unwrap()).abs() < 1e-10, "{window}");
        }
    }

    #[test]
    fn nothing_moved() {
        let mut out = [0.0; 3];
        let values = vec![7.0; rsi_settled_rows(14) + 3];
        Averages::default().write_rsi_wilder(&values, 14, &mut out);
        assert!(out.iter().all(|v| (v - 50.0).abs() < 1e-12));
        Averages::default().write_ema(&[], 1.0, &mut []);
        Averages::default().write_rsi_wilder(&[], 14, &mut []);
    }
}
