//! Daily files of the exchange's bulk archive: a zip that holds one headerless CSV of candles.

use std::io::{Cursor, Read};
use std::ops::Range;

use libdeflater::{Decompressor, crc32};
use memchr::{memchr, memchr_iter};
use zip::{CompressionMethod, ZipArchive};

use crate::{Error, Result, parallel};

/// Columns of the CSV that are read, in their order there; seven more follow and are dropped.
pub const COLUMNS: [&str; 6] = ["timestamp", "open", "high", "low", "close", "volume"];
const CSV_COLUMNS: usize = 12;

/// More than the longest row the archive has: twelve numbers of up to twenty digits.
const MAX_ROW_BYTES: u64 = 320;

/// A file takes longer than a thread takes to start.
const FILES_PER_THREAD: usize = 2;

/// Above this an open time is in microseconds: the archive's are from 2025 on.
const LARGEST_MILLISECONDS: i64 = 10_000_000_000_000;

/// The candles of one file.
#[derive(Debug, Default, PartialEq)]
pub struct Candles {
    /// Open times, milliseconds since 1970, in the order of the file.
    pub times: Vec<i64>,
    /// Open, high, low, close and volume.
    pub values: [Vec<f64>; 5],
}

/// Returns the candles of a zip that holds one CSV of at most `max_rows` rows, all of them opened
/// in `day`, milliseconds since 1970. `text` is room for the CSV, to be used again for the next one.
///
/// # Errors
/// [`Error::Archive`] if the zip is corrupt, holds not exactly one file, or expands beyond what
/// `max_rows` can need; if a row is not twelve columns of plain numbers, does not belong to the day,
/// is not later than the one before it, or is a bar that cannot be.
pub fn read_zip(
    bytes: &[u8],
    max_rows: usize,
    day: &Range<i64>,
    text: &mut Vec<u8>,
) -> Result<Candles> {
    let corrupt = |error: &dyn std::fmt::Display| Error::Archive(format!("corrupt zip: {error}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
    if archive.len() != 1 {
        return Err(Error::Archive(format!(
            "{} files in the zip, expected one CSV",
            archive.len()
        )));
    }
    let mut entry = archive.by_index_raw(0).map_err(|error| corrupt(&error))?;
    let limit = max_rows as u64 * MAX_ROW_BYTES;
    if entry.size() > limit {
        return Err(Error::Archive(format!(
            "the CSV expands beyond {limit} bytes, more than {max_rows} rows can need"
        )));
    }
    let mut packed = Vec::with_capacity(entry.compressed_size().min(bytes.len() as u64) as usize);
    entry
        .read_to_end(&mut packed)
        .map_err(|error| corrupt(&error))?;
    match entry.compression() {
        CompressionMethod::STORE => *text = packed,
        CompressionMethod::DEFLATE => {
            // The size is only a claim of the zip: nothing is written beyond it.
            text.resize(entry.size() as usize, 0);
            let written = Decompressor::new()
                .deflate_decompress(&packed, text)
                .map_err(|error| corrupt(&error))?;
            text.truncate(written);
        }
        method => return Err(corrupt(&format!("compressed by {method}"))),
    }
    if text.len() as u64 != entry.size() || crc32(text) != entry.crc32() {
        return Err(corrupt(
            &"its content does not have the size and checksum it says",
        ));
    }
    parse(text, max_rows, day)
}

/// Returns the candles of several files, and why some of them could not be read, by their number.
///
/// `files` are zips with the day they are of, as [`read_zip`] takes them. The rows of a file that
/// cannot be read are not there at all. Cores share the files.
#[must_use]
pub fn read_zips(files: &[(&[u8], Range<i64>)], max_rows: usize) -> (Candles, Vec<(usize, Error)>) {
    let parts = parallel::split_by(0..files.len(), FILES_PER_THREAD);
    let read = parallel::map(parts, |part| {
        let mut candles = Candles::default();
        let mut problems = Vec::new();
        let mut text = Vec::new();
        for number in part {
            let (bytes, day) = &files[number];
            match read_zip(bytes, max_rows, day, &mut text) {
                Ok(read) => candles.extend(&read),
                Err(error) => problems.push((number, error)),
            }
        }
        (candles, problems)
    });
    let (mut all, mut problems) = (Candles::default(), Vec::new());
    for (candles, others) in read {
        all.extend(&candles);
        problems.extend(others);
    }
    (all, problems)
}

impl Candles {
    fn extend(&mut self, other: &Self) {
        self.times.extend_from_slice(&other.times);
        for (values, others) in self.values.iter_mut().zip(&other.values) {
            values.extend_from_slice(others);
        }
    }
}

fn parse(text: &[u8], max_rows: usize, day: &Range<i64>) -> Result<Candles> {
    let mut candles = Candles::default();
    candles.times.reserve(max_rows);
    for column in &mut candles.values {
        column.reserve(max_rows);
    }
    for (row, line) in lines(text).enumerate() {
        if row == max_rows {
            return Err(Error::Archive(format!("more than {max_rows} rows")));
        }
        let mut rest = line;
        let time = next_field(&mut rest);
        let time: i64 = plain(time).ok_or_else(|| not_a_number(time, row, 0))?;
        let time = if time > LARGEST_MILLISECONDS {
            time / 1000
        } else {
            time
        };
        let previous = candles.times.last();
        if !day.contains(&time) || previous.is_some_and(|&previous| previous >= time) {
            return Err(Error::Archive(format!(
                "row {row}: opened at {time} ms, expected a later time of the same day"
            )));
        }
        candles.times.push(time);
        let mut bar = [0.0; 5];
        for (column, value) in bar.iter_mut().enumerate() {
            let field = next_field(&mut rest);
            *value = decimal(field).ok_or_else(|| not_a_number(field, row, column + 1))?;
        }
        if !can_be(&bar) {
            return Err(Error::Archive(format!(
                "row {row}: a bar that cannot be: {bar:?}"
            )));
        }
        for (values, value) in candles.values.iter_mut().zip(bar) {
            values.push(value);
        }
        let columns = memchr_iter(b',', line).count() + 1;
        if columns != CSV_COLUMNS {
            return Err(Error::Archive(format!(
                "row {row}: {columns} columns, expected {CSV_COLUMNS}"
            )));
        }
    }
    Ok(candles)
}

/// Whether a market can have made this bar.
fn can_be(&[open, high, low, close, volume]: &[f64; 5]) -> bool {
    low > 0.0
        && low <= open.min(close)
        && high >= open.max(close)
        && high.is_finite()
        && volume.is_finite()
}

/// Lines that are not empty, without their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (line, behind) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None if rest.is_empty() => return None,
            None => (rest, &rest[rest.len()..]),
        };
        rest = behind;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
    .filter(|line| !line.is_empty())
}

