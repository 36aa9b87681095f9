//! What an experiment came to, read from the runs' logs.

use anyhow::Result;
use qn_run::{Metric, RunDirectory, Versions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::Report;
use crate::recipe::{PaperNumbers, Recipe, RecipeRun};
use crate::report::SCHEMA_VERSION;
use crate::statistics::Spread;
use crate::track::first_step;

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
    /// The recipe's comparisons, seed by seed.
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
    /// The recipe's comparisons over all seeds.
    #[serde(default)]
    pub summaries: Vec<Summary>,
    /// Versions of what wrote this report; the runs have their own.
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
    /// The first logged step from which on the loss stays above 10 ln C, ten times that of who guesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blown_up_at: Option<u64>,
    /// The first logged step whose ρ is beyond its limit: Newton steps overshoot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_passed_at: Option<u64>,
    /// The first logged step at which the preconditioner has a negative eigenvalue: steps go uphill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uphill_from: Option<u64>,
    /// Of training, over all sittings.
    pub seconds: f64,
    /// The minibatches' loss, averaged over windows.
    pub curve: Curve,
    /// At the end of every epoch.
    pub validation: Vec<Validation>,
    /// Versions and processor of the sitting in which the run was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
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

/// SGD against another run with the same seed, which had the same initial parameters and batches.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Name in the recipe of the SGD that the other optimiser is compared with.
    pub sgd: String,
    /// Name in the recipe of the optimiser that is compared with SGD.
    pub other: String,
    /// Of both.
    pub seed: u64,
    /// The step from which on the other loses more than it gains: the sum of the differences of the logged losses, SGD's
    /// minus the other's, is largest just before it. It is 0 where the other is behind from the beginning, absent where
    /// the sum is largest at the end.
    pub overtaken_at: Option<u64>,
    /// The mean of these differences before that step, in nats; 0 where there is none.
    pub lead: f64,
    /// The mean difference over all steps, the other's loss minus SGD's, in nats; absent where one has diverged.
    pub loss_difference: Option<f64>,
    /// Seconds of training a step of the other, relative to SGD's.
    pub time_ratio: f64,
}

/// A comparison over all seeds. Differences are the other's minus SGD's, seed by seed; those at the end are absent where no
/// seed has both.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Name in the recipe of the SGD that the other optimiser is compared with.
    pub sgd: String,
    /// Name in the recipe of the optimiser that is compared with SGD.
    pub other: String,
    /// How many seeds both were trained with.
    pub seeds: usize,
    /// With so many of them the other diverged or blew up.
    pub failed: usize,
    /// With so many of them the other was ahead to the end.
    pub never_overtaken: usize,
    /// `overtaken_at` of the rest.
    pub overtaken_at: Option<Spread>,
    /// `loss_difference`, in nats.
    pub loss_difference: Option<Spread>,
    /// Of the loss on the test split at the end, in nats.
    pub val_loss_difference: Option<Spread>,
    /// Of the accuracy there.
    pub val_accuracy_difference: Option<Spread>,
    /// `time_ratio`.
    pub time_ratio: Option<Spread>,
}

/// Windows of a curve.
const WINDOWS: u64 = 50;

impl Report for ExperimentReport {
    const KIND: &'static str = "experiment";
    const STUDY: &'static str = "reproduce";
}

impl ExperimentReport {
    /// Of runs and their logs, with the comparisons that the recipe asks for.
    pub fn new(recipe: &Recipe, runs: Vec<(RunSummary, Vec<Metric>)>) -> Self {
        let of = |group: &str| runs.iter().filter(|(run, _)| run.group == group).collect::<Vec<_>>();
        let (mut comparisons, mut summaries) = (Vec::new(), Vec::new());
        for (sgd, other) in &recipe.compare {
            let pairs: Vec<_> = of(sgd).into_iter().zip(of(other)).collect();
            let found: Vec<Comparison> =
                pairs.iter().map(|(sgd, other)| Comparison::new(sgd, other)).collect();
            let ends: Vec<_> = pairs.iter().map(|(sgd, other)| (&sgd.0, &other.0)).collect();
            summaries.extend(Summary::new(&found, &ends));
            comparisons.extend(found);
        }
        Self {
            schema_version: SCHEMA_VERSION,
            recipe: recipe.name.clone(),
            description: recipe.description.clone(),
            command: format!("qn-analyse reproduce {}", recipe.name),
            runs: runs.into_iter().map(|(run, _)| run).collect(),
            comparisons,
            summaries,
            versions: Versions::current(),
        }
    }
}

