//! Runs on one page.

mod picture;
mod run;
pub(crate) mod sections;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use qn_run::{Invalid, write_whole};

use picture::picture;

use crate::experiment::{ExperimentReport, RunSummary};
use crate::figure::{FigureName, Source};
use crate::output::{MARK, Output};

/// Asks for runs and their reports on one page: one file that needs no network.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// Run directories.
    pub runs: Vec<PathBuf>,
    /// The file; report.html in the run, or where the runs are, where absent.
    pub output: Option<PathBuf>,
}

/// Writes the page; gives its path.
///
/// # Errors
/// A run or one of its reports cannot be read, or something else stands where the page is to go.
pub fn page(args: &PageRequest) -> Result<PathBuf> {
    let folder = match args.runs.as_slice() {
        [] => bail!(Invalid("`runs`: give at least one".into())),
        [one] => one.clone(),
        several => several[0].parent().map(Path::to_owned).unwrap_or_default(),
    };
    let output = args.output.clone().unwrap_or_else(|| folder.join("report.html"));
    let title = match args.runs.as_slice() {
        [one] => Source::new(one).label,
        several => format!("{} runs", several.len()),
    };
    claim_page(&output)?;
    write_page(&output, &title, None, &args.runs)?;
    Ok(output)
}

/// Refuses a path at which something stands that is no page of ours.
///
/// # Errors
/// It does.
pub fn claim_page(path: &Path) -> Result<()> {
    Output::Marked.claim(path)
}

/// Writes the page about `runs`, headed by an experiment where they belong to one.
///
/// # Errors
/// A run or one of its reports cannot be read, or the page not be written.
pub fn write_page(
    output: &Path,
    title: &str,
    experiment: Option<&ExperimentReport>,
    runs: &[PathBuf],
) -> Result<()> {
    let sources: Vec<Source> = runs.iter().map(|path| Source::new(path)).collect();
    let base = output.parent().unwrap_or(Path::new(""));
    let mut sections = Vec::with_capacity(runs.len());
    for (path, source) in runs.iter().zip(&sources) {
        let section = run::section(path, source, base);
        sections.push(section.with_context(|| format!("the report on {}", path.display()))?);
    }
    let caption = "Means over windows; accuracy at the end of every epoch.";
    let mut together = vec![picture(FigureName::Training, &sources, caption)?];
    if sources.len() > 1 && sources.iter().all(|s| s.report_file("overlap.json").is_some()) {
        let caption = "Every snapshot against the last network's top eigenvectors.";
        together.push(picture(FigureName::Overlap, &sources, caption)?);
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                meta name="generator" content=(MARK);
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (title) }
                @if let Some(experiment) = experiment { (overview(experiment)) }
                div class="figures" { @for figure in &together { (figure) } }
                @for section in &sections { (section) }
                p class="faint" { "Written by qn " (env!("CARGO_PKG_VERSION")) "." }
                script { (PreEscaped(include_str!("script.js"))) }
            }
        }
    };
    write_whole(output, page.into_string().as_bytes())?;
    Ok(())
}

/// What the runs of an experiment came to.
fn overview(experiment: &ExperimentReport) -> Markup {
    let last = |run: &RunSummary, f: fn(&crate::Validation) -> String| run.last().map_or("-".into(), f);
    html! {
        p { (experiment.description) }
        p class="faint" { code { (experiment.command) } ", commit " (experiment.versions.commit) }
        div class="wide" {
            table class="sortable" {
                thead {
                    tr {
                        @for head in ["run", "optimizer", "learning rate", "damping", "seed", "steps", "test accuracy / %",
                            "test loss", "seconds", "failed at", "paper: accuracy / %", "paper: loss"] { th { (head) } }
                    }
                }
                tbody {
                    @for run in &experiment.runs {
                        @let paper = run.paper.unwrap_or_default();
                        tr {
                            td { (run.name) } td { (run.optimizer) } td { (run.lr) } td { (run.damping) } td { (run.seed) }
                            td { (run.steps) }
                            td { (last(run, |v| format!("{:.2}", 100.0 * v.accuracy))) }
                            td { (last(run, |v| format!("{:.4}", v.loss))) }
                            td { (format!("{:.1}", run.seconds)) }
                            td { (run.failed_at().map_or(String::new(), |s| s.to_string())) }
                            td { (paper.val_accuracy.map_or(String::new(), |a| format!("{:.0}", 100.0 * a))) }
                            td { (paper.val_loss.map_or(String::new(), |l| l.to_string())) }
                        }
                    }
                }
            }
        }
        @for summary in &experiment.summaries { p { (summary.words()) "." } }
    }
}
