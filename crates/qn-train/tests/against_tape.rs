//! Both models of a network in training: candle's autograd against the derivatives of qn-curvature at a fixed point, the
//! engine against autograd, and class passes against C full passes.

use candle_core::{DType, Device, Tensor, WithDType};
use qn_curvature::{Curvature, Options, Real, Samples};
use qn_model::{Architecture, Graph, Layer, Preset, initial_parameters};
use qn_run::{ClassStatistics, LossKind};
use qn_train::{Autograd, Batch, Engine, Mode, Model};

const N: usize = 12;
const CROSS_ENTROPY: LossKind = LossKind::CrossEntropy;

fn every_layer() -> Architecture {
    let conv = |name: &str, out_channels, kernel, stride, padding| {
        Layer::conv2d(name, out_channels, [kernel, stride, padding], true)
    };
    let norm = |name: &str| Layer::BatchNorm2d { name: name.into() };
    Architecture {
        name: "every layer".into(),
        input: vec![2, 13, 13],
        classes: 4,
        layers: vec![
            conv("a", 5, 3, 2, 1),
            norm("b"),
            Layer::Tanh,
            Layer::residual(vec![
                conv("c", 5, 3, 1, 1),
                Layer::Gelu,
                Layer::residual(vec![conv("d", 5, 1, 1, 0)]),
            ]),
            Layer::avg_pool2d(2),
            conv("e", 6, 2, 1, 1),
            norm("f"),
            Layer::Relu,
            Layer::max_pool2d(2),
            Layer::GlobalMaxPool,
            Layer::Flatten,
            Layer::Linear { name: "g".into(), out_features: 4, bias: true },
            Layer::Scale { factor: 0.5 },
        ],
    }
}

fn architectures() -> Vec<Architecture> {
    let mut smooth = every_layer();
    smooth.layers.retain(|l| !matches!(l, Layer::BatchNorm2d { .. }));
    vec![
        every_layer(),
        smooth,
        Preset::Digits.architecture([1, 8, 8], 10),
        Preset::Lenet.architecture([1, 28, 28], 10),
        Preset::Resnet9 { width: 4 }.architecture([3, 32, 32], 10),
    ]
}

