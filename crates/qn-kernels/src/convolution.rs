//! Convolution with stride 1 on images, directly: the samples lie in the vector lanes.
//!
//! An image is `[channel][row][column][sample]`. The value at one position for sixteen samples is one vector,
//! every weight is one number for all of them, and nothing is copied to patches. Each output row is computed by
//! itself, each sum in a fixed order, so the result does not depend on the number of threads.

use std::ops::Range;

use faer::Par;
use qn_model::{Image, Window};
use rayon::prelude::*;

use crate::Real;
use crate::conv_gradient::Gradient;
use crate::conv_rows::{Row, Steps, pack, pad};
use crate::lanes::{self, Group, LANES};

/// Bands of rows whose weight gradients are summed by themselves; fixed, so that sums are.
const BANDS: usize = 4;

/// A convolution from images of one shape to images of another, with stride 1.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    input: Image,
    output: Image,
    window: Window,
}

impl Convolution {
    /// None where [`Self::supports`] says no.
    pub fn new(input: Image, output: Image, window: Window) -> Option<Self> {
        Self::supports(window).then_some(Self { input, output, window })
    }

    /// Not strides other than 1, nor more padding than a window covers.
    pub fn supports(window: Window) -> bool {
        (0..2).all(|axis| {
            [window.stride[axis], window.dilation[axis]] == [1, 1]
                && window.padding[axis] < window.kernel[axis]
        })
    }

    /// y = w ∗ x + b for m samples; w is `[out][in][ky][kx]`.
    pub fn forward<T: Real>(
        &self,
        weight: &[T],
        bias: Option<&[T]>,
        x: &[T],
        y: &mut [T],
        m: usize,
        par: Par,
    ) {
        let inner = self.input.channels * self.taps();
        let packed = pack(self.output.channels, inner, |o, i| weight[o * inner + i]);
        self.steps().run(&packed, bias, x, y, m, par);
    }

