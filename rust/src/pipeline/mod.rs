//! From raw columns to the scaled feature matrix in two passes over the frame, block by block.
//!
//! The first pass finds the range of each feature. The second computes the features again and writes
//! them scaled. Computing them twice is faster than storing them: no feature column ever exists in
//! full.

mod block;
mod feature;

use std::ops::Range;

use self::block::Block;
pub use self::feature::{Feature, MAX_WINDOW, Transform};
use crate::column::Column;
use crate::matrix::{Element, Matrix};
use crate::parallel::{self, Threads};
use crate::scale::{self, MinMax};
use crate::{Error, Result, simd};

/// Fewest rows for a thread. Starting one takes as long as processing about 10,000 rows.
const ROWS_PER_THREAD: usize = 1 << 15;

/// The features of a model, in channel order, and their scalers once fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    features: Vec<Feature>,
    sources: Vec<Source>,
    scalers: Vec<MinMax>,
}

#[derive(Debug, Clone, PartialEq)]
struct Source {
    name: String,
    /// Indices of the features that are computed from this column.
    features: Vec<usize>,
    lookback: usize,
    /// Longest window of a mean; 0 if there is none.
    longest_mean: usize,
}

impl Pipeline {
    /// Returns the unfitted pipeline of `features`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without features, for two features of one name, and for a window
    /// or a `null_as` that is not accepted.
    pub fn new(features: Vec<Feature>) -> Result<Self> {
        let invalid = |name, value: &str, expected: &str| {
            Err(Error::InvalidArgument {
                name,
                value: value.to_owned(),
                expected: expected.to_owned(),
            })
        };
        if features.is_empty() {
            return invalid("features", "empty", "at least one feature");
        }
        let mut sources: Vec<Source> = Vec::new();
        for (i, feature) in features.iter().enumerate() {
            if features[..i].iter().any(|other| other.name == feature.name) {
                return invalid("feature name", &feature.name, "unique names");
            }
            if let Transform::Sma(window) | Transform::Rsi(window) = feature.transform
                && !(1..=MAX_WINDOW).contains(&window)
            {
                let expected = format!("1 to {MAX_WINDOW}");
                return invalid("window", &window.to_string(), &expected);
            }
            if feature.null_as.is_some_and(|value| !value.is_finite()) {
                return invalid("null_as", "not finite", "a finite number");
            }
            let lookback = feature.transform.lookback();
            let mean = match feature.transform {
                Transform::Sma(window) => window,
                _ => 0,
            };
            match sources.iter_mut().find(|s| s.name == feature.source) {
                Some(source) => {
                    source.features.push(i);
                    source.lookback = source.lookback.max(lookback);
                    source.longest_mean = source.longest_mean.max(mean);
                }
                None => sources.push(Source {
                    name: feature.source.clone(),
                    features: vec![i],
                    lookback,
                    longest_mean: mean,
                }),
            }
        }
        Ok(Self {
            features,
            sources,
            scalers: Vec::new(),
        })
    }

    /// Returns this pipeline with scalers that were fitted earlier.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless there is one for each feature.
    pub fn with_scalers(mut self, scalers: Vec<MinMax>) -> Result<Self> {
        if scalers.len() != self.features.len() {
            return Err(Error::InvalidArgument {
                name: "scalers",
                value: format!("{} scalers", scalers.len()),
                expected: format!("one for each of {} features", self.features.len()),
            });
        }
        self.scalers = scalers;
        Ok(self)
    }

    /// The features in channel order.
    #[must_use]
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The scaler of each feature; empty before [`Self::fit`].
    #[must_use]
    pub fn scalers(&self) -> &[MinMax] {
        &self.scalers
    }

