//! Where the gradient, the class gradients and the layers lie among the eigenvectors.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_curvature::norm_l2;
use qn_run::{Invalid, Observer, RunDirectory, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StudyError;
use crate::eigenvectors::{check_subject, read_vectors, report_path};
use crate::estimates::layers;
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::{self, EigenReport, Subject};
use crate::request::ProblemRequest;

/// Asks for the share of the gradient, of the class gradients and of each layer in every eigenvector that
/// [`eigen`](crate::eigen()) found.
#[derive(Clone, Debug, Default)]
pub struct EnergyRequest {
    /// The network at which the gradients are taken: that of the eigenvectors. Samples, split, parameters and loss that are
    /// not given are those of the eigenvectors.
    pub problem: ProblemRequest,
    /// The report of `eigen`, with its vectors beside it; the run's where absent.
    pub eigen: Option<PathBuf>,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// Shares of gradients and layers in eigenvectors: `energy.json`. A share is a squared cosine, (g·v)²/|g|².
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EnergyReport {
    /// What was analysed; the operator is that of the eigenvectors.
    #[serde(flatten)]
    pub subject: Subject,
    /// The eigenvectors' eigenvalues, descending.
    pub eigenvalues: Vec<f64>,
    /// The gradient's length |dL/dθ|.
    pub gradient_norm: f64,
    /// Of each eigenvector, the gradient's share in it; they sum to one over all P. Zeros where the gradient is zero.
    pub gradient: Vec<f64>,
    /// Alike of the class gradient of each class (the mean gradient of logit k over class k); zeros for classes without a
    /// sample. Empty where there are no labels.
    pub class_gradients: Vec<Vec<f64>>,
    /// The expected share of a direction that has nothing to do with an eigenvector: 1/P.
    pub random_share: f64,
    /// Parameters that make up each layer, by the layout's names without `.weight` and `.bias`.
    pub layers: Vec<String>,
    /// The share of all parameters that belongs to each layer: what a direction's mass is where it knows of no layers.
    pub layer_sizes: Vec<f64>,
    /// Of each eigenvector, its mass in each layer: the squares of the entries there, which sum to one over the layers.
    pub layer_masses: Vec<Vec<f64>>,
    /// Of each eigenvector, 1/Σ v⁴: over so many parameters it spreads, from 1 to P.
    pub participation: Vec<f64>,
    /// That number for a random direction: (P + 2)/3, by the mean of Σ v⁴.
    pub random_participation: f64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report for EnergyReport {
    const KIND: &'static str = "energy";
    const STUDY: &'static str = "energy";
}

impl EnergyReport {
    /// Sums of the class gradients' shares, as a mean over the classes that have one; none where no class has.
    pub fn mean_class_gradient(&self) -> Option<Vec<f64>> {
        let present: Vec<&Vec<f64>> =
            self.class_gradients.iter().filter(|row| row.iter().any(|x| *x > 0.0)).collect();
        let mean = |j: usize| present.iter().map(|row| row[j]).sum::<f64>() / present.len() as f64;
        (!present.is_empty()).then(|| (0..self.eigenvalues.len()).map(mean).collect())
    }
}

/// Computes the gradients and writes their shares down.
///
/// # Errors
/// The request makes no sense, the eigenvectors are about something else, something else stands where the answer is to
/// go, or the observer wishes to stop.
pub fn energy(args: &EnergyRequest, observer: &dyn Observer) -> Result<EnergyReport> {
    let started = Instant::now();
    output::claim::<EnergyReport>(args.to.as_deref())?;
    let run = args.problem.run.as_deref().map(RunDirectory::open).transpose()?;
    let path = match (&args.eigen, &run) {
        (Some(path), _) => path.clone(),
        (None, Some(run)) => report_path(run)?,
        (None, None) => bail!(Invalid("`eigen`: give the report of the eigenvectors".into())),
    };
    let found: EigenReport = report::read(&path)?;
    let request = completed(&args.problem, &found.subject);
    let problem = Problem::load(&request, observer, |_| Ok(()))?;
    let subject = Subject { operator: found.subject.operator.clone(), ..problem.subject(&request) };
    check_subject(&path, &found.subject, &subject)?;
    let layout = problem.derivatives.layout();
    let vectors = read_vectors(&path, run.as_ref(), layout, &found)?;

    let stage = Stage::begin(observer, "gradients", 2);
    let gradient = problem.loss_and_gradient()?.gradient;
    stage.advance(1);
    if stage.should_stop() {
        bail!(StudyError::Stopped);
    }
    let class_gradients = match problem.target.data.labels() {
        Some(_) => problem.derivatives.class_gradients()?.rows,
        None => Vec::new(),
    };
    stage.advance(1);
    let p = layout.len();
    let layers = layers(layout);
    let report = EnergyReport {
        subject,
        eigenvalues: found.eigenvalues,
        gradient_norm: norm_l2(&gradient),
        gradient: shares(&gradient, &vectors),
        class_gradients: class_gradients.chunks_exact(p).map(|row| shares(row, &vectors)).collect(),
        random_share: 1.0 / p as f64,
        layer_sizes: layers.iter().map(|(_, range)| range.len() as f64 / p as f64).collect(),
        layer_masses: vectors.chunks_exact(p).map(|v| masses(v, &layers)).collect(),
        layers: layers.into_iter().map(|(name, _)| name).collect(),
        participation: vectors.chunks_exact(p).map(participation).collect(),
        random_participation: (p as f64 + 2.0) / 3.0,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// The request with the eigenvectors' problem where it says nothing.
fn completed(asked: &ProblemRequest, found: &Subject) -> ProblemRequest {
    let mut request = asked.clone();
    request.samples = asked.samples.or(Some(found.samples));
    if asked.only.is_empty() {
        request.only.clone_from(&found.only);
    }
    if asked.step.is_none() && asked.run.is_some() {
        request.step = found.step;
    }
    request
}

/// (g·v)²/|g|² of unit vectors; zeros for a zero vector. The gradient is made a unit vector first: its square may leave the
/// range.
fn shares(g: &[f64], vectors: &[f64]) -> Vec<f64> {
    let norm = norm_l2(g);
    let unit: Vec<f64> = g.iter().map(|x| if norm > 0.0 { x / norm } else { 0.0 }).collect();
    vectors
        .chunks_exact(g.len())
        .map(|v| unit.iter().zip(v).map(|(g, v)| g * v).sum::<f64>().powi(2))
        .collect()
}

/// Squares of a unit vector's entries, layer by layer.
fn masses(v: &[f64], layers: &[(String, Range<usize>)]) -> Vec<f64> {
    layers.iter().map(|(_, range)| v[range.clone()].iter().map(|x| x * x).sum()).collect()
}

/// 1/Σ v⁴ of a unit vector.
fn participation(v: &[f64]) -> f64 {
    1.0 / v.iter().map(|x| x.powi(4)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_masses_and_participation_by_hand() {
        // In a rotated basis of the plane, (3, 4) has shares 49/50 and 1/50.
        let half = 0.5_f64.sqrt();
        let rotated = [half, half, half, -half];
        let close = |found: &[f64], expected: &[f64]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {expected:?}");
        };
        for scale in [1.0, 1e-300, 1e300] {
            close(&shares(&[3.0 * scale, 4.0 * scale], &rotated), &[0.98, 0.02]);
        }
        close(&shares(&[0.0, 0.0], &rotated), &[0.0, 0.0]);
        let layers = [("a".to_owned(), 0..1), ("b".to_owned(), 1..4)];
        close(&masses(&[0.6, 0.0, 0.8, 0.0], &layers), &[0.36, 0.64]);
        close(&[participation(&[0.0, 1.0, 0.0]), participation(&[0.5; 4])], &[1.0, 4.0]);
    }
}
