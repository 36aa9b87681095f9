//! SGD with momentum, Adam and the quasi-Newton method: what they remember, and the steps they take.
//!
//! A step goes from the gradient g to θ in three stages: weight decay, g + w θ; the preconditioner, which treats the
//! subspace of the class gradients in a way of its own ([`Directions`]); [`Momentum`], on the gradient before the
//! preconditioner or on the update behind it. [`Adam`] takes the place of the last two. Sharpness-aware minimisation has SGD's
//! steps along a gradient taken [elsewhere](Optimizer::elsewhere). The learning rate η_t of step t
//! is η times the schedule's factor f_t.

mod adam;
mod averages;
mod curvatures;
mod directions;
mod momentum;
mod sam;

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Tensor};
use faer::Mat;
use qn_curvature::Operator;
use qn_run::{
    Basis, LambdaSource, MomentumOn, Newton, NewtonScale, OptimizerKind, OptimizerState, Projection,
    Subspace, TrainConfig,
};

use crate::model::to_f32s;
use crate::{ClassPass, Model};
use adam::Adam;
pub use averages::Averages;
pub(crate) use curvatures::Curvatures;
use directions::{Directions, NewtonStep, model_curvature, orthonormal_rows, unit_rows};
use momentum::Momentum;
use qn_spectrum::Stability;

/// SGD with momentum, Adam or the quasi-Newton method, acting on θ as one vector.
pub struct Optimizer {
    config: TrainConfig,
    /// Steps taken so far.
    step: u64,
    momentum: Momentum,
    /// In momentum's place.
    adam: Option<Adam>,
    averages: Option<Averages>,
    /// M of the batch that was observed last: the mean of diag p − p pᵀ, [C, C].
    logit_hessian: Option<Tensor>,
    /// The Hessian's top eigenvectors as rows, where the projection is about them.
    top: Option<Tensor>,
    /// How the step that was prepared last treats its subspace; `None` for plain SGD.
    directions: Option<Directions>,
}