impl RunSummary {
    /// From a run's files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn new(
        run: &RecipeRun,
        directory: &RunDirectory,
        metrics: &[Metric],
        paper: Option<PaperNumbers>,
    ) -> Result<Self> {
        let config = directory.read_config()?;
        Ok(Self {
            name: run.name.clone(),
            group: run.group.clone(),
            optimizer: config.optimizer.as_str().into(),
            lr: config.lr,
            damping: config.damping,
            batch_size: config.batch_size,
            seed: config.seed,
            steps: config.steps,
            diverged_at: first_step(metrics, |m| m.diverged),
            blown_up_at: blown_up_at(metrics, config.architecture.classes),
            rho_passed_at: first_step(metrics, Metric::beyond_rho_limit),
            uphill_from: first_step(metrics, Metric::goes_uphill),
            seconds: metrics.last().map_or(0.0, |m| m.seconds),
            curve: Curve::new(config.steps, metrics),
            validation: metrics
                .iter()
                .filter_map(|m| {
                    let (loss, accuracy) = (m.val_loss?, m.val_accuracy?);
                    Some(Validation { step: m.step, epoch: m.epoch, loss, accuracy })
                })
                .collect(),
            versions: directory.read_manifest()?.map(|manifest| manifest.versions),
            paper,
        })
    }

    /// The step at which the run went wrong: its loss was not finite any more, or stayed above 10 ln C.
    pub fn failed_at(&self) -> Option<u64> {
        self.blown_up_at.into_iter().chain(self.diverged_at).min()
    }

    /// The test split at the end; nothing of a run that went wrong.
    pub fn last(&self) -> Option<&Validation> {
        if self.failed_at().is_some() { None } else { self.validation.last() }
    }
}

fn blown_up_at(metrics: &[Metric], classes: usize) -> Option<u64> {
    let limit = 10.0 * (classes as f64).ln();
    let losses: Vec<(u64, f64)> = losses(metrics).collect();
    let good = losses.iter().rposition(|(_, loss)| *loss <= limit).map_or(0, |last| last + 1);
    losses.get(good).map(|(step, _)| *step)
}

/// The logged losses of minibatches, with their steps.
fn losses(metrics: &[Metric]) -> impl Iterator<Item = (u64, f64)> {
    metrics.iter().filter_map(|m| Some((m.step, m.loss?)))
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
    /// Of two runs with their logs.
    fn new((sgd, sgd_log): &(RunSummary, Vec<Metric>), (other, log): &(RunSummary, Vec<Metric>)) -> Self {
        let mut found = Self {
            sgd: sgd.group.clone(),
            other: other.group.clone(),
            seed: sgd.seed,
            overtaken_at: Some(0),
            lead: 0.0,
            loss_difference: None,
            time_ratio: seconds_a_step(other, log) / seconds_a_step(sgd, sgd_log),
        };
        let (mut sum, mut largest, mut seen) = (0.0, 0.0, 0.0);
        let mut leads = false;
        for ((step, sgd), (_, other)) in losses(sgd_log).zip(losses(log)) {
            if leads {
                found.overtaken_at = Some(step);
                leads = false;
            }
            sum += sgd - other;
            seen += 1.0;
            if sum > largest {
                (largest, leads) = (sum, true);
                (found.overtaken_at, found.lead) = (None, sum / seen);
            }
        }
        // It was ahead to the last line of its log.
        found.overtaken_at = found.overtaken_at.or(other.failed_at());
        if sgd.failed_at().is_none() && other.failed_at().is_none() {
            found.loss_difference = Some(-sum / seen);
        }
        found
    }
}

/// Seconds of training for each step that was taken.
fn seconds_a_step(run: &RunSummary, log: &[Metric]) -> f64 {
    run.seconds / log.last().map_or(1, |m| m.step.max(1)) as f64
}

impl Summary {
    /// Of one pair's comparisons and runs, seed by seed; `None` without any.
    fn new(found: &[Comparison], ends: &[(&RunSummary, &RunSummary)]) -> Option<Self> {
        let first = found.first()?;
        let over = |of: &dyn Fn(&Comparison) -> Option<f64>| {
            Spread::of(&found.iter().filter_map(of).collect::<Vec<f64>>())
        };
        let at_the_end = |of: fn(&Validation) -> f64| {
            let difference =
                |(sgd, other): &(&RunSummary, &RunSummary)| Some(of(other.last()?) - of(sgd.last()?));
            Spread::of(&ends.iter().filter_map(difference).collect::<Vec<f64>>())
        };
        Some(Self {
            sgd: first.sgd.clone(),
            other: first.other.clone(),
            seeds: found.len(),
            failed: ends.iter().filter(|(_, other)| other.failed_at().is_some()).count(),
            never_overtaken: found.iter().filter(|c| c.overtaken_at.is_none()).count(),
            overtaken_at: over(&|c| c.overtaken_at.map(|step| step as f64)),
            loss_difference: over(&|c| c.loss_difference),
            val_loss_difference: at_the_end(|v| v.loss),
            val_accuracy_difference: at_the_end(|v| v.accuracy),
            time_ratio: over(&|c| Some(c.time_ratio)),
        })
    }

