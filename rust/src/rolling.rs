//! Rolling features: simple moving average and relative strength index.
//!
//! Sums over a window are built from sums over 1, 2, 4, 8, ... values (a window of 14 is 8 + 4 + 2).
//! Nothing is ever subtracted and no state is carried from row to row, so the relative error of a
//! sum of non-negative values is at most `2 * log2(window)` roundings, whatever the number of rows,
//! and a NaN spoils only the windows that contain it.

/// Buffers of [`sliding_sum`], kept so that repeated calls do not allocate.
#[derive(Debug, Default)]
pub struct Scratch {
    partial: Vec<f64>,
    doubled: Vec<f64>,
    diffs: Vec<f64>,
    losses: Vec<f64>,
}

/// Writes `out[i] = values[i] + ... + values[i + window - 1]`.
///
/// # Panics
/// Unless `window >= 1` and `values.len() == out.len() + window - 1`.
fn sliding_sum(
    values: &[f64],
    window: usize,
    out: &mut [f64],
    (partial, doubled): (&mut Vec<f64>, &mut Vec<f64>),
) {
    assert!(window >= 1 && values.len() == out.len() + window - 1);
    out.fill(0.0);
    partial.clear();
    partial.extend_from_slice(values);
    let (mut span, mut offset) = (1, 0);
    loop {
        // Here partial[i] is the sum of `span` values from i on.
        if window & span != 0 {
            for (sum, part) in out.iter_mut().zip(&partial[offset..]) {
                *sum += part;
            }
            offset += span;
        }
        if 2 * span > window {
            return;
        }
        doubled.clear();
        doubled.extend(partial.iter().zip(&partial[span..]).map(|(a, b)| a + b));
        std::mem::swap(partial, doubled);
        span *= 2;
    }
}

/// Writes the simple moving average: `out[i] = mean(values[i..i + window])`.
///
/// # Panics
/// Unless `window >= 1` and `values.len() == out.len() + window - 1`.
pub fn sma_valid(values: &[f64], window: usize, out: &mut [f64], scratch: &mut Scratch) {
    sliding_sum(
        values,
        window,
        out,
        (&mut scratch.partial, &mut scratch.doubled),
    );
    for sum in out {
        *sum /= window as f64;
    }
}

/// Writes the simple-mean relative strength index (Cutler's RSI), 0..100:
/// `out[i] = 100 - 100 / (1 + mean(gain) / mean(loss))` over the `window` differences between
/// `values[i]` and `values[i + window]`. NaN where the window has neither gain nor loss.
///
/// # Panics
/// Unless `window >= 1` and `values.len() == out.len() + window`.
pub fn rsi_valid(values: &[f64], window: usize, out: &mut [f64], scratch: &mut Scratch) {
    assert!(window >= 1 && values.len() == out.len() + window);
    let Scratch {
        partial,
        doubled,
        diffs,
        losses,
    } = scratch;
    diffs.clear();
    diffs.extend(values.windows(2).map(|pair| gain(pair[1] - pair[0])));
    sliding_sum(diffs, window, out, (partial, doubled));
    diffs.clear();
    diffs.extend(values.windows(2).map(|pair| gain(pair[0] - pair[1])));
    if losses.len() < out.len() {
        losses.resize(out.len(), 0.0);
    }
    let losses = &mut losses[..out.len()];
    sliding_sum(diffs, window, losses, (partial, doubled));
    for (rsi, loss) in out.iter_mut().zip(losses) {
        *rsi = strength(*rsi, *loss);
    }
}

/// The positive part; NaN stays NaN.
#[inline]
fn gain(difference: f64) -> f64 {
    if difference < 0.0 { 0.0 } else { difference }
}

/// `100 - 100 / (1 + gain / loss)` with one division.
#[inline]
fn strength(gain: f64, loss: f64) -> f64 {
    100.0 * gain / (gain + loss)
}

/// Returns the simple moving average of a whole series, NaN until `window` values are there.
///
/// # Panics
/// When `window` is 0.
#[must_use]
pub fn sma(values: &[f64], window: usize) -> Vec<f64> {
    let mut out = vec![f64::NAN; values.len()];
    if values.len() >= window {
        sma_valid(
            values,
            window,
            &mut out[window - 1..],
            &mut Scratch::default(),
        );
    }
    out
}

/// Returns the simple-mean RSI of a whole series, NaN until `window` values are there. The first
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
        rsi_valid(
            &padded,
            window,
            &mut out[window - 1..],
            &mut Scratch::default(),
        );
    }
    out
}

/// Returns Wilder's RSI of a whole series, 0..100, NaN for the first `window` rows.
///
/// The averages start as simple means of the first `window` differences and go on as
/// `(average * (window - 1) + difference) / window` (J. W. Wilder, *New Concepts in Technical
/// Trading Systems*, 1978). An average forgets: its rounding errors shrink by `1 - 1/window` each
/// row, so they do not add up. 50 where there is neither gain nor loss. A NaN restarts the averages
/// behind it.
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

    #[test]
    fn no_drift_over_a_million_rows() {
        // Cents as integers give the exact sums. A jump of eight orders of magnitude in the middle
        // would leave a running sum with an error for ever.
        let cents: Vec<i64> = (0..1_300_000_i64)
            .map(|i| (i * 7919) % 1_000_003 + if i == 600_000 { 100_000_000_000_000 } else { 1 })
            .collect();
        let values: Vec<f64> = cents.iter().map(|c| *c as f64).collect();
        for window in [7, 14, 30] {
            for (i, got) in sma(&values, window).iter().enumerate().skip(window - 1) {
                let exact = cents[i + 1 - window..=i].iter().sum::<i64>() as f64 / window as f64;
                assert!(
                    (got - exact).abs() <= 1e-14 * exact,
                    "{window} {i} {got} {exact}"
                );
            }
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
