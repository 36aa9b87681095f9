use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Tensor, bail};
use qn_curvature::Real;
use qn_model::{Image, Window};
use rayon::prelude::*;

use super::{Number, dims_of, entries, on_this_processor, shape_of, with_entries};

/// Windows that do not overlap, and the shape of what comes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pooling {
    pub(crate) window: Window,
    pub(crate) output: Image,
}

impl Pooling {
    /// Entries of a window.
    pub(super) fn entries(&self) -> usize {
        self.window.taps()
    }

    /// Where entry k of the window at (y, x) is in a channel with rows of `width`.
    pub(super) fn at(&self, width: usize, (y, x): (usize, usize), k: usize) -> usize {
        let ([_, across], [down, right]) = (self.window.kernel, self.window.stride);
        (y * down + k / across) * width + x * right + k % across
    }

    /// The largest entry of every window of a channel with rows of `width`.
    #[inline(always)]
    fn largest<T: Number>(&self, x: &[T], width: usize, y: &mut [T], m: usize) {
        for (i, y) in y.chunks_exact_mut(m).enumerate() {
            for k in 0..self.entries() {
                let at = self.at(width, self.place(i), k) * m;
                for (y, &x) in y.iter_mut().zip(&x[at..at + m]) {
                    take_larger(y, x, k);
                }
            }
        }
    }

    /// The i-th window's place.
    pub(super) fn place(&self, i: usize) -> (usize, usize) {
        (i / self.output.width, i % self.output.width)
    }
}

/// Takes x as the k-th entry of a window into its largest so far; says whether it is the larger. Not a number stays
/// one.
#[inline(always)]
pub(super) fn take_larger<T: Number>(largest: &mut T, x: T, k: usize) -> bool {
    #[allow(clippy::eq_op)]
    let is_nan = x != x;
    let larger = k == 0 || x > *largest || is_nan;
    *largest = if larger { x } else { *largest };
    larger
}

/// Largest entry of each window; the gradient goes to the first of equals.
pub(crate) fn max_pool(x: &Tensor, pooling: Pooling) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool(pooling))
}

struct MaxPool(Pooling);

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-samples-last"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        fn run<T: Number>(
            pool: &MaxPool,
            x: &CpuStorage,
            layout: &Layout,
        ) -> Result<(CpuStorage, candle_core::Shape)> {
            let (input, m) = shape_of(layout.dims())?;
            let (pool, output) = (pool.0, pool.0.output);
            let x = entries::<T>(x, layout)?;
            let mut y = vec![<T as Real>::of(0.0); output.len() * m];
            let channels = y.par_chunks_mut(output.positions() * m).zip(x.par_chunks(input.positions() * m));
            channels.for_each(|(y, x)| {
                on_this_processor(
                    #[inline(always)]
                    || pool.largest(x, input.width, y, m),
                );
            });
            Ok((T::to_cpu_storage_owned(y), dims_of(output, m)))
        }
        by_type!(x.dtype(), run(self, x, layout))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Number>(pool: &MaxPool, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let (input, m) = shape_of(x.dims())?;
            let pool = pool.0;
            let zero = <T as Real>::of(0.0);
            let mut dx = vec![zero; input.len() * m];
            with_entries::<T, 3, _>([x, y, dy], |[x, y, dy]| {
                let (inside, outside) = (input.positions() * m, pool.output.positions() * m);
                let channels = dx.par_chunks_mut(inside).zip(x.par_chunks(inside));
                channels.zip(y.par_chunks(outside).zip(dy.par_chunks(outside))).for_each(
                    |((dx, x), (y, dy))| {
                        let mut left = vec![zero; m];
                        for (i, (y, dy)) in y.chunks_exact(m).zip(dy.chunks_exact(m)).enumerate() {
                            left.copy_from_slice(dy);
                            for k in 0..pool.entries() {
                                let at = pool.at(input.width, pool.place(i), k) * m;
                                let window = dx[at..at + m].iter_mut().zip(&x[at..at + m]).zip(y);
                                for (((dx, &x), &y), left) in window.zip(&mut left) {
                                    let here = x == y;
                                    *dx = if here { *left } else { zero };
                                    *left = if here { zero } else { *left };
                                }
                            }
                        }
                    },
                );
                Ok(())
            })?;
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        }
        let dy = dy.contiguous()?;
        by_type!(x.dtype(), run(self, x, y, &dy))
    }
}
