//! The matrix of an operator, in the making.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use faer::Mat;
use qn_curvature::{Curvature, CurvatureError, Entries, Operator, Real};
use qn_spectrum::{Scalar, SpectrumError, SymmetricOperator, random_signs};

use super::state::Assembly;
use crate::operator::explain;

/// Random vectors that the matrix and the operator must agree on.
pub(super) const CHECKS: usize = 4;

impl<T: Real + Scalar> Assembly<T> {
    /// Adds parts until all are there, or until `pause` says so between two of them, being told how many thousandths are
    /// done. Whether all are there.
    ///
    /// # Errors
    /// A derivative is not finite.
    pub(super) fn advance(
        &mut self,
        curvature: &Curvature<T>,
        operator: Operator,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, CurvatureError> {
        let done = self.parts;
        let shrink = 1.0 / self.triangle.unit();
        let mut work = Work { assembly: self, shrink, pause, last: Instant::now() };
        match curvature.assemble(operator, done, &mut work) {
            Ok(()) => Ok(true),
            Err(Halt::Pause) => Ok(false),
            Err(Halt::Failure(error)) => Err(error),
        }
    }
}

/// Why an assembly did not go to its end.
enum Halt {
    Pause,
    Failure(CurvatureError),
}

impl From<CurvatureError> for Halt {
    fn from(error: CurvatureError) -> Self {
        Self::Failure(error)
    }
}

struct Work<'a, T> {
    assembly: &'a mut Assembly<T>,
    /// 1 over the triangle's unit, which is a power of two: a division less for each of 10⁹ entries.
    shrink: f64,
    pause: &'a mut dyn FnMut(u64) -> bool,
    last: Instant,
}

impl<T: Real + Scalar> Entries<Halt> for Work<'_, T> {
    fn add(&mut self, rows: Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        self.assembly.triangle.add(rows, j, x.map(|x| x * self.shrink));
    }

    fn reached(&mut self, parts: usize, share: f64) -> Result<(), Halt> {
        let now = Instant::now();
        self.assembly.seconds += (now - self.last).as_secs_f64();
        (self.assembly.parts, self.last) = (parts, now);
        if (self.pause)((1000.0 * share) as u64) { Err(Halt::Pause) } else { Ok(()) }
    }
}

/// |A X - H X| / |H X| for random X, A being the matrix and H the operator.
pub(super) fn disagreement(
    operator: &impl SymmetricOperator,
    matrix: &impl SymmetricOperator,
    seed: u64,
) -> Result<f64> {
    let x = random_signs(operator.dim(), CHECKS, seed);
    let product = |a: &dyn SymmetricOperator| {
        let mut y = Mat::zeros(x.nrows(), x.ncols());
        a.apply(x.as_ref(), y.as_mut()).map_err(|e| explain(SpectrumError::Operator(e)))?;
        anyhow::Ok(y)
    };
    let (exact, found) = (product(operator)?, product(matrix)?);
    let scale = exact.norm_l2().max(found.norm_l2());
    Ok(if scale > 0.0 { (found - &exact).norm_l2() / scale } else { 0.0 })
}
