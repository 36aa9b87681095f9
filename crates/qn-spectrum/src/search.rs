//! The loop of expansions and restarts of block Lanczos, and what is asked of it.

use faer::{Mat, MatRef};

use crate::eigenpairs::judged;
use crate::factorisation::{Factorisation, Ritz};
use crate::operator::multiply;
use crate::orthogonal::project_out;
use crate::{DenseSymmetric, Eigenpairs, Scalar, SpectrumError, StopReason, SymmetricOperator, Which};

/// What is asked of [`lanczos`](crate::lanczos()).
#[derive(Clone, Debug)]
pub struct LanczosOptions {
    /// Pairs wanted.
    pub k: usize,
    /// From which end.
    pub which: Which,
    /// Vectors multiplied at a time. Copies of a repeated eigenvalue beyond so many are found by deflation.
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
    /// Ten largest, two vectors at a time, residuals of 1e-6 |λ|max, 300 restarts, seed 0.
    fn default() -> Self {
        Self { k: 10, which: Which::La, block: 2, ncv: None, tol: 1e-6, maxiter: 300, seed: 0 }
    }
}

impl LanczosOptions {
    /// The basis used for dimension n: as asked, or room for 2k + 3 blocks and at least 20 vectors, and for [`ROOM`] where
    /// so many are short of half of the space and of [`BASIS_NUMBERS`].
    fn basis_size(&self, n: usize) -> Result<usize, SpectrumError> {
        let least = self.k + 2 * self.block;
        match self.ncv {
            Some(ncv) if ncv < least => {
                Err(SpectrumError::Basis { ncv, k: self.k, block: self.block, least })
            }
            Some(ncv) => Ok(ncv.min(n)),
            None => {
                let room = ROOM.max(4 * self.k).min(BASIS_NUMBERS / n.max(1)).min(n / 2);
                Ok((2 * self.k + 3 * self.block).max(20).max(room).min(n))
            }
        }
    }

    pub(crate) fn check(&self, n: usize) -> Result<(), SpectrumError> {
        if self.k == 0 || self.k > n {
            return Err(SpectrumError::Count { k: self.k, n });
        }
        if !(self.tol.is_finite() && self.tol >= 0.0) {
            return Err(SpectrumError::Tolerance { tol: self.tol });
        }
        self.basis_size(n).map(drop)
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

/// Vectors of a basis, and four for each pair if these are more, that are used where memory is not short. A restart throws
/// away what the basis holds of the other directions: where the wanted eigenvalues are close to others, a basis of 64 needs
/// half or a tenth of the products that one of 26 does (ten of the largest of 3,000 values, residuals of 1e-6).
const ROOM: usize = 64;

/// Numbers of a basis up to which memory is not short: 64 MiB in double precision.
const BASIS_NUMBERS: usize = 1 << 23;

/// Restarts between comparisons of the recurrence with true residuals: where it promises far less
/// than the products hold, their precision is used up, and further restarts would only cost time.
const CHECK_EVERY: usize = 10;

/// Dimensions up to which n products and a dense solution (537 MB at this size) are the way out when restarts have used
/// n products already: together at most twice the cheaper of the two.
const DENSE_UP_TO: usize = 4096;

/// A search for the eigenpairs of one operator, in one or several runs of Lanczos.
pub(crate) struct Search<'a, A, O> {
    pub(crate) operator: &'a A,
    pub(crate) options: &'a LanczosOptions,
    observe: O,
    /// Products with single vectors so far.
    pub(crate) matvecs: usize,
    /// Restarts so far.
    pub(crate) iterations: usize,
    /// Largest |λ| seen so far.
    pub(crate) scale: f64,
    /// Whether an invariant subspace was met.
    pub(crate) broke_down: bool,
}

impl<'a, A, O: FnMut(&Progress)> Search<'a, A, O> {
    pub(crate) fn new(operator: &'a A, options: &'a LanczosOptions, observe: O) -> Self {
        Self { operator, options, observe, matvecs: 0, iterations: 0, scale: 0.0, broke_down: false }
    }

