//! Labels: what a model predicts about the bars after a bar.

use std::ops::Range;

use crate::merge::check_ascending;
use crate::parallel::{self, Threads};
use crate::{Error, Result, memory, simd};

/// Rows that take about as long as starting a thread.
const ROWS_PER_THREAD: usize = 16_384;

/// Candles, one slice for each column. A price that is missing, not finite, zero or negative is bad.
#[derive(Debug, Clone, Copy)]
pub struct Bars<'a> {
    /// Open times, milliseconds since 1970, strictly ascending.
    pub times: &'a [i64],
    /// Highest prices.
    pub high: &'a [f64],
    /// Lowest prices.
    pub low: &'a [f64],
    /// Last prices.
    pub close: &'a [f64],
}

/// The barriers around the close of a bar.
#[derive(Debug, Clone, Copy)]
pub struct Barriers {
    /// Bars until the time barrier, at least 1.
    pub horizon: usize,
    /// Distance of the upper barrier, as a share of the close, above 0.
    pub take_profit: f64,
    /// Distance of the lower barrier, as a share of the close, above 0 and below 1.
    pub stop_loss: f64,
}

/// Returns the label of each row: which barrier around its close the next `horizon` bars reach
/// first. 1 is the upper barrier, `high >= close * (1 + take_profit)`; -1 the lower one,
/// `low <= close * (1 - stop_loss)`, which also wins if one bar reaches both; 0 neither (M. Lopez de
/// Prado, *Advances in Financial Machine Learning*, 2018, chapter 3).
///
/// NaN where that is not known: fewer than `horizon` bars follow; one of them does not open
/// `bar_ms` after the bar before it, because the price may have reached a barrier in between; its
/// high or low is bad; or the close of the row is bad. This does not depend on how early a barrier
/// is reached. Otherwise, rows near the end and near gaps would have a label only if it is not 0.
///
/// # Errors
/// [`Error::InvalidArgument`] if the columns differ in length or a barrier is out of range, and
/// [`Error::NotAscending`].
pub fn triple_barrier(
    bars: Bars,
    bar_ms: i64,
    barriers: Barriers,
    threads: Threads,
) -> Result<Vec<f64>> {
    check(bars, barriers)?;
    let rows = bars.times.len();
    let mut labels = memory::room(rows)?;
    labels.resize(rows, f64::NAN);
    let mut rest = labels.as_mut_slice();
    let mut tasks = Vec::new();
    for part in threads.split(0..rows, ROWS_PER_THREAD) {
        let (target, tail) = rest.split_at_mut(part.len());
        rest = tail;
        let end = part.end.saturating_add(barriers.horizon).min(rows);
        tasks.push((bars.slice(part.start..end), target));
    }
    parallel::map(
        threads,
        tasks,
        || (),
        |(), (bars, labels)| Scan::new(bars, barriers).write(bar_ms, labels),
    );
    Ok(labels)
}

fn check(bars: Bars, barriers: Barriers) -> Result<()> {
    let invalid = |name, value, expected: &str| {
        Err(Error::InvalidArgument {
            name,
            value,
            expected: expected.to_owned(),
        })
    };
    let rows = bars.times.len();
    for (name, column) in [
        ("high", bars.high),
        ("low", bars.low),
        ("close", bars.close),
    ] {
        if column.len() != rows {
            let expected = format!("length {rows}, that of timestamps");
            return invalid(name, format!("of length {}", column.len()), &expected);
        }
    }
    let Barriers {
        take_profit,
        stop_loss,
        ..
    } = barriers;
    if !(take_profit > 0.0 && take_profit.is_finite()) {
        let expected = "a finite number above 0";
        return invalid("take_profit", take_profit.to_string(), expected);
    }
    if !(stop_loss > 0.0 && stop_loss < 1.0) {
        let expected = "a number above 0 and below 1";
        return invalid("stop_loss", stop_loss.to_string(), expected);
    }
    check_ascending("timestamps", bars.times)?;
    Ok(())
}

