//! The loss along one or two directions, beside its quadratic model.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Result, bail};
use faer::{Mat, MatRef};
use qn_curvature::{CurvatureError, norm_l2};
use qn_model::ParamLayout;
use qn_run::{Invalid, Observer, RunDirectory, Stage, read_parameters};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StudyError;
use crate::eigenvectors::{check_subject, read_vectors, report_path};
use crate::output::{self, Report};
use crate::problem::Problem;
use crate::report::{self, EigenReport, Subject};
use crate::request::{Matrix, ProblemRequest};

/// Points along a line, and along each side of a plane, where nothing is asked: odd, so that the middle is one.
const POINTS: [usize; 2] = [51, 21];
/// Points on a side, at most.
const MOST: usize = 10_001;

/// A direction in the space of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The unit eigenvector of so many-th largest eigenvalue, from 1, that [`eigen`](crate::eigen()) found.
    Eigenvector(usize),
    /// The unit vector along the loss's gradient.
    Gradient,
    /// A random one, in which every filter (a row of a weight's first axis) has the norm that it has in the network, and
    /// tensors of one axis (biases, norms) are left out: Li et al., "Visualizing the loss landscape of neural nets"
    /// (NeurIPS 2018). Directions of one request are different ones.
    Random,
    /// From the network to the parameters in a file, at 1.
    To(PathBuf),
}

impl FromStr for Direction {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.parse()) {
            (_, Ok(number)) => Self::Eigenvector(number),
            ("gradient", _) => Self::Gradient,
            ("random", _) => Self::Random,
            (file, _) => Self::To(file.into()),
        })
    }
}

impl Direction {
    fn name(&self) -> String {
        match self {
            Self::Eigenvector(i) => format!("eigenvector {i}"),
            Self::Gradient => "gradient".into(),
            Self::Random => "random, filter-normalised".into(),
            Self::To(file) => format!("to {}", file.display()),
        }
    }
}

/// Asks for the loss along directions.
#[derive(Clone, Debug)]
pub struct SurfaceRequest {
    /// The network, the samples and the matrix of the quadratic model.
    pub problem: ProblemRequest,
    /// One, or two.
    pub along: Vec<Direction>,
    /// From minus so many times each direction to so many times.
    pub range: f64,
    /// Points along each; 51 along one direction and 21 along two where absent.
    pub points: Option<usize>,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// The loss along directions: `surface.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SurfaceReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// The loss in the middle, at the network.
    pub loss: f64,
    /// One or two directions d.
    pub directions: Vec<SurfaceDirection>,
    /// d_i^T A d_j, A being the matrix that was asked for.
    pub curvature: Vec<Vec<f64>>,
    /// Multiples t of each direction at which the loss is given.
    pub coordinates: Vec<f64>,
    /// The loss at t_i d_1 + t_j d_2 from the network, row i and column j; of one direction a single column. None where it
    /// is not finite.
    pub losses: Vec<Vec<Option<f64>>>,
    /// L + t g^T d + t^T C t / 2 at these points, g being the gradient and C the curvature; none where it is not finite.
    pub model: Vec<Vec<Option<f64>>>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// A direction of a [`SurfaceReport`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SurfaceDirection {
    /// What it is.
    pub name: String,
    /// The direction's length |d|.
    pub norm: f64,
    /// g^T d.
    pub slope: f64,
}

impl Report for SurfaceReport {
    const KIND: &'static str = "surface";
    const STUDY: &'static str = "surface";
}

