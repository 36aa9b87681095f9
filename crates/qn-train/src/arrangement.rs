//! The operations of a network in either order of axes.

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::planes::{Convolve, Normalised, Parts, Pooling};
use crate::{planes, pooling};

/// Where the samples' axis of an activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// [sample, channel, row, column]: candle's own operations, on any device.
    SamplesFirst,
    /// [channel, row, column, sample]: ours, on the CPU.
    SamplesLast,
}

impl Arrangement {
    /// The faster one.
    pub(crate) fn of(device: &Device) -> Self {
        if device.is_cpu() { Self::SamplesLast } else { Self::SamplesFirst }
    }

    /// A batch [N, channels, height, width] so arranged.
    pub(crate) fn input(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => x.clone(),
            Self::SamplesLast => planes::samples_last(x)?,
        })
    }

    /// An output as [N, features].
    pub(crate) fn output(self, x: &Tensor) -> Result<Tensor> {
        let flat = self.flatten(x)?;
        Ok(match self {
            Self::SamplesFirst => flat,
            Self::SamplesLast => flat.t()?.contiguous()?,
        })
    }

    /// One number for each channel, to be broadcast.
    pub(crate) fn by_channel(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => x.reshape((1, (), 1, 1))?,
            Self::SamplesLast => x.reshape(((), 1, 1, 1))?,
        })
    }

    /// Channels, and what they have entries of: [channels, N · height · width].
    pub(crate) fn channels(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => x.transpose(0, 1)?.flatten_from(1)?,
            Self::SamplesLast => x.flatten_from(1)?,
        })
    }

    /// One axis of features beside that of the samples.
    pub(crate) fn flatten(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => x.flatten_from(1)?,
            Self::SamplesLast => x.flatten_to(x.rank() - 2)?,
        })
    }

    /// y = w ∗ x + b, w being [out, in, height, width]. Gradients by class, for which `how` has parts, are found where
    /// samples come last.
    pub(crate) fn conv2d(
        self,
        x: &Tensor,
        (w, b): (&Tensor, Option<&Tensor>),
        how: Convolve,
    ) -> Result<Tensor> {
        if self == Self::SamplesLast {
            return Ok(planes::conv2d(x, w, b, how)?);
        }
        let y = planes::plain_conv2d(x, w, how.window)?;
        let y = match b {
            Some(b) => y.broadcast_add(&self.by_channel(b)?)?,
            None => y,
        };
        how.relu_pool.map_or(Ok(y.clone()), |pool| self.max_pool(&self.relu(&y)?, pool))
    }

    /// y = W x + b, W being [out, in]; gradients by class as with [`Self::conv2d`].
    pub(crate) fn linear(
        self,
        x: &Tensor,
        (w, b): (&Tensor, Option<&Tensor>),
        parts: Option<Parts>,
    ) -> Result<Tensor> {
        let x = self.flatten(x)?;
        if let Some(Parts { weight, bias }) = parts {
            let y = planes::linear_by_class(&x, w, weight)?;
            return Ok(match b.zip(bias) {
                Some((b, part)) => planes::add_by_class(&y, b, part)?,
                None => y,
            });
        }
        let (y, b) = match self {
            Self::SamplesFirst => (x.matmul(&w.t()?)?, b.cloned()),
            Self::SamplesLast => (w.matmul(&x)?, b.map(|b| b.unsqueeze(1)).transpose()?),
        };
        Ok(match b {
            Some(b) => y.broadcast_add(&b)?,
            None => y,
        })
    }

    /// max(x, 0). Candle gives it the slope 1 at 0; ours is 0 there, as PyTorch's.
    pub(crate) fn relu(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => (x * x.gt(0.0)?.to_dtype(x.dtype())?)?,
            Self::SamplesLast => planes::relu(x)?,
        })
    }

    /// Normalised by the batch's own mean and variance in each channel, and these, [channels].
    pub(crate) fn batch_norm(self, x: &Tensor, (w, b): (&Tensor, &Tensor), eps: f64) -> Result<Normalised> {
        if self == Self::SamplesLast {
            return Ok(planes::batch_norm(x, w, b, eps)?);
        }
        let channels = self.channels(x)?;
        let mean = channels.mean(1)?;
        let variance = channels.broadcast_sub(&mean.unsqueeze(1)?)?.sqr()?.mean(1)?;
        let y = self.normalise(x, (&mean, &variance), (w, b), eps)?;
        Ok(Normalised { y, mean: mean.detach(), variance: variance.detach() })
    }

    /// w (x − mean)/√(variance + ε) + b in each channel.
    pub(crate) fn normalise(
        self,
        x: &Tensor,
        (mean, variance): (&Tensor, &Tensor),
        (w, b): (&Tensor, &Tensor),
        eps: f64,
    ) -> Result<Tensor> {
        let slope = w.div(&(variance + eps)?.sqrt()?)?;
        let centred = x.broadcast_sub(&self.by_channel(mean)?)?;
        Ok(centred.broadcast_mul(&self.by_channel(&slope)?)?.broadcast_add(&self.by_channel(b)?)?)
    }

    /// Largest entry of each window; the first of equals gets the gradient.
    pub(crate) fn max_pool(self, x: &Tensor, pool: Pooling) -> Result<Tensor> {
        Ok(match self {
            Self::SamplesFirst => pooling::max_pool(x, pool.window)?,
            Self::SamplesLast => planes::max_pool(x, pool)?,
        })
    }

    /// Mean of each window.
    pub(crate) fn avg_pool(self, x: &Tensor, Pooling { window, output }: Pooling) -> Result<Tensor> {
        match self {
            Self::SamplesFirst => Ok(pooling::avg_pool(x, window)?),
            Self::SamplesLast => {
                let [height, width] = window.kernel;
                let (rows, columns) = (output.height * height, output.width * width);
                let x = x.narrow(1, 0, rows)?.narrow(2, 0, columns)?.contiguous()?;
                let n = x.dim(3)?;
                let sides = (output.channels, output.height, height, output.width, width, n);
                Ok(x.reshape(sides)?.mean((2, 4))?)
            }
        }
    }
}
