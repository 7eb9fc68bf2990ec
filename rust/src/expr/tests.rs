//! Every operator against a naive evaluation, and expressions against their parts.

#![allow(clippy::float_cmp, reason = "exact by construction")]

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use proptest::prelude::*;

use super::op::Param;
use super::{Expression, Feature, Input, Nulls, Pipeline};
use crate::column::Column;
use crate::parallel::Threads;

type Node = (String, Vec<usize>, Vec<Param>);

fn node(op: &str, args: &[usize], params: &[f64]) -> Node {
    let params = params.iter().copied().map(Param::Number).collect();
    (op.to_owned(), args.to_vec(), params)
}

fn column(name: &str) -> Node {
    let name = Param::Text(name.to_owned());
    ("column".to_owned(), vec![], vec![name])
}

/// `op` of the columns x, y and z.
fn of_columns(op: &str, arity: usize, params: &[f64]) -> Vec<Node> {
    let mut nodes: Vec<Node> = ["x", "y", "z"][..arity].iter().map(|n| column(n)).collect();
    let args: Vec<usize> = (0..arity).collect();
    nodes.push(node(op, &args, params));
    nodes
}

fn pipeline(expressions: &[Vec<Node>]) -> Pipeline {
    let features = expressions.iter().enumerate().map(|(i, nodes)| Feature {
        name: i.to_string(),
        expression: Expression::new(nodes).unwrap(),
        null_as: None,
    });
    Pipeline::new(features.collect()).unwrap()
}

/// Returns the values of each expression. `x`, `y` and `z` are `series`.
fn evaluate(
    expressions: &[Vec<Node>],
    series: &[Vec<f64>],
    chunk: usize,
    threads: usize,
) -> Vec<Vec<f64>> {
    let pipeline = pipeline(expressions);
    let chunks: Vec<Vec<ArrayRef>> = series.iter().map(|s| arrays(s, chunk)).collect();
    let names = ["x", "y", "z"];
    let columns: Vec<Column> = pipeline
        .columns()
        .iter()
        .map(|name| {
            let i = names.iter().position(|n| n == name).unwrap();
            Column::new(names[i], &chunks[i]).unwrap()
        })
        .collect();
    let rows = series[0].len();
    let times: Vec<i64> = (0..rows as i64).map(|i| i * 3_600_000).collect();
    let input = Input {
        columns: &columns,
        times: &times,
        rows,
    };
    let matrix = pipeline
        .evaluate(input, Threads::new(threads).unwrap())
        .unwrap();
    let width = expressions.len();
    let values = |i: usize| matrix.data().iter().skip(i).step_by(width).copied();
    (0..width).map(|i| values(i).collect()).collect()
}

/// Arrow chunks in which NaN is null.
fn arrays(values: &[f64], chunk: usize) -> Vec<ArrayRef> {
    let array = |part: &[f64]| {
        let values = part.iter().map(|v| (!v.is_nan()).then_some(*v));
        Arc::new(values.collect::<Float64Array>()) as ArrayRef
    };
    values.chunks(chunk).map(array).collect()
}

fn bits(values: &[f64]) -> Vec<Option<u64>> {
    let bits = |v: &f64| (!v.is_nan()).then_some(v.to_bits());
    values.iter().map(bits).collect()
}

fn series() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        12 => 0.1..100.0_f64,
        4 => (-3..4_i32).prop_map(f64::from),
        2 => -50.0..0.0_f64,
        1 => Just(f64::NAN),
    ];
    prop::collection::vec(value, 1..150)
}

/// Functions of one row: name, number of arguments, parameters.
const ROW_WISE: [(&str, usize, &[f64]); 26] = [
    ("add", 2, &[]),
    ("sub", 2, &[]),
    ("mul", 2, &[]),
    ("div", 2, &[]),
    ("pow", 2, &[]),
    ("lt", 2, &[]),
    ("le", 2, &[]),
    ("gt", 2, &[]),
    ("ge", 2, &[]),
    ("eq", 2, &[]),
    ("ne", 2, &[]),
    ("minimum", 2, &[]),
    ("maximum", 2, &[]),
    ("where", 3, &[]),
    ("neg", 1, &[]),
    ("log", 1, &[]),
    ("log1p", 1, &[]),
    ("exp", 1, &[]),
    ("sqrt", 1, &[]),
    ("abs", 1, &[]),
    ("sign", 1, &[]),
    ("tanh", 1, &[]),
    ("sin", 1, &[]),
    ("cos", 1, &[]),
    ("clip", 1, &[-1.0, 2.0]),
    ("fill", 1, &[7.0]),
];

