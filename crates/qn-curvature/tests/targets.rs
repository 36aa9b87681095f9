//! Labels of many classes, soft labels, and labels at several positions.

use std::sync::Arc;

use faer::Mat;
use qn_curvature::losses::{ClassAxis, CrossEntropy, IGNORED, Targets};
use qn_curvature::{Curvature, LossAndGradient, Operator, Options, Samples};
use qn_model::{Activation, Graph, Op, ParamKind, Shape};

/// Numbers between -1 and 1, without an order that matters.
fn noise(i: usize) -> f64 {
    (i as f64 * 12.9898 + 1.0).sin()
}

/// W₂ tanh(W₁ x + b) at every position, from `inputs` to `classes` numbers.
fn network(positions: &[usize], inputs: usize, classes: usize) -> Graph {
    let mut graph = Graph::empty("positions", Shape::new([positions, &[inputs]].concat()));
    let kind = ParamKind::Affine { fan_in: inputs };
    let first = graph.parameter("first.weight", vec![5, inputs], kind);
    let bias = graph.parameter("first.bias", vec![5], kind);
    let last = graph.parameter("last.weight", vec![classes, 5], kind);
    let s = graph.push(Op::Linear { weight: first, bias: Some(bias) }, vec![0]).unwrap();
    let a = graph.push(Op::Activation(Activation::Tanh), vec![s]).unwrap();
    graph.push(Op::Linear { weight: last, bias: None }, vec![a]).unwrap();
    graph
}

fn at(graph: &Graph, n: usize, targets: Targets, classes: ClassAxis) -> Curvature<f64> {
    let theta: Vec<f64> = (0..graph.layout().len()).map(noise).collect();
    let features = graph.input().len();
    let inputs = (0..n * features).map(|i| noise(i + 500));
    let samples = Samples::with_targets([features, n], inputs, targets).unwrap();
    let loss = Arc::new(CrossEntropy { classes, ..CrossEntropy::default() });
    Curvature::new(graph, &theta, &[], samples, &Options { loss, ..Options::default() }).unwrap()
}

/// Loss, gradient and H v for a fixed v.
fn derivatives(curvature: &Curvature<f64>) -> (LossAndGradient, Mat<f64>) {
    let x = Mat::from_fn(curvature.dim(), 1, |i, _| noise(i + 900));
    let mut y = Mat::zeros(curvature.dim(), 1);
    curvature.product(Operator::Hessian, x.as_ref(), y.as_mut()).unwrap();
    (curvature.loss_and_gradient().unwrap(), y)
}

fn assert_close(found: impl Iterator<Item = f64>, expected: impl Iterator<Item = f64>) {
    for (i, (a, b)) in found.zip(expected).enumerate() {
        assert!((a - b).abs() <= 1e-13 * (1.0 + b.abs()), "entry {i} is {a}, expected {b}");
    }
}

/// z = w x + b with 2²⁰ outputs: dL/db = mean (p - e_y), and the block of H of b is mean (diag p - p pᵀ).
#[test]
fn a_million_classes() {
    const C: usize = 1 << 20;
    let mut graph = Graph::empty("wide", Shape::new([1]));
    let weight = graph.parameter("weight", vec![C, 1], ParamKind::Affine { fan_in: 1 });
    let bias = graph.parameter("bias", vec![C], ParamKind::Affine { fan_in: 1 });
    graph.push(Op::Linear { weight, bias: Some(bias) }, vec![0]).unwrap();
    let labels = vec![C as u32 - 1, 300, 70_000];
    let here = at(&graph, 3, Targets::Classes(labels.clone()), ClassAxis::First);
    let p: Vec<Vec<f64>> = (0..3)
        .map(|i| {
            let e: Vec<f64> = (0..C).map(|k| (noise(k) * noise(i + 500) + noise(C + k)).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(|e| e / sum).collect()
        })
        .collect();
    let found = here.loss_and_gradient().unwrap();
    let expected = (0..3).map(|i| -p[i][labels[i] as usize].ln()).sum::<f64>() / 3.0;
    assert!((found.loss - expected).abs() < 1e-12, "{} {expected}", found.loss);
    let hit = |i: usize, k: usize| f64::from(u8::from(labels[i] as usize == k));
    let gradient = (0..C).map(|k| (0..3).map(|i| p[i][k] - hit(i, k)).sum::<f64>() / 3.0);
    assert_close(found.gradient[C..].iter().copied(), gradient);

    let x = Mat::from_fn(2 * C, 1, |i, _| if i < C { 0.0 } else { 1000.0 * noise(i) });
    let mut y = Mat::zeros(2 * C, 1);
    here.product(Operator::Hessian, x.as_ref(), y.as_mut()).unwrap();
    let means: Vec<f64> =
        p.iter().map(|p| p.iter().enumerate().map(|(k, p)| p * x[(C + k, 0)]).sum()).collect();
    let product = (0..C).map(|k| (0..3).map(|i| p[i][k] * (x[(C + k, 0)] - means[i])).sum::<f64>() / 3.0);
    let (found, expected): (Vec<f64>, Vec<f64>) = (y.col_as_slice(0)[C..].to_vec(), product.collect());
    let size = expected.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-12 * size));
}

