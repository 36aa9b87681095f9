//! Cross-correlation whose samples lie in the vector lanes: where a group has few outputs, as depthwise ones have,
//! there is no matrix product to speak of.

use qn_kernels::{Correlation, LANES, Packed, Real};
use qn_model::{Image, Window};

use super::conv::{Conv, Lens, add_bias, part, part_mut};
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A convolution in groups.
#[derive(Clone, Debug)]
pub(crate) struct LaneConv {
    /// For microbatches that do not fill the lanes.
    conv: Conv,
    /// The map and its transpose.
    map: Correlation,
    back: Correlation,
}

impl LaneConv {
    /// Packed weights that it reads for θ and for each tangent: those of the map and of its transpose.
    pub(crate) const PACKED: usize = 2;

    pub(crate) fn new(input: Image, output: Image, window: Window, groups: usize) -> Self {
        Self {
            conv: Conv::new(input, output, window, groups),
            map: Correlation::new(input, output, window, groups),
            back: Correlation::transposed(input, output, window, groups),
        }
    }
}

/// The weights of the map and of its transpose, if samples fill the vector lanes.
fn weights<'a, T: Real>(at: &At<'a, T>) -> Option<[&'a Packed<T>; 2]> {
    at.packed.first_chunk().filter(|_| at.m.is_multiple_of(LANES)).map(|pair| pair.each_ref())
}

impl<T: Real> Operation<T> for LaneConv {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let Some([own, _]) = weights(at) else { return self.conv.forward(at, y, scratch) };
        self.map.run(&[(own, at.x[0])], at.theta.get(1).copied(), y, at.m);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let Some([own, _]) = weights(at) else { return self.conv.jvp(at, saved, tangents, ydot, scratch) };
        let (lens, groups) = (self.conv.lens(at.m), self.conv.groups);
        let bias = tangents.theta.get(1).copied().flatten();
        for (t, ydot) in ydot.chunks_exact_mut(lens.y * groups).enumerate() {
            let mut pairs = Vec::with_capacity(2);
            pairs.extend(tangents.packed.get(Self::PACKED * t).map(|v| (v, at.x[0])));
            pairs.extend(tangents.x[0].map(|xdot| (own, part(xdot, lens.x * groups, t))));
            self.map.run(&pairs, bias.map(|b| part(b, lens.out * groups, t)), ydot, at.m);
        }
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

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let Some([_, own]) = weights(at) else {
            return self.conv.vjp_tangent(at, saved, tangents, (ybar, ybardot), to, scratch);
        };
        let (m, groups) = (at.m, self.conv.groups);
        let Lens { x: x_len, y: y_len, w: w_len, .. } = self.conv.lens(m);
        add_bias(to, ybardot, self.conv.rows(m));
        for (t, ybardot) in ybardot.chunks_exact(y_len * groups).enumerate() {
            if let Some(wbar) = &mut to.theta[0] {
                let mut pairs = vec![(ybardot, at.x[0])];
                pairs.extend(tangents.x[0].map(|xdot| (ybar, part(xdot, x_len * groups, t))));
                self.map.weight_gradient(&pairs, part_mut(wbar, w_len * groups, t), m);
            }
            if let Some(xbar) = &mut to.x[0] {
                let mut pairs = vec![(own, ybardot)];
                pairs.extend(tangents.packed.get(Self::PACKED * t + 1).map(|v| (v, ybar)));
                self.back.run(&pairs, None, part_mut(xbar, x_len * groups, t), m);
            }
        }
    }

    /// For each tangent, or for θ, the weights of the map and of its transpose.
    fn pack(&self, theta: &[Option<&[T]>], b: usize) -> Vec<Packed<T>> {
        let Some(weights) = theta[0] else { return Vec::new() };
        let (all, taps) = (weights.len() / b, self.conv.patches.window.taps());
        let (inner, out) = (self.conv.patches.input.channels, self.conv.patches.output.channels);
        let each = |t: usize| {
            let w = part(weights, all, t);
            let at =
                move |g: usize, o: usize, c: usize, tap: usize| w[((g * out + o) * inner + c) * taps + tap];
            [self.map.pack(at), self.back.pack(|g, c, o, tap| at(g, o, c, tap))]
        };
        (0..b).flat_map(each).collect()
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}
