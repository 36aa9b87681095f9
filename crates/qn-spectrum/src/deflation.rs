//! Whether the pairs that were found are the wanted ones.
//!
//! A Krylov space of a block of b vectors holds at most b vectors of an eigenspace (but for roundings), so that a larger
//! multiplicity cannot be seen from inside, however often it is tried. With the vectors found locked away, the best pair
//! of what is left is the next one in order; where it beats one that was accepted, a copy had been missed.

use faer::Mat;

use crate::eigenpairs::judged;
use crate::operator::multiply;
use crate::search::Search;
use crate::tall::{inner, product};
use crate::{
    Eigenpairs, FullSpectrum, LanczosOptions, Progress, Scalar, Solver, SpectrumError, StopReason,
    SymmetricOperator,
};

/// Pairs that deflation has looked at.
#[derive(Clone, Debug)]
pub struct Completed<S = f64> {
    /// The wanted pairs, those that had been missed among them.
    pub pairs: Eigenpairs<S>,
    /// How many had been missed.
    pub recovered: usize,
    /// Whether the last look at the rest ended, and found nothing that is better.
    pub agreed: bool,
}

/// The largest block that the search for copies grows to.
const LARGEST_BLOCK: usize = 16;

impl<S> Eigenpairs<S> {
    /// Whether as many values are equal, as far as their residuals tell, as a block has vectors.
    pub(crate) fn may_lack_copies(&self, block: usize) -> bool {
        let scale = self.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let residual = self.residuals.iter().fold(0.0f64, |a, &r| a.max(r));
        let near = (2.0 * residual).min(1e-6 * scale) + 100.0 * f64::EPSILON * scale;
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        self.solver == Solver::Lanczos && sorted.windows(block.max(2)).any(|w| w[w.len() - 1] - w[0] <= near)
    }
}

impl<A, O: FnMut(&Progress)> Search<'_, A, O> {
    /// What [`complete`](crate::complete) does.
    pub(crate) fn complete<S: Scalar>(&mut self, pairs: Eigenpairs<S>) -> Result<Completed<S>, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        if pairs.solver == Solver::Dense {
            return Ok(Completed { pairs, recovered: 0, agreed: true });
        }
        let LanczosOptions { k, which, block, seed, .. } = *self.options;
        let (mut values, mut vectors) = (pairs.values.clone(), pairs.vectors.clone());
        let mut residual = pairs.residuals.iter().fold(0.0f64, |a, &r| a.max(r));
        let mut agreed = true;
        for (end, count) in which.ends(k) {
            let (mut block, mut ask) = (block.max(2), 1);
            loop {
                let request = LanczosOptions {
                    k: ask,
                    which: end,
                    block,
                    ncv: None,
                    seed: seed.wrapping_add(vectors.ncols() as u64),
                    ..self.options.clone()
                };
                let Some(found) = self.restarted(vectors.as_ref(), &request)? else {
                    let pairs = self.dense()?;
                    let recovered = count_missed(&values[..k], &pairs.values, residual);
                    return Ok(Completed { pairs, recovered, agreed: true });
                };
                agreed &= found.stop_reason != StopReason::MaxIterations;
                let worst = end.choose_values(&values, count)[count - 1];
                let slack = residual + found.residuals.iter().fold(0.0f64, |a, &r| a.max(r));
                let slack = slack + 100.0 * f64::EPSILON * self.scale;
                let better: Vec<usize> =
                    (0..ask).filter(|&i| end.gain(found.values[i], worst) > slack).collect();
                if better.is_empty() {
                    break;
                }
                vectors = beside(&vectors, &found.vectors, &better);
                values.extend(better.iter().map(|&i| found.values[i]));
                residual = better.iter().fold(residual, |a, &i| a.max(found.residuals[i]));
                (block, ask) = ((2 * block).min(LARGEST_BLOCK), (2 * ask).min(LARGEST_BLOCK));
            }
        }
        let recovered = values.len() - k;
        let mut pairs = if recovered == 0 { pairs } else { self.best_of(&vectors)? };
        (pairs.matvecs, pairs.iterations) = (self.matvecs, self.iterations);
        Ok(Completed { pairs, recovered, agreed })
    }

    /// The wanted pairs of A in the span of orthonormal columns, by Rayleigh–Ritz.
    fn best_of<S: Scalar>(&mut self, basis: &Mat<S>) -> Result<Eigenpairs<S>, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        let (n, m) = (basis.nrows(), basis.ncols());
        let mut products = Mat::zeros(n, m);
        multiply(self.operator, basis.as_ref(), products.as_mut())?;
        self.matvecs += m;
        let projected = inner(basis.as_ref(), products.as_ref());
        let found = FullSpectrum::of(projected.as_ref())?;
        let chosen = self.options.which.choose(&found.values, self.options.k);
        let turn = Mat::from_fn(m, chosen.len(), |i, j| found.vectors[(i, chosen[j])]);
        let times = |a: &Mat<S>| product(a.as_ref(), turn.as_ref());
        let values = chosen.iter().map(|&i| found.values[i]).collect();
        Ok(judged(values, times(basis), times(&products).as_ref(), self.options.tol * self.scale))
    }
}

/// How many of the second values the first ones, in one order, do not hold.
fn count_missed(before: &[f64], after: &[f64], residual: f64) -> usize {
    let scale = after.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let near = residual + 100.0 * f64::EPSILON * scale;
    let mut left = before.to_vec();
    let mut missed = 0;
    for value in after {
        match left.iter().position(|b| (b - value).abs() <= near) {
            Some(at) => drop(left.swap_remove(at)),
            None => missed += 1,
        }
    }
    missed
}

/// Columns, and some of another matrix's behind them.
fn beside<S: Scalar>(a: &Mat<S>, b: &Mat<S>, columns: &[usize]) -> Mat<S> {
    let l = a.ncols();
    let mut out = Mat::zeros(a.nrows(), l + columns.len());
    out.as_mut().subcols_mut(0, l).copy_from(a);
    for (j, &column) in columns.iter().enumerate() {
        out.as_mut().col_mut(l + j).copy_from(b.col(column));
    }
    out
}