#[test]
fn a_label_beyond_the_classes_is_named() {
    let graph = network(&[], 3, 4);
    let samples = Samples::new(3, (0..6).map(noise), vec![1, 300]).unwrap();
    let theta = vec![0.5; graph.layout().len()];
    let refused = Curvature::<f64>::new(&graph, &theta, &[], samples, &Options::default());
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("label 300 of sample 1 is not below 4"), "{message}");
    let soft = Targets::Values(vec![0.25, 0.25, 0.25, f64::NAN]);
    let samples = Samples::with_targets([3, 1], (0..3).map(noise), soft).unwrap();
    let refused = Curvature::<f64>::new(&graph, &theta, &[], samples, &Options::default());
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("number 3 is NaN"), "{message}");
}

/// The loss is linear in the probabilities that a sample's targets give to the classes.
#[test]
fn soft_labels_are_mixtures_of_labels() {
    let (graph, n) = (network(&[], 3, 4), 6);
    let label = |i: usize, shift: usize| (i * 3 + shift) % 4;
    let hard = [0, 1].map(|shift| {
        let labels = (0..n).map(|i| label(i, shift) as u32).collect();
        derivatives(&at(&graph, n, Targets::Classes(labels), ClassAxis::First))
    });
    let share = |i: usize, k: usize| match k {
        k if k == label(i, 0) => 0.3,
        k if k == label(i, 1) => 0.7,
        _ => 0.0,
    };
    let soft = Targets::Values((0..4 * n).map(|i| share(i / 4, i % 4)).collect());
    let (found, product) = derivatives(&at(&graph, n, soft, ClassAxis::First));
    let mix = |a: f64, b: f64| 0.3 * a + 0.7 * b;
    let [(first, hv), (second, hw)] = &hard;
    assert_close([found.loss].into_iter(), [mix(first.loss, second.loss)].into_iter());
    let gradient = first.gradient.iter().zip(&second.gradient).map(|(a, b)| mix(*a, *b));
    assert_close(found.gradient.iter().copied(), gradient);
    let products = hv.col_as_slice(0).iter().zip(hw.col_as_slice(0)).map(|(a, b)| mix(*a, *b));
    assert_close(product.col_as_slice(0).iter().copied(), products);
}

/// Positions of a sample count as samples of their own do, and those without a label not at all.
#[test]
fn labels_at_positions_are_labels_of_samples() {
    let labels = vec![2, 0, IGNORED, 3, 1, 1];
    let whole = derivatives(&at(&network(&[3], 3, 4), 2, Targets::Classes(labels.clone()), ClassAxis::Last));
    let single = derivatives(&at(&network(&[], 3, 4), 6, Targets::Classes(labels), ClassAxis::First));
    assert_close([whole.0.loss].into_iter(), [single.0.loss].into_iter());
    assert_eq!(whole.0.accuracy, single.0.accuracy);
    assert_close(whole.0.gradient.iter().copied(), single.0.gradient.iter().copied());
    assert_close(whole.1.col_as_slice(0).iter().copied(), single.1.col_as_slice(0).iter().copied());
}
