//! Pooling that differentiates correctly.
//!
//! Candle's own `max_pool2d` has a gradient of 1/k² of the true one and shares it among ties. Here a
//! window's entries become the last dimension and the first largest one is gathered, so the gradient
//! goes to one entry, whole, as PyTorch's does.

use candle_core::{Result, Tensor};
use qn_model::Window;

/// Windows of a [N, C, H, W] tensor as [N, C, H', W', k·k].
fn windows(x: &Tensor, window: Window) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let [kh, kw] = window.kernel;
    let (oh, ow) = ((h - kh) / window.stride[0] + 1, (w - kw) / window.stride[1] + 1);
    let x = if oh * kh == h { x.clone() } else { x.narrow(2, 0, oh * kh)? };
    let x = if ow * kw == w { x } else { x.narrow(3, 0, ow * kw)? };
    x.reshape((n, c, oh, kh, ow, kw))?.permute((0, 1, 2, 4, 3, 5))?.contiguous()?.reshape((
        n,
        c,
        oh,
        ow,
        kh * kw,
    ))
}

/// Largest entry of each window.
pub(crate) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    let windows = windows(x, window)?;
    let first_largest = windows.detach().argmax_keepdim(4)?;
    windows.gather(&first_largest, 4)?.squeeze(4)
}

/// Mean of each window.
pub(crate) fn avg_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    windows(x, window)?.mean(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn square(kernel: usize) -> Window {
        Window::square(kernel, kernel, 0)
    }

    fn gradient(of: impl Fn(&Tensor) -> Result<Tensor>, x: &[f64]) -> Vec<f64> {
        let x = Var::from_slice(x, (1, 1, 4, 5), &Device::Cpu).unwrap();
        let weights = Tensor::new(&[[[[1.0, 2.0], [3.0, 4.0f64]]]], &Device::Cpu).unwrap();
        let loss = (of(&x).unwrap() * weights).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        grads.get(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_gradient_goes_to_the_first_largest_entry_whole() {
        let mut x = vec![0.0; 20];
        (x[1], x[5], x[2]) = (7.0, 7.0, 9.0); // a tie in the first window
        let g = gradient(|x| max_pool(x, square(2)), &x);
        let mut expected = vec![0.0; 20];
        (expected[1], expected[2], expected[10], expected[12]) = (1.0, 2.0, 3.0, 4.0);
        assert_eq!(g, expected);
    }

    #[test]
    fn candles_own_pool_is_wrong_which_is_why_this_exists() {
        let x: Vec<f64> = (0..20).map(f64::from).collect();
        let ours: f64 = gradient(|x| max_pool(x, square(2)), &x).iter().sum();
        let candles: f64 = gradient(|x| x.max_pool2d(2), &x).iter().sum();
        assert_eq!((ours, candles), (10.0, 2.5));
    }

    #[test]
    fn means_share_the_gradient() {
        let g = gradient(|x| avg_pool(x, square(2)), &[1.0; 20]);
        assert_eq!(&g[..5], [0.25, 0.25, 0.5, 0.5, 0.0]);
    }
}
