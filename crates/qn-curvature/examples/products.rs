//! Times Hessian-vector products of a network on inputs that analysis/bench/products.py has written, and writes the
//! products for it to compare:
//!
//!     cargo run --release -p qn-curvature --example products -- ARCH IN.safetensors OUT.safetensors
//!
//! ARCH is a preset, for images of 3 x 32 x 32 and ten classes, or a file. IN has theta [P], tangents [b, P], images
//! [N, ..], labels [N] and, where there are running statistics, buffer.0, buffer.1, ... With --f64-only behind that it
//! only multiplies, in double precision. Without files, `ARCH noise N B` times it on random numbers.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph};
use qn_run::{Tensor, TensorFile};
use serde_json::json;

/// Counted runs; the median is told.
const RUNS: usize = 5;

struct Input {
    graph: Graph,
    buffers: Vec<Vec<f64>>,
    theta: Vec<f64>,
    images: Vec<f64>,
    labels: Vec<u32>,
    tangents: Mat<f64>,
    options: Options,
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn time(mut run: impl FnMut()) -> f64 {
    median(
        (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed().as_secs_f64()
            })
            .collect(),
    )
}

fn rows(y: &Mat<f64>) -> Tensor {
    let numbers: Vec<f64> = (0..y.ncols()).flat_map(|j| y.col(j).iter().copied()).collect();
    Tensor::f64(&[y.ncols(), y.nrows()], &numbers)
}

/// The operator after its first product, and the products with all vectors.
fn prepared<T: Real>(input: &Input, keep: bool) -> (Curvature<T>, Mat<f64>) {
    let features = input.graph.input().len();
    let images = input.images.iter().copied();
    let samples = Samples::<T>::new(features, images, input.labels.clone()).expect("the input is finite");
    let options = Options { memory: if keep { usize::MAX } else { 0 }, ..input.options.clone() };
    let curvature =
        Curvature::new(&input.graph, &input.theta, &input.buffers, samples, &options).expect("sizes agree");
    let mut y = Mat::zeros(curvature.dim(), input.tangents.ncols());
    let product = curvature.product(Operator::Hessian, input.tangents.as_ref(), y.as_mut());
    product.expect("the product is finite");
    (curvature, y)
}

/// Seconds of a single product, a block and a gradient; and the block's products.
fn measure<T: Real>(input: &Input, keep: bool) -> (serde_json::Value, Mat<f64>) {
    let (curvature, mut y) = prepared::<T>(input, keep);
    let mut product = |count: usize| {
        let (x, y) = (input.tangents.as_ref().subcols(0, count), y.as_mut().subcols_mut(0, count));
        curvature.product(Operator::Hessian, x, y).expect("the product is finite");
    };
    let single = time(|| product(1));
    let block = time(|| product(input.tangents.ncols()));
    let gradient = time(|| drop(curvature.loss_and_gradient().expect("the loss is finite")));
    let times = json!({
        "single": single, "block": block, "gradient": gradient,
        "microbatch": curvature.microbatch(), "primal_kept": keep,
    });
    (times, y)
}

/// GFLOP/s of large matrix products on two threads.
fn peak<T: Real>() -> f64 {
    let n = 1536;
    let a = Mat::from_fn(n, n, |i, j| T::of((i * 7 + j * 3) as f64 % 11.0 - 5.0));
    let mut c = Mat::from_fn(n, n, |_, _| T::of(0.0));
    let seconds =
        time(|| matmul(c.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), T::of(1.0), Par::rayon(2)));
    2e-9 * (n as f64).powi(3) / seconds
}

fn architecture(name: &str) -> Graph {
    let file = name.ends_with(".toml") || name.ends_with(".json");
    let found = if file {
        Architecture::from_file(name.as_ref())
    } else {
        Architecture::named(name, [3, 32, 32], 10)
    };
    Graph::new(&found.expect("a preset or a file of an architecture")).expect("it is valid")
}

fn options() -> Options {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    Options {
        threads: number("QN_THREADS").unwrap_or(2),
        microbatch: number("QN_MICROBATCH"),
        ..Options::default()
    }
}

fn read(graph: Graph, from: &str) -> Input {
    let file = TensorFile::read(from.as_ref()).expect("the input file is readable");
    let numbers = |name: &str| file.tensors[name].to_f64().expect("floats");
    let (flat, theta) = (numbers("tangents"), numbers("theta"));
    Input {
        tangents: Mat::from_fn(theta.len(), flat.len() / theta.len(), |i, j| flat[j * theta.len() + i]),
        images: numbers("images"),
        labels: numbers("labels").into_iter().map(|l| l as u32).collect(),
        buffers: (0..graph.layout().buffers().len()).map(|i| numbers(&format!("buffer.{i}"))).collect(),
        theta,
        graph,
        options: options(),
    }
}

/// Random numbers in place of everything.
fn noise(graph: Graph, n: usize, b: usize) -> Input {
    let random = |i: usize| ((i as f64 * 0.618_033_988_7).fract() - 0.5) * 2.0;
    let theta = qn_model::initial_parameters(graph.layout(), 0).into_iter().map(f64::from).collect();
    Input {
        tangents: Mat::from_fn(graph.layout().len(), b, |i, j| random(i * b + j)),
        images: (0..n * graph.input().len()).map(|i| random(i + 7)).collect(),
        labels: (0..n).map(|i| (i % graph.classes()) as u32).collect(),
        buffers: graph.layout().buffers().iter().map(|b| vec![f64::from(b.initial); b.len]).collect(),
        theta,
        graph,
        options: options(),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let (input, to, only) = match words.as_slice() {
        [arch, "noise", n, b] => {
            let number = |s: &str| s.parse().expect("a number");
            (noise(architecture(arch), number(n), number(b)), None, false)
        }
        [arch, from, to] => (read(architecture(arch), from), Some(*to), false),
        [arch, from, to, "--f64-only"] => (read(architecture(arch), from), Some(*to), true),
        _ => panic!("give ARCH IN.safetensors OUT.safetensors, or ARCH noise N B"),
    };
    let mut out = TensorFile::default();
    let write = |out: &TensorFile| {
        if let Some(to) = to {
            out.write(to.as_ref()).expect("the output file is writable");
        }
    };
    if only {
        let (_, y) = prepared::<f64>(&input, false);
        out.tensors.insert("f64".into(), rows(&y));
        return write(&out);
    }
    let mut times = serde_json::Map::new();
    let mut add = |name: &str, (t, y): (serde_json::Value, Mat<f64>)| {
        out.tensors.insert(name.into(), rows(&y));
        times.insert(name.into(), t);
    };
    add("f32", measure::<f32>(&input, true));
    add("f64", measure::<f64>(&input, true));
    add("f32_no_cache", measure::<f32>(&input, false));
    times.insert("peak_gflops".into(), json!({"f32": peak::<f32>(), "f64": peak::<f64>()}));
    out.meta = times.clone().into();
    write(&out);
    println!("{}", serde_json::Value::Object(times));
}
