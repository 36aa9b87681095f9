//! Figures of whole spectra by rank.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Panel, Series, once};
use crate::power_law::PowerLaw;
use crate::shape::{ShapeReport, full_spectrum};
use crate::source::Source;

/// The positive eigenvalues by rank, with the power law through their tail where shape.json has one.
pub(super) fn shape(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut series, mut references) = (Vec::new(), Vec::new());
    for source in sources {
        let (report, values) = full_spectrum(source)?;
        let positive = values.iter().filter(|v| **v > report.threshold).enumerate();
        let points: Vec<(f64, f64)> = positive.map(|(j, &v)| (j as f64 + 1.0, v)).collect();
        let law = source.report::<ShapeReport>().ok().and_then(|shape| shape.spectra.first()?.shape.tail);
        series.push(Series { name: source.label.clone(), points: thinned(&points), mark: Mark::Broad });
        if let Some(law) = law {
            let name = format!("{}: density as lambda^-{:.2}", source.label, law.exponent);
            series.push(Series { name, points: line(&law), mark: Mark::Line });
        }
        let classes = report.subject.outputs.unwrap_or(10);
        once(&mut references, format!("C = {classes} classes"), At::X(classes as f64));
    }
    Ok(vec![Panel::Chart(Chart {
        title: "Positive eigenvalues by rank".into(),
        x: Axis::log("rank"),
        y: Axis::log("eigenvalue"),
        series,
        references,
    })])
}

/// The law's values at the ranks of its tail.
fn line(law: &PowerLaw) -> Vec<(f64, f64)> {
    let n = law.values as f64;
    let at = |rank: f64| (rank, law.from * (rank / n).powf(-1.0 / (law.exponent - 1.0)));
    vec![at(1.0), at(n)]
}

/// All of the first points, and of the others as many as can be told apart on a logarithmic axis.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut next = 0.0;
    let keep = |&&(rank, _): &&(f64, f64)| {
        let kept = rank >= next;
        if kept {
            next = rank * 1.005;
        }
        kept
    };
    points.iter().filter(keep).copied().collect()
}
