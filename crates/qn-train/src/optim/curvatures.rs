//! Exact curvatures for the steps that want them, on the host.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use faer::{Mat, MatMut, MatRef};
use qn_curvature::{Curvature, Operator, Options, Samples};
use qn_spectrum::{LanczosOptions, OperatorError, SymmetricOperator, Which, lanczos};

use crate::Model;
use crate::model::to_f32s;

/// A network's curvature at its present parameters over some samples, in single precision.
pub(crate) struct Curvatures(Curvature<f32>);

impl Curvatures {
    /// Over images [N, ...] and their labels.
    pub(crate) fn new(
        network: &dyn Model,
        images: impl Iterator<Item = f64>,
        labels: impl Iterator<Item = u32>,
    ) -> Result<Self> {
        let graph = network.graph();
        let doubles = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<f64>>();
        let theta = doubles(to_f32s(&network.theta()?)?);
        let buffers: Vec<Vec<f64>> = network.buffers()?.into_iter().map(doubles).collect();
        let samples = Samples::new(graph.input().len(), images, labels.collect())?;
        let options = Options { threads: rayon::current_num_threads(), ..Options::default() };
        Ok(Self(Curvature::new(graph, &theta, &buffers, samples, &options)?))
    }

    /// V A Vᵀ for rows V, [k, P].
    pub(crate) fn along(&self, rows: &Tensor, which: Operator) -> Result<Mat<f64>> {
        let (k, p) = rows.dims2()?;
        let entries = to_f32s(rows)?;
        let q = Mat::from_fn(p, k, |i, j| f64::from(entries[j * p + i]));
        let mut product = Mat::zeros(p, k);
        self.0.product(which, q.as_ref(), product.as_mut())?;
        let inside = q.transpose() * &product;
        Ok(Mat::from_fn(k, k, |i, j| 0.5 * (inside[(i, j)] + inside[(j, i)])))
    }

    /// The Hessian's k top eigenvectors as orthonormal rows [k, P], to residuals of [`SUBSPACE_TOL`].
    pub(crate) fn top(&self, k: usize, device: &Device) -> Result<Tensor> {
        let options =
            LanczosOptions { k, which: Which::La, block: 2, tol: SUBSPACE_TOL, ..LanczosOptions::default() };
        let pairs = lanczos(self, &options, |_| ()).context("the Hessian's top eigenvectors")?;
        let (p, k) = (pairs.vectors.nrows(), pairs.vectors.ncols());
        let rows: Vec<f32> = pairs.vectors.col_iter().flat_map(|v| v.iter().map(|&x| x as f32)).collect();
        Ok(Tensor::from_vec(rows, (k, p), device)?)
    }
}

/// Relative to λ_1. A residual r turns a vector by about r over its gap; what is projected is the whole space, whose
/// gap to the rest is some hundredths of λ_1.
const SUBSPACE_TOL: f64 = 1e-3;

impl SymmetricOperator for Curvatures {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        Ok(self.0.product(Operator::Hessian, x, y)?)
    }
}
