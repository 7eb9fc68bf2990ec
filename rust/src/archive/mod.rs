//! Daily files of the exchange's bulk archive: a zip that holds one headerless CSV of candles.

mod csv;
mod error;

use std::io::{Cursor, Read};
use std::ops::Range;

use libdeflater::{Decompressor, crc32};
use zip::{CompressionMethod, ZipArchive};

pub use self::csv::COLUMNS;
pub use self::error::ArchiveError;
use crate::parallel::{self, Threads};

/// More than the longest row of the archive, which is twelve numbers of up to twenty digits.
const MOST_ROW_BYTES: u64 = 320;

/// Reading one file is faster than starting a thread for it.
const FILES_PER_THREAD: usize = 2;

/// Candles, column by column.
#[derive(Debug, Default, PartialEq)]
pub struct CandleColumns {
    /// Open times in the order of the file, milliseconds since 1970.
    pub times: Vec<i64>,
    /// Open, high, low, close and volume.
    pub values: [Vec<f64>; 5],
}

impl CandleColumns {
    fn reserve(&mut self, rows: usize) {
        self.times.reserve(rows);
        for values in &mut self.values {
            values.reserve(rows);
        }
    }

    fn extend(&mut self, other: &Self) {
        self.times.extend_from_slice(&other.times);
        for (values, others) in self.values.iter_mut().zip(&other.values) {
            values.extend_from_slice(others);
        }
    }
}

/// Returns the candles of a zip that holds one CSV of at most `max_rows` rows, all of which opened
/// in `day`, milliseconds since 1970. `text` is a buffer for the CSV that the next call can reuse.
///
/// # Errors
/// If the zip is corrupt, does not hold exactly one file, or expands beyond what `max_rows` rows can
/// need; if a row does not have twelve columns, has something else than plain numbers in those that
/// are read, did not open in `day` and after the row before it, or is an impossible candle.
pub fn read_zip(
    bytes: &[u8],
    max_rows: usize,
    day: &Range<i64>,
    text: &mut Vec<u8>,
) -> Result<CandleColumns, ArchiveError> {
    let corrupt = |error: &dyn std::fmt::Display| ArchiveError::CorruptZip(error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
    if archive.len() != 1 {
        return Err(ArchiveError::NotOneFile(archive.len()));
    }
    let mut entry = archive.by_index_raw(0).map_err(|error| corrupt(&error))?;
    let limit = (max_rows as u64).saturating_mul(MOST_ROW_BYTES);
    if entry.size() > limit {
        return Err(ArchiveError::TooManyBytes { limit, max_rows });
    }
    let mut packed = Vec::with_capacity(entry.compressed_size().min(bytes.len() as u64) as usize);
    entry
        .read_to_end(&mut packed)
        .map_err(|error| corrupt(&error))?;
    match entry.compression() {
        CompressionMethod::STORE => *text = packed,
        CompressionMethod::DEFLATE => {
            // The size in the zip may be wrong, so decompression stops there.
            text.resize(entry.size() as usize, 0);
            let written = Decompressor::new()
                .deflate_decompress(&packed, text)
                .map_err(|error| corrupt(&error))?;
            text.truncate(written);
        }
        method => return Err(corrupt(&format!("unsupported compression {method}"))),
    }
    if text.len() as u64 != entry.size() || crc32(text) != entry.crc32() {
        return Err(corrupt(&"its content does not match its size and checksum"));
    }
    csv::parse(text, max_rows, day)
}

/// Returns the candles of several files, and for each file that cannot be read its index and why.
///
/// `files` are zips with the day that each covers, as [`read_zip`] takes them. A file that cannot be
/// read contributes no rows. Threads share the files.
#[must_use]
pub fn read_zips(
    files: &[(&[u8], Range<i64>)],
    max_rows: usize,
    threads: Threads,
) -> (CandleColumns, Vec<(usize, ArchiveError)>) {
    let parts = threads.split(0..files.len(), FILES_PER_THREAD);
    let read = parallel::map(
        threads,
        parts,
        || (),
        |(), part| {
            let mut candles = CandleColumns::default();
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
        },
    );
    let (mut all, mut problems) = (CandleColumns::default(), Vec::new());
    for (candles, others) in read {
        all.extend(&candles);
        problems.extend(others);
    }
    (all, problems)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const ANY: Range<i64> = 0..i64::MAX;

    fn read_zip(
        bytes: &[u8],
        max_rows: usize,
        day: &Range<i64>,
    ) -> Result<CandleColumns, ArchiveError> {
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
    fn accepts_windows_line_ends_and_an_empty_file() {
        let text = line(1, "2").replace('\n', "\r\n");
        let windows = read_zip(&zipped(&[("day.csv", &text)]), 1, &ANY).unwrap();
        assert_eq!(windows.values[3], [2.0]);
        let empty = read_zip(&zipped(&[("day.csv", "")]), 1, &ANY).unwrap();
        assert_eq!(empty, CandleColumns::default());
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
    fn refuses_impossible_candles() {
        for bar in ["0,3,0,2,1", "2,1.5,1,2,1", "2,3,2.5,2,1", "2,3,1,4,1"] {
            let text = format!("1,{bar},0,0,0,0,0,0");
            assert!(
                message(&text, 9).contains("row 0: impossible candle"),
                "{bar}"
            );
        }
        let endless = format!("1,2,{},1,2,1,0,0,0,0,0,0", "9".repeat(310));
        assert!(message(&endless, 9).contains("impossible candle"));
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
        let two = Threads::new(2).unwrap();
        let (candles, problems) = read_zips(&files, 2, two);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, 7);
        let times: Vec<_> = (0..20)
            .filter(|i| *i != 7)
            .flat_map(|i| [i * 10, i * 10 + 1])
            .collect();
        assert_eq!(candles.times, times);
        assert_eq!(candles.values[3], [2.0, 3.0].repeat(19));
        assert_eq!(read_zips(&[], 2, two), (CandleColumns::default(), vec![]));
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
