//! Figures of the loss along directions.

use anyhow::Result;

use super::panel::{At, Axis, Chart, Mark, Matrix, Panel, Reference, Series};
use crate::source::Source;
use crate::surface::SurfaceReport;

/// A line beside the quadratic model of one direction; of two, maps of both in the same colours.
pub(super) fn surface(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for source in sources {
        let report: SurfaceReport = source.report()?;
        match report.directions.as_slice() {
            [direction] => panels.push(line(&source.label, &direction.name, &report)),
            _ => panels.extend(maps(&source.label, &report)),
        }
    }
    Ok(panels)
}

fn line(label: &str, direction: &str, report: &SurfaceReport) -> Panel {
    let points = |value: &dyn Fn(usize) -> Option<f64>| -> Vec<(f64, f64)> {
        report.coordinates.iter().enumerate().filter_map(|(i, t)| Some((*t, value(i)?))).collect()
    };
    let losses = points(&|i| report.losses[i][0]);
    // Where the loss stays low the model may leave the picture: it is drawn up to twice the largest loss.
    let top = losses.iter().map(|(_, y)| *y).fold(report.loss, f64::max);
    let bottom = losses.iter().map(|(_, y)| *y).fold(report.loss, f64::min);
    let shown = bottom - (top - bottom)..=2.0 * top;
    let model = points(&|i| report.model[i][0].filter(|y| shown.contains(y)));
    Panel::Chart(Chart {
        title: format!("{label}: the loss along {direction}"),
        x: Axis::linear("multiple of the direction"),
        y: Axis::linear("loss"),
        series: vec![
            Series { name: "loss".into(), points: losses, mark: Mark::Line },
            Series { name: "quadratic model".into(), points: model, mark: Mark::Line },
        ],
        references: vec![Reference { name: "the network".into(), at: At::X(0.0) }],
    })
}

/// log of the loss above its smallest value, from 0 to 1 over all points.
fn maps(label: &str, report: &SurfaceReport) -> [Panel; 2] {
    let all = || report.losses.iter().flatten().flatten().copied();
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    // A hundredth of the smallest loss's distance to that of the network is as good as the smallest.
    let floor = (0.01 * (report.loss - low)).max(1e-3 * (high - low)).max(f64::MIN_POSITIVE);
    let place = |loss: f64| {
        let of = |loss: f64| ((loss - low).max(0.0) + floor).ln();
        ((of(loss) - of(low)) / (of(high) - of(low)).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    };
    let (first, last) = (report.coordinates[0], report.coordinates[report.coordinates.len() - 1]);
    let map = |what: &str, entries: Vec<Vec<f64>>| {
        Panel::Matrix(Matrix {
            title: format!("{label}: log of {what}, {low:.3} to {high:.3}, at multiples {first} to {last}"),
            rows: "first direction",
            columns: "second direction",
            entries,
            row_names: Vec::new(),
            framed: Vec::new(),
        })
    };
    let places = |row: &Vec<Option<f64>>| row.iter().map(|x| x.map_or(1.0, place)).collect();
    [
        map("the loss", report.losses.iter().map(places).collect()),
        map("its quadratic model", report.model.iter().map(places).collect()),
    ]
}
