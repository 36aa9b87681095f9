//! What a reader wants to know first, on stdout.

use qn_spectrum::StopReason;

use crate::report::{EigenReport, FullSpectrumReport, OverlapReport};

/// Eigenvalues with residuals, and what they say.
pub(crate) fn print_eigen(report: &EigenReport) {
    let subject = &report.subject;
    println!(
        "{} of {} on {} {} samples of {}: loss {:.5}, accuracy {:.2} %, |gradient| {:.3e}",
        subject.operator,
        subject.arch,
        subject.samples,
        subject.split,
        subject.data,
        report.loss,
        100.0 * report.accuracy,
        report.gradient_norm
    );
    println!("{:>5}  {:>14}  {:>10}", report.which, "eigenvalue", "residual");
    for (i, (value, residual)) in report.eigenvalues.iter().zip(&report.residuals).enumerate() {
        println!("{:>5}  {value:>14.6}  {residual:>10.1e}", i + 1);
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
    println!(
        "{} of {} within {:.0e}; {} products, {:.1} s: {ending}",
        report.converged,
        report.eigenvalues.len(),
        report.tol,
        report.matvecs,
        report.seconds
    );
}

/// How many eigenvalues there are of each sign, and how far the numbers can be trusted.
pub(crate) fn print_full_spectrum(report: &FullSpectrumReport) {
    println!(
        "all {}: {} above {:.1e}, {} below -{:.1e}, {} nearer to zero than can be told apart; smallest {:.6}",
        report.positive + report.near_zero + report.negative,
        report.positive,
        report.threshold,
        report.negative,
        report.threshold,
        report.near_zero,
        report.smallest,
    );
    println!(
        "matrix against products {:.1e}; trace {:.6} and {:.6} from the eigenvalues; Frobenius norm {:.6} and {:.6}",
        report.assembly_error,
        report.trace,
        report.trace_of_eigenvalues,
        report.frobenius,
        report.frobenius_of_eigenvalues,
    );
}

/// One line a snapshot.
pub(crate) fn print_overlap(report: &OverlapReport) {
    println!(
        "class gradients ({}) against the top {} eigenvectors of the {}",
        report.class_gradients, report.k, report.operator
    );
    println!(
        "{:>8}  {:>10}  {:>9}  {:>10}  {:>9}  {:>5}  {:>8}",
        "step", "mean |cos|", "overlap", "max angle", "coherence", "rank", "rank raw"
    );
    let n = report.snapshots.len();
    for (i, s) in report.snapshots.iter().enumerate() {
        // Long runs: every so many, and the last.
        if i % n.div_ceil(20) != 0 && i + 1 != n {
            continue;
        }
        let angle = s.principal_angles.last().copied().unwrap_or(f64::NAN).to_degrees();
        println!(
            "{:>8}  {:>10.4}  {:>9.4}  {angle:>9.1}°  {:>9.4}  {:>5}  {:>8}",
            s.step, s.mean_assigned_cosine, s.subspace_overlap, s.max_coherence, s.rank, s.rank_raw
        );
    }
    println!("random directions: mean |cos| {:.4}", report.random_baseline);
    if let Some(s) = report.snapshots.iter().rev().find(|s| s.rank != s.rank_raw) {
        println!(
            "warning: at step {} the rank of [V, E] is {} with unit columns and {} without: the tolerance is relative to the largest column, so the raw rank measures |c_k|, not overlap",
            s.step, s.rank, s.rank_raw
        );
    }
}
