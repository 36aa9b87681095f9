//! What an experiment came to, read from the runs' logs.

use qn_run::{Metric, TrainConfig, Versions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::Report;
use crate::recipe::{PaperNumbers, Recipe, RecipeRun};
use crate::report::SCHEMA_VERSION;

/// The outcome of a recipe: `experiment.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentReport {
    /// Of this format.
    pub schema_version: u32,
    /// The recipe's name.
    pub recipe: String,
    /// What it says of itself.
    pub description: String,
    /// What was typed, but for paths and threads.
    pub command: String,
    /// Every run.
    pub runs: Vec<RunSummary>,
    /// The recipe's comparisons.
    pub comparisons: Vec<Comparison>,
    /// Versions, of the last sitting.
    pub versions: Versions,
}

/// One training run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// Its folder.
    pub name: String,
    /// Its name in the recipe, without the seed.
    pub group: String,
    /// `sgd` or `qn`.
    pub optimizer: String,
    /// Learning rate.
    pub lr: f64,
    /// d in 1/(λ + d).
    pub damping: f64,
    /// Samples a step; absent for all of them.
    pub batch_size: Option<usize>,
    /// Of the initial parameters and of the order of the data.
    pub seed: u64,
    /// Steps asked for.
    pub steps: u64,
    /// The step at which the loss was not finite any more, and the run ended.
    pub diverged_at: Option<u64>,
    /// Of training, over all sittings.
    pub seconds: f64,
    /// The minibatches' loss, averaged over windows.
    pub curve: Curve,
    /// At the end of every epoch.
    pub validation: Vec<Validation>,
    /// What the paper prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<PaperNumbers>,
}

/// A training curve.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Curve {
    /// Last step of each window.
    pub steps: Vec<u64>,
    /// Mean cross-entropy of the logged minibatches in it, in nats, before their steps.
    pub loss: Vec<f64>,
}

/// The test split at the end of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share classified correctly.
    pub accuracy: f64,
}

/// SGD against another run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Names in the recipe.
    pub sgd: String,
    /// The other.
    pub other: String,
    /// Of this seed.
    pub seed: u64,
    /// The last step of the first window from which on SGD's mean loss stays the smaller; absent if it is not in the
    /// last one.
    pub sgd_ahead_from: Option<u64>,
    /// Windows in which the other's mean loss is the smaller, of all.
    pub other_ahead: (usize, usize),
    /// Seconds of training of the other, relative to SGD's.
    pub time_ratio: f64,
}

/// Windows of a curve.
const WINDOWS: u64 = 50;

impl Report for ExperimentReport {
    const KIND: &'static str = "experiment";
}

impl ExperimentReport {
    /// With the comparisons that the recipe asks for, seed by seed.
    pub(crate) fn new(recipe: &Recipe, runs: Vec<RunSummary>) -> Self {
        let of = |group: &'_ str| runs.iter().filter(move |r| r.group == group).collect::<Vec<_>>();
        let mut comparisons = Vec::new();
        for (sgd, other) in &recipe.compare {
            for (sgd, other) in of(sgd).into_iter().zip(of(other)) {
                comparisons.push(Comparison::new(sgd, other));
            }
        }
        Self {
            schema_version: SCHEMA_VERSION,
            recipe: recipe.name.clone(),
            description: recipe.description.clone(),
            command: format!("qn-analyse reproduce {}", recipe.name),
            runs,
            comparisons,
            versions: Versions::current(),
        }
    }
}

impl RunSummary {
    /// From a run's configuration and log.
    pub(crate) fn new(
        run: &RecipeRun,
        config: &TrainConfig,
        metrics: &[Metric],
        paper: Option<PaperNumbers>,
    ) -> Self {
        Self {
            name: run.name.clone(),
            group: run.group.clone(),
            optimizer: config.optimizer.as_str().into(),
            lr: config.lr,
            damping: config.damping,
            batch_size: config.batch_size,
            seed: config.seed,
            steps: config.steps,
            diverged_at: metrics.iter().find(|m| m.diverged).map(|m| m.step),
            seconds: metrics.last().map_or(0.0, |m| m.seconds),
            curve: Curve::new(config.steps, metrics),
            validation: metrics
                .iter()
                .filter_map(|m| {
                    let (loss, accuracy) = (m.val_loss?, m.val_accuracy?);
                    Some(Validation { step: m.step, epoch: m.epoch, loss, accuracy })
                })
                .collect(),
            paper,
        }
    }