/// Computes the loss at all points and writes it down.
///
/// # Errors
/// The request makes no sense, the eigenvectors are about something else, something else stands where the answer is to
/// go, or the observer wishes to stop.
pub fn surface(args: &SurfaceRequest, observer: &dyn Observer) -> Result<SurfaceReport> {
    let started = Instant::now();
    output::claim::<SurfaceReport>(args.to.as_deref())?;
    let points = check(args)?;
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let start = problem.loss_and_gradient()?;
    let d = directions(args, &problem, &start.gradient)?;
    let mut ad = Mat::zeros(d.nrows(), d.ncols());
    problem.derivatives.product(args.problem.operator.operator(), d.as_ref(), ad.as_mut())?;
    let count = d.ncols();
    let g = MatRef::from_column_major_slice(&start.gradient, d.nrows(), 1);
    let (gd, dad) = (d.transpose() * g, d.transpose() * &ad);
    let slopes: Vec<f64> = (0..count).map(|i| gd[(i, 0)]).collect();
    let curvature: Vec<Vec<f64>> = (0..count).map(|i| (0..count).map(|j| dad[(i, j)]).collect()).collect();
    let middle = (points - 1) as f64 / 2.0;
    let coordinates: Vec<f64> = (0..points).map(|i| args.range * (i as f64 - middle) / middle).collect();
    // Of one direction the other coordinate is zero.
    let across = if count == 1 { vec![0.0] } else { coordinates.clone() };
    let quadratic = |t: [f64; 2]| {
        let linear: f64 = slopes.iter().zip(t).map(|(slope, t)| slope * t).sum();
        let square = |i: usize| (0..count).map(|j| t[i] * t[j] * curvature[i][j]).sum::<f64>();
        Some(start.loss + linear + 0.5 * (0..count).map(square).sum::<f64>()).filter(|x| x.is_finite())
    };
    let model = coordinates.iter().map(|&a| across.iter().map(|&b| quadratic([a, b])).collect()).collect();
    let stage = Stage::begin(observer, "losses", (points * across.len()) as u64);
    let mut losses = Vec::with_capacity(points);
    for &a in &coordinates {
        let mut row = Vec::with_capacity(across.len());
        for &b in &across {
            if stage.should_stop() {
                bail!(StudyError::Stopped);
            }
            row.push(loss_at(&problem, args, &d, [a, b])?);
            stage.advance(1);
        }
        losses.push(row);
    }
    let named = args.along.iter().zip(&slopes).enumerate();
    let report = SurfaceReport {
        subject: problem.subject(&args.problem),
        loss: start.loss,
        directions: named
            .map(|(i, (direction, &slope))| SurfaceDirection {
                name: direction.name(),
                norm: norm_l2(d.col_as_slice(i)),
                slope,
            })
            .collect(),
        curvature,
        coordinates,
        losses,
        model,
        seconds: started.elapsed().as_secs_f64(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// How many points there are along each direction; refuses what makes no sense.
fn check(args: &SurfaceRequest) -> Result<usize> {
    let refuse = |words: String| bail!(Invalid(words));
    if !matches!(args.along.len(), 1 | 2) {
        return refuse(format!("`along`: {} directions; give one or two", args.along.len()));
    }
    if !(args.range > 0.0 && args.range.is_finite()) {
        return refuse(format!("`range` {}: give a positive number", args.range));
    }
    if !args.problem.only.is_empty() {
        return refuse("directions are of all parameters: leave `only` out".into());
    }
    if args.problem.operator == Matrix::Fisher {
        return refuse("the quadratic model is the loss's: `operator` hessian, or ggn".into());
    }
    let points = args.points.unwrap_or(POINTS[args.along.len() - 1]);
    if points < 3 || points.is_multiple_of(2) || points > MOST {
        return refuse(format!(
            "`points` {points}: give an odd number from 3 to {MOST}, so that one is in the middle"
        ));
    }
    Ok(points)
}

/// The loss some way from the network; none where it is not finite.
fn loss_at(problem: &Problem, args: &SurfaceRequest, d: &Mat<f64>, t: [f64; 2]) -> Result<Option<f64>> {
    let at = |(i, theta): (usize, &f64)| theta + (0..d.ncols()).map(|j| t[j] * d[(i, j)]).sum::<f64>();
    let theta: Vec<f64> = problem.target.theta.iter().enumerate().map(at).collect();
    let there = match problem.at(&theta, args.problem.dtype) {
        Ok(there) => there.loss_and_gradient(),
        Err(error) => match error.downcast::<CurvatureError>() {
            Ok(error) => Err(error),
            Err(other) => return Err(other),
        },
    };
    match there {
        Ok(found) => Ok(Some(found.loss)),
        Err(CurvatureError::NotFinite { .. }) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// The directions along the columns of a matrix.
fn directions(args: &SurfaceRequest, problem: &Problem, gradient: &[f64]) -> Result<Mat<f64>> {
    let (target, layout) = (&problem.target, problem.target.graph.layout());
    let mut rng = ChaCha8Rng::seed_from_u64(args.problem.seed);
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(args.along.len());
    for direction in &args.along {
        columns.push(match direction {
            Direction::Eigenvector(i) => eigenvector(*i, args, problem)?,
            Direction::Gradient => {
                let norm = norm_l2(gradient);
                if norm == 0.0 {
                    bail!(Invalid("`along` gradient: it is zero here".into()));
                }
                gradient.iter().map(|g| g / norm).collect()
            }
            Direction::Random => {
                let normal = (0..layout.len()).map(|_| StandardNormal.sample(&mut rng)).collect();
                filter_normalised(normal, &target.theta, layout)
            }
            Direction::To(file) => {
                let there = read_parameters(file, layout)?.parameters;
                let d: Vec<f64> = there.iter().zip(&target.theta).map(|(there, here)| there - here).collect();
                if norm_l2(&d) == 0.0 {
                    bail!(Invalid(format!(
                        "`along` {}: these are the network's own parameters",
                        file.display()
                    )));
                }
                d
            }
        });
    }
    Ok(Mat::from_fn(layout.len(), columns.len(), |i, j| columns[j][i]))
}

/// One of the eigenvectors in the run's reports.
fn eigenvector(i: usize, args: &SurfaceRequest, problem: &Problem) -> Result<Vec<f64>> {
    let Some(run) = &args.problem.run else {
        bail!(Invalid(
            "`along` an eigenvector: it is read from a run's reports; give a run directory".into()
        ));
    };
    let run = RunDirectory::open(run)?;
    let path = report_path(&run)?;
    let found: EigenReport = report::read(&path)?;
    check_subject(&path, &found.subject, &problem.subject(&args.problem))?;
    if i == 0 || i > found.eigenvalues.len() {
        bail!(Invalid(format!(
            "`along` {i}: {} holds eigenvectors 1 to {}",
            path.display(),
            found.eigenvalues.len()
        )));
    }
    let (layout, p) = (problem.derivatives.layout(), problem.derivatives.dim());
    let vectors = read_vectors(&path, Some(&run), layout, &found)?;
    Ok(vectors[(i - 1) * p..i * p].to_vec())
}

/// Gives every filter of a direction the norm that it has in θ; zero where a tensor has one axis.
fn filter_normalised(mut d: Vec<f64>, theta: &[f64], layout: &ParamLayout) -> Vec<f64> {
    for param in layout.params() {
        let (d, theta) = (&mut d[param.range()], &theta[param.range()]);
        let filters = if param.shape.len() > 1 { param.shape[0] } else { 0 };
        if filters == 0 {
            d.fill(0.0);
            continue;
        }
        let len = theta.len() / filters;
        for (d, theta) in d.chunks_mut(len).zip(theta.chunks(len)) {
            let factor = norm_l2(theta) / norm_l2(d).max(f64::MIN_POSITIVE);
            d.iter_mut().for_each(|x| *x *= factor);
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use qn_model::{Graph, Preset};

    use super::*;

    #[test]
    fn filters_keep_their_norms_and_biases_stay() {
        let graph = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap();
        let layout = graph.layout();
        let wave = |f: f64| (0..layout.len()).map(|i| (f * i as f64).sin()).collect::<Vec<f64>>();
        let (theta, d) = (wave(0.7), filter_normalised(wave(1.3), &wave(0.7), layout));
        for param in layout.params() {
            let (d, theta) = (&d[param.range()], &theta[param.range()]);
            if param.shape.len() == 1 {
                assert!(d.iter().all(|x| *x == 0.0));
                continue;
            }
            let len = d.len() / param.shape[0];
            for (d, theta) in d.chunks(len).zip(theta.chunks(len)) {
                assert!((norm_l2(d) - norm_l2(theta)).abs() < 1e-12);
            }
        }
    }
}
