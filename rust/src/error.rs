//! The error type of the kernels. Every message says what was found and what was expected.

use thiserror::Error;

/// Result of a kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with the input of a kernel. Rows count from 0.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Error {
    /// A column is missing in the frame.
    #[error("column '{column}' is missing; the frame has: {available}")]
    MissingColumn {
        /// The column asked for.
        column: String,
        /// The columns of the frame, separated by commas.
        available: String,
    },
    /// A column has a type that the kernel cannot read.
    #[error("column '{column}' has dtype {found}, expected {expected}; cast it first")]
    WrongType {
        /// The offending column.
        column: String,
        /// Its Arrow type.
        found: String,
        /// The types that it can read.
        expected: &'static str,
    },
    /// NaN or an infinity where a finite number is needed.
    #[error(
        "column '{column}', row {row}: found {value}, expected a finite number \
         (a missing value is null, not NaN)"
    )]
    NotFinite {
        /// The offending column.
        column: String,
        /// The first offending row.
        row: usize,
        /// The value there.
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
    /// A timestamp is not later than the one before it.
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
    /// A feature has no value to fit its scaler on.
    #[error(
        "feature '{feature}' has no value in rows {start}..{end} to fit its scaler on; \
         pass rows that have one"
    )]
    NothingToFit {
        /// The feature.
        feature: String,
        /// First row of the fit.
        start: usize,
        /// First row after the fit.
        end: usize,
    },
    /// The values of a feature are too large to be scaled.
    #[error("feature '{feature}' has values too large to be scaled, expected less than 1e300")]
    TooWide {
        /// The feature.
        feature: String,
    },
    /// A pipeline was used before it was fitted.
    #[error("the pipeline is not fitted; call fit() first, or pass scalers")]
    NotFitted,
    /// A window does not fit into the matrix.
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
        /// Rows that a window can use.
        rows: usize,
        /// The last valid start.
        last: i64,
    },
    /// A window of candles cannot be scaled by its own values.
    #[error(
        "window start {start}: row {row} has a value that is missing, zero or negative; \
         usable() returns the starts of windows without one"
    )]
    BadWindow {
        /// First row of the window.
        start: i64,
        /// The first bad row.
        row: usize,
    },
    /// A result does not fit into memory.
    #[error("{values} values do not fit into memory; gather fewer windows at a time")]
    TooLarge {
        /// Number of values of the result.
        values: usize,
    },
    /// A node of an expression is not valid.
    #[error("nodes[{node}], {op}: {reason}")]
    InvalidNode {
        /// Its index.
        node: usize,
        /// The name of its operator.
        op: String,
        /// What is wrong.
        reason: String,
    },
    /// An argument is out of its range.
    #[error("{name} is {value}, expected {expected}")]
    InvalidArgument {
        /// The argument.
        name: &'static str,
        /// What was passed.
        value: String,
        /// What would be accepted.
        expected: String,
    },
}
