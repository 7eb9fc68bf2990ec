//! Loops over slices, compiled for the vector instructions of several processors.
//!
//! A wheel runs on every processor of its platform, so the compiler may only use what all of them
//! have; for x86-64, that is two float64 lanes. Each loop in this module is therefore compiled again
//! for AVX2 and for AVX-512, and a call runs the widest version that the processor supports. All of
//! them give the same bits: no sum depends on the number of lanes, and Rust does not contract
//! `a * b + c` to a single rounding. The tests compare them.

#![allow(
    unsafe_code,
    reason = "calling a function with instructions that not every processor has is unsafe"
)]
#![allow(
    clippy::inline_always,
    reason = "only what is inlined is compiled for the instructions of its caller"
)]
#![allow(
    clippy::needless_bitwise_bool,
    reason = "`&&` would leave the loop early, which keeps the compiler from using vectors"
)]

use crate::matrix::Element;
use crate::rolling;
use crate::scale::MinMax;

/// Compiles each function for several instruction sets, and defines a function of that name which
/// calls the widest version.
macro_rules! compiled {
    ($(
        $(#[$doc:meta])*
        fn $name:ident $(<$element:ident>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    )*) => {
        mod portable {
            use super::*;
            $(
                #[inline(always)]
                pub fn $name $(<$element: Element>)? ($($arg: $type),*) $(-> $out)? $body
            )*
        }
        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::*;
            $(
                #[target_feature(enable = "avx2")]
                pub fn $name $(<$element: Element>)? ($($arg: $type),*) $(-> $out)? {
                    portable::$name($($arg),*)
                }
            )*
        }
        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::*;
            $(
                #[target_feature(enable = "avx512f")]
                pub fn $name $(<$element: Element>)? ($($arg: $type),*) $(-> $out)? {
                    portable::$name($($arg),*)
                }
            )*
        }
        $(
            $(#[$doc])*
            pub fn $name $(<$element: Element>)? ($($arg: $type),*) $(-> $out)? {
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has these instructions.
                    return unsafe { avx512::$name($($arg),*) };
                } else if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has these instructions.
                    return unsafe { avx2::$name($($arg),*) };
                }
                portable::$name($($arg),*)
            }
        )*
    };
}

use compiled;

pub mod elementwise;

/// float64 values in a cache line.
const LINE: usize = 8;

/// Starts to fetch a cache line.
#[inline(always)]
fn prefetch(address: *const f64) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch has no effect that a program can see, for any address.
        unsafe { _mm_prefetch(address.cast(), _MM_HINT_T1) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

compiled! {
    /// `out[i] = a[i] + b[i]`, for as many values as the shortest slice has.
    fn add(out: &mut [f64], a: &[f64], b: &[f64]) {
        for ((sum, a), b) in out.iter_mut().zip(a).zip(b) {
            *sum = a + b;
        }
    }

    /// `out[i] += a[i]`
    fn add_one(out: &mut [f64], a: &[f64]) {
        for (sum, a) in out.iter_mut().zip(a) {
            *sum += a;
        }
    }

    /// `out[i] += a[i] + b[i]`
    fn add_two(out: &mut [f64], a: &[f64], b: &[f64]) {
        for ((sum, a), b) in out.iter_mut().zip(a).zip(b) {
            *sum += a + b;
        }
    }

    /// `out[i] /= divisor`
    fn divide(out: &mut [f64], divisor: f64) {
        for value in out {
            *value /= divisor;
        }
    }

    /// `out[i]` is the positive part of `minuends[i] - subtrahends[i]`; NaN stays NaN.
    fn gains(out: &mut [f64], minuends: &[f64], subtrahends: &[f64]) {
        for ((gain, a), b) in out.iter_mut().zip(minuends).zip(subtrahends) {
            *gain = rolling::gain(a - b);
        }
    }

    /// Replaces sums of gains by the relative strength index; see [`rolling::strength`].
    fn strengths(gains: &mut [f64], losses: &[f64]) {
        for (gain, loss) in gains.iter_mut().zip(losses) {
            *gain = rolling::strength(*gain, *loss);
        }
    }

    /// Returns whether every value is finite.
    fn all_finite(values: &[f64]) -> bool {
        // Without an early exit, the check vectorizes. It is the first to read a block of rows, so
        // while that is processed, the next one is fetched from memory.
        let next = values.as_ptr().wrapping_add(values.len());
        let (lines, rest) = values.as_chunks::<LINE>();
        let mut all = rest.iter().all(|v| v.is_finite());
        for (i, line) in lines.iter().enumerate() {
            prefetch(next.wrapping_add(i * LINE));
            all &= line.iter().fold(true, |all, v| all & v.is_finite());
        }
        all
    }

    /// Returns whether any value is NaN.
    fn any_nan(values: &[f64]) -> bool {
        values.iter().fold(false, |any, v| any | v.is_nan())
    }

    /// Returns the smallest and the largest value, at most `low` and at least `high`. NaN is
    /// skipped.
    fn bounds(values: &[f64], low: f64, high: f64) -> (f64, f64) {
        // Independent lanes let the comparisons run in parallel. A comparison with NaN is false, so
        // it keeps the old bound.
        const LANES: usize = 16;
        let (mut lows, mut highs) = ([low; LANES], [high; LANES]);
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let v = chunk[lane];
                lows[lane] = if v < lows[lane] { v } else { lows[lane] };
                highs[lane] = if v > highs[lane] { v } else { highs[lane] };
            }
        }
        (
            lows.iter().chain(rest).copied().fold(low, f64::min),
            highs.iter().chain(rest).copied().fold(high, f64::max),
        )
    }

    /// `out[i]` is the scaled `values[i]`. Returns whether any value is NaN.
    fn write_scaled<T>(values: &[f64], scaler: &MinMax, out: &mut [T]) -> bool {
        let mut any = false;
        for (out, value) in out.iter_mut().zip(values) {
            any |= value.is_nan();
            *out = T::from_f64(scaler.transform(*value));
        }
        any
    }

    /// Writes rows of `width` values, one after the other, from columns of which each starts `stride`
    /// values after the one before.
    fn write_rows<T>(columns: &[T], stride: usize, width: usize, rows: &mut [T]) {
        for (r, row) in rows.chunks_exact_mut(width).enumerate() {
            for (to, value) in row.iter_mut().zip(columns[r..].iter().step_by(stride)) {
                *to = *value;
            }
        }
    }

    /// Returns whether each value is larger than the one before it.
    fn ascending(values: &[i64]) -> bool {
        let pairs = values.iter().zip(values.iter().skip(1));
        pairs.fold(true, |all, (a, b)| all & (a < b))
    }

    /// Returns whether each value is larger than the one before it by `step`.
    fn evenly_spaced(values: &[i64], step: i64) -> bool {
        let pairs = values.iter().zip(values.iter().skip(1));
        pairs.fold(true, |all, (a, b)| all & (b.wrapping_sub(*a) == step))
    }
}

