use anyhow::Result;
use candle_core::{DType, Tensor};
use qn_run::{Basis, MomentumOn, OptimizerKind, OptimizerState, TrainConfig};

use crate::network::to_f32s;
use crate::{Averages, ClassPass, Network};

/// SGD with momentum or the quasi-Newton method, acting on θ as one vector.
pub struct Optimizer {
    config: TrainConfig,
    momentum: Tensor,
    averages: Option<Averages>,
}

impl Optimizer {
    /// The optimiser that `config` names, as new or as it was saved.
    ///
    /// # Errors
    /// The device refuses.
    pub fn new(config: &TrainConfig, network: &Network, saved: Option<&OptimizerState>) -> Result<Self> {
        let (device, dtype) = (network.device(), network.dtype());
        let (classes, p) = (network.graph().classes(), network.graph().layout().len());
        let momentum = match saved {
            Some(s) => Tensor::from_slice(&s.momentum, p, device)?.to_dtype(dtype)?,
            None => Tensor::zeros(p, dtype, device)?,
        };
        let averages = match (config.optimizer, saved) {
            (OptimizerKind::Sgd, _) => None,
            (OptimizerKind::Qn, None) => Some(Averages::new(config.gamma, classes, p, dtype, device)?),
            (OptimizerKind::Qn, Some(s)) => {
                let gradients =
                    Tensor::from_slice(&s.class_gradients, (classes, p), device)?.to_dtype(dtype)?;
                let squares = Tensor::from_slice(&s.lambda_squares, classes, device)?;
                Some(Averages::restore(config.gamma, gradients, squares, s.class_steps.clone()))
            }
        };
        Ok(Self { config: config.clone(), momentum, averages })
    }

    /// The running averages; `None` for SGD.
    pub fn averages(&self) -> Option<&Averages> {
        self.averages.as_ref()
    }

    /// What must be saved to go on exactly.
    ///
    /// # Errors
    /// The device refuses.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState { momentum: to_f32s(&self.momentum)?, ..OptimizerState::default() };
        if let Some(averages) = &self.averages {
            let (gradients, squares, steps) = averages.parts();
            state.class_gradients = to_f32s(gradients)?;
            state.lambda_squares = squares.to_vec1()?;
            state.class_steps = steps.to_vec();
        }
        Ok(state)
    }

    /// Takes the class gradients of a batch into the averages.
    ///
    /// # Errors
    /// The device refuses.
    pub fn observe(&mut self, pass: &ClassPass) -> Result<()> {
        match &mut self.averages {
            Some(averages) => averages.update(&pass.class_gradients, &pass.lambda, &pass.counts),
            None => Ok(()),
        }
    }

    /// θ after one step along the gradient g.
    ///
    /// # Errors
    /// The device refuses.
    pub fn step(&mut self, theta: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let step = match self.config.momentum_on {
            MomentumOn::Gradient => {
                self.momentum = ((&self.momentum * self.config.momentum)? + gradient)?.detach();
                self.precondition(&self.momentum)?
            }
            MomentumOn::Update => {
                let update = self.precondition(gradient)?;
                self.momentum = ((&self.momentum * self.config.momentum)? + update)?.detach();
                self.momentum.clone()
            }
        };
        Ok((theta - step)?.detach())
    }

    /// η g + Σ_k (1/(λ_k + d) − η) (v_k · g) v_k, eq. (15); η g for SGD.
    fn precondition(&self, g: &Tensor) -> Result<Tensor> {
        let plain = (g * self.config.lr)?;
        let Some(averages) = &self.averages else { return Ok(plain) };
        // v_k as rows times their lengths, which need not be one; zero where nothing is known of a class.
        let rows = match self.config.basis {
            Basis::Paper => averages.parts().0.clone(),
            Basis::Orthonormal => orthonormal_rows(&unit_rows(&averages.gradients()?)?)?,
        };
        let squares = rows.sqr()?.sum(1)?.to_dtype(DType::F64)?;
        let none = squares.eq(0.0)?.to_dtype(DType::F64)?;
        let along = rows.matmul(&g.unsqueeze(1)?)?.squeeze(1)?.to_dtype(DType::F64)?;
        let along = (along / (squares + none)?)?;
        let damped = (averages.lambda()? + self.config.damping)?;
        // No curvature at all says nothing about a Newton step: such a direction keeps its SGD step.
        let flat = damped.le(0.0)?.to_dtype(DType::F64)?;
        let newton = ((damped + &flat)?.recip()? - self.config.lr)?;
        let weights = ((along * newton)? * (1.0 - flat)?)?.to_dtype(g.dtype())?;
        Ok((plain + weights.unsqueeze(0)?.matmul(&rows)?.squeeze(0)?)?)
    }

    /// |ĉ_k| of each class and the largest |v_j · v_k|, for the log.
    ///
    /// # Errors
    /// The device refuses.
    pub fn geometry(&self) -> Result<Option<(Vec<f64>, f64)>> {
        let Some(averages) = &self.averages else { return Ok(None) };
        let c = averages.gradients()?;
        let norms = c.sqr()?.sum(1)?.sqrt()?.to_dtype(DType::F64)?.to_vec1()?;
        let v = unit_rows(&c)?;
        let gram: Vec<Vec<f64>> = v.matmul(&v.t()?)?.to_dtype(DType::F64)?.to_vec2()?;
        let mut coherence = 0.0f64;
        for (j, row) in gram.iter().enumerate() {
            coherence = row[..j].iter().fold(coherence, |a, b| a.max(b.abs()));
        }
        Ok(Some((norms, coherence)))
    }
}

