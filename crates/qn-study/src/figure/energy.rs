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
            layers.push(Panel::Matrix(along(&report, &ends, &source.label)));
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

/// Columns of the whole spectrum, of as many eigenvectors each.
const COLUMNS: usize = 20;

/// Where each layer's mass lies, from the largest eigenvalue to the smallest.
fn along(report: &EnergyReport, ends: &[usize], label: &str) -> Matrix {
    let all = ends[ends.len() - 1];
    let mut entries = vec![vec![0.0; COLUMNS]; report.layers.len()];
    let mut counted = [0.0; COLUMNS];
    for ((masses, &count), &end) in report.layer_masses.iter().zip(&report.counts).zip(ends) {
        let column = (end - count / 2 - 1) * COLUMNS / all;
        counted[column] += count as f64;
        entries.iter_mut().zip(masses).for_each(|(row, mass)| row[column] += count as f64 * mass);
    }
    for row in &mut entries {
        row.iter_mut().zip(counted).for_each(|(sum, count)| *sum /= f64::max(count, 1.0));
    }
    Matrix {
        title: format!("{label}: mass in each layer, of all {all} eigenvectors"),
        rows: "layer",
        columns: "twentieth of the eigenvectors, eigenvalues descending",
        framed: Vec::new(),
        entries,
        row_names: report.layers.clone(),
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
