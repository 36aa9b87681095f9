use qn_model::Architecture;
use serde::{Deserialize, Serialize};

use crate::{
    Augment, Basis, ClassStatistics, LambdaSource, LossKind, MomentumOn, Newton, NewtonScale, Normalisation,
    OptimizerKind, Projection, Schedule, Subspace,
};

fn every_fifty() -> u64 {
    50
}

fn beta2() -> f64 {
    0.999
}

fn epsilon() -> f64 {
    1e-8
}

fn a_twentieth() -> f64 {
    0.05
}

fn two() -> u64 {
    2
}

fn a_thousand() -> usize {
    1000
}

/// Every option of a training run, defaults written out: enough to run it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Data set: a name, or the absolute path of a file.
    pub data: String,
    /// First N samples of the training split; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// What is minimised.
    #[serde(default, skip_serializing_if = "LossKind::is_default")]
    pub loss: LossKind,
    /// Which optimiser makes the steps.
    pub optimizer: OptimizerKind,
    /// Learning rate η.
    pub lr: f64,
    /// How η changes from step to step.
    #[serde(default)]
    pub schedule: Schedule,
    /// Added to the gradient, times θ.
    #[serde(default)]
    pub weight_decay: f64,
    /// Momentum coefficient β; Adam's β₁.
    pub momentum: f64,
    /// Adam's β₂.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Adam's ε.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// ρ, how far from θ sharpness-aware minimisation takes the gradient.
    #[serde(default = "a_twentieth")]
    pub sam_rho: f64,
    /// τ: the momentum buffer takes in 1 − τ of what is new, and all of it in the first step.
    #[serde(default)]
    pub dampening: f64,
    /// Whether momentum is Nesterov's.
    #[serde(default)]
    pub nesterov: bool,
    /// What momentum acts on.
    pub momentum_on: MomentumOn,
    /// Decay γ of the running averages (16), (17).
    pub gamma: f64,
    /// d in 1/(λ + d).
    pub damping: f64,
    /// Directions of the Newton steps.
    pub basis: Basis,
    /// Curvatures of the Newton steps.
    #[serde(default)]
    pub lambda: LambdaSource,
    /// Each direction's Newton step for itself, or all together.
    #[serde(default)]
    pub newton: Newton,
    /// What the Newton steps are multiplied by.
    #[serde(default)]
    pub newton_scale: NewtonScale,
    /// The largest 1/(λ + d) that is used; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_newton_step: Option<f64>,
    /// What SGD keeps of the gradient.
    #[serde(default)]
    pub project: Projection,
    /// The subspace of that.
    #[serde(default)]
    pub subspace: Subspace,
    /// Steps after which the Hessian's subspace is found anew.
    #[serde(default = "every_fifty")]
    pub subspace_every: u64,
    /// Samples (the first so many) of that Hessian.
    #[serde(default = "a_thousand")]
    pub subspace_samples: usize,
    /// What class gradients take batch statistics for.
    #[serde(default)]
    pub class_statistics: ClassStatistics,
    /// How training pictures are varied.
    #[serde(default)]
    pub augment: Augment,
    /// Samples a step; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Steps in all.
    pub steps: u64,
    /// Seed of initialisation and of the order of the data.
    pub seed: u64,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Steps between class-gradient snapshots; 0 for none but the last.
    pub snapshot_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints stay; 0 for all.
    #[serde(default = "two")]
    pub keep_checkpoints: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// Whether TensorBoard's events are kept beside metrics.jsonl.
    #[serde(default)]
    pub tensorboard: bool,
    /// Where it was asked for, mean and standard deviation of the inputs' channels; otherwise the data set's own, and a
    /// file's numbers as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Normalisation>,
    /// The network.
    pub architecture: Architecture,
}

impl TrainConfig {
    /// The learning rate of the step that follows `step` others.
    ///
    /// With T steps in all, [`Schedule::Cosine`] is η (1 + cos(π t/T))/2; [`Schedule::OneCycle`] goes by half cosines
    /// from η/25 at t = 0 to η at t = 0.3 T − 1, and from there to η/250,000 at t = T − 1.
    pub fn lr_at(&self, step: u64) -> f64 {
        self.lr * self.schedule_factor(step)
    }

    /// [`Self::lr_at`] divided by η.
    pub fn schedule_factor(&self, step: u64) -> f64 {
        let (t, total) = (step as f64, self.steps as f64);
        let half_cosine = |from: f64, to: f64, part: f64| {
            to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
        };
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => half_cosine(1.0, 0.0, t / total),
            Schedule::OneCycle => {
                let (top, end) = (0.3 * total - 1.0, total - 1.0);
                let (first, last) = (1.0 / 25.0, 1.0 / 25.0 / 1e4);
                if t <= top {
                    half_cosine(first, 1.0, t / top)
                } else {
                    half_cosine(1.0, last, (t - top) / (end - top))
                }
            }
        }
    }

    /// The curvature at which a step of length one along a direction, with this momentum, no longer shrinks it:
    /// 2 without momentum β, 2 (1 + β)/(1 − τ) with dampening τ, 2 (1 + β)/(1 + 2β) with Nesterov's.
    pub fn stability_limit(&self) -> f64 {
        let beta = self.momentum;
        match (beta > 0.0, self.nesterov) {
            (false, _) => 2.0,
            (true, false) => 2.0 * (1.0 + beta) / (1.0 - self.dampening),
            (true, true) => 2.0 * (1.0 + beta) / (1.0 + 2.0 * beta),
        }
    }

    /// The Newton step along a direction of curvature λ, before [`Self::newton_factor`]: 1/(λ + d), at most the longest
    /// that is allowed.
    pub fn newton_length(&self, lambda: f64) -> f64 {
        (1.0 / (lambda + self.damping)).min(self.max_newton_step.unwrap_or(f64::INFINITY))
    }

    /// What Newton steps are multiplied by where the learning rate is `lr`.
    pub fn newton_factor(&self, lr: f64) -> f64 {
        match self.newton_scale {
            NewtonScale::Unit => 1.0,
            NewtonScale::Lr => lr,
        }
    }

    /// The value of ρ, the largest eigenvalue of D V G Vᵀ with D = diag(1/λ_k), beyond which the Newton steps of the
    /// step that follows `step` others diverge: [`Self::stability_limit`], divided by η where that multiplies them.
    pub fn rho_limit(&self, step: u64) -> f64 {
        self.stability_limit() / self.newton_factor(self.lr_at(step))
    }
}

