use qn_study::EnergyReport;

use crate::stdout::outln;

/// Shares in the first eigenvectors, and the layers of the first few.
pub(in super::super) fn print_energy(report: &EnergyReport) {
    let (ends, p) = (report.ends(), report.subject.params);
    let k = ends.last().copied().unwrap_or(0);
    let classes = report.mean_class_gradient();
    outln!("|gradient| {:.3e}; shares of squares in the first eigenvectors of {}", report.gradient_norm, k);
    outln!("{:>7} {:>10} {:>16} {:>10}", "first", "gradient", "class gradients", "random");
    let mut counts: Vec<usize> =
        [1, 2, 5].iter().flat_map(|n| (0..6).map(move |e| n * 10_usize.pow(e))).collect();
    counts.extend([k, report.class_gradients.len().max(1)]);
    // Entries that stand for many are not split.
    let mut entries: Vec<usize> =
        counts.into_iter().filter(|n| *n <= k).map(|n| ends.partition_point(|end| *end < n) + 1).collect();
    entries.sort_unstable();
    entries.dedup();
    let percent = |shares: &[f64], n: usize| format!("{:.3} %", 100.0 * shares[..n].iter().sum::<f64>());
    for n in entries {
        let class = classes.as_ref().map_or("-".into(), |mean| percent(mean, n));
        let random = format!("{:.3} %", 100.0 * ends[n - 1] as f64 / p as f64);
        outln!("{:>7} {:>10} {class:>16} {random:>10}", ends[n - 1], percent(&report.gradient, n));
    }
    outln!(
        "mass of the first eigenvectors in each layer, and over how many parameters they spread (random: {:.0}):",
        report.random_participation
    );
    let names: String = report.layers.iter().map(|name| format!(" {name:>9}")).collect();
    outln!("{:>7}{names} {:>10}", "", "parameters");
    let row = |masses: &[f64]| {
        masses.iter().map(|m| format!(" {:>9}", format!("{:.1} %", 100.0 * m))).collect::<String>()
    };
    for (j, (masses, n)) in report.layer_masses.iter().zip(&report.participation).take(10).enumerate() {
        outln!("{:>7}{} {n:>10.0}", j + 1, row(masses));
    }
    outln!("{:>7}{} {p:>10}", "all", row(&report.layer_sizes));
}
