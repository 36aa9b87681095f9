//! Cross-correlation, as matrix products with the patches of some positions at a time.

use std::ops::Range;

use faer::{Accum, MatRef};
use qn_kernels::{Im2col, Real, gemm, product, strided, strided_mut, view};
use qn_model::{Image, Window};

use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Bytes of patches that are made at a time, so that a second-level cache holds them.
const TILE_BYTES: usize = 1 << 18;
/// Positions times samples that are done at a time at least: a matrix product reads all weights for them.
const TILE_ROWS: usize = 256;

/// A convolution in groups, each a convolution of its own between contiguous parts of the channels.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    /// Geometry of one group.
    pub(super) patches: Im2col,
    pub(super) groups: usize,
}

/// Numbers of one group: in a value of inputs, in a value of outputs, and of the weights.
pub(super) struct Lens {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) w: usize,
    pub(super) out: usize,
}

/// Some positions of m samples: the rows of the matrices that are multiplied.
pub(super) struct Tile<'c> {
    conv: &'c Conv,
    positions: Range<usize>,
    m: usize,
}

/// Number `at` of parts of `len` numbers each.
pub(super) fn part<T>(all: &[T], len: usize, at: usize) -> &[T] {
    &all[at * len..(at + 1) * len]
}

/// Number `at` of parts of `len` numbers each.
pub(super) fn part_mut<T>(all: &mut [T], len: usize, at: usize) -> &mut [T] {
    &mut all[at * len..(at + 1) * len]
}

/// y = b, `each` numbers for every output of every tangent, or nothing for a product that replaces y.
pub(super) fn start<T: Real>(bias: Option<&[T]>, y: &mut [T], each: usize) -> Accum {
    let Some(bias) = bias else { return Accum::Replace };
    y.chunks_exact_mut(each).zip(bias).for_each(|(y, &b)| y.fill(b));
    Accum::Add
}

/// b̄ += Σ ȳ over positions and samples, `each` of them for every output of every cotangent, where b̄ is wanted.
pub(super) fn add_bias<T: Real>(to: &mut Cotangents<'_, T>, ybar: &[T], each: usize) {
    if let Some(Some(bbar)) = to.theta.get_mut(1) {
        let sums = ybar.chunks_exact(each).map(qn_kernels::sum);
        bbar.iter_mut().zip(sums).for_each(|(sum, y)| *sum += y);
    }
}

impl Conv {
    pub(crate) fn new(input: Image, output: Image, window: Window, groups: usize) -> Self {
        let part = |image: Image| Image { channels: image.channels / groups, ..image };
        Self { patches: Im2col { input: part(input), output: part(output), window }, groups }
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

    /// Numbers of one channel of the output.
    pub(super) fn rows(&self, m: usize) -> usize {
        self.patches.output.positions() * m
    }

    /// Every group's positions, in parts.
    pub(super) fn tiles<T>(&self, m: usize) -> impl Iterator<Item = (usize, Tile<'_>)> + use<'_, T> {
        let positions = self.patches.output.positions();
        let fitting = TILE_BYTES / (self.patches.patch_len() * m * size_of::<T>());
        let most = match self.patches.is_pointwise() {
            true => positions,
            false => fitting.max(TILE_ROWS.div_ceil(m)).min(positions),
        };
        let each = positions.div_ceil(positions.div_ceil(most));
        let of = move |first: usize| Tile { conv: self, positions: first..positions.min(first + each), m };
        (0..self.groups).flat_map(move |g| (0..positions).step_by(each).map(move |first| (g, of(first))))
    }

    /// A buffer for the patches of a tile, the longest of which is the first.
    pub(super) fn buffer<T: Real>(&self, m: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        let rows = self.tiles::<T>(m).next().map_or(0, |(_, tile)| tile.rows());
        scratch.take(if self.patches.is_pointwise() { 0 } else { self.patches.patch_len() * rows })
    }

    /// Parts of a product whose right side is the same for all of b tangents, and tangents in each: without groups,
    /// the outputs of all tangents lie at equal distances.
    fn turns(&self, b: usize) -> (usize, usize) {
        if self.groups == 1 { (1, b) } else { (b, 1) }
    }
}

impl Tile<'_> {
    fn rows(&self) -> usize {
        self.positions.len() * self.m
    }

    /// The patches of a value, rows × patch length: in the buffer, or where they are.
    pub(super) fn patches<'a, T: Real>(&self, value: &'a [T], buffer: &'a mut [T]) -> MatRef<'a, T> {
        let (geometry, inner) = (&self.conv.patches, self.conv.patches.patch_len());
        if geometry.is_pointwise() {
            return view(value, self.rows(), inner);
        }
        geometry.gather(value, buffer, self.m, self.positions.clone());
        view(buffer, self.rows(), inner)
    }

    /// y = or += w x, x in patches; w and y may be those of several tangents one behind the other.
    pub(super) fn push_forward<T: Real>(&self, x: MatRef<'_, T>, w: &[T], y: &mut [T], accum: Accum) {
        let (inner, stride) = (self.conv.patches.patch_len(), self.conv.rows(self.m));
        let outputs = w.len() / inner;
        let y = strided_mut(&mut y[self.positions.start * self.m..], self.rows(), outputs, stride);
        product(y, accum, x, view(w, inner, outputs));
    }

    /// w̄ += ȳ xᵀ, x in patches; ȳ and w̄ may be those of several tangents one behind the other.
    pub(super) fn outer<T: Real>(&self, x: MatRef<'_, T>, ybar: &[T], wbar: &mut [T]) {
        let inner = self.conv.patches.patch_len();
        let outputs = wbar.len() / inner;
        gemm(wbar, (inner, outputs), Accum::Add, x.transpose(), self.outputs(ybar, outputs));
    }

    /// Outputs, rows × `columns`.
    fn outputs<'a, T: Real>(&self, y: &'a [T], columns: usize) -> MatRef<'a, T> {
        strided(&y[self.positions.start * self.m..], self.rows(), columns, self.conv.rows(self.m))
    }

    /// x̄ += Σ ȳ w over pairs of outputs and weights, through patches in the buffer; x̄ = that where they need none.
    pub(super) fn pull_back<T: Real>(&self, pairs: &[(&[T], &[T])], xbar: &mut [T], buffer: &mut [T]) {
        let (geometry, out) = (&self.conv.patches, self.conv.patches.output.channels);
        let inner = geometry.patch_len();
        let patches = if geometry.is_pointwise() { &mut *xbar } else { &mut *buffer };
        let mut accum = Accum::Replace;
        for (ybar, w) in pairs {
            let w = view(w, inner, out).transpose();
            gemm(patches, (self.rows(), inner), accum, self.outputs(ybar, out), w);
            accum = Accum::Add;
        }
        if !geometry.is_pointwise() {
            geometry.scatter(buffer, xbar, self.m, self.positions.clone());
        }
    }
}

