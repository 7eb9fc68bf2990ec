//! Quantiles and ranks over windows.
//!
//! Up to [`SHORT`] values, a quantile reads a sorted copy of the window, in which each row replaces
//! one value, and a rank compares the last value with every other. Longer windows are stored as the
//! set of their values' ranks in the whole slice, which takes `O(log n)` per row.

use std::ops::Range;

use crate::simd::{self, windows};

/// The longest window that is scanned value by value.
const SHORT: usize = 1024;

/// Rank of NaN.
const NO_RANK: u32 = u32::MAX;

/// Writes quantiles of the last `window` values at each of the last positions of `values`:
/// `outs[i]` gets quantile `quantiles[i]`, 0..1, interpolated linearly between the two nearest values
/// as `numpy.quantile` does. 0.5 is the median.
///
/// # Panics
/// When `window` is 0, a quantile is not in 0..1, `outs` are not as many as `quantiles` or differ in
/// length, or fewer positions have `window` values.
pub fn write_quantiles(values: &[f64], window: usize, quantiles: &[f64], outs: &mut [&mut [f64]]) {
    assert!(window >= 1 && quantiles.len() == outs.len());
    let rows = outs.first().map_or(0, |out| out.len());
    assert!(outs.iter().all(|out| out.len() == rows));
    if rows == 0 {
        return;
    }
    let places: Vec<Place> = quantiles.iter().map(|q| Place::new(*q, window)).collect();
    let values = &values[values.len() + 1 - window - rows..];
    if window <= SHORT {
        windows::quantiles(values, window, &places, outs);
        return;
    }
    write_long_quantiles(values, window, &places, outs);
}

fn write_long_quantiles(values: &[f64], window: usize, places: &[Place], outs: &mut [&mut [f64]]) {
    let mut set = RankSet::new(values);
    for i in 0..values.len() {
        let full = set.advance(i, window);
        let Some(row) = (i + 1).checked_sub(window) else {
            continue;
        };
        for (out, place) in outs.iter_mut().zip(places) {
            out[row] = if full {
                place.interpolate(|k| set.sorted[set.select(k)])
            } else {
                f64::NAN
            };
        }
    }
}

/// Where a quantile lies in a sorted window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    below: usize,
    above: usize,
    fraction: f64,
}

impl Place {
    pub(crate) fn new(quantile: f64, window: usize) -> Self {
        assert!((0.0..=1.0).contains(&quantile));
        let last = window - 1;
        let place = quantile * last as f64;
        let below = (place as usize).min(last);
        Self {
            below,
            above: (below + 1).min(last),
            fraction: place - below as f64,
        }
    }

    /// Returns the quantile of a window whose value at index `k`, when sorted, is `sorted(k)`.
    #[inline]
    pub(crate) fn interpolate(self, sorted: impl Fn(usize) -> f64) -> f64 {
        let (low, t) = (sorted(self.below), self.fraction);
        if t == 0.0 {
            return low;
        }
        let high = sorted(self.above);
        // NumPy's formula, which is exact at both ends.
        if t < 0.5 {
            low + (high - low) * t
        } else if t > 0.5 {
            high - (high - low) * (1.0 - t)
        } else {
            low.midpoint(high)
        }
    }
}

/// Writes the rank of the last of `window` values among them, divided by `window`, at each of the
/// last `out.len()` positions of `values`. Equal values share the mean of their ranks.
///
/// # Panics
/// When `window` is 0, or fewer positions have that many values.
pub fn write_rank(values: &[f64], window: usize, out: &mut [f64]) {
    assert!(window >= 1);
    if out.is_empty() {
        return;
    }
    let values = &values[values.len() + 1 - window - out.len()..];
    if window > SHORT {
        write_long_rank(values, window, out);
        return;
    }
    windows::ranks(out, values, window);
    if simd::any_nan(values) {
        let mut seen = 0;
        for (i, value) in values.iter().enumerate() {
            seen = if value.is_nan() { 0 } else { seen + 1 };
            if i + 1 >= window && seen < window {
                out[i + 1 - window] = f64::NAN;
            }
        }
    }
}

fn write_long_rank(values: &[f64], window: usize, out: &mut [f64]) {
    let mut set = RankSet::new(values);
    for i in 0..values.len() {
        let full = set.advance(i, window);
        if let Some(row) = (i + 1).checked_sub(window) {
            out[row] = if full {
                let ties = set.ties[set.ranks[i] as usize].clone();
                let below = set.count_below(ties.start as usize);
                let equal = set.count_below(ties.end as usize) - below;
                (2 * below + equal + 1) as f64 / (2.0 * window as f64)
            } else {
                f64::NAN
            };
        }
    }
}

/// A window as the set of the ranks that its values have in the whole slice. Counts of 64 ranks are
/// kept in a binary indexed tree (P. Fenwick, *A New Data Structure for Cumulative Frequency
/// Tables*, 1994).
struct RankSet {
    /// Rank of each value in the slice; equal values are ordered by position. [`NO_RANK`] for NaN.
    ranks: Vec<u32>,
    /// Values by rank.
    sorted: Vec<f64>,
    /// By rank, the ranks of all equal values.
    ties: Vec<Range<u32>>,
    /// Bit by rank: whether it is in the window.
    present: Vec<u64>,
    tree: Vec<u32>,
    /// Values in the window, which all follow the last NaN.
    len: usize,
}

