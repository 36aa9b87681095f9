use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use faer::Par;
use qn_curvature::{Convolution, Real};
use qn_model::Window;

use super::relu_pool::ReluPool;
use super::{Number, Part, Pooling, dims_of, entries, max_pool, relu, shape_of, with_entries};

/// Where gradients by class of a layer's parameters go.
pub(crate) struct Parts {
    pub(crate) weight: Part,
    pub(crate) bias: Option<Part>,
}

/// A convolution.
pub(crate) struct Convolve {
    pub(crate) window: Window,
    pub(crate) output: qn_model::Image,
    /// ReLU and max-pooling behind it.
    pub(crate) relu_pool: Option<Pooling>,
    pub(crate) parts: Option<Parts>,
}

/// y = w ∗ x + b, and ReLU and max-pooling behind it where they are asked for.
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, how: Convolve) -> Result<Tensor> {
    let Convolve { window, output, relu_pool, parts } = how;
    let (input, _) = shape_of(x.dims())?;
    let Some(convolution) = Convolution::new(input, output, window) else {
        let y = candle_conv2d(x, weight, bias, window)?;
        return relu_pool.map_or(Ok(y.clone()), |pool| max_pool(&relu(&y)?, pool));
    };
    let relu_pool = relu_pool.map(|pool| ReluPool::new(pool, output));
    let conv = Conv { convolution, input, output, relu_pool, parts };
    let x = x.contiguous()?;
    match bias {
        Some(bias) => x.apply_op3(weight, bias, conv),
        None => x.apply_op2(weight, conv),
    }
}

/// Candle's convolution of [N, channels, height, width], which knows one stride and one padding for both sides.
pub(crate) fn plain_conv2d(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let ([padding, across], [stride, right], [dilation, wide]) =
        (window.padding, window.stride, window.dilation);
    if (across, right, wide) != (padding, stride, dilation) {
        bail!("training knows no convolution with {window:?}");
    }
    x.conv2d(weight, padding, stride, dilation, 1)
}

/// A convolution with candle's operation, which can do any stride.
fn candle_conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: Window) -> Result<Tensor> {
    let y = plain_conv2d(&x.permute((3, 0, 1, 2))?.contiguous()?, weight, window)?;
    let y = y.permute((1, 2, 3, 0))?.contiguous()?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape(((), 1, 1, 1))?),
        None => Ok(y),
    }
}

struct Conv {
    convolution: Convolution,
    input: qn_model::Image,
    output: qn_model::Image,
    relu_pool: Option<ReluPool>,
    parts: Option<Parts>,
}

impl Conv {
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
            let (y, shape) = match &conv.relu_pool {
                Some(pool) => (pool.forward(&conv.convolution, (w, bias), x, m), pool.pooling.output),
                None => {
                    let mut y = vec![<T as Real>::of(0.0); conv.output.len() * m];
                    conv.convolution.forward(w, bias, x, &mut y, m, Par::rayon(0));
                    (y, conv.output)
                }
            };
            Ok((T::to_cpu_storage_owned(y), dims_of(shape, m)))
        }
        by_type!(x.dtype(), run(self, (x, x_layout), (w, w_layout), bias))
    }

    /// dx, dw and db: the first where anything needs it, the others unless they are collected by class.
    fn backward(&self, x: &Tensor, w: &Tensor, has_bias: bool, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        fn run<T: Number>(
            conv: &Conv,
            x: &Tensor,
            w: &Tensor,
            has_bias: bool,
            dy: &Tensor,
        ) -> Result<[Option<Tensor>; 3]> {
            let (_, m) = shape_of(x.dims())?;
            let (zero, par) = (<T as Real>::of(0.0), Par::rayon(0));
            let (needed, map, outputs) = (x.track_op(), conv.convolution, conv.output.channels);
            let parts = conv.parts.as_ref().filter(|parts| parts.weight.collects());
            let classes = parts.map_or(1, |parts| parts.weight.count());
            let mut dx = vec![zero; if needed { conv.input.len() * m } else { 0 }];
            let size = w.elem_count();
            let mut dw = vec![zero; classes * size];
            let mut db = has_bias.then(|| vec![zero; classes * outputs]);
            with_entries::<T, 3, _>([x, w, dy], |[x, w, dy]| {
                let dy = match &conv.relu_pool {
                    Some(pool) => &pool.backward(dy, m),
                    None => dy,
                };
                if needed {
                    map.input_gradient(w, dy, &mut dx, m, par);
                }
                let db = db.as_deref_mut();
                match parts {
                    Some(parts) => {
                        map.weight_gradients_by_class(x, dy, parts.weight.of(), (&mut dw, db), par);
                    }
                    None => map.weight_gradient(x, dy, &mut dw, db, m, par),
                }
                Ok(())
            })?;
            let device = x.device();
            let dx = needed.then(|| Tensor::from_vec(dx, x.shape(), device)).transpose()?;
            let Some(parts) = parts else {
                let db = db.map(|db| Tensor::from_vec(db, outputs, device)).transpose()?;
                return Ok([dx, Some(Tensor::from_vec(dw, w.shape(), device)?), db]);
            };
            let add = |part: &Part, found: &[T], len: usize| {
                part.each_class(len, |class, row: &mut [T]| {
                    let own = &found[class * len..(class + 1) * len];
                    row.iter_mut().zip(own).for_each(|(row, &x)| *row += x);
                })
            };
            add(&parts.weight, &dw, size)?;
            if let (Some(part), Some(db)) = (&parts.bias, &db) {
                add(part, db, outputs)?;
            }
            Ok([dx, None, None])
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
        let [dx, dw, _] = self.backward(x, w, false, dy)?;
        Ok((dx, dw))
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
        let [dx, dw, db] = self.backward(x, w, true, dy)?;
        Ok((dx, dw, db))
    }
}
