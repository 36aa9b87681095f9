//! The density of all eigenvalues, by stochastic Lanczos quadrature.

use faer::Mat;
use faer::prelude::Reborrow as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::operator::multiply;
use crate::orthogonal::project_out;
use crate::tall::norm_l2;
use crate::trace::{at_least, signs};
use crate::{FullSpectrum, Scalar, SpectrumError, SymmetricOperator};

/// What is asked of [`density`].
#[derive(Clone, Debug)]
pub struct DensityOptions {
    /// Random starting vectors; the standard error falls with their square root.
    pub probes: usize,
    /// Lanczos steps a probe; more resolve more of the spectrum.
    pub steps: usize,
    /// Points of the grid.
    pub points: usize,
    /// Width σ of the Gaussian that stands for an eigenvalue; 1/100 of the spectrum's width if `None`.
    pub sigma: Option<f64>,
    /// Seed of the probes.
    pub seed: u64,
}

/// φ(t) = (1/n) Σ_i N(t; λ_i, σ²) on a grid.
#[derive(Clone, Debug)]
pub struct Density {
    /// Points t at which the density is given.
    pub grid: Vec<f64>,
    /// φ(t); integrates to one.
    pub density: Vec<f64>,
    /// Standard error of φ(t) over the probes.
    pub standard_error: Vec<f64>,
    /// Standard deviation σ of the Gaussian around each Ritz value.
    pub sigma: f64,
    /// Quadrature nodes and weights of every probe; a probe's weights add up to one.
    pub nodes: Vec<Vec<(f64, f64)>>,
    /// Products with single vectors.
    pub matvecs: usize,
}

/// Probes that go through Lanczos side by side, so that products come in blocks.
const BLOCK: usize = 10;

/// Stochastic Lanczos quadrature (Ubaru, Chen & Saad, 2017): m Lanczos steps from a random unit vector
/// v give nodes θ_i and weights τ_i with Σ τ_i f(θ_i) ≈ vᵀ f(A) v, whose mean over v is tr f(A) / n.
///
/// # Errors
/// Fewer than two probes, no steps, fewer than two points, `sigma` below what the points can show, or a product fails.
pub fn density<S: Scalar>(
    operator: &impl SymmetricOperator<S>,
    options: &DensityOptions,
) -> Result<Density, SpectrumError> {
    at_least(options.probes, 2)?;
    at_least(options.steps, 1)?;
    at_least(options.points, 2)?;
    let n = operator.dim();
    let steps = options.steps.min(n);
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut nodes = Vec::with_capacity(options.probes);
    let mut matvecs = 0;
    while nodes.len() < options.probes {
        let b = BLOCK.min(options.probes - nodes.len());
        let signs = signs(n, b, &mut rng);
        let length = 1.0 / (n as f64).sqrt();
        let starts = Mat::from_fn(n, b, |i, j| S::of(signs[(i, j)] * length));
        for tridiagonal in side_by_side(operator, &starts, steps, &mut matvecs)? {
            nodes.push(quadrature(&tridiagonal)?);
        }
    }
    let all = || nodes.iter().flatten().map(|&(node, _)| node);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let spread = if high > low { high - low } else { high.abs().max(1.0) };
    let sigma = options.sigma.unwrap_or(spread / 100.0);
    // The trapezoidal sum of a Gaussian is right to 1e-8 where its sigma is no less than the step.
    let steps = options.points as f64 - 1.0;
    let least = spread / (steps - 8.0).max(1.0);
    if !(sigma.is_finite() && sigma >= least * (1.0 - 1e-9)) {
        return Err(SpectrumError::Sigma { sigma, points: options.points, least });
    }
    let (from, to) = (low - 4.0 * sigma, high + 4.0 * sigma);
    let at = |i: usize| from + (to - from) * i as f64 / (options.points - 1) as f64;
    let grid: Vec<f64> = (0..options.points).map(at).collect();
    let estimates: Vec<crate::Estimate> = grid
        .iter()
        .map(|&t| {
            let smoothed =
                |probe: &Vec<(f64, f64)>| probe.iter().map(|&(x, w)| w * gaussian(t - x, sigma)).sum();
            crate::Estimate::from_samples(&nodes.iter().map(smoothed).collect::<Vec<f64>>())
        })
        .collect();
    Ok(Density {
        grid,
        density: estimates.iter().map(|e| e.value).collect(),
        standard_error: estimates.iter().map(|e| e.standard_error).collect(),
        sigma,
        nodes,
        matvecs,
    })
}

fn gaussian(x: f64, sigma: f64) -> f64 {
    (-0.5 * (x / sigma).powi(2)).exp() / (sigma * (2.0 * std::f64::consts::PI).sqrt())
}

/// Diagonal and off-diagonal of Vᵀ A V.
#[derive(Default)]
struct Tridiagonal {
    diagonal: Vec<f64>,
    off: Vec<f64>,
    /// An invariant subspace was reached: the quadrature is exact and goes no further.
    done: bool,
}

/// Lanczos with full reorthogonalisation from each column of `starts`.
fn side_by_side<S: Scalar>(
    operator: &impl SymmetricOperator<S>,
    starts: &Mat<S>,
    steps: usize,
    matvecs: &mut usize,
) -> Result<Vec<Tridiagonal>, SpectrumError> {
    let (n, b) = (starts.nrows(), starts.ncols());
    let mut bases: Vec<Mat<S>> = (0..b)
        .map(|j| {
            let mut basis = Mat::zeros(n, steps + 1);
            basis.col_mut(0).copy_from(starts.col(j));
            basis
        })
        .collect();
    let mut found: Vec<Tridiagonal> = (0..b).map(|_| Tridiagonal::default()).collect();
    for step in 0..steps {
        let alive: Vec<usize> = (0..b).filter(|&j| !found[j].done).collect();
        if alive.is_empty() {
            break;
        }
        let x = Mat::from_fn(n, alive.len(), |i, a| bases[alive[a]][(i, step)]);
        let mut w = Mat::zeros(n, alive.len());
        multiply(operator, x.as_ref(), w.as_mut())?;
        *matvecs += alive.len();
        for (a, &j) in alive.iter().enumerate() {
            let mut column = w.as_mut().subcols_mut(a, 1);
            let before = norm_l2(column.rb());
            let coefficients = project_out(bases[j].as_ref().subcols(0, step + 1), column.as_mut());
            let beta = norm_l2(column.rb());
            found[j].diagonal.push(coefficients[(step, 0)]);
            if beta <= S::LEFT * before {
                found[j].done = true;
            } else {
                found[j].off.push(beta);
                let next = bases[j].col_mut(step + 1).iter_mut();
                next.zip(w.col(a).iter()).for_each(|(next, w)| *next = S::of(w.f64() * (1.0 / beta)));
            }
        }
    }
    Ok(found)
}

/// Eigenvalues and squared first components of the eigenvectors.
fn quadrature(t: &Tridiagonal) -> Result<Vec<(f64, f64)>, SpectrumError> {
    let m = t.diagonal.len();
    let matrix = Mat::from_fn(m, m, |i, j| match i.abs_diff(j) {
        0 => t.diagonal[i],
        1 => t.off[i.min(j)],
        _ => 0.0,
    });
    let FullSpectrum { values, vectors } = FullSpectrum::of(matrix.as_ref())?;
    Ok(values.into_iter().enumerate().map(|(i, value)| (value, vectors[(0, i)].powi(2))).collect())
}
