//! Whether the top eigenvectors stay what they are along training.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use faer::{Mat, MatRef};
use qn_curvature::norm_l2;
use qn_data::epoch_batches;
use qn_run::{Invalid, Observer, Stage, StopOnly, bytes};
use qn_spectrum::{Estimate, LanczosOptions, SymmetricOperator as _, Which, lanczos};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StudyError;
use crate::checkpoints::Followed;
use crate::masses::{layer_sizes, masses, participation, random_participation};
use crate::memory::free_memory;
use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Report};
use crate::parts::parts;
use crate::problem::Problem;
use crate::report::Subject;
use crate::request::{ProblemRequest, check_tol};

/// Asks for the top eigenvectors at every checkpoint of a run, or at several files of parameters, and how far those of any
/// two span one space (G. Gur-Ari, D. A. Roberts & E. Dyer, arXiv 1812.04754).
#[derive(Clone, Debug)]
pub struct PersistenceRequest {
    /// Of which run, or else of what network.
    pub problem: ProblemRequest,
    /// In place of a run: files of parameters, folders of them, or patterns. The last number in a file's name is its step.
    pub checkpoints: Vec<PathBuf>,
    /// Eigenvectors at each; C, or ten where there are no classes, where absent.
    pub k: Option<usize>,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: f64,
    /// Samples in a minibatch of the batch sharpness; the run's where absent, and none without a run.
    pub batch_size: Option<usize>,
    /// Minibatches of the batch sharpness.
    pub draws: usize,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for PersistenceRequest {
    /// To 1e-4, with ten minibatches.
    fn default() -> Self {
        Self {
            problem: ProblemRequest::default(),
            checkpoints: Vec::new(),
            k: None,
            tol: 1e-4,
            batch_size: None,
            draws: 10,
            to: None,
        }
    }
}

/// The top eigenvectors along training: `persistence.json`. E_t holds those at checkpoint t as columns.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PersistenceReport {
    /// What was analysed; step and checkpoint are the last point's.
    #[serde(flatten)]
    pub subject: Subject,
    /// Eigenvectors at each checkpoint.
    pub k: usize,
    /// Residuals asked for, relative to λ_1.
    pub tol: f64,
    /// Samples in a minibatch of the batch sharpness; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Parameters that make up each layer, by the layout's names without `.weight` and `.bias`; those of an attention's
    /// queries, keys and values apart, as NAME.query, NAME.key and NAME.value.
    pub layers: Vec<String>,
    /// The share of all parameters that belongs to each layer: the mass of a direction that knows of no layers.
    pub layer_sizes: Vec<f64>,
    /// 1/Σ v⁴ of a random direction: (P + 2)/3, by the mean of Σ v⁴.
    pub random_participation: f64,
    /// One entry a checkpoint, by step.
    pub points: Vec<PersistencePoint>,
    /// ‖E_sᵀE_t‖²_F / k of any two checkpoints: 1 where they span one space, 0 where they are orthogonal.
    pub overlaps: Vec<Vec<f64>>,
    /// What that is on average for random spaces: k/P.
    pub random_overlap: f64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// One checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PersistencePoint {
    /// Steps of training.
    pub step: u64,
    /// The mean loss.
    pub loss: f64,
    /// The k largest eigenvalues, descending.
    pub eigenvalues: Vec<f64>,
    /// How many are within the tolerance.
    pub converged: usize,
    /// Of each eigenvector v, |E_sᵀv|² with the checkpoint s before: 1 where it was in the top space there, k/P on average for
    /// a random direction. Empty at the first.
    pub kept: Vec<f64>,
    /// Of each eigenvector, 1/Σ v⁴: over so many parameters it spreads.
    pub participation: Vec<f64>,
    /// Of each eigenvector, its mass in each layer: the squares of the entries there, which sum to one over the layers.
    pub layer_masses: Vec<Vec<f64>>,
    /// gᵀHg/|g|² with the gradient g over all samples; absent where g is zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_sharpness: Option<f64>,
    /// The mean over minibatches B of g_BᵀH_B g_B/|g_B|², with gradient and Hessian over B (A. Andreyev & P. Beneventano, arXiv
    /// 2412.20553).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_sharpness: Option<Estimate>,
}

