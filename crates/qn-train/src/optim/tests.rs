//! One step at a time, by hand.

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
        loss: qn_run::LossKind::CrossEntropy,
        optimizer: OptimizerKind::Qn,
        lr: 0.1,
        schedule: qn_run::Schedule::Constant,
        weight_decay: 0.0,
        momentum: 0.0,
        beta2: 0.999,
        epsilon: 1e-8,
        sam_rho: 0.05,
        dampening: 0.0,
        nesterov: false,
        momentum_on: MomentumOn::Update,
        gamma: 0.9,
        damping: 0.0,
        basis: Basis::Paper,
        lambda: LambdaSource::Own,
        newton: Newton::Diagonal,
        newton_scale: NewtonScale::Unit,
        max_newton_step: None,
        project: Projection::None,
        subspace: Subspace::Class,
        subspace_every: 1,
        subspace_samples: 1,
        class_statistics: qn_run::ClassStatistics::Exact,
        augment: qn_run::Augment::None,
        batch_size: None,
        steps: 1,
        seed: 0,
        device: "cpu".into(),
        snapshot_every: 0,
        checkpoint_every: 1,
        keep_checkpoints: 2,
        log_every: 1,
        tensorboard: false,
        normalise: None,
        architecture: Preset::Digits.architecture([1, 8, 8], 10),
    };
    change(&mut config);
    let theta = vec![0.0; graph.layout().len()];
    let network = crate::model(graph, &theta, &[], config.loss, (DType::F64, &cpu)).unwrap();
    let mut optimizer = Optimizer::new(&config, network.as_ref(), None).unwrap();
    let p = rows[0].len();
    let mut averages = Averages::new(config.gamma, rows.len(), p, DType::F64, &cpu).unwrap();
    let c = Tensor::from_vec(rows.concat(), (rows.len(), p), &cpu).unwrap();
    averages.update(&c, &Tensor::new(lambda, &cpu).unwrap(), &vec![1; rows.len()]).unwrap();
    optimizer.averages = Some(averages);
    optimizer.momentum = Momentum::new(&config, Tensor::zeros(p, DType::F64, &cpu).unwrap(), 0);
    optimizer
}

impl Optimizer {
    /// θ after a step that goes by λ_k alone.
    fn moved(&mut self, theta: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        self.prepare(|_, _| unreachable!("the method goes by lambda"))?;
        self.step(theta, gradient)
    }
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
        let end = vector(&optimizer.moved(&theta, &g).unwrap());
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
    let end = with(&rows, &[4.0, 0.0, 1.0], |c| c.damping = 1.0).moved(&zero, &g).unwrap();
    let close = |t: &Tensor, e: [f64; 3]| vector(t).iter().zip(e).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&end, [-1.0 / 5.0, -1.0, -0.1]), "{end}");
    // λ = 0 without damping keeps the SGD step instead of dividing by zero.
    let end = with(&rows, &[4.0, 0.0, 1.0], |_| ()).moved(&zero, &g).unwrap();
    assert!(close(&end, [-0.25, -0.1, -0.1]), "{end}");
    // The same direction twice: the paper's formula steps twice, the orthonormal basis once.
    let twice = vec![vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0]];
    let end = with(&twice, &[2.0, 2.0], |_| ()).moved(&zero, &g).unwrap();
    assert!(close(&end, [-(0.1 + 2.0 * 0.4), -0.1, -0.1]), "{end}");
    let end = with(&twice, &[2.0, 2.0], |c| c.basis = Basis::Orthonormal).moved(&zero, &g).unwrap();
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
        let mut optimizer = with(&rows, &[1.0, 1.0], |c| {
            (c.lambda, c.newton) = (LambdaSource::Hessian, Newton::Span);
        });
        let along = |q: &Tensor, which: Operator| {
            assert_eq!(which, Operator::Hessian);
            let q: Vec<Vec<f64>> = q.to_vec2()?;
            let q = Mat::from_fn(4, 2, |i, j| q[j][i]);
            Ok(q.transpose() * &h * &q)
        };
        let end = vector(&{
            optimizer.prepare(along).unwrap();
            optimizer.step(&theta, &g).unwrap()
        });
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
        let end = vector(&with(&rows, &[1.0, 1.0], change).moved(&zero, &g).unwrap());
        assert!(end.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{end:?}");
        let mut optimizer = with(&rows, &[1.0, 1.0], |c| {
            change(c);
            c.subspace = Subspace::Hessian;
        });
        assert!(optimizer.wants_top(7));
        optimizer.set_top(Tensor::new(&[[0.0, 0.0, 1.0]], &cpu).unwrap());
        let end = vector(&optimizer.moved(&zero, &g).unwrap());
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
        let theta = o.moved(&g.zeros_like().unwrap(), &g).unwrap();
        let mut a = Averages::new(0.9, 1, 1, DType::F64, &cpu).unwrap();
        a.update(&Tensor::new(&[[1.0]], &cpu).unwrap(), &Tensor::new(&[second], &cpu).unwrap(), &[1])
            .unwrap();
        o.averages = Some(a);
        vector(&o.moved(&theta, &g).unwrap())[0]
    };
    // λ is 2 in the first step and 4 in the second.
    assert!((run(MomentumOn::Update, 4.0) + 0.5 + (0.25 + 0.25)).abs() < 1e-12);
    assert!((run(MomentumOn::Gradient, 4.0) + 0.5 + 1.5 / 4.0).abs() < 1e-12);
}

