//! Figures of the loss's Hessian in activations.

use anyhow::Result;

use super::panel::{Axis, Chart, Mark, Panel, Series};
use crate::activations::{Activation, ActivationsReport};
use crate::source::Source;

/// The mean eigenvalue in each value, and the largest ones.
pub(super) fn activations(sources: &[Source]) -> Result<Vec<Panel>> {
    let mut panels = Vec::with_capacity(2 * sources.len());
    for source in sources {
        let report: ActivationsReport = source.report()?;
        let operator = &report.subject.operator;
        let chart = |what: &str, value: &dyn Fn(&Activation) -> f64| {
            let point = |(i, at): (usize, &Activation)| Series {
                name: at.name.clone(),
                points: vec![((i + 1) as f64, value(at))],
                mark: Mark::Dots,
            };
            Panel::Chart(Chart {
                title: format!("{}: {what} of the {operator} in activations", source.label),
                x: Axis::linear("activation, from the input on"),
                y: Axis::log("eigenvalue"),
                series: report.activations.iter().enumerate().map(point).collect(),
                references: Vec::new(),
            })
        };
        panels.push(chart("largest eigenvalue", &|at| at.eigenvalue));
        panels.push(chart("mean eigenvalue", &|at| at.trace.value / at.dim() as f64));
    }
    Ok(panels)
}
