//! Features, and their lookback and warm-up.

/// Longest window of a feature.
pub const MAX_WINDOW: usize = 1 << 20;

/// How a feature is computed from its source column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// The column itself.
    Identity,
    /// Simple moving average over that many rows.
    Sma(usize),
    /// Simple-mean relative strength index over that many rows.
    Rsi(usize),
}

impl Transform {
    /// Number of earlier rows that the value of a row depends on.
    pub(super) fn lookback(self) -> usize {
        match self {
            Self::Identity => 0,
            Self::Sma(window) => window - 1,
            Self::Rsi(window) => window,
        }
    }

    /// Number of rows at the start of a frame that have no value.
    pub(super) fn warmup(self) -> usize {
        match self {
            Self::Identity => 0,
            Self::Sma(window) | Self::Rsi(window) => window - 1,
        }
    }
}

/// One column of the feature matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// The column it is computed from.
    pub source: String,
    /// How it is computed.
    pub transform: Transform,
    /// The value that replaces a missing one when the scaler is fitted; if `None`, missing values
    /// are skipped. Either way the row is left out of the matrix.
    pub null_as: Option<f64>,
}
