use anyhow::Result;
use candle_core::Tensor;
use qn_run::TrainConfig;

/// Adam (Kingma & Ba, arXiv:1412.6980) as PyTorch has it: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², and the step goes by
/// m̂/(√v̂ + ε), with m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ) in step t.
pub(crate) struct Adam {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// m, [P].
    means: Tensor,
    /// v, [P].
    squares: Tensor,
    /// Steps taken so far.
    step: u64,
}

impl Adam {
    /// With the m and v of a run that has taken `step` steps.
    pub(crate) fn new(config: &TrainConfig, means: Tensor, squares: Tensor, step: u64) -> Self {
        let TrainConfig { momentum: beta1, beta2, epsilon, .. } = *config;
        Self { beta1, beta2, epsilon, means, squares, step }
    }

    /// m and v.
    pub(crate) fn moments(&self) -> [&Tensor; 2] {
        [&self.means, &self.squares]
    }

    /// Takes in a gradient, [P], and gives what the step goes by.
    pub(crate) fn accumulate(&mut self, gradient: &Tensor) -> Result<Tensor> {
        let mix = |old: &Tensor, beta: f64, new: &Tensor| -> Result<Tensor> {
            Ok(((old * beta)? + (new * (1.0 - beta))?)?.detach())
        };
        self.means = mix(&self.means, self.beta1, gradient)?;
        self.squares = mix(&self.squares, self.beta2, &gradient.sqr()?)?;
        self.step += 1;
        let corrected = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let lengths = ((&self.squares * (1.0 / corrected(self.beta2)))?.sqrt()? + self.epsilon)?;
        Ok(((&self.means * (1.0 / corrected(self.beta1)))? / lengths)?.detach())
    }
}
