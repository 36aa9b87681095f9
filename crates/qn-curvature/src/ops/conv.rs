//! Cross-correlation, with samples in the vector lanes; where they do not fill them, as a matrix product with patches.

use faer::Accum;
use qn_kernels::{Correlation, Im2col, LANES, Packed, Real, gemm, view};
use qn_model::{Image, Window};

use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A convolution in groups, each a convolution of its own between contiguous parts of the channels.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    /// Geometry of one group.
    pub(super) patches: Im2col,
    pub(super) groups: usize,
    /// The map and its transpose.
    map: Correlation,
    back: Correlation,
}

/// Numbers of one group: in a plane of inputs, in a plane of outputs, and of the weights.
pub(super) struct Lens {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) w: usize,
    out: usize,
}

/// Number `at` of parts of `len` numbers each.
pub(super) fn part<T>(all: &[T], len: usize, at: usize) -> &[T] {
    &all[at * len..(at + 1) * len]
}

/// Number `at` of parts of `len` numbers each.
pub(super) fn part_mut<T>(all: &mut [T], len: usize, at: usize) -> &mut [T] {
    &mut all[at * len..(at + 1) * len]
}

impl Conv {
    pub(crate) fn new(input: Image, output: Image, window: Window, groups: usize) -> Self {
        let part = |image: Image| Image { channels: image.channels / groups, ..image };
        Self {
            patches: Im2col { input: part(input), output: part(output), window },
            groups,
            map: Correlation::new(input, output, window, groups),
            back: Correlation::transposed(input, output, window, groups),
        }
    }

    pub(super) fn lens(&self, m: usize) -> Lens {
        let Im2col { input, output, .. } = self.patches;
        Lens {
            x: input.len() * m,
            y: output.len() * m,
            w: self.patches.patch_len() * output.channels,
            out: output.channels,
        }
    }

    fn rows(&self, m: usize) -> usize {
        self.patches.output.positions() * m
    }

    /// A buffer for patches.
    pub(super) fn columns<T: Real>(&self, m: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        scratch.take(self.patches.patch_len() * self.rows(m))
    }

    /// y = or += w ∗ x, x in patches.
    pub(super) fn product<T: Real>(&self, w: &[T], columns: &[T], y: &mut [T], accum: Accum, m: usize) {
        let (rows, inner, out) = (self.rows(m), self.patches.patch_len(), self.patches.output.channels);
        gemm(y, (rows, out), accum, view(columns, rows, inner), view(w, inner, out));
    }

    /// Patches = or += wᵀ ȳ.
    pub(super) fn transposed_product<T: Real>(
        &self,
        w: &[T],
        ybar: &[T],
        columns: &mut [T],
        accum: Accum,
        m: usize,
    ) {
        let (rows, inner, out) = (self.rows(m), self.patches.patch_len(), self.patches.output.channels);
        gemm(columns, (rows, inner), accum, view(ybar, rows, out), view(w, inner, out).transpose());
    }

    /// w̄ += Σ ȳ xᵀ, x in patches.
    pub(super) fn outer_product<T: Real>(&self, columns: &[T], ybar: &[T], wbar: &mut [T], m: usize) {
        let (rows, inner, out) = (self.rows(m), self.patches.patch_len(), self.patches.output.channels);
        let columns = view(columns, rows, inner);
        gemm(wbar, (inner, out), Accum::Add, columns.transpose(), view(ybar, rows, out));
    }

    /// y = b, or zero for a product that replaces it.
    fn start<T: Real>(&self, bias: Option<&[T]>, y: &mut [T], m: usize) -> Accum {
        let Some(bias) = bias else { return Accum::Replace };
        y.chunks_exact_mut(self.rows(m)).zip(bias).for_each(|(y, &b)| y.fill(b));
        Accum::Add
    }

