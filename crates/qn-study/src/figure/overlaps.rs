//! Figures of class gradients against eigenvectors.

use anyhow::{Context as _, Result};

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Reference, Series, once};
use crate::report::{OverlapReport, SnapshotOverlap};
use crate::source::Source;

fn read(source: &Source) -> Result<OverlapReport> {
    source.report()
}

fn last(report: &OverlapReport) -> Result<&SnapshotOverlap> {
    report.snapshots.last().context("the overlap report has no snapshots")
}

/// |v_k · e_j| at one step, the last if none is named, with the assigned pairs framed.
pub(super) fn cosines(sources: &[Source], step: Option<u64>) -> Result<Vec<Panel>> {
    let panel = |source: &Source| -> Result<Panel> {
        let report = read(source)?;
        let snapshot = match step {
            None => last(&report)?,
            Some(step) => {
                let found = report.snapshots.iter().find(|s| s.step == step);
                found.with_context(|| format!("{} has no snapshot of step {step}", source.label))?
            }
        };
        Ok(Panel::Matrix(Matrix {
            title: format!(
                "{}, step {}: |cos|, mean of the framed {:.2}",
                source.label, snapshot.step, snapshot.mean_assigned_cosine
            ),
            rows: "class",
            columns: "eigenvector",
            row_names: Vec::new(),
            entries: snapshot.cosines.clone(),
            framed: snapshot.assignment.clone(),
        }))
    };
    sources.iter().map(panel).collect()
}

/// Assigned cosine and subspace overlap, step by step, and the ranks below.
pub(super) fn overlap(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut cosines, mut broad, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
    let (mut random, mut spaces) = (Vec::new(), Vec::new());
    for source in sources {
        let report = read(source)?;
        let series = |name: &str, mark: Mark, value: fn(&SnapshotOverlap) -> f64| Series {
            name: format!("{}: {name}", source.label),
            points: report.snapshots.iter().map(|s| (s.step as f64, value(s))).collect(),
            mark,
        };
        cosines.push(series("assigned |cos|", Mark::Line, |s| s.mean_assigned_cosine));
        cosines.push(series("overlap", Mark::Line, |s| s.subspace_overlap));
        // Where both ranks are equal, both can be seen.
        broad.push(series("unit columns", Mark::Broad, |s| s.rank as f64));
        ranks.push(series("as they are", Mark::Line, |s| s.rank_raw as f64));
        let baseline = report.random_assigned().mean;
        let name = format!("random directions, assigned |cos| {baseline:.4}");
        once(&mut random, name, At::Y(baseline));
        let (equal, disjoint) = (report.k, report.k + report.classes);
        once(&mut spaces, format!("equal spaces ({equal})"), At::Y(equal as f64));
        once(&mut spaces, format!("disjoint spaces ({disjoint})"), At::Y(disjoint as f64));
    }
    broad.append(&mut ranks);
    Ok(vec![
        Panel::Chart(Chart {
            title: "Class gradients against the top eigenvectors".into(),
            x: Axis::linear("step"),
            y: Axis::linear("cosine; overlap"),
            series: cosines,
            references: random,
        }),
        Panel::Chart(Chart {
            title: "Rank of [V, E]".into(),
            x: Axis::linear("step"),
            y: Axis::linear("rank"),
            series: broad,
            references: spaces,
        }),
    ])
}

/// Principal angles at the last snapshot.
pub(super) fn angles(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut series = Vec::new();
    for source in sources {
        let report = read(source)?;
        let angles = last(&report)?.principal_angles.iter().enumerate();
        series.push(Series {
            name: source.label.clone(),
            points: angles.map(|(i, a)| (i as f64 + 1.0, a.to_degrees())).collect(),
            mark: Mark::Dots,
        });
    }
    Ok(vec![Panel::Chart(Chart {
        title: "Principal angles between class gradients and top eigenvectors".into(),
        x: Axis::linear("index"),
        y: Axis::linear("angle / degrees"),
        series,
        references: vec![Reference { name: "orthogonal".into(), at: At::Y(90.0) }],
    })])
}

/// Singular values of [V, E] at the last snapshot, and the tolerance that the rank is read with.
pub(super) fn singular(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in sources {
        let report = read(source)?;
        let snapshot = last(&report)?;
        let both = [
            ("unit columns", &snapshot.singular_values, snapshot.rank_tolerance, snapshot.rank),
            ("as they are", &snapshot.singular_values_raw, snapshot.rank_raw_tolerance, snapshot.rank_raw),
        ];
        for (name, values, tolerance, rank) in both {
            panels.push(Panel::Chart(Chart {
                title: format!("{}: singular values of [V, E], {name}: rank {rank}", source.label),
                x: Axis::linear("index"),
                y: Axis::log("singular value"),
                series: vec![Series {
                    name: String::new(),
                    points: values.iter().enumerate().map(|(i, &s)| (i as f64 + 1.0, s)).collect(),
                    mark: Mark::Dots,
                }],
                references: vec![Reference { name: "tolerance".into(), at: At::Y(tolerance) }],
            }));
        }
    }
    Ok(panels)
}
