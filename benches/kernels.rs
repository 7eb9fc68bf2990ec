//! Runs one kernel on synthetic candles, so that its instructions can be counted: `kernels NAME`. The
//! kernel `none` only creates the candles. Without a name, the program lists the kernels.

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use atb_fast_core::column::Column;
use atb_fast_core::matrix::Matrix;
use atb_fast_core::merge::{self, How};
use atb_fast_core::parallel::Threads;
use atb_fast_core::pipeline::{Feature, Pipeline, Transform};
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

fn pipeline(features: &[(&str, Transform)]) -> Pipeline {
    let features = features.iter().map(|&(name, transform)| Feature {
        name: name.to_owned(),
        source: "close".to_owned(),
        transform,
        null_as: None,
    });
    Pipeline::new(features.collect()).expect("valid features")
}

fn prepare(prices: Vec<f64>, features: &[(&str, Transform)]) {
    let chunks: [ArrayRef; 1] = [Arc::new(Float64Array::from(prices))];
    let columns = [Column::new("close", &chunks).expect("float64")];
    let fitted = pipeline(features)
        .fit(&columns, 0..ROWS, Threads::ONE)
        .expect("fits");
    let matrix: Matrix<f32> = fitted
        .transform(&columns, Threads::ONE)
        .expect("transforms");
    black_box(matrix);
}

fn main() {
    let name = std::env::args().nth(1);
    let prices = prices();
    match name.as_deref() {
        Some("none") => {
            black_box(prices);
        }
        Some("scale") => prepare(prices, &[("close", Transform::Identity)]),
        Some("sma") => prepare(
            prices,
            &[("sma_7", Transform::Sma(7)), ("sma_30", Transform::Sma(30))],
        ),
        Some("rsi") => prepare(prices, &[("rsi", Transform::Rsi(14))]),
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
