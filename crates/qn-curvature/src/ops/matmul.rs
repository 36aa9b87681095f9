//! Matrix products C = A B of two values: every sample has two matrices of its own.

use qn_kernels::Real;
use qn_model::Shape;

use super::products::{Factor, multiply};
use super::stretched::places;
use crate::layout::Layout;
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// How a value's matrices lie in memory, entries `[row][column]` or, transposed, `[column][row]`.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl Matrix {
    fn of(value: &Layout) -> Self {
        let (dims, rank) = (value.shape().dims(), value.shape().rank());
        Self { rows: dims[rank - 2], cols: dims[rank - 1], transposed: value.is_transposed() }
    }

    fn len(self) -> usize {
        self.rows * self.cols
    }

    /// A factor whose lines are the rows.
    fn by_rows<T>(self, x: &[T]) -> Factor<'_, T> {
        if self.transposed { Factor::interleaved(x, self.rows) } else { Factor::lines(x, self.cols) }
    }

    /// A factor whose lines are the columns.
    fn by_columns<T>(self, x: &[T]) -> Factor<'_, T> {
        if self.transposed { Factor::lines(x, self.rows) } else { Factor::interleaved(x, self.cols) }
    }

    /// out = or += the product of a left factor and a right one, whose lines are `inner` numbers long.
    fn product<T: Real>(
        self,
        [left, right]: [Factor<'_, T>; 2],
        inner: usize,
        out: (&mut [T], bool),
        m: usize,
        scratch: &mut Scratch<T>,
    ) {
        match self.transposed {
            false => multiply([left, right], [self.rows, self.cols, inner], out, m, scratch),
            true => multiply([right, left], [self.cols, self.rows, inner], out, m, scratch),
        }
    }
}

/// Products of matrices.
#[derive(Clone, Debug)]
pub(crate) struct MatMul {
    /// The matrices of the two inputs and of the output.
    matrices: [Matrix; 3],
    /// Which matrices of the two inputs each matrix of the output is the product of.
    pairs: Vec<[usize; 2]>,
    /// Matrices in each of the inputs.
    counts: [usize; 2],
}

impl MatMul {
    /// The matrices lie one behind the other.
    pub(crate) fn new([a, b]: [&Layout; 2], output: &Layout) -> Self {
        let before = |value: &Layout| Shape::new(&value.shape().dims()[..value.shape().rank() - 2]);
        let all = before(output);
        let [left, right] = [a, b].map(|value| places(&before(value), &all));
        let at = |places: &Option<Vec<usize>>, i: usize| places.as_ref().map_or(i, |p| p[i]);
        let pairs = (0..all.len()).map(|i| [at(&left, i), at(&right, i)]).collect();
        Self { matrices: [a, b, output].map(Matrix::of), pairs, counts: [a, b].map(|v| before(v).len()) }
    }

    /// Numbers in a matrix of each input and of the output.
    fn lens(&self, m: usize) -> [usize; 3] {
        self.matrices.map(|matrix| matrix.len() * m)
    }

    /// C = or += A B, one tangent.
    fn forth<T: Real>(&self, [a, b]: [&[T]; 2], c: &mut [T], adds: bool, m: usize, scratch: &mut Scratch<T>) {
        let ([a_len, b_len, c_len], [left, right, out]) = (self.lens(m), self.matrices);
        for (&[i, j], c) in self.pairs.iter().zip(c.chunks_exact_mut(c_len)) {
            let a = left.by_rows(&a[i * a_len..(i + 1) * a_len]);
            let b = right.by_columns(&b[j * b_len..(j + 1) * b_len]);
            out.product([a, b], left.cols, (c, adds), m, scratch);
        }
    }

