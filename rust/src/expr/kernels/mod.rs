//! Rolling operators: pure functions of the values in each window.
//!
//! Every kernel takes `values` that cover `out.len() + window - 1` positions or more, and writes the
//! result at each of the last `out.len()` positions. A window that contains NaN gives NaN. A result
//! depends only on the values in its window, bit for bit, wherever a block of rows starts and whatever
//! vector instructions the processor has.

pub mod extremes;
pub mod moments;
pub mod order;
pub mod recursive;

#[cfg(test)]
mod testing {
    use proptest::prelude::*;

    /// Series with ties, equal runs, NaN, and values far from 0.
    pub fn series() -> impl Strategy<Value = Vec<f64>> {
        let value = |base: f64| {
            prop_oneof![
                8 => (-1.0..1.0_f64).prop_map(move |v| base + v),
                4 => (-3..4_i32).prop_map(move |v| base + f64::from(v) / 10.0),
                1 => Just(-0.0),
                1 => Just(f64::NAN),
            ]
        };
        let run = move |base: f64| (value(base), 1..12_usize, any::<bool>());
        prop::sample::select(vec![0.0, 0.1, 60_000.0]).prop_flat_map(move |base| {
            prop::collection::vec(run(base), 1..40).prop_map(|runs| {
                let repeat = |(v, n, same)| std::iter::repeat_n(v, if same { n } else { 1 });
                runs.into_iter().flat_map(repeat).collect()
            })
        })
    }

    /// Asserts that `write` writes `expected` of each window that ends at one of the last positions,
    /// NaN where it has one, for as many positions as there are, one, and none.
    pub fn assert_windows(
        count: usize,
        window: usize,
        mut write: impl FnMut(&mut [f64]),
        is_nan: impl Fn(usize) -> bool,
        expected: impl Fn(std::ops::Range<usize>) -> f64,
        tolerance: f64,
    ) {
        let Some(most) = (count + 1).checked_sub(window) else {
            return;
        };
        for rows in [most, 1.min(most), 0] {
            let mut out = vec![0.0; rows];
            write(&mut out);
            for (i, got) in out.iter().enumerate() {
                let first = most - rows + i;
                let range = first..first + window;
                let expected = if range.clone().any(&is_nan) {
                    f64::NAN
                } else {
                    expected(range.clone())
                };
                let close = (got - expected).abs() <= tolerance * expected.abs();
                let same = got.is_nan() && expected.is_nan();
                assert!(same || close, "{range:?}: {got} {expected}");
            }
        }
    }
}
