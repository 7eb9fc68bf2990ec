//! Why a file of the archive cannot be read.

use thiserror::Error;

use super::csv::{COLUMNS, CSV_COLUMNS};

/// What is wrong with a file of the archive. Rows count from 0.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ArchiveError {
    /// The zip is damaged, or compressed in a way that is not supported.
    #[error("corrupt zip: {0}")]
    CorruptZip(String),
    /// The zip does not hold exactly one file.
    #[error("{0} files in the zip, expected one CSV")]
    NotOneFile(usize),
    /// The CSV is larger than the rows of a day can be.
    #[error("the CSV expands beyond {limit} bytes, more than {max_rows} rows can need")]
    TooManyBytes {
        /// Largest size, bytes.
        limit: u64,
        /// Most rows a day can have.
        max_rows: usize,
    },
    /// The CSV has more rows than a day can have.
    #[error("more than {0} rows")]
    TooManyRows(usize),
    /// A candle opened on another day, or no later than the one before it.
    #[error("row {row}: opened at {time} ms, expected a later time of the same day")]
    WrongTime {
        /// The row.
        row: usize,
        /// Its open time, milliseconds since 1970.
        time: i64,
    },
    /// A field is not a plain number.
    #[error("row {row}, {}: found '{found}', expected a number", COLUMNS[*.column])]
    NotANumber {
        /// The row.
        row: usize,
        /// Index of the column in [`COLUMNS`].
        column: usize,
        /// The start of the field.
        found: String,
    },
    /// Prices or volume that no trading can produce.
    #[error(
        "row {row}: impossible candle: open, high, low, close, volume are {candle:?}, expected \
         finite values with 0 < low <= open, close <= high"
    )]
    ImpossibleCandle {
        /// The row.
        row: usize,
        /// Open, high, low, close, volume.
        candle: [f64; 5],
    },
    /// A row has too few or too many columns.
    #[error("row {row}: {columns} columns, expected {CSV_COLUMNS}")]
    WrongColumns {
        /// The row.
        row: usize,
        /// Columns found.
        columns: usize,
    },
}
