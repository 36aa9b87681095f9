//! `qn-analyse reproduce`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use qn_run::{Metric, RunDirectory, read_metrics};
use qn_train::ui::{Talk, Verbosity};
use qn_train::{Interrupt, Launch, Settings, TrainError, outln, train};

use crate::eigen::{self, EigenArgs};
use crate::experiment::{ExperimentReport, RunSummary};
use crate::output::{self, Destination, Output};
use crate::overlap::{self, OverlapArgs};
use crate::page;
use crate::problem::{Dtype, ProblemArgs};
use crate::recipe::{EigenRecipe, Recipe, TrackRecipe};
use crate::report::{self, EigenReport, OverlapReport};
use crate::table;
use crate::track::{self, TrackArgs, TrackReport};

/// Run an experiment of analysis/recipes: train each of its runs, analyse them as it says, and compare with the paper.
/// What is done is kept, what was broken off goes on; experiment.json tells of all runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReproduceArgs {
    /// A recipe of analysis/recipes by name, or a .toml file.
    recipe: String,
    /// Where the runs go: OUT/RECIPE/RUN.
    #[arg(long, default_value = "runs")]
    out: PathBuf,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", hide_env_values = true, default_value = "data")]
    data_dir: PathBuf,
    /// Do everything again.
    #[arg(long)]
    overwrite: bool,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    talk: Talk,
}

impl ReproduceArgs {
    /// The problem of a run's analysis, as this command and the recipe want it.
    fn pose(&self, problem: &mut ProblemArgs, samples: Option<usize>, dtype: Dtype) {
        problem.samples = samples;
        problem.dtype = dtype;
        problem.data_dir.clone_from(&self.data_dir);
        problem.threads = self.threads;
        problem.talk = self.talk.clone();
    }
}

/// A run and what was found out about it.
struct Finished {
    path: PathBuf,
    summary: RunSummary,
    metrics: Vec<Metric>,
    spectrum: Option<(EigenReport, OverlapReport)>,
}

/// Runs the command; gives whether every eigenpair converged.
pub(crate) fn run(args: &ReproduceArgs, interrupt: &Interrupt) -> Result<bool> {
    let verbosity = args.talk.verbosity();
    qn_train::cli::set_threads(args.threads, verbosity)?;
    let recipe = Recipe::find(&args.recipe)?;
    verbosity.say(format_args!("{}: {}", recipe.name, recipe.description));
    let folder = args.out.join(&recipe.name);
    let (report, page) = (folder.join("experiment.json"), folder.join("report.html"));
    Output::report::<ExperimentReport>().claim(&report)?;
    Output::Marked.claim(&page)?;
    let (mut finished, mut converged) = (Vec::new(), true);
    for run in &recipe.runs {
        let path = folder.join(&run.name);
        verbosity.say(format_args!("\n== {} ==", path.display()));
        train_run(args, &run.settings, &path, verbosity, interrupt)
            .with_context(|| format!("run '{}'", run.name))?;
        let directory = RunDirectory::open(&path)?;
        let metrics = read_metrics(&directory.metrics_path())?;
        let paper = recipe.paper.get(&run.group).copied();
        let summary = RunSummary::new(run, &directory, &metrics, paper)?;
        let mut spectrum = None;
        if summary.diverged_at.is_none() {
            if let Some(recipe) = &recipe.eigen {
                let (eigen, good) = find_spectrum(args, recipe, &path, interrupt)?;
                converged &= good;
                spectrum = Some((eigen, overlap::run(&OverlapArgs::for_run(&path, &args.talk))?));
            }
            if let Some(recipe) = &recipe.track {
                follow(args, recipe, &path, interrupt)?;
            }
        }
        finished.push(Finished { path, summary, metrics, spectrum });
    }
    let logs = finished.iter_mut().map(|f| (f.summary.clone(), std::mem::take(&mut f.metrics)));
    let experiment = ExperimentReport::new(&recipe, logs.collect());
    output::write(&experiment, &Destination::File(report.clone()))?;
    table::print_experiment(&experiment);
    if recipe.eigen.is_some() {
        table::print_spectra(finished.iter().map(|f| (&f.summary, f.spectrum.as_ref())));
    }
    let paths: Vec<PathBuf> = finished.iter().map(|f| f.path.clone()).collect();
    page::write(&page, &recipe.name, Some(&experiment), &paths)?;
    outln!("\nreports:\n  {}", report.display());
    let analysed = recipe.eigen.is_some() || recipe.track.is_some();
    for f in finished.iter().filter(|f| analysed && f.summary.diverged_at.is_none()) {
        outln!("  {}", f.path.join("reports").display());
    }
    outln!("all on one page, for a browser:\n  {}", page.display());
    Ok(converged)
}

