use qn_study::HierarchyReport;

use super::decimal::decimal;
use crate::stdout::outln;

/// The parts of G, and the eigenvectors' shares in the spans of means and of class gradients.
pub(in super::super) fn print_hierarchy(report: &HierarchyReport) {
    let report = &report.found;
    let parts = [
        ("G", &report.whole),
        ("G_0 own class", &report.own_class),
        ("G_1 classes", &report.class),
        ("G_2 pairs of classes", &report.cross_class),
        ("G_3 samples", &report.within_class),
    ];
    let shown = 3.min(report.whole.eigenvalues.len());
    outln!("{:<21} {:>12} {:>9}  largest eigenvalues ({})", "part", "trace", "±", report.method);
    for (name, part) in parts {
        let values: String =
            part.eigenvalues[..shown].iter().map(|v| format!(" {:>12}", decimal(*v, 6))).collect();
        outln!(
            "{name:<21} {:>12} {:>9.1e} {values}",
            decimal(part.trace.value, 6),
            part.trace.standard_error
        );
    }
    outln!("share of G's eigenvectors in the span of");
    outln!(
        "{:>7} {:>12} {:>14} {:>14} {:>16}",
        "vector",
        "eigenvalue",
        "class means",
        "pairs' means",
        "class gradients"
    );
    for (j, value) in report.whole.eigenvalues.iter().enumerate() {
        outln!(
            "{:>7} {:>12} {:>14.4} {:>14.4} {:>16.4}",
            j + 1,
            decimal(*value, 6),
            report.in_class_means[j],
            report.in_cross_class_means[j],
            report.in_class_gradients[j]
        );
    }
    let [means, pairs, gradients] = report.random_shares;
    outln!("{:>7} {:>12} {means:>14.4} {pairs:>14.4} {gradients:>16.4}", "random", "");
    let cosines = &report.class_gradient_cosines;
    outln!(
        "|cos| of a class gradient with its class's mean: {:.3} on average",
        cosines.iter().sum::<f64>() / cosines.len() as f64
    );
}
