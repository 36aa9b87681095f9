use qn_study::ActivationsReport;

use crate::stdout::outln;

/// One line a value.
pub(in super::super) fn print_activations(report: &ActivationsReport) {
    let width = report.activations.iter().map(|at| at.name.len()).max().unwrap_or(0).max(10);
    let n = report.activations.iter().find_map(|at| at.own).map(|own| own.n);
    outln!("{} in activations, the mean over {} samples", report.subject.operator, report.subject.samples);
    outln!(
        "{:<width$} {:>9} {:>12} {:>9} {:>12} {:>12} {:>24}",
        "activation",
        "numbers",
        "trace",
        "±",
        "mean value",
        "largest",
        n.map_or(String::new(), |n| format!("largest of {n} samples")),
    );
    for at in &report.activations {
        let own = at.own.map_or(String::new(), |own| {
            own.std.map_or(format!("{:.4e}", own.mean), |std| format!("{:.4e} ± {std:.1e}", own.mean))
        });
        outln!(
            "{:<width$} {:>9} {:>12.4e} {:>9.1e} {:>12.4e} {:>12.4e} {own:>24}{}",
            at.name,
            at.dim(),
            at.trace.value,
            at.trace.standard_error,
            at.trace.value / at.dim() as f64,
            at.eigenvalue,
            if at.converged { "" } else { "  NOT CONVERGED" },
        );
    }
}
