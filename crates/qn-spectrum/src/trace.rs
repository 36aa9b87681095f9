//! Traces and Frobenius norms from products with random vectors.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::operator::multiply;
use crate::orthogonal::{orthonormalise, project_out};
use crate::scaling::safe_power;
use crate::{SpectrumError, SymmetricOperator};

/// A mean of independent samples.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Standard deviation of the samples over the square root of their number; 0 if the value is exact.
    pub standard_error: f64,
}

impl Estimate {
    /// Mean and standard error of at least two samples.
    pub fn from_samples(samples: &[f64]) -> Self {
        let n = samples.len() as f64;
        // By a power of two, so that squares stay in range.
        let power = safe_power::<f64>(samples.iter().fold(0.0f64, |a, x| a.max(x.abs())));
        let mean = samples.iter().map(|x| power * x).sum::<f64>() / n;
        let variance = samples.iter().map(|x| (power * x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Self { value: mean / power, standard_error: (variance / n).sqrt() / power }
    }
}

/// What products with random signs say about a matrix.
#[derive(Clone, Debug)]
pub struct TraceEstimate {
    /// tr A.
    pub trace: Estimate,
    /// ‖A‖²_F; `None` from [`hutch_plus_plus`], whose probes are not independent of A.
    pub frobenius_squared: Option<Estimate>,
    /// Products with single vectors.
    pub matvecs: usize,
}

/// Probes multiplied at a time.
const BLOCK: usize = 10;

/// Hutchinson's estimator: tr A = E zᵀ A z and ‖A‖²_F = E |A z|² for random signs z.
///
/// # Errors
/// Fewer than two probes, or a product fails.
pub fn hutchinson(
    operator: &impl SymmetricOperator,
    probes: usize,
    seed: u64,
) -> Result<TraceEstimate, SpectrumError> {
    at_least(probes, 2)?;
    let n = operator.dim();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut traces, mut squares) = (Vec::new(), Vec::new());
    while traces.len() < probes {
        let z = signs(n, BLOCK.min(probes - traces.len()), &mut rng);
        let mut az = Mat::zeros(n, z.ncols());
        multiply(operator, z.as_ref(), az.as_mut())?;
        for j in 0..z.ncols() {
            traces.push(z.col(j).transpose() * az.col(j));
            squares.push(az.col(j).squared_norm_l2());
        }
    }
    Ok(TraceEstimate {
        trace: Estimate::from_samples(&traces),
        frobenius_squared: Some(Estimate::from_samples(&squares)),
        matvecs: probes,
    })
}

/// Hutch++ (Meyer, Musco, Musco & Woodruff, 2021): a third of the products sketches the range of A,
/// a third takes the trace there exactly, and the rest estimates what is left over, which is small
/// when few eigenvalues dominate.
///
/// # Errors
/// Fewer than six products, or a product fails.
pub fn hutch_plus_plus(
    operator: &impl SymmetricOperator,
    products: usize,
    seed: u64,
) -> Result<TraceEstimate, SpectrumError> {
    at_least(products, 6)?;
    let n = operator.dim();
    let third = (products / 3).min(n);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sketch = signs(n, third, &mut rng);
    let mut q = Mat::zeros(n, third);
    multiply(operator, sketch.as_ref(), q.as_mut())?;
    let tiny = 100.0 * f64::EPSILON * q.norm_l2();
    let nothing = Mat::zeros(n, 0);
    orthonormalise(nothing.as_ref(), q.as_mut(), tiny, &mut rng);
    let inside: f64 = quadratic_forms(operator, q.as_ref())?.iter().sum();
    let mut probes = signs(n, products - 2 * third, &mut rng);
    project_out(q.as_ref(), probes.as_mut());
    let outside = Estimate::from_samples(&quadratic_forms(operator, probes.as_ref())?);
    // Of a matrix of low rank nothing is left outside but rounding, of which the samples do not tell.
    let rounding = f64::EPSILON * inside.abs();
    let standard_error = outside.standard_error.max(rounding);
    let trace = Estimate { value: inside + outside.value, standard_error };
    Ok(TraceEstimate { trace, frobenius_squared: None, matvecs: products })
}

/// xᵀ A x for every column.
fn quadratic_forms(operator: &impl SymmetricOperator, x: MatRef<'_, f64>) -> Result<Vec<f64>, SpectrumError> {
    let mut ax = Mat::zeros(x.nrows(), x.ncols());
    multiply(operator, x, ax.as_mut())?;
    let mut gram = Mat::zeros(x.ncols(), x.ncols());
    matmul(gram.as_mut(), Accum::Replace, x.transpose(), ax.as_ref(), 1.0, Par::Seq);
    Ok((0..x.ncols()).map(|j| gram[(j, j)]).collect())
}

/// An n × `count` matrix of independent random signs.
pub fn random_signs(n: usize, count: usize, seed: u64) -> Mat<f64> {
    signs(n, count, &mut ChaCha8Rng::seed_from_u64(seed))
}

/// Independent signs.
pub(crate) fn signs(n: usize, count: usize, rng: &mut ChaCha8Rng) -> Mat<f64> {
    let mut z = Mat::zeros(n, count);
    for column in z.col_iter_mut() {
        column.iter_mut().for_each(|v| *v = if rng.random::<bool>() { 1.0 } else { -1.0 });
    }
    z
}

pub(crate) fn at_least(found: usize, least: usize) -> Result<(), SpectrumError> {
    if found >= least { Ok(()) } else { Err(SpectrumError::Probes { found, least }) }
}
