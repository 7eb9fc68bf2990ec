//! The Python module `atb_fast._core`: Arrow frames in, `NumPy` views out.

use pyo3::prelude::*;
use pyo3::types::PyDict;

mod archive;
mod candles;
mod error;
mod frame;
mod matrix;
mod pipeline;
mod series;

/// Returns how this extension was built.
#[pyfunction]
#[pyo3(name = "build_info")]
fn py_build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    let debug = cfg!(debug_assertions);
    info.set_item("profile", if debug { "debug" } else { "release" })?;
    Ok(info)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<candles::PyCandleMatrix>()?;
    m.add_class::<matrix::PyFeatureMatrix>()?;
    m.add_class::<matrix::PyWindowBatches>()?;
    m.add_class::<pipeline::PyFeature>()?;
    m.add_class::<pipeline::PyFeaturePipeline>()?;
    m.add_class::<pipeline::PyMinMaxScaler>()?;
    m.add_function(wrap_pyfunction!(py_build_info, m)?)?;
    m.add_function(wrap_pyfunction!(archive::py_read_archive, m)?)?;
    m.add_function(wrap_pyfunction!(series::py_merge, m)?)?;
    m.add_function(wrap_pyfunction!(series::py_rsi, m)?)?;
    m.add_function(wrap_pyfunction!(series::py_sma, m)?)?;
    Ok(())
}
