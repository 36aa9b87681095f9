//! Inputs that are stretched to the shape of an output: axes that are missing or of length 1 are repeated.

use qn_kernels::Real;
use qn_model::Shape;

/// An input of an elementwise operation, beside the output.
#[derive(Clone, Debug)]
pub(super) struct Stretched {
    /// For each entry of the output, which entry of the input it reads; None where they are those of the output.
    places: Option<Vec<usize>>,
    /// Entries of the input.
    pub(super) len: usize,
}

/// Which entry of `from` each entry of `to` reads.
pub(super) fn places(from: &Shape, to: &Shape) -> Option<Vec<usize>> {
    if from == to {
        return None;
    }
    let offset = to.rank() - from.rank();
    let place = |mut entry: usize| {
        let (mut at, mut stride) = (0, 1);
        for axis in (0..to.rank()).rev() {
            let here = entry % to.dims()[axis];
            entry /= to.dims()[axis];
            if axis >= offset {
                let n = from.dims()[axis - offset];
                at += if n == 1 { 0 } else { here * stride };
                stride *= n;
            }
        }
        at
    };
    Some((0..to.len()).map(place).collect())
}

impl Stretched {
    pub(super) fn new(input: &Shape, output: &Shape) -> Self {
        Self { places: places(input, output), len: input.len() }
    }

    /// The m numbers, one a sample, that entry `entry` of the output reads.
    #[inline(always)]
    pub(super) fn read<'x, T>(&self, x: &'x [T], entry: usize, m: usize) -> &'x [T] {
        let at = self.places.as_ref().map_or(entry, |places| places[entry]);
        &x[at * m..(at + 1) * m]
    }

    /// The input's cotangent: overwritten by `f` of the output's entry and sample, those that read one entry being added.
    pub(super) fn collect<T: Real>(&self, xbar: &mut [T], m: usize, mut f: impl FnMut(usize, usize) -> T) {
        let Some(places) = &self.places else {
            for (entry, xbar) in xbar.chunks_exact_mut(m).enumerate() {
                xbar.iter_mut().enumerate().for_each(|(s, x)| *x = f(entry, s));
            }
            return;
        };
        xbar.fill(T::of(0.0));
        for (entry, &at) in places.iter().enumerate() {
            xbar[at * m..(at + 1) * m].iter_mut().enumerate().for_each(|(s, x)| *x += f(entry, s));
        }
    }
}
