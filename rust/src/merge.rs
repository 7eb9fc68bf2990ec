//! Joining a slower series (sentiment) onto candles by time.
//!
//! All times are milliseconds since 1970, strictly ascending on both sides. A join returns the
//! matching row of the other series for every candle.

use arrow_array::Float64Array;
use arrow_buffer::NullBufferBuilder;

use crate::column::Column;
use crate::{Error, Result, memory, simd};

/// Which row of the right side a candle gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The row with the same time.
    Exact,
    /// The right side is first repeated forward on a grid of `step` milliseconds, from its first to
    /// its last row. Then the row with the same time. A candle that is off the grid or later than the
    /// last row has no match.
    Resampled {
        /// Time between two candles, milliseconds.
        step: i64,
    },
    /// The newest row that was at least `lag` milliseconds old when the candle opened.
    AsOf {
        /// Minimum age of a row, milliseconds.
        lag: i64,
    },
}

/// Returns `times` if they are strictly ascending.
///
/// # Errors
/// [`Error::NotAscending`] with the first row that is not later than the one before it.
pub fn check_ascending<'a>(column: &str, times: &'a [i64]) -> Result<&'a [i64]> {
    if simd::ascending(times) {
        return Ok(times);
    }
    match times.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(times),
        Some(i) => Err(Error::NotAscending {
            column: column.to_owned(),
            row: i + 1,
            previous: times[i],
            found: times[i + 1],
        }),
    }
}

/// Consecutive candles that match the same row of the right side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of candles.
    pub candles: usize,
    /// The row, `None` if they match none.
    pub row: Option<usize>,
}

/// Returns the matching row of `right` for each time of `left`, as runs.
///
/// # Errors
/// [`Error::InvalidArgument`] for a step below 1 or a negative lag. Whether the times are ascending
/// is not checked; see [`check_ascending`].
pub fn join(left: &[i64], right: &[i64], how: How) -> Result<Vec<Run>> {
    let (step, lag) = match how {
        How::Exact => (1, 0),
        How::Resampled { step } => (step, 0),
        How::AsOf { lag } => (1, lag),
    };
    if step < 1 {
        return Err(Error::InvalidArgument {
            name: "step_ms",
            value: step.to_string(),
            expected: "at least 1".to_owned(),
        });
    }
    if lag < 0 {
        return Err(Error::InvalidArgument {
            name: "lag_ms",
            value: lag.to_string(),
            expected: "at least 0 (a negative lag would look into the future)".to_owned(),
        });
    }
    // The resampling grid starts at midnight of the first row, as in pandas.
    let origin = right
        .first()
        .map_or(0, |t| t.saturating_sub(t.rem_euclid(DAY)));
    let on_grid = |time: i64| time.saturating_sub(origin) % step == 0;
    let last = right.last().copied();
    let mut runs: Vec<Run> = Vec::new();
    let mut push = |candles: usize, row: Option<usize>| match runs.last_mut() {
        Some(run) if run.row == row => run.candles += candles,
        _ if candles > 0 => runs.push(Run { candles, row }),
        _ => {}
    };
    let mut next = 0; // right[..next] is not later than the candles that remain
    let mut rest = left;
    while let Some(&first) = rest.first() {
        while next < right.len() && right[next].saturating_add(lag) <= first {
            next += 1;
        }
        // The candles up to the next row have the same newest row.
        let end = right.get(next).map_or(rest.len(), |&time| {
            position(rest, |candle| time.saturating_add(lag) > candle)
        });
        let (candles, later) = rest.split_at(end);
        rest = later;
        let row = next.checked_sub(1);
        match (how, row) {
            (_, None) | (How::AsOf { .. }, _) => push(candles.len(), row),
            (How::Exact, Some(newest)) => {
                let same = usize::from(right[newest] == first);
                push(same, row);
                push(candles.len() - same, None);
            }
            (How::Resampled { .. }, Some(_)) => {
                let end = position(candles, |candle| Some(candle) <= last);
                let (candles, late) = candles.split_at(end);
                if on_grid(first) && simd::evenly_spaced(candles, step) {
                    push(candles.len(), row);
                } else {
                    for &candle in candles {
                        push(1, row.filter(|_| on_grid(candle)));
                    }
                }
                push(late.len(), None);
            }
        }
    }
    Ok(runs)
}

