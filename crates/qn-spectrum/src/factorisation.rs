//! The state of thick-restart block Lanczos.
//!
//! Behind vectors X that are locked (n × l, orthonormal; none as a rule) the basis V (n × m, orthonormal, ⊥ X) and the
//! next block Q satisfy `(I − X Xᵀ) A V = V T + Q B Eᵀ`, T being m × m, B b × b and E the last b columns of the identity
//! (Wu & Simon, 2000, with blocks). At a restart V is replaced by the best Ritz vectors; T becomes diagonal, the
//! coupling to Q fills its last rows, and the identity holds again after the next product, whose coefficients against
//! the whole basis are computed, not assumed.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::operator::multiply;
use crate::orthogonal::{fill_random, orthonormalise, project_out};
use crate::tall::{norm_l2, product};
use crate::{FullSpectrum, Scalar, SpectrumError, SymmetricOperator, Which};

/// |xᵀAy − yᵀAx| of two vectors of a block, relative to the largest |Ax|. Products in single precision are symmetric to
/// some 1e-6 (LeNet); an operator without symmetry shows itself by 1/√n of its size at a random pair.
const ASYMMETRY: f64 = 1e-4;

/// `(I − X Xᵀ) A V = V T + Q B Eᵀ`; see the module.
pub(crate) struct Factorisation<S> {
    /// X in the first `locked` columns, V in the next `size`, Q in the next `block`.
    basis: Mat<S>,
    locked: usize,
    size: usize,
    pub(crate) block: usize,
    /// The projected matrix T.
    projected: Mat<f64>,
    /// The coupling B of the last block to the residual.
    coupling: Mat<f64>,
    ncv: usize,
    /// Largest |λ| seen so far, for relative residuals.
    pub(crate) scale: f64,
    rng: ChaCha8Rng,
    pub(crate) matvecs: usize,
    /// Whether an invariant subspace was met and left in a random direction.
    pub(crate) broke_down: bool,
}

/// Ritz pairs of a factorisation, most wanted first.
pub(crate) struct Ritz {
    pub(crate) values: Vec<f64>,
    /// Coefficients in the basis.
    vectors: Mat<f64>,
    /// Residuals |B Eᵀ s| relative to the largest |λ|.
    estimates: Vec<f64>,
}

impl Ritz {
    /// The largest estimate of the first k.
    pub(crate) fn worst(&self, k: usize) -> f64 {
        self.estimates.iter().take(k).fold(0.0, |a, &b| a.max(b))
    }

    /// How many of the first k estimates are within a tolerance.
    pub(crate) fn within(&self, k: usize, tol: f64) -> usize {
        self.estimates.iter().take(k).filter(|&&e| e <= tol).count()
    }
}

impl<S: Scalar> Factorisation<S> {
    /// A random block orthogonal to `locked`, and room for `ncv` more vectors. There must be more than
    /// `locked` + `ncv` + `block` dimensions. `scale` is the largest |λ| of A that is known of.
    pub(crate) fn start(locked: MatRef<'_, S>, (ncv, block): (usize, usize), scale: f64, seed: u64) -> Self {
        let (n, l) = (locked.nrows(), locked.ncols());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut basis = Mat::zeros(n, l + ncv + block);
        basis.as_mut().subcols_mut(0, l).copy_from(locked);
        let mut first = basis.as_mut().subcols_mut(l, block);
        fill_random(first.as_mut(), &mut rng);
        project_out(locked, first.as_mut());
        orthonormalise(locked, first, 0.0, &mut rng);
        let (projected, coupling) = (Mat::zeros(ncv, ncv), Mat::zeros(block, block));
        Self {
            basis,
            locked: l,
            size: 0,
            block,
            projected,
            coupling,
            ncv,
            scale,
            rng,
            matvecs: 0,
            broke_down: false,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.size + self.block > self.ncv
    }

    /// Whether the Ritz values can be the wanted ones. Inside an invariant subspace every residual
    /// is zero and nothing is known of the rest, so after a breakdown the whole basis is used first.
    pub(crate) fn can_answer(&self, k: usize) -> bool {
        self.size >= k && (!self.broke_down || self.is_full())
    }

    fn vectors(&self) -> MatRef<'_, S> {
        self.basis.as_ref().subcols(self.locked, self.size)
    }

