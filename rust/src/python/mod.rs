//! The Python module `atb_fast._core`: Arrow frames in, `NumPy` views out.
//!
//! The doc comments of classes, methods and functions are their Python docstrings. The stub
//! `_core.pyi` repeats them; `python tests/core/test_docs.py` copies them there.

#![allow(
    clippy::doc_markdown,
    reason = "docstrings name Python's exceptions without backticks"
)]

use pyo3::prelude::*;
use pyo3::types::PyDict;

mod archive;
mod argument;
mod candles;
mod epoch;
mod error;
mod frame;
mod integer;
mod labels;
mod matrix;
mod merge;
mod pipeline;
mod rolling;
mod scale;
mod window;

/// Return the version and the Cargo profile of this extension.
///
/// Benchmarks refuse to run with a debug build.
///
/// Returns:
///     A dict with `version`, and `profile`, which is `release` or `debug`.
#[pyfunction]
#[pyo3(name = "build_info")]
fn py_build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    let debug = cfg!(debug_assertions);
    info.set_item("profile", if debug { "debug" } else { "release" })?;
    Ok(info)
}

/// Data preparation in Rust: merging, rolling features, scaling and windows.
///
/// A `frame` is any object with the Arrow PyCapsule interface, such as a Polars, pyarrow or pandas
/// (2.2 or newer) frame. In a frame:
///
/// - The columns of features are float64. They are read in place, not converted.
/// - Null is a missing value. Rows that depend on one are left out of the feature matrix. pandas
///   exports its NaN as null.
/// - NaN and infinities raise a DataError that names the column and the row.
/// - A `timestamp` column is strictly ascending and has no nulls. It holds timestamps of any unit,
///   or int64 numbers of seconds, milliseconds, microseconds or nanoseconds since 1970; see
///   `epoch_ms`.
///
/// Arrays have no nulls. In `sma`, `rsi`, `triple_barrier` and `MinMaxScaler`, NaN is a missing
/// value.
///
/// An argument that is out of range or of the wrong type raises an ArgumentError that names the
/// argument, what was received and what was expected. Integers may be NumPy's, but not floats or
/// bools. A frame that cannot be used raises a DataError.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<candles::PyCandleMatrix>()?;
    m.add_class::<matrix::PyFeatureMatrix>()?;
    m.add_class::<window::PyWindowBatches>()?;
    m.add_class::<pipeline::PyFeature>()?;
    m.add_class::<pipeline::PyFeaturePipeline>()?;
    m.add_class::<scale::PyMinMaxScaler>()?;
    m.add_function(wrap_pyfunction!(py_build_info, m)?)?;
    m.add_function(wrap_pyfunction!(epoch::py_epoch_ms, m)?)?;
    m.add_function(wrap_pyfunction!(archive::py_read_archive, m)?)?;
    m.add_function(wrap_pyfunction!(merge::py_merge, m)?)?;
    m.add_function(wrap_pyfunction!(rolling::py_rsi, m)?)?;
    m.add_function(wrap_pyfunction!(rolling::py_sma, m)?)?;
    m.add_function(wrap_pyfunction!(labels::py_triple_barrier, m)?)?;
    Ok(())
}