fn naive(op: &str, row: &[f64]) -> f64 {
    let [x, y, z] = [0, 1, 2].map(|i| row.get(i).copied().unwrap_or(f64::NAN));
    let flag = |holds: bool| f64::from(u8::from(holds));
    if op == "fill" {
        return if x.is_nan() { 7.0 } else { x };
    }
    if op == "where" {
        let chosen = if x == 0.0 { z } else { y };
        return if x.is_nan() { f64::NAN } else { chosen };
    }
    if row.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let value = match op {
        "add" => x + y,
        "sub" => x - y,
        "mul" => x * y,
        "div" => x / y,
        "pow" => x.powf(y),
        "lt" => flag(x < y),
        "le" => flag(x <= y),
        "gt" => flag(x > y),
        "ge" => flag(x >= y),
        "eq" => flag(x == y),
        "ne" => flag(x != y),
        "minimum" => x.min(y),
        "maximum" => x.max(y),
        "neg" => -x,
        "log" => x.ln(),
        "log1p" => x.ln_1p(),
        "exp" => x.exp(),
        "sqrt" => x.sqrt(),
        "abs" => x.abs(),
        "sign" => flag(x > 0.0) - flag(x < 0.0),
        "tanh" => x.tanh(),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "clip" => x.clamp(-1.0, 2.0),
        other => panic!("{other}"),
    };
    if value.is_finite() { value } else { f64::NAN }
}

/// Functions of a window of one series: name, parameter after the window.
const ROLLING: [(&str, &[f64]); 18] = [
    ("sum", &[]),
    ("mean", &[]),
    ("min", &[]),
    ("max", &[]),
    ("median", &[]),
    ("quantile", &[0.8]),
    ("rank", &[]),
    ("std", &[]),
    ("var", &[]),
    ("argmax", &[]),
    ("argmin", &[]),
    ("count", &[]),
    ("slope", &[]),
    ("rsquare", &[]),
    ("resid", &[]),
    ("ema", &[]),
    ("wilder", &[]),
    ("rsi_wilder", &[]),
];

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn products(x: &[f64], y: &[f64]) -> f64 {
    let (mx, my) = (mean(x), mean(y));
    x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
}

/// A function of the values of a window, none of which is NaN.
fn naive_rolling(op: &str, window: usize, x: &[f64]) -> f64 {
    let n = x.len() as f64;
    let last = x[x.len() - 1];
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = q * (n - 1.0);
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    };
    let position = |extreme: f64| x.iter().position(|v| *v == extreme).unwrap() as f64;
    let positions: Vec<f64> = (0..x.len()).map(|i| i as f64).collect();
    let squares = products(&positions, &positions);
    let slope = products(x, &positions) / squares;
    let average = |alpha: f64, x: &[f64]| {
        x.iter()
            .copied()
            .reduce(|y, x| y + alpha * (x - y))
            .unwrap()
    };
    let changes = |sign: f64| -> Vec<f64> {
        let change = |pair: &[f64]| (sign * (pair[1] - pair[0])).max(0.0);
        x.windows(2).map(change).collect()
    };
    match op {
        "sum" => x.iter().sum(),
        "mean" => mean(x),
        "min" => sorted[0],
        "max" => sorted[sorted.len() - 1],
        "median" => quantile(0.5),
        "quantile" => quantile(0.8),
        "rank" => {
            let less = x.iter().filter(|v| **v < last).count() as f64;
            let equal = x.iter().filter(|v| **v == last).count() as f64;
            (less + f64::midpoint(equal, 1.0)) / n
        }
        "var" => products(x, x) / (n - 1.0),
        "std" => (products(x, x) / (n - 1.0)).sqrt(),
        "argmax" => position(sorted[sorted.len() - 1]),
        "argmin" => position(sorted[0]),
        "count" => x.iter().filter(|v| **v != 0.0).count() as f64,
        "slope" => slope,
        "rsquare" if sorted[0] == sorted[sorted.len() - 1] => f64::NAN,
        "rsquare" => slope * slope * squares / products(x, x),
        "resid" => last - (mean(x) + slope * (n - 1.0) / 2.0),
        "ema" => average(2.0 / (window as f64 + 1.0), x),
        "wilder" => average(1.0 / window as f64, x),
        "rsi_wilder" => {
            let up = average(1.0 / window as f64, &changes(1.0));
            let down = average(1.0 / window as f64, &changes(-1.0));
            if up + down == 0.0 {
                50.0
            } else {
                100.0 * up / (up + down)
            }
        }
        other => panic!("{other}"),
    }
}

