//! Times Hessian-vector products of a network on inputs that analysis/bench/products.py has written, and writes the
//! products for it to compare:
//!
//!     cargo run --release -p qn-curvature --example products -- ARCH IN.safetensors OUT.safetensors
//!
//! ARCH is a preset, for images of 3 x 32 x 32 and ten classes, or a file. IN has `theta.NAME` and `tangents.NAME`
//! [b, ..] for every parameter, `buffer.NAME` for running statistics, `inputs` [N, ..] and `labels` [N] or
//! [N, positions]; OUT gets the products `f32.NAME`, `f64.NAME` [b, ..]. Without files, `ARCH noise N B` times it on
//! random numbers, and `ARCH layers` prints the layer list.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use qn_curvature::losses::{ClassAxis, CrossEntropy, Targets};
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, Node, Op};
use qn_run::{Tensor, TensorFile};
use serde_json::json;

/// Counted runs; the median is told. Fewer where the first took longer than so many seconds.
const RUNS: [usize; 2] = [5, 3];
const LONG: f64 = 2.0;

struct Input {
    graph: Graph,
    buffers: Vec<Vec<f64>>,
    theta: Vec<f64>,
    inputs: Vec<f64>,
    labels: Vec<u32>,
    samples: usize,
    tangents: Mat<f64>,
    options: Options,
}

fn time(mut run: impl FnMut()) -> f64 {
    let mut once = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    let runs = RUNS[usize::from(once() > LONG)];
    let mut times: Vec<f64> = (0..runs).map(|_| once()).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The operator after its first product, and the products with all vectors.
fn prepared<T: Real>(input: &Input, keep: bool) -> (Curvature<T>, Mat<f64>) {
    let sizes = [input.graph.input().len(), input.samples];
    let targets = Targets::Classes(input.labels.clone());
    let samples = Samples::<T>::with_targets(sizes, input.inputs.iter().copied(), targets);
    let samples = samples.expect("the input is finite");
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

/// Floating-point operations of a Hessian-vector product for each sample, done densely. Of f multiply-adds in a forward
/// pass there are six times as many, V a, W R{a}, W^T R{delta}, V^T delta, R{delta} a^T and delta R{a}^T; twice as many
/// where the input has no tangent.
fn flops(graph: &Graph) -> usize {
    let factor = |node: &Node| if node.inputs.contains(&0) { 4 } else { 12 };
    graph.nodes().iter().map(|node| factor(node) * graph.multiply_adds_of(node)).sum()
}

fn architecture(name: &str) -> Architecture {
    let file = name.ends_with(".toml") || name.ends_with(".json");
    let found = if file {
        Architecture::from_file(name.as_ref())
    } else {
        Architecture::named(name, &[3, 32, 32], 10)
    };
    found.expect("a preset or a file of an architecture")
}

/// Two threads, or as many as QN_THREADS says; microbatches of QN_MICROBATCH samples. Classes lie along the last axis.
fn options() -> Options {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    Options {
        threads: number("QN_THREADS").unwrap_or(2),
        microbatch: number("QN_MICROBATCH"),
        loss: Arc::new(CrossEntropy { classes: ClassAxis::Last, ..CrossEntropy::default() }),
        ..Options::default()
    }
}

fn read(graph: Graph, from: &str) -> Input {
    let file = TensorFile::read(from.as_ref()).expect("the input file is readable");
    let numbers = |name: String| file.tensors[&name].to_f64().expect("numbers");
    let params = graph.layout().params();
    let flat: HashMap<&str, Vec<f64>> =
        params.iter().map(|p| (p.name.as_str(), numbers(format!("tangents.{}", p.name)))).collect();
    let b = flat[params[0].name.as_str()].len() / params[0].len();
    let mut tangents = Mat::zeros(graph.layout().len(), b);
    for p in params {
        for (t, values) in flat[p.name.as_str()].chunks_exact(p.len()).enumerate() {
            p.range().zip(values).for_each(|(row, &value)| tangents[(row, t)] = value);
        }
    }
    let inputs = numbers("inputs".into());
    Input {
        samples: inputs.len() / graph.input().len(),
        inputs,
        labels: numbers("labels".into()).into_iter().map(|l| l as u32).collect(),
        buffers: graph.layout().buffers().iter().map(|b| numbers(format!("buffer.{}", b.name))).collect(),
        theta: params.iter().flat_map(|p| numbers(format!("theta.{}", p.name))).collect(),
        tangents,
        graph,
        options: options(),
    }
}

/// Random numbers in place of everything.
fn noise(graph: Graph, samples: usize, b: usize) -> Input {
    let random = |i: usize| ((i as f64 * 0.618_033_988_7).fract() - 0.5) * 2.0;
    let theta = qn_model::initial_parameters(graph.layout(), 0).into_iter().map(f64::from).collect();
    let classes = graph.output().dims().last().copied().unwrap_or(1);
    let tokens = matches!(graph.nodes()[0].op, Op::Embedding { .. });
    let number = |i: usize| if tokens { (i * 7 % classes) as f64 } else { random(i + 7) };
    Input {
        tangents: Mat::from_fn(graph.layout().len(), b, |i, j| random(i * b + j)),
        inputs: (0..samples * graph.input().len()).map(number).collect(),
        labels: (0..samples * graph.output().len() / classes).map(|i| (i % classes) as u32).collect(),
        samples,
        buffers: graph.layout().buffers().iter().map(|b| vec![f64::from(b.initial); b.len]).collect(),
        theta,
        graph,
        options: options(),
    }
}

/// For a profile, and for the memory: nothing but products in single precision, with the primal passes kept where
/// QN_F32 is `kept`.
fn only_single() -> Option<bool> {
    std::env::var_os("QN_F32").map(|value| value == "kept")
}

/// Measures in both precisions, with the primal passes kept and without.
fn report(input: &Input, out: &mut TensorFile) -> serde_json::Value {
    let mut times = serde_json::Map::new();
    let mut add = |name: &str, (t, y): (serde_json::Value, Mat<f64>)| {
        for p in input.graph.layout().params() {
            let shape = [&[y.ncols()], p.shape.as_slice()].concat();
            let values: Vec<f64> = y.col_iter().flat_map(|c| p.range().map(move |row| c[row])).collect();
            out.tensors.insert(format!("{name}.{}", p.name), Tensor::f64(&shape, &values));
        }
        times.insert(name.into(), t);
    };
    add("f32", measure::<f32>(input, only_single().unwrap_or(true)));
    if only_single().is_none() {
        add("f64", measure::<f64>(input, true));
        add("f32_no_cache", measure::<f32>(input, false));
        times.insert("peak_gflops".into(), json!({"f32": peak::<f32>(), "f64": peak::<f64>()}));
    }
    times.insert("flops".into(), flops(&input.graph).into());
    times.into()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let graph = |name: &str| Graph::new(&architecture(name)).expect("it is valid");
    let (input, to) = match words.as_slice() {
        [arch, "layers"] => {
            return println!("{}", serde_json::to_string(&architecture(arch)).expect("it is plain data"));
        }
        [arch, "noise", n, b] => {
            let number = |s: &str| s.parse().expect("a number");
            (noise(graph(arch), number(n), number(b)), None)
        }
        [arch, from, to] => (read(graph(arch), from), Some(*to)),
        _ => panic!("give ARCH IN.safetensors OUT.safetensors, ARCH noise N B, or ARCH layers"),
    };
    let mut out = TensorFile::default();
    let times = report(&input, &mut out);
    if let Some(to) = to {
        out.write(to.as_ref()).expect("the output file is writable");
    }
    println!("{times}");
}