struct Case {
    graph: Graph,
    theta: Vec<f32>,
    buffers: Vec<Vec<f32>>,
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl Case {
    fn new(arch: &Architecture) -> Self {
        let graph = Graph::new(arch).unwrap();
        let theta = initial_parameters(graph.layout(), 3);
        let buffer = |b: &qn_model::Buffer| (0..b.len).map(|i| b.initial + 0.1 * (i as f32).sin()).collect();
        let buffers = graph.layout().buffers().iter().map(buffer).collect();
        let len = N * graph.input().len();
        let images = (0..len).map(|i| (i as f32 * 0.37).sin() + (i as f32 * 0.011).cos()).collect();
        // Classes 1 and C - 1 are absent.
        let classes = graph.classes() as u32;
        let labels = (0..N as u32).map(|i| [0, 2 % (classes - 1), 0][i as usize % 3]).collect();
        Self { graph, theta, buffers, images, labels }
    }

    fn candle(&self, dtype: DType) -> (Autograd, Tensor) {
        let cpu = Device::Cpu;
        let network =
            Autograd::new(self.graph.clone(), &self.theta, &self.buffers, CROSS_ENTROPY, dtype, &cpu)
                .unwrap();
        let s = self.graph.input().image();
        let images = Tensor::from_slice(&self.images, (N, s.channels, s.height, s.width), &cpu).unwrap();
        (network, images.to_dtype(dtype).unwrap())
    }

    fn batch(&self, images: &Tensor) -> Batch {
        Batch::labelled(images.clone(), self.labels.clone())
    }

    fn engine<T: Real + WithDType>(&self) -> Engine<T> {
        Engine::new(self.graph.clone(), &self.theta, &self.buffers, CROSS_ENTROPY).unwrap()
    }

    fn tape(&self) -> Curvature<f64> {
        let doubles = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let labels = self.labels.clone();
        let samples =
            Samples::new(self.graph.input().len(), doubles(&self.images).into_iter(), labels).unwrap();
        let buffers: Vec<Vec<f64>> = self.buffers.iter().map(|b| doubles(b)).collect();
        Curvature::new(&self.graph, &doubles(&self.theta), &buffers, samples, &Options::default()).unwrap()
    }
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn error(found: &[f64], expected: &[f64]) -> f64 {
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    (difference / expected.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

#[test]
fn loss_and_gradient_agree() {
    for arch in architectures() {
        let case = Case::new(&arch);
        let exact = case.tape().loss_and_gradient().unwrap();
        // Candle writes 1/sqrt(2 pi) with six digits in GELU's derivative; the rest is rounding.
        let gelu = arch.name == "every layer";
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, if gelu { 2e-6 } else { 1e-12 })] {
            let (network, images) = case.candle(dtype);
            let (logits, _) = network.forward(&images, Mode::Eval).unwrap();
            let target = Tensor::from_slice(&case.labels, N, &Device::Cpu).unwrap();
            let loss = candle_nn::loss::cross_entropy(&logits, &target).unwrap();
            let gradient = network.flat_gradient(&loss.backward().unwrap()).unwrap();
            assert!((numbers(&loss)[0] - exact.loss).abs() <= tolerance * exact.loss, "{}", arch.name);
            let e = error(&numbers(&gradient), &exact.gradient);
            assert!(e <= tolerance, "{} {dtype:?}: {e}", arch.name);
        }
    }
}

/// Everything that training asks of a model, from both, in double precision.
#[test]
fn the_engine_and_autograd_agree() {
    for arch in architectures() {
        let case = Case::new(&arch);
        let tolerance = if arch.name == "every layer" { 2e-6 } else { 1e-11 };
        let (mut autograd, images) = case.candle(DType::F64);
        let mut engine = case.engine::<f64>();
        assert_eq!(engine.dtype(), DType::F64);
        let (labels, batch) = (&case.labels, case.batch(&images));
        let agree = |a: &Tensor, b: &Tensor| {
            assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()), "{}", arch.name);
            let (a, b) = (numbers(a), numbers(b));
            assert!(a == b || error(&a, &b) <= tolerance, "{}: {}", arch.name, error(&a, &b));
        };
        for statistics in [ClassStatistics::Exact, ClassStatistics::Frozen] {
            let a = engine.class_pass(&images, labels, statistics).unwrap();
            let b = autograd.class_pass(&images, labels, statistics).unwrap();
            agree(&a.class_gradients, &b.class_gradients);
            agree(&a.own, &b.own);
            agree(&a.lambda, &b.lambda);
            agree(&a.logit_hessian, &b.logit_hessian);
            assert_eq!(a.counts, b.counts);
        }
        let a = engine.plain_pass(&batch).unwrap();
        let b = autograd.plain_pass(&batch).unwrap();
        agree(&a.gradient, &b.gradient);
        agree(&a.loss, &b.loss);
        agree(&a.correct, &b.correct);
        agree(&engine.loss(&batch).unwrap(), &autograd.loss(&batch).unwrap());
        engine.absorb(&a.statistics).unwrap();
        autograd.absorb(&b.statistics).unwrap();
        let moved = (engine.theta().unwrap() - (&a.gradient * 0.1).unwrap()).unwrap();
        engine.set_theta(&moved).unwrap();
        autograd.set_theta(&moved).unwrap();
        agree(&engine.theta().unwrap(), &autograd.theta().unwrap());
        for (a, b) in engine.buffers().unwrap().iter().zip(autograd.buffers().unwrap()) {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs())));
        }
        let [a, b] = [engine.evaluate(&batch), autograd.evaluate(&batch)];
        let ((a, a_hits), (b, b_hits)) = (a.unwrap(), b.unwrap());
        assert!((a - b).abs() <= 1e-5 * b && a_hits == b_hits, "{}: {a} {b}", arch.name);
    }
}

#[test]
fn the_gradient_matches_central_differences() {
    let case = Case::new(&Preset::Digits.architecture([1, 8, 8], 10));
    let (mut network, images) = case.candle(DType::F64);
    let gradient = numbers(&network.plain_pass(&case.batch(&images)).unwrap().gradient);
    let theta = numbers(&network.theta().unwrap());
    let direction: Vec<f64> = (0..theta.len()).map(|i| (i as f64 * 1.7).sin()).collect();
    let mut loss = |h: f64| {
        let moved: Vec<f64> = theta.iter().zip(&direction).map(|(t, d)| t + h * d).collect();
        network.set_theta(&Tensor::new(moved, &Device::Cpu).unwrap()).unwrap();
        numbers(&network.plain_pass(&case.batch(&images)).unwrap().loss)[0]
    };
    let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let difference = (loss(1e-6) - loss(-1e-6)) / 2e-6;
    assert!((slope - difference).abs() <= 1e-7 * slope.abs(), "{slope} {difference}");
}

