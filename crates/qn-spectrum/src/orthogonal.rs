use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

/// w ← (I − V Vᵀ) w, giving Vᵀ w. Done twice: once leaves a loss of orthogonality of eps·|w|/|w'|.
pub(crate) fn project_out(basis: MatRef<'_, f64>, mut w: MatMut<'_, f64>) -> Mat<f64> {
    let mut total = Mat::zeros(basis.ncols(), w.ncols());
    for _ in 0..2 {
        let mut part = Mat::zeros(basis.ncols(), w.ncols());
        matmul(part.as_mut(), Accum::Replace, basis.transpose(), w.as_ref(), 1.0, Par::Seq);
        matmul(w.as_mut(), Accum::Add, basis, part.as_ref(), -1.0, Par::Seq);
        total += part;
    }
    total
}

/// w = Q B with orthonormal Q ⊥ `basis`, Q replacing w, which must be orthogonal to `basis` already.
/// A column that is numerically dependent (shorter than `tiny`) is replaced by a random direction
/// with a zero row in B: that is how an invariant subspace is left.
pub(crate) fn orthonormalise(
    basis: MatRef<'_, f64>,
    mut w: MatMut<'_, f64>,
    tiny: f64,
    rng: &mut ChaCha8Rng,
) -> Mat<f64> {
    let b = w.ncols();
    let mut factor = Mat::zeros(b, b);
    for j in 0..b {
        let (done, mut rest) = w.as_mut().split_at_col_mut(j);
        let mut column = rest.as_mut().subcols_mut(0, 1);
        let against = project_out(done.as_ref(), column.as_mut());
        for i in 0..j {
            factor[(i, j)] = against[(i, 0)];
        }
        let mut norm = column.norm_l2();
        if norm > tiny {
            factor[(j, j)] = norm;
        } else {
            for attempt in 0.. {
                fill_random(column.as_mut(), rng);
                project_out(basis, column.as_mut());
                project_out(done.as_ref(), column.as_mut());
                norm = column.norm_l2();
                // A random direction keeps a part of about sqrt(free dimensions / n).
                if norm > 1e-8 || attempt == 9 {
                    break;
                }
            }
        }
        column *= faer::Scale(1.0 / norm);
    }
    factor
}

/// Independent standard normal numbers, column by column.
pub(crate) fn fill_random(mut x: MatMut<'_, f64>, rng: &mut ChaCha8Rng) {
    for column in x.as_mut().col_iter_mut() {
        let n = column.nrows() as f64;
        for v in column.iter_mut() {
            let sample: f64 = StandardNormal.sample(rng);
            *v = sample / n.sqrt();
        }
    }
}
