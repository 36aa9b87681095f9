//! One run's part of the page.

use std::path::Path;

use anyhow::Result;
use maud::{Markup, PreEscaped, html};
use qn_run::{RunDirectory, TrainConfig};
use serde_json::{Value, json};

use super::picture::picture;
use crate::figure::{FigureName, Source};
use crate::report::{EigenReport, FullSpectrumReport, OverlapReport};

/// What is drawn of a run, where its numbers are there.
const FIGURES: [(FigureName, &str); 9] = [
    (FigureName::Eigenvalues, "With the number of classes marked."),
    (FigureName::Spectrum, "Every eigenvalue, in bins of a tenth of a decade."),
    (FigureName::Density, "By stochastic Lanczos quadrature."),
    (FigureName::Overlap, "Every snapshot's class gradients against the last network's eigenvectors."),
    (FigureName::Angles, "At the last snapshot; 90 degrees are orthogonal."),
    (FigureName::Singular, "At the last snapshot. What lies below the tolerance does not count."),
    (FigureName::Lambda, "As the optimiser averages them."),
    (FigureName::Stability, "Of the Newton steps, by the model matrix of the averaged class gradients."),
    (FigureName::Track, "At every checkpoint."),
];

/// Everything there is to see of a run; links are relative to `base`.
pub(super) fn section(path: &Path, source: &Source, base: &Path) -> Result<Markup> {
    let run = RunDirectory::open(path)?;
    let config = run.read_config()?;
    let one = std::slice::from_ref(source);
    let shown = FIGURES.iter().filter(|(name, _)| name.can_draw(source));
    let figures: Vec<Markup> =
        shown.map(|&(name, caption)| picture(name, one, caption)).collect::<Result<_>>()?;
    let eigen = source.has("eigen.json").then(|| source.report::<EigenReport>("eigen.json")).transpose()?;
    let full = source
        .has("full_spectrum.json")
        .then(|| source.report::<FullSpectrumReport>("full_spectrum.json"))
        .transpose()?;
    let overlap =
        source.has("overlap.json").then(|| source.report::<OverlapReport>("overlap.json")).transpose()?;
    let link = path.strip_prefix(base).unwrap_or(path);
    Ok(html! {
        h2 { (source.label) }
        (options(&config)?)
        p {
            "Files: "
            @for name in ["config.toml", "manifest.json", "metrics.jsonl"] {
                a href=(link.join(name).display()) { (name) } " "
            }
            @for name in ["eigen.json", "full_spectrum.json", "overlap.json", "density.json", "track.json",
                "decompose.json", "batches.json"] {
                @if source.has(name) { a href=(link.join("reports").join(name).display()) { (name) } " " }
            }
        }
        @if let Some(eigen) = &eigen { (convergence(eigen)) }
        @if let Some(full) = &full { (signs(full)) }
        @if let Some(overlap) = &overlap { (last_overlap(overlap)) }
        div class="figures" { @for figure in &figures { (figure) } }
        @if let Some(overlap) = &overlap { (slider(overlap)?) }
    })
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

fn convergence(eigen: &EigenReport) -> Markup {
    let s = &eigen.subject;
    html! {
        p {
            (s.operator) " of " (s.arch) " over " (s.samples) " " (s.split) " samples of " (s.data) " (" (s.dtype) "): loss "
            (format!("{:.5}", eigen.loss)) (eigen.accuracy.map_or(String::new(), |a| format!(", accuracy {:.2} %", 100.0 * a))) ", |gradient| "
            (format!("{:.3e}", eigen.gradient_norm)) ". " (eigen.converged) " of " (eigen.eigenvalues.len())
            " pairs have a residual within " (format!("{:.0e}", eigen.tol)) " of the largest eigenvalue; "
            (eigen.matvecs) " products, " (format!("{:.1} s", eigen.seconds)) "."
        }
        details {
            summary { "Eigenvalues with residuals" }
            div class="wide" {
                table class="sortable" {
                    thead { tr { th { "index" } th { "eigenvalue" } th { "residual |A v - lambda v|" } } }
                    tbody {
                        @for (i, (value, residual)) in eigen.eigenvalues.iter().zip(&eigen.residuals).enumerate() {
                            tr {
                                td { (i + 1) } td { (format!("{value:.6}")) } td { (format!("{residual:.1e}")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn signs(full: &FullSpectrumReport) -> Markup {
    let bound = format!("{:.1e}", full.threshold);
    html! {
        p {
            "Of all " (full.subject.params) " eigenvalues " (full.positive) " are above " (bound) ", " (full.negative)
            " below minus that, " (full.near_zero) " too near to zero to have a sign; the smallest is "
            (format!("{:.4}", full.smallest)) ". The matrix agrees with the operator to "
            (format!("{:.1e}", full.assembly_error)) "; trace " (format!("{:.6}", full.trace)) ", and "
            (format!("{:.6}", full.trace_of_eigenvalues)) " from the eigenvalues."
        }
    }
}

fn last_overlap(overlap: &OverlapReport) -> Markup {
    let Some(last) = overlap.snapshots.last() else { return html! {} };
    let random = overlap.random_assigned();
    html! {
        p {
            "At the end the mean assigned |cos| of class gradients (" (overlap.class_gradients) ") and eigenvectors is "
            strong { (format!("{:.3}", last.mean_assigned_cosine)) } ", where random directions, assigned in this way, have "
            (format!("{:.4} ± {:.4}", random.mean, random.std)) "; the subspaces' overlap is "
            (format!("{:.3}", last.subspace_overlap)) ", the rank of [V, E] " (last.rank) " with unit columns and "
            (last.rank_raw) " without."
            @if last.present() < overlap.classes {
                " The means are over the " (last.present()) " of " (overlap.classes) " classes of which there was a sample."
            }
            @if last.rank != last.rank_raw {
                " The two differ because the tolerance is relative to the longest column: the raw rank measures |c_k|."
            }
        }
    }
}

/// The cosine matrix, snapshot by snapshot.
fn slider(overlap: &OverlapReport) -> Result<Markup> {
    let rounded = |x: f64| (1000.0 * x).round() / 1000.0;
    let snapshots: Vec<Value> = overlap
        .snapshots
        .iter()
        .map(|s| {
            let rows: Vec<Vec<f64>> =
                s.cosines.iter().map(|row| row.iter().map(|&x| rounded(x)).collect()).collect();
            json!({"step": s.step, "mean": s.mean_assigned_cosine, "assignment": s.assignment, "cosines": rows})
        })
        .collect();
    let last = snapshots.len().saturating_sub(1);
    let data = serde_json::to_string(&snapshots)?;
    Ok(html! {
        h3 { "|cos| of class gradients (rows) and eigenvectors (columns)" }
        div class="cosines" {
            label { "snapshot " input type="range" min="0" max=(last) value=(last) aria-label="snapshot"; } " "
            output {}
            div class="wide" {
                table {
                    thead { tr { th {} @for j in 1..=overlap.k { th { (j) } } } }
                    tbody {}
                }
            }
            script type="application/json" { (PreEscaped(data)) }
        }
    })
}