fn assert_close(op: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        let close = (got - expected).abs() <= 1e-9 * expected.abs().max(1.0);
        let same = got.is_nan() && expected.is_nan();
        assert!(close || same, "{op}, row {row}: {got} {expected}");
    }
}

/// Applies a function to the window that ends at each row; NaN where a value of it is NaN.
fn windows(rows: usize, length: usize, function: impl Fn(Range<usize>) -> f64) -> Vec<f64> {
    (1..=rows)
        .map(|end| {
            end.checked_sub(length)
                .map_or(f64::NAN, |start| function(start..end))
        })
        .collect()
}

/// Unary and rolling operators to nest, with parameters.
const NESTED: [(&str, &[f64]); 14] = [
    ("lag", &[2.0]),
    ("lag", &[0.0]),
    ("sum", &[5.0]),
    ("mean", &[3.0]),
    ("max", &[4.0]),
    ("argmin", &[4.0]),
    ("median", &[3.0]),
    ("rank", &[6.0]),
    ("slope", &[3.0]),
    ("ema", &[2.0]),
    ("rsi_simple", &[3.0]),
    ("rsi_wilder", &[1.0]),
    ("fill", &[0.5]),
    ("log", &[]),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn row_wise_operators(values in prop::collection::vec(series(), 3), chunk in 1..70_usize) {
        let rows = values.iter().map(Vec::len).min().unwrap();
        let values: Vec<Vec<f64>> = values.iter().map(|v| v[..rows].to_vec()).collect();
        let expressions: Vec<_> = ROW_WISE.iter().map(|(op, n, p)| of_columns(op, *n, p)).collect();
        let got = evaluate(&expressions, &values, chunk, 1);
        for ((op, arity, _), got) in ROW_WISE.iter().zip(got) {
            let row = |i: usize| -> Vec<f64> { values[..*arity].iter().map(|v| v[i]).collect() };
            let expected: Vec<f64> = (0..rows).map(|i| naive(op, &row(i))).collect();
            assert_close(op, &got, &expected);
        }
    }

    #[test]
    fn rolling_operators(values in series(), window in 2..20_usize, chunk in 1..70_usize) {
        let with = |more: &[f64]| [&[window as f64], more].concat();
        let expressions: Vec<_> =
            ROLLING.iter().map(|(op, more)| of_columns(op, 1, &with(more))).collect();
        let got = evaluate(&expressions, std::slice::from_ref(&values), chunk, 2);
        for (((op, _), got), nodes) in ROLLING.iter().zip(got).zip(&expressions) {
            let length = Expression::new(nodes).unwrap().lookback() + 1;
            let expected = windows(values.len(), length, |range| {
                let part = &values[range];
                if part.iter().any(|v| v.is_nan()) {
                    f64::NAN
                } else {
                    naive_rolling(op, window, part)
                }
            });
            assert_close(op, &got, &expected);
        }
    }

    #[test]
    fn operators_of_two_series(values in prop::collection::vec(series(), 2), window in 2..20_usize) {
        let rows = values.iter().map(Vec::len).min().unwrap();
        let expressions = ["cov", "corr"].map(|op| of_columns(op, 2, &[window as f64]));
        let got = evaluate(&expressions, &[values[0][..rows].to_vec(), values[1][..rows].to_vec()], 9, 1);
        for (op, got) in ["cov", "corr"].iter().zip(got) {
            let expected = windows(rows, window, |range| {
                let (x, y) = (&values[0][range.clone()], &values[1][range]);
                let flat = |v: &[f64]| v.iter().all(|value| *value == v[0]);
                let missing = x.iter().chain(y).any(|v| v.is_nan());
                let n = window as f64;
                match *op {
                    _ if missing => f64::NAN,
                    "cov" => products(x, y) / (n - 1.0),
                    _ if flat(x) || flat(y) => f64::NAN,
                    _ => products(x, y) / (products(x, x) * products(y, y)).sqrt(),
                }
            });
            assert_close(op, &got, &expected);
        }
    }

    /// Computing an inner part as a column of its own gives the same bits.
    #[test]
    fn nested_operators_equal_operators_of_a_column(
        values in series(), picks in prop::collection::vec(0..NESTED.len(), 1..6), chunk in 1..70_usize,
    ) {
        let mut nodes = vec![column("x")];
        let mut stepwise = values.clone();
        for pick in picks {
            let (op, params) = NESTED[pick];
            nodes.push(node(op, &[nodes.len() - 1], params));
            // A column has no warm-up, so what an operator makes of one is defined here.
            let (first, last) = {
                let expression = |nodes: &[Node]| Expression::new(nodes).unwrap().warmup();
                (expression(&nodes[..nodes.len() - 1]), expression(&nodes))
            };
            let known = &stepwise[first.min(stepwise.len())..];
            let mut out = vec![f64::NAN; stepwise.len()];
            if !known.is_empty() {
                let single = evaluate(&[vec![column("x"), node(op, &[0], params)]], &[known.to_vec()], chunk, 1);
                out[first..].copy_from_slice(&single[0]);
            }
            let blank = last.min(out.len());
            out[..blank].fill(f64::NAN);
            stepwise = out;
        }
        let nested = evaluate(&[nodes], &[values], chunk, 1);
        prop_assert_eq!(bits(&nested[0]), bits(&stepwise));
    }
}

