//! Figures of G's parts by classes.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Reference, Series};
use crate::hierarchy::HierarchyReport;
use crate::source::Source;

/// The largest eigenvalues of each part beside G's, and below G's eigenvectors against the classes' means.
pub(super) fn hierarchy(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::with_capacity(2 * sources.len());
    for source in sources {
        let report = source.report::<HierarchyReport>()?.found;
        let series = |name: &str, mark: Mark, values: &[f64]| Series {
            name: name.to_owned(),
            // Beyond its rank a part has no eigenvalues.
            points: values
                .iter()
                .enumerate()
                .filter(|(_, v)| **v > 1e-12 * report.whole.eigenvalues[0])
                .map(|(i, &v)| (i as f64 + 1.0, v))
                .collect(),
            mark,
        };
        let classes = report.classes as f64;
        panels.push(Panel::Chart(Chart {
            title: format!("{}: eigenvalues of G and of its parts by classes", source.label),
            x: Axis::linear("index"),
            y: Axis::log("eigenvalue"),
            series: vec![
                series("G", Mark::Broad, &report.whole.eigenvalues),
                series("G_1 + G_2, means over classes and pairs", Mark::Dots, &report.class_and_cross_class),
                series("G_1, means over classes", Mark::Dots, &report.class.eigenvalues),
                series("G_3, single samples", Mark::Line, &report.within_class.eigenvalues),
                series("G_0, the samples' own class", Mark::Line, &report.own_class.eigenvalues),
            ],
            references: vec![Reference { name: format!("C = {classes} classes"), at: At::X(classes + 0.5) }],
        }));
        panels.push(Panel::Matrix(Matrix {
            title: format!("{}: |cos| of G's eigenvectors and the classes' means g_c", source.label),
            rows: "class",
            columns: "eigenvector",
            row_names: Vec::new(),
            framed: vec![None; report.cosines.len()],
            entries: report.cosines,
        }));
    }
    Ok(panels)
}
