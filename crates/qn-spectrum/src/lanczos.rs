//! Thick-restart block Lanczos with full reorthogonalisation.
//!
//! After every expansion by a block of b vectors the basis V (n × m, orthonormal) and the next block
//! Q satisfy `A V = V T + Q B Eᵀ`, T being m × m, B b × b and E the last b columns of the identity
//! (Wu & Simon, 2000, with blocks). At a restart V is replaced by the best Ritz vectors; T becomes
//! diagonal, the coupling to Q fills its last rows, and the identity holds again after the next
//! product, whose coefficients against the whole basis are computed, not assumed.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::operator::multiply;
use crate::orthogonal::{fill_random, orthonormalise, project_out};
use crate::pairs::fix_signs;
use crate::{DenseSymmetric, Eigenpairs, FullSpectrum, SpectrumError, StopReason, SymmetricOperator, Which};

/// What is asked of [`lanczos`].
#[derive(Clone, Debug)]
pub struct LanczosOptions {
    /// Pairs wanted.
    pub k: usize,
    /// From which end.
    pub which: Which,
    /// Vectors multiplied at a time: at least the largest multiplicity that must be seen.
    pub block: usize,
    /// Largest dimension of the basis; chosen from k and block where `None`.
    pub ncv: Option<usize>,
    /// Residuals wanted, relative to the largest |λ|.
    pub tol: f64,
    /// Most restarts.
    pub maxiter: usize,
    /// Seed of the starting block.
    pub seed: u64,
}

impl Default for LanczosOptions {
    /// Ten largest, one vector at a time, residuals of 1e-6 |λ|max, 300 restarts, seed 0.
    fn default() -> Self {
        Self { k: 10, which: Which::La, block: 1, ncv: None, tol: 1e-6, maxiter: 300, seed: 0 }
    }
}

impl LanczosOptions {
    /// The basis used for dimension n: as asked, or room for 2k + 3 blocks and at least 20 vectors.
    fn basis_size(&self, n: usize) -> Result<usize, SpectrumError> {
        let least = self.k + 2 * self.block;
        match self.ncv {
            Some(ncv) if ncv < least => {
                Err(SpectrumError::Basis { ncv, k: self.k, block: self.block, least })
            }
            Some(ncv) => Ok(ncv.min(n)),
            None => Ok((2 * self.k + 3 * self.block).max(20).min(n)),
        }
    }
}

/// How far a solver is, after every block of products.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Products so far.
    pub matvecs: usize,
    /// Restarts so far.
    pub iterations: usize,
    /// Pairs whose estimated residual is within the tolerance.
    pub converged: usize,
    /// The largest estimated residual of the wanted pairs, relative to the largest |λ|.
    pub worst_residual: f64,
}

/// Restarts between comparisons of the recurrence with true residuals: where it promises far less
/// than the products hold, their precision is used up, and further restarts would only cost time.
const CHECK_EVERY: usize = 10;

/// |xᵀAy − yᵀAx| of two vectors of a block, relative to the largest |Ax|. Products in single precision are symmetric to
/// some 1e-6 (LeNet); an operator without symmetry shows itself by 1/√n of its size at a random pair.
const ASYMMETRY: f64 = 1e-4;

