//! Gradients that are parted by the classes of the samples, as they are summed.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use qn_curvature::Real;
use rayon::prelude::*;

use super::{Number, entries, with_entries};

/// Each sample's class, and where gradients by class go.
///
/// A backward pass inside [`Self::collect`] adds the parameters' gradients to the rows of the samples' classes;
/// any other one gives them to candle, summed, as usual.
pub(crate) struct Classes {
    of: Vec<usize>,
    count: usize,
    rows: Mutex<Option<Rows>>,
}

/// [C, P], row-major.
pub(super) enum Rows {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Classes {
    /// C = `count` classes; `of` has each sample's.
    pub(crate) fn new(of: Vec<usize>, count: usize) -> Self {
        Self { of, count, rows: Mutex::new(None) }
    }

    /// The gradient that a backward pass finds for P parameters, each class's samples by themselves: [C, P].
    pub(crate) fn collect(
        &self,
        params: usize,
        dtype: DType,
        backward: impl FnOnce() -> Result<()>,
    ) -> Result<Tensor> {
        let len = self.count * params;
        let rows = match dtype {
            DType::F32 => Rows::F32(vec![0.0; len]),
            DType::F64 => Rows::F64(vec![0.0; len]),
            other => bail!("{other:?} is not supported on the CPU"),
        };
        let lock = || self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Some(rows);
        let outcome = backward();
        let rows = lock().take();
        outcome?;
        match rows {
            Some(Rows::F32(rows)) => Tensor::from_vec(rows, (self.count, params), &Device::Cpu),
            Some(Rows::F64(rows)) => Tensor::from_vec(rows, (self.count, params), &Device::Cpu),
            None => bail!("two passes collect gradients by class at once"),
        }
    }
}

/// A parameter's place among all of them.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) classes: Arc<Classes>,
    /// Its first entry in a row.
    pub(crate) offset: usize,
}

impl Part {
    /// Calls `add` with each class's part of its row, if gradients by class are collected now.
    pub(super) fn each_class<T: Number>(
        &self,
        len: usize,
        add: impl Fn(usize, &mut [T]) + Sync,
    ) -> Result<bool> {
        let mut rows = self.classes.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rows) = rows.as_mut() else { return Ok(false) };
        let rows = T::rows(rows)?;
        let params = rows.len() / self.classes.count;
        let each = |(class, row): (usize, &mut [T])| add(class, &mut row[self.offset..self.offset + len]);
        rows.par_chunks_mut(params).enumerate().for_each(each);
        Ok(true)
    }

    /// Whether gradients by class are collected now.
    pub(super) fn collects(&self) -> bool {
        self.classes.rows.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Each sample's class.
    pub(super) fn of(&self) -> &[usize] {
        &self.classes.of
    }

    pub(super) fn count(&self) -> usize {
        self.classes.count
    }
}

/// W x for features [in, N].
pub(crate) fn linear_by_class(x: &Tensor, weight: &Tensor, part: Part) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, LinearByClass(part))
}

/// x + b for features [out, N].
pub(crate) fn add_by_class(x: &Tensor, bias: &Tensor, part: Part) -> Result<Tensor> {
    x.contiguous()?.apply_op2(bias, AddByClass(part))
}

/// A row-major matrix, transposed.
fn columns<T>(entries: &[T], rows: usize, columns: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&entries[..rows * columns], rows, columns)
}

struct LinearByClass(Part);

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
            let ((inputs, m), (outputs, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
            let x = columns(entries::<T>(x, x_layout)?, m, inputs);
            let w = columns(entries::<T>(w, w_layout)?, inputs, outputs);
            let mut y = vec![<T as Real>::of(0.0); outputs * m];
            let out = MatMut::from_column_major_slice_mut(&mut y, m, outputs);
            matmul(out, Accum::Replace, x, w, <T as Real>::of(1.0), Par::Seq);
            Ok((T::to_cpu_storage_owned(y), (outputs, m).into()))
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
            part: &Part,
            x: &Tensor,
            w: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let ((inputs, m), (outputs, _)) = (x.dims2()?, w.dims2()?);
            let (zero, one) = (<T as Real>::of(0.0), <T as Real>::of(1.0));
            let mut dx = vec![zero; inputs * m];
            let dw = with_entries::<T, 3, _>([x, w, dy], |[x, w, dy]| {
                let (w, delta) = (columns(w, inputs, outputs), columns(dy, m, outputs));
                let target = MatMut::from_column_major_slice_mut(&mut dx, m, inputs);
                matmul(target, Accum::Replace, delta, w.transpose(), one, Par::Seq);
                let parted = part.each_class(outputs * inputs, |class, dw| {
                    let own: Vec<usize> = (0..m).filter(|&i| part.of()[i] == class).collect();
                    let x = Mat::from_fn(own.len(), inputs, |i, j| x[j * m + own[i]]);
                    let delta = Mat::from_fn(own.len(), outputs, |i, j| delta[(own[i], j)]);
                    let dw = MatMut::from_column_major_slice_mut(dw, inputs, outputs);
                    matmul(dw, Accum::Add, x.transpose(), delta.as_ref(), one, Par::Seq);
                })?;
                if parted {
                    return Ok(None);
                }
                let mut dw = vec![zero; outputs * inputs];
                let target = MatMut::from_column_major_slice_mut(&mut dw, inputs, outputs);
                matmul(target, Accum::Replace, columns(x, m, inputs).transpose(), delta, one, Par::Seq);
                Ok(Some(dw))
            })?;
            Ok((
                Some(Tensor::from_vec(dx, x.shape(), x.device())?),
                dw.map(|dw| Tensor::from_vec(dw, w.shape(), w.device())).transpose()?,
            ))
        }
        let dy = dy.contiguous()?;
        by_type!(x.dtype(), run(&self.0, x, w, &dy))
    }
}

struct AddByClass(Part);

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
            let (_, m) = x_layout.shape().dims2()?;
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
        fn run<T: Number>(part: &Part, b: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let outputs = b.elem_count();
            let db = with_entries::<T, 1, _>([dy], |[dy]| {
                let samples = || dy.chunks_exact(part.of().len());
                let parted = part.each_class(outputs, |class, db: &mut [T]| {
                    for (db, samples) in db.iter_mut().zip(samples()) {
                        let own = samples.iter().zip(part.of()).filter(|(_, c)| **c == class);
                        *db += own.map(|(&d, _)| d).sum::<T>();
                    }
                })?;
                Ok((!parted).then(|| samples().map(|s| s.iter().copied().sum::<T>()).collect::<Vec<T>>()))
            })?;
            db.map(|db| Tensor::from_vec(db, b.shape(), b.device())).transpose()
        }
        let dy = dy.contiguous()?;
        let db = by_type!(b.dtype(), run(&self.0, b, &dy))?;
        Ok((Some(dy), db))
    }
}
