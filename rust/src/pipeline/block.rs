//! Computes the features of consecutive rows together.

use std::ops::Range;

use super::{Pipeline, Transform};
use crate::Result;
use crate::column::Column;
use crate::rolling::{RsiSums, WindowSums};

/// Rows in a block, so that ten features and their buffers fit into the L1 and L2 caches.
const ROWS: usize = 512;

/// Buffers for the features of one block of rows.
pub(super) struct Block {
    /// Most rows of a block.
    pub size: usize,
    /// The rows of each source, with its lookback.
    sources: Vec<Vec<f64>>,
    /// The values of each feature that is not itself a source column.
    values: Vec<Vec<f64>>,
    means: WindowSums,
    rsi: RsiSums,
}

impl Block {
    pub fn new(pipeline: &Pipeline) -> Self {
        let lookbacks = pipeline.sources.iter().map(|source| source.lookback);
        // Long windows get larger blocks, so that at most half of the rows read are lookback.
        let size = ROWS.max(lookbacks.clone().max().unwrap_or(0));
        Self {
            size,
            sources: lookbacks.map(|rows| vec![0.0; size + rows]).collect(),
            values: vec![vec![0.0; size]; pipeline.features.len()],
            means: WindowSums::default(),
            rsi: RsiSums::default(),
        }
    }

    /// Returns the values of each feature on `rows`, at most [`Self::size`] of them, in channel
    /// order. A missing value is NaN.
    ///
    /// # Errors
    /// As [`Column::read`].
    pub fn compute<'b>(
        &'b mut self,
        pipeline: &Pipeline,
        columns: &'b [Column],
        rows: Range<usize>,
    ) -> Result<Vec<&'b [f64]>> {
        let Self {
            sources: buffers,
            values,
            means,
            rsi,
            ..
        } = self;
        let mut views = Vec::with_capacity(columns.len());
        for ((source, column), buffer) in pipeline.sources.iter().zip(columns).zip(buffers) {
            let view = read(column, source.lookback, rows.clone(), buffer)?;
            if source.longest_mean > 0 {
                means.update(view, source.longest_mean);
            }
            for &feature in &source.features {
                let transform = pipeline.features[feature].transform;
                let out = &mut values[feature][..rows.len()];
                match transform {
                    Transform::Identity => continue,
                    Transform::Sma(window) => means.write_mean(view, window, out),
                    Transform::Rsi(window) => {
                        rsi.write(&view[source.lookback - window..], window, out);
                    }
                }
                let warming = transform.warmup().saturating_sub(rows.start);
                out[..warming.min(rows.len())].fill(f64::NAN);
            }
            views.push(view);
        }
        let mut features: Vec<&[f64]> = values.iter().map(|out| &out[..rows.len()]).collect();
        for (source, view) in pipeline.sources.iter().zip(views) {
            for &feature in &source.features {
                if pipeline.features[feature].transform == Transform::Identity {
                    features[feature] = &view[source.lookback..];
                }
            }
        }
        Ok(features)
    }
}

/// Returns `rows` of a column after the `lookback` rows before them.
///
/// Rows before the frame repeat its first value. The first difference is then 0, as the RSI defines
/// it. No other feature has a value on the rows that this affects.
fn read<'b>(
    column: &Column<'b>,
    lookback: usize,
    rows: Range<usize>,
    buffer: &'b mut [f64],
) -> Result<&'b [f64]> {
    let buffer = &mut buffer[..lookback + rows.len()];
    let Some(missing) = lookback.checked_sub(rows.start).filter(|rows| *rows > 0) else {
        return column.view(rows.start - lookback..rows.end, buffer);
    };
    column.read(0..rows.end, &mut buffer[missing..])?;
    let edge = buffer[missing];
    buffer[..missing].fill(edge);
    Ok(buffer)
}
