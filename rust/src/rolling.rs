//! Rolling features: simple moving average and relative strength index.
//!
//! The sum over a window is built from sums over 1, 2, 4, 8, ... values (a window of 14 is 8 + 4 + 2).
//! Nothing is subtracted and no state is carried from row to row. The relative error of a sum of
//! non-negative values is therefore at most `2 * log2(window)` roundings for any number of rows, and
//! a NaN affects only the windows that contain it.

use crate::simd;

/// Sums over windows of one series. Windows of several lengths share the work.
#[derive(Debug, Default)]
pub struct WindowSums {
    /// `levels[k - 1][i]` is the sum of the `2^k` values from index `i` on.
    levels: Vec<Vec<f64>>,
}

impl WindowSums {
    /// Prepares sums over windows of up to `longest` values.
    ///
    /// # Panics
    /// Unless `1 <= longest <= values.len()`.
    pub fn update(&mut self, values: &[f64], longest: usize) {
        assert!(1 <= longest && longest <= values.len());
        let count = longest.ilog2() as usize;
        self.levels
            .resize_with(count.max(self.levels.len()), Vec::new);
        for k in 1..=count {
            let (lower, upper) = self.levels.split_at_mut(k - 1);
            let half = lower.last().map_or(values, Vec::as_slice);
            let sums = &mut upper[0];
            sums.resize(values.len() + 1 - (1 << k), 0.0);
            simd::add(sums, half, &half[1 << (k - 1)..]);
        }
    }

    /// Writes the sum of the last `window` values at each of the last `out.len()` positions of
    /// `values`, which are those of [`Self::update`].
    ///
    /// # Panics
    /// When `window` is 0 or longer than `longest` was, or fewer positions have that many values.
    pub fn write(&self, values: &[f64], window: usize, out: &mut [f64]) {
        assert!(window >= 1);
        // The bits of the window that are set are the levels to add, two in each pass.
        let rows = out.len();
        let mut from = values.len() + 1 - window - rows;
        let mut levels = (0..=window.ilog2() as usize)
            .filter(|k| window >> k & 1 == 1)
            .map(|k| {
                let level = k.checked_sub(1).map_or(values, |k| &self.levels[k]);
                let part = &level[from..][..rows];
                from += 1 << k;
                part
            });
        let first = levels.next().expect("a window has a bit set");
        match levels.next() {
            None => out.copy_from_slice(first),
            Some(second) => simd::add(out, first, second),
        }
        while let Some(first) = levels.next() {
            match levels.next() {
                None => simd::add_one(out, first),
                Some(second) => simd::add_two(out, first, second),
            }
        }
    }

    /// Writes the mean of the last `window` values; see [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn write_mean(&self, values: &[f64], window: usize, out: &mut [f64]) {
        self.write(values, window, out);
        simd::divide(out, window as f64);
    }
}

/// Buffers for the simple-mean RSI, reused so that repeated calls do not allocate.
#[derive(Debug, Default)]
pub struct RsiSums {
    changes: Vec<f64>,
    sums: WindowSums,
    losses: Vec<f64>,
}

impl RsiSums {
    /// Writes the simple-mean relative strength index (Cutler's RSI), 0..100:
    /// `out[i] = 100 - 100 / (1 + mean(gain) / mean(loss))` over the `window` differences between
    /// `values[i]` and `values[i + window]`. NaN where the window has neither gain nor loss.
    ///
    /// # Panics
    /// Unless `window >= 1` and `values.len() == out.len() + window`.
    pub fn write(&mut self, values: &[f64], window: usize, out: &mut [f64]) {
        assert!(window >= 1 && values.len() == out.len() + window);
        if out.is_empty() {
            return;
        }
        let (earlier, later) = (values, &values[1..]);
        self.changes.resize(later.len(), 0.0);
        self.losses.resize(out.len(), 0.0);
        for (minuends, subtrahends, sums) in [
            (later, earlier, &mut *out),
            (earlier, later, &mut self.losses),
        ] {
            simd::gains(&mut self.changes, minuends, subtrahends);
            self.sums.update(&self.changes, window);
            self.sums.write(&self.changes, window, sums);
        }
        simd::strengths(out, &self.losses);
    }
}

/// The positive part; NaN stays NaN.
#[inline]
pub(crate) fn gain(difference: f64) -> f64 {
    if difference < 0.0 { 0.0 } else { difference }
}

/// `100 - 100 / (1 + gain / loss)` with one division.
#[inline]
pub(crate) fn strength(gain: f64, loss: f64) -> f64 {
    100.0 * gain / (gain + loss)
}

