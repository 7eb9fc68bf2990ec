//! Computes a block of consecutive rows of all features.

use std::ops::Range;

use super::clock;
use super::elementwise;
use super::kernels::extremes::{Extremes, Side};
use super::kernels::moments::{CoMoments, Moments};
use super::kernels::order;
use super::kernels::recursive::Averages;
use super::op::{Op, Pair, Rolling, ema_alpha, wilder_alpha};
use super::plan::{Family, Place, Plan, Root, Source, Stage, Step};
use crate::Result;
use crate::column::Column;
use crate::rolling::{RsiSums, WindowSums};

/// A frame: its columns in the order of the graph, and its times if an operator needs them.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The columns, all of the same length.
    pub columns: &'a [Column<'a>],
    /// Milliseconds since 1970 of each row; empty if no operator needs them.
    pub times: &'a [i64],
    /// Number of rows.
    pub rows: usize,
}

/// Buffers for one thread, reused from block to block.
#[derive(Debug, Default)]
pub(super) struct Block {
    columns: Vec<Vec<f64>>,
    numbers: Vec<Vec<f64>>,
    buffers: Vec<Vec<f64>>,
    /// The buffers that are being written.
    outs: Vec<Vec<f64>>,
    edge: Vec<f64>,
    kernels: Kernels,
}

impl Block {
    /// Computes `rows`, at most [`Plan::rows`] of them, and passes each feature with its values to
    /// `take`, in any order. Null is NaN. The result does not depend on where a block begins.
    ///
    /// # Errors
    /// As [`Column::read`].
    pub fn compute(
        &mut self,
        plan: &Plan,
        input: Input,
        rows: Range<usize>,
        mut take: impl FnMut(usize, &[f64]),
    ) -> Result<()> {
        let Self {
            columns,
            numbers,
            buffers,
            outs,
            edge,
            kernels,
        } = self;
        grow(
            columns,
            plan.columns.iter().map(|column| column.1),
            rows.len(),
        );
        grow(buffers, plan.buffers.iter().copied(), rows.len());
        numbers.resize_with(plan.numbers.len(), Vec::new);
        for (buffer, &(value, extra)) in numbers.iter_mut().zip(&plan.numbers) {
            buffer.resize(buffer.len().max(extra + rows.len()), value);
        }
        let views = plan
            .columns
            .iter()
            .zip(columns)
            .map(|(&(column, extra), buffer)| {
                read(&input.columns[column], extra, rows.clone(), buffer)
            })
            .collect::<Result<Vec<_>>>()?;

        for root in &plan.inputs {
            let values = Values::new(&views, numbers, buffers, rows.len()).of(root.source);
            hand_over(root, values, rows.start, edge, &mut take);
        }
        for stage in &plan.stages {
            // The buffers to write are taken out, so that the others can be read.
            let steps = stage.steps.iter();
            outs.extend(steps.map(|step| std::mem::take(&mut buffers[step.out])));
            let values = Values::new(&views, numbers, buffers, rows.len());
            kernels.compute(stage, values, input.times, rows.start, outs);
            for (step, out) in stage.steps.iter().zip(outs.drain(..)) {
                buffers[step.out] = out;
            }
            let values = Values::new(&views, numbers, buffers, rows.len());
            for root in stage.steps.iter().flat_map(|step| &step.roots) {
                hand_over(root, values.of(root.source), rows.start, edge, &mut take);
            }
        }
        Ok(())
    }
}

/// The intermediate results of the operators.
#[derive(Debug)]
struct Kernels {
    sums: WindowSums,
    rsi: RsiSums,
    moments: Moments,
    pairs: CoMoments,
    lowest: Extremes,
    highest: Extremes,
    averages: Averages,
    edge: Vec<f64>,
}

impl Default for Kernels {
    fn default() -> Self {
        Self {
            sums: WindowSums::default(),
            rsi: RsiSums::default(),
            moments: Moments::default(),
            pairs: CoMoments::default(),
            lowest: Extremes::new(Side::Min),
            highest: Extremes::new(Side::Max),
            averages: Averages::default(),
            edge: Vec::new(),
        }
    }
}

