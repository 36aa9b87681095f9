use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Mat, MatMut, MatRef};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

use crate::Scalar;
use crate::tall::{add_product, inner, norm_l2};

/// w ← (I − V Vᵀ) w, giving Vᵀ w. Done twice: once leaves a loss of orthogonality of eps·|w|/|w'|.
pub(crate) fn project_out<S: Scalar>(basis: MatRef<'_, S>, mut w: MatMut<'_, S>) -> Mat<f64> {
    let mut total = Mat::zeros(basis.ncols(), w.ncols());
    for _ in 0..2 {
        let part = inner(basis, w.rb());
        add_product(w.rb_mut(), basis, part.as_ref(), -1.0);
        total += part;
    }
    total
}

/// w = Q B with orthonormal Q ⊥ `basis`, Q replacing w, which must be orthogonal to `basis` already.
///
/// A column that is numerically dependent (shorter than `tiny`) is replaced by a random direction with a zero row in
/// B: that is how an invariant subspace is left. A column of which little is left beside its block is projected on
/// the complement of `basis` again: what its roundings hold of the basis has not become shorter with it.
pub(crate) fn orthonormalise<S: Scalar>(
    basis: MatRef<'_, S>,
    mut w: MatMut<'_, S>,
    tiny: f64,
    rng: &mut ChaCha8Rng,
) -> Mat<f64> {
    let b = w.ncols();
    let mut factor = Mat::zeros(b, b);
    for j in 0..b {
        let (done, mut rest) = w.as_mut().split_at_col_mut(j);
        let (done, mut column) = (done.as_ref(), rest.as_mut().subcols_mut(0, 1));
        let mut norm = shorten(basis, done, column.as_mut(), tiny, |along| {
            (0..j).for_each(|i| factor[(i, j)] += along[(i, 0)]);
        });
        if norm > tiny {
            factor[(j, j)] = norm;
        } else {
            for _ in 0..ATTEMPTS {
                fill_random(column.as_mut(), rng);
                project_out(basis, column.as_mut());
                norm = shorten(basis, done, column.as_mut(), 0.0, |_| ());
                // A random direction keeps a part of about sqrt(free dimensions / n).
                if norm > 1e-8 {
                    break;
                }
            }
        }
        column.col_mut(0).iter_mut().for_each(|x| *x = S::of(x.f64() / norm));
    }
    factor
}

/// Random directions that are tried: one is enough unless the complement is nearly nothing.
const ATTEMPTS: usize = 10;

/// Projects a column, orthogonal to `basis`, on the complement of `done` too, and of both again for as long as it loses
/// half of its length and is longer than `tiny`; gives the length. `along` hears the coefficients of `done`.
fn shorten<S: Scalar>(
    basis: MatRef<'_, S>,
    done: MatRef<'_, S>,
    mut column: MatMut<'_, S>,
    tiny: f64,
    mut along: impl FnMut(&Mat<f64>),
) -> f64 {
    let mut norm = norm_l2(column.rb());
    loop {
        along(&project_out(done, column.as_mut()));
        let before = norm;
        norm = norm_l2(column.rb());
        // What is not finite does not shrink.
        if norm <= tiny || !norm.is_finite() || norm > 0.5 * before {
            return norm;
        }
        project_out(basis, column.as_mut());
    }
}

/// Independent standard normal numbers over √n, column by column: columns of length about one.
pub(crate) fn fill_random<S: Scalar>(mut x: MatMut<'_, S>, rng: &mut ChaCha8Rng) {
    for column in x.as_mut().col_iter_mut() {
        let n = column.nrows() as f64;
        for v in column.iter_mut() {
            let sample: f64 = StandardNormal.sample(rng);
            *v = S::of(sample / n.sqrt());
        }
    }
}