/// Trains, goes on, or does nothing when the last step is there. A run that diverges is a result.
fn train_run(
    args: &ReproduceArgs,
    settings: &Settings,
    path: &Path,
    verbosity: Verbosity,
    interrupt: &Interrupt,
) -> Result<()> {
    let config = settings.configure(&args.data_dir)?;
    // A folder with another configuration is another experiment: `train` refuses it unless told.
    let resume = !args.overwrite
        && RunDirectory::open(path).is_ok_and(|run| run.read_config().is_ok_and(|found| found == config));
    if resume {
        let run = RunDirectory::open(path)?;
        if read_metrics(&run.metrics_path()).is_ok_and(|lines| lines.iter().any(|m| m.diverged)) {
            verbosity.say("diverged already");
            return Ok(());
        }
        let last = run.checkpoint_steps()?.last().copied();
        if last == Some(config.steps) && run.snapshot_steps()?.last() == last.as_ref() {
            verbosity.say("trained already");
            return Ok(());
        }
    }
    let outcome = train(&Launch {
        config: &config,
        data_dir: &args.data_dir,
        out: path,
        resume,
        changed_data: false,
        overwrite: args.overwrite,
        verbosity,
        interrupt: interrupt.clone(),
    });
    match outcome {
        Ok(outcome) => verbosity.say(format_args!("trained in {:.1} s", outcome.seconds)),
        Err(error) if matches!(error.downcast_ref(), Some(TrainError::Diverged { .. })) => {
            verbosity.say(format_args!("{error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Follows the run along its checkpoints, unless the report that is there answers the same question.
fn follow(args: &ReproduceArgs, recipe: &TrackRecipe, path: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut track = TrackArgs::for_run(path);
    args.pose(&mut track.problem, recipe.samples, recipe.dtype);
    track.tol = recipe.tol.unwrap_or(track.tol);
    let run = RunDirectory::open(path)?;
    let file = run.report_path("track.json");
    if !args.overwrite && file.is_file() {
        let there: TrackReport = report::read(&file)?;
        let steps: Vec<u64> = there.points.iter().map(|p| p.step).collect();
        if steps == run.checkpoint_steps()?
            && there.tol == track.tol
            && there.subject.dtype == recipe.dtype.as_str()
            && recipe.samples.is_none_or(|n| n == there.subject.samples)
        {
            table::print_track(&there);
            return Ok(());
        }
    }
    track::run(&track, interrupt).map(|_| ())
}

/// Finds the spectrum, unless the report that is there answers the same question.
fn find_spectrum(
    args: &ReproduceArgs,
    recipe: &EigenRecipe,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<(EigenReport, bool)> {
    let mut eigen = EigenArgs { k: recipe.k, full: recipe.full, tol: recipe.tol, ..EigenArgs::for_run(path) };
    args.pose(&mut eigen.problem, recipe.samples, recipe.dtype);
    let run = RunDirectory::open(path)?;
    let file = run.report_path("eigen.json");
    if !args.overwrite && file.is_file() && run.report_path("eigen.safetensors").is_file() {
        let there: EigenReport = report::read(&file)?;
        let same = there.subject.step == run.checkpoint_steps()?.last().copied()
            && there.subject.operator == eigen.problem.operator.as_str()
            && there.k == recipe.k
            && there.subject.dtype == recipe.dtype.as_str()
            && (there.method == "dense" || !recipe.full)
            && recipe.samples.is_none_or(|n| n == there.subject.samples);
        if same {
            table::print_eigen(&there);
            let converged = there.converged == there.eigenvalues.len();
            return Ok((there, converged));
        }
    }
    eigen::run(&eigen, interrupt)
}
