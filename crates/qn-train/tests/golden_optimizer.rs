//! Twenty steps of every reading of the method against PyTorch in double precision; see
//! tests/golden/make_optimizer_golden.py.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use faer::Mat;
use qn_curvature::{Curvature, Operator, Options, Samples};
use qn_model::Graph;
use qn_run::{TensorFile, TrainConfig};
use qn_train::{ClassPass, Engine, Model, Optimizer, Settings};

const STEPS: usize = 20;
/// After these steps θ is stored.
const KEPT: [usize; 4] = [1, 2, 5, 20];
const SAMPLES: usize = 96;
const BATCH: usize = 24;

/// The finaliser of MurmurHash3 over a counter, as in make_golden.py.
fn uniform(stream: u64, n: usize) -> impl Iterator<Item = f64> {
    (0..n as u64).map(move |i| {
        let mut x = i.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x ^= x >> 33;
        x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        x ^= x >> 33;
        x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        x ^= x >> 33;
        (x >> 11) as f64 * 2f64.powi(-52) - 1.0
    })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// The network of a run in double precision, as it starts.
fn network(config: &TrainConfig) -> Engine<f64> {
    let graph = Graph::new(&config.architecture).unwrap();
    let layout = graph.layout().clone();
    let buffers: Vec<Vec<f32>> = layout.buffers().iter().map(|b| vec![b.initial; b.len]).collect();
    let zeros = vec![0.0; layout.len()];
    let mut network = Engine::new(graph, &zeros, &buffers, config.loss).unwrap();
    let mut theta: Vec<f64> = uniform(1, layout.len()).collect();
    for p in layout.params() {
        let fan_in = if p.shape.len() > 1 { p.shape[1..].iter().product() } else { 4 };
        theta[p.range()].iter_mut().for_each(|t| *t *= 2.0 / (fan_in as f64).sqrt());
    }
    network.set_theta(&Tensor::from_vec(theta, layout.len(), &Device::Cpu).unwrap()).unwrap();
    network
}

/// V A Vᵀ over a batch, in double precision.
fn along(network: &Engine<f64>, images: &[f64], labels: &[u32], rows: &Tensor, which: Operator) -> Mat<f64> {
    let theta: Vec<f64> = network.theta().unwrap().to_vec1().unwrap();
    let samples = Samples::new(64, images.iter().copied(), labels.to_vec()).unwrap();
    let curvature: Curvature<f64> =
        Curvature::new(network.graph(), &theta, &[], samples, &Options::default()).unwrap();
    let rows: Vec<Vec<f64>> = rows.to_vec2().unwrap();
    let v = Mat::from_fn(theta.len(), rows.len(), |i, j| rows[j][i]);
    let mut product = Mat::zeros(v.nrows(), v.ncols());
    curvature.product(which, v.as_ref(), product.as_mut()).unwrap();
    v.transpose() * &product
}

/// θ after the steps of [`KEPT`], and the loss before each.
fn train(config: &TrainConfig) -> (Vec<Vec<f64>>, Vec<f64>) {
    let mut network = network(config);
    let mut optimizer = Optimizer::new(config, &network, None).unwrap();
    let inputs: Vec<f64> = uniform(2, SAMPLES * 64).collect();
    let labels: Vec<u32> = (0..SAMPLES).map(|i| ((i * i + i / BATCH) % 10) as u32).collect();
    let (mut kept, mut losses) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let at = step % 4 * BATCH;
        let (x, y) = (&inputs[at * 64..(at + BATCH) * 64], &labels[at..at + BATCH]);
        let images = Tensor::from_slice(x, (BATCH, 1, 8, 8), &Device::Cpu).unwrap();
        let pass: ClassPass = network.class_pass(&images, y, config.class_statistics).unwrap();
        assert!(pass.counts.contains(&0), "a class is absent");
        losses.push(pass.plain.loss.to_scalar::<f64>().unwrap());
        optimizer.observe(&pass).unwrap();
        optimizer.prepare(|rows, which| Ok(along(&network, x, y, rows, which))).unwrap();
        let (before, mut gradient) = (network.theta().unwrap(), pass.plain.gradient);
        if let Some(elsewhere) = optimizer.elsewhere(&before, &gradient).unwrap() {
            network.set_theta(&elsewhere).unwrap();
            gradient = network.class_pass(&images, y, config.class_statistics).unwrap().plain.gradient;
        }
        let theta = optimizer.step(&before, &gradient).unwrap();
        network.set_theta(&theta).unwrap();
        if KEPT.contains(&(step + 1)) {
            kept.push(theta.to_vec1().unwrap());
        }
    }
    (kept, losses)
}

#[test]
fn every_reading_takes_the_steps_that_pytorch_takes() {
    let text = std::fs::read_to_string(folder().join("optimizer.toml")).unwrap();
    let runs: BTreeMap<String, Settings> = toml::from_str(&text).unwrap();
    assert!(runs.len() >= 19);
    let file = TensorFile::read(&folder().join("optimizer.safetensors")).unwrap();
    for (name, mut settings) in runs {
        let architecture = if settings.arch == "normalised" { "normalised.toml" } else { "perceptron.toml" };
        settings.arch = folder().join(architecture).to_str().unwrap().to_owned();
        (settings.data, settings.steps) = ("digits".into(), Some(STEPS as u64));
        let config = settings.configure(Path::new("")).unwrap();
        let (theta, losses) = train(&config);
        let stored = |what: &str| file.tensors[&format!("{name}.{what}")].to_f64().unwrap();
        let expected = stored("theta");
        let p = theta[0].len();
        assert_eq!(expected.len(), KEPT.len() * p);
        for ((found, expected), step) in theta.iter().zip(expected.chunks(p)).zip(KEPT) {
            let size = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let error = found.iter().zip(expected).fold(0.0, |a: f64, (f, e)| a.max((f - e).abs()));
            assert!(error <= 1e-6 * size, "{name}: theta differs by {error} after step {step}");
        }
        for (step, (found, expected)) in losses.iter().zip(stored("loss")).enumerate() {
            assert!((found - expected).abs() <= 1e-6 * expected, "{name}: {found}, {expected} in {step}");
        }
    }
}
