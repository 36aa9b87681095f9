//! One run's part of the page.

use std::path::Path;

use anyhow::Result;
use maud::{Markup, html};
use qn_run::{RunDirectory, TrainConfig};
use serde_json::Value;

use super::picture::picture;
use crate::figure::FigureName;
use crate::registry::{AnyReport, KINDS};
use crate::source::Source;

/// Everything there is to see of a run; links are relative to `base`.
pub(super) fn section(path: &Path, source: &Source, base: &Path) -> Result<Markup> {
    let run = RunDirectory::open(path)?;
    let config = run.read_config()?;
    let there: Vec<_> = KINDS
        .iter()
        .filter_map(|kind| Some((kind, source.report_file(&format!("{}.json", kind.name))?)))
        .collect();
    let mut reports = Vec::with_capacity(there.len());
    for (_, file) in &there {
        reports.push(AnyReport::read(file)?);
    }
    let mut shown: Vec<(FigureName, &str)> =
        there.iter().flat_map(|(kind, _)| kind.figures.iter().copied()).collect();
    shown.extend(of_the_log(source));
    let one = std::slice::from_ref(source);
    let figures: Vec<Markup> =
        shown.into_iter().map(|(name, caption)| picture(name, one, caption)).collect::<Result<_>>()?;
    let link = path.strip_prefix(base).unwrap_or(path);
    let files = there.iter().flat_map(|(kind, _)| kind.files());
    let files: Vec<String> = files.filter(|name| source.report_file(name).is_some()).collect();
    Ok(html! {
        h2 { (source.label) }
        (options(&config)?)
        p {
            "Files: "
            @for name in ["config.toml", "manifest.json", "metrics.jsonl"] {
                a href=(link.join(name).display()) { (name) } " "
            }
            @for name in &files { a href=(link.join("reports").join(name).display()) { (name) } " " }
        }
        @for report in &reports { (report.section()) }
        div class="figures" { @for figure in &figures { (figure) } }
    })
}

/// What is drawn of a run's log, where it has the numbers.
fn of_the_log(source: &Source) -> Vec<(FigureName, &'static str)> {
    let mut shown = Vec::new();
    if source.keeps_averages() {
        shown.push((FigureName::Lambda, "As the optimiser averages them."));
    }
    if source.takes_newton_steps() {
        let caption = "Of the Newton steps, by the model matrix of the averaged class gradients.";
        shown.push((FigureName::Stability, caption));
    }
    shown
}

/// Every option of the run.
fn options(config: &TrainConfig) -> Result<Markup> {
    let Value::Object(all) = serde_json::to_value(config)? else { return Ok(html! {}) };
    let short = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(architecture) => {
            architecture.get("name").and_then(Value::as_str).unwrap_or("...").to_owned()
        }
        other => other.to_string(),
    };
    Ok(html! {
        details {
            summary { "Options" }
            div class="wide" {
                table { tbody { @for (name, value) in &all { tr { td { (name) } td { (short(value)) } } } } }
            }
        }
    })
}
