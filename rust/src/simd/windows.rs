//! Loops of the rolling kernels in [`crate::expr::kernels`].

use crate::expr::kernels::order::Place;

/// A part of each window of one series: one entry a window.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// First value of the part.
    pub firsts: &'a [f64],
    /// Mean minus first value.
    pub offsets: &'a [f64],
    /// Sum of squared deviations from the mean.
    pub squares: &'a [f64],
}

/// Moments of a part of each window, and how they are merged with those of the parts before it.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The values.
    pub x: Part<'a>,
    /// Sum of products of the deviations of value and position; empty without trend.
    pub trends: &'a [f64],
    /// Share of all values so far that are in this part.
    pub share: f64,
    /// Factor of the squared distance of the means.
    pub weight: f64,
    /// Factor of the distance of the means in the trend.
    pub tilt: f64,
}

/// As [`Step`], for two series.
#[derive(Debug, Clone, Copy)]
pub struct CoStep<'a> {
    /// The values of both series.
    pub series: [Part<'a>; 2],
    /// Sum of products of the deviations of both.
    pub products: &'a [f64],
    /// Share of all values so far that are in this part.
    pub share: f64,
    /// Factor of the squared distance of the means.
    pub weight: f64,
}

/// `N` values from index `at` on.
#[inline(always)]
fn load<const N: usize>(values: &[f64], at: usize) -> [f64; N] {
    *values[at..]
        .first_chunk()
        .expect("one entry for each window")
}

/// Moments of one part of `N` windows.
struct Lanes<const N: usize> {
    firsts: [f64; N],
    offsets: [f64; N],
    squares: [f64; N],
}

impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn load(part: Part, at: usize) -> Self {
        Self {
            firsts: load(part.firsts, at),
            offsets: load(part.offsets, at),
            squares: load(part.squares, at),
        }
    }

    /// Merges the parts that follow, and returns the distances of the means. Neighboring values
    /// cancel with hardly any rounding and the offsets are as small as the spread, so the distances are
    /// exact relative to the spread.
    #[inline(always)]
    fn merge(&mut self, part: &Self, share: f64, weight: f64) -> [f64; N] {
        let mut distances = [0.0; N];
        for (l, distance) in distances.iter_mut().enumerate() {
            let d = (part.firsts[l] - self.firsts[l]) + (part.offsets[l] - self.offsets[l]);
            self.offsets[l] += d * share;
            self.squares[l] = (self.squares[l] + part.squares[l]) + d * d * weight;
            *distance = d;
        }
        distances
    }
}

/// Writes the moments of the `N` windows from index `at` on.
#[inline(always)]
fn merge_lanes<const N: usize, const TREND: bool>(
    out: &mut [&mut [f64]; 3],
    steps: &[Step],
    at: usize,
) {
    let mut all = Lanes::<N>::load(steps[0].x, at);
    let mut trends = if TREND {
        load(steps[0].trends, at)
    } else {
        [0.0; N]
    };
    for step in &steps[1..] {
        let distances = all.merge(&Lanes::load(step.x, at), step.share, step.weight);
        if TREND {
            let others: [f64; N] = load(step.trends, at);
            for l in 0..N {
                trends[l] = (trends[l] + others[l]) + distances[l] * step.tilt;
            }
        }
    }
    out[0][at..at + N].copy_from_slice(&all.offsets);
    out[1][at..at + N].copy_from_slice(&all.squares);
    if TREND {
        out[2][at..at + N].copy_from_slice(&trends);
    }
}

#[inline(always)]
fn merge_all<const TREND: bool>(out: &mut [&mut [f64]; 3], steps: &[Step]) {
    const LANES: usize = 16;
    let rows = out[0].len();
    let done = rows - rows % LANES;
    for at in (0..done).step_by(LANES) {
        merge_lanes::<LANES, TREND>(out, steps, at);
    }
    for at in done..rows {
        merge_lanes::<1, TREND>(out, steps, at);
    }
}

/// Writes the moments of two series for the `N` windows from index `at` on.
#[inline(always)]
fn merge_both<const N: usize>(out: &mut [&mut [f64]; 5], steps: &[CoStep], at: usize) {
    let [x, y] = steps[0].series;
    let (mut x, mut y) = (Lanes::<N>::load(x, at), Lanes::<N>::load(y, at));
    let mut products: [f64; N] = load(steps[0].products, at);
    for step in &steps[1..] {
        let in_x = x.merge(&Lanes::load(step.series[0], at), step.share, step.weight);
        let in_y = y.merge(&Lanes::load(step.series[1], at), step.share, step.weight);
        let others: [f64; N] = load(step.products, at);
        for l in 0..N {
            products[l] = (products[l] + others[l]) + in_x[l] * in_y[l] * step.weight;
        }
    }
    let parts = [x.offsets, x.squares, y.offsets, y.squares, products];
    for (out, part) in out.iter_mut().zip(&parts) {
        out[at..at + N].copy_from_slice(part);
    }
}

