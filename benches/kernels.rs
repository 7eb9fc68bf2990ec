//! Runs one kernel on synthetic candles, so that its instructions can be counted: `kernels NAME`. The
//! kernel `none` only creates the candles. Without a name, the program lists the kernels.

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use atb_fast_core::column::Column;
use atb_fast_core::expr::op::Param;
use atb_fast_core::expr::{Expression, Feature, Input, Pipeline};
use atb_fast_core::matrix::Matrix;
use atb_fast_core::merge::{self, How};
use atb_fast_core::parallel::Threads;
use atb_fast_core::window;

const ROWS: usize = 60_000;
const LENGTH: usize = 120;

fn prices() -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut price = 20_000.0;
    (0..ROWS)
        .map(|_| {
            price *= 1.0 + 0.01 * (rng.f64() - 0.5);
            price
        })
        .collect()
}

/// Operators over a window of the close; the close itself for a window of 0.
fn pipeline(features: &[(&str, usize)]) -> Pipeline {
    let features = features.iter().map(|&(op, window)| {
        let close = Param::Text("close".to_owned());
        let mut nodes = vec![("column".to_owned(), vec![], vec![close])];
        if window > 0 {
            nodes.push((op.to_owned(), vec![0], vec![Param::Number(window as f64)]));
        }
        Feature {
            name: format!("{op}_{window}"),
            expression: Expression::new(&nodes).expect("a valid expression"),
            null_as: None,
        }
    });
    Pipeline::new(features.collect()).expect("valid features")
}

fn prepare(prices: Vec<f64>, features: &[(&str, usize)]) {
    let chunks: [ArrayRef; 1] = [Arc::new(Float64Array::from(prices))];
    let columns = [Column::new("close", &chunks).expect("float64")];
    let input = Input {
        columns: &columns,
        times: &[],
        rows: ROWS,
    };
    let fitted = pipeline(features)
        .fit(input, 0..ROWS, Threads::ONE)
        .expect("fits");
    let matrix: Matrix<f32> = fitted.transform(input, Threads::ONE).expect("transforms");
    black_box(matrix);
}

fn main() {
    let name = std::env::args().nth(1);
    let prices = prices();
    match name.as_deref() {
        Some("none") => {
            black_box(prices);
        }
        Some("scale") => prepare(prices, &[("close", 0)]),
        Some("sma") => prepare(prices, &[("mean", 7), ("mean", 30)]),
        Some("rsi") => prepare(prices, &[("rsi_simple", 14)]),
        Some("merge") => {
            let hours: Vec<i64> = (0..ROWS as i64).map(|i| i * 3_600_000).collect();
            let days: Vec<i64> = (0..ROWS as i64 / 24).map(|i| i * 86_400_000).collect();
            let how = How::Resampled { step: 3_600_000 };
            black_box(merge::join(&hours, &days, how).expect("joins"));
        }
        Some("gather") => {
            let values = prices.iter().map(|&price| price as f32).collect();
            let matrix = Matrix::from_rows(values, 10);
            let mut starts: Vec<i64> = (0..(ROWS / 10 - LENGTH) as i64).collect();
            window::shuffle(&mut starts, 1, 0);
            for batch in starts.chunks(32).take(50) {
                black_box(window::gather(&matrix, batch, LENGTH).expect("gathers"));
            }
        }
        _ => println!("none scale sma rsi merge gather"),
    }
}
