//! The tape against PyTorch in double precision; see golden/make_golden.py.

use std::path::{Path, PathBuf};

use faer::{Mat, Side};
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, Layer, Preset};
use qn_run::TensorFile;

/// Vectors of large networks are stored thinned.
const THIN: usize = 97;

/// The finaliser of MurmurHash3 over a counter: the same numbers in make_golden.py.
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

struct Golden {
    graph: Graph,
    file: TensorFile,
    path: PathBuf,
    samples: usize,
    theta: Vec<f64>,
    buffers: Vec<Vec<f64>>,
}

impl Golden {
    fn load(name: &str, arch: &Architecture, samples: usize) -> Self {
        let graph = Graph::new(arch).unwrap();
        let mut theta: Vec<f64> = uniform(1, graph.layout().len()).collect();
        for p in graph.layout().params() {
            let fan_in = if p.shape.len() > 1 { p.shape[1..].iter().product() } else { 4 };
            theta[p.range()].iter_mut().for_each(|t| *t *= 2.0 / (fan_in as f64).sqrt());
        }
        // PyTorch counts num_batches_tracked as a third buffer of every batch norm.
        let buffer = |i: usize, len: usize| {
            let numbers = uniform(100 + (i / 2 * 3 + i % 2) as u64, len);
            if i.is_multiple_of(2) {
                numbers.map(|u| 0.3 * u).collect()
            } else {
                numbers.map(|u| 1.0 + 0.5 * u).collect()
            }
        };
        let buffers = graph.layout().buffers().iter().enumerate().map(|(i, b)| buffer(i, b.len)).collect();
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/{name}.safetensors"));
        let file = TensorFile::read(&path).unwrap();
        Self { graph, file, path, samples, theta, buffers }
    }

    fn curvature<T: Real>(&self, microbatch: usize) -> Curvature<T> {
        let features = self.graph.input().len();
        let labels = (0..self.samples).map(|i| (i * 3 % self.graph.classes()) as u32).collect();
        let samples = Samples::new(features, uniform(2, self.samples * features), labels).unwrap();
        let options = Options { microbatch: Some(microbatch), ..Options::default() };
        Curvature::new(&self.graph, &self.theta, &self.buffers, samples, &options).unwrap()
    }

    fn stored(&self, name: &str) -> (Vec<f64>, usize) {
        let tensor =
            self.file.tensors.get(name).unwrap_or_else(|| panic!("{name} in {}", self.path.display()));
        (tensor.to_f64().unwrap(), tensor.shape().last().copied().unwrap())
    }

    /// Compares vectors in R^P with the stored rows, thinned where they are, and their norms.
    fn compare<'a>(&self, name: &str, found: impl Iterator<Item = &'a [f64]>, tolerance: f64) {
        let (rows, width) = self.stored(name);
        let (norms, _) = self.stored(&format!("{name}_norms"));
        let p = self.theta.len();
        let step = if width == p { 1 } else { THIN };
        let mut count = 0;
        for ((found, expected), norm) in found.zip(rows.chunks(width)).zip(norms) {
            let difference =
                found.iter().step_by(step).zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!(difference <= tolerance * norm, "{name}: {difference} of {norm}");
            let found_norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((found_norm - norm).abs() <= tolerance * norm, "{name}: norm {found_norm} for {norm}");
            count += 1;
        }
        assert!(count > 0);
    }

    fn check<T: Real>(&self, tolerance: f64) {
        let p = self.theta.len();
        for microbatch in [5, 1000] {
            let c = self.curvature::<T>(microbatch);
            let first = c.loss_and_gradient().unwrap();
            let loss = self.stored("loss").0[0];
            assert!((first.loss - loss).abs() <= tolerance * loss, "{} {loss}", first.loss);
            self.compare("gradient", std::iter::once(first.gradient.as_slice()), tolerance);
            self.compare("class_gradients", c.class_gradients().unwrap().rows.chunks(p), tolerance);
            for blocks in [1, 3, 10] {
                // The first three columns are the stored ones, whatever the size of the block.
                let tangents: Vec<Vec<f64>> = (0..10).map(|i| uniform(10 + i, p).collect()).collect();
                let count = blocks.max(3);
                let x = Mat::from_fn(p, count, |i, j| tangents[j][i]);
                let [h, g, f] = [Operator::Hessian, Operator::Ggn, Operator::Residual].map(|operator| {
                    let mut y = Mat::zeros(p, count);
                    for at in (0..count).step_by(blocks) {
                        let (from, to) = (x.as_ref().subcols(at, blocks), y.as_mut().subcols_mut(at, blocks));
                        c.product(operator, from, to).unwrap();
                    }
                    y
                });
                self.compare("hv", (0..3).map(|j| h.col_as_slice(j)), tolerance);
                self.compare("gv", (0..3).map(|j| g.col_as_slice(j)), tolerance);
                let sum = &f + &g;
                self.compare("hv", (0..3).map(|j| sum.col_as_slice(j)), tolerance);
            }
        }
    }

    fn check_spectrum(&self) {
        let (c, p) = (self.curvature::<f64>(16), self.theta.len());
        let mut h = Mat::zeros(p, p);
        c.product(Operator::Hessian, Mat::<f64>::identity(p, p).as_ref(), h.as_mut()).unwrap();
        let found = h.self_adjoint_eigenvalues(Side::Lower).unwrap();
        let (expected, _) = self.stored("eigenvalues");
        let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() <= 1e-9 * largest, "{f} {e}");
        }
    }
}

/// Single precision: a few hundred roundings of 6e-8 in each entry, with cancellation in the norm.
const SINGLE: f64 = 2e-5;
const DOUBLE: f64 = 1e-10;

#[test]
fn digits_network() {
    let golden = Golden::load("digits", &Preset::Digits.architecture([1, 8, 8], 10), 32);
    golden.check::<f64>(DOUBLE);
    golden.check::<f32>(SINGLE);
    golden.check_spectrum();
}

#[test]
fn lenet_on_cifar_shape() {
    let golden = Golden::load("lenet", &Preset::Lenet.architecture([3, 32, 32], 10), 13);
    golden.check::<f64>(DOUBLE);
    golden.check::<f32>(SINGLE);
}

#[test]
fn every_other_kind_of_layer() {
    let conv = |name: &str, out_channels, kernel, stride, padding, bias| {
        Layer::conv2d(name, out_channels, [kernel, stride, padding], bias)
    };
    let norm = |name: &str| Layer::BatchNorm2d { name: name.into() };
    let residual = Layer::residual;
    let arch = Architecture {
        name: "mixed".into(),
        input: vec![2, 9, 9],
        classes: 4,
        layers: vec![
            conv("0", 6, 3, 2, 1, false),
            norm("1"),
            Layer::Gelu,
            residual(vec![
                conv("3.0", 6, 3, 1, 1, true),
                Layer::Tanh,
                residual(vec![conv("3.2", 6, 1, 1, 0, true)]),
            ]),
            Layer::avg_pool2d(2),
            conv("5", 5, 2, 1, 1, true),
            norm("6"),
            Layer::Relu,
            Layer::GlobalMaxPool,
            Layer::Flatten,
            Layer::Linear { name: "10".into(), out_features: 4, bias: false },
            Layer::Scale { factor: 0.125 },
        ],
    };
    let golden = Golden::load("mixed", &arch, 11);
    golden.check::<f64>(DOUBLE);
    golden.check::<f32>(SINGLE);
    golden.check_spectrum();
}
