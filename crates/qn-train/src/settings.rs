use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use qn_data::{DataName, Dataset, Split};
use qn_model::{Architecture, Graph};
use qn_run::{
    Basis, ClassStatistics, CurvatureSource, MomentumOn, OptimizerKind, Projection, Subspace, TrainConfig,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::defaults;

/// The options of a training run, from a command line or a recipe. What a recipe leaves out has the
/// command line's default; those are the paper's (its Appendix D).
#[derive(Args, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// digits, lenet, resnet9, resnet9-wN, or a .toml/.json file
    #[arg(long, default_value = "lenet")]
    pub arch: String,
    /// digits, mnist or cifar10
    #[arg(long, default_value = "cifar10")]
    pub data: String,
    /// Train on the first N samples only.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Stochastic gradient descent, or Newton steps along the class gradients.
    #[arg(long, value_parser = words::<OptimizerKind>(["sgd", "qn"]), default_value = "sgd")]
    pub optimizer: OptimizerKind,
    /// Learning rate eta.
    #[arg(long, default_value_t = 0.1)]
    pub lr: f64,
    /// Momentum coefficient.
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f64,
    /// What momentum acts on: the whole preconditioned update, or the gradient before it.
    #[arg(long, value_parser = words::<MomentumOn>(["update", "gradient"]), default_value = "update")]
    pub momentum_on: MomentumOn,
    /// Decay of the running averages of class gradients and curvatures.
    #[arg(long, default_value_t = 0.9)]
    pub gamma: f64,
    /// d in the Newton step 1/(lambda + d).
    #[arg(long, default_value_t = 0.0)]
    pub damping: f64,
    /// Directions of the Newton steps: the normalised class gradients, or an orthonormal basis of them.
    #[arg(long, value_parser = words::<Basis>(["paper", "orthonormal"]), default_value = "paper")]
    pub basis: Basis,
    /// Curvature of the Newton steps: the paper's lambda_k, or the minibatch's Gauss-Newton matrix or Hessian in the
    /// span of the class gradients, which takes C products a step.
    #[arg(long, value_parser = words::<CurvatureSource>(["lambda", "ggn", "hessian"]), default_value = "lambda")]
    pub curvature: CurvatureSource,
    /// SGD with only the part of the gradient in a subspace of high curvature, or without that part.
    #[arg(long, value_parser = words::<Projection>(["none", "dominant", "bulk"]), default_value = "none")]
    pub project: Projection,
    /// The subspace of --project: the class gradients' span, or the Hessian's C top eigenvectors.
    #[arg(long, value_parser = words::<Subspace>(["class", "hessian"]), default_value = "class")]
    pub subspace: Subspace,
    /// Steps after which --subspace hessian is found anew.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub subspace_every: u64,
    /// The first N samples are those of --subspace hessian.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub subspace_samples: usize,
    /// With batch normalisation: class gradients through the batch's statistics (C + 1 backward passes), or with
    /// these held constant (2).
    #[arg(long, value_parser = words::<ClassStatistics>(["exact", "frozen"]), default_value = "exact")]
    pub class_statistics: ClassStatistics,
    /// Samples a step, or "full".
    #[arg(long, default_value = "128", value_name = "N|full")]
    pub batch_size: String,
    /// Passes over the training data [default: 50].
    #[arg(long, conflicts_with = "steps")]
    pub epochs: Option<u64>,
    /// Steps, instead of epochs.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Seed of the initial parameters and of the order of the data.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Steps between class-gradient snapshots; 0 for the last one only [default: an epoch].
    #[arg(long, value_name = "N")]
    pub snapshot_every: Option<u64>,
    /// Steps between checkpoints [default: an epoch].
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints stay; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub keep_checkpoints: u64,
    /// Steps between lines of metrics.jsonl.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub log_every: u64,
    /// Keep the log as TensorBoard's events too: `tensorboard --logdir` of the run shows them.
    #[arg(long)]
    pub tensorboard: bool,
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        defaults()
    }
}

