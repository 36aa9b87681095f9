//! Inputs that are stretched to the shape of an output: axes that are missing or of length 1 are repeated.

use qn_kernels::Real;
use qn_model::Shape;

use crate::layout::{strided, strides};

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
    let (offset, steps) = (to.rank() - from.rank(), strides(from));
    let repeated = |axis: usize| axis < offset || from.dims()[axis - offset] == 1;
    let step = |axis: usize| if repeated(axis) { 0 } else { steps[axis - offset] };
    Some(strided(to.dims(), &(0..to.rank()).map(step).collect::<Vec<_>>(), 0))
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
