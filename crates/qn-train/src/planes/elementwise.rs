use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use qn_curvature::Real;
use rayon::prelude::*;

use super::{Number, entries, with_entries};

/// Entries below which a loop is not worth parting among threads.
const SMALL: usize = 1 << 14;

/// max(x, 0), with slope 0 at 0.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Relu)
}

/// [N, ...] to [..., N], without a gradient.
pub(crate) fn samples_last(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&SamplesLast)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let (x, zero) = (entries::<T>(x, layout)?, <T as Real>::of(0.0));
            let mut y = vec![zero; x.len()];
            y.par_chunks_mut(SMALL).zip(x.par_chunks(SMALL)).for_each(|(y, x)| {
                // Not a number stays one.
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x <= zero { zero } else { x });
            });
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        }
        by_type!(x.dtype(), run(x, layout))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Number>(x: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let zero = <T as Real>::of(0.0);
            let mut dx = vec![zero; x.elem_count()];
            with_entries::<T, 2, _>([x, dy], |[x, dy]| {
                let parts = dx.par_chunks_mut(SMALL).zip(x.par_chunks(SMALL).zip(dy.par_chunks(SMALL)));
                parts.for_each(|(dx, (x, dy))| {
                    dx.iter_mut()
                        .zip(x.iter().zip(dy))
                        .for_each(|(dx, (&x, &dy))| *dx = if x <= zero { zero } else { dy });
                });
                Ok(())
            })?;
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        }
        let dy = dy.contiguous()?;
        by_type!(x.dtype(), run(x, &dy))
    }
}

struct SamplesLast;

impl CustomOp1 for SamplesLast {
    fn name(&self) -> &'static str {
        "samples-last"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let x = entries::<T>(x, layout)?;
            let [m, rest @ ..] = layout.dims() else { bail!("a batch has no axis for its samples") };
            let len = rest.iter().product::<usize>().max(1);
            let mut y = vec![<T as Real>::of(0.0); x.len()];
            y.par_chunks_mut((SMALL / m).max(1) * m).enumerate().for_each(|(part, y)| {
                let first = part * (SMALL / m).max(1);
                for (i, y) in y.chunks_exact_mut(*m).enumerate() {
                    y.iter_mut().zip(x[first + i..].iter().step_by(len)).for_each(|(y, &x)| *y = x);
                }
            });
            let dims: Vec<usize> = rest.iter().chain([m]).copied().collect();
            Ok((T::to_cpu_storage_owned(y), dims.into()))
        }
        by_type!(x.dtype(), run(x, layout))
    }
}
