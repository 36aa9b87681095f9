//! Figures of one study of every layer.

use anyhow::Result;

use super::panel::{Axis, Chart, Mark, Panel, Series};
use super::spectra::known;
use crate::layers::{LayerPoint, LayersReport};
use crate::report::TraceReport;
use crate::series::Point;
use crate::source::Source;

/// Eigenvalues, density, or trace and norm of each layer's block.
pub(super) fn layers(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in sources {
        let report: LayersReport = source.report()?;
        let Some(first) = report.layers.first() else { continue };
        let of = match &first.found {
            Point::Eigen(of) => &of.subject.operator,
            Point::Density(of) => &of.subject.operator,
            Point::Trace(of) => &of.subject.operator,
        };
        let title = |what: &str| format!("{}: {what} of the {of}'s blocks", source.label);
        match &first.found {
            Point::Eigen(_) => panels.push(eigenvalues(title("eigenvalues"), &report)),
            Point::Density(_) => panels.push(densities(title("density of the eigenvalues"), &report)),
            Point::Trace(_) => {
                panels.push(bars(title("trace"), &report, |found| found.hutch_plus_plus.value));
                let norm = |found: &TraceReport| found.frobenius_squared.value.max(0.0).sqrt();
                panels.push(bars(title("Frobenius norm"), &report, norm));
            }
        }
    }
    Ok(panels)
}

/// A line for each layer.
fn lines(report: &LayersReport, mark: Mark, points: impl Fn(&Point) -> Vec<(f64, f64)>) -> Vec<Series> {
    let line = |layer: &LayerPoint| Series { name: layer.layer.clone(), points: points(&layer.found), mark };
    report.layers.iter().map(line).collect()
}

fn eigenvalues(title: String, report: &LayersReport) -> Panel {
    let series = lines(report, Mark::Dots, |found| match found {
        Point::Eigen(found) => {
            found.eigenvalues.iter().enumerate().map(|(i, v)| ((i + 1) as f64, *v)).collect()
        }
        Point::Density(_) | Point::Trace(_) => Vec::new(),
    });
    Panel::Chart(Chart {
        title,
        x: Axis::linear("rank"),
        y: Axis::log("eigenvalue"),
        series,
        references: Vec::new(),
    })
}

fn densities(title: String, report: &LayersReport) -> Panel {
    let series = lines(report, Mark::Line, |found| match found {
        Point::Density(found) => known(found),
        Point::Eigen(_) | Point::Trace(_) => Vec::new(),
    });
    Panel::Chart(Chart {
        title,
        x: Axis::linear("eigenvalue"),
        y: Axis::log("density"),
        series,
        references: Vec::new(),
    })
}

fn bars(title: String, report: &LayersReport, value: impl Fn(&TraceReport) -> f64) -> Panel {
    let one = |(i, layer): (usize, &LayerPoint)| Series {
        name: layer.layer.clone(),
        points: match &layer.found {
            Point::Trace(found) => vec![((i + 1) as f64, value(found))],
            Point::Eigen(_) | Point::Density(_) => Vec::new(),
        },
        mark: Mark::Stems,
    };
    Panel::Chart(Chart {
        title,
        x: Axis::linear("layer"),
        y: Axis::linear(""),
        series: report.layers.iter().enumerate().map(one).collect(),
        references: Vec::new(),
    })
}
