//! What the page says of each kind of report.

use maud::{Markup, PreEscaped, html};
use qn_spectrum::Estimate;
use serde_json::{Value, json};

use crate::activations::{Activation, ActivationsReport};
use crate::batches::BatchesReport;
use crate::energy::EnergyReport;
use crate::hierarchy::HierarchyReport;
use crate::layers::LayersReport;
use crate::persistence::PersistenceReport;
use crate::report::{
    DecomposeReport, DensityReport, EigenReport, FullSpectrumReport, OverlapReport, TraceReport,
};
use crate::series::SeriesReport;
use crate::shape::ShapeReport;
use crate::spectrum_shape::GapAtClasses;
use crate::statistics::Spread;
use crate::surface::SurfaceReport;
use crate::track::TrackReport;

/// What was found, how well, and where.
pub(crate) fn eigen(eigen: &EigenReport) -> Markup {
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

/// How many eigenvalues have which sign.
pub(crate) fn full_spectrum(full: &FullSpectrumReport) -> Markup {
    let bound = format!("{:.1e}", full.threshold);
    html! {
        p {
            "Of all " (full.subject.params) " eigenvalues " (full.positive) " are above " (bound) ", " (full.negative)
            " below minus that, " (full.near_zero) " too near to zero to have a sign; the smallest is "
            (format!("{:.4}", full.smallest)) ". The matrix agrees with the operator to "
            (format!("{:.1e}", full.assembly_error)) "; trace " (format!("{:.6}", full.trace)) ", and "
            (format!("{:.6}", full.trace_of_eigenvalues)) " from the eigenvalues."
            @if let Some(all) = &full.all_vectors {
                " All eigenvectors are in " (all.files) " files; of " (all.sampled.len()) " of them the residual is at most "
                (format!("{:.1e}", all.worst_residual())) " and |v'u| with any other at most "
                (format!("{:.1e}", all.worst_orthogonality())) "."
            }
        }
    }
}

/// How the last snapshot lies to the eigenvectors, and every snapshot's cosines.
pub(crate) fn overlap(overlap: &OverlapReport) -> Markup {
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
        (slider(overlap))
    }
}

/// How much of the gradients is in the eigenvectors.
pub(crate) fn energy(energy: &EnergyReport) -> Markup {
    let k = energy.ends().last().copied().unwrap_or(0);
    let percent = |shares: &[f64]| format!("{:.1} %", 100.0 * shares.iter().sum::<f64>());
    html! {
        p {
            "The " (k) " eigenvectors hold " strong { (percent(&energy.gradient)) } " of the gradient's square"
            @if let Some(mean) = energy.mean_class_gradient() {
                " and " (percent(&mean)) " of a class gradient's (mean over classes)"
            }
            "; of a random direction it would be " (format!("{:.2} %", 100.0 * k as f64 * energy.random_share)) "."
        }
    }
}

/// How long the top eigenvectors stay.
pub(crate) fn persistence(report: &PersistenceReport) -> Markup {
    let (first, last) = (&report.points[0], &report.points[report.points.len() - 1]);
    let overlap = |s: usize, t: usize| format!("{:.3}", report.overlaps[s][t]);
    let end = report.points.len() - 1;
    html! {
        p {
            "The span of the " (report.k) " top eigenvectors at step " (last.step) " has an overlap of "
            @if end > 0 { strong { (overlap(end, end - 1)) } " with that of the checkpoint before and " }
            strong { (overlap(end, 0)) } " with that at step " (first.step) "; random spaces have "
            (format!("{:.1e}", report.random_overlap)) "."
            @if let Some(sharpness) = last.batch_sharpness {
                " The curvature along a minibatch's gradient is " (format!("{:.4} ± {:.4}", sharpness.value, sharpness.standard_error))
                " there, the largest eigenvalue " (format!("{:.4}", last.eigenvalues[0])) "."
            }
        }
    }
}