/// Finds extremal eigenpairs. Not converging is a result, told by
/// [`stop_reason`](Eigenpairs::stop_reason) and the residuals. Operators so small that the basis
/// would fill the space are solved densely instead.
///
/// # Errors
/// k is 0 or more than n, `ncv` is too small, a product fails, or the operator is not symmetric, which blocks of two
/// and more vectors show.
pub fn lanczos(
    operator: &impl SymmetricOperator,
    options: &LanczosOptions,
    mut observe: impl FnMut(&Progress),
) -> Result<Eigenpairs, SpectrumError> {
    let (n, k) = (operator.dim(), options.k);
    if k == 0 || k > n {
        return Err(SpectrumError::Count { k, n });
    }
    let block = options.block.clamp(1, n);
    let ncv = options.basis_size(n)?;
    if ncv + block >= n {
        let spectrum = DenseSymmetric::assemble(operator, |_| ())?.eigen()?;
        let mut pairs = spectrum.pairs(operator, k, options.which, options.tol)?;
        pairs.matvecs += n;
        return Ok(pairs);
    }
    let mut state = Factorisation::start(operator, ncv, block, options.seed)?;
    // The recurrence is asked for a little more than the tolerance, so that the check passes at once.
    let mut target = 0.7 * options.tol;
    let mut iterations = 0;
    loop {
        state.expand(operator)?;
        let ritz = state.ritz(options.which)?;
        let worst = ritz.worst(k);
        observe(&Progress {
            matvecs: state.matvecs,
            iterations,
            converged: ritz.within(k, options.tol),
            worst_residual: worst,
        });
        let out_of_time = state.is_full() && iterations >= options.maxiter;
        let time_to_look = state.is_full() && iterations % CHECK_EVERY == CHECK_EVERY - 1;
        if state.can_answer(k) && (worst <= target || out_of_time || time_to_look) {
            let mut pairs = state.check(operator, &ritz, options)?;
            pairs.iterations = iterations;
            if pairs.converged == k {
                return Ok(pairs);
            }
            if out_of_time {
                pairs.stop_reason = StopReason::MaxIterations;
                return Ok(pairs);
            }
            let found = pairs.residuals.iter().fold(0.0f64, |a, &r| a.max(r));
            if worst * state.scale < 0.1 * found {
                pairs.stop_reason = StopReason::PrecisionReached;
                return Ok(pairs);
            }
            if worst <= target {
                target *= 0.5;
            }
        }
        if state.is_full() {
            state.restart(&ritz, k);
            iterations += 1;
        }
    }
}

/// `A V = V T + Q B Eᵀ`; see the module.
struct Factorisation {
    /// V in the first `size` columns, Q in the next `block`.
    basis: Mat<f64>,
    projected: Mat<f64>,
    size: usize,
    block: usize,
    /// B.
    coupling: Mat<f64>,
    ncv: usize,
    /// Largest |λ| seen so far, for relative residuals.
    scale: f64,
    rng: ChaCha8Rng,
    matvecs: usize,
    /// Whether an invariant subspace was met and left in a random direction.
    broke_down: bool,
}

/// Ritz pairs of a factorisation, most wanted first.
struct Ritz {
    values: Vec<f64>,
    /// Coefficients in the basis.
    vectors: Mat<f64>,
    /// Residuals |B Eᵀ s| relative to the largest |λ|.
    estimates: Vec<f64>,
}

impl Ritz {
    fn worst(&self, k: usize) -> f64 {
        self.estimates.iter().take(k).fold(0.0, |a, &b| a.max(b))
    }

    fn within(&self, k: usize, tol: f64) -> usize {
        self.estimates.iter().take(k).filter(|&&e| e <= tol).count()
    }
}

impl Factorisation {
    fn start(
        operator: &impl SymmetricOperator,
        ncv: usize,
        block: usize,
        seed: u64,
    ) -> Result<Self, SpectrumError> {
        let n = operator.dim();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut basis = Mat::zeros(n, ncv + block);
        let (before, mut first) = basis.as_mut().subcols_mut(0, block).split_at_col_mut(0);
        fill_random(first.as_mut(), &mut rng);
        orthonormalise(before.as_ref(), first, 0.0, &mut rng);
        let (projected, coupling) = (Mat::zeros(ncv, ncv), Mat::zeros(block, block));
        Ok(Self {
            basis,
            projected,
            size: 0,
            block,
            coupling,
            ncv,
            scale: 0.0,
            rng,
            matvecs: 0,
            broke_down: false,
        })
    }

    fn is_full(&self) -> bool {
        self.size + self.block > self.ncv
    }

    /// Whether the Ritz values can be the wanted ones. Inside an invariant subspace every residual
    /// is zero and nothing is known of the rest, so after a breakdown the whole basis is used first.
    fn can_answer(&self, k: usize) -> bool {
        self.size >= k && (!self.broke_down || self.is_full())
    }

