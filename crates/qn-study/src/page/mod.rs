//! Runs on one page.

mod picture;
mod run;
pub(crate) mod sections;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use qn_run::{Invalid, write_whole};

use picture::picture;

use crate::experiment::{ExperimentReport, RunSummary, Validation};
use crate::figure::FigureName;
use crate::output::{MARK, Output};
use crate::source::Source;

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
    let columns = filled_columns(&experiment.runs);
    html! {
        p { (experiment.description) }
        p class="faint" { code { (experiment.command) } ", commit " (experiment.versions.commit) }
        div class="wide" {
            table class="sortable" {
                thead { tr { @for (head, _) in &columns { th { (head) } } } }
                tbody {
                    @for row in 0..experiment.runs.len() {
                        tr { @for (_, cells) in &columns { td { (cells[row]) } } }
                    }
                }
            }
        }
        @for summary in &experiment.summaries { p { (summary.words()) "." } }
    }
}

/// Heads and cells of the columns in which there is something of some run.
fn filled_columns(runs: &[RunSummary]) -> Vec<(&'static str, Vec<String>)> {
    let some = |text: Option<String>| text.unwrap_or_default();
    let last = |run: &RunSummary, of: fn(&Validation) -> String| run.last().map_or("-".into(), of);
    let paper = |run: &RunSummary| run.paper.unwrap_or_default();
    type Cell<'a> = &'a dyn Fn(&RunSummary) -> String;
    let all: [(&'static str, Cell<'_>); 12] = [
        ("run", &|r| r.name.clone()),
        ("optimizer", &|r| r.optimizer.clone()),
        ("learning rate", &|r| r.lr.to_string()),
        ("damping", &|r| r.damping.to_string()),
        ("seed", &|r| r.seed.to_string()),
        ("steps", &|r| r.steps.to_string()),
        ("test accuracy / %", &|r| last(r, |v| format!("{:.2}", 100.0 * v.accuracy))),
        ("test loss", &|r| last(r, |v| format!("{:.4}", v.loss))),
        ("seconds", &|r| format!("{:.1}", r.seconds)),
        ("failed at", &|r| some(r.failed_at().map(|step| step.to_string()))),
        ("paper: accuracy / %", &|r| some(paper(r).val_accuracy.map(|a| format!("{:.0}", 100.0 * a)))),
        ("paper: loss", &|r| some(paper(r).val_loss.map(|loss| loss.to_string()))),
    ];
    let columns = all.iter().map(|(head, cell)| (*head, runs.iter().map(cell).collect::<Vec<String>>()));
    columns.filter(|(_, cells)| cells.iter().any(|cell| !cell.is_empty())).collect()
}
