use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use faer::Mat;
use qn_spectrum::FullSpectrum;

use crate::planes::squares;

/// A step that treats a subspace in a way of its own: b g + Vᵀ M V g, V having the subspace's directions as rows.
pub(crate) struct Directions {
    /// V, [k, P]; the rows need not be orthogonal, nor of unit length.
    rows: Tensor,
    /// M.
    inside: Inside,
    /// b.
    outside: f64,
}

enum Inside {
    /// M = diag(m), [k], f64.
    Diagonal(Tensor),
    /// [k, k], f64.
    Full(Tensor),
}

impl Directions {
    /// Newton steps along the rows, eq. (15): M = diag((1/(λ_k + d) − η) / |row_k|²), b = η. A zero row, and one whose
    /// λ_k + d is not positive, keeps its SGD step.
    pub(crate) fn newton(rows: Tensor, lambda: &Tensor, damping: f64, lr: f64) -> Result<Self> {
        let squares = squares(&rows)?;
        let none = squares.eq(0.0)?.to_dtype(DType::F64)?;
        let damped = (lambda + damping)?;
        let flat = damped.le(0.0)?.to_dtype(DType::F64)?;
        let newton = ((damped + &flat)?.recip()? - lr)?;
        let inside = ((newton * (1.0 - flat)?)? / (squares + none)?)?;
        Ok(Self { rows, inside: Inside::Diagonal(inside), outside: lr })
    }

    /// Newton steps in the span of orthonormal rows Q, where the curvature is the symmetric matrix B = Q A Qᵀ:
    /// M = U (|β| + d)⁻¹ Uᵀ − η with B = U β Uᵀ. Where |β| + d is zero the SGD step stays.
    pub(crate) fn newton_in_span(rows: Tensor, curvature: &Mat<f64>, damping: f64, lr: f64) -> Result<Self> {
        let FullSpectrum { values: beta, vectors: u } =
            FullSpectrum::of(curvature.as_ref()).context("the curvature along the class gradients")?;
        let k = curvature.nrows();
        let step = |i: usize| match beta[i].abs() + damping {
            size if size > 0.0 => 1.0 / size - lr,
            _ => 0.0,
        };
        let entry = |i: usize, j: usize| (0..k).map(|l| u[(i, l)] * step(l) * u[(j, l)]).sum::<f64>();
        let entries: Vec<f64> = (0..k * k).map(|at| entry(at / k, at % k)).collect();
        let inside = Inside::Full(Tensor::from_vec(entries, (k, k), rows.device())?);
        Ok(Self { rows, inside, outside: lr })
    }

    /// η times the part of g in the span of orthonormal rows, or what is left without it.
    pub(crate) fn projected(rows: Tensor, keep_inside: bool, lr: f64) -> Result<Self> {
        let (inside, outside) = if keep_inside { (lr, 0.0) } else { (-lr, lr) };
        let m = Tensor::full(inside, rows.dim(0)?, rows.device())?;
        Ok(Self { rows, inside: Inside::Diagonal(m), outside })
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

/// Rows divided by their norms; zero rows stay zero.
fn unit_rows(rows: &Tensor) -> Result<Tensor> {
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
