//! Figures of what happens along training.

use anyhow::{Context as _, Result};
use qn_run::{Invalid, Metric};

use super::panel::{At, Axis, Chart, Mark, Panel, Reference, Series};
use crate::StudyError;
use crate::experiment::{ExperimentReport, RunSummary};
use crate::source::Source;
use crate::statistics::median;
use crate::track::{TrackPoint, TrackReport, first_step};

type Points = Vec<(f64, f64)>;

/// Points of a curve; more cannot be seen.
const POINTS: usize = 200;

/// Training loss and test accuracy, of runs or of an experiment's: there the mean over seeds, of the runs named in `only`
/// where there are any.
pub(super) fn training(sources: &[Source], only: &[String]) -> Result<Vec<Panel>> {
    let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
    let mut add = |name: &str, loss: Points, accuracy: Points| {
        losses.push(Series { name: name.to_owned(), points: loss, mark: Mark::Line });
        accuracies.push(Series { name: name.to_owned(), points: accuracy, mark: Mark::Dots });
    };
    for source in sources {
        if source.is_file() {
            let report: ExperimentReport = source.report()?;
            for (name, runs) in groups(&report, only)? {
                add(&name, mean_over(&runs, curve), mean_over(&runs, accuracy));
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

/// The runs of an experiment by their name in the recipe, with how many seeds there are.
fn groups<'a>(report: &'a ExperimentReport, only: &[String]) -> Result<Vec<(String, Vec<&'a RunSummary>)>> {
    let mut names: Vec<&str> = report.runs.iter().map(|run| run.group.as_str()).collect();
    names.dedup();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        anyhow::bail!(Invalid(format!("`only` {unknown}: {} has {}", report.recipe, names.join(", "))));
    }
    names.retain(|name| only.is_empty() || only.iter().any(|wanted| wanted == name));
    let of =
        |name: &str| -> Vec<&RunSummary> { report.runs.iter().filter(|run| run.group == name).collect() };
    let label = |name: &str, runs: &[&RunSummary]| {
        let failed = runs.iter().filter(|run| run.failed_at().is_some()).count();
        match (runs.len(), failed) {
            (1, 0) => name.to_owned(),
            (n, 0) => format!("{name}, {n} seeds"),
            (n, failed) => format!("{name}, {failed} of {n} fail"),
        }
    };
    Ok(names.into_iter().map(|name| (label(name, &of(name)), of(name))).collect())
}

/// The mean of curves over seeds, as far as all of them go.
fn mean_over(runs: &[&RunSummary], of: fn(&RunSummary) -> Points) -> Points {
    let curves: Vec<Points> = runs.iter().map(|run| of(run)).collect();
    let len = curves.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |i: usize| curves.iter().map(|curve| curve[i].1).sum::<f64>() / curves.len() as f64;
    (0..len).map(|i| (curves[0][i].0, mean(i))).collect()
}

/// The loss, up to where the run goes wrong.
fn curve(run: &RunSummary) -> Points {
    let points = run.curve.steps.iter().zip(&run.curve.loss).map(|(&s, &l)| (s as f64, l));
    points.take_while(|(step, _)| run.failed_at().is_none_or(|failed| *step <= failed as f64)).collect()
}

fn accuracy(run: &RunSummary) -> Points {
    let points = run.validation.iter().map(|v| (v.step as f64, 100.0 * v.accuracy));
    points.take_while(|(step, _)| run.failed_at().is_none_or(|failed| *step <= failed as f64)).collect()
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
        anyhow::ensure!(
            classes > 0,
            StudyError::Refused(format!("{} was not trained with `optimizer` qn", source.label))
        );
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

/// ρ against its limit, and the preconditioner's smallest eigenvalue, as they are logged.
pub(super) fn stability(sources: &[Source]) -> Result<Vec<Panel>> {
    let (mut overshoot, mut uphill) = (Vec::new(), Vec::new());
    for source in sources {
        let lines = source.metrics()?;
        let series = |name: String, of: fn(&Metric) -> Option<f64>| {
            let points: Points = lines.iter().filter_map(|m| Some((m.step as f64, of(m)?))).collect();
            Series { name, points: smooth(&points), mark: Mark::Line }
        };
        let named = |what: &str, test: fn(&Metric) -> bool| match first_step(&lines, test) {
            Some(step) => format!("{}: {what} from step {step}", source.label),
            None => format!("{}: never {what}", source.label),
        };
        let rho = series(named("beyond", Metric::beyond_rho_limit), |m| {
            m.rho.zip(m.rho_limit).map(|(rho, limit)| rho / limit)
        });
        anyhow::ensure!(
            !rho.points.is_empty(),
            StudyError::Refused(format!(
                "the log of {} has no stability: it was not trained with `optimizer` qn, or by an earlier version",
                source.label
            ))
        );
        overshoot.push(rho);
        uphill.push(series(named("negative", Metric::goes_uphill), |m| m.preconditioner_min));
    }
    let chart = |title: &str, y: Axis, series: Vec<Series>, limit: (&str, f64)| {
        let references = vec![Reference { name: limit.0.into(), at: At::Y(limit.1) }];
        Panel::Chart(Chart { title: title.into(), x: Axis::linear("step"), y, series, references })
    };
    Ok(vec![
        chart("Overshooting", Axis::log("rho / its limit"), overshoot, ("stable below", 1.0)),
        chart(
            "Smallest eigenvalue of the preconditioner",
            Axis::linear("relative to eta"),
            uphill,
            ("uphill below", 0.0),
        ),
    ])
}

/// Curvature inside and outside the class gradients' span along training, against 2/η; the ratios of curvature to λ_k and
/// ρ, against its limit.
pub(super) fn track(sources: &[Source]) -> Result<Vec<Panel>> {
    let panels = |source: &Source| -> Result<Vec<Panel>> {
        let report: TrackReport = source.report()?;
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
        let mut curvatures = vec![
            of("lambda_1", &|p| p.eigenvalues[0]),
            of("lambda_C", &|p| p.eigenvalues[classes.min(p.eigenvalues.len()) - 1]),
            of("outside the class gradients' span", &|p| p.outside),
            of("lambda_k, eq. (12), median", &|p| median(p.lambda.iter().copied())),
            of("v_k H v_k, median", &|p| median(p.curvature.iter().copied())),
        ];
        if report.preconditioned_threshold.is_some() {
            let by_adam = |p: &TrackPoint| p.preconditioned.unwrap_or(f64::NAN);
            curvatures.push(of("lambda_1 of D^-1/2 H D^-1/2, D by Adam", &by_adam));
        }
        if report.points.iter().any(|p| p.sam_limit.is_some()) {
            curvatures.push(of("SAM's limit", &|p| p.sam_limit.unwrap_or(f64::NAN)));
        }
        let curvature = Panel::Chart(Chart {
            title: format!("{}: curvature along training", source.label),
            x: Axis::linear("step"),
            y: Axis::log("curvature"),
            series: curvatures,
            references: [("2/eta", report.threshold), ("Adam's limit", report.preconditioned_threshold)]
                .into_iter()
                .filter_map(|(name, at)| Some(Reference { name: name.into(), at: At::Y(at?) }))
                .collect(),
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
