//! The native half of the Python package `qn`: what `qn._native` is made of.
//!
//! Python describes a network operation by operation ([`graph`]), hands over samples and a loss ([`curvature`]), and
//! asks for products, whole matrices ([`dense`]), studies ([`studies`]) or the solvers of `qn-spectrum` ([`solvers`]), which
//! also run on Python functions of blocks of vectors ([`operator`]). Everything that takes long is done without the interpreter's
//! lock, and looks for Ctrl-C after every product. What is wrong is a `ValueError`.

// The macros of pyo3 expand to unsafe code.
#![allow(unsafe_code)]

mod arrays;
mod attributes;
mod curvature;
mod dense;
mod errors;
mod graph;
mod operator;
mod ops;
mod progress;
mod solvers;
mod studies;

use pyo3::prelude::*;

/// The module `qn._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<graph::Graph>()?;
    module.add_class::<curvature::Curvature>()?;
    module.add_class::<operator::Operator>()?;
    module.add_function(wrap_pyfunction!(solvers::lanczos, module)?)?;
    module.add_function(wrap_pyfunction!(solvers::density, module)?)?;
    module.add_function(wrap_pyfunction!(solvers::trace, module)?)?;
    module.add_function(wrap_pyfunction!(dense::symmetric_eigen, module)?)?;
    module.add_function(wrap_pyfunction!(studies::spectrum_shape, module)?)?;
    module.add_function(wrap_pyfunction!(studies::hierarchy, module)?)?;
    Ok(())
}
