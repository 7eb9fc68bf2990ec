//! The one error type of the kernels: every variant says what was found and what was expected.

use thiserror::Error;

/// Result of a kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with the input of a kernel. Rows count from 0.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Error {
    /// A column that is needed is not in the frame.
    #[error("column '{column}' is missing; the frame has: {available}")]
    MissingColumn {
        /// The column asked for.
        column: String,
        /// What the frame has instead, comma separated.
        available: String,
    },
    /// A column has a type that the kernel does not read.
    #[error("column '{column}' has dtype {found}, expected {expected}; cast it first")]
    WrongType {
        /// The offending column.
        column: String,
        /// Its Arrow type.
        found: String,
        /// The types that are read.
        expected: &'static str,
    },
    /// NaN or an infinity where a number is needed.
    #[error(
        "column '{column}', row {row}: found {value}, expected a finite number \
         (a missing value is null, not NaN)"
    )]
    NotFinite {
        /// The offending column.
        column: String,
        /// The first offending row.
        row: usize,
        /// What stands there.
        value: f64,
    },
    /// A timestamp is null.
    #[error("column '{column}', row {row}: the timestamp is null, expected a time")]
    NullTimestamp {
        /// The timestamp column.
        column: String,
        /// The first offending row.
        row: usize,
    },
    /// Timestamps must rise from row to row.
    #[error(
        "column '{column}', row {row}: timestamp {found} ms follows {previous} ms, \
         expected strictly ascending times; sort the frame and remove duplicates"
    )]
    NotAscending {
        /// The timestamp column.
        column: String,
        /// The first row that is not later than the one before it.
        row: usize,
        /// The time of the row before, milliseconds since 1970.
        previous: i64,
        /// The time of this row, milliseconds since 1970.
        found: i64,
    },
    /// A file of the bulk archive that cannot be read.
    #[error("{0}")]
    Archive(String),
    /// Fewer rows than the operation needs.
    #[error("{what} needs at least {needed} rows, got {rows}")]
    TooShort {
        /// The operation.
        what: &'static str,
        /// Rows received.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// A scaler saw no value at all.
    #[error("feature '{feature}' has no value in rows {start}..{end}, nothing to fit a scaler on")]
    NothingToFit {
        /// The feature.
        feature: String,
        /// First row of the fit.
        start: usize,
        /// One past the last row of the fit.
        end: usize,
    },
    /// The values of a feature are too large to be scaled.
    #[error("feature '{feature}' has values too large to be scaled, expected less than 1e300")]
    TooWide {
        /// The feature.
        feature: String,
    },
    /// A pipeline was used before it was fitted.
    #[error("the pipeline has no scalers yet; call fit() first")]
    NotFitted,
    /// A window start that does not fit the matrix.
    #[error(
        "window start {start} (position {position}) with length {length} does not fit \
         into {rows} rows; expected 0 <= start <= {last}"
    )]
    WindowOutOfRange {
        /// The offending start.
        start: i64,
        /// Its index in the array of starts.
        position: usize,
        /// Window length in rows.
        length: usize,
        /// Rows of the matrix that a window may touch.
        rows: usize,
        /// The last valid start.
        last: i64,
    },
    /// A window of candles that cannot be scaled by its own values.
    #[error(
        "the window from row {start} on: row {row} has a value that is missing or not above 0; \
         usable() names the windows without one"
    )]
    BadWindow {
        /// First row of the window.
        start: i64,
        /// The first bad row.
        row: usize,
    },
    /// A result that does not fit into memory.
    #[error("{values} values do not fit into memory; gather fewer windows at a time")]
    TooLarge {
        /// Number of values of the result.
        values: usize,
    },
    /// An argument outside of its range.
    #[error("{name} is {value}, expected {expected}")]
    InvalidArgument {
        /// The argument.
        name: &'static str,
        /// What was passed.
        value: String,
        /// What is accepted.
        expected: String,
    },
}
