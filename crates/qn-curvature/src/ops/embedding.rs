//! Rows of a table, by number.

use qn_kernels::Real;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Instead of a number that is none of a row.
const OUTSIDE: u32 = u32::MAX;

/// y[p, ·] = W[x[p], ·] at every position p. A number that is none of a row gives rows that are no numbers, so that the loss
/// tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    pub(crate) rows: usize,
    pub(crate) features: usize,
    /// A row that is constant.
    pub(crate) padding: Option<usize>,
}

impl Embedding {
    /// y = W[x] with zero for constant rows, if they are; NaN outside.
    fn read<T: Real>(&self, indices: &[u32], w: &[T], y: &mut [T], m: usize, constant: Option<u32>) {
        for (indices, y) in indices.chunks_exact(m).zip(y.chunks_exact_mut(self.features * m)) {
            for (s, &row) in indices.iter().enumerate() {
                let column = y[s..].iter_mut().step_by(m);
                match row {
                    OUTSIDE => column.for_each(|y| *y = T::of(f64::NAN)),
                    _ if Some(row) == constant => column.for_each(|y| *y = T::of(0.0)),
                    _ => column.zip(&w[row as usize * self.features..]).for_each(|(y, &w)| *y = w),
                }
            }
        }
    }

    fn constant(&self) -> Option<u32> {
        self.padding.map(|row| row as u32)
    }
}

impl<T: Real> Operation<T> for Embedding {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let row = |x: &T| {
            let x = x.f64();
            if x >= 0.0 && x < self.rows as f64 && x.fract() == 0.0 { x as u32 } else { OUTSIDE }
        };
        let indices: Vec<u32> = at.x[0].iter().map(row).collect();
        self.read(&indices, at.theta[0], y, at.m, None);
        Saved { indices: vec![indices], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let Some(v) = tangents.theta[0] else { return ydot.fill(T::of(0.0)) };
        let indices = &saved.indices[0];
        let values = ydot.chunks_exact_mut(indices.len() * self.features);
        for (v, ydot) in v.chunks_exact(self.rows * self.features).zip(values) {
            self.read(indices, v, ydot, at.m, self.constant());
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        if let Some(xbar) = to.x.first_mut().and_then(Option::as_mut) {
            xbar.fill(T::of(0.0));
        }
        let Some(wbar) = &mut to.theta[0] else { return };
        let (indices, m) = (&saved.indices[0], at.m);
        let values = ybar.chunks_exact(indices.len() * self.features);
        for (ybar, wbar) in values.zip(wbar.chunks_exact_mut(self.rows * self.features)) {
            for (indices, y) in indices.chunks_exact(m).zip(ybar.chunks_exact(self.features * m)) {
                for (s, &row) in indices.iter().enumerate() {
                    if row != OUTSIDE && Some(row) != self.constant() {
                        let sums = &mut wbar[row as usize * self.features..][..self.features];
                        sums.iter_mut().zip(y[s..].iter().step_by(m)).for_each(|(sum, &y)| *sum += y);
                    }
                }
            }
        }
    }

    fn saves(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId};

    #[test]
    fn derivatives_agree_with_differences() {
        for dims in [&[4][..], &[2, 3]] {
            let op = Op::Embedding { weight: ParamId(0), padding: None };
            Check { integers: vec![Some(5)], ..Check::new(op, &[dims]).params(&[&[5, 3]]) }.run();
        }
    }

    #[test]
    fn a_padding_row_is_constant_and_a_row_that_is_not_there_no_number() {
        let op = Embedding { rows: 3, features: 2, padding: Some(1) };
        let (theta, x) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 3.0, -1.0, 0.5]);
        let at = At { m: 6, x: &[&x], theta: &[&theta], packed: &[] };
        let mut y = [0.0f64; 12];
        let mut scratch = Scratch::new();
        let saved = op.forward(&at, &mut y, &mut scratch);
        assert_eq!(y[..3], [3.0, 1.0, 5.0]);
        assert!(y[3..6].iter().all(|y| y.is_nan()));
        let mut sums = [0.0; 6];
        let mut theta_bar = [Some(&mut sums[..])];
        op.vjp(
            &at,
            &saved,
            (&[1.0; 12], 1),
            &mut Cotangents { x: &mut [None], theta: &mut theta_bar },
            &mut scratch,
        );
        assert_eq!(sums, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        let tangents = Tangents { b: 1, x: &[None], theta: &[Some(&theta)], packed: &[], kept: &[] };
        op.jvp(&at, &saved, &tangents, &mut y, &mut scratch);
        assert_eq!(y[..3], [0.0, 1.0, 5.0]);
    }
}
