//! Eigenvectors of a tridiagonal matrix by divide and conquer (Cuppen, 1981; Gu & Eisenstat, 1995).
//!
//! The vectors are stored in the precision T, everything else in double precision. A merge goes through some rows of
//! both halves at a time, so that it works in place: beside the n² numbers of the result it needs a sixteenth of that.

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd;
use faer::prelude::ReborrowMut as _;
use faer::{Mat, MatMut, Par};
use rayon::prelude::*;

use crate::merge::Merge;
use crate::{Scalar, SpectrumError, Tridiagonal};

/// Orders up to which the QR iteration is used.
const LEAF: usize = 48;
/// Eigenvectors that are multiplied together.
const PANEL: usize = 128;

/// All eigenvectors, column by column, in the order of ascending eigenvalues.
///
/// # Errors
/// A number is not finite, or an iteration does not converge, which is not known to happen.
pub(crate) fn vectors<T: Scalar>(tridiagonal: &Tridiagonal) -> Result<Vec<T>, SpectrumError> {
    let (mut diagonal, subdiagonal) = scaled(tridiagonal)?;
    let n = diagonal.len();
    let mut q = vec![T::of(0.0); n * n];
    conquer(&mut diagonal, &subdiagonal, MatMut::from_column_major_slice_mut(&mut q, n, n))?;
    Ok(q)
}

/// Eigenvectors of a tridiagonal matrix before the last merge of the divide and conquer, which gives them by blocks of
/// columns; n²/2 numbers.
pub struct Halves<T> {
    halves: [Mat<T>; 2],
    merge: Merge,
}

impl<T: Scalar> Halves<T> {
    /// Solves both halves of a tridiagonal matrix.
    ///
    /// # Errors
    /// A number is not finite, or an iteration does not converge, which is not known to happen.
    pub fn new(tridiagonal: &Tridiagonal) -> Result<Self, SpectrumError> {
        let (mut diagonal, subdiagonal) = scaled(tridiagonal)?;
        let n = diagonal.len();
        let mut halves = [Mat::zeros(n / 2, n / 2), Mat::zeros(n - n / 2, n - n / 2)];
        let [first, second] = &mut halves;
        let coupling = divide(&mut diagonal, &subdiagonal, [first.as_mut(), second.as_mut()])?;
        let merge = Merge::new([first.as_mut(), second.as_mut()], &diagonal, coupling);
        Ok(Self { halves, merge })
    }

    /// Eigenvectors in a range of the order of ascending eigenvalues, column by column, n numbers each.
    ///
    /// # Panics
    /// The range ends beyond n.
    pub fn columns(&self, range: std::ops::Range<usize>) -> Vec<T> {
        let [first, second] = [&self.halves[0], &self.halves[1]];
        let n = first.nrows() + second.nrows();
        let mut q = vec![T::of(0.0); n * range.len()];
        MatMut::from_column_major_slice_mut(&mut q, n, range.len())
            .par_col_chunks_mut(PANEL)
            .enumerate()
            .for_each(|(i, panel)| {
                let start = range.start + i * PANEL;
                let range = start..start + panel.ncols();
                let into = panel.split_at_row_mut(first.nrows());
                let block = self.merge.block(range.clone());
                self.merge.multiply(range, &block, [first.as_ref(), second.as_ref()], [into.0, into.1]);
            });
        q
    }
}

/// Diagonal and subdiagonal divided by a power of two that is about the largest of them.
fn scaled(tridiagonal: &Tridiagonal) -> Result<(Vec<f64>, Vec<f64>), SpectrumError> {
    let Tridiagonal { diagonal, subdiagonal } = tridiagonal;
    let mut largest = 0.0f64;
    for x in diagonal.iter().chain(subdiagonal) {
        if !x.is_finite() {
            return Err(SpectrumError::NotFinite);
        }
        largest = largest.max(x.abs());
    }
    let power =
        if largest > 0.0 { 2f64.powi(largest.log2().floor().clamp(-1000.0, 1000.0) as i32) } else { 1.0 };
    let scale = |x: &[f64]| x.iter().map(|x| x / power).collect();
    Ok((scale(diagonal), scale(subdiagonal)))
}

