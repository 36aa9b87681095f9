//! Studies that the programs have too, of what Python has at hand. Their results come as the JSON of reports.

use anyhow::Context as _;
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_run::Observer;
use qn_study::{Hierarchy, HierarchyOptions, Labelled, Shape, ShapeOptions};

use crate::attributes::Attributes;
use crate::curvature::Curvature;
use crate::errors::value_error;
use crate::progress::Interrupt;

/// Stops a study at Ctrl-C.
struct Watch(Interrupt);

impl Observer for Watch {
    fn should_stop(&self) -> bool {
        self.0.pressed()
    }
}

/// The shape of a spectrum: `values` are all eigenvalues, descending.
#[pyfunction]
pub(crate) fn spectrum_shape(
    values: PyReadonlyArray1<'_, f64>,
    threshold: f64,
    classes: usize,
    alpha: Vec<f64>,
    draws: usize,
    seed: u64,
) -> PyResult<String> {
    let (py, values) = (values.py(), values.as_array().to_vec());
    let options = ShapeOptions { alpha, draws, seed };
    let shape = py.detach(|| Shape::of(&values, threshold, classes, &options)).map_err(value_error)?;
    serde_json::to_string(&shape).map_err(value_error)
}

/// Papyan's parts of G over samples of so many classes, with one label each. `of_class` has the derivatives over each class's
/// samples, None where it has none. `options` are `k`, `tol`, `probes`, `dense_up_to`, `seed`.
#[pyfunction]
#[pyo3(signature = (all, of_class, labels, classes, **options))]
pub(crate) fn hierarchy(
    all: &Curvature,
    of_class: Vec<Option<PyRef<'_, Curvature>>>,
    labels: PyReadonlyArray1<'_, u32>,
    classes: usize,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<String> {
    let (py, labels) = (labels.py(), labels.as_array().to_vec());
    let (given, default) = (Attributes { of: "hierarchy", values: options }, HierarchyOptions::default());
    let options = HierarchyOptions {
        k: given.optional("k")?,
        tol: given.optional("tol")?.unwrap_or(default.tol),
        probes: given.optional("probes")?.unwrap_or(default.probes),
        dense_up_to: given.optional("dense_up_to")?.unwrap_or(default.dense_up_to),
        seed: given.optional("seed")?.unwrap_or(default.seed),
    };
    let parts: Vec<_> = of_class.iter().map(|part| part.as_ref().map(|part| part.derivatives())).collect();
    let derivatives = all.derivatives();
    let found = py.detach(|| {
        let watch = Watch(Interrupt::new());
        let of = Labelled {
            derivatives: &derivatives,
            labels: &labels,
            classes,
            of_class: &|class, _| parts[class].clone().context("a class has no derivatives"),
        };
        Hierarchy::of(&of, &options, &watch)
            .map_err(|error| watch.0.raised().unwrap_or_else(|| value_error(format!("{error:#}"))))
    })?;
    serde_json::to_string(&found).map_err(value_error)
}
