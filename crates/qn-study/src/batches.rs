//! The ends of minibatches' spectra, against those of all samples.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_curvature::Derivatives;
use qn_data::epoch_batches;
use qn_run::{Invalid, Observer, Stage, StopOnly};
use qn_spectrum::{LanczosOptions, Which, lanczos};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{ProblemRequest, check_tol};

/// Asks for the largest and the smallest eigenvalue of minibatches, against those of all samples.
#[derive(Clone, Debug)]
pub struct BatchesRequest {
    /// Of what.
    pub problem: ProblemRequest,
    /// Samples in a minibatch, for each size.
    pub sizes: Vec<usize>,
    /// Minibatches of each size.
    pub draws: usize,
    /// Residuals wanted, relative to the largest |eigenvalue|.
    pub tol: f64,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for BatchesRequest {
    /// Ten minibatches of 128, of 512 and of 2,048 samples, to 1e-3.
    fn default() -> Self {
        let problem = ProblemRequest::default();
        Self { problem, sizes: vec![128, 512, 2048], draws: 10, tol: 1e-3, to: None }
    }
}

/// Ends of the spectrum of minibatches: `batches.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BatchesReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// Residuals asked for, relative to the largest |eigenvalue|.
    pub tol: f64,
    /// λ_1 of all samples.
    pub largest: f64,
    /// λ_P of all samples.
    pub smallest: f64,
    /// Minibatches of each size.
    pub sizes: Vec<BatchEnds>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Minibatches of one size, drawn without replacement.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BatchEnds {
    /// Samples in each.
    pub size: usize,
    /// λ_1 of each.
    pub largest: Vec<f64>,
    /// λ_P of each.
    pub smallest: Vec<f64>,
    /// Pairs that are not within the tolerance.
    pub unconverged: usize,
}

impl Report for BatchesReport {
    const KIND: &'static str = "batches";
    const STUDY: &'static str = "batches";
}

/// Finds them and writes them down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn batches(args: &BatchesRequest, observer: &dyn Observer) -> Result<BatchesReport> {
    let started = Instant::now();
    check_tol(args.tol)?;
    output::claim::<BatchesReport>(args.to.as_deref())?;
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let n = problem.target.data.len();
    for &size in &args.sizes {
        if size == 0 || size * args.draws > n {
            bail!(Invalid(format!(
                "`sizes` {size} `draws` {}: there are {n} samples, and no two minibatches share one",
                args.draws
            )));
        }
    }
    let stage = Stage::begin(observer, "spectra", (args.sizes.len() * args.draws + 1) as u64);
    let stop = StopOnly(observer);
    let ends = |derivatives: &Derivatives| -> Result<([f64; 2], usize)> {
        let unseen = Stage::begin(&stop, "products", 0);
        let which = args.problem.operator.operator();
        let operator = Watched::new(CurvatureOperator { derivatives, which }, &unseen);
        let (tol, seed) = (args.tol, args.problem.seed);
        let options = LanczosOptions { k: 2, which: Which::Be, tol, seed, ..LanczosOptions::default() };
        let found = lanczos::<f64>(&operator, &options, |_| ()).map_err(explain)?;
        stage.advance(1);
        Ok(([found.values[0], found.values[1]], 2 - found.converged))
    };
    let ([largest, smallest], _) = ends(&problem.derivatives)?;
    let mut sizes = Vec::with_capacity(args.sizes.len());
    for (stream, &size) in args.sizes.iter().enumerate() {
        let mut found = BatchEnds { size, largest: Vec::new(), smallest: Vec::new(), unconverged: 0 };
        for batch in epoch_batches(n, size, args.problem.seed, stream as u64).iter().take(args.draws) {
            let ([high, low], open) = ends(&problem.over(batch, args.problem.dtype)?)?;
            found.largest.push(high);
            found.smallest.push(low);
            found.unconverged += open;
        }
        sizes.push(found);
    }
    let report = BatchesReport {
        subject: problem.subject(&args.problem),
        tol: args.tol,
        largest,
        smallest,
        sizes,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}
