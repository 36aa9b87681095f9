//! Figures of one study at several checkpoints.

use anyhow::Result;

use super::panel::{Axis, Chart, Mark, Panel, Series};
use super::spectra::known;
use crate::report::{DensityReport, EigenReport, TraceReport};
use crate::series::{Point, SeriesReport};
use crate::source::Source;

/// Eigenvalues drawn of a checkpoint; more lines cannot be told apart.
const SHOWN: usize = 10;

/// Eigenvalues, trace or density at every checkpoint.
pub(super) fn series(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in sources {
        let report: SeriesReport = source.report()?;
        let eigen = of(&report, |found| if let Point::Eigen(report) = found { Some(report) } else { None });
        let trace = of(&report, |found| if let Point::Trace(report) = found { Some(report) } else { None });
        let density =
            of(&report, |found| if let Point::Density(report) = found { Some(report) } else { None });
        panels.extend(eigenvalues(&source.label, &eigen));
        panels.extend(traces(&source.label, &trace));
        panels.extend(densities(&source.label, &density));
    }
    Ok(panels)
}

/// The reports of one kind, with their steps.
fn of<'a, R>(report: &'a SeriesReport, pick: impl Fn(&'a Point) -> Option<&'a R>) -> Vec<(f64, &'a R)> {
    report.points.iter().filter_map(|point| Some((point.step as f64, pick(&point.found)?))).collect()
}

fn eigenvalues(label: &str, reports: &[(f64, &EigenReport)]) -> Option<Panel> {
    let (_, first) = reports.first()?;
    let line = |i: usize| Series {
        name: format!("lambda_{}", i + 1),
        points: reports.iter().filter_map(|(step, r)| Some((*step, *r.eigenvalues.get(i)?))).collect(),
        mark: Mark::Dots,
    };
    let subject = &first.subject;
    Some(Panel::Chart(Chart {
        title: format!("{label}: {} eigenvalues of the {} along training", first.which, subject.operator),
        x: Axis::linear("step"),
        y: Axis::linear("eigenvalue"),
        series: (0..first.eigenvalues.len().min(SHOWN)).map(line).collect(),
        references: Vec::new(),
    }))
}

fn traces(label: &str, reports: &[(f64, &TraceReport)]) -> Vec<Panel> {
    let Some((_, first)) = reports.first() else { return Vec::new() };
    let chart = |what: &str, value: fn(&TraceReport) -> f64| {
        let points = reports.iter().map(|(step, report)| (*step, value(report))).collect();
        Panel::Chart(Chart {
            title: format!("{label}: {what} of the {} along training", first.subject.operator),
            x: Axis::linear("step"),
            y: Axis::linear(what),
            series: vec![Series { name: String::new(), points, mark: Mark::Dots }],
            references: Vec::new(),
        })
    };
    vec![
        chart("trace", |report| report.hutch_plus_plus.value),
        chart("Frobenius norm", |report| report.frobenius_squared.value.max(0.0).sqrt()),
    ]
}

fn densities(label: &str, reports: &[(f64, &DensityReport)]) -> Option<Panel> {
    let (_, first) = reports.first()?;
    let line = |(step, report): &(f64, &DensityReport)| Series {
        name: format!("step {step}"),
        points: known(report),
        mark: Mark::Line,
    };
    Some(Panel::Chart(Chart {
        title: format!(
            "{label}: density of the eigenvalues of the {} along training",
            first.subject.operator
        ),
        x: Axis::linear("eigenvalue"),
        y: Axis::log("density"),
        series: reports.iter().map(line).collect(),
        references: Vec::new(),
    }))
}
