//! `qn-analyse reproduce`: the one command that trains as well.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use qn_run::{Invalid, Metric, Observer, RunDirectory, read_metrics, write_whole};
use qn_study::{
    Dtype, EMBEDDED_NETWORKS, EigenRecipe, EigenReport, EigenRequest, ExperimentReport, OverlapReport,
    OverlapRequest, ProblemRequest, Recipe, RunSummary, TrackRecipe, TrackReport, TrackRequest, claim,
    claim_page, eigen, overlap, read_report, track, write, write_page,
};
use qn_train::{Launch, Settings, TrainError, train};

use super::problem::show;
use super::tables;
use crate::interrupt::Interrupt;
use crate::stdout::outln;
use crate::talk::Talk;
use crate::terminal::Terminal;
use crate::train::set_threads;

/// Run an experiment: train each of a recipe's runs, analyse them as it says, and compare with the paper.
/// What is done is kept, what was broken off goes on; experiment.json tells of all runs.
#[derive(Args, Clone, Debug)]
pub(super) struct ReproduceArgs {
    /// A recipe by name, or a .toml file.
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

/// The command under way.
struct Experiment<'a> {
    args: &'a ReproduceArgs,
    threads: usize,
    terminal: &'a Terminal<'a>,
}

/// A run and what was found out about it.
struct Finished {
    path: PathBuf,
    summary: RunSummary,
    metrics: Vec<Metric>,
    spectrum: Option<(EigenReport, OverlapReport)>,
}

/// What each run of a recipe is trained with.
pub(super) fn settings(recipe: &Recipe) -> Result<Vec<Settings>, Invalid> {
    let read = |run: &qn_study::RecipeRun| {
        let settings = run.options.clone().try_into();
        settings.map_err(|e: toml::de::Error| {
            let (name, group, reason) = (&recipe.name, &run.group, e.to_string());
            Invalid(format!("the recipe {name} is not valid: [runs.{group}]: {}", reason.trim()))
        })
    };
    recipe.runs.iter().map(read).collect()
}

/// Options with the architecture in a file of the experiment's folder, where they name one of the repository's files and it
/// is not there, but in the program.
fn with_network(mut settings: Settings, folder: &Path) -> Result<Settings> {
    let known =
        EMBEDDED_NETWORKS.iter().find(|(path, _)| *path == settings.arch && !Path::new(path).is_file());
    if let Some((path, text)) = known {
        let file = folder.join(Path::new(path).file_name().unwrap_or_default());
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write_whole(&file, text.as_bytes())?;
        settings.arch = file.display().to_string();
    }
    Ok(settings)
}

/// Runs the command; gives whether every eigenpair converged.
pub(super) fn run(args: &ReproduceArgs, interrupt: &Interrupt) -> Result<bool> {
    let terminal = &Terminal::new(&args.talk, interrupt);
    let threads = set_threads(args.threads, terminal.verbosity)?;
    let recipe = Recipe::find(&args.recipe)?;
    let folder = args.out.join(&recipe.name);
    let settings =
        settings(&recipe)?.into_iter().map(|one| with_network(one, &folder)).collect::<Result<Vec<_>>>()?;
    terminal.note(format_args!("{}: {}", recipe.name, recipe.description));
    let (report, page) = (folder.join("experiment.json"), folder.join("report.html"));
    claim::<ExperimentReport>(Some(&report))?;
    claim_page(&page)?;
    let experiment = Experiment { args, threads, terminal };
    let (mut finished, mut converged) = (Vec::new(), true);
    for (run, settings) in recipe.runs.iter().zip(&settings) {
        let path = folder.join(&run.name);
        terminal.note(format_args!("\n== {} ==", path.display()));
        experiment.train(settings, &path).with_context(|| format!("run '{}'", run.name))?;
        let directory = RunDirectory::open(&path)?;
        let metrics = read_metrics(&directory.metrics_path())?;
        let paper = recipe.paper.get(&run.group).copied();
        let summary = RunSummary::new(run, &directory, &metrics, paper)?;
        let mut spectrum = None;
        if summary.diverged_at.is_none() {
            if let Some(recipe) = &recipe.eigen {
                let (eigen, good) = experiment.find_spectrum(recipe, &path)?;
                converged &= good;
                spectrum = Some((eigen, experiment.compare(&path)?));
            }
            if let Some(recipe) = &recipe.track {
                experiment.follow(recipe, &path)?;
            }
        }
        finished.push(Finished { path, summary, metrics, spectrum });
    }
    let logs = finished.iter_mut().map(|f| (f.summary.clone(), std::mem::take(&mut f.metrics)));
    let experiment = ExperimentReport::new(&recipe, logs.collect());
    write(&experiment, Some(&report))?;
    terminal.clear();
    tables::print_experiment(&experiment);
    if recipe.eigen.is_some() {
        tables::print_spectra(finished.iter().map(|f| (&f.summary, f.spectrum.as_ref())));
    }
    let paths: Vec<PathBuf> = finished.iter().map(|f| f.path.clone()).collect();
    write_page(&page, &recipe.name, Some(&experiment), &paths)?;
    outln!("\nreports:\n  {}", report.display());
    let analysed = recipe.eigen.is_some() || recipe.track.is_some();
    for f in finished.iter().filter(|f| analysed && f.summary.diverged_at.is_none()) {
        outln!("  {}", f.path.join("reports").display());
    }
    outln!("all on one page, for a browser:\n  {}", page.display());
    Ok(converged)
}

