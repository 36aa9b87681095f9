use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use qn_data::{DataError, DataName, Form, Normalise, Source, Split, TargetForm};
use qn_model::{Architecture, Graph, Layer};
use qn_run::{
    Augment, Basis, ClassStatistics, LambdaSource, LossKind, MomentumOn, Newton, NewtonScale, OptimizerKind,
    Projection, Schedule, Subspace, TrainConfig,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::defaults;

/// The options of a training run, from a command line or a recipe. What a recipe leaves out has the
/// command line's default; those are the paper's (its Appendix D).
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// digits, lenet, resnet9, resnet9-wN, or a .toml/.json file
    #[arg(long, default_value = "lenet")]
    pub arch: String,
    /// digits, mnist, fashion-mnist, cifar10, cifar100, or a file of your own: FILE.npz or FILE.safetensors with x, y and
    /// perhaps x_test, y_test.
    #[arg(long, default_value = "cifar10")]
    pub data: String,
    /// none, auto (mean and deviation of the training split), or MEAN,STD, each one number or one a channel as
    /// 0.49:0.48:0.45 [default: the data set's own; a file's numbers as they are].
    #[arg(long, value_name = "MEAN,STD|none|auto")]
    pub normalise: Option<String>,
    /// Train on the first N samples only.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// What is minimised, the mean of PyTorch's loss of that name [default: cross-entropy of labels and soft labels, mse of
    /// other vectors].
    #[arg(long, value_parser = words::<LossKind>(["cross-entropy", "mse", "bce"]))]
    pub loss: Option<LossKind>,
    /// Stochastic gradient descent, or Newton steps along the class gradients.
    #[arg(long, value_parser = words::<OptimizerKind>(["sgd", "qn"]), default_value = "sgd")]
    pub optimizer: OptimizerKind,
    /// Learning rate eta.
    #[arg(long, default_value_t = 0.1)]
    pub lr: f64,
    /// How the learning rate changes: not, by half a cosine to zero (PyTorch's CosineAnnealingLR), or up and down again
    /// (PyTorch's OneCycleLR with momentum left alone, --lr being the largest), step by step.
    #[arg(long, value_parser = words::<Schedule>(["constant", "cosine", "one-cycle"]), default_value = "constant")]
    pub schedule: Schedule,
    /// Times the parameters, added to the gradient (PyTorch's SGD).
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Momentum coefficient.
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f64,
    /// The momentum buffer takes in 1 - D of what is new, all of it in the first step (PyTorch's SGD).
    #[arg(long, value_name = "D", default_value_t = 0.0)]
    pub dampening: f64,
    /// Nesterov's momentum (PyTorch's SGD).
    #[arg(long)]
    pub nesterov: bool,
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
    /// Curvature of the Newton steps. own: the paper's lambda_k, eq. (12), over samples of class k; class: its mean over
    /// those instead of all; all: p_k(1 - p_k) over all samples; model: along v_k, of the matrix that the class gradients
    /// and all samples' probabilities give; exact, hessian: of the minibatch's Gauss-Newton matrix or Hessian (C products
    /// a step).
    #[arg(long, value_parser = words::<LambdaSource>(["own", "class", "all", "model", "exact", "hessian"]), default_value = "own")]
    pub lambda: LambdaSource,
    /// Newton steps along each class gradient for itself, or in their span together, with --lambda model, exact or hessian.
    #[arg(long, value_parser = words::<Newton>(["diagonal", "span"]), default_value = "diagonal")]
    pub newton: Newton,
    /// What the Newton steps are multiplied by: 1, as eq. (15) is printed, or the learning rate, as all of the step.
    #[arg(long, value_parser = words::<NewtonScale>(["unit", "lr"]), default_value = "unit")]
    pub newton_scale: NewtonScale,
    /// The largest 1/(lambda + d) that is used.
    #[arg(long, value_name = "X")]
    pub max_newton_step: Option<f64>,
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
    /// Multiplies the logits: a scale layer behind the architecture's last.
    #[arg(long, value_name = "S")]
    pub logit_scale: Option<f64>,
    /// Vary the training pictures: a random crop with four black pixels added on each side, mirrored half of the time.
    #[arg(long, value_parser = words::<Augment>(["none", "crop-flip"]), default_value = "none")]
    pub augment: Augment,
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
        let source = name.open(data_dir)?;
        let form = source.form();
        let mut architecture = architecture_for(&self.arch, &form)?;
        if let Some(factor) = self.logit_scale {
            architecture.layers.push(Layer::Scale { factor });
        }
        let batch_size = match self.batch_size.as_str() {
            "full" => None,
            n => match n.parse::<usize>() {
                Ok(n) if n > 0 => Some(n),
                _ => bail!(Usage(format!("--batch-size {n}: give a number of samples or \"full\""))),
            },
        };
        self.check_numbers()?;
        self.check_combinations(&architecture)?;
        let loss = check_loss(self.loss, &form)?;
        self.check_classes(loss, &form)?;
        let normalise = self.normalise.as_deref().map(str::parse::<Normalise>).transpose()?;
        let normalise = normalise.map(|how| how.resolve(source.as_ref())).transpose()?;
        let mut config = TrainConfig {
            data: name.absolute()?,
            samples: self.samples,
            loss,
            optimizer: self.optimizer,
            lr: self.lr,
            schedule: self.schedule,
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            dampening: self.dampening,
            nesterov: self.nesterov,
            momentum_on: self.momentum_on,
            gamma: self.gamma,
            damping: self.damping,
            basis: self.basis,
            lambda: self.lambda,
            newton: self.newton,
            newton_scale: self.newton_scale,
            max_newton_step: self.max_newton_step,
            project: self.project,
            subspace: self.subspace,
            subspace_every: at_least_one("--subspace-every", self.subspace_every)?,
            subspace_samples: self.subspace_samples,
            class_statistics: self.class_statistics,
            augment: self.augment,
            batch_size,
            steps: 0,
            seed: self.seed,
            device: self.device.clone(),
            snapshot_every: 0,
            checkpoint_every: 0,
            keep_checkpoints: self.keep_checkpoints,
            log_every: at_least_one("--log-every", self.log_every)?,
            tensorboard: self.tensorboard,
            normalise,
            architecture,
        };
        at_least_one("--subspace-samples", config.subspace_samples as u64)?;
        let epoch = steps_in_epoch(&config, source.as_ref())?;
        let steps = self.steps.unwrap_or_else(|| self.epochs.unwrap_or(50).saturating_mul(epoch));
        config.steps = at_least_one("--epochs or --steps", steps)?;
        config.snapshot_every = self.snapshot_every.unwrap_or(epoch);
        config.checkpoint_every = at_least_one("--checkpoint-every", self.checkpoint_every.unwrap_or(epoch))?;
        Ok(config)
    }
}

