//! `qn-analyse reproduce`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use qn_run::{RunDirectory, read_metrics};
use qn_train::ui::Verbosity;
use qn_train::{Interrupt, Launch, Settings, train};

use crate::eigen::{self, EigenArgs};
use crate::overlap::{self, GradientsArg, OverlapArgs};
use crate::recipe::{EigenRecipe, Recipe};
use crate::report::{self, EigenReport, OverlapReport};

/// Run an experiment: train, eigen and overlap for each run of a recipe. What is done is kept, what
/// was broken off goes on.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReproduceArgs {
    /// A recipe of analysis/recipes by name, or a .toml file.
    recipe: String,
    /// Where the runs go: OUT/RECIPE/RUN.
    #[arg(long, default_value = "runs")]
    out: PathBuf,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", default_value = "data")]
    data_dir: PathBuf,
    /// Do everything again.
    #[arg(long)]
    overwrite: bool,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// Say nothing but errors and results.
    #[arg(long, short)]
    quiet: bool,
}

struct Finished {
    name: String,
    path: PathBuf,
    eigen: EigenReport,
    overlap: OverlapReport,
    accuracy: Option<f64>,
}

/// Runs the command; gives whether every eigenpair converged.
pub(crate) fn run(args: &ReproduceArgs, interrupt: &Interrupt) -> Result<bool> {
    qn_train::cli::set_threads(args.threads)?;
    let recipe = Recipe::find(&args.recipe)?;
    let verbosity = if args.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    verbosity.say(format_args!("{}: {}", recipe.name, recipe.description));
    let (mut finished, mut converged) = (Vec::new(), true);
    for (name, settings) in &recipe.runs {
        let path = args.out.join(&recipe.name).join(name);
        verbosity.say(format_args!("\n== {} ==", path.display()));
        train_run(args, settings, &path, verbosity, interrupt).with_context(|| format!("run '{name}'"))?;
        let (eigen, good) = spectrum(args, &recipe.eigen, &path, interrupt)?;
        converged &= good;
        let overlap = overlap::run(&OverlapArgs {
            run: path.clone(),
            k: None,
            gradients: GradientsArg::Auto,
            json: None,
            quiet: args.quiet,
        })?;
        let metrics = read_metrics(&RunDirectory::open(&path)?.metrics_path())?;
        let accuracy = metrics.iter().rev().find_map(|m| m.val_accuracy);
        finished.push(Finished { name: name.clone(), path, eigen, overlap, accuracy });
    }
    print_summary(&finished);
    Ok(converged)
}

/// Trains, goes on, or does nothing when the last step is there.
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
        overwrite: args.overwrite,
        verbosity,
        interrupt: interrupt.clone(),
    })?;
    verbosity.say(format_args!("trained in {:.1} s", outcome.seconds));
    Ok(())
}

/// Finds the spectrum, unless the report that is there answers the same question.
fn spectrum(
    args: &ReproduceArgs,
    recipe: &EigenRecipe,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<(EigenReport, bool)> {
    let mut eigen = EigenArgs { k: recipe.k, full: recipe.full, tol: recipe.tol, ..EigenArgs::for_run(path) };
    eigen.problem.dtype = recipe.dtype;
    eigen.problem.data_dir.clone_from(&args.data_dir);
    eigen.problem.samples = recipe.samples;
    eigen.problem.threads = args.threads;
    eigen.problem.quiet = args.quiet;
    let run = RunDirectory::open(path)?;
    let file = run.report_path("eigen.json");
    if !args.overwrite && file.is_file() && run.report_path("eigen.safetensors").is_file() {
        let there: EigenReport = report::read(&file)?;
        let same = there.subject.step == run.checkpoint_steps()?.last().copied()
            && there.subject.operator == eigen.problem.operator.as_str()
            && there.k == recipe.k
            && there.subject.dtype == recipe.dtype.as_str()
            && (there.method == "dense") == recipe.full
            && recipe.samples.is_none_or(|n| n == there.subject.samples);
        if same {
            crate::table::print_eigen(&there);
            let converged = there.converged == there.eigenvalues.len();
            return Ok((there, converged));
        }
    }
    eigen::run(&eigen, interrupt)
}

fn print_summary(finished: &[Finished]) {
    println!();
    println!(
        "{:<12} {:>9} {:>10} {:>10} {:>10} {:>13} {:>9} {:>9} {:>9}",
        "run",
        "test acc",
        "lambda_1",
        "lambda_C",
        "lambda_C+1",
        "assigned cos",
        "overlap",
        "rank",
        "rank raw"
    );
    for f in finished {
        let c = f.overlap.classes;
        let value = |i: usize| f.eigen.eigenvalues.get(i).map_or("-".into(), |v| format!("{v:.4}"));
        let accuracy = f.accuracy.map_or("-".into(), |a| format!("{:.2} %", 100.0 * a));
        let Some(last) = f.overlap.snapshots.last() else { continue };
        println!(
            "{:<12} {accuracy:>9} {:>10} {:>10} {:>10} {:>13.4} {:>9.4} {:>9} {:>9}",
            f.name,
            value(0),
            value(c - 1),
            value(c),
            last.mean_assigned_cosine,
            last.subspace_overlap,
            last.rank,
            last.rank_raw
        );
    }
    if let Some(f) = finished.first() {
        println!(
            "random directions have a mean |cos| of {:.4}; rank is of [V, E], {} if the spaces are disjoint, {} if equal",
            f.overlap.random_baseline,
            2 * f.overlap.classes,
            f.overlap.classes
        );
    }
    println!("\nreports:");
    for f in finished {
        println!("  {}", f.path.join("reports").display());
    }
}