/// The values with the largest eigenvalue and trace.
pub(crate) fn activations(report: &ActivationsReport) -> Markup {
    let of = |value: fn(&Activation) -> f64| {
        report
            .activations
            .iter()
            .max_by(|a, b| value(a).total_cmp(&value(b)))
            .map(|at| (at.name.as_str(), value(at)))
    };
    let words = |found: Option<(&str, f64)>| {
        found.map_or("-".into(), |(name, value)| format!("{value:.4e} ({name})"))
    };
    html! {
        p {
            "In " (report.activations.len()) " values between layers; the largest eigenvalue of the mean over samples is "
            strong { (words(of(|at| at.eigenvalue))) } ", the largest mean eigenvalue "
            (words(of(|at| at.trace.value / at.dim() as f64))) "."
        }
    }
}

/// How many dimensions a spectrum has, in several ways.
pub(crate) fn shape(report: &ShapeReport) -> Markup {
    html! {
        @for spectrum in &report.spectra {
            p {
                (spectrum.name) ": stable rank " (format!("{:.2}", spectrum.shape.stable_rank)) ", participation ratio "
                (format!("{:.2}", spectrum.shape.participation_ratio)) ", effective rank "
                (format!("{:.1}", spectrum.shape.effective_rank)) "; "
                @for dimension in &spectrum.shape.effective_dimensions {
                    (format!("{:.1}", dimension.dimension)) " dimensions at alpha " (dimension.alpha) ", "
                }
                "a share of " (format!("{:.4}", spectrum.shape.negative_share)) " of the sum of |lambda| negative."
                @if let Some(GapAtClasses { gap, wider, of }) = &spectrum.shape.gap_at_classes {
                    " Behind lambda_" (gap.index) " is a gap of " (format!("{:.3}", gap.ratio)) ": " (wider) " of the first "
                    (of) " are wider."
                }
                @if let Some(law) = &spectrum.shape.tail {
                    " The largest " (law.values) " come nearest to a density as lambda^-"
                    (format!("{:.3} ± {:.3}", law.exponent, law.standard_error)) ", with a distance of "
                    (format!("{:.3}", law.distance))
                    @if let Some(p) = law.p_value { " (" (format!("{:.0} %", 100.0 * p)) " of random data by that law fit no better)" }
                    "."
                }
            }
        }
    }
}

/// The parts of G, and what of the class gradients is in them.
pub(crate) fn hierarchy(report: &HierarchyReport) -> Markup {
    let parts = [
        ("G", &report.found.whole),
        ("G_0", &report.found.own_class),
        ("G_1", &report.found.class),
        ("G_2", &report.found.cross_class),
        ("G_3", &report.found.within_class),
    ];
    let top = report.found.classes.min(report.found.in_class_means.len());
    let mean = |shares: &[f64]| format!("{:.3}", shares[..top].iter().sum::<f64>() / top as f64);
    html! {
        table {
            thead { tr { th { "part" } th { "trace" } th { "largest eigenvalue" } } }
            tbody {
                @for (name, part) in parts {
                    tr { td { (name) } td { (with_error(part.trace)) } td { (format!("{:.6}", part.eigenvalues[0])) } }
                }
            }
        }
        p {
            "The first " (top) " eigenvectors of G have on average " strong { (mean(&report.found.in_class_means)) }
            " of their square in the span of the classes' means g_c, " (mean(&report.found.in_cross_class_means))
            " in that of the means of pairs, and " (mean(&report.found.in_class_gradients))
            " in that of the class gradients; a random direction has "
            (format!("{:.4}, {:.4} and {:.4}", report.found.random_shares[0], report.found.random_shares[1], report.found.random_shares[2]))
            "."
        }
    }
}

/// A number with its standard error, where it is not exact.
fn with_error(estimate: Estimate) -> String {
    if estimate.standard_error == 0.0 {
        return format!("{:.6}", estimate.value);
    }
    format!("{:.6} ± {:.1e}", estimate.value, estimate.standard_error)
}

