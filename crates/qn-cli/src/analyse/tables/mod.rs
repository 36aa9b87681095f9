//! What a reader wants to know first, on stdout.

mod activations;
mod decimal;
mod energy;
mod hierarchy;
mod persistence;
mod shape;
mod surface;

use qn_spectrum::{Estimate, StopReason};
use qn_study::{
    AnyReport, BatchesReport, DecomposeReport, DensityReport, EigenFindings, EigenReport, ExperimentReport,
    FullSpectrumReport, LayersReport, OverlapReport, Point, RandomAssigned, RunSummary, SeriesReport,
    SnapshotOverlap, Spread, TraceReport, TrackReport, Validation, median,
};

use crate::stdout::outln;
pub(super) use activations::print_activations;
use decimal::decimal;
pub(super) use energy::print_energy;
pub(super) use hierarchy::print_hierarchy;
pub(super) use persistence::print_persistence;
pub(super) use shape::print_shape;
pub(super) use surface::print_surface;

/// A report of any kind.
pub(super) fn print_any(report: &AnyReport) {
    match report {
        AnyReport::Eigen(report) => print_eigen(report),
        AnyReport::FullSpectrum(report) => print_full_spectrum(report),
        AnyReport::Overlap(report) => print_overlap(report),
        AnyReport::Energy(report) => print_energy(report),
        AnyReport::Hierarchy(report) => print_hierarchy(report),
        AnyReport::Surface(report) => print_surface(report),
        AnyReport::Shape(report) => print_shape(report),
        AnyReport::Density(report) => print_density(report),
        AnyReport::Trace(report) => print_trace(report),
        AnyReport::Decompose(report) => print_decompose(report),
        AnyReport::Track(report) => print_track(report),
        AnyReport::Series(report) => print_series(report),
        AnyReport::Layers(report) => print_layers(report),
        AnyReport::Persistence(report) => print_persistence(report),
        AnyReport::Activations(report) => print_activations(report),
        AnyReport::Batches(report) => print_batches(report),
        AnyReport::Experiment(report) => print_experiment(report),
    }
}

/// Eigenvalues, and of all of them their signs where they are known.
pub(super) fn print_findings(found: &EigenFindings) {
    print_eigen(&found.report);
    found.spectrum.iter().for_each(print_full_spectrum);
}

/// Where the density is, and what it took.
pub(super) fn print_density(report: &DensityReport) {
    let (low, high) = (report.grid[0], report.grid[report.grid.len() - 1]);
    outln!("density of {} on [{low:.4}, {high:.4}], sigma {:.2e}", report.subject.operator, report.sigma);
    outln!("{} products, {:.1} s", report.matvecs, report.seconds);
}

/// Trace and norm with their errors.
pub(super) fn print_trace(report: &TraceReport) {
    let line = |name: &str, e: Estimate| outln!("{name:<26} {:>12.6} ± {:.1e}", e.value, e.standard_error);
    line("trace (Hutch++)", report.hutch_plus_plus);
    line("trace (Hutchinson)", report.hutchinson);
    line("squared Frobenius norm", report.frobenius_squared);
    outln!("{} products, {:.1} s; ± is one standard error", report.matvecs, report.seconds);
}

/// The ratios of norms, of all parameters and layer by layer.
pub(super) fn print_decompose(report: &DecomposeReport) {
    let line = |name: &str, e: Estimate| outln!("{name:<10} {:>9.6} ± {:.1e}", e.value, e.standard_error);
    outln!("|H|_F {:.6} ({}, {} products each)", report.hessian_norm, report.method, report.probes);
    line("|G| / |H|", report.ggn_ratio);
    line("|F| / |H|", report.residual_ratio);
    outln!("|F_lm| / |H_lm| by layer:");
    let blocks = &report.blocks;
    for (l, name) in blocks.layers.iter().enumerate() {
        let ratio = |f: f64, h: f64| if h > 0.0 { format!("{:>8.3}", f / h) } else { format!("{:>8}", "-") };
        let row = (0..=l).map(|m| ratio(blocks.residual[l][m], blocks.hessian[l][m]));
        outln!("{name:<16} {}", row.collect::<String>());
    }
}

