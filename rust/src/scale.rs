//! Min-max scaling with the arithmetic of scikit-learn's `MinMaxScaler` (`feature_range` 0..1).

use crate::simd;

/// A fitted min-max scaler of one column: `scaled = x * scale + min`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinMax {
    /// Smallest value seen.
    pub data_min: f64,
    /// Largest value seen.
    pub data_max: f64,
    /// `1 / (data_max - data_min)`; 1 for a constant column.
    pub scale: f64,
    /// `-data_min * scale`.
    pub min: f64,
}

impl MinMax {
    /// Returns the scaler of a column whose values lie in `data_min..=data_max`.
    #[must_use]
    pub fn new(data_min: f64, data_max: f64) -> Self {
        let range = data_max - data_min;
        // scikit-learn treats a column as constant if its range is below ten machine epsilons.
        let scale = if range < 10.0 * f64::EPSILON {
            1.0
        } else {
            1.0 / range
        };
        Self {
            data_min,
            data_max,
            scale,
            min: 0.0 - data_min * scale,
        }
    }

    /// Returns the scaled value, rounded after the product and after the sum as in scikit-learn.
    #[inline]
    #[must_use]
    pub fn transform(&self, value: f64) -> f64 {
        value * self.scale + self.min
    }

    /// Returns the value whose scaled value is `scaled`.
    #[inline]
    #[must_use]
    pub fn inverse(&self, scaled: f64) -> f64 {
        (scaled - self.min) / self.scale
    }
}

/// The range of the values seen so far. NaN (null) is skipped.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    min: f64,
    max: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self {
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Range {
    /// Widens the range to include `values`.
    pub fn observe(&mut self, values: &[f64]) {
        (self.min, self.max) = simd::bounds(values, self.min, self.max);
    }

    /// Widens the range to include another one.
    pub fn widen(&mut self, other: Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Returns the scaler of this range, `None` when no value was seen.
    #[must_use]
    pub fn scaler(&self) -> Option<MinMax> {
        // Either 0.0 or -0.0 may be the bound, depending on how the values were split. Adding 0 makes
        // both 0.0, so that the result does not depend on the split.
        (self.min <= self.max).then(|| MinMax::new(self.min + 0.0, self.max + 0.0))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact by construction")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(values: &[f64]) -> Option<MinMax> {
        let mut range = Range::default();
        range.observe(values);
        range.scaler()
    }

    #[test]
    fn a_constant_column_becomes_zero() {
        let scaler = fit(&[7.0; 5]).unwrap();
        assert_eq!((scaler.scale, scaler.min), (1.0, -7.0));
        assert!(scaler.transform(7.0).abs() < f64::MIN_POSITIVE);
    }

    #[test]
    fn zero_has_no_sign() {
        for values in [[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]] {
            let scaler = fit(&values).unwrap();
            assert_eq!(scaler.data_min.to_bits(), 0);
            assert_eq!(scaler.data_max.to_bits(), 0);
        }
    }

    #[test]
    fn nothing_to_fit() {
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[f64::NAN; 20]), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_loop(values in prop::collection::vec(
            prop_oneof![9 => -1e9..1e9_f64, 1 => Just(f64::NAN)], 0..200)) {
            let seen: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
            let expected = seen.iter().copied().reduce(f64::min)
                .zip(seen.iter().copied().reduce(f64::max));
            prop_assert_eq!(fit(&values).map(|s| (s.data_min, s.data_max)), expected);
        }

        #[test]
        fn inverse_undoes_transform(values in prop::collection::vec(-1e6..1e6_f64, 2..50)) {
            let scaler = fit(&values).unwrap();
            for &v in &values {
                let scaled = scaler.transform(v);
                prop_assert!((-1e-9..=1.0 + 1e-9).contains(&scaled) || scaler.scale == 1.0);
                prop_assert!((scaler.inverse(scaled) - v).abs() <= 1e-9 * v.abs().max(1.0));
            }
        }
    }
}