/// Rows divided by their norms; zero rows stay zero.
fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let norms = rows.sqr()?.sum_keepdim(1)?.sqrt()?;
    let safe = (&norms + norms.eq(0.0)?.to_dtype(norms.dtype())?)?;
    Ok(rows.broadcast_div(&safe)?)
}

/// Gram–Schmidt in class order, each row made orthogonal twice; dependent rows become zero.
fn orthonormal_rows(rows: &Tensor) -> Result<Tensor> {
    let mut done: Vec<Tensor> = Vec::new();
    for k in 0..rows.dim(0)? {
        let mut row = rows.narrow(0, k, 1)?;
        if !done.is_empty() {
            let q = Tensor::cat(&done, 0)?;
            for _ in 0..2 {
                row = (&row - row.matmul(&q.t()?)?.matmul(&q)?)?;
            }
        }
        // What is left of a unit row that depends on the others is rounding.
        let alive = row.sqr()?.sum_keepdim(1)?.gt(1e-10)?.to_dtype(row.dtype())?;
        done.push(unit_rows(&row.broadcast_mul(&alive)?)?);
    }
    Ok(Tensor::cat(&done, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use qn_model::{Graph, Preset};

    /// An optimiser whose averages are these class gradients and λ.
    fn with(rows: &[Vec<f64>], lambda: &[f64], change: impl Fn(&mut TrainConfig)) -> Optimizer {
        let cpu = Device::Cpu;
        let graph = Graph::new(&Preset::Digits.architecture([1, 8, 8], 10)).unwrap();
        let mut config = TrainConfig {
            data: "digits".into(),
            samples: None,
            optimizer: OptimizerKind::Qn,
            lr: 0.1,
            momentum: 0.0,
            momentum_on: MomentumOn::Update,
            gamma: 0.9,
            damping: 0.0,
            basis: Basis::Paper,
            batch_size: None,
            steps: 1,
            seed: 0,
            device: "cpu".into(),
            snapshot_every: 0,
            checkpoint_every: 1,
            log_every: 1,
            architecture: Preset::Digits.architecture([1, 8, 8], 10),
        };
        change(&mut config);
        let theta = vec![0.0; graph.layout().len()];
        let network = Network::new(graph, &theta, &[], DType::F64, &cpu).unwrap();
        let mut optimizer = Optimizer::new(&config, &network, None).unwrap();
        let p = rows[0].len();
        let mut averages = Averages::new(config.gamma, rows.len(), p, DType::F64, &cpu).unwrap();
        let c = Tensor::from_vec(rows.concat(), (rows.len(), p), &cpu).unwrap();
        averages.update(&c, &Tensor::new(lambda, &cpu).unwrap(), &vec![1; rows.len()]).unwrap();
        optimizer.averages = Some(averages);
        optimizer.momentum = Tensor::zeros(p, DType::F64, &cpu).unwrap();
        optimizer
    }

    fn vector(t: &Tensor) -> Vec<f64> {
        t.to_vec1().unwrap()
    }

    /// H = Σ λ_k v_k v_kᵀ with orthonormal v_k, in R^5.
    fn quadratic() -> (Vec<Vec<f64>>, Vec<f64>) {
        let s = 0.5f64.sqrt();
        let v = vec![vec![s, s, 0.0, 0.0, 0.0], vec![s, -s, 0.0, 0.0, 0.0], vec![0.0, 0.0, 0.6, 0.8, 0.0]];
        (v, vec![4.0, 0.5, 20.0])
    }

    #[test]
    fn one_step_minimises_a_quadratic_in_the_subspace() {
        let (v, lambda) = quadratic();
        let cpu = Device::Cpu;
        let start = [1.0, -2.0, 3.0, 0.5, 7.0];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        // The gradient of ½ θᵀHθ + 2 θ_5: one coordinate outside the subspace.
        let mut g = vec![0.0; 5];
        for (v, l) in v.iter().zip(&lambda) {
            let along = l * dot(v, &start);
            g.iter_mut().zip(v).for_each(|(g, v)| *g += along * v);
        }
        g[4] += 2.0;
        // Class gradients of any length, and both bases: the v_k are orthogonal already.
        let scaled: Vec<Vec<f64>> = v.iter().map(|r| r.iter().map(|x| 300.0 * x).collect()).collect();
        for basis in [Basis::Paper, Basis::Orthonormal] {
            let mut optimizer = with(&scaled, &lambda, |c| c.basis = basis);
            let (theta, g) = (Tensor::new(&start, &cpu).unwrap(), Tensor::new(g.as_slice(), &cpu).unwrap());
            let end = vector(&optimizer.step(&theta, &g).unwrap());
            assert!(v.iter().all(|v| dot(v, &end).abs() < 1e-12), "{end:?}");
            assert!((end[4] - (7.0 - 0.1 * 2.0)).abs() < 1e-12, "outside: SGD with lr 0.1");
            let across = [0.0, 0.0, 0.8, -0.6, 0.0];
            assert!((dot(&across, &end) - dot(&across, &start)).abs() < 1e-12, "g has no part there");
        }
    }

    #[test]
    fn damping_flat_directions_and_dependent_ones() {
        let cpu = Device::Cpu;
        let g = Tensor::new(&[1.0, 1.0, 1.0], &cpu).unwrap();
        let zero = g.zeros_like().unwrap();
        let rows = vec![vec![2.0, 0.0, 0.0], vec![0.0, 3.0, 0.0], vec![0.0, 0.0, 0.0]];
        let end = with(&rows, &[4.0, 0.0, 1.0], |c| c.damping = 1.0).step(&zero, &g).unwrap();
        let close = |t: &Tensor, e: [f64; 3]| vector(t).iter().zip(e).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&end, [-1.0 / 5.0, -1.0, -0.1]), "{end}");
        // λ = 0 without damping keeps the SGD step instead of dividing by zero.
        let end = with(&rows, &[4.0, 0.0, 1.0], |_| ()).step(&zero, &g).unwrap();
        assert!(close(&end, [-0.25, -0.1, -0.1]), "{end}");
        // The same direction twice: the paper's formula steps twice, the orthonormal basis once.
        let twice = vec![vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0]];
        let end = with(&twice, &[2.0, 2.0], |_| ()).step(&zero, &g).unwrap();
        assert!(close(&end, [-(0.1 + 2.0 * 0.4), -0.1, -0.1]), "{end}");
        let end = with(&twice, &[2.0, 2.0], |c| c.basis = Basis::Orthonormal).step(&zero, &g).unwrap();
        assert!(close(&end, [-0.5, -0.1, -0.1]), "{end}");
    }

    #[test]
    fn momentum_acts_on_update_or_gradient() {
        let cpu = Device::Cpu;
        let g = Tensor::new(&[1.0], &cpu).unwrap();
        let run = |on, second: f64| {
            let mut o = with(&[vec![1.0]], &[2.0], |c| (c.momentum, c.momentum_on) = (0.5, on));
            let theta = o.step(&g.zeros_like().unwrap(), &g).unwrap();
            let mut a = Averages::new(0.9, 1, 1, DType::F64, &cpu).unwrap();
            a.update(&Tensor::new(&[[1.0]], &cpu).unwrap(), &Tensor::new(&[second], &cpu).unwrap(), &[1])
                .unwrap();
            o.averages = Some(a);
            vector(&o.step(&theta, &g).unwrap())[0]
        };
        // λ is 2 in the first step and 4 in the second.
        assert!((run(MomentumOn::Update, 4.0) + 0.5 + (0.25 + 0.25)).abs() < 1e-12);
        assert!((run(MomentumOn::Gradient, 4.0) + 0.5 + 1.5 / 4.0).abs() < 1e-12);
    }
}