/// Eigenvalues with residuals, and what they say.
pub(super) fn print_eigen(report: &EigenReport) {
    let subject = &report.subject;
    outln!(
        "{} of {} on {} {} samples of {}: loss {}{}, |gradient| {:.3e}",
        subject.operator,
        subject.arch,
        subject.samples,
        subject.split,
        subject.data,
        decimal(report.loss, 5),
        report.accuracy.map_or(String::new(), |a| format!(", accuracy {:.2} %", 100.0 * a)),
        report.gradient_norm
    );
    if !subject.only.is_empty() {
        outln!("by {} parameters: {}", subject.params, subject.only.join(", "));
    }
    outln!("{:>5}  {:>14}  {:>10}", report.which, "eigenvalue", "residual");
    for (i, (value, residual)) in report.eigenvalues.iter().zip(&report.residuals).enumerate() {
        outln!("{:>5}  {:>14}  {residual:>10.1e}", i + 1, decimal(*value, 6));
    }
    let ending = match report.stop_reason {
        StopReason::Converged => "converged",
        StopReason::MaxIterations => {
            "NOT CONVERGED: the restarts were used up; raise --maxiter, --ncv or --tol"
        }
        StopReason::PrecisionReached => {
            "NOT CONVERGED: the products' precision is used up; raise --tol or use --dtype f64"
        }
    };
    outln!(
        "{} of {} within {:.0e}; {} products, {:.1} s: {ending}",
        report.converged,
        report.eigenvalues.len(),
        report.tol,
        report.matvecs,
        report.seconds
    );
    match report.verified {
        Some(true) => outln!("verified: nothing better is left when these are projected out"),
        Some(false) => {
            outln!("NOT VERIFIED: the search for what is left ended without an answer; raise --maxiter")
        }
        None => {}
    }
}

/// How many eigenvalues there are of each sign, and how far the numbers can be trusted.
pub(super) fn print_full_spectrum(report: &FullSpectrumReport) {
    outln!(
        "all {}: {} above {:.1e}, {} below -{:.1e}, {} nearer to zero than can be told apart; smallest {}",
        report.positive + report.near_zero + report.negative,
        report.positive,
        report.threshold,
        report.negative,
        report.threshold,
        report.near_zero,
        decimal(report.smallest, 6),
    );
    outln!(
        "matrix against products {:.1e}; trace {} and {} from the eigenvalues; Frobenius norm {} and {}",
        report.assembly_error,
        decimal(report.trace, 6),
        decimal(report.trace_of_eigenvalues, 6),
        decimal(report.frobenius, 6),
        decimal(report.frobenius_of_eigenvalues, 6),
    );
    if let Some(all) = &report.all_vectors {
        outln!(
            "all eigenvectors in {} files; of {} of them residuals up to {:.1e} lambda_1, |v'u| with any other up to {:.1e}",
            all.files,
            all.sampled.len(),
            all.worst_residual() / report.largest.abs().max(report.smallest.abs()),
            all.worst_orthogonality(),
        );
    }
}