    /// The source columns, in the order in which [`Self::fit`] and [`Self::transform`] take them.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| source.name.as_str())
    }

    /// Returns the pipeline with scalers fitted on `rows`. Each is fitted on every value that its
    /// feature has there, including rows that are left out of the matrix because another feature is
    /// missing.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or an infinity in a source, [`Error::NothingToFit`] for a
    /// feature without any value, [`Error::TooWide`] for values that cannot be scaled,
    /// [`Error::InvalidArgument`] for rows outside of the frame.
    ///
    /// # Panics
    /// Unless `columns` are those of [`Self::sources`], all of the same length.
    pub fn fit(mut self, columns: &[Column], rows: Range<usize>, threads: Threads) -> Result<Self> {
        let len = self.check(columns);
        if rows.start > rows.end || rows.end > len {
            return Err(Error::InvalidArgument {
                name: "rows",
                value: format!("{}..{}", rows.start, rows.end),
                expected: format!("a range within the {len} rows of the frame"),
            });
        }
        let seen = parallel::map(threads.split(rows.clone(), ROWS_PER_THREAD), |part| {
            self.ranges(columns, part)
        });
        let mut ranges = vec![scale::Range::default(); self.features.len()];
        for part in seen {
            for (range, other) in ranges.iter_mut().zip(part?) {
                range.widen(other);
            }
        }
        self.scalers = ranges
            .iter()
            .zip(&self.features)
            .map(|(range, feature)| {
                let scaler = range.scaler().ok_or_else(|| Error::NothingToFit {
                    feature: feature.name.clone(),
                    start: rows.start,
                    end: rows.end,
                })?;
                // For values near the largest float64, sums and differences are infinite.
                if (scaler.data_max - scaler.data_min).is_finite() {
                    Ok(scaler)
                } else {
                    Err(Error::TooWide {
                        feature: feature.name.clone(),
                    })
                }
            })
            .collect::<Result<_>>()?;
        Ok(self)
    }

    /// Returns the range of each feature on `rows`.
    fn ranges(&self, columns: &[Column], rows: Range<usize>) -> Result<Vec<scale::Range>> {
        let mut ranges = vec![scale::Range::default(); self.features.len()];
        let mut block = Block::new(self);
        for start in rows.clone().step_by(block.size) {
            let end = rows.end.min(start + block.size);
            let values = block.compute(self, columns, start..end)?;
            let features = self.features.iter().zip(values);
            for (range, (feature, values)) in ranges.iter_mut().zip(features) {
                range.observe(values);
                if let Some(fill) = feature.null_as
                    && simd::any_nan(values)
                {
                    range.observe(&[fill]);
                }
            }
        }
        Ok(ranges)
    }

    /// Returns the scaled features of all rows that have every feature.
    ///
    /// # Errors
    /// [`Error::NotFitted`]; [`Error::NotFinite`] for NaN or an infinity in a source.
    ///
    /// # Panics
    /// As [`Self::fit`].
    pub fn transform<T: Element>(&self, columns: &[Column], threads: Threads) -> Result<Matrix<T>> {
        let len = self.check(columns);
        if self.scalers.is_empty() {
            return Err(Error::NotFitted);
        }
        // No row of the warm-up is complete. Leaving them out of the parts avoids closing a gap.
        let warmup = self.features.iter().map(|f| f.transform.warmup()).max();
        let parts = threads.split(warmup.unwrap_or(0).min(len)..len, ROWS_PER_THREAD);
        Matrix::build(self.features.len(), &parts, |rows, writer| {
            let mut block = Block::new(self);
            for start in rows.clone().step_by(block.size) {
                let end = rows.end.min(start + block.size);
                let values = block.compute(self, columns, start..end)?;
                writer.extend(start, &values, &self.scalers);
            }
            Ok(())
        })
    }

    fn check(&self, columns: &[Column]) -> usize {
        assert_eq!(columns.len(), self.sources.len());
        let len = columns[0].len();
        assert!(columns.iter().all(|column| column.len() == len));
        len
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact by construction")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array};
    use proptest::prelude::*;

    use super::*;
    use crate::rolling::{rsi, sma};

    fn feature(name: &str, source: &str, transform: Transform) -> Feature {
        Feature {
            name: name.to_owned(),
            source: source.to_owned(),
            transform,
            null_as: None,
        }
    }

    fn arrays(values: &[Option<f64>], chunk: usize) -> Vec<ArrayRef> {
        values
            .chunks(chunk)
            .map(|part| Arc::new(Float64Array::from(part.to_vec())) as ArrayRef)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_whole_columns(
            seed in 0..u64::MAX, len in prop_oneof![3 => 200..4000_usize, 1 => Just(70_000)], chunk in 1..3000_usize, nulls in 0..4_usize,
            window in prop_oneof![Just(30), Just(1), 2..50_usize, Just(600)],
        ) {
            prop_assume!(window < 50 || len >= 4000);
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut close: Vec<Option<f64>> =
                (0..len).map(|_| Some(100.0 + rng.f64())).collect();
            for _ in 0..nulls {
                close[rng.usize(..len)] = None;
            }
            let volume: Vec<Option<f64>> = (0..len).map(|i| Some(i as f64)).collect();
            let pipeline = Pipeline::new(vec![
                feature("sma", "close", Transform::Sma(window)),
                feature("volume", "volume", Transform::Identity),
                feature("rsi", "close", Transform::Rsi(14)),
                feature("close", "close", Transform::Identity),
            ]).unwrap();
            prop_assert_eq!(pipeline.sources().collect::<Vec<_>>(), ["close", "volume"]);
            let (close_arrays, volume_arrays) = (arrays(&close, chunk), arrays(&volume, 7001));
            let columns = [
                Column::new("close", &close_arrays).unwrap(),
                Column::new("volume", &volume_arrays).unwrap(),
            ];
            let pipeline = pipeline.fit(&columns, 0..len, Threads::ONE).unwrap();
            let matrix = pipeline.transform::<f64>(&columns, Threads::ONE).unwrap();

            let flat = |column: &[Option<f64>]| -> Vec<f64> {
                column.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
            };
            let (close, volume) = (flat(&close), flat(&volume));
            let whole = [sma(&close, window), volume, rsi(&close, 14), close];
            let bounds: Vec<(f64, f64)> = whole.iter().map(|column| {
                let seen = || column.iter().copied().filter(|v| !v.is_nan());
                (seen().fold(f64::MAX, f64::min), seen().fold(f64::MIN, f64::max))
            }).collect();
            let expected: Vec<f64> = (0..len)
                .filter(|row| whole.iter().all(|column| !column[*row].is_nan()))
                .flat_map(|row| (0..4).map(move |c| (row, c)))
                .map(|(row, c)| (whole[c][row] - bounds[c].0) / (bounds[c].1 - bounds[c].0))
                .collect();
            prop_assert_eq!(matrix.data().len(), expected.len());
            for (got, want) in matrix.data().iter().zip(&expected) {
                prop_assert!((got - want).abs() < 1e-9, "{got} {want}");
            }
        }

        #[test]
        fn fits_on_the_rows_it_is_given(start in 0..50_usize, len in 40..3000_usize) {
            let close: Vec<Option<f64>> = (0..3100).map(|i| Some(f64::from(i))).collect();
            let close_arrays = arrays(&close, 1000);
            let columns = [Column::new("close", &close_arrays).unwrap()];
            let pipeline = Pipeline::new(vec![feature("sma", "close", Transform::Sma(3))])
                .unwrap().fit(&columns, start..start + len, Threads::ONE).unwrap();
            let scaler = pipeline.scalers()[0];
            prop_assert_eq!(scaler.data_min, (start.max(2) - 1) as f64);
            prop_assert_eq!(scaler.data_max, (start + len - 2) as f64);
        }
    }

    #[test]
    fn null_as_affects_the_fit_but_not_the_rows() {
        let values = arrays(&[Some(3.0), None, Some(5.0)], 10);
        let columns = [Column::new("m", &values).unwrap()];
        let mut spec = feature("m", "m", Transform::Identity);
        spec.null_as = Some(0.0);
        let pipeline = Pipeline::new(vec![spec])
            .unwrap()
            .fit(&columns, 0..3, Threads::ONE)
            .unwrap();
        let matrix = pipeline.transform::<f64>(&columns, Threads::ONE).unwrap();
        assert_eq!(matrix.data(), [3.0 * (1.0 / 5.0), 1.0]);
        assert_eq!(matrix.kept(), [0..1, 2..3]);
    }

    #[test]
    fn refuses_what_cannot_be_fitted() {
        let values = arrays(&[None, None], 10);
        let columns = [Column::new("m", &values).unwrap()];
        let pipeline = Pipeline::new(vec![feature("m", "m", Transform::Identity)]).unwrap();
        assert_eq!(
            pipeline
                .transform::<f32>(&columns, Threads::ONE)
                .unwrap_err(),
            Error::NotFitted
        );
        let error = pipeline
            .clone()
            .fit(&columns, 0..2, Threads::ONE)
            .unwrap_err();
        assert!(matches!(error, Error::NothingToFit { .. }), "{error}");
        let error = pipeline.fit(&columns, 0..3, Threads::ONE).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(Pipeline::new(vec![]).is_err());
        for window in [0, MAX_WINDOW + 1, usize::MAX] {
            assert!(Pipeline::new(vec![feature("m", "m", Transform::Sma(window))]).is_err());
            assert!(Pipeline::new(vec![feature("m", "m", Transform::Rsi(window))]).is_err());
        }
        let twice = vec![feature("m", "a", Transform::Identity); 2];
        assert!(Pipeline::new(twice).is_err());
    }
}