impl Kernels {
    /// Computes the steps of a stage into `outs`, for the block that starts at row `start`.
    fn compute(
        &mut self,
        stage: &Stage,
        values: Values,
        times: &[i64],
        start: usize,
        outs: &mut [Vec<f64>],
    ) {
        let all = |arg: usize| values.of(stage.args[arg]);
        let ops = || stage.steps.iter().map(|step| &step.op);
        match Family::of(&stage.steps[0].op) {
            Some(Family::Sums) => self.sums.update(all(0), stage.longest),
            Some(Family::Moments) => {
                let spread = [Rolling::Std, Rolling::Var];
                let trend = |op: &Op| !matches!(op, Op::Rolling(op, _) if spread.contains(op));
                self.moments.update(all(0), stage.longest, ops().any(trend));
            }
            Some(Family::Pairs) => self.pairs.update(all(0), all(1), stage.longest),
            Some(Family::Lowest) => {
                let positions = ops().any(|op| matches!(op, Op::Rolling(Rolling::Argmin, _)));
                self.lowest.update(all(0), stage.longest, positions);
            }
            Some(Family::Highest) => {
                let positions = ops().any(|op| matches!(op, Op::Rolling(Rolling::Argmax, _)));
                self.highest.update(all(0), stage.longest, positions);
            }
            Some(Family::Quantiles) => return quantiles(stage, values, outs),
            None => {}
        }
        for (step, out) in stage.steps.iter().zip(outs) {
            let first = start as i64 - step.extra as i64;
            let out = &mut out[..step.extra + values.rows];
            match &step.op {
                Op::Rolling(op, window) => {
                    let read = step.args[0];
                    if *op == Rolling::RsiSimple {
                        let first = first - *window as i64;
                        let series =
                            from_first_value(values.of(read), first, read.warmup, &mut self.edge);
                        self.rsi.write(series, *window, out);
                    } else {
                        let series = if Family::of(&step.op).is_some() {
                            all(0)
                        } else {
                            values.of(read)
                        };
                        self.roll(*op, series, *window, out);
                    }
                    elementwise::clear(out);
                }
                Op::Pair(op, window) => {
                    let (x, y) = (all(0), all(1));
                    match op {
                        Pair::Corr => self.pairs.write_corr(x, y, *window, out),
                        Pair::Cov => self.pairs.write_cov(x, y, *window, out),
                    }
                    elementwise::clear(out);
                }
                Op::Clock(clock, offset) => clock::write(*clock, *offset, times, first, out),
                op => {
                    let mut args = [&[][..]; 3];
                    for (arg, source) in args.iter_mut().zip(&step.args) {
                        *arg = values.of(*source);
                    }
                    elementwise::apply(op, &args, out);
                    if let Op::Fill(_) = op {
                        clear_before(step.warmup, first, out);
                    }
                }
            }
        }
    }

    fn roll(&mut self, op: Rolling, series: &[f64], window: usize, out: &mut [f64]) {
        match op {
            Rolling::Sum | Rolling::Count => self.sums.write(series, window, out),
            Rolling::Mean => self.sums.write_mean(series, window, out),
            Rolling::Min => self.lowest.write(series, window, out),
            Rolling::Max => self.highest.write(series, window, out),
            Rolling::Argmin => self.lowest.write_position(series, window, out),
            Rolling::Argmax => self.highest.write_position(series, window, out),
            Rolling::Std => self.moments.write_std(series, window, out),
            Rolling::Var => self.moments.write_var(series, window, out),
            Rolling::Slope => self.moments.write_slope(series, window, out),
            Rolling::Rsquare => self.moments.write_rsquare(series, window, out),
            Rolling::Resid => self.moments.write_resid(series, window, out),
            Rolling::Rank => order::write_rank(series, window, out),
            Rolling::Median => order::write_quantiles(series, window, &[0.5], &mut [out]),
            Rolling::Ema => self.averages.write_ema(series, ema_alpha(window), out),
            Rolling::Wilder => self.averages.write_ema(series, wilder_alpha(window), out),
            Rolling::RsiSimple => self.rsi.write(series, window, out),
            Rolling::RsiWilder => self.averages.write_rsi_wilder(series, window, out),
        }
    }
}

