//! Entries along an axis, by numbers that each sample has.

use qn_kernels::Real;
use qn_model::Shape;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Instead of a number that is none of an entry.
const OUTSIDE: u32 = u32::MAX;

/// y[.., i, ..] = x[.., index[.., i, ..], ..] along an axis; the second input is the index. A number that is none of an
/// entry gives no number.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    /// For each entry of the output, the entry of x that index 0 means.
    first: Vec<usize>,
    /// From there to that of the next index, and how many there are.
    stride: usize,
    places: usize,
    /// Entries of x.
    len: usize,
}

impl Gather {
    pub(crate) fn new(x: &Shape, index: &Shape, axis: usize) -> Self {
        let mut first = vec![0];
        for (a, &n) in index.dims().iter().enumerate() {
            let stride = if a == axis { 0 } else { x.dims()[a + 1..].iter().product() };
            first = first.iter().flat_map(|e| (0..n).map(move |i| e + i * stride)).collect();
        }
        let [_, places, stride] = x.around(axis);
        Self { first, stride, places, len: x.len() }
    }
}

impl<T: Real> Operation<T> for Gather {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let mut indices = Vec::with_capacity(y.len());
        for (&first, index) in self.first.iter().zip(at.x[1].chunks_exact(at.m)) {
            indices.extend(index.iter().map(|i| {
                let i = i.f64();
                let inside = i >= 0.0 && i < self.places as f64 && i.fract() == 0.0;
                if inside { (first + i as usize * self.stride) as u32 } else { OUTSIDE }
            }));
        }
        for (i, (y, &entry)) in y.iter_mut().zip(&indices).enumerate() {
            let number = || at.x[0][entry as usize * at.m + i % at.m];
            *y = if entry == OUTSIDE { T::of(f64::NAN) } else { number() };
        }
        Saved { indices: vec![indices], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let Some(xdot) = tangents.x[0] else { return ydot.fill(T::of(0.0)) };
        let indices = &saved.indices[0];
        for (xdot, ydot) in xdot.chunks_exact(self.len * at.m).zip(ydot.chunks_exact_mut(indices.len())) {
            for (i, (y, &entry)) in ydot.iter_mut().zip(indices).enumerate() {
                *y = if entry == OUTSIDE { T::of(f64::NAN) } else { xdot[entry as usize * at.m + i % at.m] };
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        if let Some(index_bar) = to.x.get_mut(1).and_then(Option::as_mut) {
            index_bar.fill(T::of(0.0));
        }
        let Some(xbar) = &mut to.x[0] else { return };
        xbar.fill(T::of(0.0));
        let indices = &saved.indices[0];
        for (ybar, xbar) in ybar.chunks_exact(indices.len()).zip(xbar.chunks_exact_mut(self.len * at.m)) {
            for (i, (&y, &entry)) in ybar.iter().zip(indices).enumerate() {
                if entry != OUTSIDE {
                    xbar[entry as usize * at.m + i % at.m] += y;
                }
            }
        }
    }

    fn saves(&self) -> usize {
        self.first.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        for (axis, index) in [(0, &[3, 2, 4][..]), (1, &[2, 5, 4]), (2, &[1, 3, 2])] {
            let op = Op::Gather { axis };
            let places = [2, 3, 4][axis];
            Check { integers: vec![None, Some(places)], ..Check::new(op, &[&[2, 3, 4], index]) }.run();
        }
    }
}