    /// The pairs of (I − X Xᵀ) A that `request` wants in the complement of X; `None` where a dense solution of A costs
    /// less.
    pub(crate) fn restarted<S: Scalar>(
        &mut self,
        locked: MatRef<'_, S>,
        request: &LanczosOptions,
    ) -> Result<Option<Eigenpairs<S>>, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        let n = self.operator.dim();
        let (k, block, free) = (request.k, request.block.clamp(1, n), n - locked.ncols());
        let ncv = request.basis_size(free)?;
        if ncv + block >= free {
            return Ok(None);
        }
        let mut state = Factorisation::start(locked, (ncv, block), self.scale, request.seed);
        // The recurrence is asked for a little more than the tolerance, so that the check passes at once.
        let mut target = 0.7 * request.tol;
        let mut iterations = 0;
        loop {
            state.expand(self.operator)?;
            let ritz = state.ritz(request.which)?;
            let worst = ritz.worst(k);
            self.tell(&state, &ritz, request);
            let out_of_time = state.is_full() && iterations >= request.maxiter;
            let time_to_look = state.is_full() && iterations % CHECK_EVERY == CHECK_EVERY - 1;
            if state.can_answer(k) && (worst <= target || out_of_time || time_to_look) {
                let mut pairs = self.check(&mut state, &ritz, request)?;
                let found = pairs.residuals.iter().fold(0.0f64, |a, &r| a.max(r));
                let stop = if pairs.converged == k {
                    Some(StopReason::Converged)
                } else if out_of_time {
                    Some(StopReason::MaxIterations)
                } else {
                    (worst * state.scale < 0.1 * found).then_some(StopReason::PrecisionReached)
                };
                if let Some(reason) = stop {
                    self.finish(&state, iterations);
                    pairs.stop_reason = reason;
                    (pairs.matvecs, pairs.iterations) = (self.matvecs, self.iterations);
                    return Ok(Some(pairs));
                }
                if worst <= target {
                    target *= 0.5;
                }
            }
            if state.is_full() {
                if n <= DENSE_UP_TO && state.matvecs >= n {
                    self.finish(&state, iterations);
                    return Ok(None);
                }
                state.restart(&ritz, k);
                iterations += 1;
            }
        }
    }

    fn tell<S: Scalar>(&mut self, state: &Factorisation<S>, ritz: &Ritz, request: &LanczosOptions) {
        (self.observe)(&Progress {
            matvecs: self.matvecs + state.matvecs,
            iterations: self.iterations,
            converged: ritz.within(request.k, request.tol),
            worst_residual: ritz.worst(request.k),
        });
    }

    fn finish<S>(&mut self, state: &Factorisation<S>, iterations: usize) {
        self.matvecs += state.matvecs;
        self.iterations += iterations;
        self.scale = self.scale.max(state.scale);
        self.broke_down |= state.broke_down;
    }

    /// The wanted pairs with residuals from fresh products, orthogonal to what is locked.
    fn check<S: Scalar>(
        &mut self,
        state: &mut Factorisation<S>,
        ritz: &Ritz,
        request: &LanczosOptions,
    ) -> Result<Eigenpairs<S>, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        let mut wanted: Vec<usize> = (0..request.k).collect();
        if request.which == Which::Be {
            wanted.sort_by(|&i, &j| ritz.values[j].total_cmp(&ritz.values[i]));
        }
        let vectors = state.lift(ritz, &wanted);
        let values = wanted.iter().map(|&i| ritz.values[i]).collect();
        state.matvecs += request.k;
        let mut products = Mat::zeros(vectors.nrows(), vectors.ncols());
        multiply(self.operator, vectors.as_ref(), products.as_mut())?;
        project_out(state.locked(), products.as_mut());
        Ok(judged(values, vectors, products.as_ref(), request.tol * state.scale))
    }

    /// All wanted pairs by n products and the dense solver.
    pub(crate) fn dense<S: Scalar>(&mut self) -> Result<Eigenpairs<S>, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        let LanczosOptions { k, which, tol, .. } = *self.options;
        let spectrum = DenseSymmetric::assemble(self.operator, |_| ())?.eigen()?;
        let mut pairs = spectrum.pairs(self.operator, k, which, tol)?;
        pairs.matvecs += self.matvecs + self.operator.dim();
        pairs.iterations = self.iterations;
        Ok(pairs)
    }
}
