use qn_spectrum::Estimate;
use qn_study::{DecomposeReport, DensityReport, TraceReport};

use crate::stdout::outln;

/// Where the density is, and what it took.
pub(in super::super) fn print_density(report: &DensityReport) {
    let (low, high) = (report.grid[0], report.grid[report.grid.len() - 1]);
    outln!("density of {} on [{low:.4}, {high:.4}], sigma {:.2e}", report.subject.operator, report.sigma);
    outln!("{} products, {:.1} s", report.matvecs, report.seconds);
}

/// Trace and norm with their errors.
pub(in super::super) fn print_trace(report: &TraceReport) {
    let line = |name: &str, e: Estimate| outln!("{name:<26} {:>12.6} ± {:.1e}", e.value, e.standard_error);
    line("trace (Hutch++)", report.hutch_plus_plus);
    line("trace (Hutchinson)", report.hutchinson);
    line("squared Frobenius norm", report.frobenius_squared);
    outln!("{} products, {:.1} s; ± is one standard error", report.matvecs, report.seconds);
}

/// The ratios of norms, of all parameters and layer by layer.
pub(in super::super) fn print_decompose(report: &DecomposeReport) {
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