/// The smaller value, NaN if either is NaN.
#[inline(always)]
fn lower(a: f64, b: f64) -> f64 {
    let low = if a < b { a } else { b };
    if a.is_nan() { a } else { low }
}

/// The larger value, NaN if either is NaN.
#[inline(always)]
fn higher(a: f64, b: f64) -> f64 {
    let high = if a > b { a } else { b };
    if a.is_nan() { a } else { high }
}

/// The longest window whose sorted values are rewritten for each row, which has no branch to
/// mispredict. In longer ones, only the values between the old and the new one are moved.
const REWRITTEN: usize = 128;

/// Replaces `old` by `new` in the values of `sorted` between the first and the last, which are
/// infinite, and writes them to `next`.
#[inline(always)]
fn replace(next: &mut [f64], sorted: &[f64], old: f64, new: f64) {
    let count = next.len() - 2;
    let (before, at, after) = (&sorted[..count], &sorted[1..=count], &sorted[2..count + 2]);
    for (l, next) in next[1..=count].iter_mut().enumerate() {
        // The neighbors of a gap in front of this place, once the old value is removed.
        let low = if before[l] < old { before[l] } else { at[l] };
        let high = if at[l] < old { at[l] } else { after[l] };
        let least = if new < high { new } else { high };
        *next = if least > low { least } else { low };
    }
}

