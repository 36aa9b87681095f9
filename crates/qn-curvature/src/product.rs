//! Products of a curvature matrix with blocks of vectors.

use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{MatMut, MatRef};

use crate::columns::Tensors;
use crate::curvature::TOO_LARGE;
use crate::error::{check_finite, check_len};
use crate::scratch::Scratch;
use crate::tangent::{Operator, Part, pack, product};
use crate::{Curvature, CurvatureError, Real};

/// Tangents that go through a microbatch together. More do not make the matrix products better.
pub(crate) const MAX_BLOCK: usize = 16;

/// What a product is asked for: of which matrix, between which tensors of the graph, and whether it is still wanted.
#[derive(Clone, Copy)]
struct Asked<'a> {
    operator: Operator,
    active: &'a [bool],
    should_stop: &'a (dyn Fn() -> bool + Sync),
}

impl<T: Real> Curvature<T> {
    /// y = A x for a block of vectors, x and y being P × b, in either precision.
    ///
    /// # Errors
    /// Sizes do not agree, or a number in x or in the result is not finite.
    pub fn product<S: Real>(
        &self,
        operator: Operator,
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        self.product_of(operator, &self.network().everything.0, x, y)
    }

    /// [`Self::product`], which asks before every task of some microbatches whether it should stop, on each of its threads.
    ///
    /// # Errors
    /// It was stopped, and y is no product; or those of [`Self::product`].
    pub fn product_unless<S: Real>(
        &self,
        should_stop: &(dyn Fn() -> bool + Sync),
        operator: Operator,
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        self.product_as(Asked { operator, active: &self.network().everything.0, should_stop }, x, y)
    }

    /// The product of the part of the matrix between those tensors of the graph that are `active`: the rows of the others
    /// are zero, and their part of x is not looked at.
    pub(crate) fn product_of<S: Real>(
        &self,
        operator: Operator,
        active: &[bool],
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        self.product_as(Asked { operator, active, should_stop: &|| false }, x, y)
    }

    fn product_as<S: Real>(
        &self,
        asked: Asked<'_>,
        x: MatRef<'_, S>,
        mut y: MatMut<'_, S>,
    ) -> Result<(), CurvatureError> {
        let Asked { operator, active, .. } = asked;
        check_len("a tangent", x.nrows(), self.dim())?;
        check_len("a product", y.nrows(), self.dim())?;
        check_len("the block of products", y.ncols(), x.ncols())?;
        let decay = self.decay(operator);
        let mut finite = true;
        for first in (0..x.ncols()).step_by(MAX_BLOCK) {
            let b = MAX_BLOCK.min(x.ncols() - first);
            let (x, mut y) = (x.subcols(first, b), y.rb_mut().subcols_mut(first, b));
            finite &= self.block_product(asked, x, y.rb_mut())?;
            if decay != 0.0 {
                let taken = self.network().places.iter().zip(active).filter(|(_, taken)| **taken);
                for row in taken.flat_map(|(place, _)| place.clone()) {
                    (0..b).for_each(|t| y[(row, t)] = S::of(y[(row, t)].f64() + decay * x[(row, t)].f64()));
                }
                finite = false;
            }
        }
        if finite { Ok(()) } else { check_columns("a Hessian-vector product", TOO_LARGE, y.rb()) }
    }

    /// The tensors of the graph that `param` and the parameters behind it lie in.
    pub(crate) fn tensors_from(&self, param: usize) -> Vec<bool> {
        self.network().places.iter().map(|place| !place.is_empty() && place.end > param).collect()
    }

    /// The layout's tensors, as blocks of vectors are cut into them.
    pub(crate) fn tensors(&self) -> Tensors<'_> {
        Tensors { places: &self.network().places, threads: self.threads() }
    }

    /// The product with at most [`MAX_BLOCK`] vectors, and whether it is finite.
    fn block_product<S: Real>(
        &self,
        Asked { operator, active, should_stop }: Asked<'_>,
        x: MatRef<'_, S>,
        y: MatMut<'_, S>,
    ) -> Result<bool, CurvatureError> {
        let (b, len) = (x.ncols(), self.dim() * x.ncols());
        let mut tangents = self.buffer(len);
        if !self.tensors().gather(x, &mut tangents) {
            check_columns("a tangent", "this is a fault of the solver", x)?;
        }
        let reached = self.network().reached(active);
        let packed = pack(self.network(), &tangents, (active, b));
        let part = Part { active, reached: &reached, b, packed: &packed };
        let (microbatches, weight, scale) = (self.microbatches, self.weight(), self.scale());
        let total = self.sum([microbatches.tasks(), len], should_stop, |task, state| {
            for batch in microbatches.batches_of(task) {
                let mut make = || self.differentiated(batch, weight, &mut state.work);
                let mut fresh = None;
                let primal = match self.cache.get(batch) {
                    Some(slot) => slot.get_or_init(|| make().shrunk()),
                    None => fresh.insert(make()),
                };
                let sums: (&mut Scratch<T>, &mut [T]) = (&mut state.work, state.sums.as_mut_slice());
                product(self.network(), primal, operator, (&tangents, &part), weight, sums);
                if let Some(primal) = fresh {
                    primal.recycle(&mut state.work);
                }
            }
        });
        self.give_buffer(tangents);
        let (total, _) = total?;
        let finite = self.tensors().scatter(&total, scale, y);
        self.totals.give(total);
        Ok(finite)
    }
}

/// Names the first number of a block of vectors that is not finite.
pub(crate) fn check_columns<S: Real>(
    what: &'static str,
    remedy: &'static str,
    x: MatRef<'_, S>,
) -> Result<(), CurvatureError> {
    x.col_iter().try_for_each(|column| check_finite(what, remedy, column.iter().map(|x| x.f64())))
}