impl Report for PersistenceReport {
    const KIND: &'static str = "persistence";
    const STUDY: &'static str = "persistence";
}

impl PersistenceReport {
    /// Whether all eigenvalues are within the tolerance.
    pub fn converged(&self) -> bool {
        self.points.iter().all(|point| point.converged == point.eigenvalues.len())
    }
}

/// Follows the run, or the files, and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn persistence(args: &PersistenceRequest, observer: &dyn Observer) -> Result<PersistenceReport> {
    let started = Instant::now();
    check_tol(args.tol)?;
    output::claim::<PersistenceReport>(args.to.as_deref())?;
    let Followed { places, config, .. } = Followed::of(&args.problem, &args.checkpoints)?;
    let batch_size = args.batch_size.or(config.map(|config| config.batch_size.unwrap_or(usize::MAX)));
    let stage = Stage::begin(observer, "checkpoints", places.len() as u64);
    let stop = StopOnly(observer);
    let count = places.len();
    let (mut points, mut spaces, mut last) = (Vec::with_capacity(count), Vec::with_capacity(count), None);
    for (step, at) in places {
        let problem = Problem::load(&at, &stop, |_| Ok(()))?;
        let k = wanted(args.k, &problem)?;
        refuse_if_too_large(count * k, problem.derivatives.dim())?;
        let (mut point, space) = point(step, &problem, (args, k, batch_size), &stop)?;
        point.kept =
            spaces.last().map_or(Vec::new(), |before: &Mat<f64>| kept(before.as_ref(), space.as_ref()));
        points.push(point);
        spaces.push(space);
        last = Some((problem.subject(&at), parts(problem.derivatives.layout()), k));
        stage.advance(1);
    }
    let (subject, layers, k) = last.context("there is no checkpoint yet: train further first")?;
    let p = subject.params;
    let report = PersistenceReport {
        k,
        tol: args.tol,
        batch_size: batch_size.map(|size| size.min(subject.samples)),
        subject,
        layer_sizes: layer_sizes(&layers, p),
        layers: layers.into_iter().map(|part| part.name).collect(),
        random_participation: random_participation(p),
        points,
        overlaps: overlaps(&spaces),
        random_overlap: k as f64 / p as f64,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// How many eigenvectors.
fn wanted(k: Option<usize>, problem: &Problem) -> Result<usize> {
    let p = problem.derivatives.dim();
    let classes = problem.target.data.labels().map(|_| problem.target.graph.classes());
    match k {
        Some(k) if k == 0 || k > p => {
            bail!(Invalid(format!("`k` {k}: the network has {p} parameters; give 1 to {p}")))
        }
        Some(k) => Ok(k),
        None => Ok(classes.unwrap_or(10).min(p)),
    }
}

/// Refuses more eigenvectors than fit.
fn refuse_if_too_large(vectors: usize, p: usize) -> Result<()> {
    let need = (vectors * p * size_of::<f64>()) as u64;
    match free_memory() {
        Some(free) if need > free => bail!(StudyError::Refused(format!(
            "{vectors} eigenvectors need {}, and {} is free; ask for a smaller `k`, or about fewer checkpoints",
            bytes(need),
            bytes(free)
        ))),
        _ => Ok(()),
    }
}

/// What is found at a checkpoint, and its eigenvectors.
fn point(
    step: u64,
    problem: &Problem,
    (args, k, batch_size): (&PersistenceRequest, usize, Option<usize>),
    observer: &dyn Observer,
) -> Result<(PersistencePoint, Mat<f64>)> {
    let derivatives = &problem.derivatives;
    let unseen = Stage::begin(observer, "products", 0);
    let which = args.problem.operator.operator();
    let operator = Watched::new(CurvatureOperator { derivatives, which }, &unseen);
    let options = LanczosOptions {
        k,
        which: Which::La,
        tol: args.tol,
        seed: args.problem.seed,
        ..LanczosOptions::default()
    };
    let top = lanczos::<f64>(&operator, &options, |_| ()).map_err(explain)?;
    let start = problem.loss_and_gradient()?;
    let layers = parts(derivatives.layout());
    let columns = || top.vectors.col_iter().map(|v| v.try_as_col_major().map_or(&[][..], |v| v.as_slice()));
    let point = PersistencePoint {
        step,
        loss: start.loss,
        converged: top.converged,
        kept: Vec::new(),
        participation: columns().map(participation).collect(),
        layer_masses: columns().map(|v| masses(v, &layers)).collect(),
        gradient_sharpness: sharpness(&start.gradient, &operator)?,
        batch_sharpness: match batch_size {
            Some(size) => batch_sharpness(problem, (args, size), observer)?,
            None => None,
        },
        eigenvalues: top.values,
    };
    Ok((point, top.vectors))
}

/// gᵀAg/|g|²; none where g is zero.
fn sharpness(gradient: &[f64], operator: &Watched<'_, CurvatureOperator<'_>>) -> Result<Option<f64>> {
    let norm = norm_l2(gradient);
    if norm == 0.0 {
        return Ok(None);
    }
    let unit = Mat::from_fn(gradient.len(), 1, |i, _| gradient[i] / norm);
    let mut product = Mat::zeros(gradient.len(), 1);
    operator.apply(unit.as_ref(), product.as_mut()).map_err(|e| explain(e.into()))?;
    Ok(Some(unit.col(0).transpose() * product.col(0)))
}

/// The mean over minibatches that share no sample; none where all their gradients are zero.
fn batch_sharpness(
    problem: &Problem,
    (args, size): (&PersistenceRequest, usize),
    observer: &dyn Observer,
) -> Result<Option<Estimate>> {
    let n = problem.target.data.len();
    if size == 0 || args.draws == 0 {
        bail!(Invalid(format!("`batch-size` {size}, `draws` {}: give at least 1", args.draws)));
    }
    let mut found = Vec::with_capacity(args.draws);
    for batch in epoch_batches(n, size.min(n), args.problem.seed, 0).iter().take(args.draws) {
        let derivatives = &problem.over(batch, args.problem.dtype)?;
        let unseen = Stage::begin(observer, "products", 0);
        let which = args.problem.operator.operator();
        let operator = Watched::new(CurvatureOperator { derivatives, which }, &unseen);
        found.extend(sharpness(&derivatives.loss_and_gradient()?.gradient, &operator)?);
    }
    Ok(match found[..] {
        [] => None,
        // All samples at once: a mean of one is exact.
        [value] if size >= n => Some(Estimate { value, standard_error: 0.0 }),
        [_] => bail!(Invalid(format!(
            "`batch-size` {size}, `draws` {}: a standard error needs two minibatches",
            args.draws
        ))),
        _ => Some(Estimate::from_samples(&found)),
    })
}

/// ‖E_sᵀE_t‖²_F / k of all pairs.
fn overlaps(spaces: &[Mat<f64>]) -> Vec<Vec<f64>> {
    let overlap = |s: &Mat<f64>, t: &Mat<f64>| (s.transpose() * t).squared_norm_l2() / s.ncols() as f64;
    spaces.iter().map(|s| spaces.iter().map(|t| overlap(s, t)).collect()).collect()
}

/// |Eᵀv|² of each column v, E holding those of the checkpoint before.
fn kept(before: MatRef<'_, f64>, space: MatRef<'_, f64>) -> Vec<f64> {
    let along = before.transpose() * space;
    along.col_iter().map(|v| v.squared_norm_l2()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane that turns about one of its axes.
    #[test]
    fn a_turned_plane() {
        let angle = 0.3f64;
        let plane = |angle: f64| {
            let mut plane = Mat::zeros(4, 2);
            (plane[(0, 0)], plane[(2, 0)], plane[(1, 1)]) = (angle.cos(), angle.sin(), 1.0);
            plane
        };
        let spaces = [plane(0.0), plane(angle), plane(0.5 * std::f64::consts::PI)];
        let found = overlaps(&spaces);
        let shares = [1.0, 0.5 * (1.0 + angle.cos().powi(2)), 0.5];
        for (i, share) in shares.iter().enumerate() {
            assert!((found[0][i] - share).abs() < 1e-15 && (found[i][i] - 1.0).abs() < 1e-15);
            assert!((found[i][0] - found[0][i]).abs() < 1e-15);
        }
        let kept = kept(spaces[0].as_ref(), spaces[1].as_ref());
        assert!((kept[0] - angle.cos().powi(2)).abs() < 1e-15 && (kept[1] - 1.0).abs() < 1e-15);
    }
}
