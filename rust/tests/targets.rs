//! The fuzz targets: functions that take any bytes and panic if a property does not hold.
//!
//! `rust/fuzz` runs them with libFuzzer, and `corpus.rs` on their corpus as a normal test.

use std::io::{Cursor, Read};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array};
use arrow_buffer::{NullBuffer, ScalarBuffer};
use atb_fast_core::archive::{CandleColumns, read_zip};
use atb_fast_core::candles::CandleMatrix;
use atb_fast_core::column::Column;
use atb_fast_core::expr::op::Param;
use atb_fast_core::expr::{Expression, Feature, Input, Pipeline};
use atb_fast_core::merge::{How, Run, check_ascending, join, take};
use atb_fast_core::parallel::Threads;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Takes any bytes.
type Target = fn(&[u8]);

/// The targets by name, which is also the name of the corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("zip", zip),
    ("csv", csv),
    ("evaluator", evaluator),
    ("columns", columns),
    ("merge", merge),
];

const MOST_ROWS: usize = 40;
const DAY: std::ops::Range<i64> = 0..4_102_444_800_000;

/// A file of the archive. If it is accepted, another reader finds the same content.
fn zip(data: &[u8]) {
    let Ok(candles) = read_zip(data, MOST_ROWS, &DAY, &mut Vec::new()) else {
        return;
    };
    let mut archive = ZipArchive::new(Cursor::new(data)).expect("an accepted zip");
    // The other reader refuses what claims to be encrypted, or to need a newer version.
    let Ok(mut entry) = archive.by_index(0) else {
        return;
    };
    let mut text = Vec::new();
    entry.read_to_end(&mut text).expect("accepted content");
    assert_eq!(candles, plainly(&String::from_utf8_lossy(&text)));
}

/// The CSV in a file of the archive.
fn csv(data: &[u8]) {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    writer.start_file("day.csv", stored).expect("memory");
    std::io::Write::write_all(&mut writer, data).expect("memory");
    zip(writer.finish().expect("memory").get_ref());
}

/// Reads a CSV with the standard library only.
fn plainly(text: &str) -> CandleColumns {
    let mut candles = CandleColumns::default();
    let lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), 12);
        let time: i64 = fields[0].parse().expect("a time");
        let micros = time > 10_000_000_000_000;
        candles.times.push(if micros { time / 1000 } else { time });
        for (values, field) in candles.values.iter_mut().zip(&fields[1..]) {
            values.push(field.parse().expect("a decimal"));
        }
    }
    candles
}

/// Takes numbers from bytes, then zeros after the last byte.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Returns a number below `end`, which is at most 256.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    fn eight(&mut self) -> [u8; 8] {
        std::array::from_fn(|_| self.byte())
    }

    /// Returns a number: often a small or a special one, sometimes any.
    fn number(&mut self) -> f64 {
        const SPECIAL: [f64; 16] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1e-300,
            1e300,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1_048_576.0,
            1_048_577.0,
            9_007_199_254_740_993.0,
        ];
        match self.byte() {
            byte @ 0..128 => f64::from(byte),
            byte @ 128..240 => f64::from(byte - 128) / 7.0 - 8.0,
            byte @ 240..255 => SPECIAL[usize::from(byte - 240)],
            255 => f64::from_le_bytes(self.eight()),
        }
    }

    /// Returns a column in chunks, each with its own offset and null bitmap, and its values.
    fn column(&mut self, rows: usize, finite: bool) -> (Vec<ArrayRef>, Vec<Option<f64>>) {
        let (mut chunks, mut known) = (Vec::new(), Vec::new());
        while known.len() < rows {
            let length = (1 + self.below(64)).min(rows - known.len());
            let (before, after) = (self.below(9), self.below(9));
            let whole = before + length + after;
            let with_nulls = self.byte() < 96;
            let values: Vec<f64> = (0..whole)
                .map(|_| self.number())
                .map(|value| {
                    if finite && !value.is_finite() {
                        3.25
                    } else {
                        value
                    }
                })
                .collect();
            let valid: Vec<bool> = (0..whole)
                .map(|_| !with_nulls || self.byte() % 4 != 1)
                .collect();
            known.extend((before..before + length).map(|row| valid[row].then_some(values[row])));
            let nulls = with_nulls.then(|| NullBuffer::from(valid));
            let array = Float64Array::new(ScalarBuffer::from(values), nulls);
            chunks.push(Arc::new(array.slice(before, length)) as ArrayRef);
            if self.byte() < 16 {
                chunks.push(Arc::new(array.slice(before, 0)));
            }
        }
        (chunks, known)
    }

    /// Returns strictly ascending times.
    fn times(&mut self, rows: usize) -> Vec<i64> {
        let mut time = if self.byte() < 8 {
            i64::from_le_bytes(self.eight())
        } else {
            1_700_000_000_000
        };
        let mut times = Vec::with_capacity(rows);
        for _ in 0..rows {
            times.push(time);
            let step = match self.byte() {
                byte @ 0..200 => 1 + i64::from(byte % 4) * 30_000,
                byte => i64::from(byte - 199) * 86_400_000,
            };
            let Some(later) = time.checked_add(step) else {
                break;
            };
            time = later;
        }
        times
    }
}