/// Returns how many of the first `times` are `within`, in a time that depends on that number only.
fn position(times: &[i64], within: impl Fn(i64) -> bool) -> usize {
    let mut bound = 1;
    while bound < times.len() && within(times[bound - 1]) {
        bound *= 2;
    }
    times[..bound.min(times.len())].partition_point(|time| within(*time))
}

const DAY: i64 = 86_400_000;

/// Returns for each candle the value of its row of `column`; null where row or value is missing.
///
/// # Errors
/// [`Error::NotFinite`] when a value that is not null is NaN or infinite, [`Error::TooLarge`] when
/// the result does not fit into memory.
///
/// # Panics
/// When a row is outside of the column.
pub fn take(column: &Column, runs: &[Run]) -> Result<Float64Array> {
    let mut source = vec![0.0; column.len()];
    column.read(0..column.len(), &mut source)?;
    let candles = runs.iter().map(|run| run.candles).sum();
    let mut values = memory::room(candles)?;
    let mut valid = NullBufferBuilder::new(candles);
    for run in runs {
        let value = run.row.map(|row| source[row]).filter(|v| !v.is_nan());
        values.resize(values.len() + run.candles, value.unwrap_or(0.0));
        if value.is_some() {
            valid.append_n_non_nulls(run.candles);
        } else {
            valid.append_n_nulls(run.candles);
        }
    }
    Ok(Float64Array::new(values.into(), valid.finish()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    /// The joined row of each candle.
    fn rows(left: &[i64], right: &[i64], how: How) -> Vec<Option<usize>> {
        let runs = join(left, right, how).unwrap();
        assert!(runs.windows(2).all(|pair| pair[0].row != pair[1].row));
        let rows = runs
            .iter()
            .flat_map(|run| std::iter::repeat_n(run.row, run.candles));
        rows.collect()
    }

    fn times(step: i64) -> impl Strategy<Value = Vec<i64>> {
        prop::collection::btree_set(-40..200_i64, 0..60)
            .prop_map(move |set| set.into_iter().map(|t| t * step).collect())
    }

    proptest! {
        #[test]
        fn exact_agrees_with_a_search(left in times(HOUR), right in times(HOUR)) {
            let expected: Vec<_> = left.iter()
                .map(|t| right.iter().position(|r| r == t)).collect();
            prop_assert_eq!(rows(&left, &right, How::Exact), expected);
        }

        #[test]
        fn asof_agrees_with_a_search(left in times(HOUR), right in times(HOUR), lag in 0..50_i64) {
            let expected: Vec<_> = left.iter()
                .map(|t| right.iter().rposition(|r| r + lag * HOUR <= *t)).collect();
            prop_assert_eq!(rows(&left, &right, How::AsOf { lag: lag * HOUR }), expected);
        }

        #[test]
        fn resampled_agrees_with_a_grid(left in times(HOUR / 4), right in times(6 * HOUR)) {
            // The grid written out, each point with the newest row at or before it.
            let mut grid = std::collections::HashMap::new();
            if let (Some(first), Some(last)) = (right.first(), right.last()) {
                for t in (*first..=*last).step_by(HOUR as usize) {
                    grid.insert(t, right.iter().rposition(|r| *r <= t).unwrap());
                }
            }
            let expected: Vec<_> = left.iter().map(|t| grid.get(t).copied()).collect();
            prop_assert_eq!(rows(&left, &right, How::Resampled { step: HOUR }), expected);
        }
    }

    #[test]
    fn the_grid_ends_with_the_last_row() {
        let right = [0, 24 * HOUR];
        let left = [23 * HOUR, 24 * HOUR, 25 * HOUR];
        let rows = rows(&left, &right, How::Resampled { step: HOUR });
        assert_eq!(rows, [Some(0), Some(1), None]);
    }

    #[test]
    fn refuses_bad_arguments() {
        assert!(join(&[], &[], How::Resampled { step: 0 }).is_err());
        assert!(join(&[], &[], How::AsOf { lag: -1 }).is_err());
    }

    #[test]
    fn names_the_row_out_of_order() {
        assert!(check_ascending("timestamp", &[]).is_ok());
        assert!(check_ascending("timestamp", &[1, 2, 5]).is_ok());
        for bad in [[1, 3, 2], [1, 3, 3]] {
            let error = check_ascending("timestamp", &bad).unwrap_err();
            assert!(error.to_string().contains("row 2"), "{error}");
        }
    }
}
