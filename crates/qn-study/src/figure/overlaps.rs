//! Figures of class gradients against eigenvectors.

use anyhow::{Context as _, Result};

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Reference, Series};
use super::source::Source;
use crate::report::{OverlapReport, SnapshotOverlap};

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
            entries: snapshot.cosines.clone(),
            framed: snapshot.assignment.clone(),
        }))
    };
    sources.iter().map(panel).collect()
}

/// Assigned cosine and subspace overlap, step by step, and the ranks below.
pub(super) fn overlap(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut cosines, mut ranks) = (Vec::new(), Vec::new());
    let (mut baseline, mut classes) = (0.0, 0);
    for source in sources {
        let report = read(source)?;
        (baseline, classes) = (report.random_assigned().mean, report.classes);
        let add = |to: &mut Vec<Series>, name: &str, value: fn(&SnapshotOverlap) -> f64| {
            to.push(Series {
                name: format!("{}: {name}", source.label),
                points: report.snapshots.iter().map(|s| (s.step as f64, value(s))).collect(),
                mark: Mark::Line,
            });
        };
        add(&mut cosines, "assigned |cos|", |s| s.mean_assigned_cosine);
        add(&mut cosines, "overlap", |s| s.subspace_overlap);
        add(&mut ranks, "unit columns", |s| s.rank as f64);
        add(&mut ranks, "as they are", |s| s.rank_raw as f64);
    }
    let (one, two) = (classes as f64, 2.0 * classes as f64);
    Ok(vec![
        Panel::Chart(Chart {
            title: "Class gradients against the top eigenvectors".into(),
            x: Axis::linear("step"),
            y: Axis::linear("cosine; overlap"),
            series: cosines,
            references: vec![Reference {
                name: format!("random directions, assigned |cos| {baseline:.4}"),
                at: At::Y(baseline),
            }],
        }),
        Panel::Chart(Chart {
            title: "Rank of [V, E]".into(),
            x: Axis::linear("step"),
            y: Axis::linear("rank"),
            series: ranks,
            references: [(one, "equal spaces"), (two, "disjoint spaces")]
                .map(|(at, name)| Reference { name: name.into(), at: At::Y(at) })
                .into(),
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