// Textually after the macro, which it uses.
pub(crate) mod windows;

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
            prop_assert_eq!(&$run, &expected);
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

    /// The bits of `values` after `write`, and of NaN only that it is NaN.
    fn bits(mut values: Vec<f64>, write: impl FnOnce(&mut [f64])) -> Vec<Option<u64>> {
        write(&mut values);
        let bits = |v: &f64| (!v.is_nan()).then_some(v.to_bits());
        values.iter().map(bits).collect()
    }

    fn rows() -> impl Strategy<Value = Vec<(f64, f64, f64)>> {
        let value = || {
            prop_oneof![
                8 => -1e5..1e5_f64,
                1 => any::<f64>(),
                1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::MIN]),
            ]
        };
        prop::collection::vec((value(), value(), value()), 0..200)
    }

    proptest! {
        #[test]
        fn versions_agree_on_sums_and_quotients(rows in rows(), divisor in 1..5000_usize) {
            let out: Vec<f64> = rows.iter().map(|row| row.0).collect();
            let a: Vec<f64> = rows.iter().map(|row| row.1).collect();
            let b: Vec<f64> = rows.iter().map(|row| row.2).collect();
            same!(add, bits(out.clone(), |out| add(out, &a, &b)));
            same!(add_one, bits(out.clone(), |out| add_one(out, &a)));
            same!(add_two, bits(out.clone(), |out| add_two(out, &a, &b)));
            same!(divide, bits(out.clone(), |out| divide(out, divisor as f64)));
            same!(gains, bits(out.clone(), |out| gains(out, &a, &b)));
            same!(strengths, bits(out.clone(), |out| strengths(out, &a)));
            same!(all_finite, all_finite(&out));
            same!(any_nan, any_nan(&out));
            // Which of 0.0 and -0.0 is the bound may differ; see `scale::Range::scaler`.
            same!(bounds, {
                let (low, high) = bounds(&out, f64::INFINITY, f64::NEG_INFINITY);
                bits(vec![low + 0.0, high + 0.0], |_| {})
            });
        }

        #[test]
        fn versions_agree_on_rows(
            rows in rows(), scale in 1e-9..1e9_f64, min in -1e9..1e9_f64, width in 1..12_usize,
        ) {
            let values: Vec<f64> = rows.iter().map(|row| row.0).collect();
            let scaler = MinMax { scale, min, ..MinMax::new(0.0, 1.0) };
            let out = vec![0.0; values.len()];
            same!(write_scaled, bits(out.clone(), |out| { write_scaled(&values, &scaler, out); }));
            same!(write_scaled, bits(out.clone(), |out| {
                let mut narrow = vec![0.0_f32; out.len()];
                write_scaled(&values, &scaler, &mut narrow);
                out.iter_mut().zip(narrow).for_each(|(out, value)| *out = f64::from(value));
            }));
            same!(write_scaled, write_scaled(&values, &scaler, &mut out.clone()));
            let stride = values.len() / width;
            let out = vec![0.0; stride * width];
            same!(write_rows, bits(out.clone(), |out| write_rows(&values, stride.max(1), width, out)));
        }

        #[test]
        fn versions_agree_on_times(mut times in prop::collection::vec(-50..50_i64, 0..20), even in 0..40_i64) {
            let evenly: Vec<i64> = (0..even).map(|i| i * 7).collect();
            same!(ascending, (ascending(&times), ascending(&evenly)));
            same!(evenly_spaced, (evenly_spaced(&times, 7), evenly_spaced(&evenly, 7)));
            times.sort_unstable();
            same!(ascending, ascending(&times));
            same!(evenly_spaced, evenly_spaced(&times, 1));
        }
    }
}
