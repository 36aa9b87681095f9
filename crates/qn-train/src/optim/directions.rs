use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use faer::Mat;
use qn_spectrum::{FullSpectrum, Preconditioner, Stability};

use crate::rows::squares;

/// A step that treats a subspace in a way of its own: b g + Vᵀ M V g, V having the subspace's directions as rows.
pub(crate) struct Directions {
    /// V, [k, P]; the rows need not be orthogonal, nor of unit length.
    rows: Tensor,
    /// The matrix M that acts inside the subspace.
    inside: Inside,
    /// The step b along everything outside of it.
    outside: f64,
    /// The Newton steps W, unscaled, of which M is made; none where the step is a projection.
    newton: Option<Inside>,
}

enum Inside {
    /// diag(m), [k], f64.
    Diagonal(Tensor),
    /// [k, k], f64.
    Full(Tensor),
}

impl Inside {
    /// The matrix on the host, [k, k].
    fn matrix(&self) -> Result<Mat<f64>> {
        Ok(match self {
            Self::Diagonal(m) => {
                let m: Vec<f64> = m.to_vec1()?;
                Mat::from_fn(m.len(), m.len(), |i, j| if i == j { m[i] } else { 0.0 })
            }
            Self::Full(m) => host_matrix(m)?,
        })
    }
}

/// How long Newton steps are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewtonStep {
    /// d: the step is 1/(λ + d).
    pub(crate) damping: f64,
    /// It is at most so long; infinity for any length.
    pub(crate) longest: f64,
    /// What the Newton steps are multiplied by.
    pub(crate) scale: f64,
    /// η, the step of everything else.
    pub(crate) lr: f64,
}

/// An eigenvalue of the curvature in the span that is smaller than so much of the largest is rounding of single
/// precision: no Newton step is taken along its eigenvector.
const FLAT: f64 = 1e-6;

impl Directions {
    /// Newton steps along the rows, eq. (15): W = diag(w_k / |row_k|²) with w_k = min(1/(λ_k + d), longest),
    /// M = s W − η diag(1/|row_k|²), b = η, s being the scale. A zero row keeps its SGD step; so does one whose λ_k + d
    /// is not positive, unless there is a longest step, which it takes.
    pub(crate) fn newton(rows: Tensor, lambda: &Tensor, step: NewtonStep) -> Result<Self> {
        let NewtonStep { damping, longest, scale, lr } = step;
        let squares = squares(&rows)?;
        let none = squares.eq(0.0)?.to_dtype(DType::F64)?;
        let squares = (squares + none)?;
        let damped = (lambda + damping)?;
        let flat = damped.le(0.0)?.to_dtype(DType::F64)?;
        let lengths = (damped + &flat)?.recip()?;
        let (lengths, moved) = if longest.is_finite() {
            let steep = (&flat * -1.0)?.affine(1.0, 1.0)?;
            ((lengths.minimum(longest)? * steep)?.add(&(&flat * longest)?)?, flat.ones_like()?)
        } else {
            (lengths, (1.0 - flat)?)
        };
        let inside = (((&lengths * scale)? - lr)? * &moved)?.div(&squares)?;
        let newton = (lengths * moved)?.div(&squares)?;
        let newton = Some(Inside::Diagonal(newton));
        Ok(Self { rows, inside: Inside::Diagonal(inside), outside: lr, newton })
    }

    /// Newton steps in the span of orthonormal rows Q, where the curvature is the symmetric matrix B = Q A Qᵀ:
    /// W = U min((|β| + d)⁻¹, longest) Uᵀ with B = U β Uᵀ, M = s W − η, b = η, s being the scale. Where |β| + d is at most
    /// 10⁻⁶ of the largest |β| the SGD step stays, unless there is a longest step, which is taken.
    pub(crate) fn newton_in_span(rows: Tensor, curvature: &Mat<f64>, step: NewtonStep) -> Result<Self> {
        let NewtonStep { damping, longest, scale, lr } = step;
        let FullSpectrum { values: beta, vectors: u } =
            FullSpectrum::of(curvature.as_ref()).context("the curvature along the class gradients")?;
        let k = curvature.nrows();
        let flat = FLAT * beta.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        let length = |beta: f64| match beta.abs() + damping {
            size if size > flat => Some((1.0 / size).min(longest)),
            _ => longest.is_finite().then_some(longest),
        };
        let lengths: Vec<Option<f64>> = beta.iter().map(|&b| length(b)).collect();
        let in_rows = |of: &dyn Fn(f64) -> f64| {
            let entry = |i: usize, j: usize| {
                let terms = lengths.iter().enumerate().filter_map(|(l, w)| Some((l, of((*w)?))));
                terms.map(|(l, w)| u[(i, l)] * w * u[(j, l)]).sum::<f64>()
            };
            let entries: Vec<f64> = (0..k * k).map(|at| entry(at / k, at % k)).collect();
            anyhow::Ok(Inside::Full(Tensor::from_vec(entries, (k, k), rows.device())?))
        };
        let inside = in_rows(&|w| scale * w - lr)?;
        let newton = Some(in_rows(&|w| w)?);
        Ok(Self { rows, inside, outside: lr, newton })
    }