#[test]
fn the_class_pass_equals_one_pass_a_class() {
    for arch in architectures() {
        let case = Case::new(&arch);
        let (network, images) = case.candle(DType::F64);
        let pass = network.class_pass(&images, &case.labels, ClassStatistics::Exact).unwrap();
        let plain = network.plain_pass(&case.batch(&images)).unwrap();
        assert!((numbers(&pass.plain.loss)[0] - numbers(&plain.loss)[0]).abs() < 1e-12);
        assert_eq!(numbers(&pass.plain.correct), numbers(&plain.correct));
        assert!(error(&numbers(&pass.plain.gradient), &numbers(&plain.gradient)) < 1e-12, "{}", arch.name);
        assert_eq!(pass.plain.statistics.len(), plain.statistics.len());

        let (logits, _) = network.forward(&images, Mode::Train).unwrap();
        let p: Vec<Vec<f64>> = candle_nn::ops::softmax(&logits, 1).unwrap().to_vec2().unwrap();
        let rows: Vec<Vec<f64>> = pass.class_gradients.to_vec2().unwrap();
        let lambda = numbers(&pass.lambda);
        for (k, row) in rows.iter().enumerate() {
            let members: Vec<u32> = (0..N as u32).filter(|&i| case.labels[i as usize] == k as u32).collect();
            assert_eq!(pass.counts[k], members.len());
            if members.is_empty() {
                assert!(row.iter().all(|&x| x == 0.0) && lambda[k] == 0.0);
                continue;
            }
            let index = Tensor::from_slice(&members, members.len(), &Device::Cpu).unwrap();
            let own = logits.index_select(&index, 0).unwrap().narrow(1, k, 1).unwrap().mean_all().unwrap();
            let expected = numbers(&network.flat_gradient(&own.backward().unwrap()).unwrap());
            assert!(error(row, &expected) < 1e-12, "{}", arch.name);
            let square: f64 = expected.iter().map(|x| x * x).sum();
            let spread: f64 = members.iter().map(|&i| p[i as usize][k] * (1.0 - p[i as usize][k])).sum();
            let expected = spread / N as f64 * square;
            assert!((lambda[k] - expected).abs() <= 1e-12 * expected, "{}", arch.name);
        }
    }
}

#[test]
fn class_gradients_agree_with_the_tape() {
    let case = Case::new(&Preset::Lenet.architecture([1, 28, 28], 10));
    let (network, images) = (case.engine::<f32>(), case.candle(DType::F32).1);
    let pass = network.class_pass(&images, &case.labels, ClassStatistics::Exact).unwrap();
    let exact = case.tape().class_gradients().unwrap();
    assert!(error(&numbers(&pass.class_gradients), &exact.rows) < 1e-5);
    assert!(error(&numbers(&pass.lambda), &exact.lambda) < 1e-5);
}

/// λ must not vanish before it has to: at p = 1 − 1e-12 single precision knows p as 1.
#[test]
fn lambda_survives_certainty() {
    let arch = Architecture {
        name: "one layer".into(),
        input: vec![1, 1, 1],
        classes: 2,
        layers: vec![Layer::Linear { name: "l".into(), out_features: 2, bias: false }],
    };
    let graph = Graph::new(&arch).unwrap();
    let engine = Engine::<f32>::new(graph.clone(), &[28.0, 0.0], &[], CROSS_ENTROPY).unwrap();
    let autograd = Autograd::new(graph, &[28.0, 0.0], &[], CROSS_ENTROPY, DType::F32, &Device::Cpu).unwrap();
    let images = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let models: [&dyn Model; 2] = [&engine, &autograd];
    for model in models {
        let lambda = numbers(&model.class_pass(&images, &[0], ClassStatistics::Exact).unwrap().lambda)[0];
        let q = (-28f64).exp();
        assert!((lambda / (q / (1.0 + q).powi(2)) - 1.0).abs() < 1e-6, "{lambda}");
    }
}