impl Optimizer {
    /// The optimiser that `config` names, as new or as it was saved after `step` steps.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(
        config: &TrainConfig,
        network: &dyn Model,
        saved: Option<(u64, &OptimizerState)>,
    ) -> Result<Self> {
        let (device, dtype) = (network.device(), network.dtype());
        let (classes, p) = (network.graph().classes(), network.graph().layout().len());
        let (step, saved) = saved.map_or((0, None), |(step, state)| (step, Some(state)));
        let buffer = match saved {
            Some(s) => Tensor::from_slice(&s.momentum, p, device)?.to_dtype(dtype)?,
            None => Tensor::zeros(p, dtype, device)?,
        };
        let averages = match saved {
            _ if !keeps_averages(config) => None,
            None => Some(Averages::new(config.gamma, classes, p, dtype, device)?),
            Some(s) => {
                let gradients =
                    Tensor::from_slice(&s.class_gradients, (classes, p), device)?.to_dtype(dtype)?;
                let squares = Tensor::from_slice(&s.lambda_squares, classes, device)?;
                Some(Averages::restore(config.gamma, gradients, squares, s.class_steps.clone()))
            }
        };
        let top = match saved {
            Some(s) if !s.subspace.is_empty() => {
                let k = s.subspace.len() / p;
                Some(Tensor::from_slice(&s.subspace, (k, p), device)?.to_dtype(dtype)?)
            }
            _ => None,
        };
        let adam = if config.optimizer.is_adam() {
            let squares = match saved {
                Some(s) => Tensor::from_slice(&s.second_moments, p, device)?.to_dtype(dtype)?,
                None => Tensor::zeros(p, dtype, device)?,
            };
            Some(Adam::new(config, buffer.clone(), squares, step))
        } else {
            None
        };
        let momentum = Momentum::new(config, buffer, step);
        let config = config.clone();
        Ok(Self { config, step, momentum, adam, averages, logit_hessian: None, top, directions: None })
    }

    /// The running averages; `None` for plain SGD and Adam.
    pub fn averages(&self) -> Option<&Averages> {
        self.averages.as_ref()
    }

    /// What must be saved to go on exactly.
    ///
    /// # Errors
    /// The device refuses.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut state =
            OptimizerState { momentum: to_f32s(self.momentum.buffer())?, ..OptimizerState::default() };
        if let Some(adam) = &self.adam {
            let [means, squares] = adam.moments();
            (state.momentum, state.second_moments) = (to_f32s(means)?, to_f32s(squares)?);
        }
        if let Some(averages) = &self.averages {
            let (gradients, squares, steps) = averages.parts();
            state.class_gradients = to_f32s(gradients)?;
            state.lambda_squares = squares.to_vec1()?;
            state.class_steps = steps.to_vec();
        }
        if let Some(top) = &self.top {
            state.subspace = to_f32s(top)?;
        }
        Ok(state)
    }

    /// Takes the class gradients of a batch and its λ_k into the averages.
    ///
    /// # Errors
    /// The device refuses.
    pub fn observe(&mut self, pass: &ClassPass) -> Result<()> {
        let Some(averages) = &mut self.averages else { return Ok(()) };
        self.logit_hessian = Some(pass.logit_hessian.clone());
        averages.update(&pass.class_gradients, &pass.lambda_by(self.config.lambda)?, &pass.counts)
    }

    /// Whether the Hessian's top eigenvectors must be given before the step that follows `step` others.
    pub fn wants_top(&self, step: u64) -> bool {
        self.config.project != Projection::None
            && self.config.subspace == Subspace::Hessian
            && (self.top.is_none() || step.is_multiple_of(self.config.subspace_every))
    }

    /// The Hessian's top eigenvectors, as orthonormal rows.
    pub fn set_top(&mut self, rows: Tensor) {
        self.top = Some(rows);
    }

    /// Finds out how the next step treats its subspace; `curvature` gives V A Vᵀ for rows V and a matrix A of the
    /// minibatch, for the methods that do not go by λ_k.
    ///
    /// # Errors
    /// The device refuses, or `curvature` does.
    pub fn prepare(&mut self, curvature: impl FnOnce(&Tensor, Operator) -> Result<Mat<f64>>) -> Result<()> {
        self.directions = self.find_directions(curvature)?;
        Ok(())
    }

    /// How stable the Newton steps prepared are by the model matrix of the averaged class gradients and of the batch
    /// observed last, M̃ = Σ_jl M_jl ĉ_j ĉ_lᵀ, which costs no product with G; `None` for SGD, and
    /// where a number is not finite.
    ///
    /// # Errors
    /// The device refuses.
    pub fn stability(&self) -> Result<Option<Stability>> {
        match (&self.directions, &self.averages, &self.logit_hessian) {
            (Some(directions), Some(averages), Some(logit_hessian)) => {
                directions.stability(&averages.gradients()?, logit_hessian)
            }
            _ => Ok(None),
        }
    }

    /// Where the gradient of the step from θ is taken instead, g being the gradient at θ; `None` where that is meant.
    ///
    /// # Errors
    /// The device refuses.
    pub fn elsewhere(&self, theta: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        match self.config.optimizer {
            OptimizerKind::Sam => sam::uphill(theta, gradient, self.config.sam_rho).map(Some),
            _ => Ok(None),
        }
    }

    /// θ after the step that was prepared, along the gradient g.
    ///
    /// # Errors
    /// The device refuses.
    pub fn step(&mut self, theta: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let (lr, factor) = self.rates();
        let decayed = match self.config.weight_decay {
            w if w == 0.0 || self.config.optimizer == OptimizerKind::AdamW => gradient.clone(),
            w => (gradient + (theta * w)?)?,
        };
        if let Some(adam) = &mut self.adam {
            let step = (adam.accumulate(&decayed)? * (lr * factor))?;
            self.step += 1;
            let kept = match self.config.optimizer {
                OptimizerKind::AdamW => (theta * (1.0 - lr * factor * self.config.weight_decay))?,
                _ => theta.clone(),
            };
            return Ok((kept - step)?.detach());
        }
        let directions = self.directions.take();
        let plain = self.config.optimizer != OptimizerKind::Qn && self.config.project == Projection::None;
        ensure!(plain || directions.is_some(), "a step that was not prepared");
        let precondition = |g: &Tensor| match &directions {
            Some(directions) => directions.apply(g),
            None => Ok((g * lr)?),
        };
        let step = match self.config.momentum_on {
            MomentumOn::Gradient => precondition(&self.momentum.accumulate(&decayed)?)?,
            MomentumOn::Update => self.momentum.accumulate(&precondition(&decayed)?)?,
        };
        self.step += 1;
        let step = if factor == 1.0 { step } else { (step * factor)? };
        Ok((theta - step)?.detach())
    }

    /// The learning rate in the preconditioner, and the factor of what momentum makes of that. Where the learning rate
    /// multiplies all of the step, the schedule acts behind the momentum, as PyTorch's does; where Newton steps have
    /// their own length, eq. (15), only what is outside of them can follow the schedule.
    fn rates(&self) -> (f64, f64) {
        let factor = self.config.schedule_factor(self.step);
        match (self.config.optimizer, self.config.newton_scale) {
            (OptimizerKind::Qn, NewtonScale::Unit) => (self.config.lr * factor, 1.0),
            _ => (self.config.lr, factor),
        }
    }

    /// How the step differs from η g; `None` where it does not.
    fn find_directions(
        &self,
        curvature: impl FnOnce(&Tensor, Operator) -> Result<Mat<f64>>,
    ) -> Result<Option<Directions>> {
        let TrainConfig { damping, lambda, newton, basis, .. } = self.config;
        let (lr, _) = self.rates();
        let averages = || self.averages.as_ref().context("no averages of class gradients");
        if self.config.project != Projection::None {
            let rows = match self.config.subspace {
                Subspace::Class => orthonormal_rows(&averages()?.gradients()?)?,
                Subspace::Hessian => self.top.clone().context("no eigenvectors of the Hessian")?,
            };
            let keep_inside = self.config.project == Projection::Dominant;
            return Directions::projected(rows, keep_inside, lr).map(Some);
        }
        if self.config.optimizer != OptimizerKind::Qn {
            return Ok(None);
        }
        let averages = averages()?;
        let step = NewtonStep {
            damping,
            longest: self.config.max_newton_step.unwrap_or(f64::INFINITY),
            scale: self.config.newton_factor(lr),
            lr,
        };
        let matrix = |rows: &Tensor| match lambda {
            LambdaSource::Exact => curvature(rows, Operator::Ggn),
            LambdaSource::Hessian => curvature(rows, Operator::Hessian),
            _ => {
                let logit_hessian = self.logit_hessian.as_ref().context("no batch was observed")?;
                model_curvature(rows, &averages.gradients()?, logit_hessian)
            }
        };
        let directions = match (newton, basis) {
            (Newton::Span, _) => {
                let rows = orthonormal_rows(&averages.gradients()?)?;
                let matrix = matrix(&rows)?;
                Directions::newton_in_span(rows, &matrix, step)?
            }
            (Newton::Diagonal, _) if lambda.takes_products() => {
                let gradients = averages.gradients()?;
                let rows = match basis {
                    Basis::Paper => unit_rows(&gradients)?,
                    Basis::Orthonormal => orthonormal_rows(&gradients)?,
                };
                let matrix = matrix(&rows)?;
                let diagonal: Vec<f64> = (0..matrix.nrows()).map(|k| matrix[(k, k)].abs()).collect();
                let lambda = Tensor::from_vec(diagonal, matrix.nrows(), rows.device())?;
                Directions::newton(rows, &lambda, step)?
            }
            (Newton::Diagonal, Basis::Orthonormal) => {
                let rows = orthonormal_rows(&averages.gradients()?)?;
                Directions::newton(rows, &averages.lambda()?, step)?
            }
            (Newton::Diagonal, Basis::Paper) => {
                // v_k times their lengths; zero where nothing is known of a class.
                let rows = averages.parts().0.clone();
                Directions::newton(rows, &averages.lambda()?, step)?
            }
        };
        Ok(Some(directions))
    }

    /// |ĉ_k| of each class and the largest |v_j · v_k|, for the log.
    ///
    /// # Errors
    /// The device refuses.
    pub fn geometry(&self) -> Result<Option<(Vec<f64>, f64)>> {
        let Some(averages) = &self.averages else { return Ok(None) };
        // The averages before their corrections: one product of [C, P] is all that it takes.
        let rows = averages.parts().0;
        let gram: Vec<Vec<f64>> = rows.matmul(&rows.t()?)?.to_dtype(DType::F64)?.to_vec2()?;
        let lengths: Vec<f64> = gram.iter().enumerate().map(|(k, row)| row[k].sqrt()).collect();
        let mut coherence = 0.0f64;
        for (j, row) in gram.iter().enumerate() {
            for (k, inner) in row[..j].iter().enumerate().filter(|(_, inner)| **inner != 0.0) {
                coherence = coherence.max(inner.abs() / (lengths[j] * lengths[k]));
            }
        }
        let norms = lengths.iter().zip(averages.corrections(0.0)).map(|(l, c)| l * c).collect();
        Ok(Some((norms, coherence)))
    }
}

/// Whether the method looks at class gradients in every step.
pub(crate) fn keeps_averages(config: &TrainConfig) -> bool {
    config.optimizer == OptimizerKind::Qn
        || (config.project != Projection::None && config.subspace == Subspace::Class)
}

#[cfg(test)]
mod tests;