/// Replaces the diagonal by the eigenvalues, ascending, and fills q with the vectors.
fn conquer<T: Scalar>(
    diagonal: &mut [f64],
    subdiagonal: &[f64],
    mut q: MatMut<'_, T>,
) -> Result<(), SpectrumError> {
    let n = diagonal.len();
    if n <= LEAF {
        return leaf(diagonal, subdiagonal, q);
    }
    let coupling = divide(diagonal, subdiagonal, split(q.rb_mut(), n / 2))?;
    let merge = Merge::new(split(q.rb_mut(), n / 2), diagonal, coupling);
    merge_in_place(&merge, n / 2, q);
    diagonal.iter_mut().zip(merge.values()).for_each(|(to, value)| *to = value);
    Ok(())
}

/// The diagonal blocks of which the first has order n1.
fn split<T>(q: MatMut<'_, T>, n1: usize) -> [MatMut<'_, T>; 2] {
    let (first, _, _, second) = q.split_at_mut(n1, n1);
    [first, second]
}

/// Solves both halves of the matrix without what couples them, which it gives.
fn divide<T: Scalar>(
    diagonal: &mut [f64],
    subdiagonal: &[f64],
    [first, second]: [MatMut<'_, T>; 2],
) -> Result<f64, SpectrumError> {
    let n1 = first.nrows();
    if n1 == 0 {
        conquer(diagonal, subdiagonal, second)?;
        return Ok(0.0);
    }
    let coupling = subdiagonal[n1 - 1];
    diagonal[n1 - 1] -= coupling.abs();
    diagonal[n1] -= coupling.abs();
    let (of_first, of_second) = diagonal.split_at_mut(n1);
    let (one, two) = rayon::join(
        || conquer(of_first, &subdiagonal[..n1 - 1], first),
        || conquer(of_second, &subdiagonal[n1..], second),
    );
    one.and(two)?;
    Ok(coupling)
}

/// The eigenvectors in place of those of the halves, some rows of each half at a time.
fn merge_in_place<T: Scalar>(merge: &Merge, n1: usize, mut q: MatMut<'_, T>) {
    let n = q.nrows();
    let height = (n / 16).clamp(LEAF, 1024);
    for start in (0..n - n1).step_by(height) {
        let rows = [0..n1, n1..n].map(|half| {
            let from = (half.start + start).min(half.end);
            from..(from + height).min(half.end)
        });
        let copies = [(0, 0..n1), (1, n1..n)].map(|(i, columns)| {
            let rows = rows[i].clone();
            let part = q.as_ref().submatrix(rows.start, columns.start, rows.len(), columns.len());
            let mut copy = Mat::zeros(rows.len(), columns.len());
            copy.as_mut()
                .par_col_chunks_mut(PANEL)
                .zip(part.par_col_chunks(PANEL))
                .for_each(|(mut to, from)| to.copy_from(from));
            copy
        });
        q.rb_mut().par_col_chunks_mut(PANEL).enumerate().for_each(|(i, panel)| {
            let range = i * PANEL..i * PANEL + panel.ncols();
            let block = merge.block(range.clone());
            let (first, second) = panel.split_at_row_mut(n1);
            let first = first.subrows_mut(rows[0].start, rows[0].len());
            let second = second.subrows_mut(rows[1].start - n1, rows[1].len());
            merge.multiply(range, &block, [copies[0].as_ref(), copies[1].as_ref()], [first, second]);
        });
    }
}

/// A small matrix, by the library's QR iteration.
fn leaf<T: Scalar>(
    diagonal: &mut [f64],
    subdiagonal: &[f64],
    mut q: MatMut<'_, T>,
) -> Result<(), SpectrumError> {
    let n = diagonal.len();
    if n == 0 {
        return Ok(());
    }
    let mut below = subdiagonal.to_vec();
    below.push(0.0);
    let (mut values, mut vectors) = (vec![0.0; n], Mat::<f64>::zeros(n, n));
    let scratch = faer::linalg::temp_mat_scratch::<f64>(n, 4);
    let mut buffer = MemBuffer::new(scratch);
    evd::tridiagonal_self_adjoint_evd(
        DiagRef::from_slice(diagonal),
        DiagRef::from_slice(&below),
        DiagMut::from_slice_mut(&mut values),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    )
    .map_err(|_| SpectrumError::Dense)?;
    diagonal.copy_from_slice(&values);
    for j in 0..n {
        for i in 0..n {
            q[(i, j)] = T::of(vectors[(i, j)]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// max |T q − λ q| and max |qᵀq − 1| beside n · eps · |T|, λ being the Rayleigh quotients, which must ascend.
    fn check<T: Scalar>(name: &str, t: &Tridiagonal) {
        let n = t.diagonal.len();
        let found = vectors::<T>(t).unwrap();
        let q = Mat::from_fn(n, n, |i, j| found[i + n * j].f64());
        let norm = t.diagonal.iter().chain(&t.subdiagonal).fold(f64::MIN_POSITIVE, |a, x| a.max(x.abs()));
        let bound = 2.0 * (n as f64).max(10.0) * T::EPS;
        let gram = q.transpose() * &q - Mat::<f64>::identity(n, n);
        assert!(gram.norm_max() <= bound, "{name}, {}: orthogonality {}", T::NAME, gram.norm_max() / bound);
        let product = Mat::from_fn(n, n, |i, j| {
            let side = |k: usize, x: usize| t.subdiagonal[k] / norm * q[(x, j)];
            let above = if i > 0 { side(i - 1, i - 1) } else { 0.0 };
            let below = if i + 1 < n { side(i, i + 1) } else { 0.0 };
            t.diagonal[i] / norm * q[(i, j)] + above + below
        });
        let values = t.eigenvalues().unwrap();
        for (j, value) in values.iter().enumerate() {
            let residual = (product.col(j) - faer::Scale(value / norm) * q.col(j)).norm_l2();
            assert!(residual <= bound, "{name}, {}: residual {} of {j}", T::NAME, residual / bound);
        }
        let halves = Halves::<T>::new(t).unwrap();
        let (from, to) = (n / 3, n - n / 5);
        let some = halves.columns(from..to);
        let some = Mat::from_fn(n, to - from, |i, j| some[i + n * j].f64());
        for j in from..to {
            let difference = (some.col(j - from).transpose() * q.col(j)).abs() - 1.0;
            // Of single vectors, where they are well defined.
            let gap = |a: usize, b: usize| (values[a] - values[b]).abs() / norm;
            let alone = (j == 0 || gap(j, j - 1) > 1e-3) && (j + 1 == n || gap(j + 1, j) > 1e-3);
            assert!(!alone || difference.abs() < 1e3 * bound, "{name}: column {j}, {difference}");
        }
    }

    #[test]
    fn matrices_of_lapacks_collection() {
        for n in [1, 2, 3, 47, 48, 49, 97, 200, 301] {
            let build = |diagonal: &dyn Fn(f64) -> f64, subdiagonal: &dyn Fn(f64) -> f64| Tridiagonal {
                diagonal: (0..n).map(|i| diagonal(i as f64)).collect(),
                subdiagonal: (1..n).map(|i| subdiagonal(i as f64)).collect(),
            };
            let (order, middle) = (n as f64, (n as f64 - 1.0) / 2.0);
            let matrices = [
                ("zero", build(&|_| 0.0, &|_| 0.0)),
                ("identity", build(&|_| 1.0, &|_| 0.0)),
                ("diagonal", build(&|i| (7.0 * i).sin(), &|_| 0.0)),
                ("1-2-1", build(&|_| 2.0, &|_| -1.0)),
                ("Wilkinson", build(&|i| (i - middle).abs(), &|_| 1.0)),
                ("Clement", build(&|_| 0.0, &|i| (i * (order - i)).sqrt())),
                ("Legendre", build(&|_| 0.0, &|i| (i + 1.0) / ((2.0 * i + 1.0) * (2.0 * i + 3.0)).sqrt())),
                ("Laguerre", build(&|i| 2.0 * i + 1.0, &|i| i)),
                ("Hermite", build(&|_| 0.0, &|i| (i / 2.0).sqrt())),
                ("graded", build(&|i| 2f64.powf(-i), &|i| 2f64.powf(-i))),
                ("graded upwards", build(&|i| 2f64.powf(i - order), &|i| 2f64.powf(i - order))),
                (
                    "glued Wilkinson",
                    build(&|i| (i % 21.0 - 10.0).abs(), &|i| if i % 21.0 == 0.0 { 1e-8 } else { 1.0 }),
                ),
                (
                    "glued loosely",
                    build(&|i| (i % 21.0 - 10.0).abs(), &|i| if i % 21.0 == 0.0 { 1e-14 } else { 1.0 }),
                ),
                ("1e300", build(&|_| 2e300, &|_| -1e300)),
                ("1e-300", build(&|_| 2e-300, &|_| -1e-300)),
            ];
            for (name, t) in &matrices {
                let name = format!("{name}, n = {n}");
                check::<f64>(&name, t);
                check::<f32>(&name, t);
            }
        }
    }
}
