//! Times Hessian-vector products of LeNet on inputs that analysis/bench/products.py has written, and
//! writes the products for it to compare:
//!
//!     cargo run --release -p qn-curvature --example products -- IN.safetensors OUT.safetensors

use std::time::Instant;

use faer::Mat;
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

/// Seconds of a first product, a single, a block and a gradient; and the block's products.
fn measure<T: Real>(input: &Input, keep: bool) -> (serde_json::Value, Mat<f64>) {
    let graph = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10)).expect("LeNet is valid");
    let features = graph.input().len();
    let images = input.images.iter().copied();
    let samples = Samples::<T>::new(features, images, input.labels.clone()).expect("the input is finite");
    let options = Options { memory: if keep { usize::MAX } else { 0 }, ..input.options.clone() };
    let curvature = Curvature::new(&graph, &input.theta, &[], samples, &options).expect("sizes agree");
    let p = curvature.dim();
    let mut y = Mat::zeros(p, BLOCK);
    let mut product = |count: usize| {
        let (x, y) = (input.tangents.as_ref().subcols(0, count), y.as_mut().subcols_mut(0, count));
        curvature.product(Operator::Hessian, x, y).expect("the product is finite");
    };
    let start = Instant::now();
    product(1);
    let first = start.elapsed().as_secs_f64();
    let single = time(|| product(1));
    let block = time(|| product(BLOCK));
    let gradient = time(|| drop(curvature.loss_and_gradient().expect("the loss is finite")));
    let times = json!({
        "first": first, "single": single, "block": block, "gradient": gradient,
        "microbatch": curvature.microbatch(), "primal_kept": keep,
    });
    (times, y)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to] = args.as_slice() else { panic!("give IN.safetensors OUT.safetensors") };
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
    let mut add = |name: &str, (t, y): (serde_json::Value, Mat<f64>)| {
        let rows: Vec<f64> = (0..BLOCK).flat_map(|j| y.col(j).iter().copied()).collect();
        out.tensors.insert(name.into(), Tensor::f64(&[BLOCK, y.nrows()], &rows));
        times.insert(name.into(), t);
    };
    add("f32", measure::<f32>(&input, true));
    add("f64", measure::<f64>(&input, true));
    add("f32_no_cache", measure::<f32>(&input, false));
    out.meta = times.clone().into();
    out.write(to.as_ref()).expect("the output file is writable");
    println!("{}", serde_json::Value::Object(times));
}
