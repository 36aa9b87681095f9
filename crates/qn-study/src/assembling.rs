//! The matrix of an operator, in the making.

use std::time::Instant;

use anyhow::Result;
use faer::Mat;
use qn_curvature::{Curvature, Entries, Operator, Real};
use qn_run::Observer;
use qn_spectrum::{STORAGE_WIDTH, Scalar, SpectrumError, SymmetricOperator, Triangle, random_signs};

use crate::operator::explain;
use crate::partial::Partial;

/// Random vectors that the matrix and the operator must agree on.
pub(crate) const CHECKS: usize = 4;

/// Some parts of a matrix, all others being zero.
pub(crate) struct Assembly<T> {
    pub(crate) triangle: Triangle<T>,
    /// How many.
    pub(crate) parts: usize,
    /// What they took.
    pub(crate) seconds: f64,
}

impl<T: Real + Scalar> Assembly<T> {
    /// None of a matrix of order n, which is `unit` times what will be stored.
    pub(crate) fn new(n: usize, unit: f64) -> Self {
        Self { triangle: Triangle::zeros(n, STORAGE_WIDTH).with_unit(unit), parts: 0, seconds: 0.0 }
    }

    /// Bytes of a matrix of order n.
    pub(crate) fn bytes(n: usize) -> u64 {
        Triangle::<T>::bytes(n, STORAGE_WIDTH) as u64
    }

    /// All parts.
    pub(crate) fn finish(
        self,
        curvature: &Curvature<T>,
        operator: Operator,
        partial: &mut Partial<'_>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let done = self.parts;
        let shrink = 1.0 / self.triangle.unit();
        let mut work = Work { assembly: self, shrink, partial, observer, last: Instant::now() };
        curvature.assemble(operator, done, &mut work)?;
        Ok(work.assembly)
    }
}

struct Work<'a, 'i, T> {
    assembly: Assembly<T>,
    /// 1 over the triangle's unit, which is a power of two: a division less for each of 10⁹ entries.
    shrink: f64,
    partial: &'a mut Partial<'i>,
    observer: &'a dyn Observer,
    last: Instant,
}

impl<T: Real + Scalar> Entries<anyhow::Error> for Work<'_, '_, T> {
    fn add(&mut self, i: usize, j: usize, x: f64) {
        let triangle = &mut self.assembly.triangle;
        triangle.set(i, j, <T as Scalar>::of(Scalar::f64(triangle.get(i, j)) + x * self.shrink));
    }

    fn reached(&mut self, parts: usize, share: f64) -> Result<()> {
        let now = Instant::now();
        self.assembly.seconds += (now - self.last).as_secs_f64();
        (self.assembly.parts, self.last) = (parts, now);
        self.observer.progress("assembly", (1000.0 * share) as u64, 1000);
        self.partial.keep(|partial| partial.save_assembly(&self.assembly))
    }
}

/// |A X - H X| / |H X| for random X, A being the matrix and H the operator.
pub(crate) fn disagreement(
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