/// Returns the simple moving average of a whole series, NaN for the first `window - 1` rows.
///
/// # Panics
/// When `window` is 0.
#[must_use]
pub fn sma(values: &[f64], window: usize) -> Vec<f64> {
    let mut out = vec![f64::NAN; values.len()];
    if values.len() >= window {
        let mut sums = WindowSums::default();
        sums.update(values, window);
        sums.write_mean(values, window, &mut out[window - 1..]);
    }
    out
}

/// Returns the simple-mean RSI of a whole series, NaN for the first `window - 1` rows. The first
/// value has no difference; it counts as neither gain nor loss.
///
/// # Panics
/// When `window` is 0.
#[must_use]
pub fn rsi(values: &[f64], window: usize) -> Vec<f64> {
    let mut out = vec![f64::NAN; values.len()];
    if values.len() >= window && !values.is_empty() {
        let mut padded = Vec::with_capacity(values.len() + 1);
        padded.push(values[0]);
        padded.extend_from_slice(values);
        RsiSums::default().write(&padded, window, &mut out[window - 1..]);
    }
    out
}

/// Returns Wilder's RSI of a whole series, 0..100, NaN for the first `window` rows.
///
/// The averages start as simple means of the first `window` differences and continue as
/// `(average * (window - 1) + difference) / window` (J. W. Wilder, *New Concepts in Technical
/// Trading Systems*, 1978). Rounding errors do not accumulate, because each row reduces those of
/// earlier rows by a factor of `1 - 1/window`. 50 where there is neither gain nor loss. After a NaN
/// the averages start again.
///
/// # Panics
/// When `window` is 0.
#[must_use]
pub fn rsi_wilder(values: &[f64], window: usize) -> Vec<f64> {
    assert!(window >= 1);
    let n = window as f64;
    let mut out = vec![f64::NAN; values.len()];
    let (mut up, mut down, mut seen) = (0.0, 0.0, 0);
    for (i, pair) in values.windows(2).enumerate() {
        let difference = pair[1] - pair[0];
        if difference.is_nan() {
            (up, down, seen) = (0.0, 0.0, 0);
            continue;
        }
        seen += 1;
        if seen <= window {
            up += gain(difference) / n;
            down += gain(-difference) / n;
        } else {
            up = (up * (n - 1.0) + gain(difference)) / n;
            down = (down * (n - 1.0) + gain(-difference)) / n;
        }
        if seen >= window {
            out[i + 1] = if up + down > 0.0 {
                strength(up, down)
            } else {
                50.0
            };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prices() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(
            prop_oneof![
                8 => 0.01..1e5_f64,
                2 => Just(100.0),
                1 => Just(f64::NAN)
            ],
            0..120,
        )
    }

    fn same(a: f64, b: f64) -> bool {
        (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * b.abs().max(1.0)
    }

    fn naive_sma(values: &[f64], window: usize) -> Vec<f64> {
        (0..values.len())
            .map(|i| match (i + 1).checked_sub(window) {
                Some(first) => values[first..=i].iter().sum::<f64>() / window as f64,
                None => f64::NAN,
            })
            .collect()
    }

    fn naive_rsi(values: &[f64], window: usize) -> Vec<f64> {
        let difference = |i: usize| {
            // The first value is its own predecessor.
            values[i] - values[i.saturating_sub(1)]
        };
        (0..values.len())
            .map(|i| match (i + 1).checked_sub(window) {
                None => f64::NAN,
                Some(first) => {
                    let part: Vec<f64> = (first..=i).map(difference).collect();
                    if part.iter().any(|d| d.is_nan()) {
                        return f64::NAN;
                    }
                    let up: f64 = part.iter().filter(|d| **d > 0.0).sum::<f64>();
                    let down: f64 = -part.iter().filter(|d| **d < 0.0).sum::<f64>();
                    if down == 0.0 {
                        return if up == 0.0 { f64::NAN } else { 100.0 };
                    }
                    100.0 - 100.0 / (1.0 + up / down)
                }
            })
            .collect()
    }

    /// The averages written out: a weighted sum over all differences so far.
    fn naive_wilder(values: &[f64], window: usize, row: usize) -> f64 {
        let n = window as f64;
        let mut average = [0.0, 0.0];
        for (side, sign) in [1.0, -1.0].into_iter().enumerate() {
            for i in 1..=row {
                let part = (sign * (values[i] - values[i - 1])).max(0.0);
                let age = row - i.max(window);
                average[side] += part / n * (1.0 - 1.0 / n).powi(age as i32);
            }
        }
        100.0 - 100.0 / (1.0 + average[0] / average[1])
    }

    proptest! {
        #[test]
        fn sma_agrees_with_the_naive_sum(values in prices(), window in 1..40_usize) {
            for (got, expected) in sma(&values, window).iter().zip(naive_sma(&values, window)) {
                prop_assert!(same(*got, expected), "{got} {expected}");
            }
        }

        #[test]
        fn rsi_agrees_with_the_naive_mean(values in prices(), window in 1..40_usize) {
            for (got, expected) in rsi(&values, window).iter().zip(naive_rsi(&values, window)) {
                prop_assert!(same(*got, expected), "{got} {expected}");
            }
        }

        #[test]
        fn wilder_agrees_with_the_weighted_sum(
            values in prop::collection::vec(1.0..1e5_f64, 1..80), window in 1..20_usize,
        ) {
            let got = rsi_wilder(&values, window);
            for (row, got) in got.iter().enumerate() {
                if row < window {
                    prop_assert!(got.is_nan());
                } else {
                    let expected = naive_wilder(&values, window, row);
                    prop_assert!((got - expected).abs() < 1e-6, "{got} {expected}");
                }
            }
        }
    }

    /// Prices in cents, so that sums of them are exact, with one of 10^14 dollars in the middle.
    fn spiked_cents() -> Vec<i64> {
        let mut cents: Vec<i64> = (0..1_300_000).map(|i| (i * 7919) % 1_000_003 + 1).collect();
        cents[600_000] = 10_000_000_000_000_000;
        cents
    }

    #[test]
    fn means_do_not_drift_over_a_million_rows() {
        let cents = spiked_cents();
        let values: Vec<f64> = cents.iter().map(|c| *c as f64 / 100.0).collect();
        for window in [7, 14, 30] {
            let means = sma(&values, window);
            let (mut running, mut worst, mut worst_running) = (0.0, 0.0_f64, 0.0_f64);
            for i in 0..values.len() {
                running += values[i] - if i >= window { values[i - window] } else { 0.0 };
                if i + 1 >= window {
                    let sum: i64 = cents[i + 1 - window..=i].iter().sum();
                    let exact = sum as f64 / 100.0 / window as f64;
                    worst = worst.max((means[i] - exact).abs() / exact);
                    worst_running =
                        worst_running.max((running / window as f64 - exact).abs() / exact);
                }
            }
            assert!(worst <= 1e-14, "{window}: {worst}");
            assert!(
                worst_running > 1e-9,
                "the series would not show a drift: {worst_running}"
            );
        }
    }

    #[test]
    fn rsi_does_not_drift_over_a_million_rows() {
        let cents = spiked_cents();
        let values: Vec<f64> = cents.iter().map(|c| *c as f64 / 100.0).collect();
        let (simple, wilder) = (rsi(&values, 14), rsi_wilder(&values, 14));
        for i in (700_000..values.len()).step_by(1009) {
            let moves = |i: usize| cents[i] - cents[i - 1];
            let up: i64 = (i - 13..=i).map(|i| moves(i).max(0)).sum();
            let all: i64 = (i - 13..=i).map(|i| moves(i).abs()).sum();
            let exact = 100.0 * up as f64 / all as f64;
            assert!(
                (simple[i] - exact).abs() <= 1e-9 * exact,
                "{i} {} {exact}",
                simple[i]
            );
            // The weight of old values vanishes, so starting 2000 rows earlier gives the same averages.
            let restarted = rsi_wilder(&values[i - 2000..=i], 14)[2000];
            assert!((wilder[i] - restarted).abs() <= 1e-9 * restarted);
        }
    }

    #[test]
    fn short_and_flat_series() {
        assert!(sma(&[], 7).is_empty() && rsi(&[], 7).is_empty() && rsi_wilder(&[], 7).is_empty());
        assert!(sma(&[1.0; 6], 7).iter().all(|v| v.is_nan()));
        assert!(
            rsi(&[1.0; 20], 14).iter().all(|v| v.is_nan()),
            "no gain, no loss: undefined"
        );
        assert!(
            rsi_wilder(&[1.0; 20], 14)[14..]
                .iter()
                .all(|v| (v - 50.0).abs() < 1e-12)
        );
        let rising: Vec<f64> = (0..20).map(f64::from).collect();
        assert!(
            rsi(&rising, 14)[13..]
                .iter()
                .all(|v| (v - 100.0).abs() < 1e-12)
        );
    }
}
