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
        let mut add = |name: &str, shares: &[f64]| {
            let name = if sources.len() == 1 { name.to_owned() } else { format!("{}: {name}", source.label) };
            series.push(Series { name, points: cumulative(shares), mark: Mark::Line });
        };
        add("gradient", &report.gradient);
        if let Some(mean) = report.mean_class_gradient() {
            add("class gradients, mean", &mean);
        }
        add("random direction", &vec![report.random_share; report.eigenvalues.len()]);
        let classes = report.class_gradients.len();
        if classes > 0 {
            once(&mut references, format!("C = {classes} classes"), At::X(classes as f64));
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

/// Sums of the first 1, 2, ..
fn cumulative(shares: &[f64]) -> Vec<(f64, f64)> {
    let mut sum = 0.0;
    let add = |(j, share): (usize, &f64)| {
        sum += share;
        (j as f64 + 1.0, sum)
    };
    shares.iter().enumerate().map(add).collect()
}
