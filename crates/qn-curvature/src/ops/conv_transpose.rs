//! The transpose of a cross-correlation: y = wᵀ x in patches, each added to its place.
//!
//! The cross-correlation that is transposed goes from y's shape to x's. With S the map from patches to y, and Sᵀ that
//! from y to patches,
//!
//! ```text
//! y = S wᵀ x + b
//! ẏ = S (wᵀ ẋ + ẇᵀ x) + ḃ
//! x̄ = w Sᵀ ȳ,                w̄ = x (Sᵀ ȳ)ᵀ,                    b̄ = Σ ȳ
//! d x̄ = w Sᵀ ȳ˙ + ẇ Sᵀ ȳ,   d w̄ = x (Sᵀ ȳ˙)ᵀ + ẋ (Sᵀ ȳ)ᵀ
//! ```

use faer::Accum;
use qn_kernels::Real;
use qn_model::{Image, Window};

use super::conv::{Conv, add_bias, part, part_mut};
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A transposed convolution in groups.
#[derive(Clone, Debug)]
pub(crate) struct ConvTranspose {
    /// What is transposed.
    conv: Conv,
    output: Image,
}

impl ConvTranspose {
    pub(crate) fn new(input: Image, output: Image, window: Window, groups: usize) -> Self {
        Self { conv: Conv::new(output, input, window, groups), output }
    }

    /// y += b, that of every channel.
    fn shift<T: Real>(&self, bias: &[T], y: &mut [T], m: usize) {
        let channels = y.chunks_exact_mut(self.output.positions() * m);
        channels.zip(bias).for_each(|(y, &b)| y.iter_mut().for_each(|y| *y += b));
    }
}

impl<T: Real> Operation<T> for ConvTranspose {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let (m, lens) = (at.m, self.conv.lens(at.m));
        let mut buffer = self.conv.buffer(m, scratch);
        y.fill(T::of(0.0));
        for (g, tile) in self.conv.tiles::<T>(m) {
            let pair = (part(at.x[0], lens.y, g), part(at.theta[0], lens.w, g));
            tile.pull_back(&[pair], part_mut(y, lens.x, g), &mut buffer);
        }
        if let Some(bias) = at.theta.get(1) {
            self.shift(bias, y, m);
        }
        scratch.give([buffer]);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let (m, lens, groups) = (at.m, self.conv.lens(at.m), self.conv.groups);
        let mut buffer = self.conv.buffer(m, scratch);
        ydot.fill(T::of(0.0));
        for (g, tile) in self.conv.tiles::<T>(m) {
            for i in (0..tangents.b).map(|t| t * groups + g) {
                let first = tangents.x[0].map(|x| (part(x, lens.y, i), part(at.theta[0], lens.w, g)));
                let second = tangents.theta[0].map(|v| (part(at.x[0], lens.y, g), part(v, lens.w, i)));
                let pairs: Vec<_> = first.into_iter().chain(second).collect();
                tile.pull_back(&pairs, part_mut(ydot, lens.x, i), &mut buffer);
            }
        }
        if let Some(bias) = tangents.theta.get(1).copied().flatten() {
            self.shift(bias, ydot, m);
        }
        scratch.give([buffer]);
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, b): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp_tangent(at, saved, &Tangents::none(b), (&[], ybar), to, scratch);
    }

    /// x̄ = w Sᵀ ȳ˙ + ẇ Sᵀ ȳ and w̄ += x (Sᵀ ȳ˙)ᵀ + ẋ (Sᵀ ȳ)ᵀ, the second terms where there are tangents.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let (m, groups, lens) = (at.m, self.conv.groups, self.conv.lens(at.m));
        add_bias(to, ybardot, self.output.positions() * m);
        if let Some(xbar) = &mut to.x[0] {
            xbar.fill(T::of(0.0));
        }
        let mut buffer = self.conv.buffer(m, scratch);
        for (g, tile) in self.conv.tiles::<T>(m) {
            for i in (0..tangents.b).map(|t| t * groups + g) {
                let mut both = |ybar: &[T], w: Option<&[T]>, x: Option<&[T]>| {
                    if w.is_none() && x.is_none() {
                        return;
                    }
                    let patches = tile.patches(ybar, &mut buffer);
                    if let (Some(xbar), Some(w)) = (&mut to.x[0], w) {
                        tile.push_forward(patches, w, part_mut(xbar, lens.y, i), Accum::Add);
                    }
                    if let (Some(wbar), Some(x)) = (&mut to.theta[0], x) {
                        tile.outer(patches, x, part_mut(wbar, lens.w, i));
                    }
                };
                let (w, x) = (part(at.theta[0], lens.w, g), part(at.x[0], lens.y, g));
                both(part(ybardot, lens.x, i), Some(w), Some(x));
                let v = tangents.theta[0].map(|v| part(v, lens.w, i));
                let xdot = tangents.x[0].map(|xdot| part(xdot, lens.y, i));
                if v.is_some() || xdot.is_some() {
                    both(part(ybar, lens.x, g), v, xdot);
                }
            }
        }
        scratch.give([buffer]);
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId, Window};

    fn op(window: Window, bias: bool, groups: usize, output_padding: [usize; 2]) -> Op {
        let bias = bias.then_some(ParamId(1));
        Op::ConvTranspose { weight: ParamId(0), bias, window, output_padding, groups }
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let windows = [
            (Window::square(3, 1, 1), [0, 0]),
            (Window { kernel: [2, 3], stride: [2, 1], padding: [0, 2], dilation: [1, 2] }, [1, 0]),
            (Window::square(2, 3, 0), [2, 1]),
        ];
        for (window, output_padding) in windows {
            for groups in [1, 2, 4] {
                let [h, w] = window.kernel;
                let op = op(window, true, groups, output_padding);
                Check::new(op, &[&[4, 3, 4]]).params(&[&[4, 2, h, w], &[2 * groups]]).run();
            }
        }
        let line = Window { kernel: [1, 3], stride: [1, 2], ..Window::square(1, 1, 0) };
        Check::new(op(line, false, 1, [0, 1]), &[&[2, 5]]).params(&[&[2, 3, 3]]).run();
    }

    #[test]
    fn values_by_hand() {
        // conv_transpose1d(tensor([[[1., 2., 3.]]]), tensor([[[1., 10., 100.]]]), tensor([5.]), stride=2)
        let line = Window { kernel: [1, 3], stride: [1, 2], ..Window::square(1, 1, 0) };
        let (x, w): (&[f64], &[f64]) = (&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]);
        let values = |window, output_padding| {
            let op = op(window, true, 1, output_padding);
            Check::new(op, &[&[1, 3]]).params(&[&[1, 1, 3], &[1]]).values(&[x], &[w, &[5.0]])
        };
        assert_eq!(values(line, [0, 0]), [6.0, 15.0, 107.0, 25.0, 208.0, 35.0, 305.0]);
        // With padding=1 and output_padding=1: a place less at the beginning, and none less at the end.
        let padded = Window { padding: [0, 1], ..line };
        assert_eq!(values(padded, [0, 1]), [15.0, 107.0, 25.0, 208.0, 35.0, 305.0]);
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let check = Check::new(op(Window::square(1, 1, 0), false, 2, [0, 0]), &[&[2, 1, 1]]);
        let y = check.params(&[&[2, 2, 1, 1]]).values(&[&[3.0, 5.0]], &[&[1.0, 2.0, 10.0, 20.0]]);
        assert_eq!(y, [3.0, 6.0, 50.0, 100.0]);
    }
}