/// Where the density is, and what it was estimated from.
pub(crate) fn density(density: &DensityReport) -> Markup {
    let (low, high) = (density.grid.first().copied(), density.grid.last().copied());
    html! {
        p {
            "Density of " (density.subject.operator) "'s eigenvalues from "
            (format!("{:.4} to {:.4}", low.unwrap_or(0.0), high.unwrap_or(0.0))) ": " (density.probes) " probes of "
            (density.steps) " Lanczos steps, each eigenvalue smeared by " (format!("{:.1e}", density.sigma)) "."
        }
    }
}

/// Both estimates of the trace, and the norm.
pub(crate) fn trace(trace: &TraceReport) -> Markup {
    html! {
        p {
            "Trace of " (trace.subject.operator) " " (with_error(trace.hutch_plus_plus)) " by Hutch++ and "
            (with_error(trace.hutchinson)) " by Hutchinson's estimator; squared Frobenius norm "
            (with_error(trace.frobenius_squared)) "; ± is one standard error."
        }
    }
}

/// How H splits.
pub(crate) fn decompose(split: &DecomposeReport) -> Markup {
    html! {
        p {
            "|H| is " (format!("{:.6}", split.hessian_norm)) " (" (split.method) "); |G|/|H| is "
            (with_error(split.ggn_ratio)) " and |F|/|H| " (with_error(split.residual_ratio)) "."
        }
    }
}

/// The curvature at the last checkpoint against what the steps bear.
pub(crate) fn track(track: &TrackReport) -> Markup {
    let Some(last) = track.points.last() else { return html! {} };
    html! {
        p {
            "Followed at " (track.points.len()) " checkpoints; at step " (last.step) " the largest eigenvalue is "
            (format!("{:.4}", last.eigenvalues.first().copied().unwrap_or(0.0))) ", " (format!("{:.4}", last.outside))
            " outside the class gradients' span"
            (track.threshold.map_or(String::new(), |at| format!(", and 2/eta is {at:.1}"))) "."
        }
    }
}

/// How many checkpoints.
pub(crate) fn series(series: &SeriesReport) -> Markup {
    let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else { return html! {} };
    html! {
        p { (series.points.len()) " checkpoints, from step " (first.step) " to step " (last.step) "." }
    }
}

/// Slope and curvature of the loss along each direction.
pub(crate) fn surface(surface: &SurfaceReport) -> Markup {
    html! {
        @for (i, direction) in surface.directions.iter().enumerate() {
            p {
                "Along " (direction.name) ", of norm " (format!("{:.4}", direction.norm)) ", the loss " (format!("{:.6}", surface.loss))
                " has the slope " (format!("{:.4e}", direction.slope)) " and the curvature "
                (format!("{:.4}", surface.curvature[i][i])) "."
            }
        }
    }
}

/// How many layers.
pub(crate) fn layers(layers: &LayersReport) -> Markup {
    html! { p { (layers.layers.len()) " layers, each by itself, the other parameters being constants." } }
}

/// The ends of minibatches' spectra.
pub(crate) fn batches(batches: &BatchesReport) -> Markup {
    let spread = |values: &[f64]| Spread::of(values).map_or("-".into(), |s| s.words(4, false));
    html! {
        div class="wide" {
            table {
                thead { tr { th { "samples" } th { "largest eigenvalue" } th { "smallest eigenvalue" } } }
                tbody {
                    @for size in &batches.sizes {
                        tr { td { (size.size) } td { (spread(&size.largest)) } td { (spread(&size.smallest)) } }
                    }
                    tr {
                        td { (batches.subject.samples) } td { (format!("{:.4}", batches.largest)) }
                        td { (format!("{:.4}", batches.smallest)) }
                    }
                }
            }
        }
    }
}

/// The cosine matrix, snapshot by snapshot.
fn slider(overlap: &OverlapReport) -> Markup {
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
    let data = Value::Array(snapshots).to_string();
    html! {
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
    }
}
