use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use qn_model::Graph;
use qn_run::ClassStatistics;

use crate::{Batch, ChannelStatistics, ClassPass, PlainPass};

/// A network in training: its point, and the derivatives of a minibatch's loss there. Images are [N, ...], in the
/// network's own type and on its device, and labels are N classes.
pub trait Model {
    /// What it computes.
    fn graph(&self) -> &Graph;

    /// Where the parameters are.
    fn device(&self) -> &Device;

    /// Their type.
    fn dtype(&self) -> DType;

    /// A copy of θ, [P].
    ///
    /// # Errors
    /// The device refuses.
    fn theta(&self) -> Result<Tensor>;

    /// Moves the network to θ.
    ///
    /// # Errors
    /// θ has another length, or the device refuses.
    fn set_theta(&mut self, theta: &Tensor) -> Result<()>;

    /// The running statistics of batch normalisations.
    ///
    /// # Errors
    /// The device refuses.
    fn buffers(&self) -> Result<Vec<Vec<f32>>>;

    /// Moves the running statistics towards those that a pass in training mode returned, the variance with Bessel's
    /// correction, as PyTorch does it.
    ///
    /// # Errors
    /// The device refuses.
    fn absorb(&mut self, statistics: &[ChannelStatistics]) -> Result<()>;

    /// The mean loss and the number of labels whose output is the largest, with the running statistics.
    ///
    /// # Errors
    /// The inputs have another shape, or the device refuses.
    fn evaluate(&self, batch: &Batch) -> Result<(f64, f64)>;

    /// The mean loss with the batch's own statistics, a scalar tensor.
    ///
    /// # Errors
    /// The inputs have another shape, or the device refuses.
    fn loss(&self, batch: &Batch) -> Result<Tensor>;

    /// Loss and gradient.
    ///
    /// # Errors
    /// The inputs have another shape, or the device refuses.
    fn plain_pass(&self, batch: &Batch) -> Result<PlainPass>;

    /// Loss, gradient, class gradients and λ of the cross-entropy of labels.
    ///
    /// # Errors
    /// The inputs have another shape, or the device refuses.
    fn class_pass(&self, images: &Tensor, labels: &[u32], statistics: ClassStatistics) -> Result<ClassPass>;
}

/// PyTorch's weight of a new batch in the running statistics.
pub(crate) const STATISTICS_MOMENTUM: f64 = 0.1;

/// The numbers of a tensor on the host, row-major, rounded to single precision.
pub(crate) fn to_f32s(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}
