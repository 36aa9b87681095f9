//! Curvature, class gradients and gradient at every checkpoint of a run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use faer::{Mat, MatRef};
use nalgebra::DMatrix;
use qn_curvature::Operator;
use qn_run::{Invalid, Metric, Observer, OptimizerKind, Stage, StopOnly, TrainConfig};
use qn_spectrum::{
    Estimate, LanczosOptions, Preconditioner, Stability, SymmetricOperator as _, Which, lanczos,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoints::Followed;
use crate::estimates::residual_ratio;
use crate::operator::{CurvatureOperator, Divided, Outside, Watched, explain};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{ProblemRequest, check_tol};
use crate::subspace::{assign, column_space, cosines, present_columns, subspace_overlap, unit_columns};

/// Asks, at every checkpoint of a run or at several files of parameters, for the Hessian's top eigenvalues against 2/eta, the curvature inside and outside
/// the class gradients' span, eq. (12) against the true curvature, how large F is beside H, and where the gradient lies.
#[derive(Clone, Debug)]
pub struct TrackRequest {
    /// Of which run, at one step alone where one is given; or else of what network.
    pub problem: ProblemRequest,
    /// In place of a run: files of parameters, folders of them, or patterns. The last number in a file's name is its step.
    pub checkpoints: Vec<PathBuf>,
    /// With files: the learning rate η of the training, for 2/η.
    pub lr: Option<f64>,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: f64,
    /// Random vectors for the Frobenius norms.
    pub probes: usize,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for TrackRequest {
    /// To 1e-3, with twenty random vectors.
    fn default() -> Self {
        Self {
            problem: ProblemRequest::default(),
            checkpoints: Vec::new(),
            lr: None,
            tol: 1e-3,
            probes: 20,
            to: None,
        }
    }
}

/// Curvature and class gradients along training: `track.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TrackReport {
    /// What was analysed; step and checkpoint are the last point's, the operator is the Hessian.
    #[serde(flatten)]
    pub subject: Subject,
    /// Number of classes C.
    pub classes: usize,
    /// η of the training, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// 2/η, beyond which gradient descent on a quadratic function diverges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The curvature beyond which gradient descent with the run's own momentum diverges: 2 (1 + β)/η with momentum β,
    /// 2 (1 + β)/((1 − τ) η) with dampening τ, 2 (1 + β)/((1 + 2β) η) with Nesterov's. Absent where no run's options are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum_threshold: Option<f64>,
    /// Of a run with Adam, in place of these: (2 + 2 β₁)/((1 − β₁) η), 38/η for β₁ = 0.9, beyond which the preconditioned
    /// curvature is unstable (Cohen et al., arXiv:2207.14484).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioned_threshold: Option<f64>,
    /// The first step in the training log whose ρ, over its minibatch, is beyond its limit; absent where none is, and
    /// where the optimiser takes no Newton steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_passed_at: Option<u64>,
    /// The first step in the training log at which the preconditioner's smallest eigenvalue is negative; absent where none
    /// is, and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uphill_from: Option<u64>,
    /// Residuals asked for, relative to λ_1.
    pub tol: f64,
    /// Random vectors of the Frobenius norms.
    pub probes: usize,
    /// One entry a checkpoint, by step.
    pub points: Vec<TrackPoint>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// One checkpoint. H, G, F = H − G, the gradient g and the class gradients c_k are those of all N samples, v_k = c_k/|c_k|,
/// Q an orthonormal basis of the c_k, E the C top eigenvectors of H.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TrackPoint {
    /// Steps of training.
    pub step: u64,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of samples classified correctly.
    pub accuracy: f64,
    /// |g|.
    pub gradient_norm: f64,
    /// H's top C + 1 eigenvalues.
    pub eigenvalues: Vec<f64>,
    /// How many of them are within the tolerance.
    pub converged: usize,
    /// Of a run with Adam, λ_1 of D^-1/2 H D^-1/2 with D = diag(√v̂ + ε), v̂ being the second moments at this step, corrected;
    /// absent at step 0, where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioned: Option<f64>,
    /// Of a run with SAM, the curvature beyond which its steps over all samples along an eigenvector grow: the positive root a of
    /// ρ a² + |g| a = t |g|, t being the momentum threshold at this step's learning rate (P. Long & P. Bartlett,
    /// arXiv:2309.12488, with t = 2/η); absent where g or the learning rate is zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sam_limit: Option<f64>,
    /// λ_1 of P H P, P projecting on the complement of the class gradients' span.
    pub outside: f64,
    /// Whether that one is within the tolerance.
    pub outside_converged: bool,
    /// Eigenvalues of QᵀHQ, descending.
    pub inside: Vec<f64>,
    /// λ_k, eq. (12).
    pub lambda: Vec<f64>,
    /// v_kᵀ H v_k.
    pub curvature: Vec<f64>,
    /// v_kᵀ G v_k.
    pub ggn_curvature: Vec<f64>,
    /// ρ: the largest eigenvalue of D V G Vᵀ, V having the v_k as rows and D = diag(1/(λ_k + d)), with λ_k by eq. (12)
    /// and the run's own damping d and cap of 1/(λ_k + d). Where it is above `rho_limit` such steps diverge; ρ = 1
    /// where they are exact. Absent where it is not finite, and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// The limit of ρ: η times `momentum_threshold`, and without η where the learning rate multiplies the Newton steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_limit: Option<f64>,
    /// The smallest eigenvalue of the preconditioner I + Σ_k (s/(λ_k + d)/η − 1) v_k v_kᵀ, s being 1, or η where the
    /// learning rate multiplies the Newton steps. It is 1 outside the span; where it is negative a step goes uphill. Absent
    /// where it is not finite, and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioner_min: Option<f64>,
    /// |c_k|.
    pub class_gradient_norms: Vec<f64>,
    /// How many classes have samples. Of the others λ_k, |c_k| and the curvatures are 0, and they take no part in the means;
    /// absent in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_present: Option<usize>,
    /// Largest |v_j · v_k| of two classes.
    pub max_coherence: f64,
    /// Mean |v_j · v_k| of two classes.
    pub mean_coherence: f64,
    /// Mean |v_k · e_j| over the best assignment.
    pub mean_assigned_cosine: f64,
    /// ‖QᵀE‖²_F divided by the number of classes that have samples.
    pub subspace_overlap: f64,
    /// |Qᵀg|² / |g|².
    pub gradient_in_class_span: f64,
    /// |Eᵀg|² / |g|².
    pub gradient_in_top_space: f64,
    /// ‖F‖_F / ‖H‖_F.
    pub residual_ratio: Estimate,
    /// ‖EᵀFE‖_F / ‖EᵀHE‖_F.
    pub residual_ratio_top: f64,
    /// ‖QᵀFQ‖_F / ‖QᵀHQ‖_F.
    pub residual_ratio_class_span: f64,
}

impl Report for TrackReport {
    const KIND: &'static str = "track";
    const STUDY: &'static str = "track";
}

/// Follows the run, or the files, and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn track(args: &TrackRequest, observer: &dyn Observer) -> Result<TrackReport> {
    let started = Instant::now();
    check_tol(args.tol)?;
    if let Some(lr) = args.lr.filter(|lr| !(lr.is_finite() && *lr > 0.0)) {
        bail!(Invalid(format!("`lr` {lr}: give a positive number")));
    }
    output::claim::<TrackReport>(args.to.as_deref())?;
    let Followed { places, config, log } = Followed::of(&args.problem, &args.checkpoints)?;
    let stage = Stage::begin(observer, "checkpoints", places.len() as u64);
    let stop = StopOnly(observer);
    let (mut points, mut last) = (Vec::with_capacity(places.len()), None);
    for (step, at) in places {
        let problem = Problem::load(&at, &stop, |_| Ok(()))?;
        points.push(point(step, &problem, config.as_ref(), args, &stop)?);
        last = Some((problem.subject(&at), problem.target.graph.classes()));
        stage.advance(1);
    }
    let (subject, classes) = last.context("there is no checkpoint yet: train further first")?;
    let lr = config.as_ref().map(|config| config.lr).or(args.lr);
    let by_adam = config.as_ref().is_some_and(|config| config.optimizer.is_adam());
    let plain = config.as_ref().filter(|_| !by_adam);
    let report = TrackReport {
        subject,
        classes,
        lr,
        threshold: lr.filter(|_| !by_adam).map(|lr| 2.0 / lr),
        momentum_threshold: plain.map(|config| config.stability_limit() / config.lr),
        preconditioned_threshold: config.as_ref().filter(|_| by_adam).map(|config| {
            let beta1 = config.momentum;
            (2.0 + 2.0 * beta1) / ((1.0 - beta1) * config.lr)
        }),
        rho_passed_at: first_step(&log, Metric::beyond_rho_limit),
        uphill_from: first_step(&log, Metric::goes_uphill),
        tol: args.tol,
        probes: args.probes,
        points,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// The first step in a log of which something holds.
pub(crate) fn first_step(log: &[Metric], holds: impl Fn(&Metric) -> bool) -> Option<u64> {
    log.iter().find(|line| holds(line)).map(|line| line.step)
}

/// The stability of the Newton steps 1/(λ_k + d) along the unit vectors v_k, the columns of `v`, for a curvature V G Vᵀ.
fn stability(
    lambda: &[f64],
    v: &DMatrix<f64>,
    curvature: &DMatrix<f64>,
    config: &TrainConfig,
    step: u64,
) -> Result<Option<Stability>> {
    let (c, lr) = (lambda.len(), config.lr_at(step));
    let diagonal =
        |entry: &dyn Fn(usize) -> f64| Mat::from_fn(c, c, |i, j| if i == j { entry(i) } else { 0.0 });
    let length = |k: usize| config.newton_length(lambda[k]);
    let gram = v.transpose() * v;
    let steps = Preconditioner {
        gram: Mat::from_fn(c, c, |i, j| gram[(i, j)]),
        newton: diagonal(&length),
        inside: diagonal(&|k| config.newton_factor(lr) * length(k) - lr),
        outside: lr,
    };
    let curvature = Mat::from_fn(c, c, |i, j| 0.5 * (curvature[(i, j)] + curvature[(j, i)]));
    Ok(Stability::of(&steps, &curvature)?)
}

fn point(
    step: u64,
    problem: &Problem,
    config: Option<&TrainConfig>,
    args: &TrackRequest,
    observer: &dyn Observer,
) -> Result<TrackPoint> {
    let derivatives = &problem.derivatives;
    let (p, classes) = (derivatives.dim(), problem.target.graph.classes());
    let stage = Stage::begin(observer, "products", 0);
    let operator = |which| Watched::new(CurvatureOperator { derivatives, which }, &stage);
    let (hessian, ggn) = (operator(Operator::Hessian), operator(Operator::Ggn));
    let times = |which: &Watched<'_, CurvatureOperator<'_>>, x: &DMatrix<f64>| -> Result<DMatrix<f64>> {
        let mut y = Mat::zeros(p, x.ncols());
        which.apply(faer_columns(x), y.as_mut()).map_err(|e| explain(e.into()))?;
        Ok(DMatrix::from_fn(p, x.ncols(), |i, j| y[(i, j)]))
    };

    let start = problem.loss_and_gradient()?;
    let c = derivatives.class_gradients()?;
    let gradients = DMatrix::from_fn(p, classes, |i, k| c.rows[k * p + i]);
    let present = present_columns(&gradients);
    let (v, q) = (unit_columns(&gradients.select_columns(&present)), column_space(&gradients));
    let (hv, gv) = (times(&hessian, &v)?, times(&ggn, &v)?);
    let (hq, gq) = (times(&hessian, &q)?, times(&ggn, &q)?);
    let lambda: Vec<f64> = present.iter().map(|&k| c.lambda[k]).collect();
    let adam = config.filter(|config| config.optimizer.is_adam());
    let config = config.filter(|config| !config.optimizer.is_adam());
    let stability = match config {
        Some(config) => stability(&lambda, &v, &(v.transpose() * &gv), config, step)?,
        None => None,
    };

    let options = LanczosOptions {
        k: (classes + 1).min(p),
        which: Which::La,
        block: 2,
        tol: args.tol,
        seed: args.problem.seed,
        ..LanczosOptions::default()
    };
    let top = lanczos::<f64>(&hessian, &options, |_| ()).map_err(explain)?;
    let e = DMatrix::from_fn(p, classes.min(p), |i, j| top.vectors[(i, j)]);
    let (he, ge) = (times(&hessian, &e)?, times(&ggn, &e)?);
    let outside = Outside { inner: operator(Operator::Hessian), q: faer_columns(&q) };
    let one = LanczosOptions { k: 1, ..options };
    let outside = lanczos(&outside, &one, |_| ()).map_err(explain)?;
    let preconditioned = match adam.map(|config| adam_lengths(config, problem)).transpose()?.flatten() {
        Some(lengths) => {
            let inner = operator(Operator::Hessian);
            let divided = Divided { inner, roots: lengths.iter().map(|d| d.sqrt()).collect() };
            Some(lanczos(&divided, &one, |_| ()).map_err(explain)?.values[0])
        }
        None => None,
    };

    let g = DMatrix::from_column_slice(p, 1, &start.gradient);
    let share = |basis: &DMatrix<f64>| (basis.transpose() * &g).norm_squared() / g.norm_squared();
    let ratio_in = |basis: &DMatrix<f64>, h: &DMatrix<f64>, ggn: &DMatrix<f64>| {
        let inside = |x: DMatrix<f64>| (basis.transpose() * x).norm();
        inside(h - ggn) / inside(h.clone())
    };
    let gram = (v.transpose() * &v).abs();
    let pairs: Vec<f64> =
        (0..present.len()).flat_map(|j| (0..j).map(move |k| (j, k))).map(|at| gram[at]).collect();
    let along = |av: &DMatrix<f64>| {
        let mut all = vec![0.0; classes];
        present.iter().enumerate().for_each(|(i, &k)| all[k] = v.column(i).dot(&av.column(i)));
        all
    };
    let inside = q.transpose() * &hq;
    let mut inside: Vec<f64> =
        (0.5 * (&inside + inside.transpose())).symmetric_eigenvalues().iter().copied().collect();
    inside.sort_by(|a, b| b.total_cmp(a));
    Ok(TrackPoint {
        step,
        loss: start.loss,
        // Without classes there are no class gradients, and no such report.
        accuracy: start.accuracy.unwrap_or_default(),
        gradient_norm: g.norm(),
        converged: top.converged,
        eigenvalues: top.values,
        preconditioned,
        sam_limit: config.and_then(|config| sam_limit(config, step, g.norm())),
        outside: outside.values[0],
        outside_converged: outside.converged == 1,
        inside,
        rho: stability.as_ref().map(|found| found.rho),
        preconditioner_min: stability.map(|found| found.preconditioner_min),
        rho_limit: config.map(|config| config.rho_limit(step)),
        lambda: c.lambda,
        curvature: along(&hv),
        ggn_curvature: along(&gv),
        classes_present: Some(present.len()),
        class_gradient_norms: gradients.column_iter().map(|c| c.norm()).collect(),
        max_coherence: pairs.iter().copied().fold(0.0, f64::max),
        mean_coherence: pairs.iter().sum::<f64>() / pairs.len().max(1) as f64,
        mean_assigned_cosine: assign(&cosines(&v, &e)).mean,
        subspace_overlap: subspace_overlap(&gradients, &e),
        gradient_in_class_span: share(&q),
        gradient_in_top_space: share(&e),
        residual_ratio: residual_ratio(
            &hessian,
            &operator(Operator::Residual),
            args.probes,
            args.problem.seed,
        )?,
        residual_ratio_top: ratio_in(&e, &he, &ge),
        residual_ratio_class_span: ratio_in(&q, &hq, &gq),
    })
}

/// The curvature a of a quadratic loss a x²/2 at which SAM goes from x to −x: its gradient there, a (|x| + ρ) with |g| = a |x|, is
/// as long as one of curvature t would be, t |x|.
fn sam_limit(config: &TrainConfig, step: u64, gradient: f64) -> Option<f64> {
    let threshold = config.stability_limit() / config.lr_at(step);
    (config.optimizer == OptimizerKind::Sam && gradient > 0.0 && threshold.is_finite())
        .then(|| 2.0 * threshold / (1.0 + (1.0 + 4.0 * config.sam_rho * threshold / gradient).sqrt()))
}

/// √v̂ + ε of the checkpoint's second moments; none before the first step.
fn adam_lengths(config: &TrainConfig, problem: &Problem) -> Result<Option<Vec<f64>>> {
    let target = &problem.target;
    let checkpoint = qn_run::Checkpoint::read(&target.checkpoint, target.graph.layout())?;
    let corrected = 1.0 - config.beta2.powf(checkpoint.step as f64);
    let length = |v: &f32| (f64::from(*v) / corrected).sqrt() + config.epsilon;
    Ok((checkpoint.step > 0).then(|| checkpoint.optimizer.second_moments.iter().map(length).collect()))
}

fn faer_columns(x: &DMatrix<f64>) -> MatRef<'_, f64> {
    MatRef::from_column_major_slice(x.as_slice(), x.nrows(), x.ncols())
}
