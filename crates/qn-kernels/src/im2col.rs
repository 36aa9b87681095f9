//! Convolution as a matrix product: images to patches and back.

use std::ops::Range;

use qn_model::{Image, Window};

use crate::Real;

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Im2col {
    /// The input.
    pub input: Image,
    /// The output; its channels do not matter.
    pub output: Image,
    /// The windows.
    pub window: Window,
}

impl Im2col {
    /// Entries of a patch: rows of the filter matrix.
    pub fn patch_len(&self) -> usize {
        self.input.channels * self.window.taps()
    }

    /// Whether a patch is what the input has at its position.
    pub fn is_pointwise(&self) -> bool {
        self.window == Window::square(1, 1, 0)
    }

    /// `columns[k][position][sample]` = input under tap k of the window, at some of the output's positions.
    pub fn gather<T: Real>(&self, image: &[T], columns: &mut [T], m: usize, positions: Range<usize>) {
        self.runs(m, positions, |run| match run {
            Run::Copy { image: p, column: c, len } => columns[c..c + len].copy_from_slice(&image[p..p + len]),
            Run::Outside { column: c, len } => columns[c..c + len].fill(T::of(0.0)),
        });
    }

    /// The transposed map: image += Σ over taps of `columns`.
    pub fn scatter<T: Real>(&self, columns: &[T], image: &mut [T], m: usize, positions: Range<usize>) {
        self.runs(m, positions, |run| {
            if let Run::Copy { image: p, column: c, len } = run {
                for (a, &b) in image[p..p + len].iter_mut().zip(&columns[c..c + len]) {
                    *a += b;
                }
            }
        });
    }

    /// Visits the patch matrix of some positions in order as runs that are contiguous in both.
    fn runs(&self, m: usize, positions: Range<usize>, mut visit: impl FnMut(Run)) {
        let (i, width, w) = (self.input, self.output.width, self.window);
        let mut column = 0;
        for channel in 0..i.channels {
            for (ky, kx) in (0..w.kernel[0]).flat_map(|ky| (0..w.kernel[1]).map(move |kx| (ky, kx))) {
                let mut at = positions.start;
                while at < positions.end {
                    let (y, first) = (at / width, at % width);
                    let row = first..width.min(first + positions.end - at);
                    let len = row.len();
                    let source_y = (y * w.stride[0] + ky * w.dilation[0]).wrapping_sub(w.padding[0]);
                    if source_y < i.height {
                        let source = (channel * i.height + source_y) * i.width;
                        self.row((kx * w.dilation[1], row), source, column, m, &mut visit);
                    } else {
                        visit(Run::Outside { column, len: len * m });
                    }
                    column += len * m;
                    at += len;
                }
            }
        }
    }

    /// Part of a row of positions under a tap that lies `shift` to the right of its window's beginning.
    fn row(
        &self,
        (shift, places): (usize, Range<usize>),
        row: usize,
        column: usize,
        m: usize,
        visit: &mut impl FnMut(Run),
    ) {
        let width = self.input.width;
        let ([_, stride], [_, padding]) = (self.window.stride, self.window.padding);
        if stride > 1 {
            for (i, x) in places.enumerate() {
                let (source, at) = ((x * stride + shift).wrapping_sub(padding), column + i * m);
                visit(if source < width {
                    Run::Copy { image: (row + source) * m, column: at, len: m }
                } else {
                    Run::Outside { column: at, len: m }
                });
            }
            return;
        }
        let (first, end) = (places.start, places.end);
        let left = padding.saturating_sub(shift).clamp(first, end);
        let right = (width + padding).saturating_sub(shift).clamp(left, end);
        visit(Run::Outside { column, len: (left - first) * m });
        if right > left {
            let image = (row + left + shift - padding) * m;
            visit(Run::Copy { image, column: column + (left - first) * m, len: (right - left) * m });
        }
        visit(Run::Outside { column: column + (right - first) * m, len: (end - right) * m });
    }
}

enum Run {
    Copy { image: usize, column: usize, len: usize },
    Outside { column: usize, len: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(stride: usize, padding: usize, dilation: usize) -> Im2col {
        let input = Image { channels: 2, height: 5, width: 4 };
        let window = Window { stride: [stride, 1], dilation: [1, dilation], ..Window::square(3, 1, padding) };
        Im2col { input, output: window.output(input, 1).unwrap(), window }
    }

    /// The definition, entry by entry.
    fn patch_entry(g: &Im2col, image: &[f64], m: usize, k: usize, position: usize, sample: usize) -> f64 {
        let (channel, ky, kx) = (k / 9, k / 3 % 3, k % 3);
        let (y, x) = (position / g.output.width, position % g.output.width);
        let w = g.window;
        let sy = (y * w.stride[0] + ky * w.dilation[0]) as isize - w.padding[0] as isize;
        let sx = (x * w.stride[1] + kx * w.dilation[1]) as isize - w.padding[1] as isize;
        if sy < 0 || sx < 0 || sy >= 5 || sx >= 4 {
            return 0.0;
        }
        image[((channel * 5 + sy as usize) * 4 + sx as usize) * m + sample]
    }

    #[test]
    fn patches_follow_the_definition_and_scatter_is_the_transpose() {
        let m = 3;
        for (stride, padding, dilation) in [(1, 0, 1), (1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 1, 1), (3, 2, 1)]
        {
            let g = geometry(stride, padding, dilation);
            let image: Vec<f64> = (0..g.input.len() * m).map(|i| (i * 7 % 31) as f64 - 15.0).collect();
            let all = g.output.positions();
            for range in [0..all, 0..1, 1..all, all / 2..all, 3..all - 1] {
                let n = range.len() * m;
                let mut columns = vec![f64::NAN; g.patch_len() * n];
                g.gather(&image, &mut columns, m, range.clone());
                for (i, &found) in columns.iter().enumerate() {
                    let (k, position, sample) = (i / n, range.start + i % n / m, i % m);
                    let expected = patch_entry(&g, &image, m, k, position, sample);
                    assert_eq!(found, expected, "{stride} {padding} {dilation} {range:?} {i}");
                }
                let other: Vec<f64> = (0..columns.len()).map(|i| (i * 5 % 23) as f64 - 11.0).collect();
                let mut back = vec![0.0; image.len()];
                g.scatter(&other, &mut back, m, range);
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
                assert_eq!(dot(&columns, &other), dot(&image, &back), "small integers add exactly");
            }
        }
    }
}