    fn vectors(&self) -> MatRef<'_, f64> {
        self.basis.as_ref().subcols(0, self.size)
    }

    /// Takes the next block into the basis.
    fn expand(&mut self, operator: &impl SymmetricOperator) -> Result<(), SpectrumError> {
        let (old, b) = (self.size, self.block);
        let mut w = Mat::zeros(operator.dim(), b);
        multiply(operator, self.basis.as_ref().subcols(old, b), w.as_mut())?;
        self.matvecs += b;
        self.size += b;
        let norm = w.norm_l2();
        let coefficients = project_out(self.vectors(), w.as_mut());
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
                let mean = 0.5 * (upper + lower);
                skew = skew.max((upper - lower).abs());
                self.projected[(old + i, old + j)] = mean;
                self.projected[(old + j, old + i)] = mean;
            }
        }
        let asymmetry = skew / norm.max(self.scale).max(f64::MIN_POSITIVE);
        if asymmetry > ASYMMETRY {
            return Err(SpectrumError::Asymmetric { asymmetry, bound: ASYMMETRY });
        }
        // What projecting out twice leaves of nothing.
        let tiny = 100.0 * f64::EPSILON * norm;
        let basis = self.basis.as_ref().subcols(0, self.size);
        self.coupling = orthonormalise(basis, w.as_mut(), tiny, &mut self.rng);
        self.broke_down |= (0..b).any(|j| self.coupling[(j, j)] == 0.0);
        self.basis.as_mut().subcols_mut(self.size, b).copy_from(&w);
        Ok(())
    }

    /// Rayleigh–Ritz on the basis.
    fn ritz(&mut self, which: Which) -> Result<Ritz, SpectrumError> {
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
    fn lift(&self, ritz: &Ritz, columns: &[usize]) -> Mat<f64> {
        let coefficients = Mat::from_fn(self.size, columns.len(), |i, j| ritz.vectors[(i, columns[j])]);
        let mut out = Mat::zeros(self.basis.nrows(), columns.len());
        matmul(out.as_mut(), Accum::Replace, self.vectors(), coefficients.as_ref(), 1.0, Par::Seq);
        out
    }

    /// Replaces the basis by the best Ritz vectors, half of the rest beyond k among them.
    fn restart(&mut self, ritz: &Ritz, k: usize) {
        let keep = (k + (self.size - k) / 2).min(self.size - self.block);
        let kept = self.lift(ritz, &(0..keep).collect::<Vec<_>>());
        let next = self.basis.as_ref().subcols(self.size, self.block).to_owned();
        self.basis.as_mut().subcols_mut(0, keep).copy_from(&kept);
        self.basis.as_mut().subcols_mut(keep, self.block).copy_from(&next);
        self.projected.fill(0.0);
        for (i, &value) in ritz.values.iter().take(keep).enumerate() {
            self.projected[(i, i)] = value;
        }
        self.size = keep;
    }

    /// The wanted pairs with residuals from fresh products.
    fn check(
        &mut self,
        operator: &impl SymmetricOperator,
        ritz: &Ritz,
        options: &LanczosOptions,
    ) -> Result<Eigenpairs, SpectrumError> {
        let mut wanted: Vec<usize> = (0..options.k).collect();
        if options.which == Which::Be {
            wanted.sort_by(|&i, &j| ritz.values[j].total_cmp(&ritz.values[i]));
        }
        let vectors = self.lift(ritz, &wanted);
        let values = wanted.iter().map(|&i| ritz.values[i]).collect();
        self.matvecs += options.k;
        let mut pairs = verified(operator, values, vectors, options.tol, self.scale)?;
        pairs.matvecs = self.matvecs;
        Ok(pairs)
    }
}

/// Given pairs with their residuals, from one product with each vector. `scale` is the largest |λ|, to which
/// `tol` is relative.
///
/// # Errors
/// A product fails.
pub fn verified(
    operator: &impl SymmetricOperator,
    values: Vec<f64>,
    mut vectors: Mat<f64>,
    tol: f64,
    scale: f64,
) -> Result<Eigenpairs, SpectrumError> {
    fix_signs(&mut vectors);
    let mut products = Mat::zeros(vectors.nrows(), vectors.ncols());
    multiply(operator, vectors.as_ref(), products.as_mut())?;
    let residuals: Vec<f64> = values
        .iter()
        .enumerate()
        .map(|(i, &value)| (products.col(i) - faer::Scale(value) * vectors.col(i)).norm_l2())
        .collect();
    let converged = residuals.iter().filter(|&&r| r <= tol * scale).count();
    let all = converged == values.len();
    Ok(Eigenpairs {
        matvecs: values.len(),
        values,
        vectors,
        residuals,
        converged,
        iterations: 0,
        stop_reason: if all { StopReason::Converged } else { StopReason::PrecisionReached },
    })
}
