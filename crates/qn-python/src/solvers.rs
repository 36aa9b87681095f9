//! The solvers of `qn-spectrum` for operators of the engine and for functions of Python.

use std::sync::atomic::{AtomicUsize, Ordering};

use faer::{MatMut, MatRef};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_spectrum::{
    DensityOptions, Eigenpairs, LanczosOptions, OperatorError, Solver, StopReason, SymmetricOperator,
    TraceEstimate,
};

use crate::arrays::matrix;
use crate::attributes::Attributes;
use crate::errors::{Raised, spectrum_error, value_error};
use crate::operator::{Number, Source};
use crate::progress::Progress;

/// An operator that tells Python what share of its products is done.
struct Told {
    source: Source,
    progress: Progress,
    stage: &'static str,
    total: usize,
    done: AtomicUsize,
}

impl Told {
    fn new(
        source: Source,
        progress: Option<Bound<'_, PyAny>>,
        (stage, total): (&'static str, usize),
    ) -> Self {
        Self { source, progress: Progress::new(progress), stage, total, done: AtomicUsize::new(0) }
    }
}

impl<S: Number> SymmetricOperator<S> for Told {
    fn dim(&self) -> usize {
        SymmetricOperator::<S>::dim(&self.source)
    }

    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError> {
        let columns = x.ncols();
        self.source.apply(x, y)?;
        let done = self.done.fetch_add(columns, Ordering::Relaxed) + columns;
        Ok(self.progress.tell(self.stage, done as f64 / self.total as f64, 0.0)?)
    }
}

/// Some eigenpairs by thick-restart block Lanczos: a dict of `values`, `vectors`, `residuals`, `converged`, `matvecs`,
/// `iterations`, `stop_reason`, `solver`. `options` are those of [`LanczosOptions`], and `single` for vectors in single
/// precision; `progress(stage, matvecs, worst_residual)` is called after every block of products.
#[pyfunction]
#[pyo3(signature = (operator, n, progress=None, **options))]
pub(crate) fn lanczos<'py>(
    py: Python<'py>,
    operator: &Bound<'py, PyAny>,
    n: usize,
    progress: Option<Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (a, default) = (Attributes { of: "eigsh", values: options }, LanczosOptions::default());
    let which: Option<String> = a.optional("which")?;
    let wanted = LanczosOptions {
        k: a.optional("k")?.unwrap_or(default.k),
        which: which.map_or(Ok(default.which), |w| w.parse()).map_err(value_error)?,
        block: a.optional("block")?.unwrap_or(default.block),
        ncv: a.optional("ncv")?,
        tol: a.optional("tol")?.unwrap_or(default.tol),
        maxiter: a.optional("maxiter")?.unwrap_or(default.maxiter),
        seed: a.optional("seed")?.unwrap_or(default.seed),
    };
    if wanted.block == 0 {
        return Err(value_error("block = 0: multiply at least one vector at a time"));
    }
    let (source, progress) = (Source::new(operator, n)?, Progress::new(progress));
    match a.optional("single")?.unwrap_or(false) {
        false => search::<f64>(py, &source, &wanted, &progress),
        true => search::<f32>(py, &source, &wanted, &progress),
    }
}

fn search<'py, S: Number>(
    py: Python<'py>,
    source: &Source,
    wanted: &LanczosOptions,
    progress: &Progress,
) -> PyResult<Bound<'py, PyDict>> {
    let mut raised: Option<Raised> = None;
    let found = py.detach(|| {
        qn_spectrum::lanczos(source, wanted, |p| {
            if raised.is_none() {
                raised = progress.tell("eigsh", p.matvecs as f64, p.worst_residual).err();
            }
        })
    });
    if let Some(raised) = raised {
        return Err(raised.0);
    }
    let found: Eigenpairs<S> = found.map_err(spectrum_error)?;
    let result = PyDict::new(py);
    result.set_item("values", PyArray1::from_vec(py, found.values))?;
    result.set_item("vectors", matrix(py, &found.vectors)?)?;
    result.set_item("residuals", PyArray1::from_vec(py, found.residuals))?;
    result.set_item("converged", found.converged)?;
    result.set_item("matvecs", found.matvecs)?;
    result.set_item("iterations", found.iterations)?;
    let reason = match found.stop_reason {
        StopReason::Converged => "converged",
        StopReason::MaxIterations => "max_iterations",
        StopReason::PrecisionReached => "precision_reached",
    };
    result.set_item("stop_reason", reason)?;
    result.set_item("solver", if found.solver == Solver::Dense { "dense" } else { "lanczos" })?;
    Ok(result)
}

/// The density of all eigenvalues by stochastic Lanczos quadrature: a dict of `grid`, `density`, `standard_error`,
/// `sigma`, `nodes` (a list of pairs for each probe), `matvecs`. With `single` its vectors are in single precision;
/// `progress(stage, share, 0)` is called after every block of products.
#[pyfunction]
#[pyo3(signature = (operator, n, progress=None, **options))]
pub(crate) fn density<'py>(
    py: Python<'py>,
    operator: &Bound<'py, PyAny>,
    n: usize,
    progress: Option<Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyDict>> {
    let a = Attributes { of: "density", values: options };
    let wanted = DensityOptions {
        probes: a.get("probes")?,
        steps: a.get("steps")?,
        points: a.get("points")?,
        sigma: a.optional("sigma")?,
        seed: a.get("seed")?,
    };
    let source = Source::new(operator, n)?;
    let products = wanted.probes.saturating_mul(wanted.steps.min(SymmetricOperator::<f64>::dim(&source)));
    let told = Told::new(source, progress, ("density", products));
    let single = a.optional("single")?.unwrap_or(false);
    let found = py.detach(|| match single {
        false => qn_spectrum::density::<f64>(&told, &wanted),
        true => qn_spectrum::density::<f32>(&told, &wanted),
    });
    let found = found.map_err(spectrum_error)?;
    let result = PyDict::new(py);
    result.set_item("grid", PyArray1::from_vec(py, found.grid))?;
    result.set_item("density", PyArray1::from_vec(py, found.density))?;
    result.set_item("standard_error", PyArray1::from_vec(py, found.standard_error))?;
    result.set_item("sigma", found.sigma)?;
    result.set_item("nodes", found.nodes)?;
    result.set_item("matvecs", found.matvecs)?;
    Ok(result)
}

/// The trace by Hutchinson's estimator, or by Hutch++ where `plus_plus`: (trace, its standard error, ‖A‖²_F or None, its
/// standard error or None). `progress(stage, share, 0)` is called after every block of products.
#[pyfunction]
#[pyo3(signature = (operator, n, products, seed, plus_plus, progress=None))]
pub(crate) fn trace(
    py: Python<'_>,
    operator: &Bound<'_, PyAny>,
    n: usize,
    products: usize,
    seed: u64,
    plus_plus: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(f64, f64, Option<f64>, Option<f64>)> {
    let told = Told::new(Source::new(operator, n)?, progress, ("trace", products));
    let found = py.detach(|| match plus_plus {
        true => qn_spectrum::hutch_plus_plus(&told, products, seed),
        false => qn_spectrum::hutchinson(&told, products, seed),
    });
    let TraceEstimate { trace, frobenius_squared, .. } = found.map_err(spectrum_error)?;
    let square = frobenius_squared.map(|f| f.value);
    Ok((trace.value, trace.standard_error, square, frobenius_squared.map(|f| f.standard_error)))
}
