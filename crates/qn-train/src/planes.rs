//! Candle operations on the CPU with the samples' axis last: [channel, row, column, sample].
//!
//! Convolution runs on the kernels of the curvature engine; candle's own takes ten times as long on LeNet. What
//! nobody needs, as the gradient by the network's input, is not computed.

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage};
use candle_core::{Tensor, WithDType, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use qn_curvature::{Convolution, Real};
use qn_model::Window;
use rayon::prelude::*;

/// Entries below which a loop is not worth parting among threads.
const SMALL: usize = 1 << 14;

/// Each sample's class. Operations that are given one take their parameters with one more axis before the others,
/// along which they are the same for all classes, and give the gradients of each class's samples there.
#[derive(Clone, Debug)]
pub(crate) struct Classes {
    pub(crate) of: Vec<usize>,
    pub(crate) count: usize,
}

/// y = w ∗ x + b.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    classes: Option<&Arc<Classes>>,
) -> Result<Tensor> {
    let (input, _) = shape_of(x.dims())?;
    let side = |len: usize, k: usize| (len + 2 * window.padding - k) / window.stride + 1;
    let (height, width) = (side(input.height, window.height), side(input.width, window.width));
    let channels = weight.dim(usize::from(classes.is_some()))?;
    let output = qn_model::Shape { channels, height, width };
    let Some(convolution) = Convolution::new(input, output, window) else {
        return candle_conv2d(x, weight, bias, window);
    };
    let conv = Conv { convolution, input, output, classes: classes.cloned() };
    let x = x.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(weight, bias, conv),
        None => x.apply_op2(weight, conv),
    }
}

/// The same with candle's operation, which can do any stride.
fn candle_conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: Window) -> Result<Tensor> {
    let y = x.permute((3, 0, 1, 2))?.contiguous()?.conv2d(weight, window.padding, window.stride, 1, 1)?;
    let y = y.permute((1, 2, 3, 0))?.contiguous()?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape(((), 1, 1, 1))?),
        None => Ok(y),
    }
}

/// Largest entry of each window; the gradient goes to the first of equals.
pub(crate) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool(window))
}

/// max(x, 0), with slope 0 at 0.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Relu)
}

/// [N, ...] to [..., N], without a gradient.
pub(crate) fn samples_last(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&SamplesLast)
}

fn shape_of(dims: &[usize]) -> Result<(qn_model::Shape, usize)> {
    match *dims {
        [channels, height, width, m] => Ok((qn_model::Shape { channels, height, width }, m)),
        _ => bail!("an activation of shape {dims:?} instead of [channel, row, column, sample]"),
    }
}

trait Number: Real + WithDType {
    fn not_a_number(self) -> bool;
}

impl Number for f32 {
    fn not_a_number(self) -> bool {
        self.is_nan()
    }
}

impl Number for f64 {
    fn not_a_number(self) -> bool {
        self.is_nan()
    }
}

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

fn entries<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a tensor of strides {:?} is not contiguous", layout.stride()),
    }
}

/// Calls `with` with the entries of contiguous tensors.
fn with_entries<T: WithDType, const N: usize, R>(
    tensors: [&Tensor; N],
    with: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("a tensor is not on the CPU") };
        *slice = entries(storage, layout)?;
    }
    with(slices)
}

struct Conv {
    convolution: Convolution,
    input: qn_model::Shape,
    output: qn_model::Shape,
    classes: Option<Arc<Classes>>,
}

impl Conv {
    fn dims(&self, m: usize) -> Vec<usize> {
        vec![self.output.channels, self.output.height, self.output.width, m]
    }

    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (w, w_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Number>(
            conv: &Conv,
            (x, x_layout): (&CpuStorage, &Layout),
            (w, w_layout): (&CpuStorage, &Layout),
            bias: Option<(&CpuStorage, &Layout)>,
        ) -> Result<(CpuStorage, Shape)> {
            let (_, m) = shape_of(x_layout.dims())?;
            let (x, w) = (entries::<T>(x, x_layout)?, entries::<T>(w, w_layout)?);
            let bias = bias.map(|(b, layout)| entries::<T>(b, layout)).transpose()?;
            let mut y = vec![<T as Real>::of(0.0); conv.output.len() * m];
            conv.convolution.forward(w, bias, x, &mut y, m, Par::rayon(0));
            Ok((T::to_cpu_storage_owned(y), conv.dims(m).into()))
        }
        by_type!(x.dtype(), run(self, (x, x_layout), (w, w_layout), bias))
    }

    /// dx, dw and db, the first where anything needs it.
    fn backward(
        &self,
        x: &Tensor,
        w: &Tensor,
        has_bias: bool,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Tensor, Option<Tensor>)> {
        fn run<T: Number>(
            conv: &Conv,
            x: &Tensor,
            w: &Tensor,
            has_bias: bool,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Tensor, Option<Tensor>)> {
            let (_, m) = shape_of(x.dims())?;
            let (zero, par) = (<T as Real>::of(0.0), Par::rayon(0));
            let needed = x.track_op();
            let mut dx = vec![zero; if needed { conv.input.len() * m } else { 0 }];
            let mut dw = vec![zero; w.elem_count()];
            let classes = conv.classes.as_ref().map_or(1, |c| c.count);
            let mut db = has_bias.then(|| vec![zero; classes * conv.output.channels]);
            with_entries::<T, 3, _>([x, w, dy], |[x, w, dy]| {
                let (map, db) = (conv.convolution, db.as_deref_mut());
                match &conv.classes {
                    Some(classes) => map.weight_gradients_by_class(x, dy, &classes.of, (&mut dw, db), par),
                    None => map.weight_gradient(x, dy, &mut dw, db, m, par),
                }
                if needed {
                    conv.convolution.input_gradient(w, dy, &mut dx, m, par);
                }
                Ok(())
            })?;
            let device = x.device();
            Ok((
                needed.then(|| Tensor::from_vec(dx, x.shape(), device)).transpose()?,
                Tensor::from_vec(dw, w.shape(), device)?,
                db.map(|db| match &conv.classes {
                    Some(classes) => Tensor::from_vec(db, (classes.count, conv.output.channels), device),
                    None => Tensor::from_vec(db, conv.output.channels, device),
                })
                .transpose()?,
            ))
        }
        let dy = dy.contiguous()?;
        by_type!(x.dtype(), run(self, x, w, has_bias, &dy))
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d-samples-last"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (w, w_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(x, w, false, dy)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv2d-bias-samples-last"
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
        self.forward((x, x_layout), (w, w_layout), Some((b, b_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, db) = self.backward(x, w, true, dy)?;
        Ok((dx, Some(dw), db))
    }
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
