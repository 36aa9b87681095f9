//! Lines of entries along an axis, many of them side by side.

use qn_kernels::Real;
use qn_model::Shape;

/// Lines in a strip, at most: few enough for the sums of all of them to stay in a first-level cache.
pub(super) const WIDTH: usize = 64;

/// A number for each line of a strip.
pub(super) type Across<T> = [T; WIDTH];

/// A value `[before][len][behind][sample]` as lines of `len` numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) before: usize,
    pub(super) len: usize,
    pub(super) behind: usize,
}

/// Neighbouring lines: their numbers at one place of the axis are contiguous.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    /// Which of the blocks before the axis the lines belong to.
    pub(super) block: usize,
    width: usize,
    /// Number of the first line.
    line: usize,
    first: usize,
    stride: usize,
    len: usize,
}

impl Lines {
    pub(super) fn along(shape: &Shape, axis: usize) -> Self {
        let [before, len, behind] = shape.around(axis);
        Self { before, len, behind }
    }

    /// Numbers in a value of m samples.
    pub(super) fn numbers(&self, m: usize) -> usize {
        self.count(m) * self.len
    }

    /// Lines in a value of m samples.
    pub(super) fn count(&self, m: usize) -> usize {
        self.before * self.behind * m
    }

    /// All lines of a value.
    pub(super) fn strips(self, m: usize) -> impl Iterator<Item = Strip> {
        let stride = self.behind * m;
        (0..self.before).flat_map(move |block| {
            (0..stride).step_by(WIDTH).map(move |column| Strip {
                block,
                width: WIDTH.min(stride - column),
                line: block * stride + column,
                first: block * self.len * stride + column,
                stride,
                len: self.len,
            })
        })
    }
}

impl Strip {
    /// The numbers of a value at place k.
    #[inline(always)]
    pub(super) fn row<'x, T>(&self, x: &'x [T], k: usize) -> &'x [T] {
        &x[self.first + k * self.stride..][..self.width]
    }

    /// The numbers of a value at place k.
    #[inline(always)]
    pub(super) fn row_mut<'x, T>(&self, x: &'x mut [T], k: usize) -> &'x mut [T] {
        &mut x[self.first + k * self.stride..][..self.width]
    }

    /// The strip's part of numbers that there is one of for each line.
    #[inline(always)]
    pub(super) fn of_lines<'x, T>(&self, x: &'x [T]) -> &'x [T] {
        &x[self.line..self.line + self.width]
    }

    /// Puts a number for each of the strip's lines where there is one of every line.
    #[inline(always)]
    pub(super) fn put<T: Copy>(&self, numbers: &Across<T>, all: &mut [T]) {
        all[self.line..self.line + self.width].copy_from_slice(&numbers[..self.width]);
    }

    /// Σ x along each line.
    #[inline(always)]
    pub(super) fn sums<T: Real>(&self, x: &[T]) -> Across<T> {
        let mut sums = [T::of(0.0); WIDTH];
        for k in 0..self.len {
            sums.iter_mut().zip(self.row(x, k)).for_each(|(sum, &x)| *sum += x);
        }
        sums
    }

    /// Σ x y along each line.
    #[inline(always)]
    pub(super) fn dots<T: Real>(&self, x: &[T], y: &[T]) -> Across<T> {
        let mut sums = [T::of(0.0); WIDTH];
        for k in 0..self.len {
            let pairs = self.row(x, k).iter().zip(self.row(y, k));
            sums.iter_mut().zip(pairs).for_each(|(sum, (&x, &y))| *sum += x * y);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_every_number_once() {
        for (dims, axis, m) in [(&[2, 3, 5][..], 1, 30), (&[4], 0, 3), (&[3, 2], 1, 130)] {
            let lines = Lines::along(&Shape::new(dims), axis);
            let mut seen = vec![0; lines.numbers(m)];
            let mut count = 0;
            for strip in lines.strips(m) {
                for k in 0..lines.len {
                    strip.row_mut(&mut seen, k).iter_mut().for_each(|n| *n += 1);
                }
                count += strip.width;
            }
            assert!(seen.iter().all(|&n| n == 1), "{dims:?}");
            assert_eq!(count, lines.count(m));
            // Every number is that of its line.
            let stride = lines.behind * m;
            let line = |i: usize| i / (lines.len * stride) * stride + i % stride;
            let x: Vec<usize> = (0..lines.numbers(m)).map(line).collect();
            let numbers: Vec<usize> = (0..lines.count(m)).collect();
            for strip in lines.strips(m) {
                assert!((0..lines.len).all(|k| strip.row(&x, k) == strip.of_lines(&numbers)), "{dims:?}");
            }
        }
    }

    #[test]
    fn sums_are_along_lines() {
        let lines = Lines { before: 1, len: 3, behind: 1 };
        let (x, y) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 1.0, 0.0, 2.0, 1.0]);
        for strip in lines.strips(2) {
            assert_eq!(strip.sums(&x)[..2], [9.0, 12.0]);
            assert_eq!(strip.dots(&x, &y)[..2], [14.0, 6.0]);
        }
    }
}