/// Reading columns of any type, with offsets, null bitmaps and chunks.
fn columns(data: &[u8]) {
    let mut bytes = Bytes(data);
    let rows = bytes.below(200);
    let (mut chunks, known) = bytes.column(rows, false);
    if bytes.byte() == 1 {
        chunks.push(Arc::new(Int64Array::from(vec![1])));
        assert!(Column::new("x", &chunks).is_err());
        return;
    }
    let column = Column::new("x", &chunks).expect("float64");
    assert_eq!(column.len(), rows);
    let holes = (0..rows).filter(|row| known[*row].is_none());
    assert!(column.nulls().eq(holes));
    let start = bytes.below(rows + 1);
    let end = start + bytes.below(rows - start + 1);
    let expected = &known[start..end];
    let bad = expected
        .iter()
        .position(|value| value.is_some_and(|value| !value.is_finite()));
    let same = |found: &[f64]| {
        found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(found, value)| match value {
                    None => found.is_nan(),
                    Some(value) => value.to_bits() == found.to_bits(),
                })
    };
    let mut buffer = vec![7.0; end - start];
    assert_eq!(column.read(start..end, &mut buffer).is_ok(), bad.is_none());
    assert!(bad.is_some() || same(&buffer));
    let mut buffer = vec![7.0; end - start];
    match column.view(start..end, &mut buffer) {
        Ok(found) => assert!(bad.is_none() && same(found)),
        Err(error) => {
            let row = format!("row {}:", start + bad.expect("a bad value"));
            assert!(error.to_string().contains(&row), "{error}");
        }
    }
    let whole = known.iter().flatten().all(|value| value.is_finite());
    let made = CandleMatrix::new(std::slice::from_ref(&column));
    assert_eq!(made.is_ok(), whole);
    let Ok(candles) = made else { return };
    let length = 1 + bytes.below(12);
    let usable = candles.usable(length);
    let positive = |value: &Option<f64>| value.is_some_and(|value| value > 0.0);
    let expected = (0..(rows + 1).saturating_sub(length))
        .filter(|start| known[*start..start + length].iter().all(positive));
    assert!(usable.iter().map(|start| *start as usize).eq(expected));
    let mut out = vec![f32::NAN; usable.len() * length];
    if rows >= length && candles.gather_scaled(&usable, length, &mut out).is_ok() {
        assert!(out.iter().all(|value| (0.0..=1.0).contains(value)));
    }
}

