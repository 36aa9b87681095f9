use candle_core::Tensor;

/// A minibatch where the network is.
#[derive(Clone, Debug)]
pub struct Batch {
    /// [N, ...], in the network's type.
    pub inputs: Tensor,
    /// What the outputs ought to be.
    pub targets: BatchTarget,
}

/// What a minibatch's outputs ought to be.
#[derive(Clone, Debug)]
pub enum BatchTarget {
    /// N classes.
    Labels(Vec<u32>),
    /// Numbers, [N, outputs], in the network's type.
    Values(Tensor),
}

impl Batch {
    /// With a class for each sample.
    pub fn labelled(inputs: Tensor, labels: Vec<u32>) -> Self {
        Self { inputs, targets: BatchTarget::Labels(labels) }
    }

    /// Labels; none where the targets are numbers.
    pub fn labels(&self) -> &[u32] {
        match &self.targets {
            BatchTarget::Labels(labels) => labels,
            BatchTarget::Values(_) => &[],
        }
    }
}
