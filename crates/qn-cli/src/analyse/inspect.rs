//! `qn-analyse inspect`: what a file is, and what is in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use qn_model::{Architecture, Graph};
use qn_run::{
    Invalid, Metric, RunDirectory, RunError, TensorFile, TrainConfig, bytes, read_metrics, read_tensors,
};
use qn_study::{AnyReport, Recipe, ReportKind, read_any};
use qn_train::Settings;
use serde_json::Value;

use super::{reproduce, tables};
use crate::errors;
use crate::stdout::outln;

/// Say what a file is and what is in it: a run directory, a snapshot, a checkpoint, a report, a log, a recipe or an
/// architecture. Checksums are verified.
#[derive(Args, Clone, Debug)]
pub(super) struct InspectArgs {
    /// The files, or run directories.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    for (i, path) in args.files.iter().enumerate() {
        if i > 0 {
            outln!();
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension {
            _ if path.is_dir() => directory(path)?,
            "json" => json(path)?,
            "jsonl" => log(&read_metrics(path)?, path),
            "toml" => recipe_or_architecture(path)?,
            _ => tensors(path)?,
        }
    }
    Ok(())
}

fn line(name: &str, what: impl std::fmt::Display) {
    outln!("  {name:<14} {what}");
}

/// Options of the optimiser that are not as `qn-train` has them where nothing is said.
fn uncommon_options(config: &TrainConfig) -> Result<Vec<String>> {
    const OPTIONS: [&str; 14] = [
        "schedule",
        "weight_decay",
        "dampening",
        "nesterov",
        "momentum_on",
        "gamma",
        "basis",
        "lambda",
        "newton",
        "newton_scale",
        "max_newton_step",
        "project",
        "class_statistics",
        "augment",
    ];
    let (config, usual) = (serde_json::to_value(config)?, serde_json::to_value(Settings::default())?);
    let flag = |name: &str| name.replace('_', "-");
    let differing = OPTIONS.iter().filter(|name| config[**name] != usual[flag(name)]);
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(differing.map(|name| format!("{} {}", flag(name), word(&config[*name]))).collect())
}