    /// b̄ += Σ ȳ, of all groups.
    fn sums<T: Real>(&self, ybar: &[T], bbar: &mut [T], m: usize) {
        bbar.iter_mut().zip(ybar.chunks_exact(self.rows(m))).for_each(|(sum, y)| *sum += qn_kernels::sum(y));
    }
}

impl<T: Real> Operation<T> for Conv {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let (m, lens) = (at.m, self.lens(at.m));
        if let Some([own, _]) = at.packed.first_chunk().filter(|_| fills(m)) {
            self.map.run(&[(own, at.x[0])], at.theta.get(1).copied(), y, m);
            return Saved::none();
        }
        let accum = self.start(at.theta.get(1).copied(), y, m);
        let mut columns = self.columns(m, scratch);
        for (g, y) in y.chunks_exact_mut(lens.y).enumerate() {
            self.patches.gather(part(at.x[0], lens.x, g), &mut columns, m);
            self.product(part(at.theta[0], lens.w, g), &columns, y, accum, m);
        }
        scratch.give([columns]);
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
        let (m, lens, groups) = (at.m, self.lens(at.m), self.groups);
        let (v, bias) = (tangents.theta[0], tangents.theta.get(1).copied().flatten());
        if let Some([own, _]) = at.packed.first_chunk().filter(|_| fills(m)) {
            for (t, ydot) in ydot.chunks_exact_mut(lens.y * groups).enumerate() {
                let mut pairs = Vec::with_capacity(2);
                pairs.extend(tangents.packed.get(2 * t).map(|v| (v, at.x[0])));
                pairs.extend(tangents.x[0].map(|xdot| (own, part(xdot, lens.x * groups, t))));
                self.map.run(&pairs, bias.map(|b| part(b, lens.out * groups, t)), ydot, m);
            }
            return;
        }
        let (mut columns, mut moved) = (self.columns(m, scratch), self.columns(m, scratch));
        for g in 0..groups {
            if v.is_some() {
                self.patches.gather(part(at.x[0], lens.x, g), &mut columns, m);
            }
            for t in 0..tangents.b {
                let i = t * groups + g;
                let ydot = part_mut(ydot, lens.y, i);
                let mut accum = self.start(bias.map(|b| part(b, lens.out, i)), ydot, m);
                if let Some(v) = v {
                    self.product(part(v, lens.w, i), &columns, ydot, accum, m);
                    accum = Accum::Add;
                }
                if let Some(xdot) = tangents.x[0] {
                    self.patches.gather(part(xdot, lens.x, i), &mut moved, m);
                    self.product(part(at.theta[0], lens.w, g), &moved, ydot, accum, m);
                    accum = Accum::Add;
                }
                if accum == Accum::Replace {
                    ydot.fill(T::of(0.0));
                }
            }
        }
        scratch.give([columns, moved]);
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, b): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let none = Tangents { b, x: &[None], theta: &[None], packed: &[], kept: &[] };
        self.backward(at, &none, (&[], ybar), to, scratch);
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ybars: (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.backward(at, tangents, ybars, to, scratch);
    }

    /// For each tangent, or for θ, the weights of the map and of its transpose.
    fn pack(&self, theta: &[Option<&[T]>], b: usize) -> Vec<Packed<T>> {
        let Some(weights) = theta[0] else { return Vec::new() };
        let (all, taps) = (weights.len() / b, self.patches.window.taps());
        let (inner, out) = (self.patches.input.channels, self.patches.output.channels);
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

/// Whether samples fill the vector lanes.
fn fills(m: usize) -> bool {
    m.is_multiple_of(LANES)
}

impl Conv {
    /// What [`Self::backward`] does, but for the bias.
    fn backward_in_lanes<T: Real>(
        &self,
        (x, m): (&[T], usize),
        own: &Packed<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
    ) {
        let Lens { x: x_len, y: y_len, w: w_len, .. } = self.lens(m);
        let groups = self.groups;
        for (t, ybardot) in ybardot.chunks_exact(y_len * groups).enumerate() {
            if let Some(wbar) = &mut to.theta[0] {
                let mut pairs = vec![(ybardot, x)];
                pairs.extend(tangents.x[0].map(|xdot| (ybar, part(xdot, x_len * groups, t))));
                self.map.weight_gradient(&pairs, part_mut(wbar, w_len * groups, t), m);
            }
            if let Some(xbar) = &mut to.x[0] {
                let mut pairs = vec![(own, ybardot)];
                pairs.extend(tangents.packed.get(2 * t + 1).map(|v| (v, ybar)));
                self.back.run(&pairs, None, part_mut(xbar, x_len * groups, t), m);
            }
        }
    }

    /// w̄ += ȳ˙ xᵀ + ȳ ẋᵀ and x̄ = wᵀ ȳ˙ + ẇᵀ ȳ, the second terms where there are tangents.
    fn backward<T: Real>(
        &self,
        at: &At<'_, T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let (m, lens, groups) = (at.m, self.lens(at.m), self.groups);
        if let Some(Some(bbar)) = to.theta.get_mut(1) {
            let channels = groups * lens.out;
            let blocks = ybardot.chunks_exact(groups * lens.y).zip(bbar.chunks_exact_mut(channels));
            blocks.for_each(|(ybar, bbar)| self.sums(ybar, bbar, m));
        }
        if let Some([_, own]) = at.packed.first_chunk().filter(|_| fills(m)) {
            self.backward_in_lanes((at.x[0], m), own, tangents, (ybar, ybardot), to);
            return;
        }
        let (mut columns, mut moved) = (self.columns(m, scratch), self.columns(m, scratch));
        for g in 0..groups {
            if to.theta[0].is_some() {
                self.patches.gather(part(at.x[0], lens.x, g), &mut columns, m);
            }
            for t in 0..tangents.b {
                let i = t * groups + g;
                let ybardot = part(ybardot, lens.y, i);
                if let Some(wbar) = &mut to.theta[0] {
                    let wbar = part_mut(wbar, lens.w, i);
                    self.outer_product(&columns, ybardot, wbar, m);
                    if let Some(xdot) = tangents.x[0] {
                        self.patches.gather(part(xdot, lens.x, i), &mut moved, m);
                        self.outer_product(&moved, part(ybar, lens.y, g), wbar, m);
                    }
                }
                if let Some(xbar) = &mut to.x[0] {
                    let w = part(at.theta[0], lens.w, g);
                    self.transposed_product(w, ybardot, &mut moved, Accum::Replace, m);
                    if let Some(v) = tangents.theta[0] {
                        let (v, ybar) = (part(v, lens.w, i), part(ybar, lens.y, g));
                        self.transposed_product(v, ybar, &mut moved, Accum::Add, m);
                    }
                    self.patches.scatter(&moved, part_mut(xbar, lens.x, i), m);
                }
            }
        }
        scratch.give([columns, moved]);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId, Window};

    #[test]
    fn derivatives_agree_with_differences() {
        let windows = [
            Window::square(3, 1, 1),
            Window { kernel: [2, 3], stride: [2, 1], padding: [0, 2], dilation: [1, 2] },
            Window::square(1, 2, 0),
        ];
        for window in windows {
            for groups in [1, 2, 4] {
                let [h, w] = window.kernel;
                let op = Op::Conv { weight: ParamId(0), bias: Some(ParamId(1)), window, groups };
                Check::new(op, &[&[4, 5, 6]]).params(&[&[8, 4 / groups, h, w], &[8]]).run();
            }
        }
        let op = Op::Conv {
            weight: ParamId(0),
            bias: None,
            window: Window { kernel: [1, 3], ..Window::square(1, 1, 0) },
            groups: 1,
        };
        Check::new(op, &[&[2, 7]]).params(&[&[3, 2, 3]]).run();
    }
}
