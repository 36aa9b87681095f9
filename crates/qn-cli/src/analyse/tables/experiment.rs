use qn_study::{EigenReport, ExperimentReport, OverlapReport, RunSummary, SnapshotOverlap, Validation};

use super::spread::{by_chance, spread};
use crate::stdout::outln;

/// One line for the runs that differ in their seed alone, with the paper's numbers; one for each comparison.
pub(in super::super) fn print_experiment(report: &ExperimentReport) {
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

/// One line a run: its spectrum, and the last snapshot against it; of one that has diverged, where.
pub(in super::super) fn print_spectra<'a>(
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