/// One line a checkpoint.
pub(super) fn print_track(report: &TrackReport) {
    outln!(
        "{:>8} {:>9} {:>10} {:>10} {:>10} {:>10} {:>12} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}",
        "step",
        "loss",
        "lambda_1",
        "lambda_C",
        "inside",
        "outside",
        "vHv/lambda_k",
        "rho",
        "precond",
        "coherence",
        "|F|/|H|",
        "g class",
        "g top"
    );
    for p in &report.points {
        let ratios = p.curvature.iter().zip(&p.lambda).filter(|(_, l)| **l > 0.0).map(|(c, l)| c / l);
        let median = median(ratios);
        outln!(
            "{:>8} {:>9.4} {:>10.4} {:>10.4} {:>10.4} {:>10.4} {median:>12.2} {:>8.2} {:>8.3} {:>9.3} {:>8.3} {:>8.3} {:>8.3}",
            p.step,
            p.loss,
            p.eigenvalues[0],
            p.eigenvalues[report.classes.min(p.eigenvalues.len()) - 1],
            p.inside.first().copied().unwrap_or(f64::NAN),
            p.outside,
            p.rho.unwrap_or(f64::NAN),
            p.preconditioner_min.unwrap_or(f64::NAN),
            p.mean_coherence,
            p.residual_ratio.value,
            p.gradient_in_class_span,
            p.gradient_in_top_space,
        );
    }
    let threshold = report.threshold.map_or(String::new(), |at| format!("; 2/eta is {at:.1}"));
    for p in &report.points {
        if let (Some(value), Some(limit)) = (p.preconditioned, report.preconditioned_threshold) {
            outln!(
                "{:>8} largest eigenvalue of D^-1/2 H D^-1/2, D by Adam's lengths: {value:.1}; limit {limit:.1}",
                p.step
            );
        }
    }
    if let Some((step, limit)) = report.points.iter().rev().find_map(|p| Some((p.step, p.sam_limit?))) {
        outln!("{step:>8} the largest eigenvalue that SAM's steps bear: {limit:.2}");
    }
    let momentum = report.momentum_threshold.map_or(String::new(), |at| format!(", with momentum {at:.1}"));
    outln!(
        "inside, outside: largest eigenvalues in and without the class gradients' span{threshold}{momentum}"
    );
    if let Some(limit) = report.points.last().and_then(|p| p.rho_limit) {
        let passed =
            report.rho_passed_at.map_or(String::new(), |step| format!("; passed in the log at step {step}"));
        outln!("rho: of the Newton steps 1/(lambda_k + d), which diverge above {limit:.2}{passed}");
        let uphill =
            report.uphill_from.map_or(String::new(), |step| format!("; in the log at step {step} first"));
        outln!(
            "precond: smallest eigenvalue of the preconditioner; steps go uphill where it is negative{uphill}"
        );
    }
}

/// One line for the runs that differ in their seed alone, with the paper's numbers; one for each comparison.
pub(super) fn print_experiment(report: &ExperimentReport) {
    let mut groups: Vec<&str> = report.runs.iter().map(|r| r.group.as_str()).collect();
    groups.dedup();
    outln!(
        "\n{:<24} {:>4} {:>14} {:>16} {:>18} {:>9} {:>15} {:>8} {:>8}",
        "run",
        "runs",
        "failed at",
        "test acc / %",
        "test loss",
        "seconds",
        "paper",
        "swapped",
        "uphill"
    );
    for group in groups {
        let runs: Vec<&RunSummary> = report.runs.iter().filter(|r| r.group == group).collect();
        let ends: Vec<_> = runs.iter().filter_map(|r| r.last()).collect();
        let words = |of: fn(&Validation) -> f64, decimals: usize| {
            spread(&ends.iter().map(|v| of(v)).collect::<Vec<f64>>(), decimals)
        };
        let steps = |of: fn(&RunSummary) -> Option<u64>| {
            let steps: Vec<String> = runs.iter().filter_map(|r| of(r)).map(|step| step.to_string()).collect();
            if steps.is_empty() { "-".to_owned() } else { steps.join(",") }
        };
        let paper = runs[0].paper.unwrap_or_default();
        let percent = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.0} %", 100.0 * x));
        let loss = paper.val_loss.map_or(String::new(), |x| format!(" {x:.4}"));
        outln!(
            "{group:<24} {:>4} {:>14} {:>16} {:>18} {:>9.1} {:>15} {:>8} {:>8}",
            runs.len(),
            steps(RunSummary::failed_at),
            words(|v| 100.0 * v.accuracy, 2),
            words(|v| v.loss, 4),
            runs.iter().map(|r| r.seconds).sum::<f64>() / runs.len() as f64,
            percent(paper.val_accuracy) + &loss,
            percent(paper.swapped_val_accuracy),
            steps(|r| r.uphill_from),
        );
    }
    outln!(
        "failed at: the loss is not finite, or stays above 10 ln C; uphill: the preconditioner's first negative eigenvalue"
    );
    if report.runs.iter().any(|r| r.paper.is_some_and(|p| p.swapped_val_accuracy.is_some())) {
        outln!("paper: as its tables are printed; swapped: with their columns exchanged, as its text says");
    }
    if report.runs.iter().any(|r| r.seed != report.runs[0].seed) {
        outln!(
            "± is one standard deviation over seeds; differences are paired by seed, the other's minus SGD's"
        );
    }
    for summary in &report.summaries {
        outln!("{}", summary.words());
    }
}

