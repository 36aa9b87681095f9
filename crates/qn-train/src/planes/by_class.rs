//! Linear layers whose gradients are parted by class.

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use qn_curvature::Real;
use rayon::prelude::*;

use super::{Number, entries, with_entries};

/// Each sample's class. Operations that are given one take their parameters with one more axis before the others,
/// along which they are the same for all classes, and give the gradients of each class's samples there.
#[derive(Clone, Debug)]
pub(crate) struct Classes {
    pub(crate) of: Vec<usize>,
    pub(crate) count: usize,
}

/// W x for features [in, N], W being [class, out, in].
pub(crate) fn linear_by_class(x: &Tensor, weight: &Tensor, classes: &Arc<Classes>) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, LinearByClass(Arc::clone(classes)))
}

/// x + b for features [out, N], b being [class, out].
pub(crate) fn add_by_class(x: &Tensor, bias: &Tensor, classes: &Arc<Classes>) -> Result<Tensor> {
    x.contiguous()?.apply_op2(bias, AddByClass(Arc::clone(classes)))
}

/// A row-major matrix, transposed.
fn columns<T>(entries: &[T], rows: usize, columns: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&entries[..rows * columns], rows, columns)
}

struct LinearByClass(Arc<Classes>);

impl CustomOp2 for LinearByClass {
    fn name(&self) -> &'static str {
        "linear-by-class"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(
            x: &CpuStorage,
            x_layout: &Layout,
            w: &CpuStorage,
            w_layout: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            let ([inputs, m], [_, outputs, _]) = (x_layout.dims(), w_layout.dims()) else {
                bail!("a linear layer by class takes [in, N] and [class, out, in]")
            };
            let x = columns(entries::<T>(x, x_layout)?, *m, *inputs);
            let w = columns(entries::<T>(w, w_layout)?, *inputs, *outputs);
            let mut y = vec![<T as Real>::of(0.0); outputs * m];
            let out = MatMut::from_column_major_slice_mut(&mut y, *m, *outputs);
            matmul(out, Accum::Replace, x, w, <T as Real>::of(1.0), Par::rayon(0));
            Ok((T::to_cpu_storage_owned(y), (*outputs, *m).into()))
        }
        by_type!(x.dtype(), run(x, x_layout, w, w_layout))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        fn run<T: Number>(
            classes: &Classes,
            x: &Tensor,
            w: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let ((inputs, m), (_, outputs, _)) = (x.dims2()?, w.dims3()?);
            let (zero, one) = (<T as Real>::of(0.0), <T as Real>::of(1.0));
            let (mut dx, mut dw) = (vec![zero; inputs * m], vec![zero; classes.count * outputs * inputs]);
            with_entries::<T, 3, _>([x, w, dy], |[x, w, dy]| {
                let (w, dy) = (columns(w, inputs, outputs), columns(dy, m, outputs));
                let target = MatMut::from_column_major_slice_mut(&mut dx, m, inputs);
                matmul(target, Accum::Replace, dy, w.transpose(), one, Par::rayon(0));
                dw.par_chunks_mut(outputs * inputs).enumerate().for_each(|(class, dw)| {
                    let own: Vec<usize> = (0..m).filter(|&i| classes.of[i] == class).collect();
                    let x = Mat::from_fn(own.len(), inputs, |i, j| x[j * m + own[i]]);
                    let dy = Mat::from_fn(own.len(), outputs, |i, j| dy[(own[i], j)]);
                    let dw = MatMut::from_column_major_slice_mut(dw, inputs, outputs);
                    matmul(dw, Accum::Replace, x.transpose(), dy.as_ref(), one, Par::Seq);
                });
                Ok(())
            })?;
            Ok((
                Some(Tensor::from_vec(dx, x.shape(), x.device())?),
                Some(Tensor::from_vec(dw, w.shape(), w.device())?),
            ))
        }
        let dy = dy.contiguous()?;
        by_type!(x.dtype(), run(&self.0, x, w, &dy))
    }
}

struct AddByClass(Arc<Classes>);

impl CustomOp2 for AddByClass {
    fn name(&self) -> &'static str {
        "add-by-class"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(
            x: &CpuStorage,
            x_layout: &Layout,
            b: &CpuStorage,
            b_layout: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            let (mut y, b) = (entries::<T>(x, x_layout)?.to_vec(), entries::<T>(b, b_layout)?);
            let m = x_layout.dims().last().copied().unwrap_or(1);
            for (y, &b) in y.chunks_exact_mut(m).zip(b) {
                y.iter_mut().for_each(|y| *y += b);
            }
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        }
        by_type!(x.dtype(), run(x, x_layout, b, b_layout))
    }

    fn bwd(
        &self,
        _: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        fn run<T: Number>(classes: &Classes, b: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let (_, outputs) = b.dims2()?;
            let mut db = vec![<T as Real>::of(0.0); classes.count * outputs];
            with_entries::<T, 1, _>([dy], |[dy]| {
                for (output, samples) in dy.chunks_exact(classes.of.len()).enumerate() {
                    for (&class, &d) in classes.of.iter().zip(samples) {
                        db[class * outputs + output] += d;
                    }
                }
                Ok(())
            })?;
            Tensor::from_vec(db, b.shape(), b.device())
        }
        let dy = dy.contiguous()?;
        let db = by_type!(b.dtype(), run(&self.0, b, &dy))?;
        Ok((Some(dy), Some(db)))
    }
}
