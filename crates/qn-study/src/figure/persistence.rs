//! Figures of the top eigenvectors along training.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Reference, Series};
use crate::persistence::PersistenceReport;
use crate::source::Source;

/// The overlaps of all pairs of checkpoints, and below those with the last checkpoint and the one before.
pub(super) fn persistence(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::with_capacity(2 * sources.len());
    for source in sources {
        let report: PersistenceReport = source.report()?;
        let (k, points) = (report.k, &report.points);
        let against = |name: &str, other: &dyn Fn(usize) -> Option<usize>| Series {
            name: name.to_owned(),
            points: (0..points.len())
                .filter_map(|t| Some((points[t].step as f64, report.overlaps[t][other(t)?])))
                .collect(),
            mark: Mark::Dots,
        };
        let last = points.len() - 1;
        let chart = Chart {
            title: format!("{}: overlap of the {k} top eigenvectors' span", source.label),
            x: Axis::linear("step"),
            y: Axis::log("overlap"),
            series: vec![
                against("with the checkpoint before", &|t| t.checked_sub(1)),
                against("with the last", &|t| (t < last).then_some(last)),
                against("with the first", &|t| (t > 0).then_some(0)),
            ],
            references: vec![Reference { name: "random spaces".into(), at: At::Y(report.random_overlap) }],
        };
        panels.push(Panel::Matrix(Matrix {
            title: format!(
                "{}: overlap of the {k} top eigenvectors' span, checkpoint by checkpoint",
                source.label
            ),
            rows: "step",
            columns: "checkpoint",
            row_names: points.iter().map(|point| point.step.to_string()).collect(),
            framed: vec![None; points.len()],
            entries: report.overlaps,
        }));
        panels.push(Panel::Chart(chart));
    }
    Ok(panels)
}
