use qn_spectrum::StopReason;
use qn_study::{EigenFindings, EigenReport, FullSpectrumReport};

use super::decimal::decimal;
use crate::stdout::outln;

/// Eigenvalues, and of all of them their signs where they are known.
pub(in super::super) fn print_findings(found: &EigenFindings) {
    print_eigen(&found.report);
    found.spectrum.iter().for_each(print_full_spectrum);
}

/// Eigenvalues with residuals, and what they say.
pub(in super::super) fn print_eigen(report: &EigenReport) {
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
pub(in super::super) fn print_full_spectrum(report: &FullSpectrumReport) {
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
