//! Computes the features of consecutive rows together.

use std::ops::Range;

use super::{Pipeline, Transform};
use crate::Result;
use crate::column::Column;
use crate::rolling::{RsiSums, WindowSums};

/// Rows in a block, so that ten features and their buffers fit into the L1 and L2 caches.
const ROWS: usize = 512;

/// The features of one block of rows, NaN where a value is missing.
pub(super) struct Block {
    /// Most rows of a block.
    pub size: usize,
    values: Vec<Vec<f64>>,
    source: Vec<f64>,
    rows: usize,
    means: WindowSums,
    rsi: RsiSums,
}

impl Block {
    pub fn new(pipeline: &Pipeline) -> Self {
        let lookbacks = pipeline.sources.iter().map(|source| source.lookback);
        let lookback = lookbacks.max().unwrap_or(0);
        // Long windows get larger blocks, so that at most half of the rows read are lookback.
        let size = ROWS.max(lookback);
        Self {
            size,
            values: vec![vec![0.0; size]; pipeline.features.len()],
            source: vec![0.0; size + lookback],
            rows: 0,
            means: WindowSums::default(),
            rsi: RsiSums::default(),
        }
    }

    /// Computes every feature on `rows`, at most [`Self::size`] of them.
    ///
    /// # Errors
    /// As [`Column::read`].
    pub fn compute(
        &mut self,
        pipeline: &Pipeline,
        columns: &[Column],
        rows: Range<usize>,
    ) -> Result<()> {
        self.rows = rows.len();
        for (source, column) in pipeline.sources.iter().zip(columns) {
            // Rows before the frame repeat its first value. The first difference is then 0, as the
            // RSI defines it. No other feature has a value on the rows that this affects.
            let missing = source.lookback.saturating_sub(rows.start);
            let first = rows.start.saturating_sub(source.lookback);
            let buffer = &mut self.source[..source.lookback + rows.len()];
            column.read(first..rows.end, &mut buffer[missing..])?;
            let edge = buffer[missing];
            buffer[..missing].fill(edge);

            if source.longest_mean > 0 {
                self.means.update(buffer, source.longest_mean);
            }
            for &feature in &source.features {
                let transform = pipeline.features[feature].transform;
                let inputs = &buffer[source.lookback - transform.lookback()..];
                let out = &mut self.values[feature][..rows.len()];
                match transform {
                    Transform::Identity => out.copy_from_slice(inputs),
                    Transform::Sma(window) => self.means.write_mean(window, out),
                    Transform::Rsi(window) => self.rsi.write(inputs, window, out),
                }
                let warming = transform.warmup().saturating_sub(rows.start);
                out[..warming.min(rows.len())].fill(f64::NAN);
            }
        }
        Ok(())
    }

    /// The values of each feature on the rows computed last, in channel order, NaN where a value is
    /// missing.
    pub fn features(&self) -> impl Iterator<Item = &[f64]> {
        self.values.iter().map(|values| &values[..self.rows])
    }

    /// Mutable access to [`Self::features`].
    pub fn features_mut(&mut self) -> impl Iterator<Item = &mut [f64]> {
        let rows = self.rows;
        self.values
            .iter_mut()
            .map(move |values| &mut values[..rows])
    }
}