    /// Computes y = w ∗ x + b some rows at a time and hands them over while they are in the cache: the i-th of `parts`
    /// goes to `visit` with rows i · height to (i + 1) · height, `[channel][row][column][lane]`, and the number of
    /// lanes, of which the first m are the samples.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_in_rows<T: Real, P: Send>(
        &self,
        (weight, bias): (&[T], Option<&[T]>),
        x: &[T],
        m: usize,
        height: usize,
        parts: Vec<P>,
        visit: impl Fn(P, &[T], usize) + Sync,
        par: Par,
    ) {
        let inner = self.input.channels * self.taps();
        let packed = pack(self.output.channels, inner, |o, i| weight[o * inner + i]);
        let steps = self.steps();
        let lanes = m.next_multiple_of(LANES);
        let x = if lanes == m { x } else { &pad(x, self.input, [0; 2], m) };
        let part = |(i, part): (usize, P)| {
            let len = self.output.width * lanes;
            let mut rows = vec![T::of(0.0); self.output.channels * height * len];
            for r in 0..height {
                let outputs = rows.chunks_exact_mut(len).skip(r).step_by(height).collect();
                let (packed, y) = (&packed, i * height + r);
                lanes::run::<T>(Row { steps, packed, bias, x, y, outputs, m: lanes });
            }
            visit(part, &rows, lanes);
        };
        match par {
            Par::Seq => parts.into_iter().enumerate().for_each(part),
            Par::Rayon(_) => parts.into_par_iter().enumerate().with_max_len(1).for_each(part),
        }
    }

    fn steps(&self) -> Steps {
        Steps {
            input: self.input,
            output: self.output,
            kernel: (self.window.kernel[0], self.window.kernel[1]),
            padding: (self.window.padding[0], self.window.padding[1]),
        }
    }

    /// dx = wᵀ ∗ dy, the transposed map: a convolution with the window turned round.
    pub fn input_gradient<T: Real>(&self, weight: &[T], dy: &[T], dx: &mut [T], m: usize, par: Par) {
        let (taps, inputs, outputs) = (self.taps(), self.input.channels, self.output.channels);
        let packed = pack(inputs, outputs * taps, |c, i| {
            let (o, tap) = (i / taps, i % taps);
            weight[(o * inputs + c) * taps + taps - 1 - tap]
        });
        let (height, width) = (self.window.kernel[0], self.window.kernel[1]);
        let steps = Steps {
            input: self.output,
            output: self.input,
            kernel: (height, width),
            padding: (height - 1 - self.window.padding[0], width - 1 - self.window.padding[1]),
        };
        steps.run(&packed, None, dy, dx, m, par);
    }

    /// dw += Σ over samples and positions of dy xᵀ, and the same of the bias.
    pub fn weight_gradient<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        dw: &mut [T],
        db: Option<&mut [T]>,
        m: usize,
        par: Par,
    ) {
        let positions = self.output.positions() * m;
        if let Some(db) = db {
            for (sum, image) in db.iter_mut().zip(dy.chunks_exact(positions)) {
                *sum += crate::real::sum(image);
            }
        }
        let (rows, groups) = (self.output.height, m.div_ceil(LANES));
        let bands = (0..BANDS).map(|i| (i * rows / BANDS..(i + 1) * rows / BANDS, 0..groups)).collect();
        for part in self.lane_sums(x, dy, m, bands, par) {
            for (total, lanes) in dw.iter_mut().zip(&part) {
                *total += lanes.sum();
            }
        }
    }

    /// [`Self::weight_gradient`] of the samples of each class by themselves: dw is `[class][out][in][ky][kx]`, db
    /// `[class][out]`, and `classes` has the class of each sample. It costs what [`Self::weight_gradient`] does.
    pub fn weight_gradients_by_class<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        classes: &[usize],
        (dw, db): (&mut [T], Option<&mut [T]>),
        par: Par,
    ) {
        let m = classes.len();
        if let Some(db) = db {
            let mut sums = vec![T::of(0.0); m];
            for (channel, image) in dy.chunks_exact(self.output.positions() * m).enumerate() {
                sums.fill(T::of(0.0));
                for samples in image.chunks_exact(m) {
                    sums.iter_mut().zip(samples).for_each(|(sum, &d)| *sum += d);
                }
                for (&class, &sum) in classes.iter().zip(&sums) {
                    db[class * self.output.channels + channel] += sum;
                }
            }
        }
        let groups = (0..m.div_ceil(LANES)).map(|g| (0..self.output.height, g..g + 1)).collect();
        let size = self.output.channels * self.input.channels * self.taps();
        let parts = self.lane_sums(x, dy, m, groups, par);
        let gather = |(class, dw): (usize, &mut [T])| {
            for (part, classes) in parts.iter().zip(classes.chunks(LANES)) {
                let own = classes.iter().enumerate().filter(|(_, c)| **c == class);
                for (lane, _) in own {
                    dw.iter_mut().zip(part).for_each(|(dw, lanes)| *dw += lanes[lane]);
                }
            }
        };
        match par {
            Par::Seq => dw.chunks_exact_mut(size).enumerate().for_each(gather),
            Par::Rayon(_) => dw.par_chunks_exact_mut(size).enumerate().for_each(gather),
        }
    }

    /// Sums of dy xᵀ over some rows and groups of samples, a lane for each sample of a group.
    fn lane_sums<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        m: usize,
        parts: Vec<(Range<usize>, Range<usize>)>,
        par: Par,
    ) -> Vec<Vec<Group<T>>> {
        let input = self.padded_input();
        let x = if self.window.padding != [0; 2] || !m.is_multiple_of(LANES) {
            &pad(x, self.input, self.window.padding, m)
        } else {
            x
        };
        let dy = if m.is_multiple_of(LANES) { dy } else { &pad(dy, self.output, [0; 2], m) };
        let size = self.output.channels * self.input.channels * self.taps();
        let sums = |(rows, groups)| {
            let mut sums = vec![Group::zero(); size];
            lanes::run::<T>(Gradient {
                input,
                output: self.output,
                kernel: (self.window.kernel[0], self.window.kernel[1]),
                rows,
                groups,
                x,
                dy,
                m: m.next_multiple_of(LANES),
                sums: &mut sums,
            });
            sums
        };
        match par {
            Par::Seq => parts.into_iter().map(sums).collect(),
            Par::Rayon(_) => parts.into_par_iter().with_max_len(1).map(sums).collect(),
        }
    }

    fn taps(&self) -> usize {
        self.window.taps()
    }

    fn padded_input(&self) -> Image {
        let [down, across] = self.window.padding.map(|p| 2 * p);
        Image { height: self.input.height + down, width: self.input.width + across, ..self.input }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::view;
    use crate::im2col::Im2col;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 101) as f64 / 50.0 - 1.0).collect()
    }

    /// The three maps against matrix products with patches.
    #[test]
    fn agrees_with_patches() {
        let side = |n: usize, k: usize, p: usize| n + 2 * p - k + 1;
        for (channels, outputs, k, p, m) in
            [(3, 6, 5, 0, 16), (2, 7, 3, 1, 5), (1, 1, 1, 0, 33), (4, 13, 3, 2, 48), (2, 3, 5, 2, 64)]
        {
            let input = Image { channels, height: 7, width: 6 };
            let output = Image { channels: outputs, height: side(7, k, p), width: side(6, k, p) };
            let window = Window::square(k, 1, p);
            let patches = Im2col { input, output, window };
            let conv = Convolution::new(input, output, window).unwrap();
            let (inner, rows) = (patches.patch_len(), output.positions() * m);
            let (w, b) = (numbers(outputs * inner, 1), numbers(outputs, 2));
            let (x, dy) = (numbers(input.len() * m, 3), numbers(output.len() * m, 4));
            let mut columns = vec![0.0; inner * rows];
            patches.gather(&x, &mut columns, m, 0..output.positions());
            let (columns, dy_matrix) = (view(&columns, rows, inner), view(&dy, rows, outputs));
            let product = columns * view(&w, inner, outputs);
            let products = dy_matrix * view(&w, inner, outputs).transpose();
            let gradient = columns.transpose() * dy_matrix;
            let flat: Vec<f64> = (0..inner).flat_map(|i| products.col_as_slice(i).to_vec()).collect();
            let mut scattered = vec![0.0; x.len()];
            patches.scatter(&flat, &mut scattered, m, 0..output.positions());
            let close =
                |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12 * rows as f64);
            let mut found = Vec::new();
            for par in [Par::Seq, Par::rayon(2)] {
                let (mut y, mut dx) = (vec![f64::NAN; dy.len()], vec![f64::NAN; x.len()]);
                let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; outputs]);
                conv.forward(&w, Some(&b), &x, &mut y, m, par);
                conv.input_gradient(&w, &dy, &mut dx, m, par);
                conv.weight_gradient(&x, &dy, &mut dw, Some(&mut db), m, par);
                for o in 0..outputs {
                    let expected: Vec<f64> = product.col_as_slice(o).iter().map(|v| v + b[o]).collect();
                    assert!(close(&y[o * rows..(o + 1) * rows], &expected));
                    assert!(close(&dw[o * inner..(o + 1) * inner], gradient.col_as_slice(o)));
                    assert!((db[o] - dy[o * rows..(o + 1) * rows].iter().sum::<f64>()).abs() < 1e-10);
                }
                assert!(close(&dx, &scattered));
                let classes: Vec<usize> = (0..m).map(|i| i * 5 % 3).collect();
                let (mut dws, mut dbs) = (vec![0.0; 3 * w.len()], vec![0.0; 3 * outputs]);
                conv.weight_gradients_by_class(&x, &dy, &classes, (&mut dws, Some(&mut dbs)), par);
                for class in 0..3 {
                    let own = |i: usize, d: f64| if classes[i % m] == class { d } else { 0.0 };
                    let dy: Vec<f64> = dy.iter().enumerate().map(|(i, &d)| own(i, d)).collect();
                    let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; outputs]);
                    conv.weight_gradient(&x, &dy, &mut dw, Some(&mut db), m, par);
                    assert!(close(&dws[class * w.len()..(class + 1) * w.len()], &dw));
                    assert!(close(&dbs[class * outputs..(class + 1) * outputs], &db));
                }
                found.push((y, dx, dw, db));
            }
            assert!(found[0] == found[1], "the same bits in parallel");
        }
    }
}
