//! Where the gradient, the class gradients and the layers lie among the eigenvectors.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qn_curvature::norm_l2;
use qn_run::{Invalid, Observer, RunDirectory, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StudyError;
use crate::eigenvectors::{Eigenvectors, check_subject, report_path};
use crate::masses::{layer_sizes, masses, participation, random_participation};
use crate::output::{self, Report};
use crate::parts::{Part, parts};
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
    /// How many eigenvectors, neighbours in the order of eigenvalues, each entry of the lists below stands for: of more than
    /// 2,000 the first and the last hundred stand for themselves, and 400 groups for the others. Eigenvalues, masses and
    /// participations of a group are means, shares are sums. Absent where each eigenvector stands for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<usize>,
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
    /// Parameters that make up each layer, by the layout's names without `.weight` and `.bias`; those of an attention's
    /// queries, keys and values apart, as NAME.query, NAME.key and NAME.value.
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
    /// How many eigenvectors the first j entries stand for, for all j from 1 on.
    pub fn ends(&self) -> Vec<usize> {
        let count = |j: usize| self.counts.get(j).copied().unwrap_or(1);
        let add = |sum: &mut usize, j: usize| {
            *sum += count(j);
            Some(*sum)
        };
        (0..self.eigenvalues.len()).scan(0, add).collect()
    }

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
    let vectors = Eigenvectors::of(&path, run.as_ref(), layout, found)?;

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
    let layers = parts(layout);
    let mut gradients = vec![unit(&gradient)];
    gradients.extend(class_gradients.chunks_exact(p).map(unit));
    let mut among = Among::new(counts(vectors.count()), gradients, &layers);
    let stage = Stage::begin(observer, "eigenvectors", vectors.count() as u64);
    vectors.for_each(|rows| {
        rows.values.iter().zip(rows.vectors.chunks_exact(p)).for_each(|(value, v)| among.add(*value, v));
        stage.advance(rows.values.len() as u64);
        if stage.should_stop() { Err(StudyError::Stopped.into()) } else { Ok(()) }
    })?;
    let mut shares = among.shares.into_iter();
    let report = EnergyReport {
        subject,
        counts: if among.counts.iter().all(|count| *count == 1) { Vec::new() } else { among.counts },
        eigenvalues: among.eigenvalues,
        gradient_norm: norm_l2(&gradient),
        gradient: shares.next().unwrap_or_default(),
        class_gradients: shares.collect(),
        random_share: 1.0 / p as f64,
        layer_sizes: layer_sizes(&layers, p),
        layer_masses: among.layer_masses,
        layers: layers.iter().map(|part| part.name.clone()).collect(),
        participation: among.participation,
        random_participation: random_participation(p),
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

/// Eigenvectors up to which each has an entry of its own in the lists.
const ALONE_UP_TO: usize = 2000;
/// Of more than that, those at each end that have one,
const ENDS: usize = 100;
/// and groups of the others.
const GROUPS: usize = 400;

/// How many of n eigenvectors each entry of the lists stands for.
fn counts(n: usize) -> Vec<usize> {
    if n <= ALONE_UP_TO {
        return vec![1; n];
    }
    let between = n - 2 * ENDS;
    let group = |i: usize| (i + 1) * between / GROUPS - i * between / GROUPS;
    let ends = std::iter::repeat_n(1, ENDS);
    ends.clone().chain((0..GROUPS).map(group)).chain(ends).collect()
}

/// What is found of eigenvectors that come one after the other.
struct Among<'a> {
    counts: Vec<usize>,
    /// Unit vectors, or zero.
    gradients: Vec<Vec<f64>>,
    layers: &'a [Part],
    /// The entry that the next one adds to, and how many have been added there.
    at: (usize, usize),
    eigenvalues: Vec<f64>,
    shares: Vec<Vec<f64>>,
    layer_masses: Vec<Vec<f64>>,
    participation: Vec<f64>,
}

impl<'a> Among<'a> {
    fn new(counts: Vec<usize>, gradients: Vec<Vec<f64>>, layers: &'a [Part]) -> Self {
        let entries = counts.len();
        Self {
            counts,
            shares: vec![vec![0.0; entries]; gradients.len()],
            gradients,
            layers,
            at: (0, 0),
            eigenvalues: vec![0.0; entries],
            layer_masses: vec![vec![0.0; layers.len()]; entries],
            participation: vec![0.0; entries],
        }
    }

    /// Adds the next eigenvector.
    fn add(&mut self, value: f64, v: &[f64]) {
        let (entry, added) = self.at;
        let weight = 1.0 / self.counts[entry] as f64;
        self.eigenvalues[entry] += weight * value;
        self.participation[entry] += weight * participation(v);
        for (sum, mass) in self.layer_masses[entry].iter_mut().zip(masses(v, self.layers)) {
            *sum += weight * mass;
        }
        for (shares, gradient) in self.shares.iter_mut().zip(&self.gradients) {
            shares[entry] += share(gradient, v);
        }
        self.at = if added + 1 == self.counts[entry] { (entry + 1, 0) } else { (entry, added + 1) };
    }
}

/// A gradient as a unit vector, so that squares stay in the range; zero where it is zero.
fn unit(g: &[f64]) -> Vec<f64> {
    let norm = norm_l2(g);
    g.iter().map(|x| if norm > 0.0 { x / norm } else { 0.0 }).collect()
}

/// (g·v)² of unit vectors.
fn share(g: &[f64], v: &[f64]) -> f64 {
    g.iter().zip(v).map(|(g, v)| g * v).sum::<f64>().powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, range: std::ops::Range<usize>) -> Part {
        Part { name: name.to_owned(), ranges: vec![range] }
    }

    #[test]
    fn shares_masses_and_participation_by_hand() {
        // In a rotated basis of the plane, (3, 4) has shares 49/50 and 1/50.
        let half = 0.5_f64.sqrt();
        let rotated = [half, half, half, -half];
        let close = |found: &[f64], expected: &[f64]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {expected:?}");
        };
        let shares = |g: [f64; 2]| rotated.chunks(2).map(|v| share(&unit(&g), v)).collect::<Vec<_>>();
        for scale in [1.0, 1e-300, 1e300] {
            close(&shares([3.0 * scale, 4.0 * scale]), &[0.98, 0.02]);
        }
        close(&shares([0.0, 0.0]), &[0.0, 0.0]);
        let layers = [part("a", 0..1), part("b", 1..4)];
        close(&masses(&[0.6, 0.0, 0.8, 0.0], &layers), &[0.36, 0.64]);
        close(&[participation(&[0.0, 1.0, 0.0]), participation(&[0.5; 4])], &[1.0, 4.0]);
    }

    #[test]
    fn groups_hold_each_eigenvector_once() {
        for n in [1, ALONE_UP_TO, ALONE_UP_TO + 1, 62_006] {
            let counts = counts(n);
            assert_eq!(counts.iter().sum::<usize>(), n);
            assert!(counts.iter().all(|count| *count > 0));
            assert_eq!(counts.len(), if n > ALONE_UP_TO { 600 } else { n });
        }
    }

    #[test]
    fn groups_are_sums_of_shares_and_means_of_the_rest() {
        let layers = [part("a", 0..1), part("b", 1..3)];
        let mut among = Among::new(vec![1, 2], vec![unit(&[1.0, 2.0, 2.0])], &layers);
        let vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]];
        vectors.iter().zip([5.0, 2.0, 1.0]).for_each(|(v, value)| among.add(value, v));
        let close = |found: &[f64], expected: &[f64]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?} {expected:?}");
        };
        close(&among.eigenvalues, &[5.0, 1.5]);
        close(&among.shares[0], &[1.0 / 9.0, 4.0 / 9.0 + (2.8f64 / 3.0).powi(2)]);
        close(&among.layer_masses.concat(), &[1.0, 0.0, 0.0, 1.0]);
        close(&among.participation, &[1.0, 0.5 * (1.0 + 1.0 / (0.6f64.powi(4) + 0.8f64.powi(4)))]);
    }
}
