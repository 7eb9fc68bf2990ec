//! Computes a block of consecutive rows of all features.

use std::ops::Range;

use super::clock;
use super::elementwise;
use super::op::{Op, Rolling};
use super::plan::{Place, Plan, Root, Source, Stage};
use crate::Result;
use crate::column::Column;
use crate::rolling::{RsiSums, WindowSums};
use crate::simd;

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
    sums: WindowSums,
    rsi: RsiSums,
    edge: Vec<f64>,
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
            sums,
            rsi,
            edge,
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
        for Stage {
            steps,
            args,
            longest,
        } in &plan.stages
        {
            if is_sum(&steps[0].op) {
                let values = Values::new(&views, numbers, buffers, rows.len());
                sums.update(values.of(args[0]), *longest);
            }
            for step in steps {
                let mut out = std::mem::take(&mut buffers[step.out]);
                let values = Values::new(&views, numbers, buffers, rows.len());
                let first = rows.start as i64 - step.extra as i64;
                let target = &mut out[..step.extra + rows.len()];
                match &step.op {
                    Op::Rolling(Rolling::Sum, window) => {
                        sums.write(values.of(args[0]), *window, target);
                        simd::elementwise::clear(target);
                    }
                    Op::Rolling(Rolling::Mean, window) => {
                        sums.write_mean(values.of(args[0]), *window, target);
                        simd::elementwise::clear(target);
                    }
                    Op::Rolling(Rolling::RsiSimple, window) => {
                        let values = from_first_value(
                            values.of(step.args[0]),
                            first - *window as i64,
                            step.args[0].warmup,
                            edge,
                        );
                        rsi.write(values, *window, target);
                        simd::elementwise::clear(target);
                    }
                    Op::Clock(clock, offset) => {
                        clock::write(*clock, *offset, input.times, first, target);
                    }
                    op => {
                        let mut args = [&[][..]; 3];
                        for (arg, source) in args.iter_mut().zip(&step.args) {
                            *arg = values.of(*source);
                        }
                        elementwise::apply(op, &args, target);
                        if let Op::Fill(_) = op {
                            clear_before(step.warmup, first, target);
                        }
                    }
                }
                buffers[step.out] = out;
                let values = Values::new(&views, numbers, buffers, rows.len());
                for root in &step.roots {
                    hand_over(root, values.of(root.source), rows.start, edge, &mut take);
                }
            }
        }
        Ok(())
    }
}

fn is_sum(op: &Op) -> bool {
    matches!(op, Op::Rolling(Rolling::Sum | Rolling::Mean, _))
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
