use qn_study::PersistenceReport;

use crate::stdout::outln;

/// One line a checkpoint.
pub(in super::super) fn print_persistence(report: &PersistenceReport) {
    let last = report.points.len() - 1;
    outln!(
        "overlaps of the span of {} top eigenvectors; random spaces have {:.1e}, random directions spread over {:.0} parameters",
        report.k,
        report.random_overlap,
        report.random_participation
    );
    outln!(
        "{:>8} {:>9} {:>10} {:>8} {:>8} {:>8} {:>10} {:>10} {:>20}",
        "step",
        "loss",
        "lambda_1",
        "before",
        "first",
        "last",
        "parameters",
        "along g",
        "along batches' g"
    );
    for (t, point) in report.points.iter().enumerate() {
        let overlap =
            |with: Option<usize>| with.map_or("-".into(), |s| format!("{:.3}", report.overlaps[t][s]));
        let mean = point.participation.iter().sum::<f64>() / report.k as f64;
        outln!(
            "{:>8} {:>9.5} {:>10.4} {:>8} {:>8} {:>8} {mean:>10.0} {:>10} {:>20}",
            point.step,
            point.loss,
            point.eigenvalues[0],
            overlap(t.checked_sub(1)),
            overlap(Some(0)),
            overlap(Some(last)),
            point.gradient_sharpness.map_or("-".into(), |s| format!("{s:.4}")),
            point.batch_sharpness.map_or("-".into(), |s| format!("{:.4} ± {:.4}", s.value, s.standard_error)),
        );
    }
}
