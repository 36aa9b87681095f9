//! Figures of what happens along training.

use anyhow::{Context as _, Result};
use qn_run::Metric;

use super::panel::{At, Axis, Chart, Mark, Panel, Reference, Series};
use super::source::Source;
use crate::experiment::{ExperimentReport, RunSummary};
use crate::statistics::median;
use crate::track::{TrackPoint, TrackReport};

type Points = Vec<(f64, f64)>;

/// Points of a curve; more cannot be seen.
const POINTS: usize = 200;

/// Training loss and test accuracy, of runs or of an experiment's.
pub(super) fn training(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
    let mut add = |name: &str, loss: Points, accuracy: Points| {
        losses.push(Series { name: name.to_owned(), points: loss, mark: Mark::Line });
        accuracies.push(Series { name: name.to_owned(), points: accuracy, mark: Mark::Dots });
    };
    for source in sources {
        if source.is_file() {
            let report: ExperimentReport = source.report("experiment.json")?;
            for run in &report.runs {
                let (loss, accuracy) = of_summary(run);
                add(&run.name, loss, accuracy);
            }
        } else {
            let lines = source.metrics()?;
            let seen = |f: fn(&Metric) -> Option<f64>| {
                lines.iter().filter_map(|m| Some((m.step as f64, f(m)?))).collect::<Vec<_>>()
            };
            let accuracy = seen(|m| m.val_accuracy).into_iter().map(|(x, y)| (x, 100.0 * y)).collect();
            add(&source.label, smooth(&seen(|m| m.loss)), accuracy);
        }
    }
    let chart = |title: &str, y: Axis, series: Vec<Series>| {
        Panel::Chart(Chart {
            title: title.into(),
            x: Axis::linear("step"),
            y,
            series,
            references: Vec::new(),
        })
    };
    Ok(vec![
        chart("Loss of the minibatches", Axis::log("cross-entropy / nats"), losses),
        chart("Accuracy on the test split", Axis::linear("accuracy / %"), accuracies),
    ])
}

fn of_summary(run: &RunSummary) -> (Points, Points) {
    let curve = run.curve.steps.iter().zip(&run.curve.loss).map(|(&s, &l)| (s as f64, l));
    let accuracy = run.validation.iter().map(|v| (v.step as f64, 100.0 * v.accuracy));
    (curve.collect(), accuracy.collect())
}

/// Means over windows, so that a curve has no more points than can be seen.
fn smooth(points: &[(f64, f64)]) -> Points {
    let mean = |window: &[(f64, f64)]| {
        let n = window.len() as f64;
        (window.iter().map(|p| p.0).sum::<f64>() / n, window.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// λ_k and |c_k| of every class, as the optimiser averages them.
pub(super) fn lambda(sources: &[Source]) -> Result<Vec<Panel>> {
    let source = sources.first().context("give a run directory")?;
    let lines = source.metrics()?;
    let chart = |title: &str, label: &str, of: fn(&Metric) -> Option<&Vec<f64>>| -> Result<Panel> {
        let classes = lines.iter().find_map(of).map_or(0, Vec::len);
        anyhow::ensure!(classes > 0, "{} was not trained with --optimizer qn", source.label);
        let of_class = |k: usize| {
            let points: Vec<(f64, f64)> =
                lines.iter().filter_map(|m| Some((m.step as f64, *of(m)?.get(k)?))).collect();
            Series { name: format!("class {k}"), points: smooth(&points), mark: Mark::Line }
        };
        Ok(Panel::Chart(Chart {
            title: format!("{}: {title}", source.label),
            x: Axis::linear("step"),
            y: Axis::log(label),
            series: (0..classes).map(of_class).collect(),
            references: Vec::new(),
        }))
    };
    Ok(vec![
        chart("curvatures of eq. (12), averaged", "lambda_k", |m| m.lambda.as_ref())?,
        chart("lengths of the averaged class gradients", "|c_k|", |m| m.class_gradient_norms.as_ref())?,
    ])
}

/// Curvature inside and outside the class gradients' span along training, against 2/η; the ratios of curvature to λ_k and
/// ρ, against its limit.
pub(super) fn track(sources: &[Source]) -> Result<Vec<Panel>> {
    let panels = |source: &Source| -> Result<Vec<Panel>> {
        let report: TrackReport = source.report("track.json")?;
        let of = |name: &str, value: &dyn Fn(&TrackPoint) -> f64| Series {
            name: name.into(),
            points: report
                .points
                .iter()
                .map(|p| (p.step as f64, value(p)))
                .filter(|p| p.1.is_finite())
                .collect(),
            mark: Mark::Dots,
        };
        let classes = report.classes;
        let curvature = Panel::Chart(Chart {
            title: format!("{}: curvature along training", source.label),
            x: Axis::linear("step"),
            y: Axis::log("curvature"),
            series: vec![
                of("lambda_1", &|p| p.eigenvalues[0]),
                of("lambda_C", &|p| p.eigenvalues[classes.min(p.eigenvalues.len()) - 1]),
                of("outside the class gradients' span", &|p| p.outside),
                of("lambda_k, eq. (12), median", &|p| median(p.lambda.iter().copied())),
                of("v_k H v_k, median", &|p| median(p.curvature.iter().copied())),
            ],
            references: vec![Reference { name: "2/eta".into(), at: At::Y(report.threshold) }],
        });
        let Some(limit) = report.points.last().and_then(|p| p.rho_limit) else { return Ok(vec![curvature]) };
        let ratios = |p: &TrackPoint| median(p.ggn_curvature.iter().zip(&p.lambda).map(|(c, l)| c / l));
        let stability = Panel::Chart(Chart {
            title: format!("{}: Newton steps against the curvature they meet", source.label),
            x: Axis::linear("step"),
            y: Axis::log("curvature times step"),
            series: vec![
                of("rho", &|p| p.rho.unwrap_or(f64::NAN)),
                of("v_k G v_k / lambda_k, median", &ratios),
            ],
            references: vec![Reference { name: "stable below".into(), at: At::Y(limit) }],
        });
        Ok(vec![curvature, stability])
    };
    Ok(sources.iter().map(panels).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
