//! Sums over the rows of [C, P], one pass each.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use qn_curvature::Real;
use rayon::prelude::*;

/// Runs an operation in the type of its first argument.
macro_rules! by_type {
    ($dtype:expr, $run:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $run::<f32>($($arg),*),
            DType::F64 => $run::<f64>($($arg),*),
            other => bail!("{other:?} is not supported on the CPU"),
        }
    };
}

/// Runs loops with all that the processor has, not only what every processor of its kind has; `body` must be
/// `#[inline(always)]`, with all that it calls.
fn on_this_processor<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

fn entries<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a tensor of strides {:?} is not contiguous", layout.stride()),
    }
}

/// |row|² of every row, [C], f64.
pub(crate) fn squares(rows: &Tensor) -> Result<Tensor> {
    if rows.device().is_cpu() {
        return rows.contiguous()?.apply_op1_no_bwd(&Squares);
    }
    rows.sqr()?.sum(1)?.to_dtype(DType::F64)
}

/// keep_k a_k + take_k b_k for the rows of two matrices.
pub(crate) fn weighted_sum(a: &Tensor, keep: &[f64], b: &Tensor, take: &[f64]) -> Result<Tensor> {
    if a.device().is_cpu() {
        let weights = WeightedSum(keep.iter().copied().zip(take.iter().copied()).collect());
        return a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &weights);
    }
    let column = |w: &[f64]| Tensor::from_slice(w, (w.len(), 1), a.device())?.to_dtype(a.dtype());
    a.broadcast_mul(&column(keep)?)? + b.broadcast_mul(&column(take)?)?
}

/// Numbers whose squares are summed by themselves, in the type's precision.
const STRETCH: usize = 1024;

struct Squares;

impl CustomOp1 for Squares {
    fn name(&self) -> &'static str {
        "row-squares"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real + WithDType>(x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let (rows, len) = layout.shape().dims2()?;
            let of_row = |row: &[T]| {
                on_this_processor(
                    #[inline(always)]
                    || {
                        let stretch = |numbers: &[T]| {
                            // Sixteen sums at a time, as vectors hold them.
                            let mut sums = [<T as Real>::of(0.0); 16];
                            for numbers in numbers.chunks(16) {
                                sums.iter_mut().zip(numbers).for_each(|(sum, &x)| *sum += x * x);
                            }
                            sums.iter().map(|sum| sum.f64()).sum::<f64>()
                        };
                        row.chunks(STRETCH).map(stretch).sum::<f64>()
                    },
                )
            };
            let squares = entries::<T>(x, layout)?.par_chunks(len.max(1)).map(of_row).collect();
            Ok((CpuStorage::F64(squares), rows.into()))
        }
        by_type!(x.dtype(), run(x, layout))
    }
}

struct WeightedSum(Vec<(f64, f64)>);

impl CustomOp2 for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted-sum-of-rows"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real + WithDType>(
            weights: &[(f64, f64)],
            a: &CpuStorage,
            a_layout: &Layout,
            b: &CpuStorage,
            b_layout: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            let (_, len) = a_layout.shape().dims2()?;
            let (a, b) = (entries::<T>(a, a_layout)?, entries::<T>(b, b_layout)?);
            let mut sum = vec![<T as Real>::of(0.0); a.len()];
            let rows =
                sum.par_chunks_mut(len.max(1)).zip(a.par_chunks(len.max(1)).zip(b.par_chunks(len.max(1))));
            rows.zip(weights).for_each(|((sum, (a, b)), &(keep, take))| {
                let (keep, take) = (<T as Real>::of(keep), <T as Real>::of(take));
                on_this_processor(
                    #[inline(always)]
                    || {
                        let both = a.iter().zip(b);
                        sum.iter_mut().zip(both).for_each(|(sum, (&a, &b))| *sum = keep * a + take * b);
                    },
                );
            });
            Ok((T::to_cpu_storage_owned(sum), a_layout.shape().clone()))
        }
        by_type!(a.dtype(), run(&self.0, a, a_layout, b, b_layout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_by_hand() {
        let numbers = |seed: f64| -> Vec<f64> { (0..3 * 2500).map(|i| (i as f64 * seed).sin()).collect() };
        let (a, b) = (numbers(0.3), numbers(0.7));
        let tensor = |v: &[f64]| Tensor::from_slice(v, (3, 2500), &Device::Cpu).unwrap();
        let (keep, take) = ([0.9, 1.0, 0.5], [0.1, 0.0, -2.0]);
        let sum: Vec<f64> = weighted_sum(&tensor(&a), &keep, &tensor(&b), &take)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        for (i, sum) in sum.iter().enumerate() {
            assert!((sum - (keep[i / 2500] * a[i] + take[i / 2500] * b[i])).abs() < 1e-15);
        }
        let expected: Vec<f64> = a.chunks(2500).map(|row| row.iter().map(|x| x * x).sum()).collect();
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-5)] {
            let found: Vec<f64> = squares(&tensor(&a).to_dtype(dtype).unwrap()).unwrap().to_vec1().unwrap();
            assert!(found.iter().zip(&expected).all(|(f, e)| (f / e - 1.0).abs() < tolerance), "{found:?}");
        }
    }
}
