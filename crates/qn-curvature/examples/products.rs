//! Times Hessian-vector products of LeNet on inputs that analysis/bench/products.py has written, and
//! writes the products for it to compare:
//!
//!     cargo run --release -p qn-curvature --example products -- IN.safetensors OUT.safetensors
//!
//! With --f64-only behind that it only multiplies, in double precision.

use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Graph, Preset};
use qn_run::{Tensor, TensorFile};
use serde_json::json;

/// Vectors in a block.
const BLOCK: usize = 10;
/// Counted runs; the median is told.
const RUNS: usize = 5;

struct Input {
    theta: Vec<f64>,
    images: Vec<f64>,
    labels: Vec<u8>,
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
    let numbers: Vec<f64> = (0..BLOCK).flat_map(|j| y.col(j).iter().copied()).collect();
    Tensor::f64(&[BLOCK, y.nrows()], &numbers)
}

/// The operator after its first product, and the products with all vectors.
fn prepared<T: Real>(input: &Input, keep: bool) -> (Curvature<T>, Mat<f64>) {
    let graph = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10)).expect("LeNet is valid");
    let features = graph.input().len();
    let images = input.images.iter().copied();
    let samples = Samples::<T>::new(features, images, input.labels.clone()).expect("the input is finite");
    let options = Options { memory: if keep { usize::MAX } else { 0 }, ..input.options.clone() };
    let curvature = Curvature::new(&graph, &input.theta, &[], samples, &options).expect("sizes agree");
    let mut y = Mat::zeros(curvature.dim(), BLOCK);
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
    let block = time(|| product(BLOCK));
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

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (from, to, only) = match args.as_slice() {
        [_, from, to] => (from, to, false),
        [_, from, to, flag] if flag == "--f64-only" => (from, to, true),
        _ => panic!("give IN.safetensors OUT.safetensors"),
    };
    let file = TensorFile::read(from.as_ref()).expect("the input file is readable");
    let numbers = |name: &str| file.tensors[name].to_f64().expect("floats");
    let flat = numbers("tangents");
    let theta = numbers("theta");
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let input = Input {
        tangents: Mat::from_fn(theta.len(), BLOCK, |i, j| flat[j * theta.len() + i]),
        images: numbers("images"),
        labels: numbers("labels").into_iter().map(|l| l as u8).collect(),
        theta,
        options: Options {
            threads: number("QN_THREADS").unwrap_or(2),
            microbatch: number("QN_MICROBATCH"),
            ..Options::default()
        },
    };
    let mut out = TensorFile::default();
    let mut times = serde_json::Map::new();
    if only {
        let (_, y) = prepared::<f64>(&input, false);
        out.tensors.insert("f64".into(), rows(&y));
        out.write(to.as_ref()).expect("the output file is writable");
        return;
    }
    let mut add = |name: &str, (t, y): (serde_json::Value, Mat<f64>)| {
        out.tensors.insert(name.into(), rows(&y));
        times.insert(name.into(), t);
    };
    add("f32", measure::<f32>(&input, true));
    add("f64", measure::<f64>(&input, true));
    add("f32_no_cache", measure::<f32>(&input, false));
    times.insert("peak_gflops".into(), json!({"f32": peak::<f32>(), "f64": peak::<f64>()}));
    out.meta = times.clone().into();
    out.write(to.as_ref()).expect("the output file is writable");
    println!("{}", serde_json::Value::Object(times));
}
