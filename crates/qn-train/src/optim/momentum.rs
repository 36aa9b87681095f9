use anyhow::Result;
use candle_core::Tensor;
use qn_run::TrainConfig;

/// Momentum as PyTorch's SGD has it: b ← x in the first step, b ← β b + (1 − τ) x in every later one, with dampening τ;
/// what comes out is b, or x + β b with Nesterov's. Without momentum (β = 0) it is x.
pub(crate) struct Momentum {
    /// Momentum β.
    coefficient: f64,
    /// Dampening τ of what is added.
    dampening: f64,
    nesterov: bool,
    /// b, [P].
    buffer: Tensor,
    /// Whether b holds anything yet.
    started: bool,
}

impl Momentum {
    /// With the buffer of a run that has taken `step` steps.
    pub(crate) fn new(config: &TrainConfig, buffer: Tensor, step: u64) -> Self {
        let TrainConfig { momentum: coefficient, dampening, nesterov, .. } = *config;
        Self { coefficient, dampening, nesterov, buffer, started: step > 0 }
    }

    /// b, [P].
    pub(crate) fn buffer(&self) -> &Tensor {
        &self.buffer
    }

    /// Takes in x, [P], and gives what the step goes by.
    pub(crate) fn accumulate(&mut self, new: &Tensor) -> Result<Tensor> {
        if self.coefficient == 0.0 {
            self.buffer = new.detach();
            return Ok(self.buffer.clone());
        }
        let kept = (&self.buffer * self.coefficient)?;
        let taken = if self.started && self.dampening > 0.0 {
            (kept + (new * (1.0 - self.dampening))?)?
        } else {
            (kept + new)?
        };
        (self.buffer, self.started) = (taken.detach(), true);
        Ok(match self.nesterov {
            true => (new + (&self.buffer * self.coefficient)?)?.detach(),
            false => self.buffer.clone(),
        })
    }
}
