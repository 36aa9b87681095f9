use qn_study::{OverlapReport, SnapshotOverlap};

use super::spread::by_chance;
use crate::stdout::outln;

/// One line a snapshot.
pub(in super::super) fn print_overlap(report: &OverlapReport) {
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