    /// η times the part of g in the span of orthonormal rows, or what is left without it.
    pub(crate) fn projected(rows: Tensor, keep_inside: bool, lr: f64) -> Result<Self> {
        let (inside, outside) = if keep_inside { (lr, 0.0) } else { (-lr, lr) };
        let m = Tensor::full(inside, rows.dim(0)?, rows.device())?;
        Ok(Self { rows, inside: Inside::Diagonal(m), outside, newton: None })
    }

    /// How stable the Newton steps are where the curvature is the model matrix M̃ = Σ_jl M_jl ĉ_j ĉ_lᵀ of averaged class
    /// gradients ĉ, [C, P], and a batch's M, [C, C]; `None` for a projection, and
    /// where a number is not finite.
    pub(crate) fn stability(&self, gradients: &Tensor, logit_hessian: &Tensor) -> Result<Option<Stability>> {
        let Some(newton) = &self.newton else { return Ok(None) };
        let curvature = model_curvature(&self.rows, gradients, logit_hessian)?;
        let step = Preconditioner {
            gram: host_matrix(&self.rows.matmul(&self.rows.t()?)?.to_dtype(DType::F64)?)?,
            newton: newton.matrix()?,
            inside: self.inside.matrix()?,
            outside: self.outside,
        };
        Ok(Stability::of(&step, &curvature)?)
    }

    /// b g + Vᵀ M V g.
    pub(crate) fn apply(&self, g: &Tensor) -> Result<Tensor> {
        let along = self.rows.matmul(&g.unsqueeze(1)?)?.to_dtype(DType::F64)?;
        let weights = match &self.inside {
            Inside::Diagonal(m) => along.squeeze(1)?.mul(m)?.unsqueeze(1)?,
            Inside::Full(m) => m.matmul(&along)?,
        };
        let back = weights.t()?.to_dtype(g.dtype())?.matmul(&self.rows)?.squeeze(0)?;
        Ok(((g * self.outside)? + back)?)
    }
}

/// V M̃ Vᵀ, [k, k], with the model matrix M̃ = Σ_jl M_jl c_j c_lᵀ of class gradients c, [C, P], and M, [C, C], f64.
pub(crate) fn model_curvature(rows: &Tensor, gradients: &Tensor, logit_hessian: &Tensor) -> Result<Mat<f64>> {
    let cross = rows.matmul(&gradients.t()?)?.to_dtype(DType::F64)?;
    let curvature = host_matrix(&cross.matmul(logit_hessian)?.matmul(&cross.t()?)?)?;
    let k = curvature.nrows();
    Ok(Mat::from_fn(k, k, |i, j| 0.5 * (curvature[(i, j)] + curvature[(j, i)])))
}

fn host_matrix(m: &Tensor) -> Result<Mat<f64>> {
    let (rows, columns) = m.dims2()?;
    let entries: Vec<f64> = m.flatten_all()?.to_vec1()?;
    Ok(Mat::from_fn(rows, columns, |i, j| entries[i * columns + j]))
}

/// Rows divided by their norms; zero rows stay zero.
pub(crate) fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let norms = rows.sqr()?.sum_keepdim(1)?.sqrt()?;
    let safe = (&norms + norms.eq(0.0)?.to_dtype(norms.dtype())?)?;
    Ok(rows.broadcast_div(&safe)?)
}

/// Gram–Schmidt in class order, each row made orthogonal twice; dependent rows become zero.
pub(crate) fn orthonormal_rows(rows: &Tensor) -> Result<Tensor> {
    let rows = unit_rows(rows)?;
    let mut done: Vec<Tensor> = Vec::new();
    for k in 0..rows.dim(0)? {
        let mut row = rows.narrow(0, k, 1)?;
        if !done.is_empty() {
            let q = Tensor::cat(&done, 0)?;
            for _ in 0..2 {
                row = (&row - row.matmul(&q.t()?)?.matmul(&q)?)?;
            }
        }
        // What is left of a unit row that depends on the others is rounding.
        let alive = row.sqr()?.sum_keepdim(1)?.gt(1e-10)?.to_dtype(row.dtype())?;
        done.push(unit_rows(&row.broadcast_mul(&alive)?)?);
    }
    Ok(Tensor::cat(&done, 0)?)
}