impl<T: Real> Operation<T> for Conv {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let (m, lens) = (at.m, self.lens(at.m));
        let accum = start(at.theta.get(1).copied(), y, self.rows(m));
        let mut buffer = self.buffer(m, scratch);
        for (g, tile) in self.tiles::<T>(m) {
            let x = tile.patches(part(at.x[0], lens.x, g), &mut buffer);
            tile.push_forward(x, part(at.theta[0], lens.w, g), part_mut(y, lens.y, g), accum);
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
        let (m, lens) = (at.m, self.lens(at.m));
        let (v, xdot) = (tangents.theta[0], tangents.x[0]);
        let accum = start(tangents.theta.get(1).copied().flatten(), ydot, self.rows(m));
        if v.is_none() && xdot.is_none() && accum == Accum::Replace {
            return ydot.fill(T::of(0.0));
        }
        let mut buffer = self.buffer(m, scratch);
        let (turns, width) = self.turns(tangents.b);
        for (g, tile) in self.tiles::<T>(m) {
            let mut accum = accum;
            if let Some(v) = v {
                let x = tile.patches(part(at.x[0], lens.x, g), &mut buffer);
                for i in (0..turns).map(|turn| turn * self.groups + g) {
                    let (v, ydot) = (&v[i * lens.w..], &mut ydot[i * lens.y..]);
                    tile.push_forward(x, &v[..width * lens.w], &mut ydot[..width * lens.y], accum);
                }
                accum = Accum::Add;
            }
            for i in (0..tangents.b).map(|t| t * self.groups + g) {
                let Some(xdot) = xdot else { continue };
                let xdot = tile.patches(part(xdot, lens.x, i), &mut buffer);
                let w = part(at.theta[0], lens.w, g);
                tile.push_forward(xdot, w, part_mut(ydot, lens.y, i), accum);
            }
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

    /// w̄ += ȳ˙ xᵀ + ȳ ẋᵀ and x̄ = wᵀ ȳ˙ + ẇᵀ ȳ, the second terms where there are tangents.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let (m, lens) = (at.m, self.lens(at.m));
        let (v, xdot) = (tangents.theta[0], tangents.x[0]);
        add_bias(to, ybardot, self.rows(m));
        if let Some(xbar) = to.x[0].as_mut().filter(|_| !self.patches.is_pointwise()) {
            xbar.fill(T::of(0.0));
        }
        let mut buffer = self.buffer(m, scratch);
        let (turns, width) = self.turns(tangents.b);
        for (g, tile) in self.tiles::<T>(m) {
            if let Some(wbar) = &mut to.theta[0] {
                let x = tile.patches(part(at.x[0], lens.x, g), &mut buffer);
                for i in (0..turns).map(|turn| turn * self.groups + g) {
                    let (wbar, ybardot) = (&mut wbar[i * lens.w..], &ybardot[i * lens.y..]);
                    tile.outer(x, &ybardot[..width * lens.y], &mut wbar[..width * lens.w]);
                }
            }
            for i in (0..tangents.b).map(|t| t * self.groups + g) {
                if let (Some(wbar), Some(xdot)) = (&mut to.theta[0], xdot) {
                    let xdot = tile.patches(part(xdot, lens.x, i), &mut buffer);
                    tile.outer(xdot, part(ybar, lens.y, g), part_mut(wbar, lens.w, i));
                }
                if let Some(xbar) = &mut to.x[0] {
                    let mut pairs = vec![(part(ybardot, lens.y, i), part(at.theta[0], lens.w, g))];
                    pairs.extend(v.map(|v| (part(ybar, lens.y, g), part(v, lens.w, i))));
                    tile.pull_back(&pairs, part_mut(xbar, lens.x, i), &mut buffer);
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
