//! Loops of the rolling kernels in [`crate::expr::kernels`].

use crate::expr::kernels::order::Place;

/// Windows of one series: where they start and how they are spread. One entry a window.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// First value of each window.
    pub firsts: &'a [f64],
    /// Mean minus first value.
    pub offsets: &'a [f64],
}

/// Distance of the mean of `b` from the mean of `a`. Neighboring values cancel with hardly any
/// rounding, and the offsets are as small as the spread, so the distance is exact relative to the spread.
#[inline(always)]
fn distance(a: Part, b: Part, i: usize) -> f64 {
    (b.firsts[i] - a.firsts[i]) + (b.offsets[i] - a.offsets[i])
}

/// The first `rows` entries, so that the compiler sees that all slices have the same length.
#[inline(always)]
fn cut(part: Part, rows: usize) -> Part {
    Part {
        firsts: &part.firsts[..rows],
        offsets: &part.offsets[..rows],
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

/// Returns how many of `sorted` are below `value`.
#[inline(always)]
fn index_of(sorted: &[f64], value: f64) -> usize {
    // Comparing all of a short slice has no branch to mispredict.
    if sorted.len() <= 128 {
        sorted
            .iter()
            .fold(0_u64, |count, v| count + u64::from(*v < value)) as usize
    } else {
        sorted.partition_point(|v| *v < value)
    }
}

compiled! {
    /// Merges each window of `a` with the one of `b` that follows: `out` is the distance of the
    /// mean from the first value. `share` is the part of the values that are in `b`.
    fn merge_offsets(out: &mut [f64], a: Part<'_>, b: Part<'_>, share: f64) {
        let (a, b) = (cut(a, out.len()), cut(b, out.len()));
        for (i, out) in out.iter_mut().enumerate() {
            *out = a.offsets[i] + distance(a, b, i) * share;
        }
    }

    /// Merges sums of squared deviations: `out[i] = ca[i] + cb[i] + weight * distance^2`.
    fn merge_squares(out: &mut [f64], x: [Part<'_>; 2], c: [&[f64]; 2], weight: f64) {
        let rows = out.len();
        let (a, b, ca, cb) = (cut(x[0], rows), cut(x[1], rows), &c[0][..rows], &c[1][..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            let d = distance(a, b, i);
            *out = (ca[i] + cb[i]) + d * d * weight;
        }
    }

    /// Merges sums of products of deviations with those of the position:
    /// `out[i] = ca[i] + cb[i] + weight * distance`.
    fn merge_trends(out: &mut [f64], x: [Part<'_>; 2], c: [&[f64]; 2], weight: f64) {
        let rows = out.len();
        let (a, b, ca, cb) = (cut(x[0], rows), cut(x[1], rows), &c[0][..rows], &c[1][..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = (ca[i] + cb[i]) + distance(a, b, i) * weight;
        }
    }

    /// Merges sums of products of the deviations of two series:
    /// `out[i] = ca[i] + cb[i] + weight * distance of x * distance of y`.
    fn merge_products(out: &mut [f64], x: [Part<'_>; 2], y: [Part<'_>; 2], c: [&[f64]; 2], weight: f64) {
        let rows = out.len();
        let (ax, bx, ay, by) = (cut(x[0], rows), cut(x[1], rows), cut(y[0], rows), cut(y[1], rows));
        let (ca, cb) = (&c[0][..rows], &c[1][..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = (ca[i] + cb[i]) + distance(ax, bx, i) * distance(ay, by, i) * weight;
        }
    }

    /// `out[i] = values[i] / divisor`
    fn quotients(out: &mut [f64], values: &[f64], divisor: f64) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = value / divisor;
        }
    }

    /// `out[i] = sqrt(values[i] / divisor)`
    fn roots(out: &mut [f64], values: &[f64], divisor: f64) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = (value / divisor).sqrt();
        }
    }

    /// `out[i] = c^2 / (square * squares[i])`, at most 1; NaN unless `squares[i] > 0`.
    fn determinations(out: &mut [f64], c: &[f64], squares: &[f64], square: f64) {
        for ((out, c), s) in out.iter_mut().zip(c).zip(squares) {
            let share = (c / s) * (c / square);
            let share = if share > 1.0 { 1.0 } else { share };
            *out = if *s > 0.0 { share } else { f64::NAN };
        }
    }

    /// `out[i] = c / sqrt(x * y)`, from -1 to 1; NaN unless both are positive.
    fn correlations(out: &mut [f64], c: &[f64], x: &[f64], y: &[f64]) {
        for (((out, c), x), y) in out.iter_mut().zip(c).zip(x).zip(y) {
            let r = c / (x.sqrt() * y.sqrt());
            let r = if r > 1.0 { 1.0 } else { r };
            let r = if r < -1.0 { -1.0 } else { r };
            *out = if (*x > 0.0) & (*y > 0.0) { r } else { f64::NAN };
        }
    }

    /// Distance of the last value from the line through a window:
    /// `out[i] = lasts[i] - mean - c[i] * factor`.
    fn residuals(out: &mut [f64], part: Part<'_>, lasts: &[f64], c: &[f64], factor: f64) {
        let rows = out.len();
        let (part, lasts, c) = (cut(part, rows), &lasts[..rows], &c[..rows]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = (lasts[i] - part.firsts[i]) - part.offsets[i] - c[i] * factor;
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
        // NaN empties the window, so it has `window` values only if none of the last is NaN.
        let mut sorted: Vec<f64> = Vec::with_capacity(window);
        for (i, value) in values.iter().enumerate() {
            // The sum makes -0.0 equal to 0.0.
            let new = value + 0.0;
            if new.is_nan() {
                sorted.clear();
            } else if sorted.len() < window {
                sorted.insert(index_of(&sorted, new), new);
            } else {
                let old = values[i - window];
                let (from, to) = (index_of(&sorted, old), index_of(&sorted, new));
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
            let full = sorted.len() == window;
            for (out, place) in outs.iter_mut().zip(places) {
                out[row] = if full { place.interpolate(|k| sorted[k]) } else { f64::NAN };
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
