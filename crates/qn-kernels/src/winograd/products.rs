use faer::Accum;

use super::{POINTS, Winograd};
use crate::{Real, gemm, view};

/// The numbers of one point, of which there are `len`.
fn of_point<T>(all: &[T], len: usize, point: usize) -> &[T] {
    &all[point * len..(point + 1) * len]
}

/// Products between points, one for each of the sixteen, on the calling thread.
impl Winograd {
    /// Channels, and outputs.
    pub fn sizes(&self) -> [usize; 2] {
        [self.input.channels, self.output.channels]
    }

    /// The points of the outputs = or += U P, U being the weights' and P the inputs' of so many rows.
    pub fn push_forward<T: Real>(
        &self,
        weights: &[T],
        inputs: &[T],
        outputs: &mut [T],
        (accum, rows): (Accum, usize),
    ) {
        let [c, k] = self.sizes();
        for point in 0..POINTS {
            let weights = view(of_point(weights, c * k, point), c, k);
            let inputs = view(of_point(inputs, c * rows, point), rows, c);
            gemm(&mut outputs[point * k * rows..], (rows, k), accum, inputs, weights);
        }
    }

    /// The points of the inputs = or += Uᵀ Q, Q being the outputs' of so many rows.
    pub fn pull_back<T: Real>(
        &self,
        weights: &[T],
        outputs: &[T],
        inputs: &mut [T],
        (accum, rows): (Accum, usize),
    ) {
        let [c, k] = self.sizes();
        for point in 0..POINTS {
            let weights = view(of_point(weights, c * k, point), c, k).transpose();
            let outputs = view(of_point(outputs, k * rows, point), rows, k);
            gemm(&mut inputs[point * c * rows..], (rows, c), accum, outputs, weights);
        }
    }

    /// The points of the weights = or += Q Pᵀ.
    pub fn outer<T: Real>(
        &self,
        inputs: &[T],
        outputs: &[T],
        weights: &mut [T],
        (accum, rows): (Accum, usize),
    ) {
        let [c, k] = self.sizes();
        for point in 0..POINTS {
            let inputs = view(of_point(inputs, c * rows, point), rows, c).transpose();
            let outputs = view(of_point(outputs, k * rows, point), rows, k);
            gemm(&mut weights[point * c * k..], (c, k), accum, inputs, outputs);
        }
    }
}
