use std::sync::OnceLock;

use faer::Par;
use qn_curvature::{Convolution, Real};
use qn_model::{Image, Window};
use rayon::prelude::*;

use super::max_pool::{Pooling, take_larger};
use super::{Number, on_this_processor};

/// ReLU and max-pooling behind a convolution, done while its rows are in the cache: what lies between is never
/// stored, only which entry of each window was taken.
pub(crate) struct ReluPool {
    pub(super) pooling: Pooling,
    /// Of the convolution's output.
    input: Image,
    /// The entry of each window that was taken, or [`NONE`].
    taken: OnceLock<Vec<u8>>,
}

/// The largest entry is not positive.
const NONE: u8 = u8::MAX;

impl ReluPool {
    /// Windows must not overlap.
    pub(super) fn new(pooling: Pooling, input: Image) -> Self {
        Self { pooling, input, taken: OnceLock::new() }
    }

    /// Whether windows are of a kind that is done here.
    pub(crate) fn supports(window: Window) -> bool {
        window.is_partition() && window.taps() < usize::from(NONE)
    }

    /// max(0, w ∗ x + b) and the largest of each window.
    pub(super) fn forward<T: Number>(
        &self,
        convolution: &Convolution,
        parameters: (&[T], Option<&[T]>),
        x: &[T],
        m: usize,
    ) -> Vec<T> {
        let (pooling, output) = (self.pooling, self.pooling.output);
        let (zero, line) = (<T as Real>::of(0.0), output.width * m);
        let mut y = vec![zero; output.len() * m];
        let mut taken = vec![0; y.len()];
        let mut parts: Vec<Vec<(&mut [T], &mut [u8])>> = (0..output.height).map(|_| Vec::new()).collect();
        for (i, slices) in y.chunks_exact_mut(line).zip(taken.chunks_exact_mut(line)).enumerate() {
            parts[i % output.height].push(slices);
        }
        let height = pooling.window.kernel[0];
        let visit = |part: Vec<(&mut [T], &mut [u8])>, rows: &[T], lanes: usize| {
            on_this_processor(
                #[inline(always)]
                || self.pool_rows(part, rows, (m, lanes)),
            );
        };
        convolution.forward_in_rows(parameters, x, m, height, parts, visit, Par::rayon(0));
        // A second pass would take the same entries.
        let _ = self.taken.set(taken);
        y
    }

    /// From the derivative by the output to that by the convolution's output.
    pub(super) fn backward<T: Number>(&self, dy: &[T], m: usize) -> Vec<T> {
        let zero = <T as Real>::of(0.0);
        let mut plane = vec![zero; self.input.len() * m];
        let Some(taken) = self.taken.get() else { return plane };
        let pooling = self.pooling;
        let (inside, outside) = (self.input.positions() * m, pooling.output.positions() * m);
        let channels =
            plane.par_chunks_mut(inside).zip(dy.par_chunks(outside).zip(taken.par_chunks(outside)));
        channels.for_each(|(plane, (dy, taken))| {
            on_this_processor(
                #[inline(always)]
                || self.hand_back(plane, dy, taken, m),
            );
        });
        plane
    }
    /// A row of windows of every channel, from the rows that they lie in.
    #[inline(always)]
    fn pool_rows<T: Number>(&self, part: Vec<(&mut [T], &mut [u8])>, rows: &[T], (m, lanes): (usize, usize)) {
        let (pooling, width, zero) = (self.pooling, self.input.width, <T as Real>::of(0.0));
        let channels = part.into_iter().zip(rows.chunks_exact(pooling.window.kernel[0] * width * lanes));
        for ((y, taken), rows) in channels {
            for (at, (y, taken)) in y.chunks_exact_mut(m).zip(taken.chunks_exact_mut(m)).enumerate() {
                for k in 0..pooling.entries() {
                    let entry = pooling.at(width, (0, at), k) * lanes;
                    let samples = y.iter_mut().zip(taken.iter_mut()).zip(&rows[entry..entry + m]);
                    for ((y, taken), &x) in samples {
                        *taken = if take_larger(y, x, k) { k as u8 } else { *taken };
                    }
                }
                for (y, taken) in y.iter_mut().zip(taken) {
                    let blocked = *y <= zero;
                    *y = if blocked { zero } else { *y };
                    *taken = if blocked { NONE } else { *taken };
                }
            }
        }
    }

    /// One channel's derivatives, to the entries that were taken.
    #[inline(always)]
    fn hand_back<T: Number>(&self, plane: &mut [T], dy: &[T], taken: &[u8], m: usize) {
        let (pooling, zero) = (self.pooling, <T as Real>::of(0.0));
        for (i, (dy, taken)) in dy.chunks_exact(m).zip(taken.chunks_exact(m)).enumerate() {
            for k in 0..pooling.entries() {
                let at = pooling.at(self.input.width, pooling.place(i), k) * m;
                for ((plane, &dy), &taken) in plane[at..at + m].iter_mut().zip(dy).zip(taken) {
                    *plane = if taken == k as u8 { dy } else { zero };
                }
            }
        }
    }
}
