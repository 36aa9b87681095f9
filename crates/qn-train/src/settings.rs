use std::path::Path;

use anyhow::{Result, bail};
use qn_data::{
    DataError, DataName, Form, Normalise, Source, Split, TargetForm, architecture_for, check_loss,
};
use qn_model::{Architecture, Graph, Layer};
use qn_run::{
    Augment, Basis, ClassStatistics, Invalid, LambdaSource, LossKind, MomentumOn, Newton, NewtonScale,
    OptimizerKind, Projection, Schedule, Subspace, TrainConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The options of a training run. What a recipe or a command line leaves out is the paper's (its Appendix D).
///
/// They are declared here alone: a command line makes its arguments from the JSON Schema, and recipes are read by it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// digits, lenet, resnet9, resnet9-wN, or a .toml/.json file
    pub arch: String,
    /// digits, mnist, fashion-mnist, cifar10, cifar100, or a file of your own: FILE.npz or FILE.safetensors with x, y and
    /// perhaps x_test, y_test.
    pub data: String,
    /// none, auto (mean and deviation of the training split), or MEAN,STD, each one number or one a channel as
    /// 0.49:0.48:0.45 [default: the data set's own; a file's numbers as they are].
    pub normalise: Option<String>,
    /// Train on the first N samples only.
    pub samples: Option<usize>,
    /// What is minimised, the mean of PyTorch's loss of that name [default: cross-entropy of labels and soft labels, mse of
    /// other vectors].
    pub loss: Option<LossKind>,
    /// Stochastic gradient descent, Newton steps along the class gradients, Adam, or sharpness-aware minimisation (SGD along
    /// the gradient at theta + rho g/|g|; two gradients a step).
    pub optimizer: OptimizerKind,
    /// Learning rate eta.
    pub lr: f64,
    /// How the learning rate changes: not, by half a cosine to zero (PyTorch's CosineAnnealingLR), or up and down again
    /// (PyTorch's OneCycleLR with momentum left alone, --lr being the largest), step by step.
    pub schedule: Schedule,
    /// Times the parameters, added to the gradient (PyTorch's SGD and Adam), or by itself (AdamW).
    pub weight_decay: f64,
    /// Momentum coefficient; Adam's beta1.
    pub momentum: f64,
    /// Adam's decay of the mean squares of the gradient.
    pub beta2: f64,
    /// Adam's epsilon, added to the root of the mean square.
    pub epsilon: f64,
    /// rho of sharpness-aware minimisation.
    pub sam_rho: f64,
    /// The momentum buffer takes in 1 - D of what is new, all of it in the first step (PyTorch's SGD).
    pub dampening: f64,
    /// Nesterov's momentum (PyTorch's SGD).
    pub nesterov: bool,
    /// What momentum acts on: the whole preconditioned update, or the gradient before it.
    pub momentum_on: MomentumOn,
    /// Decay of the running averages of class gradients and curvatures.
    pub gamma: f64,
    /// d in the Newton step 1/(lambda + d).
    pub damping: f64,
    /// Directions of the Newton steps: the normalised class gradients, or an orthonormal basis of them.
    pub basis: Basis,
    /// Curvature of the Newton steps. own: the paper's lambda_k, eq. (12), over samples of class k; class: its mean over
    /// those instead of all; all: p_k(1 - p_k) over all samples; model: along v_k, of the matrix that the class gradients
    /// and all samples' probabilities give; exact, hessian: of the minibatch's Gauss-Newton matrix or Hessian (C products
    /// a step).
    pub lambda: LambdaSource,
    /// Newton steps along each class gradient for itself, or in their span together, with --lambda model, exact or hessian.
    pub newton: Newton,
    /// What the Newton steps are multiplied by: 1, as eq. (15) is printed, or the learning rate, as all of the step.
    pub newton_scale: NewtonScale,
    /// The largest 1/(lambda + d) that is used.
    pub max_newton_step: Option<f64>,
    /// SGD with only the part of the gradient in a subspace of high curvature, or without that part.
    pub project: Projection,
    /// The subspace of --project: the class gradients' span, or the Hessian's C top eigenvectors.
    pub subspace: Subspace,
    /// Steps after which --subspace hessian is found anew.
    pub subspace_every: u64,
    /// The first N samples are those of --subspace hessian.
    pub subspace_samples: usize,
    /// With batch normalisation: class gradients through the batch's statistics (C + 1 backward passes), or with
    /// these held constant (2).
    pub class_statistics: ClassStatistics,
    /// Multiplies the logits: a scale layer behind the architecture's last.
    pub logit_scale: Option<f64>,
    /// Vary the training pictures: a random crop with four black pixels added on each side, mirrored half of the time.
    pub augment: Augment,
    /// Samples a step, or "full".
    pub batch_size: String,
    /// Passes over the training data [default: 50].
    pub epochs: Option<u64>,
    /// Steps, instead of epochs.
    pub steps: Option<u64>,
    /// Seed of the initial parameters and of the order of the data.
    pub seed: u64,
    /// cpu or cuda:N
    pub device: String,
    /// Steps between class-gradient snapshots; 0 for the last one only [default: an epoch].
    pub snapshot_every: Option<u64>,
    /// Steps between checkpoints [default: an epoch].
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints stay; 0 for all.
    pub keep_checkpoints: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// Keep the log as TensorBoard's events too: `tensorboard --logdir` of the run shows them.
    pub tensorboard: bool,
}