/// Mean and standard deviation in words.
fn spread(values: &[f64], decimals: usize) -> String {
    Spread::of(values).map_or("-".into(), |spread| spread.words(decimals, false))
}

/// One line a run: its spectrum, and the last snapshot against it; of one that has diverged, where.
pub(super) fn print_spectra<'a>(
    runs: impl Iterator<Item = (&'a RunSummary, Option<&'a (EigenReport, OverlapReport)>)>,
) {
    outln!(
        "\n{:<12} {:>9} {:>10} {:>10} {:>10} {:>13} {:>6} {:>9} {:>5} {:>9}",
        "run",
        "test acc",
        "lambda_1",
        "lambda_C",
        "lambda_C+1",
        "assigned cos",
        "paper",
        "overlap",
        "rank",
        "rank raw"
    );
    let mut shown = None;
    for (summary, spectrum) in runs {
        let Some((eigen, overlap)) = spectrum else {
            let step = summary.diverged_at.map_or("?".into(), |step| step.to_string());
            outln!("{:<12} diverged at step {step}", summary.name);
            continue;
        };
        let c = overlap.classes;
        let value = |i: usize| eigen.eigenvalues.get(i).map_or("-".into(), |v| format!("{v:.4}"));
        let accuracy = summary.last().map_or("-".into(), |v| format!("{:.2} %", 100.0 * v.accuracy));
        let paper = summary.paper.and_then(|p| p.assigned_cosine).map_or("".into(), |c| format!("{c:.2}"));
        let Some(last) = overlap.snapshots.last() else { continue };
        outln!(
            "{:<12} {accuracy:>9} {:>10} {:>10} {:>10} {:>13.4} {paper:>6} {:>9.4} {:>5} {:>9}",
            summary.name,
            value(0),
            value(c - 1),
            value(c),
            last.mean_assigned_cosine,
            last.subspace_overlap,
            last.rank,
            last.rank_raw
        );
        shown = Some(overlap);
    }
    if let Some(overlap) = shown {
        outln!(
            "random directions have an assigned cos of {}; rank is of [V, E], {} if the spaces are disjoint, {} if equal",
            by_chance(&overlap.random_assigned()),
            overlap.snapshots.last().map_or(overlap.classes, SnapshotOverlap::present) + overlap.k,
            overlap.k
        );
    }
}

/// One line a checkpoint.
pub(super) fn print_series(report: &SeriesReport) {
    let points = report.points.iter().map(|point| (point.step.to_string(), &point.found));
    print_points("step", &points.collect::<Vec<_>>());
}

/// One line a layer.
pub(super) fn print_layers(report: &LayersReport) {
    let points = report.layers.iter().map(|layer| (layer.layer.clone(), &layer.found));
    print_points("layer", &points.collect::<Vec<_>>());
}