/// Joins of a series to candles, and the order of times.
fn merge(data: &[u8]) {
    let mut bytes = Bytes(data);
    let how = match bytes.byte() % 4 {
        0 => How::Exact,
        1 => How::Resampled {
            step: 30_000 * (1 + i64::from(bytes.byte() % 8)),
        },
        2 => How::Resampled {
            step: i64::from_le_bytes(bytes.eight()),
        },
        _ => How::AsOf {
            lag: if bytes.byte() < 200 {
                30_000 * i64::from(bytes.byte())
            } else {
                i64::from_le_bytes(bytes.eight())
            },
        },
    };
    let most = (bytes.below(100), bytes.below(100));
    let (left, right) = (bytes.times(most.0), bytes.times(most.1));
    let mut mixed = left.clone();
    mixed.extend(&right);
    let ascending = mixed.windows(2).all(|pair| pair[0] < pair[1]);
    assert_eq!(check_ascending("timestamp", &mixed).is_ok(), ascending);
    let Ok(runs) = join(&left, &right, how) else {
        let valid = matches!(
            how,
            How::Exact | How::Resampled { step: 1.. } | How::AsOf { lag: 0.. }
        );
        assert!(!valid);
        return;
    };
    let rows: Vec<_> = runs
        .iter()
        .flat_map(|Run { candles, row }| std::iter::repeat_n(*row, *candles))
        .collect();
    assert_eq!(rows.len(), left.len());
    for (row, candle) in rows.iter().zip(&left) {
        // One by one, in integers that cannot overflow.
        let (candle, wide) = (i128::from(*candle), |row: usize| i128::from(right[row]));
        let newest = |lag: i64| {
            let old = right.partition_point(|time| i128::from(*time) + i128::from(lag) <= candle);
            old.checked_sub(1)
        };
        let expected = match how {
            How::Exact => newest(0).filter(|row| wide(*row) == candle),
            How::AsOf { lag } => newest(lag),
            How::Resampled { step } => newest(0).filter(|_| {
                let origin = wide(0) - wide(0).rem_euclid(86_400_000);
                candle <= wide(right.len() - 1) && (candle - origin) % i128::from(step) == 0
            }),
        };
        assert_eq!(*row, expected, "{how:?} {candle}");
    }
    let (chunks, known) = bytes.column(right.len(), true);
    let column = Column::new("value", &chunks).expect("float64");
    let taken = take(&column, &runs).expect("finite values");
    let expected = rows.iter().map(|row| row.and_then(|row| known[row]));
    assert!(taken.iter().eq(expected));
}

/// Operators by name, and two that do not exist.
const OPERATORS: [&str; 50] = [
    "column",
    "number",
    "where",
    "clip",
    "fill",
    "lag",
    "quantile",
    "log",
    "log1p",
    "exp",
    "sqrt",
    "abs",
    "sign",
    "tanh",
    "sin",
    "cos",
    "neg",
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "minimum",
    "maximum",
    "sum",
    "mean",
    "min",
    "max",
    "median",
    "rank",
    "std",
    "var",
    "argmax",
    "argmin",
    "count",
    "slope",
    "rsquare",
    "resid",
    "ema",
    "wilder",
    "rsi_simple",
    "rsi_wilder",
    "corr",
    "nothing",
];
const MORE: [&str; 4] = ["cov", "hour", "weekday", "day_of_year"];
/// Above this many rows of lookback, one execution takes too long.
const MOST_LOOKBACK: usize = 5_000;

type Nodes = Vec<(String, Vec<usize>, Vec<Param>)>;

fn nodes(bytes: &mut Bytes) -> Nodes {
    let count = 1 + bytes.below(12);
    let mut nodes = Nodes::new();
    for node in 0..count {
        let all = OPERATORS.len() + MORE.len();
        let pick = bytes.below(all);
        let name = OPERATORS
            .iter()
            .chain(&MORE)
            .nth(pick)
            .expect("an operator");
        let arity = match *name {
            "column" | "number" | "hour" | "weekday" | "day_of_year" => 0,
            "where" => 3,
            "corr" | "cov" => 2,
            _ => usize::from((17..30).contains(&pick)) + 1,
        };
        // Mostly valid, so that there is something to compute.
        let broken = bytes.byte() > 250;
        let arity = if broken { bytes.below(4) } else { arity };
        let args = (0..arity).map(|_| bytes.below(node + usize::from(broken)));
        let args = args.collect();
        let params = match *name {
            "column" => vec![Param::Text(["x", "y"][bytes.below(2)].to_owned())],
            "number" | "fill" | "hour" | "weekday" | "day_of_year" => {
                vec![Param::Number(bytes.number())]
            }
            "clip" => vec![Param::Number(bytes.number()), Param::Number(bytes.number())],
            "quantile" => vec![
                Param::Number(bytes.number()),
                Param::Number(f64::from(bytes.byte()) / 255.0),
            ],
            _ if pick >= 30 || *name == "lag" => vec![Param::Number(bytes.number())],
            _ => Vec::new(),
        };
        nodes.push(((*name).to_owned(), args, params));
    }
    nodes
}