/// A usage error: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Settings {
    /// The full configuration, checked.
    ///
    /// # Errors
    /// A value makes no sense, or the data set is missing.
    pub fn configure(&self, data_dir: &Path) -> Result<TrainConfig> {
        let name: DataName = self.data.parse()?;
        let architecture = Architecture::named(&self.arch, name.shape(), name.classes())?;
        let batch_size = match self.batch_size.as_str() {
            "full" => None,
            n => match n.parse::<usize>() {
                Ok(n) if n > 0 => Some(n),
                _ => bail!(Usage(format!("--batch-size {n}: give a number of samples or \"full\""))),
            },
        };
        let check = |good: bool, flag: &str, value: f64, want: &str| {
            if good { Ok(()) } else { Err(Usage(format!("{flag} {value}: give {want}"))) }
        };
        check(self.lr.is_finite() && self.lr > 0.0, "--lr", self.lr, "a positive number")?;
        let share = "a number from 0 to below 1";
        check((0.0..1.0).contains(&self.momentum), "--momentum", self.momentum, share)?;
        check((0.0..1.0).contains(&self.gamma), "--gamma", self.gamma, share)?;
        let good = self.damping.is_finite() && self.damping >= 0.0;
        check(good, "--damping", self.damping, "a number of at least 0")?;
        let exact = self.curvature != CurvatureSource::Lambda || self.project != Projection::None;
        if exact && Graph::new(&architecture)?.has_batch_statistics() {
            bail!(Usage(format!(
                "--curvature and --project need a network without batch normalisation, and {} has it",
                architecture.name
            )));
        }
        if self.optimizer == OptimizerKind::Qn && self.project != Projection::None {
            bail!(Usage("--project is for --optimizer sgd".into()));
        }
        let mut config = TrainConfig {
            data: self.data.clone(),
            samples: self.samples,
            optimizer: self.optimizer,
            lr: self.lr,
            momentum: self.momentum,
            momentum_on: self.momentum_on,
            gamma: self.gamma,
            damping: self.damping,
            basis: self.basis,
            curvature: self.curvature,
            project: self.project,
            subspace: self.subspace,
            subspace_every: at_least_one("--subspace-every", self.subspace_every)?,
            subspace_samples: self.subspace_samples,
            class_statistics: self.class_statistics,
            batch_size,
            steps: 0,
            seed: self.seed,
            device: self.device.clone(),
            snapshot_every: 0,
            checkpoint_every: 0,
            keep_checkpoints: self.keep_checkpoints,
            log_every: at_least_one("--log-every", self.log_every)?,
            tensorboard: self.tensorboard,
            architecture,
        };
        at_least_one("--subspace-samples", config.subspace_samples as u64)?;
        let epoch = steps_in_epoch(&config, data_dir)?;
        let steps = self.steps.unwrap_or_else(|| self.epochs.unwrap_or(50).saturating_mul(epoch));
        config.steps = at_least_one("--epochs or --steps", steps)?;
        config.snapshot_every = self.snapshot_every.unwrap_or(epoch);
        config.checkpoint_every = at_least_one("--checkpoint-every", self.checkpoint_every.unwrap_or(epoch))?;
        Ok(config)
    }
}

/// Steps of one pass over the training data.
pub(crate) fn steps_in_epoch(config: &TrainConfig, data_dir: &Path) -> Result<u64> {
    let Some(batch_size) = config.batch_size else { return Ok(1) };
    let samples = Dataset::load(config.data.parse()?, Split::Train, data_dir, config.samples)?.len();
    Ok(samples.div_ceil(batch_size) as u64)
}

fn at_least_one(flag: &str, n: u64) -> Result<u64, Usage> {
    if n > 0 { Ok(n) } else { Err(Usage(format!("{flag} 0: give at least 1"))) }
}

/// One of some words, read as serde reads them.
fn words<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names).try_map(|word| {
        T::deserialize(serde::de::value::StringDeserializer::<serde::de::value::Error>::new(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_appendix_d() {
        let s = Settings::default();
        assert_eq!((s.lr, s.momentum, s.gamma, s.damping), (0.1, 0.9, 0.9, 0.0));
        assert_eq!(
            (s.optimizer, s.basis, s.momentum_on),
            (OptimizerKind::Sgd, Basis::Paper, MomentumOn::Update)
        );
    }

    #[test]
    fn nonsense_names_its_flag() {
        let base = Settings { arch: "digits".into(), data: "digits".into(), ..Settings::default() };
        let message = |s: Settings| s.configure(Path::new("")).unwrap_err().to_string();
        assert!(message(Settings { lr: 0.0, ..base.clone() }).starts_with("--lr 0"));
        assert!(message(Settings { lr: f64::NAN, ..base.clone() }).starts_with("--lr NaN"));
        assert!(message(Settings { momentum: 1.0, ..base.clone() }).starts_with("--momentum 1"));
        assert!(message(Settings { damping: -1.0, ..base.clone() }).starts_with("--damping -1"));
        assert!(message(Settings { batch_size: "0".into(), ..base.clone() }).contains("\"full\""));
        assert!(message(Settings { epochs: Some(0), ..base.clone() }).contains("--epochs"));
        assert!(message(Settings { samples: Some(0), ..base.clone() }).contains("--samples 0"));
        let config = Settings { epochs: Some(3), ..base }.configure(Path::new("")).unwrap();
        assert_eq!((config.steps, config.snapshot_every), (36, 12));
    }
}
