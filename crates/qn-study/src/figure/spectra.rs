//! Figures of eigenvalues.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Panel, Reference, Scale, Series, once};
use crate::report::{DensityReport, EigenReport, FullSpectrumReport, Histogram};
use crate::source::Source;

/// The eigenvalues that `eigen` found, in their order, with C marked.
pub(super) fn eigenvalues(sources: &[Source]) -> Result<Vec<Panel>> {
    let reports: Vec<EigenReport> = sources.iter().map(Source::report).collect::<Result<_>>()?;
    let subject = |report: &EigenReport| {
        let s = &report.subject;
        format!("{} of {}, {} samples of {}", s.operator, s.arch, s.samples, s.data)
    };
    let of_one = reports.windows(2).all(|pair| subject(&pair[0]) == subject(&pair[1]));
    let (mut series, mut references): (Vec<Series>, Vec<Reference>) = (Vec::new(), Vec::new());
    for (source, report) in sources.iter().zip(&reports) {
        // Of both ends the lower one is far away in order.
        let shown = if report.top().is_empty() { &report.eigenvalues } else { report.top() };
        series.push(Series {
            name: if of_one {
                source.label.clone()
            } else {
                format!("{}: {}", source.label, subject(report))
            },
            points: shown.iter().enumerate().map(|(i, &v)| (i as f64 + 1.0, v)).collect(),
            mark: if sources.len() == 1 { Mark::Stems } else { Mark::Dots },
        });
        let classes = report.subject.outputs.unwrap_or(10);
        once(&mut references, format!("C = {classes} classes"), At::X(classes as f64 + 0.5));
    }
    let of =
        reports.first().filter(|_| of_one).map_or(String::new(), |report| format!(": {}", subject(report)));
    Ok(vec![Panel::Chart(Chart {
        title: format!("Eigenvalues{of}"),
        x: Axis::linear("index"),
        y: Axis::linear("eigenvalue"),
        series,
        references,
    })])
}

/// Counts of all eigenvalues.
pub(super) fn spectrum(sources: &[Source]) -> Result<Vec<Panel>> {
    let panel = |source: &Source| -> Result<Panel> {
        let report: FullSpectrumReport = source.report()?;
        let histogram = match source.all_eigenvalues()? {
            // Finer than the report's where the eigenvalues are there.
            Some(values) => Histogram::symlog(&values, report.threshold),
            None => report.histogram,
        };
        let edges = histogram.edges.windows(2);
        let points = edges.zip(&histogram.counts).map(|(edge, &n)| (edge[0], n as f64));
        let last = histogram.edges.last().map(|&e| (e, 1.0));
        let s = &report.subject;
        Ok(Panel::Chart(Chart {
            title: format!("All {} eigenvalues: {} of {}, {}", s.params, s.operator, s.arch, source.label),
            x: Axis {
                label: format!("eigenvalue (linear within ±{:.0e})", report.threshold),
                scale: Scale::Symlog { threshold: report.threshold },
            },
            y: Axis::log("eigenvalues in a tenth of a decade"),
            series: vec![Series {
                name: String::new(),
                points: points.chain(last).collect(),
                mark: Mark::Steps,
            }],
            references: Vec::new(),
        }))
    };
    sources.iter().map(panel).collect()
}

/// A density's points, without what the estimate does not know.
pub(super) fn known(report: &DensityReport) -> Vec<(f64, f64)> {
    let floor = report.density.iter().copied().fold(0.0, f64::max) * 1e-8;
    let points = report.grid.iter().zip(&report.density).filter(|(_, d)| **d > floor);
    points.map(|(&x, &d)| (x, d)).collect()
}

/// Smoothed density of all eigenvalues.
pub(super) fn density(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut series = Vec::new();
    for source in sources {
        let report: DensityReport = source.report()?;
        series.push(Series { name: source.label.clone(), points: known(&report), mark: Mark::Line });
    }
    Ok(vec![Panel::Chart(Chart {
        title: "Density of eigenvalues".into(),
        x: Axis::linear("eigenvalue"),
        y: Axis::log("density"),
        series,
        references: Vec::new(),
    })])
}
