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

/// Smoothed density of all eigenvalues, and of the logarithms of their sizes.
pub(super) fn density(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut series, mut sizes) = (Vec::new(), Vec::new());
    for source in sources {
        let report: DensityReport = source.report()?;
        series.push(Series { name: source.label.clone(), points: known(&report), mark: Mark::Line });
        for (sign, name) in [(1.0, "positive"), (-1.0, "negative")] {
            let points = of_logarithms(&report.nodes, sign);
            if points.iter().any(|p| p.1 > 0.0) {
                sizes.push(Series { name: format!("{}, {name}", source.label), points, mark: Mark::Line });
            }
        }
    }
    let chart = |title: &str, x, series| {
        Panel::Chart(Chart {
            title: title.into(),
            x,
            y: Axis::log("density"),
            series,
            references: Vec::new(),
        })
    };
    Ok(vec![
        chart("Density of eigenvalues", Axis::linear("eigenvalue"), series),
        chart("Density of log10 |eigenvalue|", Axis::log("|eigenvalue|"), sizes),
    ])
}

/// Standard deviation of what stands for a node on a logarithmic axis, in decades.
const DECADES: f64 = 0.15;

/// The density per decade of |λ| of the eigenvalues with a sign, from the mean of the probes' quadratures, over the six decades
/// below the largest node; nodes nearer to zero are not resolved by products.
fn of_logarithms(nodes: &[Vec<(f64, f64)>], sign: f64) -> Vec<(f64, f64)> {
    let top = nodes.iter().flatten().fold(0.0f64, |top, (node, _)| top.max(node.abs())).log10();
    let inside: Vec<(f64, f64)> = nodes
        .iter()
        .flatten()
        .filter(|(node, _)| node * sign > 0.0)
        .map(|(node, weight)| (node.abs().log10(), weight / nodes.len() as f64))
        .collect();
    let bell =
        |x: f64| (-0.5 * (x / DECADES).powi(2)).exp() / (DECADES * (2.0 * std::f64::consts::PI).sqrt());
    let at = |i: usize| top + 0.5 - 6.5 * i as f64 / 260.0;
    let density = |x: f64| inside.iter().map(|(node, weight)| weight * bell(x - node)).sum::<f64>();
    let all: Vec<(f64, f64)> = (0..=260).rev().map(at).map(|x| (10f64.powf(x), density(x))).collect();
    let floor = all.iter().fold(0.0f64, |top, p| top.max(p.1)) * 1e-8;
    all.into_iter().filter(|p| p.1 > floor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two probes that see 3/4 of the eigenvalues at 10, an eighth at −0.1 and an eighth nearer to zero than is shown.
    #[test]
    fn densities_of_logarithms_have_the_nodes_weights() {
        let nodes = vec![vec![(10.0, 1.0)], vec![(10.0, 0.5), (-0.1, 0.25), (1e-9, 0.25)]];
        for (sign, share, place) in [(1.0, 0.75, 10.0), (-1.0, 0.125, 0.1)] {
            let points = of_logarithms(&nodes, sign);
            let sum: f64 = points.iter().map(|p| p.1).sum::<f64>() * 6.5 / 260.0;
            assert!((sum - share).abs() < 1e-3, "{sum}");
            let top = points.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert!((top.0 / place).log10().abs() < 0.03, "{top:?}");
        }
        assert!(of_logarithms(&[vec![(0.0, 1.0)]], 1.0).is_empty());
    }
}
