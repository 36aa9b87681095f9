use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use faer::Mat;
use qn_curvature::Operator;
use qn_run::{
    Basis, CurvatureSource, MomentumOn, OptimizerKind, OptimizerState, Projection, Subspace, TrainConfig,
};

use crate::directions::{Directions, orthonormal_rows};
use crate::network::to_f32s;
use crate::{Averages, ClassPass, Network};

/// SGD with momentum or the quasi-Newton method, acting on θ as one vector.
pub struct Optimizer {
    config: TrainConfig,
    momentum: Tensor,
    averages: Option<Averages>,
    /// The Hessian's top eigenvectors as rows, where the projection is about them.
    top: Option<Tensor>,
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
        Ok(Self { config: config.clone(), momentum, averages, top })
    }

    /// The running averages; `None` for plain SGD.
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
        if let Some(top) = &self.top {
            state.subspace = to_f32s(top)?;
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

    /// θ after one step along the gradient g; `curvature` gives Q A Qᵀ for orthonormal rows Q and a matrix A, for the
    /// methods that do not go by λ_k.
    ///
    /// # Errors
    /// The device refuses, or `curvature` does.
    pub fn step(
        &mut self,
        theta: &Tensor,
        gradient: &Tensor,
        curvature: impl FnOnce(&Tensor, Operator) -> Result<Mat<f64>>,
    ) -> Result<Tensor> {
        let directions = self.directions(curvature)?;
        let precondition = |g: &Tensor| match &directions {
            Some(directions) => directions.apply(g),
            None => Ok((g * self.config.lr)?),
        };
        let accumulate =
            |new: &Tensor| anyhow::Ok(((&self.momentum * self.config.momentum)? + new)?.detach());
        let step = match self.config.momentum_on {
            MomentumOn::Gradient => {
                let momentum = accumulate(gradient)?;
                let step = precondition(&momentum)?;
                self.momentum = momentum;
                step
            }
            MomentumOn::Update => {
                self.momentum = accumulate(&precondition(gradient)?)?;
                self.momentum.clone()
            }
        };
        Ok((theta - step)?.detach())
    }

    /// How the step differs from η g; `None` where it does not.
    fn directions(
        &self,
        curvature: impl FnOnce(&Tensor, Operator) -> Result<Mat<f64>>,
    ) -> Result<Option<Directions>> {
        let TrainConfig { lr, damping, .. } = self.config;
        let averages = || self.averages.as_ref().context("no averages of class gradients");
        if self.config.project != Projection::None {
            let rows = match self.config.subspace {
                Subspace::Class => orthonormal_rows(&averages()?.gradients()?)?,
                Subspace::Hessian => self.top.clone().context("no eigenvectors of the Hessian")?,
            };
            let keep_inside = self.config.project == Projection::Dominant;
            return Directions::projected(rows, keep_inside, lr).map(Some);
        }
        if self.config.optimizer == OptimizerKind::Sgd {
            return Ok(None);
        }
        let averages = averages()?;
        let exact = match self.config.curvature {
            CurvatureSource::Lambda => None,
            CurvatureSource::Ggn => Some(Operator::Ggn),
            CurvatureSource::Hessian => Some(Operator::Hessian),
        };
        let directions = match (exact, self.config.basis) {
            (Some(which), _) => {
                let rows = orthonormal_rows(&averages.gradients()?)?;
                let curvature = curvature(&rows, which)?;
                Directions::newton_in_span(rows, &curvature, damping, lr)?
            }
            (None, Basis::Orthonormal) => {
                let rows = orthonormal_rows(&averages.gradients()?)?;
                Directions::newton(rows, &averages.lambda()?, damping, lr)?
            }
            (None, Basis::Paper) => {
                // v_k times their lengths; zero where nothing is known of a class.
                let rows = averages.parts().0.clone();
                Directions::newton(rows, &averages.lambda()?, damping, lr)?
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
            curvature: CurvatureSource::Lambda,
            project: Projection::None,
            subspace: Subspace::Class,
            subspace_every: 1,
            subspace_samples: 1,
            class_statistics: qn_run::ClassStatistics::Exact,
            batch_size: None,
            steps: 1,
            seed: 0,
            device: "cpu".into(),
            snapshot_every: 0,
            checkpoint_every: 1,
            keep_checkpoints: 2,
            log_every: 1,
            tensorboard: false,
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

    fn lambda_only(_: &Tensor, _: Operator) -> Result<Mat<f64>> {
        unreachable!("the method goes by lambda")
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
            let end = vector(&optimizer.step(&theta, &g, lambda_only).unwrap());
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
        let end = with(&rows, &[4.0, 0.0, 1.0], |c| c.damping = 1.0).step(&zero, &g, lambda_only).unwrap();
        let close = |t: &Tensor, e: [f64; 3]| vector(t).iter().zip(e).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&end, [-1.0 / 5.0, -1.0, -0.1]), "{end}");
        // λ = 0 without damping keeps the SGD step instead of dividing by zero.
        let end = with(&rows, &[4.0, 0.0, 1.0], |_| ()).step(&zero, &g, lambda_only).unwrap();
        assert!(close(&end, [-0.25, -0.1, -0.1]), "{end}");
        // The same direction twice: the paper's formula steps twice, the orthonormal basis once.
        let twice = vec![vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0]];
        let end = with(&twice, &[2.0, 2.0], |_| ()).step(&zero, &g, lambda_only).unwrap();
        assert!(close(&end, [-(0.1 + 2.0 * 0.4), -0.1, -0.1]), "{end}");
        let end =
            with(&twice, &[2.0, 2.0], |c| c.basis = Basis::Orthonormal).step(&zero, &g, lambda_only).unwrap();
        assert!(close(&end, [-0.5, -0.1, -0.1]), "{end}");
    }

    /// H given as a matrix: whatever the class gradients are, the step minimises its quadratic form in their span, and
    /// turns round where the form is negative.
    #[test]
    fn exact_curvature_minimises_in_the_span() {
        let cpu = Device::Cpu;
        let rows = vec![vec![1.0, 0.0, 0.0, 0.0], vec![3.0, 4.0, 0.0, 0.0]];
        let h = |a: f64| Mat::from_fn(4, 4, |i, j| [a, 2.0, 9.0, 9.0][i] * f64::from(u8::from(i == j)));
        let theta = Tensor::new(&[1.0, -2.0, 3.0, 0.5], &cpu).unwrap();
        for (a, expected) in [(5.0, 0.0), (-5.0, 2.0)] {
            let h = h(a);
            let g = Tensor::new(&[a, -4.0, 27.0, 4.5], &cpu).unwrap();
            let mut optimizer = with(&rows, &[1.0, 1.0], |c| c.curvature = CurvatureSource::Hessian);
            let along = |q: &Tensor, which: Operator| {
                assert_eq!(which, Operator::Hessian);
                let q: Vec<Vec<f64>> = q.to_vec2()?;
                let q = Mat::from_fn(4, 2, |i, j| q[j][i]);
                Ok(q.transpose() * &h * &q)
            };
            let end = vector(&optimizer.step(&theta, &g, along).unwrap());
            let expected = [expected, 0.0, 3.0 - 2.7, 0.5 - 0.45];
            assert!(end.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{end:?}");
        }
    }

    #[test]
    fn norms_and_coherence() {
        let rows = vec![vec![3.0, 4.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 0.0]];
        let (norms, coherence) = with(&rows, &[1.0; 3], |_| ()).geometry().unwrap().unwrap();
        assert!(norms.iter().zip([5.0, 2.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{norms:?}");
        assert!((coherence - 0.8).abs() < 1e-12);
    }

    #[test]
    fn projections_split_the_gradient() {
        let cpu = Device::Cpu;
        let rows = vec![vec![1.0, 0.0, 0.0], vec![3.0, 4.0, 0.0]];
        let g = Tensor::new(&[1.0, 2.0, 3.0], &cpu).unwrap();
        let zero = g.zeros_like().unwrap();
        for (project, expected) in
            [(Projection::Dominant, [-0.1, -0.2, 0.0]), (Projection::Bulk, [0.0, 0.0, -0.3])]
        {
            let change = |c: &mut TrainConfig| (c.optimizer, c.project) = (OptimizerKind::Sgd, project);
            let end = vector(&with(&rows, &[1.0, 1.0], change).step(&zero, &g, lambda_only).unwrap());
            assert!(end.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{end:?}");
            let mut optimizer = with(&rows, &[1.0, 1.0], |c| {
                change(c);
                c.subspace = Subspace::Hessian;
            });
            assert!(optimizer.wants_top(7));
            optimizer.set_top(Tensor::new(&[[0.0, 0.0, 1.0]], &cpu).unwrap());
            let end = vector(&optimizer.step(&zero, &g, lambda_only).unwrap());
            let expected = if project == Projection::Bulk { [-0.1, -0.2, 0.0] } else { [0.0, 0.0, -0.3] };
            assert!(end.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{end:?}");
        }
    }

    #[test]
    fn momentum_acts_on_update_or_gradient() {
        let cpu = Device::Cpu;
        let g = Tensor::new(&[1.0], &cpu).unwrap();
        let run = |on, second: f64| {
            let mut o = with(&[vec![1.0]], &[2.0], |c| (c.momentum, c.momentum_on) = (0.5, on));
            let theta = o.step(&g.zeros_like().unwrap(), &g, lambda_only).unwrap();
            let mut a = Averages::new(0.9, 1, 1, DType::F64, &cpu).unwrap();
            a.update(&Tensor::new(&[[1.0]], &cpu).unwrap(), &Tensor::new(&[second], &cpu).unwrap(), &[1])
                .unwrap();
            o.averages = Some(a);
            vector(&o.step(&theta, &g, lambda_only).unwrap())[0]
        };
        // λ is 2 in the first step and 4 in the second.
        assert!((run(MomentumOn::Update, 4.0) + 0.5 + (0.25 + 0.25)).abs() < 1e-12);
        assert!((run(MomentumOn::Gradient, 4.0) + 0.5 + 1.5 / 4.0).abs() < 1e-12);
    }
}