#[test]
fn results_do_not_depend_on_rows_before_the_lookback_or_on_threads() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut values: Vec<f64> = (0..100_000).map(|_| 100.0 + rng.f64()).collect();
    for _ in 0..20 {
        values[rng.usize(..100_000)] = f64::NAN;
    }
    let names = ROLLING.iter().filter(|(op, _)| *op != "quantile");
    let mut expressions: Vec<_> = names.map(|(op, _)| of_columns(op, 1, &[30.0])).collect();
    expressions.push(of_columns("mean", 1, &[5000.0]));
    expressions.push(of_columns("rsi_simple", 1, &[14.0]));
    expressions.push(vec![
        column("x"),
        node("ema", &[0], &[12.0]),
        node("ema", &[0], &[26.0]),
        node("sub", &[1, 2], &[]),
        node("lag", &[3], &[100.0]),
        node("std", &[4], &[60.0]),
    ]);
    let whole = evaluate(&expressions, &[values.clone()], 100_000, 1);
    let other = evaluate(&expressions, &[values.clone()], 999, 3);
    let skipped = 33_333;
    let part = evaluate(&expressions, &[values[skipped..].to_vec()], 100_000, 2);
    for (i, nodes) in expressions.iter().enumerate() {
        assert_eq!(bits(&whole[i]), bits(&other[i]), "{nodes:?}");
        let lookback = Expression::new(nodes).unwrap().lookback();
        let (whole, part) = (&whole[i][skipped + lookback..], &part[i][lookback..]);
        assert_eq!(bits(whole), bits(part), "{nodes:?}");
    }
}