/// Expressions and their evaluation. A value depends on no later row, and on `lookback` earlier
/// ones; it does not depend on how the columns are chunked.
fn evaluator(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut features = Vec::new();
    for feature in 0..=bytes.below(3) {
        let given = nodes(&mut bytes);
        let Ok(expression) = Expression::new(&given) else {
            return;
        };
        // An accepted node survives a round trip.
        let written: Nodes = expression
            .nodes()
            .iter()
            .map(|(op, args)| (op.name().to_owned(), args.clone(), op.params()))
            .collect();
        assert_eq!(Expression::new(&written).as_ref(), Ok(&expression));
        features.push(Feature {
            name: feature.to_string(),
            expression,
            null_as: (bytes.byte() < 128).then(|| bytes.number()),
        });
    }
    let Ok(pipeline) = Pipeline::new(features) else {
        return;
    };
    if pipeline.lookback() > MOST_LOOKBACK {
        return;
    }
    let rows = if bytes.byte() > 245 {
        1_100
    } else {
        bytes.below(200)
    };
    let times = bytes.times(rows);
    let rows = times.len();
    let made: Vec<_> = pipeline
        .columns()
        .iter()
        .map(|_| bytes.column(rows, true))
        .collect();
    let whole = evaluated(&pipeline, &made, &times, 0..rows);
    let (start, end) = (
        bytes.below(rows.min(255) + 1),
        rows - bytes.below(rows.min(255) + 1),
    );
    let width = pipeline.features().len();
    let compare = |part: &[f64], row: usize, offset: usize| {
        for (feature, made) in pipeline.features().iter().enumerate() {
            let found = part[(row - offset) * width + feature];
            let expected = whole[row * width + feature];
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "row {row} of {rows}, from {offset}: {found} is not {expected}: {:?}",
                made.expression
            );
        }
    };
    if start < end {
        let part = evaluated(&pipeline, &made, &times, 0..end);
        (0..end).for_each(|row| compare(&part, row, 0));
        let part = evaluated(&pipeline, &made, &times, start..rows);
        (start + pipeline.lookback()..rows).for_each(|row| compare(&part, row, start));
    }
    // Fitting may fail, but not otherwise.
    let plain: Vec<_> = made.iter().map(|(chunks, _)| chunks.clone()).collect();
    let columns: Vec<_> = plain
        .iter()
        .map(|chunks| Column::new("x", chunks).expect("float64"))
        .collect();
    let input = Input {
        columns: &columns,
        times: &times,
        rows,
    };
    let counts = pipeline.nulls(input, Threads::ONE).expect("finite columns");
    for (feature, count) in counts.iter().enumerate() {
        let values = whole.iter().skip(feature).step_by(width);
        let nulls = values.filter(|value| value.is_nan()).count();
        assert_eq!(count.warmup + count.input + count.undefined, nulls);
    }
    let Ok(fitted) = pipeline.clone().fit(input, 0..rows, Threads::ONE) else {
        return;
    };
    let matrix = fitted
        .transform::<f32>(input, Threads::ONE)
        .expect("a fitted pipeline");
    let complete = whole
        .chunks(width)
        .filter(|row| row.iter().all(|value| !value.is_nan()));
    assert_eq!(matrix.rows(), complete.count());
    assert!(matrix.data().iter().all(|value| value.is_finite()));
}

/// Evaluates some rows; those of a part are in one chunk.
fn evaluated(
    pipeline: &Pipeline,
    made: &[(Vec<ArrayRef>, Vec<Option<f64>>)],
    times: &[i64],
    rows: std::ops::Range<usize>,
) -> Vec<f64> {
    let whole = rows.len() == times.len();
    let chunks: Vec<Vec<ArrayRef>> = made
        .iter()
        .map(|(chunks, known)| {
            let part: ArrayRef = Arc::new(Float64Array::from(known[rows.clone()].to_vec()));
            if whole { chunks.clone() } else { vec![part] }
        })
        .collect();
    let columns: Vec<_> = chunks
        .iter()
        .map(|chunks| Column::new("x", chunks).expect("float64"))
        .collect();
    let input = Input {
        columns: &columns,
        times: &times[rows.clone()],
        rows: rows.len(),
    };
    let found = pipeline.evaluate(input, Threads::ONE);
    found.expect("finite columns").data().to_vec()
}