/// Puts today's options into a table of options in which a former version wrote `curvature`: `lambda` now says where
/// the curvatures come from, `newton` how they are used.
pub fn convert_former_options(table: &mut toml::Table) {
    let (lambda, newton) = match table.get("curvature").and_then(toml::Value::as_str) {
        Some("lambda") => ("own", "diagonal"),
        Some("ggn") => ("exact", "span"),
        Some("hessian") => ("hessian", "span"),
        _ => return,
    };
    table.remove("curvature");
    table.insert("lambda".into(), lambda.into());
    table.insert("newton".into(), newton.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunDirectory;

    /// The configuration as a version without schedules, augmentation and readings of the method wrote it.
    const FORMER: &str = r#"
data = "digits"
optimizer = "qn"
lr = 0.1
momentum = 0.9
momentum_on = "update"
gamma = 0.9
damping = 10.0
basis = "paper"
curvature = "ggn"
steps = 100
seed = 0
device = "cpu"
snapshot_every = 0
checkpoint_every = 10
log_every = 10
[architecture]
name = "mine"
input = [1, 8, 8]
classes = 10
layers = [{ type = "flatten" }, { type = "linear", name = "a", out_features = 10 }]
"#;

    fn former(change: impl Fn(&str) -> String) -> Result<TrainConfig, crate::RunError> {
        let dir = tempfile::tempdir().unwrap();
        let (run, _lock) = RunDirectory::create(dir.path(), false).unwrap();
        std::fs::write(run.config_path(), change(FORMER)).unwrap();
        run.read_config()
    }

    #[test]
    fn a_former_configuration_keeps_its_meaning() {
        let config = former(str::to_owned).unwrap();
        assert_eq!((config.lambda, config.newton), (LambdaSource::Exact, Newton::Span));
        assert_eq!((config.newton_scale, config.max_newton_step), (NewtonScale::Unit, None));
        assert_eq!((config.schedule, config.augment), (Schedule::Constant, Augment::None));
        assert_eq!((config.dampening, config.nesterov, config.weight_decay), (0.0, false, 0.0));
        let of = |word: &str| former(|text| text.replace("\"ggn\"", word));
        assert_eq!(of("\"hessian\"").unwrap().lambda, LambdaSource::Hessian);
        assert_eq!(of("\"lambda\"").unwrap().newton, Newton::Diagonal);
        assert!(of("\"fisher\"").unwrap_err().to_string().contains("curvature"));
        let none = former(|text| text.replace("curvature = \"ggn\"", "")).unwrap();
        assert_eq!((none.lambda, none.newton), (LambdaSource::Own, Newton::Diagonal));
    }

    /// x ← x − step on f = h x²/2, in PyTorch's order of operations.
    fn shrinks(config: &TrainConfig, h: f64) -> bool {
        let (mut x, mut buffer) = (1.0, None);
        for _ in 0..20_000 {
            let g = h * x;
            let b = buffer.map_or(g, |b: f64| config.momentum * b + (1.0 - config.dampening) * g);
            buffer = Some(b);
            x -= if config.nesterov { g + config.momentum * b } else { b };
        }
        f64::abs(x) < 1e-3
    }

    #[test]
    fn a_direction_shrinks_just_below_the_stability_limit_and_not_above() {
        let base = former(str::to_owned).unwrap();
        for (momentum, dampening, nesterov, expected) in [
            (0.0, 0.0, false, 2.0),
            (0.9, 0.0, false, 3.8),
            (0.9, 0.9, false, 38.0),
            (0.9, 0.0, true, 3.8 / 2.8),
        ] {
            let config = TrainConfig { momentum, dampening, nesterov, ..base.clone() };
            let limit = config.stability_limit();
            assert!((limit / expected - 1.0).abs() < 1e-12, "{limit} for {expected}");
            assert!(shrinks(&config, 0.99 * limit) && !shrinks(&config, 1.01 * limit), "{expected}");
        }
        let scaled = TrainConfig { newton_scale: NewtonScale::Lr, ..base };
        assert!((scaled.rho_limit(0) - 38.0).abs() < 1e-12);
    }

    #[test]
    fn schedules_start_turn_and_end_where_they_should() {
        let base = TrainConfig { lr: 0.5, steps: 100, ..former(str::to_owned).unwrap() };
        let at = |schedule, step| TrainConfig { schedule, ..base.clone() }.lr_at(step);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} for {b}");
        close(at(Schedule::Constant, 99), 0.5);
        close(at(Schedule::Cosine, 0), 0.5);
        close(at(Schedule::Cosine, 50), 0.25);
        close(at(Schedule::OneCycle, 0), 0.02);
        close(at(Schedule::OneCycle, 29), 0.5);
        close(at(Schedule::OneCycle, 99), 2e-6);
    }
}