impl Experiment<'_> {
    /// The problem of a run's analysis, as this command and the recipe want it.
    fn problem(&self, run: &Path, samples: Option<usize>, dtype: Dtype) -> ProblemRequest {
        ProblemRequest {
            samples,
            dtype,
            data_dir: self.args.data_dir.clone(),
            threads: self.threads,
            ..ProblemRequest::of_run(run)
        }
    }

    /// Trains, goes on, or does nothing when the last step is there. A run that diverges is a result.
    fn train(&self, settings: &Settings, path: &Path) -> Result<()> {
        let (args, terminal) = (self.args, self.terminal);
        let config = settings.configure(&args.data_dir)?;
        // A folder with another configuration is another experiment: `train` refuses it unless told.
        let resume = !args.overwrite
            && RunDirectory::open(path).is_ok_and(|run| run.read_config().is_ok_and(|found| found == config));
        if resume {
            let run = RunDirectory::open(path)?;
            if read_metrics(&run.metrics_path()).is_ok_and(|lines| lines.iter().any(|m| m.diverged)) {
                terminal.note("diverged already");
                return Ok(());
            }
            let last = run.checkpoint_steps()?.last().copied();
            if last == Some(config.steps) && run.snapshot_steps()?.last() == last.as_ref() {
                terminal.note("trained already");
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
            observer: terminal,
        });
        match outcome {
            Ok(outcome) => terminal.note(format_args!("trained in {:.1} s", outcome.seconds)),
            Err(error) if matches!(error.downcast_ref(), Some(TrainError::Diverged { .. })) => {
                terminal.say(qn_run::Level::Note, format_args!("{error}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Follows the run along its checkpoints, unless the report that is there answers the same question.
    fn follow(&self, recipe: &TrackRecipe, path: &Path) -> Result<()> {
        let run = RunDirectory::open(path)?;
        let file = run.report_path("track.json");
        let usual = TrackRequest::default();
        let request = TrackRequest {
            problem: self.problem(path, recipe.samples, recipe.dtype),
            tol: recipe.tol.unwrap_or(usual.tol),
            to: Some(file.clone()),
            ..usual
        };
        // One that cannot be read, as of another version, is made again.
        if !self.args.overwrite
            && let Ok(there) = read_report::<TrackReport>(&file)
        {
            let steps: Vec<u64> = there.points.iter().map(|p| p.step).collect();
            if steps == run.checkpoint_steps()?
                && there.tol == request.tol
                && there.subject.dtype == recipe.dtype.as_str()
                && recipe.samples.is_none_or(|n| n == there.subject.samples)
            {
                self.terminal.clear();
                tables::print_track(&there);
                return Ok(());
            }
        }
        let report = track(&request, self.terminal)?;
        show(&report, Some(&file), self.terminal, || tables::print_track(&report))
    }

    /// Finds the spectrum, unless the report that is there answers the same question.
    fn find_spectrum(&self, recipe: &EigenRecipe, path: &Path) -> Result<(EigenReport, bool)> {
        let run = RunDirectory::open(path)?;
        let file = run.report_path("eigen.json");
        let request = EigenRequest {
            problem: self.problem(path, recipe.samples, recipe.dtype),
            k: recipe.k,
            full: recipe.full,
            tol: recipe.tol,
            to: Some(file.clone()),
            ..EigenRequest::default()
        };
        if !self.args.overwrite
            && run.report_path("eigen.safetensors").is_file()
            && let Ok(there) = read_report::<EigenReport>(&file)
        {
            let same = there.subject.step == run.checkpoint_steps()?.last().copied()
                && there.subject.operator == request.problem.operator.as_str()
                && there.k == recipe.k
                && there.subject.dtype == recipe.dtype.as_str()
                && (there.method == "dense" || !recipe.full)
                && recipe.samples.is_none_or(|n| n == there.subject.samples);
            if same {
                self.terminal.clear();
                tables::print_eigen(&there);
                let converged = there.converged == there.eigenvalues.len();
                return Ok((there, converged));
            }
        }
        let found = eigen(&request, self.terminal)?;
        show(&found.report, Some(&file), self.terminal, || tables::print_findings(&found))?;
        let converged = found.converged();
        Ok((found.report, converged))
    }

    /// Compares the run's class gradients with the spectrum that was found.
    fn compare(&self, path: &Path) -> Result<OverlapReport> {
        let file = RunDirectory::open(path)?.report_path("overlap.json");
        let request =
            OverlapRequest { run: path.to_owned(), to: Some(file.clone()), ..OverlapRequest::default() };
        let report = overlap(&request, self.terminal)?;
        show(&report, Some(&file), self.terminal, || tables::print_overlap(&report))?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every recipe of the repository can be read, and its options make sense.
    #[test]
    fn committed_recipes_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../analysis/recipes");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let recipe = Recipe::find(file.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"));
            settings(&recipe).unwrap_or_else(|e| panic!("{e}"));
            assert!(file.ends_with(format!("{}.toml", recipe.name)), "{}", file.display());
        }
    }

    #[test]
    fn an_unknown_option_is_told_with_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.toml");
        std::fs::write(&file, "name = 'r'\ndescription = 'd'\n[runs.a]\nrl = 0.25\n").unwrap();
        let recipe = Recipe::find(file.to_str().unwrap()).unwrap();
        assert!(settings(&recipe).unwrap_err().to_string().contains("[runs.a]"));
    }
}