    /// The converged vectors X, which later ones are kept orthogonal to.
    pub(crate) fn locked(&self) -> MatRef<'_, S> {
        self.basis.as_ref().subcols(0, self.locked)
    }

    /// Takes the next block into the basis.
    pub(crate) fn expand(&mut self, operator: &impl SymmetricOperator<S>) -> Result<(), SpectrumError> {
        let (old, b) = (self.size, self.block);
        let mut w = Mat::zeros(operator.dim(), b);
        multiply(operator, self.basis.as_ref().subcols(self.locked + old, b), w.as_mut())?;
        self.matvecs += b;
        self.size += b;
        // Roundings are relative to A, of which little may be left here.
        let norm = norm_l2(w.as_ref()).max(self.scale);
        let basis = self.basis.as_ref().subcols(0, self.locked + self.size);
        let all = project_out(basis, w.as_mut());
        self.coupling = orthonormalise(basis, w.as_mut(), S::LEFT * norm, &mut self.rng);
        self.broke_down |= (0..b).any(|j| self.coupling[(j, j)] == 0.0);
        self.record(all.as_ref().subrows(self.locked, self.size), old, norm)?;
        self.basis.as_mut().subcols_mut(self.locked + self.size, b).copy_from(&w);
        Ok(())
    }

    /// Takes the coefficients of the products with the basis' vectors from `old` on into T.
    fn record(&mut self, coefficients: MatRef<'_, f64>, old: usize, norm: f64) -> Result<(), SpectrumError> {
        let b = self.block;
        for j in 0..b {
            for i in 0..self.size {
                let c = coefficients[(i, j)];
                self.projected[(i, old + j)] = c;
                self.projected[(old + j, i)] = c;
            }
        }
        // The block's own square is symmetric up to rounding; keep its symmetric part.
        let mut skew: f64 = 0.0;
        for j in 0..b {
            for i in 0..j {
                let (upper, lower) = (coefficients[(old + i, j)], coefficients[(old + j, i)]);
                let mean = 0.5 * upper + 0.5 * lower;
                skew = skew.max((upper - lower).abs());
                self.projected[(old + i, old + j)] = mean;
                self.projected[(old + j, old + i)] = mean;
            }
        }
        let asymmetry = skew / norm.max(f64::MIN_POSITIVE);
        if asymmetry > ASYMMETRY {
            return Err(SpectrumError::Asymmetric { asymmetry, bound: ASYMMETRY });
        }
        Ok(())
    }

    /// Rayleigh–Ritz on the basis.
    pub(crate) fn ritz(&mut self, which: Which) -> Result<Ritz, SpectrumError> {
        let m = self.size;
        let projected = self.projected.as_ref().submatrix(0, 0, m, m);
        let FullSpectrum { values: ascending, vectors } = FullSpectrum::of(projected)?;
        self.scale = ascending.iter().fold(self.scale, |a, v| a.max(v.abs()));
        let order = which.order(&ascending);
        let vectors = Mat::from_fn(m, m, |i, j| vectors[(i, order[j])]);
        let mut last = Mat::zeros(self.block, m);
        let tail = vectors.as_ref().subrows(m - self.block, self.block);
        matmul(last.as_mut(), Accum::Replace, self.coupling.as_ref(), tail, 1.0, Par::Seq);
        let relative = |norm: f64| if self.scale > 0.0 { norm / self.scale } else { 0.0 };
        let mut estimates: Vec<f64> = last.col_iter().map(|c| relative(c.norm_l2())).collect();
        // A basis smaller than what is wanted has not converged, whatever its residuals.
        estimates.resize(self.ncv, f64::INFINITY);
        Ok(Ritz { values: order.iter().map(|&i| ascending[i]).collect(), vectors, estimates })
    }

    /// Ritz vectors number `columns` in R^n.
    pub(crate) fn lift(&self, ritz: &Ritz, columns: &[usize]) -> Mat<S> {
        let coefficients = Mat::from_fn(self.size, columns.len(), |i, j| ritz.vectors[(i, columns[j])]);
        product(self.vectors(), coefficients.as_ref())
    }

    /// Replaces the basis by the best Ritz vectors, half of the rest beyond k among them.
    pub(crate) fn restart(&mut self, ritz: &Ritz, k: usize) {
        let (l, b) = (self.locked, self.block);
        let keep = (k + (self.size - k) / 2).min(self.size - b);
        let kept = self.lift(ritz, &(0..keep).collect::<Vec<_>>());
        let next = self.basis.as_ref().subcols(l + self.size, b).to_owned();
        self.basis.as_mut().subcols_mut(l, keep).copy_from(&kept);
        self.basis.as_mut().subcols_mut(l + keep, b).copy_from(&next);
        self.projected.fill(0.0);
        for (i, &value) in ritz.values.iter().take(keep).enumerate() {
            self.projected[(i, i)] = value;
        }
        self.size = keep;
    }
}
