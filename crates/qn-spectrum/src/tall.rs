//! Tall matrices, some columns in R^n stored in single or double precision, and products of them that are summed in
//! double precision.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut as _;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Scalar;

/// The rows in strips that are converted at a time.
fn strips<S: Scalar>(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(S::STRIP).map(move |start| start..n.min(start.saturating_add(S::STRIP)))
}

fn rows<'a, S>(x: MatRef<'a, S>, range: &Range<usize>) -> MatRef<'a, S> {
    x.subrows(range.start, range.len())
}

/// The product AᵀB of two tall matrices.
pub(crate) fn inner<S: Scalar>(a: MatRef<'_, S>, b: MatRef<'_, S>) -> Mat<f64> {
    let mut total = Mat::zeros(a.ncols(), b.ncols());
    let (mut of_a, mut of_b) = (Mat::new(), Mat::new());
    for range in strips::<S>(a.nrows()) {
        let (a, b) = (S::widen(rows(a, &range), &mut of_a), S::widen(rows(b, &range), &mut of_b));
        matmul(total.as_mut(), Accum::Add, a.transpose(), b, 1.0, Par::Seq);
    }
    total
}

/// Y += factor · A C.
pub(crate) fn add_product<S: Scalar>(
    mut y: MatMut<'_, S>,
    a: MatRef<'_, S>,
    c: MatRef<'_, f64>,
    factor: f64,
) {
    let mut of_a = Mat::new();
    for range in strips::<S>(a.nrows()) {
        let a = S::widen(rows(a, &range), &mut of_a);
        S::change(y.rb_mut().subrows_mut(range.start, range.len()), |y| {
            matmul(y, Accum::Add, a, c, factor, Par::Seq);
        });
    }
}

/// A C.
pub(crate) fn product<S: Scalar>(a: MatRef<'_, S>, c: MatRef<'_, f64>) -> Mat<S> {
    let mut y = Mat::zeros(a.nrows(), c.ncols());
    add_product(y.as_mut(), a, c, 1.0);
    y
}

/// The Frobenius norm.
pub(crate) fn norm_l2<S: Scalar>(x: MatRef<'_, S>) -> f64 {
    let mut buffer = Mat::new();
    let norms = strips::<S>(x.nrows()).map(|range| S::widen(rows(x, &range), &mut buffer).norm_l2());
    norms.reduce(f64::hypot).unwrap_or(0.0)
}

/// |y - factor · x| of single columns.
pub(crate) fn distance<S: Scalar>(y: MatRef<'_, S>, factor: f64, x: MatRef<'_, S>) -> f64 {
    let (mut of_y, mut of_x) = (Mat::new(), Mat::new());
    let norms = strips::<S>(x.nrows()).map(|range| {
        let (y, x) = (S::widen(rows(y, &range), &mut of_y), S::widen(rows(x, &range), &mut of_x));
        (y - faer::Scale(factor) * x).norm_l2()
    });
    norms.reduce(f64::hypot).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of numbers that single precision holds are those of double precision, whatever their order.
    #[test]
    fn single_precision_is_summed_in_double() {
        let n = 3 * f32::STRIP + 17;
        let small = |i: usize, j: usize| ((i * 7 + j * 13) % 64) as f64 / 64.0 - 0.5;
        let a = Mat::from_fn(n, 3, small);
        let b = Mat::from_fn(n, 2, |i, j| small(i, j + 5));
        let single = |x: &Mat<f64>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] as f32);
        let (c, expected) = (inner(single(&a).as_ref(), single(&b).as_ref()), a.transpose() * &b);
        assert_eq!(c, expected);
        let mut y = single(&b);
        add_product(y.as_mut(), single(&a).as_ref(), c.as_ref(), -0.25);
        let exact = &b - faer::Scale(0.25) * &a * &c;
        assert_eq!(y, single(&exact));
        let (x, y) = (single(&a), single(&b));
        assert!((norm_l2(x.as_ref()) - a.norm_l2()).abs() <= 1e-14 * a.norm_l2());
        let found = distance(y.as_ref().subcols(0, 1), 3.0, x.as_ref().subcols(1, 1));
        let expected = (b.col(0) - faer::Scale(3.0) * a.col(1)).norm_l2();
        assert!((found - expected).abs() <= 1e-14 * expected);
    }
}
