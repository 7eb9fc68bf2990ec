//! From raw columns to the scaled feature matrix in two passes over the frame, block by block.
//!
//! The first pass finds the range of each feature. The second computes the features again and writes
//! them scaled. Computing them twice is faster than storing them: no feature column ever exists in
//! full.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::block::{Block, Input};
use super::graph::{Expression, Graph, Value};
use super::op::Op;
use super::plan::Plan;
use crate::matrix::{Element, Matrix};
use crate::parallel::{self, Threads};
use crate::scale::{self, MinMax};
use crate::{Error, Result, simd};

/// Minimum number of rows per thread. Starting one takes as long as processing about 10,000 rows.
const ROWS_PER_TASK: usize = 1 << 15;

/// Leaves values as they are.
const UNSCALED: MinMax = MinMax {
    data_min: 0.0,
    data_max: 1.0,
    scale: 1.0,
    min: 0.0,
};

/// One column of the feature matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// How it is computed.
    pub expression: Expression,
    /// The value that replaces a missing one when the scaler is fitted; if `None`, missing values
    /// are skipped. Either way the row is left out of the matrix.
    pub null_as: Option<f64>,
}

/// How often a feature has no value, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nulls {
    /// Rows at the start of the frame that do not have enough rows before them.
    pub warmup: usize,
    /// Other rows with a null in a column of the feature, or in the rows before that it depends on.
    pub input: usize,
    /// Other rows, where a result is undefined or not finite.
    pub undefined: usize,
}

/// The features of a model, in channel order, and their scalers once fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    features: Vec<Feature>,
    graph: Graph,
    roots: Vec<Value>,
    /// The schedule for frames in which every feature has a value.
    plan: Plan,
    scalers: Vec<MinMax>,
}