/// Returns what stands before the next comma, and moves behind it.
fn next_field<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = memchr(b',', rest).unwrap_or(rest.len());
    let field = &rest[..end];
    *rest = &rest[(end + 1).min(rest.len())..];
    field
}

/// Returns a number of digits and at most one point, rounded to the nearest `f64`.
///
/// Rust's own parser would read nan, inf, signs and exponents, too; the exchange writes none.
fn decimal(field: &[u8]) -> Option<f64> {
    // Up to 15 digits and powers of ten up to 10^22 are exact in f64, so that their quotient is
    // rounded once (Clinger 1990, "How to read floating point numbers accurately").
    const EXACT_DIGITS: usize = 15;
    const POWERS: [f64; EXACT_DIGITS + 1] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    ];
    let (mut mantissa, mut digits, mut decimals, mut point) = (0_u64, 0, 0_usize, false);
    for &byte in field {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa
                    .wrapping_mul(10)
                    .wrapping_add(u64::from(byte - b'0'));
                digits += 1;
                decimals += usize::from(point);
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    match digits {
        0 => None,
        1..=EXACT_DIGITS => Some(mantissa as f64 / POWERS[decimals]),
        _ => plain(field),
    }
}

fn plain<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn not_a_number(field: &[u8], row: usize, column: usize) -> Error {
    Error::Archive(format!(
        "row {row}, {}: found '{}', expected a number",
        COLUMNS[column],
        String::from_utf8_lossy(&field[..field.len().min(40)])
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const ANY: Range<i64> = 0..i64::MAX;

    fn read_zip(bytes: &[u8], max_rows: usize, day: &Range<i64>) -> Result<Candles> {
        super::read_zip(bytes, max_rows, day, &mut Vec::new())
    }

    fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn line(time: i64, close: &str) -> String {
        format!("{time},1.5,99999,0.05,{close},7.25,0,0,0,0,0,0\n")
    }

    fn message(text: &str, max_rows: usize) -> String {
        read_zip(&zipped(&[("day.csv", text)]), max_rows, &ANY)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_milliseconds_and_microseconds() {
        let text = line(1_735_689_540_000, "0.1") + &line(1_735_689_600_000_000, "94591.78");
        let candles = read_zip(&zipped(&[("day.csv", &text)]), 2, &ANY).unwrap();
        assert_eq!(candles.times, [1_735_689_540_000, 1_735_689_600_000]);
        assert_eq!(candles.values[3], [0.1, 94_591.78]);
        assert_eq!(candles.values[4], [7.25, 7.25]);
    }

    #[test]
    fn rounds_every_decimal_to_the_nearest_float() {
        proptest::proptest!(|(whole in 0_u64..100_000_000_000, decimals in "[0-9]{0,30}")| {
            let text = format!("{whole}.{decimals}");
            proptest::prop_assert_eq!(decimal(text.as_bytes()), text.parse().ok());
        });
    }

    #[test]
    fn accepts_windows_line_ends_and_an_empty_file() {
        let text = line(1, "2").replace('\n', "\r\n");
        let windows = read_zip(&zipped(&[("day.csv", &text)]), 1, &ANY).unwrap();
        assert_eq!(windows.values[3], [2.0]);
        let empty = read_zip(&zipped(&[("day.csv", "")]), 1, &ANY).unwrap();
        assert_eq!(empty, Candles::default());
    }

    #[test]
    fn names_the_row_and_the_column() {
        for bad in ["nan", "-1", "1e5", "", "1.2.3"] {
            let text = line(1, "2") + &line(2, bad);
            let expected = format!("row 1, close: found '{bad}', expected a number");
            assert!(message(&text, 9).contains(&expected), "{bad}");
        }
        assert!(message("1,2,3,1,2,6,7\n", 9).contains("row 0: 7 columns, expected 12"));
        assert!(message("1,2\n", 9).contains("row 0, high: found ''"));
    }

    #[test]
    fn refuses_other_days_and_rows_out_of_order() {
        let zip = |text: &str| zipped(&[("day.csv", text)]);
        let good = line(10, "2") + &line(11, "2");
        assert_eq!(read_zip(&zip(&good), 9, &(10..12)).unwrap().times, [10, 11]);
        assert!(read_zip(&zip(&good), 9, &(10..11)).is_err());
        assert!(read_zip(&zip(&good), 9, &(11..12)).is_err());
        assert!(message(&(line(2, "2") + &line(2, "2")), 9).contains("row 1: opened at 2 ms"));
    }

    #[test]
    fn refuses_bars_that_cannot_be() {
        for bar in ["0,3,0,2,1", "2,1.5,1,2,1", "2,3,2.5,2,1", "2,3,1,4,1"] {
            let text = format!("1,{bar},0,0,0,0,0,0");
            assert!(
                message(&text, 9).contains("row 0: a bar that cannot be"),
                "{bar}"
            );
        }
        let endless = format!("1,2,{},1,2,1,0,0,0,0,0,0", "9".repeat(310));
        assert!(message(&endless, 9).contains("cannot be"));
    }

    #[test]
    fn files_that_cannot_be_read_leave_the_others() {
        let day = |i: i64| zipped(&[("day.csv", &(line(i, "2") + &line(i + 1, "3")))]);
        let zips: Vec<_> = (0..20).map(|i| day(i * 10)).collect();
        let files: Vec<_> = (0..20)
            .map(|i| {
                let bytes = if i == 7 { &zips[8] } else { &zips[i as usize] };
                (&bytes[..], i * 10..i * 10 + 10)
            })
            .collect();
        let (candles, problems) = read_zips(&files, 2);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, 7);
        let times: Vec<_> = (0..20)
            .filter(|i| *i != 7)
            .flat_map(|i| [i * 10, i * 10 + 1])
            .collect();
        assert_eq!(candles.times, times);
        assert_eq!(candles.values[3], [2.0, 3.0].repeat(19));
        assert_eq!(read_zips(&[], 2), (Candles::default(), vec![]));
    }

    #[test]
    fn refuses_more_than_the_day_can_hold() {
        let text = line(1, "2") + &line(2, "2");
        assert!(message(&text, 1).contains("more than 1 rows"));
        // A zip bomb: a megabyte of zeros is a kilobyte zipped.
        assert!(message(&"0".repeat(1 << 20), 1440).contains("expands beyond 460800 bytes"));
    }

    #[test]
    fn refuses_what_is_no_zip_of_one_file() {
        let good = zipped(&[(
            "day.csv",
            &(0..50).map(|i| line(i, "2")).collect::<String>(),
        )]);
        assert!(read_zip(b"<html>", 9, &ANY).is_err());
        let mut claims_less = good.clone();
        let directory = claims_less.len() - 22 - 46 - "day.csv".len();
        claims_less[directory + 24] -= 1;
        assert!(read_zip(&claims_less, 50, &ANY).is_err());
        let two = zipped(&[("a.csv", ""), ("b.csv", "")]);
        let error = read_zip(&two, 9, &ANY).unwrap_err().to_string();
        assert!(error.contains("2 files in the zip"), "{error}");
        let mut flipped = good.clone();
        flipped[60] ^= 0x10;
        assert!(read_zip(&flipped, 50, &ANY).is_err());
        for end in 0..good.len() {
            assert!(read_zip(&good[..end], 50, &ANY).is_err(), "cut at {end}");
        }
    }
}
