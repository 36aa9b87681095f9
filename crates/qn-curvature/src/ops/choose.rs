//! One of two values for each entry, as a third says.

use qn_kernels::Real;
use qn_model::Shape;

use super::stretched::Stretched;
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// x where c is not zero, else y, entry by entry; the inputs are c, x and y, stretched to each other's shape. What is not
/// chosen is not looked at: it may be infinite. The derivative by c is zero.
#[derive(Clone, Debug)]
pub(crate) struct Choose {
    /// c, x and y.
    inputs: [Stretched; 3],
    /// Entries of the output.
    len: usize,
}

impl Choose {
    pub(crate) fn new(inputs: [&Shape; 3], output: &Shape) -> Self {
        Self { inputs: inputs.map(|input| Stretched::new(input, output)), len: output.len() }
    }

    /// y = what is chosen of two values, zero where one is missing.
    fn choose<T: Real>(&self, chosen: &[u32], from: [Option<&[T]>; 2], y: &mut [T], m: usize) {
        for (entry, (y, chosen)) in y.chunks_exact_mut(m).zip(chosen.chunks_exact(m)).enumerate() {
            let read = |i: usize| from[i].map(|x| self.inputs[1 + i].read(x, entry, m));
            let values = [0, 1].map(read);
            for (s, (y, &which)) in y.iter_mut().zip(chosen).enumerate() {
                *y = values[which as usize].map_or(T::of(0.0), |x| x[s]);
            }
        }
    }
}

impl<T: Real> Operation<T> for Choose {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let mut chosen = Vec::with_capacity(y.len());
        for entry in 0..self.len {
            let condition = self.inputs[0].read(at.x[0], entry, at.m);
            chosen.extend(condition.iter().map(|c| u32::from(c.f64() == 0.0)));
        }
        self.choose(&chosen, [Some(at.x[1]), Some(at.x[2])], y, at.m);
        Saved { indices: vec![chosen], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        for (t, ydot) in ydot.chunks_exact_mut(self.len * at.m).enumerate() {
            let of = |input: usize| {
                let len = self.inputs[input].len * at.m;
                tangents.x[input].map(|xdot| &xdot[t * len..(t + 1) * len])
            };
            self.choose(&saved.indices[0], [of(1), of(2)], ydot, at.m);
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
        let (m, chosen) = (at.m, &saved.indices[0]);
        for (input, xbar) in to.x.iter_mut().enumerate() {
            let Some(xbar) = xbar else { continue };
            if input == 0 {
                xbar.fill(T::of(0.0));
                continue;
            }
            let blocks = xbar.chunks_exact_mut(self.inputs[input].len * m);
            for (xbar, ybar) in blocks.zip(ybar.chunks_exact(self.len * m)) {
                self.inputs[input].collect(xbar, m, |entry, s| {
                    match chosen[entry * m + s] as usize + 1 == input {
                        true => ybar[entry * m + s],
                        false => T::of(0.0),
                    }
                });
            }
        }
    }

    fn saves(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        let same: [&[usize]; 3] = [&[2, 3]; 3];
        let stretched: [&[usize]; 3] = [&[2, 1], &[4, 1, 3], &[]];
        for shapes in [same, stretched] {
            Check { integers: vec![Some(2), None, None], ..Check::new(Op::Choose, &shapes) }.run();
        }
    }

    #[test]
    fn what_is_not_chosen_may_be_infinite() {
        let inputs: [&[f64]; 3] = [&[1.0, 0.0, -2.0], &[5.0, f64::NAN, 7.0], &[f64::NEG_INFINITY]];
        let y = Check::new(Op::Choose, &[&[3], &[3], &[1]]).values(&inputs, &[]);
        assert_eq!(y, [5.0, f64::NEG_INFINITY, 7.0]);
    }
}
