//! The loss's Hessian in the values between a network's layers, its input and its output among them.
//!
//! With z_i a value at sample i and ℓ_i the sample's loss, the matrix is A = (1/N) Σ_i ∂²ℓ_i/∂z_i², d × d for a value of d
//! numbers. Noise of variance s² in each of them, as rounding to a grid of step √12 s is, raises the mean loss by s²/2 tr A to
//! second order (Z. Dong et al., HAWQ-V2, arXiv 1911.03852); a shift of all samples' values in one direction by r, by at most
//! r²/2 λ_1(A) beyond the first order; and a sample's own largest eigenvalue is what a perturbation of its input or activation
//! can make of it (S.-M. Moosavi-Dezfooli et al., arXiv 1811.09716).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_model::LayerInput;
use qn_run::{Invalid, Observer, Stage, StopOnly};
use qn_spectrum::{Estimate, LanczosOptions, lanczos};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{ProblemRequest, check_probes, check_tol};
use crate::solve::Solve;
use crate::statistics::Spread;

/// Asks for the loss's Hessian in activations.
#[derive(Clone, Debug)]
pub struct ActivationsRequest {
    /// Of what. The parameters are constants: `only` is empty; `weight_decay` has no part in it.
    pub problem: ProblemRequest,
    /// Names or patterns of the values: `input`, `LAYER.input`, `output`; all where it is empty.
    pub at: Vec<String>,
    /// Products for a trace; a matrix of at most so many rows is built, so that its trace is exact.
    pub probes: usize,
    /// So many first samples have their own largest eigenvalue found.
    pub each: usize,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: f64,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for ActivationsRequest {
    /// Everywhere, to 1e-4, with 100 products a trace and 20 samples by themselves.
    fn default() -> Self {
        let problem = ProblemRequest::default();
        Self { problem, at: Vec::new(), probes: 100, each: 20, tol: 1e-4, to: None }
    }
}

/// The loss's Hessian in the values between layers: `activations.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ActivationsReport {
    /// What was analysed; `params` and `layout_hash` are the network's, whose parameters are constants here.
    #[serde(flatten)]
    pub subject: Subject,
    /// Products for a trace of a matrix with more rows.
    pub probes: usize,
    /// Residuals asked for, relative to the largest eigenvalue.
    pub tol: f64,
    /// One entry a value, in the order in which the network computes them.
    pub activations: Vec<Activation>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What was found in one value.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Activation {
    /// `input`, `LAYER.input` with the first layer that reads it, or `output`; a layer's further inputs end in `.2`, `.3`.
    pub name: String,
    /// The layers with parameters that read it.
    pub read_by: Vec<String>,
    /// Lengths of its axes, samples apart.
    pub shape: Vec<usize>,
    /// tr A of the mean A over the samples; the standard error is zero where it is exact.
    pub trace: Estimate,
    /// The largest eigenvalue of A.
    pub eigenvalue: f64,
    /// Its residual |A v − λ v|.
    pub residual: f64,
    /// Whether all eigenvalues here are within the tolerance.
    pub converged: bool,
    /// The largest eigenvalues of the first samples' own matrices: their mean, which is not below that of these samples' mean
    /// matrix, and their standard deviation; absent where there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Spread>,
}

impl Activation {
    /// d, the numbers in the value.
    pub fn dim(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Report for ActivationsReport {
    const KIND: &'static str = "activations";
    const STUDY: &'static str = "activations";
}

impl ActivationsReport {
    /// Whether all eigenvalues are within the tolerance.
    pub fn converged(&self) -> bool {
        self.activations.iter().all(|activation| activation.converged)
    }
}

/// Finds traces and eigenvalues and writes them down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn activations(args: &ActivationsRequest, observer: &dyn Observer) -> Result<ActivationsReport> {
    let started = Instant::now();
    check_tol(args.tol)?;
    output::claim::<ActivationsReport>(args.to.as_deref())?;
    if !args.problem.only.is_empty() {
        bail!(Invalid("`only` chooses parameters, which are constants here: leave it out".into()));
    }
    check_probes(args.probes)?;
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let chosen =
        problem.target.graph.layer_inputs_named(&args.at).map_err(|e| Invalid(format!("`at`: {e}")))?;
    let stage = Stage::begin(observer, "activations", chosen.len() as u64);
    let stop = StopOnly(observer);
    let mut activations = Vec::with_capacity(chosen.len());
    for at in chosen {
        activations.push(activation(&problem, args, at, &stop)?);
        stage.advance(1);
    }
    let report = ActivationsReport {
        subject: problem.subject(&args.problem),
        probes: args.probes,
        tol: args.tol,
        activations,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// What there is to say of one value.
fn activation(
    problem: &Problem,
    args: &ActivationsRequest,
    at: LayerInput,
    observer: &dyn Observer,
) -> Result<Activation> {
    let samples: Vec<usize> = (0..problem.target.data.len()).collect();
    let unseen = Stage::begin(observer, "products", 0);
    let which = args.problem.operator.operator();
    let all = problem.by_activation(at.value, &samples, args.problem.dtype)?;
    let (probes, tol, seed) = (args.probes, args.tol, args.problem.seed);
    let solve = Solve { k: 1, tol, probes, dense: all.dim() <= probes, seed };
    let found = solve.run(&Watched::new(CurvatureOperator { derivatives: &all, which }, &unseen))?;
    let mut converged = found.pairs.converged == 1;
    let mut own = Vec::with_capacity(args.each);
    for sample in samples.into_iter().take(args.each) {
        let derivatives = &problem.by_activation(at.value, &[sample], args.problem.dtype)?;
        let operator = Watched::new(CurvatureOperator { derivatives, which }, &unseen);
        let options = LanczosOptions { k: 1, tol, seed, ..LanczosOptions::default() };
        let pairs = lanczos::<f64>(&operator, &options, |_| ()).map_err(explain)?;
        converged &= pairs.converged == 1;
        own.extend(pairs.values);
    }
    Ok(Activation {
        shape: problem.target.graph.shape(at.value).dims().to_vec(),
        name: at.name,
        read_by: at.read_by,
        trace: found.trace,
        eigenvalue: found.pairs.values[0],
        residual: found.pairs.residuals[0],
        converged,
        own: Spread::of(&own),
    })
}