impl Default for Settings {
    /// The paper's (Appendix D), for LeNet on CIFAR-10.
    fn default() -> Self {
        Self {
            arch: "lenet".into(),
            data: "cifar10".into(),
            normalise: None,
            samples: None,
            loss: None,
            optimizer: OptimizerKind::Sgd,
            lr: 0.1,
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            momentum: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            sam_rho: 0.05,
            dampening: 0.0,
            nesterov: false,
            momentum_on: MomentumOn::Update,
            gamma: 0.9,
            damping: 0.0,
            basis: Basis::Paper,
            lambda: LambdaSource::Own,
            newton: Newton::Diagonal,
            newton_scale: NewtonScale::Unit,
            max_newton_step: None,
            project: Projection::None,
            subspace: Subspace::Class,
            subspace_every: 50,
            subspace_samples: 1000,
            class_statistics: ClassStatistics::Exact,
            logit_scale: None,
            augment: Augment::None,
            batch_size: "128".into(),
            epochs: None,
            steps: None,
            seed: 0,
            device: "cpu".into(),
            snapshot_every: None,
            checkpoint_every: None,
            keep_checkpoints: 2,
            log_every: 10,
            tensorboard: false,
        }
    }
}

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
                _ => bail!(Invalid(format!("`batch_size` {n}: give a number of samples or \"full\""))),
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
            beta2: self.beta2,
            epsilon: self.epsilon,
            sam_rho: self.sam_rho,
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
            subspace_every: at_least_one("`subspace_every`", self.subspace_every)?,
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
            log_every: at_least_one("`log_every`", self.log_every)?,
            tensorboard: self.tensorboard,
            normalise,
            architecture,
        };
        at_least_one("`subspace_samples`", config.subspace_samples as u64)?;
        let epoch = steps_in_epoch(&config, source.as_ref())?;
        let steps = self.steps.unwrap_or_else(|| self.epochs.unwrap_or(50).saturating_mul(epoch));
        config.steps = at_least_one("`epochs` or `steps`", steps)?;
        config.snapshot_every = self.snapshot_every.unwrap_or(epoch);
        config.checkpoint_every = at_least_one("`checkpoint_every`", self.checkpoint_every.unwrap_or(epoch))?;
        Ok(config)
    }
}