impl Bars<'_> {
    fn slice(&self, rows: Range<usize>) -> Self {
        Self {
            times: &self.times[rows.clone()],
            high: &self.high[rows.clone()],
            low: &self.low[rows.clone()],
            close: &self.close[rows],
        }
    }

    /// Returns whether `row` can be part of what follows the row before it.
    fn follows(&self, row: usize, bar_ms: i64) -> bool {
        // Times ascend, so a difference that wraps around is negative.
        let step = self.times[row].wrapping_sub(self.times[row - 1]);
        step == bar_ms && is_price(self.high[row]) && is_price(self.low[row])
    }
}

fn is_price(value: f64) -> bool {
    value > 0.0 && value < f64::INFINITY
}

/// Bars, and the lowest and highest price of each block of them. A search skips the blocks that
/// reach no barrier, which are nearly all.
struct Scan<'a> {
    bars: Bars<'a>,
    barriers: Barriers,
    /// Binary logarithm of the rows in a block.
    bits: u32,
    blocks: Vec<(f64, f64)>,
}

impl<'a> Scan<'a> {
    fn new(bars: Bars<'a>, barriers: Barriers) -> Self {
        // Most rows reach no barrier and look at `horizon / size` blocks. The others also look at
        // up to `size` rows in a few blocks.
        let size = (2 * barriers.horizon.isqrt()).next_power_of_two();
        let blocks = bars.low.chunks(size).zip(bars.high.chunks(size));
        let extremes = |(low, high)| {
            let (bottom, _) = simd::bounds(low, f64::INFINITY, f64::NEG_INFINITY);
            let (_, top) = simd::bounds(high, f64::INFINITY, f64::NEG_INFINITY);
            (bottom, top)
        };
        Self {
            bars,
            barriers,
            bits: size.ilog2(),
            blocks: blocks.map(extremes).collect(),
        }
    }

    /// Writes the labels of the first rows. Those that are not known stay as they are.
    fn write(&self, bar_ms: i64, labels: &mut [f64]) {
        // Number of good rows after `row` without a gap.
        let mut good = 0;
        for row in (0..self.bars.times.len()).rev() {
            if row < labels.len() && good >= self.barriers.horizon && is_price(self.bars.close[row])
            {
                labels[row] = self.first_touch(row);
            }
            good = if row > 0 && self.bars.follows(row, bar_ms) {
                good + 1
            } else {
                0
            };
        }
    }