compiled! {
    /// Merges the parts of windows: writes distances of the means from the first values, and sums
    /// of squared deviations.
    fn merge(offsets: &mut [f64], squares: &mut [f64], steps: &[Step<'_>]) {
        merge_all::<false>(&mut [offsets, squares, &mut []], steps);
    }

    /// As [`merge`], and writes sums of products of the deviations of value and position.
    fn merge_trends(offsets: &mut [f64], squares: &mut [f64], trends: &mut [f64], steps: &[Step<'_>]) {
        merge_all::<true>(&mut [offsets, squares, trends], steps);
    }

    /// Merges the parts of windows of two series: writes offsets and squares of the first, those of the
    /// second, and sums of products of the deviations.
    fn merge_products(out: &mut [&mut [f64]; 5], steps: &[CoStep<'_>]) {
        // As many as leave all sums in registers.
        const LANES: usize = 8;
        let rows = out[0].len();
        let done = rows - rows % LANES;
        for at in (0..done).step_by(LANES) {
            merge_both::<LANES>(out, steps, at);
        }
        for at in done..rows {
            merge_both::<1>(out, steps, at);
        }
    }

    /// `out[i] = values[i] / divisor`
    fn quotients(out: &mut [f64], values: &[f64], divisor: f64) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = value / divisor;
        }
    }

    /// `out[i] = sqrt(values[i] * factor)`
    fn roots(out: &mut [f64], values: &[f64], factor: f64) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = (value * factor).sqrt();
        }
    }

    /// `out[i] = c^2 / (square * squares[i])`, at most 1; NaN unless `squares[i] > 0`.
    fn determinations(out: &mut [f64], c: &[f64], squares: &[f64], square: f64) {
        for ((out, c), s) in out.iter_mut().zip(c).zip(squares) {
            let share = c * c / (s * square);
            let share = if share > 1.0 { 1.0 } else { share };
            *out = if *s > 0.0 { share } else { f64::NAN };
        }
    }

    /// `out[i] = c / sqrt(x * y)`, from -1 to 1; NaN unless `x * y` is a normal number.
    fn correlations(out: &mut [f64], c: &[f64], x: &[f64], y: &[f64]) {
        for (((out, c), x), y) in out.iter_mut().zip(c).zip(x).zip(y) {
            let square = x * y;
            let r = c / square.sqrt();
            let r = if r > 1.0 { 1.0 } else { r };
            let r = if r < -1.0 { -1.0 } else { r };
            let normal = (f64::MIN_POSITIVE..f64::INFINITY).contains(&square);
            *out = if normal { r } else { f64::NAN };
        }
    }

    /// Distance of the last value from the line through a window:
    /// `out[i] = lasts[i] - mean - c[i] * factor`.
    fn residuals(out: &mut [f64], part: Part<'_>, lasts: &[f64], c: &[f64], factor: f64) {
        let rows = out.len();
        let (firsts, offsets) = (&part.firsts[..rows], &part.offsets[..rows]);
        let (lasts, c) = (&lasts[..rows], &c[..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = (lasts[i] - firsts[i]) - offsets[i] - c[i] * factor;
        }
    }

    /// `out[i]` is the smaller of `a[i]` and `b[i]`, NaN if either is NaN.
    fn minima(out: &mut [f64], a: &[f64], b: &[f64]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = lower(*a, *b);
        }
    }

    /// `out[i]` is the larger of `a[i]` and `b[i]`, NaN if either is NaN.
    fn maxima(out: &mut [f64], a: &[f64], b: &[f64]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = higher(*a, *b);
        }
    }

    /// Positions of the minima of `a` and `b`: `at_a[i]`, or `at_b[i] + shift` where `b[i]` is
    /// smaller; NaN if either value is NaN.
    fn minima_at(out: &mut [f64], a: [&[f64]; 2], b: [&[f64]; 2], shift: f64) {
        let rows = out.len();
        let (at_a, at_b, a, b) = (&a[1][..rows], &b[1][..rows], &a[0][..rows], &b[0][..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            let at = if b[i] < a[i] { at_b[i] + shift } else { at_a[i] };
            *out = if a[i].is_nan() | b[i].is_nan() { f64::NAN } else { at };
        }
    }

    /// Positions of the maxima of `a` and `b`; see [`minima_at`].
    fn maxima_at(out: &mut [f64], a: [&[f64]; 2], b: [&[f64]; 2], shift: f64) {
        let rows = out.len();
        let (at_a, at_b, a, b) = (&a[1][..rows], &b[1][..rows], &a[0][..rows], &b[0][..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            let at = if b[i] > a[i] { at_b[i] + shift } else { at_a[i] };
            *out = if a[i].is_nan() | b[i].is_nan() { f64::NAN } else { at };
        }
    }

    /// Average rank of the last value of each window of `window` values, divided by `window`. A
    /// value that is NaN counts as larger than every other.
    fn ranks(out: &mut [f64], values: &[f64], window: usize) {
        const LANES: usize = 16;
        let (tiles, rest) = out.as_chunks_mut::<LANES>();
        let done = tiles.len() * LANES;
        let scale = 2.0 * window as f64;
        for (t, tile) in tiles.iter_mut().enumerate() {
            let part = &values[t * LANES..][..LANES + window - 1];
            let lasts = part.last_chunk::<LANES>().expect("a window has a value");
            // Twice the rank: values below count two, equal ones count one.
            let mut twice = [1_u64; LANES];
            for j in 0..window {
                let others: &[f64; LANES] = part[j..].first_chunk().expect("within the tile");
                for l in 0..LANES {
                    twice[l] += u64::from(others[l] < lasts[l]) + u64::from(others[l] <= lasts[l]);
                }
            }
            for l in 0..LANES {
                tile[l] = twice[l] as f64 / scale;
            }
        }
        for (out, part) in rest.iter_mut().zip(values[done..].windows(window)) {
            let last = part[window - 1];
            let twice = part.iter().fold(1_u64, |twice, v| {
                twice + u64::from(*v < last) + u64::from(*v <= last)
            });
            *out = twice as f64 / scale;
        }
    }

    /// Writes quantiles of the windows of `window` values; see
    /// [`crate::expr::kernels::order::write_quantiles`].
    fn quantiles(values: &[f64], window: usize, places: &[Place], outs: &mut [&mut [f64]]) {
        // Sorted values between two sentinels. NaN empties the window, so it has
        // `window` values only if none of the last is NaN.
        let empty = [f64::NEG_INFINITY, f64::INFINITY];
        let full = window + empty.len();
        let mut sorted = empty.to_vec();
        let mut next = vec![f64::INFINITY; full];
        next[0] = f64::NEG_INFINITY;
        for (i, value) in values.iter().enumerate() {
            // The sum makes -0.0 equal to 0.0.
            let new = value + 0.0;
            if new.is_nan() {
                sorted.clear();
                sorted.extend(empty);
            } else if sorted.len() < full {
                sorted.insert(sorted.partition_point(|v| *v < new).max(1), new);
            } else if window <= REWRITTEN {
                replace(&mut next, &sorted, values[i - window], new);
                std::mem::swap(&mut next, &mut sorted);
            } else {
                let old = values[i - window];
                let from = sorted.partition_point(|v| *v < old);
                let to = sorted.partition_point(|v| *v < new);
                if from < to {
                    sorted.copy_within(from + 1..to, from);
                    sorted[to - 1] = new;
                } else {
                    sorted.copy_within(to..from, to + 1);
                    sorted[to] = new;
                }
            }
            let Some(row) = (i + 1).checked_sub(window) else {
                continue;
            };
            let valid = sorted.len() == full;
            for (out, place) in outs.iter_mut().zip(places) {
                out[row] = if valid { place.interpolate(|k| sorted[k + 1]) } else { f64::NAN };
            }
        }
    }

    /// `out[i] += weight * a[i]`
    fn add_weighted(out: &mut [f64], a: &[f64], weight: f64) {
        for (out, a) in out.iter_mut().zip(a) {
            *out += weight * a;
        }
    }

    /// `out[i] = newer[i] + weight * older[i]`
    fn join_weighted(out: &mut [f64], newer: &[f64], older: &[f64], weight: f64) {
        for ((out, newer), older) in out.iter_mut().zip(newer).zip(older) {
            *out = newer + weight * older;
        }
    }

    /// `out[i] = alpha * out[i] + weight * oldest[i]`
    fn settle(out: &mut [f64], alpha: f64, oldest: &[f64], weight: f64) {
        for (out, oldest) in out.iter_mut().zip(oldest) {
            *out = alpha * *out + weight * oldest;
        }
    }

    /// Replaces averages of gains by Wilder's RSI.
    fn wilder_strengths(gains: &mut [f64], losses: &[f64]) {
        for (gain, loss) in gains.iter_mut().zip(losses) {
            let sum = *gain + loss;
            let strength = 100.0 * *gain / sum;
            *gain = if sum == 0.0 { 50.0 } else { strength };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Asserts that all versions of a function that this processor can run give the same result.
    macro_rules! same {
        ($name:ident, $run:expr) => {{
            let expected = {
                use super::portable::$name;
                $run
            };
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                use super::avx2::$name;
                // SAFETY: the processor has these instructions.
                prop_assert_eq!(&unsafe { $run }, &expected);
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512f") {
                use super::avx512::$name;
                // SAFETY: the processor has these instructions.
                prop_assert_eq!(&unsafe { $run }, &expected);
            }
        }};
    }

    /// The bits of `N` columns of `rows` values after `write`, and of NaN only that it is NaN.
    fn bits<const N: usize>(rows: usize, write: impl FnOnce([&mut [f64]; N])) -> Vec<Option<u64>> {
        let mut columns = [(); N].map(|()| vec![0.0; rows]);
        write(columns.each_mut().map(Vec::as_mut_slice));
        let bits = |v: &f64| (!v.is_nan()).then_some(v.to_bits());
        columns.iter().flatten().map(bits).collect()
    }

    /// Columns of one length, with ties and NaN.
    fn columns() -> impl Strategy<Value = [Vec<f64>; 6]> {
        let value = || {
            prop_oneof![
                8 => -1e5..1e5_f64,
                8 => (0..5_i32).prop_map(f64::from),
                1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, 1e300, 5e-324]),
            ]
        };
        let row = [(); 6].map(|()| value());
        prop::collection::vec(row, 1..100)
            .prop_map(|rows| std::array::from_fn(|c| rows.iter().map(|row| row[c]).collect()))
    }

    proptest! {
        #[test]
        fn versions_agree(c in columns(), window in 1..40_usize, factor in -2.0..2.0_f64) {
            let rows = c[0].len();
            let part = |i: usize| Part { firsts: &c[i], offsets: &c[i + 1], squares: &c[i + 2] };
            let step = |i| Step { x: part(i), trends: &c[i + 3], share: 0.3, weight: 2.1, tilt: factor };
            let both = |i| CoStep { series: [part(i), part(i + 1)], products: &c[5], share: 0.3, weight: 2.1 };
            let steps = [step(0), step(1), step(2)];
            let pairs = [both(0), both(2), both(1)];
            same!(merge, bits(rows, |[a, b]| merge(a, b, &steps)));
            same!(merge_trends, bits(rows, |[a, b, c]| merge_trends(a, b, c, &steps)));
            same!(merge_products, bits(rows, |mut out| merge_products(&mut out, &pairs)));
            same!(quotients, bits(rows, |[out]| quotients(out, &c[0], factor)));
            same!(roots, bits(rows, |[out]| roots(out, &c[0], factor)));
            same!(determinations, bits(rows, |[out]| determinations(out, &c[0], &c[1], 17.5)));
            same!(correlations, bits(rows, |[out]| correlations(out, &c[0], &c[1], &c[2])));
            same!(residuals, bits(rows, |[out]| residuals(out, part(0), &c[3], &c[4], factor)));
            same!(minima, bits(rows, |[out]| minima(out, &c[0], &c[1])));
            same!(maxima, bits(rows, |[out]| maxima(out, &c[0], &c[1])));
            same!(minima_at, bits(rows, |[out]| minima_at(out, [&c[0], &c[1]], [&c[2], &c[3]], 4.0)));
            same!(maxima_at, bits(rows, |[out]| maxima_at(out, [&c[0], &c[1]], [&c[2], &c[3]], 4.0)));
            let window = window.min(rows);
            same!(ranks, bits(rows + 1 - window, |[out]| ranks(out, &c[0], window)));
            let places = [Place::new(0.3, window), Place::new(0.5, window)];
            same!(quantiles, bits(rows + 1 - window, |mut out: [_; 2]| quantiles(&c[0], window, &places, &mut out)));
        }
    }
}