fn directory(path: &Path) -> Result<()> {
    let run = RunDirectory::open(path)?;
    let config = run.read_config()?;
    let graph = Graph::new(&config.architecture)?;
    outln!("{}: a run", path.display());
    line("network", format_args!("{}, {} parameters", config.architecture.name, graph.layout().len()));
    let samples = config.samples.map_or("all".into(), |n| n.to_string());
    line("data", format_args!("{}, {samples} training samples", config.data));
    let batch = config.batch_size.map_or("full batch".into(), |n| format!("batches of {n}"));
    line(
        "optimizer",
        format_args!(
            "{}, lr {}, momentum {}, damping {}, {batch}, seed {}",
            config.optimizer.as_str(),
            config.lr,
            config.momentum,
            config.damping,
            config.seed
        ),
    );
    let options = uncommon_options(&config)?;
    if !options.is_empty() {
        line("options", options.join(", "));
    }
    let checkpoints = run.checkpoint_steps()?;
    let taken = checkpoints.last().copied().unwrap_or(0);
    line("steps", format_args!("{taken} of {} saved", config.steps));
    line("checkpoints", list(&checkpoints));
    line("snapshots", list(&run.snapshot_steps()?));
    match read_metrics(&run.metrics_path()) {
        Ok(metrics) => outcome(&metrics),
        Err(error) => line("log", errors::words(&error.into())),
    }
    let reports = path.join("reports");
    let mut names: Vec<String> = std::fs::read_dir(&reports)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    line("reports", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    line("on disk", bytes(size(path)?));
    Ok(())
}

fn list(steps: &[u64]) -> String {
    match steps {
        [] => "none".into(),
        [one] => format!("1, of step {one}"),
        [first, .., last] => format!("{}, of steps {first} to {last}", steps.len()),
    }
}

fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        sum += if is_folder { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

fn log(metrics: &[Metric], path: &Path) {
    outln!("{}: the log of a run, {} lines", path.display(), metrics.len());
    outcome(metrics);
}

fn outcome(metrics: &[Metric]) {
    let Some(last) = metrics.last() else { return };
    if let Some((step, loss)) = metrics.iter().rev().find_map(|m| Some((m.step, m.loss?))) {
        line("training loss", format_args!("{loss:.4} at step {step}"));
    }
    if let Some((loss, accuracy)) = metrics.iter().rev().find_map(|m| Some((m.val_loss?, m.val_accuracy))) {
        let correct = accuracy.map_or(String::new(), |a| format!("{:.2} % correct, ", 100.0 * a));
        line("test", format_args!("{correct}loss {loss:.4}"));
    }
    if last.diverged {
        line("diverged", format_args!("at step {}", last.step));
    }
    line("time", format_args!("{:.1} s", last.seconds));
}

fn tensors(path: &Path) -> Result<()> {
    let TensorFile { tensors, meta } = read_tensors(path).map_err(|e| match e {
        RunError::Unreadable { .. } => anyhow!(Invalid(format!(
            "{e}; a run directory and .json, .jsonl and .toml files can be inspected, too"
        ))),
        e => e.into(),
    })?;
    match meta.get("kind").and_then(Value::as_str) {
        Some(kind) => outln!("{}: {kind}, checksum right", path.display()),
        None => outln!("{}: tensors of another program, no checksum", path.display()),
    }
    for key in ["step", "layout_hash"] {
        if let Some(value) = meta.get(key).filter(|v| !v.is_null()) {
            line(key, value);
        }
    }
    outln!("  {:<32} {:>16} {:>11} {:>11} {:>11}", "tensor", "shape", "norm", "smallest", "largest");
    for (name, tensor) in &tensors {
        let shape = tensor.shape().iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        let Some(values) = tensor.to_f64() else {
            outln!("  {name:<32} {shape:>16} (no floating-point numbers)");
            continue;
        };
        let norm = qn_curvature::norm_l2(&values);
        let (low, high) =
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        let note = if bad > 0 { format!("  {bad} NOT FINITE") } else { String::new() };
        outln!("  {name:<32} {shape:>16} {norm:>11.4e} {low:>11.3e} {high:>11.3e}{note}");
    }
    Ok(())
}

fn json(path: &Path) -> Result<()> {
    let value = read_any(path)?;
    if let Some(kind) = ReportKind::of(&value) {
        outln!("{}: {} report: {}", path.display(), kind.name, plain(kind.about));
        tables::print_any(&AnyReport::read(path)?);
    } else if let Value::Object(fields) = &value {
        outln!("{}: {} fields", path.display(), fields.len());
        for (name, field) in fields {
            line(name, summary(field));
        }
    } else {
        outln!("{}: {}", path.display(), summary(&value));
    }
    Ok(())
}

/// Markdown as plain text.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "").replace("&#124;", "|")
}

/// A value on one line.
fn summary(value: &Value) -> String {
    match value {
        Value::Array(entries) => {
            let numbers: Option<Vec<f64>> = entries.iter().map(Value::as_f64).collect();
            match numbers.as_deref() {
                Some([first, .., last]) => format!("{} numbers, {first} to {last}", entries.len()),
                _ => format!("{} entries", entries.len()),
            }
        }
        Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn recipe_or_architecture(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table =
        text.parse().map_err(|e| Invalid(format!("{} is not valid TOML: {e}", path.display())))?;
    if table.contains_key("runs") {
        let recipe = Recipe::find(&path.display().to_string())?;
        reproduce::settings(&recipe)?;
        outln!("{}: the recipe {}, {} runs", path.display(), recipe.name, recipe.runs.len());
        line("description", &recipe.description);
        for run in &recipe.runs {
            line("run", &run.name);
        }
        return Ok(());
    }
    let kind = if table.contains_key("architecture") { "a run's options and its" } else { "the" };
    let described = table.get("architecture").cloned().unwrap_or(toml::Value::Table(table));
    let architecture: Architecture = described.try_into().map_err(|e: toml::de::Error| {
        Invalid(format!("{} is neither a recipe nor an architecture: {}", path.display(), e.message()))
    })?;
    let graph = Graph::new(&architecture)?;
    outln!("{}: {kind} architecture {}", path.display(), architecture.name);
    line("input", graph.input());
    line("classes", architecture.classes);
    line("parameters", graph.layout().len());
    for p in graph.layout().params() {
        outln!("  {:<32} {:?}", p.name, p.shape);
    }
    Ok(())
}