impl Settings {
    /// Each number for itself.
    fn check_numbers(&self) -> Result<(), Usage> {
        let check = |good: bool, flag: &str, value: f64, want: &str| {
            if good { Ok(()) } else { Err(Usage(format!("{flag} {value}: give {want}"))) }
        };
        let positive = |flag: &str, value: f64| {
            check(value.is_finite() && value > 0.0, flag, value, "a positive number")
        };
        let share = |flag: &str, value: f64| {
            check((0.0..1.0).contains(&value), flag, value, "a number from 0 to below 1")
        };
        let not_negative = |flag: &str, value: f64| {
            check(value.is_finite() && value >= 0.0, flag, value, "a number of at least 0")
        };
        positive("--lr", self.lr)?;
        self.max_newton_step.map_or(Ok(()), |x| positive("--max-newton-step", x))?;
        self.logit_scale.map_or(Ok(()), |s| positive("--logit-scale", s))?;
        share("--momentum", self.momentum)?;
        share("--dampening", self.dampening)?;
        share("--gamma", self.gamma)?;
        not_negative("--damping", self.damping)?;
        not_negative("--weight-decay", self.weight_decay)
    }

    /// That what takes class gradients, or pictures, is asked of data that have them.
    fn check_classes(&self, loss: LossKind, form: &Form) -> Result<(), Usage> {
        let labels = matches!(form.targets, TargetForm::Labels { .. }) && loss == LossKind::CrossEntropy;
        if !labels && (self.optimizer == OptimizerKind::Qn || self.project != Projection::None) {
            return Err(Usage(
                "--optimizer qn and --project go by class gradients, which take one label a sample and the loss \
                 cross-entropy: use --optimizer sgd"
                    .into(),
            ));
        }
        Ok(())
    }

    /// What does not go together.
    fn check_combinations(&self, architecture: &Architecture) -> Result<()> {
        let products = self.lambda.takes_products() || self.project != Projection::None;
        if products && Graph::new(architecture)?.has_batch_statistics() {
            bail!(Usage(format!(
                "--lambda exact or hessian and --project need a network without batch normalisation, and {} has it",
                architecture.name
            )));
        }
        let by_class = matches!(self.lambda, LambdaSource::Own | LambdaSource::Class | LambdaSource::All);
        if self.newton == Newton::Span && by_class {
            bail!(Usage(
                "--newton span goes by a matrix: give --lambda model, exact or hessian with it".into()
            ));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            bail!(Usage("--nesterov needs a --momentum above 0 and no --dampening".into()));
        }
        if self.optimizer == OptimizerKind::Qn && self.project != Projection::None {
            bail!(Usage("--project is for --optimizer sgd".into()));
        }
        Ok(())
    }
}

/// The architecture of a name or file for such samples and targets.
///
/// # Errors
/// It is none, or does not fit.
pub fn architecture_for(name: &str, form: &Form) -> Result<Architecture> {
    let architecture = Architecture::named(name, &form.shape, form.outputs())?;
    if !form.fits(architecture.classes) {
        let (given, wanted) = (architecture.classes, form.outputs());
        bail!(Usage(format!(
            "{name} has {given} outputs (classes), and targets are vectors of {wanted} numbers: make it classes = {wanted}"
        )));
    }
    Ok(architecture)
}

/// The loss that was asked for, or the usual one for such targets.
///
/// # Errors
/// Targets are vectors that are no probabilities, which cross-entropy asks for.
pub fn check_loss(asked: Option<LossKind>, form: &Form) -> Result<LossKind, Usage> {
    match (asked, form.targets) {
        (None, TargetForm::Values { .. }) => Ok(LossKind::Mse),
        (Some(LossKind::CrossEntropy), TargetForm::Values { width }) => {
            let labels = if width == 1 { ", or save labels as integers, y.astype('int64')" } else { "" };
            Err(Usage(format!(
                "--loss cross-entropy takes labels or probabilities, and the targets are vectors of {width} numbers that are \
                 neither: use --loss mse or bce{labels}"
            )))
        }
        (asked, _) => Ok(asked.unwrap_or_default()),
    }
}

/// Steps of one pass over the training data, of whose samples only the number is asked for.
pub(crate) fn steps_in_epoch(config: &TrainConfig, source: &dyn Source) -> Result<u64> {
    let Some(batch_size) = config.batch_size else { return Ok(1) };
    let samples = match config.samples {
        Some(0) | None => source.samples(Split::Train)?,
        Some(n) => n,
    };
    if config.samples == Some(0) {
        let (split, dataset) = (Split::Train.as_str(), source.name());
        return Err(DataError::Samples { asked: 0, have: samples, split, dataset }.into());
    }
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
