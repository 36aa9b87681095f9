use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use qn_curvature::Real;
use rayon::prelude::*;

use super::{Number, entries, on_this_processor, shape_of, with_entries};

/// What batch normalisation makes of a batch.
pub(crate) struct Normalised {
    /// w (x − mean)/√(variance + ε) + b, with gradients through mean and variance.
    pub(crate) y: Tensor,
    /// Of each channel, [C], without a gradient.
    pub(crate) mean: Tensor,
    /// Biased, of each channel, [C], without a gradient.
    pub(crate) variance: Tensor,
}

/// Normalises every channel by the batch's own statistics, which are summed in double precision.
pub(crate) fn batch_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Normalised> {
    fn run<T: Number>(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Normalised> {
        let moments = with_entries::<T, 1, _>([x], |[x]| Ok(moments(x, w.elem_count())))?;
        let of = |numbers: Vec<f64>| Tensor::new(numbers, x.device())?.to_dtype(x.dtype());
        let mean = of(moments.iter().map(|m| m.0).collect())?;
        let variance = of(moments.iter().map(|m| m.1).collect())?;
        let scales = moments.into_iter().map(|(mean, variance)| (mean, 1.0 / (variance + eps).sqrt()));
        Ok(Normalised { y: x.apply_op3(w, b, BatchNorm(scales.collect()))?, mean, variance })
    }
    let x = &x.contiguous()?;
    by_type!(x.dtype(), run(x, w, b, eps))
}

/// Mean and 1/√(variance + ε) of each channel.
struct BatchNorm(Vec<(f64, f64)>);

/// Numbers that are summed by themselves, in the type's precision.
const STRETCH: usize = 1024;

/// Σ f(x, y) of rows as long as each other, for N functions together.
#[inline(always)]
fn sums<T: Real, const N: usize>(x: &[T], y: &[T], f: impl Fn(T, T) -> [T; N]) -> [f64; N] {
    let mut total = [0.0; N];
    for (x, y) in x.chunks(STRETCH).zip(y.chunks(STRETCH)) {
        // Sixteen sums at a time, as vectors hold them.
        let mut lanes = [[T::of(0.0); 16]; N];
        for (x, y) in x.chunks(16).zip(y.chunks(16)) {
            for (lane, (&x, &y)) in x.iter().zip(y).enumerate() {
                let terms = f(x, y);
                (0..N).for_each(|n| lanes[n][lane] += terms[n]);
            }
        }
        for (total, lanes) in total.iter_mut().zip(lanes) {
            *total += lanes.iter().map(|sum| sum.f64()).sum::<f64>();
        }
    }
    total
}

/// Mean and biased variance of each channel.
fn moments<T: Real>(x: &[T], channels: usize) -> Vec<(f64, f64)> {
    let len = (x.len() / channels.max(1)).max(1);
    let of_channel = |x: &[T]| {
        on_this_processor(
            #[inline(always)]
            || {
                let [sum] = sums(x, x, |x, _| [x]);
                let mean = sum / len as f64;
                let shift = T::of(mean);
                let [first, second] = sums(x, x, |x, _| [x - shift, (x - shift) * (x - shift)]);
                // The mean's rounding to T is taken out again.
                let rest = first / len as f64;
                (mean, (second / len as f64 - rest * rest).max(0.0))
            },
        )
    };
    x.par_chunks(len).map(of_channel).collect()
}

impl BatchNorm {
    fn backward<T: Number>(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let len = (x.elem_count() / self.0.len().max(1)).max(1);
        let mut dx = vec![<T as Real>::of(0.0); x.elem_count()];
        let slopes = with_entries::<T, 3, _>([x, w, dy], |[x, w, dy]| {
            let channels = dx.par_chunks_mut(len).zip(x.par_chunks(len).zip(dy.par_chunks(len)));
            Ok(channels
                .zip(w.par_iter().zip(&self.0))
                .map(|((dx, (x, dy)), (w, &(mean, scale)))| {
                    on_this_processor(
                        #[inline(always)]
                        || of_channel(x, dy, dx, (w.f64(), mean, scale)),
                    )
                })
                .collect::<Vec<(f64, f64)>>())
        })?;
        let of = |numbers: Vec<f64>| Tensor::new(numbers, x.device())?.to_dtype(x.dtype());
        let (dw, db) = slopes.into_iter().unzip();
        Ok([Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(of(dw)?), Some(of(db)?)])
    }
}

/// dx of a channel of n entries, w s (dy − Σdy/n − x̂ Σ(dy x̂)/n) with x̂ = s (x − mean); gives dw = Σ(dy x̂) and db = Σdy.
#[inline(always)]
fn of_channel<T: Real>(x: &[T], dy: &[T], dx: &mut [T], (w, mean, scale): (f64, f64, f64)) -> (f64, f64) {
    let (shift, n) = (T::of(mean), x.len() as f64);
    let [db, along] = sums(x, dy, |x, dy| [dy, dy * (x - shift)]);
    let dw = scale * along;
    let (factor, constant) = (T::of(w * scale), T::of(db / n));
    let slope = T::of(scale * dw / n);
    for (dx, (&x, &dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
        *dx = factor * (dy - constant - slope * (x - shift));
    }
    (dw, db)
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(
            scales: &[(f64, f64)],
            (x, x_layout): (&CpuStorage, &Layout),
            (w, w_layout): (&CpuStorage, &Layout),
            (b, b_layout): (&CpuStorage, &Layout),
        ) -> Result<(CpuStorage, Shape)> {
            let (shape, m) = shape_of(x_layout.dims())?;
            let len = (shape.height * shape.width * m).max(1);
            let x = entries::<T>(x, x_layout)?;
            let (w, b) = (entries::<T>(w, w_layout)?, entries::<T>(b, b_layout)?);
            let mut y = vec![<T as Real>::of(0.0); x.len()];
            let channels = y.par_chunks_mut(len).zip(x.par_chunks(len));
            channels.zip(scales.par_iter().zip(w.par_iter().zip(b))).for_each(
                |((y, x), (&(mean, scale), (w, &b)))| {
                    let (shift, slope) = (<T as Real>::of(mean), <T as Real>::of(w.f64() * scale));
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = slope * (x - shift) + b);
                },
            );
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        }
        by_type!(x.dtype(), run(&self.0, (x, x_layout), (w, w_layout), (b, b_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (w, dy) = (w.contiguous()?, dy.contiguous()?);
        let [dx, dw, db] = match x.dtype() {
            DType::F32 => self.backward::<f32>(x, &w, &dy),
            DType::F64 => self.backward::<f64>(x, &w, &dy),
            other => bail!("{other:?} is not supported on the CPU"),
        }?;
        Ok((dx, dw, db))
    }
}