    /// The test split at the end; nothing of a run that diverged.
    pub(crate) fn last(&self) -> Option<&Validation> {
        if self.diverged_at.is_some() { None } else { self.validation.last() }
    }
}

impl Curve {
    fn new(steps: u64, metrics: &[Metric]) -> Self {
        let width = steps.div_ceil(WINDOWS).max(1);
        let mut curve = Self::default();
        for window in 0..steps.div_ceil(width) {
            let (start, end) = (window * width, ((window + 1) * width).min(steps));
            let inside = metrics.iter().filter(|m| (start..end).contains(&m.step));
            let losses: Vec<f64> = inside.filter_map(|m| m.loss).collect();
            if !losses.is_empty() {
                curve.steps.push(end);
                curve.loss.push(losses.iter().sum::<f64>() / losses.len() as f64);
            }
        }
        curve
    }
}

impl Comparison {
    /// Of two runs with the same steps.
    pub(crate) fn new(sgd: &RunSummary, other: &RunSummary) -> Self {
        let windows = sgd.curve.loss.len();
        let loss = |i: usize| other.curve.loss.get(i).copied().unwrap_or(f64::INFINITY);
        let other_leads: Vec<bool> = (0..windows).map(|i| loss(i) < sgd.curve.loss[i]).collect();
        let first = other_leads.iter().rposition(|&leads| leads).map_or(0, |last| last + 1);
        Self {
            sgd: sgd.group.clone(),
            other: other.group.clone(),
            seed: sgd.seed,
            sgd_ahead_from: sgd.curve.steps.get(first).copied(),
            other_ahead: (other_leads.iter().filter(|l| **l).count(), windows),
            time_ratio: other.seconds / sgd.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(losses: &[f64]) -> RunSummary {
        let line = |(i, &loss): (usize, &f64)| Metric {
            step: i as u64,
            loss: Some(loss),
            seconds: (i + 1) as f64,
            ..Metric::default()
        };
        let metrics: Vec<Metric> = losses.iter().enumerate().map(line).collect();
        RunSummary {
            name: "r".into(),
            group: "r".into(),
            optimizer: "sgd".into(),
            lr: 1.0,
            damping: 0.0,
            batch_size: None,
            seed: 0,
            steps: losses.len() as u64,
            diverged_at: None,
            seconds: losses.len() as f64,
            curve: Curve::new(losses.len() as u64, &metrics),
            validation: Vec::new(),
            paper: None,
        }
    }

    #[test]
    fn who_is_ahead() {
        let sgd = summary(&[5.0, 4.0, 3.0, 2.0]);
        let compare = |other: &[f64]| {
            let c = Comparison::new(&sgd, &summary(other));
            (c.sgd_ahead_from, c.other_ahead)
        };
        assert_eq!(compare(&[4.0, 3.0, 3.5, 2.5]), (Some(3), (2, 4)));
        assert_eq!(compare(&[4.0, 4.5, 3.5, 1.0]), (None, (2, 4)));
        assert_eq!(compare(&[6.0, 6.0, 6.0, 6.0]), (Some(1), (0, 4)));
        assert_eq!(compare(&[4.0]), (Some(2), (1, 4)), "it has diverged");
    }

    #[test]
    fn a_curve_is_the_mean_over_windows() {
        let losses: Vec<f64> = (0..125).map(f64::from).collect();
        let curve = summary(&losses).curve;
        assert_eq!((curve.steps[0], curve.loss[0]), (3, 1.0));
        assert_eq!((curve.steps.last(), curve.loss.last()), (Some(&125), Some(&123.5)));
    }
}
