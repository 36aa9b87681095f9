use qn_study::{TrackReport, median};

use crate::stdout::outln;

/// One line a checkpoint.
pub(in super::super) fn print_track(report: &TrackReport) {
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
