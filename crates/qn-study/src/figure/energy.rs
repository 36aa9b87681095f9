//! Figures of gradients and layers among the eigenvectors.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Series, once};
use crate::energy::EnergyReport;
use crate::source::Source;

/// Eigenvectors whose layers are shown.
const SHOWN: usize = 20;

/// Shares in the first j eigenvectors beside those of a random direction, and below the layers of the first few.
pub(super) fn energy(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut series, mut references, mut layers) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        let report: EnergyReport = source.report()?;
        let ends = report.ends();
        let mut add = |name: &str, shares: &[f64]| {
            let name = if sources.len() == 1 { name.to_owned() } else { format!("{}: {name}", source.label) };
            series.push(Series { name, points: cumulative(&ends, shares), mark: Mark::Line });
        };
        add("gradient", &report.gradient);
        if let Some(mean) = report.mean_class_gradient() {
            add("class gradients, mean", &mean);
        }
        let sizes = ends.iter().scan(0, |before, &end| Some(end - std::mem::replace(before, end)));
        let random: Vec<f64> = sizes.map(|count| report.random_share * count as f64).collect();
        add("random direction", &random);
        let classes = report.class_gradients.len();
        if classes > 0 {
            once(&mut references, format!("C = {classes} classes"), At::X(classes as f64));
        }
        if !report.counts.is_empty() {
            layers.push(Panel::Chart(along(&report, &ends, &source.label)));
        }
        let shown = &report.layer_masses[..SHOWN.min(report.layer_masses.len())];
        let row = |layer: usize| shown.iter().map(|masses| masses[layer]).collect();
        layers.push(Panel::Matrix(Matrix {
            title: format!("{}: mass of the first eigenvectors in each layer", source.label),
            rows: "layer",
            columns: "eigenvector",
            entries: (0..report.layers.len()).map(row).collect(),
            framed: Vec::new(),
            row_names: report.layers,
        }));
    }
    let chart = Chart {
        title: "Share of the squared norm in the first j eigenvectors".into(),
        x: Axis::log("j"),
        y: Axis::log("share"),
        series,
        references,
    };
    Ok(std::iter::once(Panel::Chart(chart)).chain(layers).collect())
}

/// Where each layer's mass lies, from the largest eigenvalue to the smallest.
fn along(report: &EnergyReport, ends: &[usize], label: &str) -> Chart {
    let middle = |j: usize| ends[j] as f64 - 0.5 * (report.counts[j] as f64 - 1.0);
    let layer = |(l, name): (usize, &String)| Series {
        name: name.clone(),
        points: report.layer_masses.iter().enumerate().map(|(j, masses)| (middle(j), masses[l])).collect(),
        mark: Mark::Line,
    };
    Chart {
        title: format!("{label}: mass of the eigenvectors in each layer"),
        x: Axis::linear("j, from the largest eigenvalue to the smallest"),
        y: Axis::log("mass"),
        series: report.layers.iter().enumerate().map(layer).collect(),
        references: Vec::new(),
    }
}

/// Sums of the first 1, 2, .. entries, beside the number of eigenvectors that these stand for.
fn cumulative(ends: &[usize], shares: &[f64]) -> Vec<(f64, f64)> {
    let add = |sum: &mut f64, (end, share): (&usize, &f64)| {
        *sum += share;
        Some((*end as f64, *sum))
    };
    ends.iter().zip(shares).scan(0.0, add).collect()
}
