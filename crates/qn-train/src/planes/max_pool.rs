use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use qn_curvature::Real;
use qn_model::Window;
use rayon::prelude::*;

use super::{Number, entries, shape_of, with_entries};

/// Largest entry of each window; the gradient goes to the first of equals.
pub(crate) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool(window))
}

struct MaxPool(Window);

impl MaxPool {
    /// Row length and the starts of each window's entries, for one channel of output rows.
    fn sides(&self, input: qn_model::Shape) -> (usize, usize) {
        let side = |len: usize, k: usize| (len - k) / self.0.stride + 1;
        (side(input.height, self.0.height), side(input.width, self.0.width))
    }

    /// Where entry k of the window at (y, x) is in its channel.
    fn at(&self, width: usize, (y, x): (usize, usize), k: usize) -> usize {
        (y * self.0.stride + k / self.0.width) * width + x * self.0.stride + k % self.0.width
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-samples-last"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(pool: &MaxPool, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let (input, m) = shape_of(layout.dims())?;
            let (height, width) = pool.sides(input);
            let x = entries::<T>(x, layout)?;
            let mut y = vec![<T as Real>::of(0.0); input.channels * height * width * m];
            let channels = y.par_chunks_mut(height * width * m).zip(x.par_chunks(input.positions() * m));
            channels.for_each(|(y, x)| {
                for (i, out) in y.chunks_exact_mut(m).enumerate() {
                    let place = (i / width, i % width);
                    for k in 0..pool.0.height * pool.0.width {
                        let at = pool.at(input.width, place, k) * m;
                        for (out, &x) in out.iter_mut().zip(&x[at..at + m]) {
                            // Not a number stays one.
                            *out = if k == 0 || x > *out || x.not_a_number() { x } else { *out };
                        }
                    }
                }
            });
            Ok((T::to_cpu_storage_owned(y), (input.channels, height, width, m).into()))
        }
        by_type!(x.dtype(), run(self, x, layout))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Number>(pool: &MaxPool, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let (input, m) = shape_of(x.dims())?;
            let (height, width) = pool.sides(input);
            let zero = <T as Real>::of(0.0);
            let mut dx = vec![zero; input.len() * m];
            with_entries::<T, 3, _>([x, y, dy], |[x, y, dy]| {
                let (inside, outside) = (input.positions() * m, height * width * m);
                let channels = dx.par_chunks_mut(inside).zip(x.par_chunks(inside));
                channels.zip(y.par_chunks(outside).zip(dy.par_chunks(outside))).for_each(
                    |((dx, x), (y, dy))| {
                        let mut left = vec![zero; m];
                        for (i, (y, dy)) in y.chunks_exact(m).zip(dy.chunks_exact(m)).enumerate() {
                            left.copy_from_slice(dy);
                            for k in 0..pool.0.height * pool.0.width {
                                let at = pool.at(input.width, (i / width, i % width), k) * m;
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
