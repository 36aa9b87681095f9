//! One of two values for each entry, as a third says.

use qn_kernels::Real;
use qn_model::Shape;

use super::binary::places;
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// x where c is not zero, else y, entry by entry; the inputs are c, x and y, stretched to each other's shape. What is not
/// chosen is not looked at: it may be infinite. The derivative by c is zero.
#[derive(Clone, Debug)]
pub(crate) struct Choose {
    /// For each entry of the output, which entry of c, x and y it reads; None where they are those of the output.
    places: [Option<Vec<usize>>; 3],
    /// Entries of c, x and y, and of the output.
    lens: [usize; 3],
    len: usize,
}

impl Choose {
    pub(crate) fn new(inputs: [&Shape; 3], output: &Shape) -> Self {
        let places = inputs.map(|input| places(input, output));
        Self { places, lens: inputs.map(Shape::len), len: output.len() }
    }

    fn place(&self, input: usize, entry: usize) -> usize {
        self.places[input].as_ref().map_or(entry, |places| places[entry])
    }

    /// y = what is chosen of two values, zero where one is missing.
    fn choose<T: Real>(&self, chosen: &[u32], from: [Option<&[T]>; 2], y: &mut [T], m: usize) {
        for (entry, (y, chosen)) in y.chunks_exact_mut(m).zip(chosen.chunks_exact(m)).enumerate() {
            let places = [1, 2].map(|input| self.place(input, entry) * m);
            for (s, (y, &input)) in y.iter_mut().zip(chosen).enumerate() {
                let input = input as usize;
                *y = from[input].map_or(T::of(0.0), |x| x[places[input] + s]);
            }
        }
    }
}

impl<T: Real> Operation<T> for Choose {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let mut chosen = Vec::with_capacity(y.len());
        for entry in 0..self.len {
            let place = self.place(0, entry) * at.m;
            let condition = &at.x[0][place..place + at.m];
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
                let len = self.lens[input] * at.m;
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
        let m = at.m;
        for (input, xbar) in to.x.iter_mut().enumerate() {
            let Some(xbar) = xbar else { continue };
            xbar.fill(T::of(0.0));
            if input == 0 {
                continue;
            }
            for (xbar, ybar) in
                xbar.chunks_exact_mut(self.lens[input] * m).zip(ybar.chunks_exact(self.len * m))
            {
                let pairs = ybar.chunks_exact(m).zip(saved.indices[0].chunks_exact(m));
                for (entry, (ybar, chosen)) in pairs.enumerate() {
                    let place = self.place(input, entry) * m;
                    let sums = xbar[place..place + m].iter_mut();
                    for ((x, &y), &chosen) in sums.zip(ybar).zip(chosen) {
                        if chosen as usize + 1 == input {
                            *x += y;
                        }
                    }
                }
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
