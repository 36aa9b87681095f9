//! Convolution as a matrix product: planes to patches and back.

use qn_model::{Shape, Window};

use crate::Real;

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    pub(crate) window: Window,
}

impl Patches {
    /// Entries of a patch: rows of the filter matrix.
    pub(crate) fn len(&self) -> usize {
        self.input.channels * self.window.height * self.window.width
    }

    /// `columns[k][position][sample]` = input under tap k of the window at that position.
    pub(crate) fn gather<T: Real>(&self, plane: &[T], columns: &mut [T], m: usize) {
        self.runs(m, |run| match run {
            Run::Copy { plane: p, column: c, len } => columns[c..c + len].copy_from_slice(&plane[p..p + len]),
            Run::Outside { column: c, len } => columns[c..c + len].fill(T::of(0.0)),
        });
    }

    /// The transposed map: plane = Σ over taps of `columns`.
    pub(crate) fn scatter<T: Real>(&self, columns: &[T], plane: &mut [T], m: usize) {
        plane.fill(T::of(0.0));
        self.runs(m, |run| {
            if let Run::Copy { plane: p, column: c, len } = run {
                for (a, &b) in plane[p..p + len].iter_mut().zip(&columns[c..c + len]) {
                    *a += b;
                }
            }
        });
    }

    /// Visits the patch matrix in order as runs that are contiguous in both.
    fn runs(&self, m: usize, mut visit: impl FnMut(Run)) {
        let (i, o, w) = (self.input, self.output, self.window);
        let mut column = 0;
        for channel in 0..i.channels {
            for ky in 0..w.height {
                for kx in 0..w.width {
                    for y in 0..o.height {
                        let source_y = (y * w.stride + ky).wrapping_sub(w.padding);
                        let row_len = o.width * m;
                        if source_y >= i.height {
                            visit(Run::Outside { column, len: row_len });
                            column += row_len;
                            continue;
                        }
                        let row = (channel * i.height + source_y) * i.width;
                        if w.stride == 1 {
                            let left = w.padding.saturating_sub(kx).min(o.width);
                            let right = (i.width + w.padding).saturating_sub(kx).min(o.width).max(left);
                            visit(Run::Outside { column, len: left * m });
                            if right > left {
                                let plane = (row + left + kx - w.padding) * m;
                                visit(Run::Copy {
                                    plane,
                                    column: column + left * m,
                                    len: (right - left) * m,
                                });
                            }
                            visit(Run::Outside { column: column + right * m, len: (o.width - right) * m });
                        } else {
                            for x in 0..o.width {
                                let source_x = (x * w.stride + kx).wrapping_sub(w.padding);
                                let at = column + x * m;
                                if source_x < i.width {
                                    visit(Run::Copy { plane: (row + source_x) * m, column: at, len: m });
                                } else {
                                    visit(Run::Outside { column: at, len: m });
                                }
                            }
                        }
                        column += row_len;
                    }
                }
            }
        }
    }
}

enum Run {
    Copy { plane: usize, column: usize, len: usize },
    Outside { column: usize, len: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(stride: usize, padding: usize) -> Patches {
        let input = Shape { channels: 2, height: 5, width: 4 };
        let side = |n: usize| (n + 2 * padding - 3) / stride + 1;
        let output = Shape { channels: 1, height: side(5), width: side(4) };
        Patches { input, output, window: Window { height: 3, width: 3, stride, padding } }
    }

    /// The definition, entry by entry.
    fn patch_entry(g: &Patches, plane: &[f64], m: usize, k: usize, position: usize, sample: usize) -> f64 {
        let (channel, ky, kx) = (k / 9, k / 3 % 3, k % 3);
        let (y, x) = (position / g.output.width, position % g.output.width);
        let sy = (y * g.window.stride + ky) as isize - g.window.padding as isize;
        let sx = (x * g.window.stride + kx) as isize - g.window.padding as isize;
        if sy < 0 || sx < 0 || sy >= 5 || sx >= 4 {
            return 0.0;
        }
        plane[((channel * 5 + sy as usize) * 4 + sx as usize) * m + sample]
    }

    #[test]
    fn patches_follow_the_definition_and_scatter_is_the_transpose() {
        let m = 3;
        for (stride, padding) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 2)] {
            let g = geometry(stride, padding);
            let plane: Vec<f64> = (0..g.input.len() * m).map(|i| (i * 7 % 31) as f64 - 15.0).collect();
            let n = g.output.positions() * m;
            let mut columns = vec![f64::NAN; g.len() * n];
            g.gather(&plane, &mut columns, m);
            for (i, &found) in columns.iter().enumerate() {
                let (k, position, sample) = (i / n, i % n / m, i % m);
                assert_eq!(found, patch_entry(&g, &plane, m, k, position, sample), "{stride} {padding} {i}");
            }
            let other: Vec<f64> = (0..columns.len()).map(|i| (i * 5 % 23) as f64 - 11.0).collect();
            let mut back = vec![f64::NAN; plane.len()];
            g.scatter(&other, &mut back, m);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            assert_eq!(dot(&columns, &other), dot(&plane, &back), "small integers add exactly");
        }
    }
}
