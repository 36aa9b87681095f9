//! `qn-analyse batches`.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use qn_curvature::Derivatives;
use qn_data::epoch_batches;
use qn_spectrum::{LanczosOptions, Which, lanczos};
use qn_train::{Interrupt, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Destination, Report};
use crate::problem::{Problem, ProblemArgs, check_tol};
use crate::report::Subject;
use crate::table;

/// The largest and the smallest eigenvalue of minibatches, against those of all samples.
#[derive(Args, Clone, Debug)]
pub(crate) struct BatchesArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Samples in a minibatch, several sizes separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512, 2048])]
    sizes: Vec<usize>,
    /// Minibatches of each size.
    #[arg(long, default_value_t = 10)]
    draws: usize,
    /// Residuals wanted, relative to the largest |eigenvalue|.
    #[arg(long, default_value_t = 1e-3)]
    tol: f64,
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
}

/// Runs the command.
pub(crate) fn run(args: &BatchesArgs, interrupt: &Interrupt) -> Result<()> {
    let started = Instant::now();
    check_tol(args.tol)?;
    let to = args.problem.destination::<BatchesReport>("batches.json")?;
    let problem = Problem::load(&args.problem, |_| Ok(()))?;
    let n = problem.target.data.len();
    for &size in &args.sizes {
        if size == 0 || size * args.draws > n {
            bail!(Usage(format!(
                "--sizes {size} --draws {}: there are {n} samples, and no two minibatches share one",
                args.draws
            )));
        }
    }
    let bar = problem.verbosity.bar((args.sizes.len() * args.draws + 1) as u64, "spectra");
    let ends = |derivatives: &Derivatives| -> Result<([f64; 2], usize)> {
        let quiet = indicatif::ProgressBar::hidden();
        let which = args.problem.operator.operator();
        let operator = Watched::new(CurvatureOperator { derivatives, which }, &quiet, interrupt);
        let (tol, seed) = (args.tol, args.problem.seed);
        let options = LanczosOptions { k: 2, which: Which::Be, tol, seed, ..LanczosOptions::default() };
        let found = lanczos::<f64>(&operator, &options, |_| ()).map_err(explain)?;
        bar.inc(1);
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
    bar.finish_and_clear();
    let report = BatchesReport {
        subject: problem.subject(&args.problem),
        tol: args.tol,
        largest,
        smallest,
        sizes,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, &to)?;
    if let Destination::File(path) = &to {
        table::print_batches(&report);
        problem.verbosity.say(format_args!("report: {}", path.display()));
    }
    Ok(())
}