    /// Returns the label of `row`, which has a horizon of good rows after it.
    fn first_touch(&self, row: usize) -> f64 {
        let entry = self.bars.close[row];
        let profit = entry * (1.0 + self.barriers.take_profit);
        let stop = entry * (1.0 - self.barriers.stop_loss);
        let (first, last) = (row + 1, row + self.barriers.horizon);
        for block in first >> self.bits..=last >> self.bits {
            // The first and the last block may have rows that are not looked at, also bad ones.
            let (bottom, top) = self.blocks[block];
            if bottom > stop && top < profit {
                continue;
            }
            let rows = block << self.bits..(block + 1) << self.bits;
            for i in rows.start.max(first)..rows.end.min(last + 1) {
                if self.bars.low[i] <= stop {
                    return -1.0;
                }
                if self.bars.high[i] >= profit {
                    return 1.0;
                }
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BAR: i64 = 60_000;
    const BARRIERS: Barriers = Barriers {
        horizon: 3,
        take_profit: 0.04,
        stop_loss: 0.05,
    };

    /// Columns that a test can change before it labels them.
    #[derive(Debug, Clone)]
    struct Columns {
        times: Vec<i64>,
        high: Vec<f64>,
        low: Vec<f64>,
        close: Vec<f64>,
    }

    impl Columns {
        fn flat(rows: usize) -> Self {
            Self {
                times: (0..rows as i64).map(|i| i * BAR).collect(),
                high: vec![100.0; rows],
                low: vec![100.0; rows],
                close: vec![100.0; rows],
            }
        }

        fn golden() -> Self {
            Self {
                high: vec![100.0, 103.9, 104.0, 101.0, 100.5, 106.0, 100.0],
                low: vec![100.0, 96.0, 99.0, 94.9, 99.5, 94.0, 100.0],
                ..Self::flat(7)
            }
        }

        fn bars(&self) -> Bars<'_> {
            Bars {
                times: &self.times,
                high: &self.high,
                low: &self.low,
                close: &self.close,
            }
        }

        /// Labels, with `None` for those that are not known.
        fn labels(&self, barriers: Barriers, threads: usize) -> Vec<Option<i8>> {
            let threads = Threads::new(threads).unwrap();
            let labels = triple_barrier(self.bars(), BAR, barriers, threads).unwrap();
            let known = |label: f64| (!label.is_nan()).then_some(label as i8);
            labels.into_iter().map(known).collect()
        }

        /// The definition, row by row.
        fn naive(&self, barriers: Barriers) -> Vec<Option<i8>> {
            let label = |t: usize| {
                let end = t + barriers.horizon;
                let ahead = t + 1..=end;
                if end >= self.times.len() || !(self.close[t] > 0.0 && self.close[t].is_finite()) {
                    return None;
                }
                for i in ahead.clone() {
                    let prices = [self.high[i], self.low[i]];
                    let good = prices.iter().all(|price| *price > 0.0 && price.is_finite());
                    if !good || self.times[i] - self.times[i - 1] != BAR {
                        return None;
                    }
                }
                let stopped = |i| self.low[i] <= self.close[t] * (1.0 - barriers.stop_loss);
                let profits = |i| self.high[i] >= self.close[t] * (1.0 + barriers.take_profit);
                let hit = ahead.into_iter().find(|&i| stopped(i) || profits(i));
                Some(hit.map_or(0, |i| if stopped(i) { -1 } else { 1 }))
            };
            (0..self.times.len()).map(label).collect()
        }
    }

    /// A random walk in whole numbers, so that bars often reach a barrier exactly, with bad prices
    /// and gaps.
    fn walks(rows: Range<usize>) -> impl Strategy<Value = Columns> {
        let price = || {
            prop_oneof![
                400 => Just(None),
                1 => prop::sample::select(vec![f64::NAN, 0.0, -1.0, f64::INFINITY]).prop_map(Some)
            ]
        };
        let step = prop_oneof![300 => Just(BAR), 1 => Just(3 * BAR), 1 => Just(BAR / 2)];
        let bar = (
            -2..=2_i32,
            0..3_i32,
            0..3_i32,
            price(),
            price(),
            price(),
            step,
        );
        prop::collection::vec(bar, rows).prop_map(|bars| {
            let mut columns = Columns::flat(0);
            let (mut time, mut level) = (0, 100);
            for (change, up, down, high, low, close, step) in bars {
                time += step;
                level = (level + change).max(20);
                columns.times.push(time);
                columns.high.push(high.unwrap_or(f64::from(level + up)));
                columns.low.push(low.unwrap_or(f64::from(level - down)));
                columns.close.push(close.unwrap_or(f64::from(level)));
            }
            columns
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            columns in walks(0..400),
            horizon in prop_oneof![1..20_usize, 1..400_usize],
            take_profit in prop::sample::select(vec![0.01, 0.05, 0.1, 0.5]),
            stop_loss in prop::sample::select(vec![0.01, 0.05, 0.1, 0.5]),
        ) {
            let barriers = Barriers { horizon, take_profit, stop_loss };
            prop_assert_eq!(columns.labels(barriers, 1), columns.naive(barriers));
        }
    }

    #[test]
    fn the_stop_wins_within_a_bar_and_the_tail_is_not_known() {
        let expected = [Some(1), Some(1), Some(-1), Some(-1), None, None, None];
        assert_eq!(Columns::golden().labels(BARRIERS, 1), expected);
    }

    #[test]
    fn a_label_is_not_known_even_if_a_barrier_is_reached_before_the_gap_or_the_bad_price() {
        let resolved = Columns::golden();
        for bad in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            let mut columns = resolved.clone();
            columns.low[3] = bad;
            let expected = [None, None, None, Some(-1), None, None, None];
            assert_eq!(columns.labels(BARRIERS, 1), expected);
            let mut columns = resolved.clone();
            columns.close[2] = bad;
            let expected = [Some(1), Some(1), None, Some(-1), None, None, None];
            assert_eq!(columns.labels(BARRIERS, 1), expected);
        }
        let mut columns = resolved.clone();
        for time in &mut columns.times[3..] {
            *time += BAR;
        }
        let expected = [None, None, None, Some(-1), None, None, None];
        assert_eq!(columns.labels(BARRIERS, 1), expected);
        // A step of one and a half bars and one of half a bar are no two bars.
        columns.times[2] += BAR / 2;
        columns.times[3..].iter_mut().for_each(|time| *time -= BAR);
        assert_eq!(columns.labels(BARRIERS, 1), expected);
    }

    #[test]
    fn threads_do_not_change_it() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut columns = Columns::flat(5 * ROWS_PER_THREAD + 7);
        let mut price = 100.0;
        for row in 0..columns.times.len() {
            price *= 1.0 + 0.004 * (rng.f64() - 0.5);
            columns.close[row] = price;
            columns.high[row] = price * (1.0 + 0.002 * rng.f64());
            columns.low[row] = price * (1.0 - 0.002 * rng.f64());
        }
        columns.high[2 * ROWS_PER_THREAD] = f64::NAN;
        let barriers = Barriers {
            horizon: 336,
            take_profit: 0.02,
            stop_loss: 0.02,
        };
        let one = columns.labels(barriers, 1);
        for label in [-1, 0, 1] {
            assert!(one.iter().filter(|each| **each == Some(label)).count() > 1000);
        }
        assert_eq!(one, columns.naive(barriers));
        for threads in [2, 3, 5, 64] {
            assert_eq!(columns.labels(barriers, threads), one);
        }
    }

    #[test]
    fn short_series_and_long_horizons() {
        assert!(Columns::flat(0).labels(BARRIERS, 2).is_empty());
        assert_eq!(Columns::flat(3).labels(BARRIERS, 2), [None; 3]);
        let barriers = Barriers {
            horizon: usize::MAX,
            ..BARRIERS
        };
        assert_eq!(Columns::flat(9).labels(barriers, 2), [None; 9]);
    }

    #[test]
    fn refuses_what_it_cannot_label() {
        let message = |columns: &Columns, barriers| {
            let labels = triple_barrier(columns.bars(), BAR, barriers, Threads::ONE);
            labels.unwrap_err().to_string()
        };
        let mut columns = Columns::flat(4);
        columns.low.pop();
        assert_eq!(
            message(&columns, BARRIERS),
            "low is of length 3, expected length 4, that of timestamps"
        );
        let columns = Columns::flat(4);
        for take_profit in [0.0, -0.1, f64::NAN, f64::INFINITY] {
            let barriers = Barriers {
                take_profit,
                ..BARRIERS
            };
            let expected =
                format!("take_profit is {take_profit}, expected a finite number above 0");
            assert_eq!(message(&columns, barriers), expected);
        }
        for stop_loss in [0.0, 1.0, f64::NAN] {
            let barriers = Barriers {
                stop_loss,
                ..BARRIERS
            };
            let expected =
                format!("stop_loss is {stop_loss}, expected a number above 0 and below 1");
            assert_eq!(message(&columns, barriers), expected);
        }
        let mut columns = Columns::flat(4);
        columns.times[2] = columns.times[1];
        assert!(message(&columns, BARRIERS).contains("row 2"));
    }
}
