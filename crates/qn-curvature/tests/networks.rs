//! Whole networks against PyTorch, in double precision: tests/golden/make_networks.py says how.

mod common;
mod zoo;

use std::path::Path;
use std::sync::Arc;

use common::{noise, product, relative_error};
use faer::Mat;
use qn_curvature::losses::{
    Averaging, BinaryCrossEntropy, ClassAxis, CrossEntropy, IGNORED, Loss, MeanSquaredError, Targets,
};
use qn_curvature::{Curvature, Operator, Options, Samples};
use qn_model::Graph;
use qn_run::TensorFile;

const N: usize = 4;
const SAMPLED: usize = 300;
const TOLERANCE: f64 = 1e-9;

fn numbers(stream: u64, len: usize) -> Vec<f64> {
    (0..len).map(|i| noise(stream, i)).collect()
}

/// Parameters by formula: of a size that keeps values near one.
fn theta(graph: &Graph) -> Vec<f64> {
    let mut theta = numbers(1, graph.layout().len());
    for p in graph.layout().params() {
        let scale = (3.0 * p.shape[0] as f64 / p.len() as f64).sqrt();
        let around_one = p.name.ends_with("weight") || p.name.ends_with("gamma");
        for x in &mut theta[p.range()] {
            *x = match (p.shape.len(), around_one) {
                (1, true) => 1.0 + 0.3 * *x,
                (1, false) => 0.2 * *x,
                _ => scale * *x,
            };
        }
    }
    theta
}

fn statistics(graph: &Graph) -> Vec<Vec<f64>> {
    let of = |(i, b): (usize, &qn_model::Buffer)| {
        (0..b.len).map(|j| 0.3 * noise(50 + i as u64, j) + f64::from(b.initial)).collect()
    };
    graph.layout().buffers().iter().enumerate().map(of).collect()
}

/// What a network is given, and its loss.
struct Problem {
    inputs: Vec<f64>,
    targets: Targets,
    loss: Arc<dyn Loss>,
}

/// A mean cross-entropy.
fn entropy() -> CrossEntropy {
    CrossEntropy { classes: ClassAxis::Last, ..CrossEntropy::default() }
}

fn problem(name: &str, graph: &Graph) -> Problem {
    let weight = vec![0.5, 2.0, 1.25, 1.0, 0.75];
    let labels = Targets::Classes((0..N as u32).map(|i| i % 5).collect());
    let values = numbers(4, N * 5);
    let mut inputs = numbers(2, N * graph.input().len());
    let (targets, loss): (Targets, Arc<dyn Loss>) = match name {
        "mobilenet" => (labels, Arc::new(CrossEntropy { label_smoothing: 0.1, ..entropy() })),
        "densenet" => (labels, Arc::new(CrossEntropy { weight: Some(weight), ..entropy() })),
        "convnext" => {
            let mut soft: Vec<f64> = values.iter().map(|x| (2.0 * x).exp()).collect();
            for p in soft.chunks_exact_mut(5) {
                let sum: f64 = p.iter().sum();
                p.iter_mut().for_each(|x| *x /= sum);
            }
            (Targets::Values(soft), Arc::new(entropy()))
        }
        "vit" => (Targets::Values(values), Arc::new(MeanSquaredError::default())),
        "gpt" => {
            inputs = (0..N * 6).map(|i| (i * 7 % 11) as f64).collect();
            let next = |i: u32| if i % 5 == 2 { IGNORED } else { i * 3 % 11 };
            (Targets::Classes((0..N as u32 * 6).map(next).collect()), Arc::new(entropy()))
        }
        "gru" => {
            let halves = numbers(4, N * 3).iter().map(|x| (x + 1.0) / 2.0).collect();
            let pos_weight = Some(weight[..3].to_vec());
            let loss = BinaryCrossEntropy { pos_weight, ..Default::default() };
            (Targets::Values(halves), Arc::new(loss))
        }
        "groupnorm" => (labels, Arc::new(CrossEntropy { averaging: Averaging::Sum, ..entropy() })),
        _ => (labels, Arc::new(entropy())),
    };
    Problem { inputs, targets, loss }
}

fn at(name: &str, graph: &Graph, threads: usize) -> Curvature<f64> {
    let Problem { inputs, targets, loss } = problem(name, graph);
    let samples = Samples::with_targets([graph.input().len(), N], inputs.into_iter(), targets).unwrap();
    let options = Options { threads, microbatch: Some(3), loss, ..Options::default() };
    Curvature::new(graph, &theta(graph), &statistics(graph), samples, &options).unwrap()
}

/// What the file has of a vector: two projections, the norm, and some entries.
fn summary(vector: &[f64]) -> [Vec<f64>; 2] {
    let along = |stream| vector.iter().enumerate().map(|(i, x)| x * noise(stream, i)).sum();
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let entries = (0..SAMPLED).map(|i| vector[i * vector.len() / SAMPLED]).collect();
    [vec![along(5), along(6), norm], entries]
}

#[test]
fn networks_are_pytorchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/networks.safetensors");
    let golden = TensorFile::read(&path).unwrap();
    let layouts = std::fs::read_to_string(path.with_extension("json")).unwrap();
    let layouts: serde_json::Value = serde_json::from_str(&layouts).unwrap();
    let networks = zoo::networks();
    let names: Vec<&str> = networks.iter().map(|(name, _)| *name).collect();
    let mut expected: Vec<&str> = layouts.as_object().unwrap().keys().map(String::as_str).collect();
    expected.sort_by_key(|name| names.iter().position(|n| n == name));
    assert_eq!(names, expected);
    for (name, graph) in networks {
        let layout = graph.layout().params().iter().map(|p| serde_json::json!([p.name, p.shape]));
        assert_eq!(serde_json::Value::from_iter(layout), layouts[name], "{name}");
        let here = at(name, &graph, 2);
        let found = here.loss_and_gradient().unwrap();
        let v = Mat::from_fn(here.dim(), 1, |i, _| noise(3, i));
        let column = |operator| product(&here, operator, v.as_ref()).col_as_slice(0).to_vec();
        let of = |what: &str| golden.tensors[&format!("{name}.{what}")].to_f64().unwrap();
        assert!(relative_error(&[found.loss], &of("loss")) < TOLERANCE, "{name}: loss");
        let all =
            [("gradient", found.gradient), ("hv", column(Operator::Hessian)), ("gv", column(Operator::Ggn))];
        for (what, found) in all {
            let expected = of(what);
            let (sums, entries) = expected.split_at(3);
            for (found, expected) in summary(&found).iter().zip([sums, entries]) {
                let error = relative_error(found, expected);
                assert!(error < TOLERANCE, "{name}: {what} is off by {error:e}");
            }
        }
    }
}

#[test]
fn blocks_and_threads_change_nothing() {
    for (name, graph) in zoo::networks() {
        let [one, two] = [1, 2].map(|threads| at(name, &graph, threads));
        let v = Mat::from_fn(one.dim(), 3, |i, j| noise(30 + j as u64, i));
        let block = product(&one, Operator::Hessian, v.as_ref());
        assert_eq!(block, product(&two, Operator::Hessian, v.as_ref()), "{name}");
        for t in 0..3 {
            let single = product(&two, Operator::Hessian, v.as_ref().subcols(t, 1));
            let error = relative_error(single.col_as_slice(0), block.col_as_slice(t));
            assert!(error < 1e-12, "{name}: vector {t} of a block is off by {error:e}");
        }
    }
}