impl Pipeline {
    /// Returns the unfitted pipeline of `features`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without features, for two features of one name, and for a
    /// `null_as` that is not accepted.
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
        let mut names = HashSet::new();
        let mut graph = Graph::default();
        let mut roots = Vec::with_capacity(features.len());
        for feature in &features {
            if !names.insert(feature.name.as_str()) {
                return invalid("feature name", &feature.name, "unique names");
            }
            if feature.null_as.is_some_and(|value| !value.is_finite()) {
                return invalid("null_as", "not finite", "a finite number");
            }
            roots.push(graph.add(&feature.expression));
        }
        let active: Vec<_> = roots.iter().copied().enumerate().collect();
        Ok(Self {
            plan: Plan::new(&graph, &active),
            features,
            graph,
            roots,
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

    /// The columns that are read, in the order in which [`Input`] has them.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.graph.columns
    }

    /// Whether [`Input`] must have times.
    #[must_use]
    pub fn uses_times(&self) -> bool {
        let mut nodes = self.graph.nodes.iter();
        nodes.any(|node| matches!(node.op, Op::Clock(..)))
    }

    /// Number of earlier rows that a value of any feature depends on.
    #[must_use]
    pub fn lookback(&self) -> usize {
        let features = self.features.iter();
        features.map(|f| f.expression.lookback()).max().unwrap_or(0)
    }

    /// Number of rows at the start of a frame in which a feature has no value.
    #[must_use]
    pub fn warmup(&self) -> usize {
        let features = self.features.iter();
        features.map(|f| f.expression.warmup()).max().unwrap_or(0)
    }

    /// Returns the pipeline with scalers fitted on `rows`. Each is fitted on every value that its
    /// feature has there, including rows that are left out of the matrix because another feature is
    /// missing.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or an infinity in a column, [`Error::NothingToFit`] for a
    /// feature without any value, [`Error::TooWide`] for values that cannot be scaled,
    /// [`Error::InvalidArgument`] for rows outside of the frame.
    ///
    /// # Panics
    /// Unless `input` has the columns of [`Self::columns`], and times if an operator needs them.
    pub fn fit(mut self, input: Input, rows: Range<usize>, threads: Threads) -> Result<Self> {
        self.check(input);
        if rows.start > rows.end || rows.end > input.rows {
            return Err(Error::InvalidArgument {
                name: "rows",
                value: format!("{}..{}", rows.start, rows.end),
                expected: format!("a range within the {} rows of the frame", input.rows),
            });
        }
        let unseen = vec![scale::Range::default(); self.features.len()];
        let seen = self.reduce(
            input,
            rows.clone(),
            threads,
            &unseen,
            |ranges, _, i, values| {
                ranges[i].observe(values);
                if let Some(fill) = self.features[i].null_as
                    && simd::any_nan(values)
                {
                    ranges[i].observe(&[fill]);
                }
            },
        )?;
        let mut ranges = unseen;
        for part in seen {
            for (range, other) in ranges.iter_mut().zip(part) {
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

    /// Returns the scaled features of all rows that have every feature.
    ///
    /// # Errors
    /// [`Error::NotFitted`]; [`Error::NotFinite`] for NaN or an infinity in a column.
    ///
    /// # Panics
    /// As [`Self::fit`].
    pub fn transform<T: Element>(&self, input: Input, threads: Threads) -> Result<Matrix<T>> {
        self.check(input);
        if self.scalers.is_empty() {
            return Err(Error::NotFitted);
        }
        // No row of the warm-up is complete. Leaving them out of the parts avoids closing a gap.
        let rows = self.warmup().min(input.rows)..input.rows;
        self.write(input, rows, threads, &self.scalers, false)
    }

    /// Returns the features of all rows, unscaled. A missing value is NaN.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or an infinity in a column.
    ///
    /// # Panics
    /// As [`Self::fit`].
    pub fn evaluate(&self, input: Input, threads: Threads) -> Result<Matrix<f64>> {
        self.check(input);
        let unscaled = vec![UNSCALED; self.features.len()];
        self.write(input, 0..input.rows, threads, &unscaled, true)
    }

    /// Returns how often each feature has no value.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for NaN or an infinity in a column.
    ///
    /// # Panics
    /// As [`Self::fit`].
    pub fn nulls(&self, input: Input, threads: Threads) -> Result<Vec<Nulls>> {
        self.check(input);
        let holes: Vec<Vec<usize>> = input.columns.iter().map(|c| c.nulls().collect()).collect();
        let of_feature = |feature: &Feature| -> Vec<&[usize]> {
            let known = self.columns().iter().zip(&holes);
            let used = known.filter(|(name, _)| feature.expression.columns().contains(name));
            used.map(|(_, rows)| rows.as_slice()).collect()
        };
        let holes: Vec<_> = self.features.iter().map(of_feature).collect();
        let none = vec![Nulls::default(); self.features.len()];
        let all = 0..input.rows;
        let found = self.reduce(input, all, threads, &none, |counts, first, i, values| {
            if !simd::any_nan(values) {
                return;
            }
            let expression = &self.features[i].expression;
            for (value, row) in values.iter().zip(first..) {
                if !value.is_nan() {
                    continue;
                }
                let lookback = row.saturating_sub(expression.lookback());
                let within = |rows: &&[usize]| {
                    let next = rows.partition_point(|hole| *hole < lookback);
                    rows.get(next).is_some_and(|hole| *hole <= row)
                };
                let count = &mut counts[i];
                if row < expression.warmup() {
                    count.warmup += 1;
                } else if holes[i].iter().any(within) {
                    count.input += 1;
                } else {
                    count.undefined += 1;
                }
            }
        })?;
        let mut counts = none;
        for (count, other) in found.iter().flat_map(|part| part.iter().enumerate()) {
            counts[count].warmup += other.warmup;
            counts[count].input += other.input;
            counts[count].undefined += other.undefined;
        }
        Ok(counts)
    }

    /// Returns for each task the result of passing each feature and its values on each block of
    /// `rows`, with the number of the first row, to `observe`.
    fn reduce<S: Clone + Send + Sync>(
        &self,
        input: Input,
        rows: Range<usize>,
        threads: Threads,
        start: &S,
        observe: impl Fn(&mut S, usize, usize, &[f64]) + Sync,
    ) -> Result<Vec<S>> {
        let schedule = Schedule::new(self, input.rows);
        let tasks = self.tasks(rows);
        let results = parallel::map(threads, tasks, Block::default, |block, rows| {
            let mut state = start.clone();
            schedule.run(block, input, rows, |event| {
                if let Event::Values(first, feature, values) = event {
                    observe(&mut state, first, feature, values);
                }
            })?;
            Ok(state)
        });
        results.into_iter().collect()
    }

    fn write<T: Element>(
        &self,
        input: Input,
        rows: Range<usize>,
        threads: Threads,
        scalers: &[MinMax],
        all: bool,
    ) -> Result<Matrix<T>> {
        let schedule = Schedule::new(self, input.rows);
        let tasks = self.tasks(rows);
        let width = self.features.len();
        Matrix::build(
            width,
            &tasks,
            threads,
            Block::default,
            |block, rows, writer| {
                schedule.run(block, input, rows, |event| match event {
                    Event::Begin(rows) => writer.begin(rows),
                    Event::Values(_, feature, values) => {
                        writer.set(feature, values, &scalers[feature]);
                    }
                    Event::End(first) => writer.end(first, all),
                })
            },
        )
    }

    /// Returns `rows` in tasks that begin at multiples of the same number of rows. A task is long
    /// enough for the rows before it to matter little.
    fn tasks(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let size = ROWS_PER_TASK.max(4 * self.plan.lookback.min(rows.len()));
        let mut tasks = Vec::with_capacity(rows.len() / size + 2);
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min((start / size + 1) * size);
            tasks.push(start..end);
            start = end;
        }
        tasks
    }

    fn check(&self, input: Input) {
        assert_eq!(input.columns.len(), self.columns().len());
        assert!(
            input
                .columns
                .iter()
                .all(|column| column.len() == input.rows)
        );
        assert!(!self.uses_times() || input.times.len() == input.rows);
    }
}

/// An event while rows are computed.
enum Event<'a> {
    /// A block of that many rows begins.
    Begin(usize),
    /// The number of the first row, a feature, and its values on the rows of the block.
    Values(usize, usize, &'a [f64]),
    /// The block that starts at that row ends.
    End(usize),
}

/// The features that have a value somewhere in a frame, and those that have none.
struct Schedule<'p> {
    plan: Cow<'p, Plan>,
    without: Vec<usize>,
}

impl<'p> Schedule<'p> {
    fn new(pipeline: &'p Pipeline, rows: usize) -> Self {
        let graph = &pipeline.graph;
        let all = pipeline.roots.iter().copied().enumerate();
        let (with, without): (Vec<_>, Vec<_>) = all.partition(|root| graph.warmup(root.1) < rows);
        Self {
            plan: if without.is_empty() {
                Cow::Borrowed(&pipeline.plan)
            } else {
                Cow::Owned(Plan::new(graph, &with))
            },
            without: without.into_iter().map(|(feature, _)| feature).collect(),
        }
    }

    fn run(
        &self,
        block: &mut Block,
        input: Input,
        rows: Range<usize>,
        mut handle: impl FnMut(Event),
    ) -> Result<()> {
        let nothing = vec![
            f64::NAN;
            if self.without.is_empty() {
                0
            } else {
                self.plan.rows
            }
        ];
        for start in rows.clone().step_by(self.plan.rows) {
            let part = start..rows.end.min(start + self.plan.rows);
            let count = part.len();
            handle(Event::Begin(count));
            for feature in &self.without {
                handle(Event::Values(start, *feature, &nothing[..count]));
            }
            block.compute(&self.plan, input, part, |feature, values| {
                handle(Event::Values(start, feature, values));
            })?;
            handle(Event::End(start));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact by construction")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array};
    use proptest::prelude::*;

    use super::*;
    use crate::column::Column;
    use crate::expr::op::Param;
    use crate::rolling::{rsi, sma};

    fn feature(name: &str, column: &str, over: Option<(&str, usize)>) -> Feature {
        let text = Param::Text(column.to_owned());
        let mut nodes = vec![("column".to_owned(), vec![], vec![text])];
        if let Some((op, window)) = over {
            let window = Param::Number(window as f64);
            nodes.push((op.to_owned(), vec![0], vec![window]));
        }
        Feature {
            name: name.to_owned(),
            expression: Expression::new(&nodes).unwrap(),
            null_as: None,
        }
    }

    fn input<'a>(columns: &'a [Column<'a>]) -> Input<'a> {
        Input {
            columns,
            times: &[],
            rows: columns[0].len(),
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
                feature("sma", "close", Some(("mean", window))),
                feature("volume", "volume", None),
                feature("rsi", "close", Some(("rsi_simple", 14))),
                feature("close", "close", None),
            ]).unwrap();
            prop_assert_eq!(pipeline.columns(), ["close", "volume"]);
            let (close_arrays, volume_arrays) = (arrays(&close, chunk), arrays(&volume, 7001));
            let columns = [
                Column::new("close", &close_arrays).unwrap(),
                Column::new("volume", &volume_arrays).unwrap(),
            ];
            let pipeline = pipeline.fit(input(&columns), 0..len, Threads::ONE).unwrap();
            let matrix = pipeline.transform::<f64>(input(&columns), Threads::ONE).unwrap();

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
            let pipeline = Pipeline::new(vec![feature("sma", "close", Some(("mean", 3)))])
                .unwrap().fit(input(&columns), start..start + len, Threads::ONE).unwrap();
            let scaler = pipeline.scalers()[0];
            prop_assert_eq!(scaler.data_min, (start.max(2) - 1) as f64);
            prop_assert_eq!(scaler.data_max, (start + len - 2) as f64);
        }
    }

    #[test]
    fn null_as_affects_the_fit_but_not_the_rows() {
        let values = arrays(&[Some(3.0), None, Some(5.0)], 10);
        let columns = [Column::new("m", &values).unwrap()];
        let mut spec = feature("m", "m", None);
        spec.null_as = Some(0.0);
        let pipeline = Pipeline::new(vec![spec])
            .unwrap()
            .fit(input(&columns), 0..3, Threads::ONE)
            .unwrap();
        let matrix = pipeline
            .transform::<f64>(input(&columns), Threads::ONE)
            .unwrap();
        assert_eq!(matrix.data(), [3.0 * (1.0 / 5.0), 1.0]);
        assert_eq!(matrix.kept(), [0..1, 2..3]);
    }

    #[test]
    fn refuses_what_cannot_be_fitted() {
        let values = arrays(&[None, None], 10);
        let columns = [Column::new("m", &values).unwrap()];
        let pipeline = Pipeline::new(vec![feature("m", "m", None)]).unwrap();
        assert_eq!(
            pipeline
                .transform::<f32>(input(&columns), Threads::ONE)
                .unwrap_err(),
            Error::NotFitted
        );
        let error = pipeline
            .clone()
            .fit(input(&columns), 0..2, Threads::ONE)
            .unwrap_err();
        assert!(matches!(error, Error::NothingToFit { .. }), "{error}");
        let error = pipeline
            .fit(input(&columns), 0..3, Threads::ONE)
            .unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(Pipeline::new(vec![]).is_err());
        let twice = vec![feature("m", "a", None); 2];
        assert!(Pipeline::new(twice).is_err());
    }
}