/// One line a report of a study, each of which is about something with a name.
fn print_points(what: &str, points: &[(String, &Point)]) {
    let width = points.iter().map(|(name, _)| name.len()).fold(8, usize::max);
    for (i, (name, found)) in points.iter().enumerate() {
        let head = |columns: &[&str]| {
            let columns: String = columns.iter().map(|name| format!(" {name:>14}")).collect();
            outln!("{what:>width$} {columns}");
        };
        match found {
            Point::Eigen(found) => {
                if i == 0 {
                    head(&["loss", "accuracy / %", "first", "second", "last", "converged"]);
                }
                let value = |at: Option<&f64>| at.map_or("-".into(), |value| decimal(*value, 6));
                outln!(
                    "{name:>width$}  {:>14} {:>14} {:>14} {:>14} {:>14} {:>14}",
                    decimal(found.loss, 5),
                    found.accuracy.map_or("-".into(), |share| format!("{:.2}", 100.0 * share)),
                    value(found.eigenvalues.first()),
                    value(found.eigenvalues.get(1)),
                    value(found.eigenvalues.last()),
                    format!("{} of {}", found.converged, found.eigenvalues.len()),
                );
            }
            Point::Density(found) => {
                if i == 0 {
                    head(&["from", "to", "products"]);
                }
                let end = |at: Option<&f64>| at.map_or("-".into(), |value| decimal(*value, 4));
                outln!(
                    "{name:>width$}  {:>14} {:>14} {:>14}",
                    end(found.grid.first()),
                    end(found.grid.last()),
                    found.matvecs
                );
            }
            Point::Trace(found) => {
                if i == 0 {
                    head(&["trace", "±", "|H|_F squared", "±"]);
                }
                outln!(
                    "{name:>width$}  {:>14.6} {:>14.1e} {:>14.6} {:>14.1e}",
                    found.hutch_plus_plus.value,
                    found.hutch_plus_plus.standard_error,
                    found.frobenius_squared.value,
                    found.frobenius_squared.standard_error
                );
            }
        }
    }
}

/// The ends of minibatches' spectra.
pub(super) fn print_batches(report: &BatchesReport) {
    outln!("{:>9} {:>22} {:>22}", "samples", "largest", "smallest");
    for s in &report.sizes {
        outln!("{:>9} {:>22} {:>22}", s.size, spread(&s.largest, 4), spread(&s.smallest, 4));
    }
    outln!("{:>9} {:>22.4} {:>22.4}", report.subject.samples, report.largest, report.smallest);
    outln!("± is one standard deviation over the minibatches");
}

fn by_chance(random: &RandomAssigned) -> String {
    format!("{:.4} ± {:.4}", random.mean, random.std)
}

/// One line a snapshot.
pub(super) fn print_overlap(report: &OverlapReport) {
    outln!(
        "class gradients ({}) against the top {} eigenvectors of the {}",
        report.class_gradients,
        report.k,
        report.operator
    );
    outln!(
        "{:>8}  {:>10}  {:>9}  {:>10}  {:>9}  {:>5}  {:>8}",
        "step",
        "mean |cos|",
        "overlap",
        "max angle",
        "coherence",
        "rank",
        "rank raw"
    );
    let n = report.snapshots.len();
    for (i, s) in report.snapshots.iter().enumerate() {
        // Long runs: every so many, and the last.
        if i % n.div_ceil(20) != 0 && i + 1 != n {
            continue;
        }
        let angle = s.principal_angles.last().copied().unwrap_or(f64::NAN).to_degrees();
        outln!(
            "{:>8}  {:>10.4}  {:>9.4}  {angle:>9.1}°  {:>9.4}  {:>5}  {:>8}",
            s.step,
            s.mean_assigned_cosine,
            s.subspace_overlap,
            s.max_coherence,
            s.rank,
            s.rank_raw
        );
    }
    outln!(
        "random directions: mean |cos| {} (assigned like these), overlap {:.4}",
        by_chance(&report.random_assigned()),
        report.classes as f64 / report.params as f64
    );
    let present = report.snapshots.iter().map(SnapshotOverlap::present);
    if let (Some(least), Some(most)) = (present.clone().min(), present.max())
        && least < report.classes
    {
        let number = if least == most { least.to_string() } else { format!("{least} to {most}") };
        outln!(
            "of {} classes {number} have samples in the snapshots and so a class gradient; the means are over these",
            report.classes
        );
    }
    if let Some(s) = report.snapshots.iter().rev().find(|s| s.rank != s.rank_raw) {
        outln!(
            "warning: at step {} the rank of [V, E] is {} with unit columns and {} without: the tolerance is relative to the largest column, so the raw rank measures |c_k|, not overlap",
            s.step,
            s.rank,
            s.rank_raw
        );
    }
}