    /// Ā = or += C̄ Bᵀ for input 0 and B̄ = or += Aᵀ C̄ for input 1, from the other input, one tangent.
    fn back<T: Real>(
        &self,
        input: usize,
        (other, cbar): (&[T], &[T]),
        (bar, mut adds): (&mut [T], bool),
        m: usize,
        scratch: &mut Scratch<T>,
    ) {
        if self.counts[input] != self.pairs.len() && !adds {
            bar.fill(T::of(0.0));
            adds = true;
        }
        let (lens, [left, right, out]) = (self.lens(m), self.matrices);
        let [len, other_len] = [lens[input], lens[1 - input]];
        for (pair, cbar) in self.pairs.iter().zip(cbar.chunks_exact(lens[2])) {
            let other = &other[pair[1 - input] * other_len..][..other_len];
            let bar = (&mut bar[pair[input] * len..][..len], adds);
            if input == 0 {
                left.product([out.by_rows(cbar), right.by_rows(other)], out.cols, bar, m, scratch);
            } else {
                right.product([left.by_columns(other), out.by_columns(cbar)], out.rows, bar, m, scratch);
            }
        }
    }

    /// Numbers in a value of each input and of the output.
    fn value_lens(&self, m: usize) -> [usize; 3] {
        let [a, b, c] = self.lens(m);
        [a * self.counts[0], b * self.counts[1], c * self.pairs.len()]
    }
}

impl<T: Real> Operation<T> for MatMul {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        self.forth([at.x[0], at.x[1]], y, false, at.m, scratch);
        Saved::none()
    }

    /// Ċ = Ȧ B + A Ḃ.
    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let lens = self.value_lens(at.m);
        for (t, ydot) in ydot.chunks_exact_mut(lens[2]).enumerate() {
            let mut adds = false;
            for input in 0..2 {
                let Some(xdot) = tangents.x[input] else { continue };
                let mut factors = [at.x[0], at.x[1]];
                factors[input] = &xdot[t * lens[input]..(t + 1) * lens[input]];
                self.forth(factors, ydot, adds, at.m, scratch);
                adds = true;
            }
            if !adds {
                ydot.fill(T::of(0.0));
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let lens = self.value_lens(at.m);
        for (input, xbar) in to.x.iter_mut().enumerate() {
            let Some(xbar) = xbar else { continue };
            for (ybar, xbar) in ybar.chunks_exact(lens[2]).zip(xbar.chunks_exact_mut(lens[input])) {
                self.back(input, (at.x[1 - input], ybar), (xbar, false), at.m, scratch);
            }
        }
    }

    /// Ā gains C̄ Ḃᵀ, and B̄ gains Ȧᵀ C̄.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        let lens = self.value_lens(at.m);
        for (input, xbar) in to.x.iter_mut().enumerate() {
            let (Some(xbar), Some(xdot)) = (xbar, tangents.x[1 - input]) else { continue };
            let blocks = xdot.chunks_exact(lens[1 - input]).zip(xbar.chunks_exact_mut(lens[input]));
            for (xdot, xbar) in blocks {
                self.back(input, (xdot, ybar), (xbar, true), at.m, scratch);
            }
        }
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        let shapes: [[&[usize]; 2]; 6] = [
            [&[2, 3], &[3, 4]],
            [&[5, 7], &[7, 6]],
            [&[1, 1], &[1, 1]],
            [&[2, 1, 2, 3], &[4, 3, 2]],
            [&[2, 3], &[3, 3, 1]],
            [&[4, 1, 3], &[4, 3, 2]],
        ];
        for shapes in shapes {
            Check::new(Op::MatMul, &shapes).run();
        }
    }

    #[test]
    fn a_product_by_hand() {
        // torch.tensor([[1., 2.], [3., 4.]]) @ torch.tensor([[5., 6., 7.], [8., 9., 10.]])
        let check = Check::new(Op::MatMul, &[&[2, 2], &[2, 3]]);
        let y = check.values(&[&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0, 9.0, 10.0]], &[]);
        assert_eq!(y, [21.0, 24.0, 27.0, 47.0, 54.0, 61.0]);
    }
}