impl RankSet {
    fn new(values: &[f64]) -> Self {
        let count = u32::try_from(values.len()).expect("a frame has fewer than 2^32 rows");
        let mut order: Vec<(f64, u32)> = (0..count)
            .zip(values)
            .filter(|(_, v)| !v.is_nan())
            // The sum makes -0.0 equal to 0.0.
            .map(|(i, v)| (v + 0.0, i))
            .collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut ranks = vec![NO_RANK; values.len()];
        let mut ties = Vec::with_capacity(order.len());
        let mut rank = 0;
        for equal in order.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
            let range = rank..rank + equal.len() as u32;
            for (_, i) in equal {
                ranks[*i as usize] = rank;
                rank += 1;
                ties.push(range.clone());
            }
        }
        let words = order.len().div_ceil(64);
        Self {
            ranks,
            sorted: order.into_iter().map(|(v, _)| v).collect(),
            ties,
            present: vec![0; words],
            tree: vec![0; words + 1],
            len: 0,
        }
    }

    /// Moves the end of the window to position `i`; returns whether it has `window` values.
    fn advance(&mut self, i: usize, window: usize) -> bool {
        if self.ranks[i] == NO_RANK {
            for old in i - self.len..i {
                self.toggle(old, u32::MAX);
            }
            self.len = 0;
        } else {
            if self.len == window {
                self.toggle(i - window, u32::MAX);
            } else {
                self.len += 1;
            }
            self.toggle(i, 1);
        }
        self.len == window
    }

    /// Adds (`change` = 1) or removes (-1) the value at position `i`.
    fn toggle(&mut self, i: usize, change: u32) {
        let rank = self.ranks[i] as usize;
        self.present[rank / 64] ^= 1 << (rank % 64);
        let mut node = rank / 64 + 1;
        while node < self.tree.len() {
            self.tree[node] = self.tree[node].wrapping_add(change);
            node += node & node.wrapping_neg();
        }
    }

    /// Returns how many ranks in the window are below `rank`.
    fn count_below(&self, rank: usize) -> usize {
        let bits = match self.present.get(rank / 64) {
            Some(word) => word & ((1 << (rank % 64)) - 1),
            None => 0,
        };
        let (mut count, mut node) = (bits.count_ones() as usize, rank / 64);
        while node > 0 {
            count += self.tree[node] as usize;
            node &= node - 1;
        }
        count
    }

    /// Returns the rank that has `k` ranks of the window below it.
    fn select(&self, mut k: usize) -> usize {
        let mut word = 0;
        for bit in (0..=self.present.len().ilog2()).rev() {
            let next = word + (1 << bit);
            if next < self.tree.len() && self.tree[next] as usize <= k {
                k -= self.tree[next] as usize;
                word = next;
            }
        }
        let mut bits = self.present[word];
        for _ in 0..k {
            bits &= bits - 1;
        }
        word * 64 + bits.trailing_zeros() as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{assert_windows, series};
    use super::*;

    /// The definition of `numpy.quantile`, without its treatment of rounding.
    fn quantile(values: &[f64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let place = q * (values.len() - 1) as f64;
        let (low, high) = (
            sorted[place.floor() as usize],
            sorted[place.ceil() as usize],
        );
        low * (1.0 - place.fract()) + high * place.fract()
    }

    fn rank(values: &[f64]) -> f64 {
        let last = values[values.len() - 1];
        let below = values.iter().filter(|v| **v < last).count() as f64;
        let up_to = values.iter().filter(|v| **v <= last).count() as f64;
        (below + 1.0 + up_to) / 2.0 / values.len() as f64
    }

    fn check(values: &[f64], window: usize, quantiles: [f64; 3]) {
        let is_nan = |i: usize| values[i].is_nan();
        let expected = |r: Range<usize>| rank(&values[r]);
        let write = |out: &mut [f64]| write_rank(values, window, out);
        assert_windows(values.len(), window, write, is_nan, expected, 1e-15);
        let write = |out: &mut [f64]| {
            let from = values.len() + 1 - window - out.len();
            write_long_rank(&values[from..], window, out);
        };
        assert_windows(values.len(), window, write, is_nan, expected, 1e-15);
        for i in 0..3 {
            let write = |out: &mut [f64]| {
                let mut outs = vec![vec![0.0; out.len()]; 3];
                let mut slices: Vec<&mut [f64]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
                write_quantiles(values, window, &quantiles, &mut slices);
                out.copy_from_slice(&outs[i]);
            };
            let expected = |r: Range<usize>| quantile(&values[r], quantiles[i]);
            assert_windows(values.len(), window, write, is_nan, expected, 1e-12);
        }
    }

    proptest! {
        #[test]
        fn agree_with_sorting_each_window(values in series(), window in 1..150_usize, q in 0.0..=1.0_f64) {
            let window = 1 + (window - 1) % values.len();
            check(&values, window, [q, 0.5, if q < 0.5 { 0.0 } else { 1.0 }]);
        }

        #[test]
        fn a_set_of_ranks_agrees_with_a_sorted_window(values in series(), window in 1..60_usize, q in 0.0..=1.0_f64) {
            let window = 1 + (window - 1) % values.len();
            let rows = values.len() + 1 - window;
            let (mut short, mut long) = (vec![0.0; rows], vec![0.0; rows]);
            let places = [Place::new(q, window)];
            windows::quantiles(&values, window, &places, &mut [&mut short]);
            write_long_quantiles(&values, window, &places, &mut [&mut long]);
            prop_assert_eq!(bits(&short), bits(&long));
        }
    }

    fn bits(values: &[f64]) -> Vec<Option<u64>> {
        values
            .iter()
            .map(|v| (!v.is_nan()).then_some(v.to_bits()))
            .collect()
    }

    #[test]
    fn long_windows() {
        let mut values: Vec<f64> = (0..4000)
            .map(|i| f64::from(i * 7919 % 1009) / 100.0 - 3.0)
            .collect();
        values[1000] = f64::NAN;
        for window in [129, SHORT, SHORT + 1, 2500] {
            check(&values[1000 - 129..], window, [0.2, 0.5, 0.8]);
        }
    }
}
