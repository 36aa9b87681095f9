//! Small networks with every kind of layer, at points that are the same in every run.

// Every test binary has a copy of its own and uses some of it.
#![allow(dead_code, unreachable_pub)]

use faer::{Mat, MatRef};
use qn_curvature::{Curvature, CurvatureError, Entries, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, Layer};

pub fn conv(name: &str, out_channels: usize, kernel: usize, stride: usize, padding: usize) -> Layer {
    Layer::conv2d(name, out_channels, [kernel, stride, padding], true)
}

pub fn linear(name: &str, out_features: usize) -> Layer {
    Layer::Linear { name: name.into(), out_features, bias: true }
}

pub fn norm(name: &str) -> Layer {
    Layer::BatchNorm2d { name: name.into() }
}

/// One small network for each kind of layer, with the kind between two layers with parameters.
pub fn networks() -> Vec<Architecture> {
    let around = |name: &str, inner: Vec<Layer>| {
        let mut layers = vec![conv("first", 3, 3, 1, 1)];
        layers.extend(inner);
        layers.extend([Layer::Flatten, linear("last", 3)]);
        Architecture { name: name.into(), input: vec![2, 6, 6], classes: 3, layers }
    };
    vec![
        around("conv stride", vec![Layer::Tanh, conv("c", 4, 3, 2, 1)]),
        around("conv no padding", vec![Layer::Gelu, conv("c", 2, 5, 1, 0)]),
        around("batch norm", vec![norm("n"), Layer::Tanh, conv("c", 2, 3, 1, 0), norm("m")]),
        around("relu", vec![Layer::Relu, conv("c", 2, 3, 1, 1), Layer::Relu]),
        around("tanh", vec![Layer::Tanh]),
        around("gelu", vec![Layer::Gelu]),
        around("max pool", vec![Layer::max_pool2d(2), conv("c", 2, 3, 1, 1)]),
        around("direct", vec![conv("c", 4, 3, 1, 1), Layer::Relu, Layer::max_pool2d(2)]),
        around("direct without relu", vec![Layer::Gelu, conv("c", 7, 5, 1, 2), Layer::max_pool2d(3)]),
        around("direct stride", vec![Layer::Tanh, conv("c", 4, 3, 2, 1), Layer::max_pool2d(2)]),
        Architecture {
            name: "trunk".into(),
            input: vec![2, 11, 9],
            classes: 3,
            layers: vec![
                conv("a", 6, 5, 1, 2),
                Layer::Relu,
                Layer::max_pool2d(2),
                conv("b", 5, 3, 1, 1),
                Layer::max_pool2d(2),
                Layer::Flatten,
                linear("last", 3),
            ],
        },
        around("max pool remainder", vec![Layer::max_pool2d(4)]),
        around("avg pool", vec![Layer::avg_pool2d(2), Layer::Tanh]),
        around("global max pool", vec![conv("c", 5, 3, 1, 1), Layer::GlobalMaxPool]),
        around(
            "residual",
            vec![Layer::residual(vec![
                Layer::Tanh,
                Layer::residual(vec![conv("c", 3, 3, 1, 1), Layer::Gelu]),
                Layer::residual(vec![]),
            ])],
        ),
        around("residual first", vec![Layer::residual(vec![Layer::residual(vec![conv("c", 3, 1, 1, 0)])])]),
        around("scale", vec![Layer::Scale { factor: -0.7 }, Layer::Gelu]),
        Architecture {
            name: "residual on the input".into(),
            input: vec![2, 4, 4],
            classes: 3,
            layers: vec![
                Layer::Tanh,
                Layer::residual(vec![conv("c", 2, 3, 1, 1), Layer::Tanh]),
                Layer::Flatten,
                linear("last", 3),
            ],
        },
    ]
}

/// A reproducible number in [-1, 1).
pub fn noise(stream: u64, i: usize) -> f64 {
    let mut x = (stream << 32 | i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^= x >> 32;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// More than fill the vector lanes.
pub const N: usize = 19;

pub fn theta(graph: &Graph) -> Vec<f64> {
    (0..graph.layout().len()).map(|i| 0.7 * noise(1, i)).collect()
}

pub fn at<T: Real>(graph: &Graph, theta: &[f64], microbatch: Option<usize>, threads: usize) -> Curvature<T> {
    let memory = if threads == 2 { 0 } else { 1 << 30 };
    with(graph, theta, &Options { threads, microbatch, memory, ..Options::default() })
}

pub fn with<T: Real>(graph: &Graph, theta: &[f64], options: &Options) -> Curvature<T> {
    let buffers: Vec<Vec<f64>> = graph
        .layout()
        .buffers()
        .iter()
        .enumerate()
        .map(|(s, b)| (0..b.len).map(|i| f64::from(b.initial) + 0.3 * noise(50 + s as u64, i)).collect())
        .collect();
    let features = graph.input().len();
    let images = (0..N * features).map(|i| noise(2, i));
    let labels = (0..N).map(|i| (i % 3) as u32).collect();
    let samples = Samples::new(features, images, labels).unwrap();
    Curvature::new(graph, theta, &buffers, samples, options).unwrap()
}

pub fn tangents(p: usize, b: usize) -> Mat<f64> {
    Mat::from_fn(p, b, |i, j| noise(10 + j as u64, i))
}

pub fn product<T: Real>(c: &Curvature<T>, operator: Operator, x: MatRef<'_, f64>) -> Mat<f64> {
    let mut y = Mat::zeros(x.nrows(), x.ncols());
    c.product(operator, x, y.as_mut()).unwrap();
    y
}

pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// A lower triangle that stops its assembly.
pub struct Lower {
    pub matrix: Mat<f64>,
    pub reached: Vec<(usize, f64)>,
    pub stop_at: usize,
}

/// An assembly was to end early.
#[derive(Debug)]
pub struct Stop;

impl From<CurvatureError> for Stop {
    fn from(error: CurvatureError) -> Self {
        panic!("{error}")
    }
}

impl Entries<Stop> for Lower {
    fn add(&mut self, rows: std::ops::Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        rows.zip(x).for_each(|(i, x)| self.matrix[(i.max(j), i.min(j))] += x);
    }

    fn reached(&mut self, parts: usize, share: f64) -> Result<(), Stop> {
        self.reached.push((parts, share));
        if self.reached.len() < self.stop_at { Ok(()) } else { Err(Stop) }
    }
}
