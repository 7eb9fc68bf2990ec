//! The CSV in a file of the archive, from text to columns.

use std::ops::Range;

use lexical_parse_float::{FromLexicalWithOptions, NumberFormatBuilder, Options};
use memchr::{memchr, memchr_iter};

use super::{ArchiveError, CandleColumns};

/// The columns of the CSV that are read, in their order. Six more follow and are ignored.
pub const COLUMNS: [&str; 6] = ["timestamp", "open", "high", "low", "close", "volume"];

/// Columns of the CSV.
pub(super) const CSV_COLUMNS: usize = 12;

/// The shortest row has twelve digits, eleven commas and a line end.
const FEWEST_ROW_BYTES: usize = 2 * CSV_COLUMNS;

/// An open time above this is in microseconds, as in files from 2025 on.
const LARGEST_MILLISECONDS: i64 = 10_000_000_000_000;

/// Returns the candles of a CSV of at most `max_rows` rows, all of which opened in `day`.
///
/// # Errors
/// As [`super::read_zip`], for the content of the file.
pub fn parse(
    text: &[u8],
    max_rows: usize,
    day: &Range<i64>,
) -> Result<CandleColumns, ArchiveError> {
    let mut candles = CandleColumns::default();
    candles.reserve(max_rows.min(text.len() / FEWEST_ROW_BYTES));
    for (row, line) in lines(text).enumerate() {
        if row == max_rows {
            return Err(ArchiveError::TooManyRows(max_rows));
        }
        let mut rest = line;
        let field = next_field(&mut rest);
        let time = milliseconds(field).ok_or_else(|| not_a_number(field, row, 0))?;
        let previous = candles.times.last();
        if !day.contains(&time) || previous.is_some_and(|&previous| previous >= time) {
            return Err(ArchiveError::WrongTime { row, time });
        }
        candles.times.push(time);
        let mut candle = [0.0; 5];
        for (column, value) in candle.iter_mut().enumerate() {
            let field = next_field(&mut rest);
            *value = decimal(field).ok_or_else(|| not_a_number(field, row, column + 1))?;
        }
        if !is_possible(&candle) {
            return Err(ArchiveError::ImpossibleCandle { row, candle });
        }
        for (values, value) in candles.values.iter_mut().zip(candle) {
            values.push(value);
        }
        let columns = memchr_iter(b',', line).count() + 1;
        if columns != CSV_COLUMNS {
            return Err(ArchiveError::WrongColumns { row, columns });
        }
    }
    Ok(candles)
}

/// Returns whether trading can produce this candle.
fn is_possible(&[open, high, low, close, volume]: &[f64; 5]) -> bool {
    low > 0.0
        && low <= open.min(close)
        && high >= open.max(close)
        && high.is_finite()
        && volume.is_finite()
}

/// Returns the lines that are not empty, without their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (line, after) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None if rest.is_empty() => return None,
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
    .filter(|line| !line.is_empty())
}

/// Returns the field up to the next comma, and leaves the text after the comma in `rest`.
fn next_field<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = memchr(b',', rest).unwrap_or(rest.len());
    let field = &rest[..end];
    *rest = &rest[(end + 1).min(rest.len())..];
    field
}

/// Returns an open time in milliseconds since 1970.
fn milliseconds(field: &[u8]) -> Option<i64> {
    let time: i64 = std::str::from_utf8(field).ok()?.parse().ok()?;
    Some(if time > LARGEST_MILLISECONDS {
        time / 1000
    } else {
        time
    })
}

/// Returns the `f64` nearest to a decimal of digits and at most one point.
///
/// Signs, exponents, NaN and infinities are rejected, because the exchange writes none.
fn decimal(field: &[u8]) -> Option<f64> {
    const FORMAT: u128 = NumberFormatBuilder::new()
        .no_positive_mantissa_sign(true)
        .no_exponent_notation(true)
        .no_special(true)
        .build_strict();
    const OPTIONS: Options = Options::new();
    if field.first() == Some(&b'-') {
        return None;
    }
    f64::from_lexical_with_options::<FORMAT>(field, &OPTIONS).ok()
}

fn not_a_number(field: &[u8], row: usize, column: usize) -> ArchiveError {
    ArchiveError::NotANumber {
        row,
        column,
        found: String::from_utf8_lossy(&field[..field.len().min(40)]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounds_every_decimal_to_the_nearest_float(
            whole in prop_oneof![0_u64..100, 0_u64..100_000_000_000, 0..u64::MAX],
            decimals in "[0-9]{0,400}",
        ) {
            for text in [format!("{whole}.{decimals}"), format!("{whole}"), format!("{whole}{decimals}")] {
                let expected = text.parse::<f64>().unwrap();
                prop_assert_eq!(decimal(text.as_bytes()).map(f64::to_bits), Some(expected.to_bits()));
            }
        }

        #[test]
        fn reads_back_every_float(bits in 0..f64::INFINITY.to_bits()) {
            let value = f64::from_bits(bits);
            prop_assert_eq!(decimal(value.to_string().as_bytes()).map(f64::to_bits), Some(bits));
        }

        #[test]
        fn refuses_what_is_not_digits_and_a_point(text in "[-+0-9.eEinfaxX_, ]{0,6}") {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let expected = text.parse::<f64>().ok().filter(|_| plain);
            prop_assert_eq!(decimal(text.as_bytes()), expected);
        }
    }
}