impl Settings {
    /// Each number for itself.
    fn check_numbers(&self) -> Result<(), Invalid> {
        let check = |good: bool, flag: &str, value: f64, want: &str| {
            if good { Ok(()) } else { Err(Invalid(format!("{flag} {value}: give {want}"))) }
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
        positive("`lr`", self.lr)?;
        self.max_newton_step.map_or(Ok(()), |x| positive("`max_newton_step`", x))?;
        self.logit_scale.map_or(Ok(()), |s| positive("`logit_scale`", s))?;
        share("`momentum`", self.momentum)?;
        share("`beta2`", self.beta2)?;
        not_negative("`epsilon`", self.epsilon)?;
        not_negative("`sam_rho`", self.sam_rho)?;
        share("`dampening`", self.dampening)?;
        share("`gamma`", self.gamma)?;
        not_negative("`damping`", self.damping)?;
        not_negative("`weight_decay`", self.weight_decay)
    }

    /// That what takes class gradients, or pictures, is asked of data that have them.
    fn check_classes(&self, loss: LossKind, form: &Form) -> Result<(), Invalid> {
        let labels = matches!(form.targets, TargetForm::Labels { .. }) && loss == LossKind::CrossEntropy;
        if !labels && (self.optimizer == OptimizerKind::Qn || self.project != Projection::None) {
            return Err(Invalid(
                "`optimizer` qn and `project` go by class gradients, which take one label a sample and the loss \
                 cross-entropy: use `optimizer` sgd"
                    .into(),
            ));
        }
        Ok(())
    }

    /// What does not go together.
    fn check_combinations(&self, architecture: &Architecture) -> Result<()> {
        let products = self.lambda.takes_products() || self.project != Projection::None;
        if products && Graph::new(architecture)?.has_batch_statistics() {
            bail!(Invalid(format!(
                "`lambda` exact or hessian and `project` need a network without batch normalisation, and {} has it",
                architecture.name
            )));
        }
        let by_class = matches!(self.lambda, LambdaSource::Own | LambdaSource::Class | LambdaSource::All);
        if self.newton == Newton::Span && by_class {
            bail!(Invalid(
                "`newton` span goes by a matrix: give `lambda` model, exact or hessian with it".into()
            ));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            bail!(Invalid("`nesterov` needs a `momentum` above 0 and no `dampening`".into()));
        }
        if self.optimizer != OptimizerKind::Sgd && self.project != Projection::None {
            bail!(Invalid("`project` is for `optimizer` sgd".into()));
        }
        if self.optimizer.is_adam() && (self.nesterov || self.dampening != 0.0) {
            bail!(Invalid("`nesterov` and `dampening` are for `optimizer` sgd, sam and qn".into()));
        }
        Ok(())
    }
}

/// Steps of one pass over the training data, of whose samples only the number is asked for.
pub fn steps_in_epoch(config: &TrainConfig, source: &dyn Source) -> Result<u64> {
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

fn at_least_one(flag: &str, n: u64) -> Result<u64, Invalid> {
    if n > 0 { Ok(n) } else { Err(Invalid(format!("{flag} 0: give at least 1"))) }
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
        assert!(message(Settings { lr: 0.0, ..base.clone() }).starts_with("`lr` 0"));
        assert!(message(Settings { lr: f64::NAN, ..base.clone() }).starts_with("`lr` NaN"));
        assert!(message(Settings { momentum: 1.0, ..base.clone() }).starts_with("`momentum` 1"));
        assert!(message(Settings { damping: -1.0, ..base.clone() }).starts_with("`damping` -1"));
        assert!(message(Settings { batch_size: "0".into(), ..base.clone() }).contains("\"full\""));
        assert!(message(Settings { epochs: Some(0), ..base.clone() }).contains("`epochs`"));
        assert!(message(Settings { samples: Some(0), ..base.clone() }).contains("`samples` 0"));
        let config = Settings { epochs: Some(3), ..base }.configure(Path::new("")).unwrap();
        assert_eq!((config.steps, config.snapshot_every), (36, 12));
    }
}