    /// One line.
    pub fn words(&self) -> String {
        let Self { sgd, other, seeds, failed, never_overtaken, .. } = self;
        let mut parts = Vec::new();
        if *failed > 0 {
            parts.push(format!("fails with {failed}"));
        }
        if *never_overtaken > 0 {
            parts.push(format!("ahead to the end with {never_overtaken}"));
        }
        if let Some(step) = &self.overtaken_at {
            parts.push(match step.mean {
                0.0 => "behind from the start".into(),
                _ => format!("overtaken at step {}", step.words(0, false)),
            });
        }
        let differences = [
            ("loss along the way", &self.loss_difference, 1.0, 4, ""),
            ("test loss", &self.val_loss_difference, 1.0, 4, ""),
            ("test accuracy", &self.val_accuracy_difference, 100.0, 2, " points"),
        ];
        for (name, difference, factor, decimals, unit) in differences {
            if let Some(Spread { mean, std, n }) = *difference {
                let scaled = Spread { mean: factor * mean, std: std.map(|s| factor * s), n };
                parts.push(format!("{name} {}{unit}", scaled.words(decimals, true)));
            }
        }
        if let Some(ratio) = &self.time_ratio {
            parts.push(format!("a step takes {} times as long", ratio.words(1, false)));
        }
        let seeds = if *seeds == 1 { "1 seed".into() } else { format!("{seeds} seeds") };
        format!("{other} against {sgd} ({seeds}): {}", parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(losses: &[f64]) -> (RunSummary, Vec<Metric>) {
        let line = |(i, &loss): (usize, &f64)| Metric {
            step: i as u64,
            loss: Some(loss),
            seconds: (i + 1) as f64,
            ..Metric::default()
        };
        let metrics: Vec<Metric> = losses.iter().enumerate().map(line).collect();
        let steps = losses.len() as u64;
        let run = RunSummary {
            name: "r".into(),
            group: "r".into(),
            optimizer: "sgd".into(),
            lr: 1.0,
            damping: 0.0,
            batch_size: None,
            seed: 0,
            steps,
            diverged_at: None,
            blown_up_at: blown_up_at(&metrics, 10),
            rho_passed_at: None,
            uphill_from: None,
            seconds: losses.len() as f64,
            curve: Curve::new(steps, &metrics),
            validation: vec![Validation { step: steps, epoch: 1, loss: losses[0], accuracy: 0.5 }],
            versions: None,
            paper: None,
        };
        (run, metrics)
    }

    #[test]
    fn who_is_ahead() {
        let sgd = summary(&[5.0, 4.0, 3.0, 2.0]);
        let compare = |other: &[f64]| {
            let c = Comparison::new(&sgd, &summary(other));
            (c.overtaken_at, c.lead, c.loss_difference)
        };
        assert_eq!(compare(&[4.0, 3.0, 3.5, 2.5]), (Some(2), 1.0, Some(-0.25)));
        assert_eq!(compare(&[4.0, 4.5, 3.5, 0.0]), (None, 0.5, Some(-0.5)), "a late gain counts");
        assert_eq!(compare(&[6.0, 6.0, 6.0, 6.0]), (Some(0), 0.0, Some(2.5)));
        assert_eq!(compare(&[4.0, 3.0, 90.0, 91.0]), (Some(2), 1.0, None), "it has blown up");
        let mut diverged = summary(&[4.0, 3.0]);
        diverged.0.diverged_at = Some(2);
        let found = Comparison::new(&sgd, &diverged);
        assert_eq!((found.overtaken_at, found.loss_difference), (Some(2), None));
    }

    #[test]
    fn a_burst_that_is_recovered_from_is_no_failure() {
        let failed = |losses: &[f64]| summary(losses).0.failed_at();
        assert_eq!(failed(&[2.0, 50.0, 1e6, 2.3]), None);
        assert_eq!(failed(&[2.0, 50.0, 1.0, 24.0, 1e9]), Some(3));
    }

    #[test]
    fn seeds_are_paired() {
        let pairs = [([5.0, 4.0], [4.0, 3.5]), ([6.0, 4.0], [6.5, 5.0])];
        let runs = pairs.map(|(a, b)| (summary(&a), summary(&b)));
        let found: Vec<Comparison> = runs.iter().map(|(a, b)| Comparison::new(a, b)).collect();
        let ends: Vec<_> = runs.iter().map(|(a, b)| (&a.0, &b.0)).collect();
        let summary = Summary::new(&found, &ends).unwrap();
        assert_eq!((summary.seeds, summary.failed, summary.never_overtaken), (2, 0, 1));
        assert_eq!(summary.overtaken_at, Spread::of(&[0.0]));
        assert_eq!(summary.loss_difference, Spread::of(&[-0.75, 0.75]));
        assert_eq!(summary.val_loss_difference, Spread::of(&[-1.0, 0.5]));
        assert!(summary.words().contains("ahead to the end with 1"), "{}", summary.words());
    }

    #[test]
    fn a_curve_is_the_mean_over_windows() {
        let losses: Vec<f64> = (0..125).map(f64::from).collect();
        let curve = summary(&losses).0.curve;
        assert_eq!((curve.steps[0], curve.loss[0]), (3, 1.0));
        assert_eq!((curve.steps.last(), curve.loss.last()), (Some(&125), Some(&123.5)));
    }
}