#[test]
fn equal_parts_are_one_node() {
    let mean = of_columns("mean", 1, &[7.0]);
    let mut ratio = mean.clone();
    ratio.push(column("x"));
    ratio.push(node("div", &[2, 1], &[]));
    let shared = pipeline(&[mean.clone(), ratio, mean]);
    assert_eq!(shared.columns(), ["x"]);
    assert_eq!((shared.lookback(), shared.warmup()), (6, 6));
}

#[test]
fn constants_are_folded() {
    let nodes = vec![
        node("number", &[], &[2.0]),
        node("number", &[], &[3.0]),
        node("pow", &[0, 1], &[]),
        column("x"),
        node("mul", &[2, 3], &[]),
    ];
    assert_eq!(evaluate(&[nodes], &[vec![1.0, 2.0]], 9, 1), [[8.0, 16.0]]);
    // A constant has no values before the frame.
    let lagged = vec![node("number", &[], &[2.0]), node("lag", &[0], &[2.0])];
    let got = evaluate(&[lagged], &[vec![1.0; 3]], 9, 1);
    assert_eq!(bits(&got[0]), bits(&[f64::NAN, f64::NAN, 2.0]));
}

#[test]
fn windows_longer_than_the_frame_have_no_value() {
    let long = f64::from(1 << 20);
    let expressions: Vec<_> = ["mean", "ema", "rank", "rsi_simple", "lag", "std"]
        .iter()
        .map(|op| of_columns(op, 1, &[long]))
        .chain([vec![column("x")]])
        .collect();
    let got = evaluate(&expressions, &[vec![1.0, 2.0]], 9, 3);
    assert!(got[..6].iter().flatten().all(|v| v.is_nan()));
    assert_eq!(got[6], [1.0, 2.0]);
    assert_eq!(
        evaluate(&expressions, &[vec![]], 9, 3),
        vec![Vec::<f64>::new(); 7]
    );
}

#[test]
fn nulls_are_counted_by_reason() {
    let nan = f64::NAN;
    let x = [1.0, 2.0, nan, 4.0, -5.0, 6.0, 7.0, 8.0];
    let chunks = arrays(&x, 3);
    let columns = [Column::new("x", &chunks).unwrap()];
    let input = Input {
        columns: &columns,
        times: &[],
        rows: 8,
    };
    let log = of_columns("log", 1, &[]);
    let mut sum = log.clone();
    sum.push(node("sum", &[1], &[2.0]));
    let counts = pipeline(&[log, sum]).nulls(input, Threads::ONE).unwrap();
    let nulls = |warmup, input, undefined| Nulls {
        warmup,
        input,
        undefined,
    };
    // The row of -5 and the one after it are undefined, the latter because its window has that row.
    assert_eq!(counts, [nulls(0, 1, 1), nulls(1, 2, 2)]);
}

#[test]
fn refuses_what_is_not_an_expression() {
    let x = || column("x");
    for (nodes, message) in [
        (vec![], "nodes is a list of 0, expected 1 to 10000 nodes"),
        (
            vec![x(); 10_001],
            "nodes is a list of 10001, expected 1 to 10000 nodes",
        ),
        (
            vec![node("nope", &[], &[])],
            "nodes[0], nope: there is no such operator",
        ),
        (
            vec![x(), node("add", &[0], &[])],
            "nodes[1], add: it has 1 arguments, expected 2",
        ),
        (
            vec![x(), node("neg", &[1], &[])],
            "nodes[1], neg: its argument is node 1, expected an earlier one",
        ),
        (
            vec![x(), node("neg", &[usize::MAX], &[])],
            "nodes[1], neg: its argument is node 18446744073709551615, expected an earlier one",
        ),
    ] {
        assert_eq!(Expression::new(&nodes).unwrap_err().to_string(), message);
    }
    // Every accepted depth has a lookback that can be computed.
    let mut deep = vec![x()];
    deep.extend((0..9_999).map(|i| node("ema", &[i], &[f64::from(1 << 20)])));
    let lookback = Expression::new(&deep).unwrap().lookback();
    assert!(lookback > 1 << 30);
    assert!(
        evaluate(&[deep], &[vec![1.0; 9]], 9, 1)[0]
            .iter()
            .all(|v| v.is_nan())
    );
}
