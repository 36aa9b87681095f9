//! Elementwise functions of two values, stretched to each other's shape.

use qn_kernels::{Real, wide};
use qn_model::{Binary, Shape};

use super::stretched::Stretched;
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// x ∘ y, entry by entry.
#[derive(Clone, Debug)]
pub(crate) struct Pairwise {
    kind: Binary,
    inputs: [Stretched; 2],
    /// Entries of the output, or of its runs of entries that are read alike.
    len: usize,
    /// Entries in such a run: all where nothing is stretched.
    run: usize,
}

impl Pairwise {
    pub(crate) fn new(kind: Binary, inputs: [&Shape; 2], output: &Shape) -> Self {
        let whole = &Shape::new([]);
        let alike = inputs.iter().all(|input| *input == output);
        let (inputs, runs, run) = if alike { ([whole; 2], whole, output.len()) } else { (inputs, output, 1) };
        Self { kind, inputs: inputs.map(|input| Stretched::new(input, runs)), len: runs.len(), run }
    }
}

/// f, ∂f/∂x and ∂f/∂y.
#[inline(always)]
fn first<T: Real>(kind: Binary, x: T, y: T) -> [T; 3] {
    let one = T::of(1.0);
    match kind {
        Binary::Add => [x + y, one, one],
        Binary::Sub => [x - y, one, -one],
        Binary::Mul => [x * y, y, x],
        Binary::Div => {
            let q = x / y;
            [q, one / y, -q / y]
        }
    }
}

/// The tangents of ∂f/∂x and ∂f/∂y along ẋ and ẏ.
fn second<T: Real>(kind: Binary, [x, y]: [T; 2], [xdot, ydot]: [T; 2]) -> [T; 2] {
    match kind {
        Binary::Add | Binary::Sub => [T::of(0.0); 2],
        Binary::Mul => [ydot, xdot],
        Binary::Div => {
            let inverse = T::of(1.0) / y;
            let q = x * inverse;
            [-ydot * inverse * inverse, (-xdot + (q + q) * ydot) * inverse * inverse]
        }
    }
}

impl<T: Real> Operation<T> for Pairwise {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let m = at.m * self.run;
        wide(|| {
            for (entry, out) in y.chunks_exact_mut(m).enumerate() {
                let [a, b] = [0, 1].map(|i| self.inputs[i].read(at.x[i], entry, m));
                match self.kind {
                    Binary::Add => out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = a + b),
                    kind => out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = first(kind, a, b)[0]),
                }
            }
        });
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let m = at.m * self.run;
        ydot.fill(T::of(0.0));
        for (t, ydot) in ydot.chunks_exact_mut(self.len * m).enumerate() {
            for (i, xdot) in tangents.x.iter().enumerate() {
                let Some(xdot) =
                    xdot.map(|x| &x[t * self.inputs[i].len * m..(t + 1) * self.inputs[i].len * m])
                else {
                    continue;
                };
                for (entry, out) in ydot.chunks_exact_mut(m).enumerate() {
                    let xdot = self.inputs[i].read(xdot, entry, m);
                    match self.kind {
                        Binary::Sub if i == 1 => out.iter_mut().zip(xdot).for_each(|(o, &d)| *o -= d),
                        Binary::Add | Binary::Sub => out.iter_mut().zip(xdot).for_each(|(o, &d)| *o += d),
                        kind => {
                            let [a, b] = [0, 1].map(|i| self.inputs[i].read(at.x[i], entry, m));
                            for (((o, &d), &a), &b) in out.iter_mut().zip(xdot).zip(a).zip(b) {
                                *o += first(kind, a, b)[1 + i] * d;
                            }
                        }
                    }
                }
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let (m, reads) = (at.m * self.run, self.reads_inputs());
        for (i, xbar) in to.x.iter_mut().enumerate() {
            let Some(xbar) = xbar else { continue };
            let blocks = xbar.chunks_exact_mut(self.inputs[i].len * m).zip(ybar.chunks_exact(self.len * m));
            for (xbar, ybar) in blocks {
                if self.kind == Binary::Add && self.len == self.inputs[i].len {
                    xbar.copy_from_slice(ybar);
                    continue;
                }
                self.inputs[i].collect(xbar, m, |entry, s| {
                    let ybar = ybar[entry * m + s];
                    match self.kind {
                        _ if !reads && (i == 0 || self.kind == Binary::Add) => ybar,
                        _ if !reads => -ybar,
                        kind => {
                            let [a, b] = [0, 1].map(|i| self.inputs[i].read(at.x[i], entry, m)[s]);
                            first(kind, a, b)[1 + i] * ybar
                        }
                    }
                });
            }
        }
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
        if !self.reads_inputs() {
            self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
            return;
        }
        let m = at.m * self.run;
        for (i, xbar) in to.x.iter_mut().enumerate() {
            let Some(xbar) = xbar else { continue };
            for (t, xbar) in xbar.chunks_exact_mut(self.inputs[i].len * m).enumerate() {
                let ybardot = &ybardot[t * self.len * m..(t + 1) * self.len * m];
                self.inputs[i].collect(xbar, m, |entry, s| {
                    let x = [0, 1].map(|i| self.inputs[i].read(at.x[i], entry, m)[s]);
                    let xdot = [0, 1].map(|i| match tangents.x[i] {
                        Some(xdot) => self.inputs[i].read(&xdot[t * self.inputs[i].len * m..], entry, m)[s],
                        None => T::of(0.0),
                    });
                    first(self.kind, x[0], x[1])[1 + i] * ybardot[entry * m + s]
                        + second(self.kind, x, xdot)[i] * ybar[entry * m + s]
                });
            }
        }
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: self.reads_inputs(), cotangent: self.reads_inputs() }
    }
}

impl Pairwise {
    /// Whether the derivative depends on the inputs.
    fn reads_inputs(&self) -> bool {
        matches!(self.kind, Binary::Mul | Binary::Div)
    }
}

#[cfg(test)]
mod tests {
    use qn_model::Op;

    use super::*;
    use crate::ops::testing::Check;

    #[test]
    fn derivatives_agree_with_differences() {
        for kind in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
            for shapes in [[&[2, 3][..], &[2, 3]], [&[2, 1, 3], &[4, 1]], [&[3], &[2, 3]], [&[], &[2]]] {
                Check { positive: kind == Binary::Div, ..Check::new(Op::Binary(kind), &shapes) }.run();
            }
        }
    }
}