/// Computes quantiles over windows of the same series, those over the same window together.
fn quantiles(stage: &Stage, values: Values, mut outs: &mut [Vec<f64>]) {
    let window = |step: &Step| (step.op.reach() + 1, step.extra);
    for steps in stage.steps.chunk_by(|a, b| window(a) == window(b)) {
        let (now, rest) = outs.split_at_mut(steps.len());
        outs = rest;
        let (window, extra) = window(&steps[0]);
        let wanted = steps.iter().map(|step| match step.op {
            Op::Quantile(_, q) => q.get(),
            _ => 0.5,
        });
        let wanted: Vec<f64> = wanted.collect();
        let rows = extra + values.rows;
        let mut targets: Vec<&mut [f64]> = now.iter_mut().map(|out| &mut out[..rows]).collect();
        order::write_quantiles(values.of(steps[0].args[0]), window, &wanted, &mut targets);
        targets.into_iter().for_each(elementwise::clear);
    }
}

/// The values that are known so far.
#[derive(Clone, Copy)]
struct Values<'a> {
    columns: &'a [&'a [f64]],
    numbers: &'a [Vec<f64>],
    buffers: &'a [Vec<f64>],
    rows: usize,
}

impl<'a> Values<'a> {
    fn new(
        columns: &'a [&'a [f64]],
        numbers: &'a [Vec<f64>],
        buffers: &'a [Vec<f64>],
        rows: usize,
    ) -> Self {
        Self {
            columns,
            numbers,
            buffers,
            rows,
        }
    }

    fn of(self, source: Source) -> &'a [f64] {
        let values = match source.place {
            Place::Column(column) => self.columns[column],
            Place::Number(number) => &self.numbers[number],
            Place::Buffer(buffer) => &self.buffers[buffer],
        };
        &values[source.from..][..source.extra + self.rows]
    }
}

/// Makes room in each buffer for the rows of a block and the extra ones before it.
fn grow(buffers: &mut Vec<Vec<f64>>, extras: impl ExactSizeIterator<Item = usize>, rows: usize) {
    buffers.resize_with(extras.len(), Vec::new);
    for (buffer, extra) in buffers.iter_mut().zip(extras) {
        buffer.resize(buffer.len().max(extra + rows), f64::NAN);
    }
}

/// Returns `rows` of a column after the `extra` rows before them. Rows before the frame are NaN.
fn read<'b>(
    column: &Column<'b>,
    extra: usize,
    rows: Range<usize>,
    buffer: &'b mut [f64],
) -> Result<&'b [f64]> {
    let buffer = &mut buffer[..extra + rows.len()];
    match extra.checked_sub(rows.start) {
        Some(missing) if missing > 0 => {
            buffer[..missing].fill(f64::NAN);
            column.read(0..rows.end, &mut buffer[missing..])?;
            Ok(buffer)
        }
        _ => column.view(rows.start - extra..rows.end, buffer),
    }
}

/// Passes the values of a feature on, without those of its warm-up.
fn hand_over(
    root: &Root,
    values: &[f64],
    first: usize,
    edge: &mut Vec<f64>,
    take: &mut impl FnMut(usize, &[f64]),
) {
    if first >= root.source.warmup {
        return take(root.feature, values);
    }
    edge.clear();
    edge.extend_from_slice(values);
    clear_before(root.source.warmup, first as i64, edge);
    take(root.feature, edge);
}

/// Replaces values of rows before `row` by NaN; the first one is that of row `first`.
fn clear_before(row: usize, first: i64, values: &mut [f64]) {
    let rows = (row as i64 - first).clamp(0, values.len() as i64);
    values[..rows as usize].fill(f64::NAN);
}

/// Returns `values`, of which the first is that of row `first`, with the value of row `warmup` in
/// the rows before it. Its difference from the row before is then 0, as the RSI defines it.
fn from_first_value<'v>(
    values: &'v [f64],
    first: i64,
    warmup: usize,
    edge: &'v mut Vec<f64>,
) -> &'v [f64] {
    let before = warmup as i64 - first;
    if before <= 0 {
        return values;
    }
    edge.clear();
    edge.extend_from_slice(values);
    let before = before as usize;
    let value = edge.get(before).copied().unwrap_or(f64::NAN);
    let before = before.min(edge.len());
    edge[..before].fill(value);
    edge
}