/// ĉ_1 = 2 e_1, ĉ_2 = e_2 and M = [[m, −m], [−m, m]], which is singular as every M is: in the span there is one Newton
/// step, along what M sees, and SGD's elsewhere.
#[test]
fn a_singular_model_matrix_leaves_sgd_where_it_is_flat() {
    let cpu = Device::Cpu;
    let rows = vec![vec![2.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]];
    let mut optimizer =
        with(&rows, &[1.0, 1.0], |c| (c.lambda, c.newton) = (LambdaSource::Model, Newton::Span));
    optimizer.logit_hessian = Some(Tensor::new(&[[0.25, -0.25], [-0.25, 0.25]], &cpu).unwrap());
    let zero = Tensor::zeros(3, DType::F64, &cpu).unwrap();
    let g = Tensor::new(&[2.0, -1.0, 3.0], &cpu).unwrap();
    let end = vector(&optimizer.moved(&zero, &g).unwrap());
    // M̃ = (2, −1)(2, −1)ᵀ/4, of eigenvalue 5/4 along g's part in the span.
    let expected = [-2.0 / 1.25, 1.0 / 1.25, -0.3];
    assert!(end.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{end:?}");
    let g = Tensor::new(&[1.0, 2.0, 0.0], &cpu).unwrap();
    let mut fresh = with(&rows, &[1.0, 1.0], |c| (c.lambda, c.newton) = (LambdaSource::Model, Newton::Span));
    fresh.logit_hessian = optimizer.logit_hessian.clone();
    let end = vector(&fresh.moved(&zero, &g).unwrap());
    assert!(end.iter().zip([-0.1, -0.2, 0.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{end:?}");
}

/// Orthogonal class gradients: the ratios are v_k · M̃ v_k / λ_k, ρ is the largest eigenvalue of their matrix.
#[test]
fn stability_is_that_of_the_model_matrix() {
    let cpu = Device::Cpu;
    let rows = vec![vec![2.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]];
    for basis in [Basis::Paper, Basis::Orthonormal] {
        let mut optimizer = with(&rows, &[0.5, 0.25], |c| c.basis = basis);
        optimizer.logit_hessian = Some(Tensor::new(&[[0.25, -0.25], [-0.25, 0.25]], &cpu).unwrap());
        assert_eq!(optimizer.stability().unwrap(), None, "nothing is prepared");
        optimizer.prepare(|_, _| unreachable!("the method goes by lambda")).unwrap();
        let Stability { rho, ratios, .. } = optimizer.stability().unwrap().unwrap();
        // diag(2, 4) [[1, −½], [−½, ¼]] has rank one and trace 3.
        assert!((ratios[0] - 2.0).abs() < 1e-12 && (ratios[1] - 1.0).abs() < 1e-12, "{ratios:?}");
        assert!((rho - 3.0).abs() < 1e-12, "{rho}");
    }
}
