//! Derivatives by some of the parameters are the rows and columns of those by all.

mod common;

use common::{Lower, at, networks, product, tangents, theta, with};
use faer::Mat;
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, ParamLayout};

const OPERATORS: [Operator; 4] =
    [Operator::Hessian, Operator::Ggn, Operator::Residual, Operator::EmpiricalFisher];

fn restricted<T: Real>(graph: &Graph, only: &[&str], memory: usize) -> Curvature<T> {
    let only = only.iter().map(|&name| name.to_owned()).collect();
    let options = Options { only, memory, threads: 2, weight_decay: 0.2, ..Options::default() };
    with(graph, &theta(graph), &options)
}

/// Where the parameters of a part are among all.
fn rows(all: &ParamLayout, part: &ParamLayout) -> Vec<usize> {
    let of = |name: &str| all.params().iter().find(|p| p.name == name).unwrap().range();
    part.params().iter().flat_map(|p| of(&p.name)).collect()
}

fn deep() -> Architecture {
    let linear = |name| common::linear(name, 5);
    let relu = qn_model::Layer::Relu;
    let layers = vec![
        qn_model::Layer::Flatten,
        linear("a"),
        relu.clone(),
        linear("b"),
        relu.clone(),
        linear("c"),
        relu,
        common::linear("d", 3),
    ];
    Architecture { name: "deep".into(), input: vec![1, 2, 3], classes: 3, layers }
}

#[test]
fn products_and_matrices_are_parts_of_the_whole() {
    let mut all = networks();
    all.push(deep());
    for arch in all {
        let graph = Graph::new(&arch).unwrap();
        let names: Vec<&str> = graph.layout().params().iter().map(|p| p.name.as_str()).collect();
        let whole = with::<f64>(&graph, &theta(&graph), &Options { weight_decay: 0.2, ..Options::default() });
        let dense = OPERATORS.map(|o| product(&whole, o, Mat::identity(whole.dim(), whole.dim()).as_ref()));
        let (first, last) = (names[0], names[names.len() - 1]);
        let middle = names[names.len() / 2];
        for only in [vec!["*.weight"], vec![first], vec![last], vec![middle], vec![last, first]] {
            let here = restricted::<f64>(&graph, &only, 1 << 30);
            let at = rows(graph.layout(), here.layout());
            let n = at.len();
            assert_eq!(here.dim(), n);
            for (operator, dense) in OPERATORS.into_iter().zip(&dense) {
                let expected = Mat::from_fn(n, n, |i, j| dense[(at[i], at[j])]);
                let found = product(&here, operator, Mat::identity(n, n).as_ref());
                let (what, scale) = (format!("{} {only:?} {operator:?}", arch.name), dense.norm_max());
                assert!((&found - &expected).norm_max() <= 1e-13 * scale, "{what}");
                let mut lower = Lower { matrix: Mat::zeros(n, n), reached: Vec::new(), stop_at: usize::MAX };
                here.assemble(operator, 0, &mut lower).unwrap();
                let triangle = Mat::from_fn(n, n, |i, j| if i >= j { expected[(i, j)] } else { 0.0 });
                assert!((lower.matrix - triangle).norm_max() <= 1e-13 * scale, "{what}: assembled");
            }
        }
    }
}

#[test]
fn gradients_are_parts_of_the_whole() {
    for arch in [&networks()[2], &deep()] {
        let graph = Graph::new(arch).unwrap();
        let whole = at::<f64>(&graph, &theta(&graph), None, 1);
        let options = Options { only: vec!["*.bias".into()], ..Options::default() };
        let here = with::<f64>(&graph, &theta(&graph), &options);
        let at = rows(graph.layout(), here.layout());
        let (found, expected) = (here.loss_and_gradient().unwrap(), whole.loss_and_gradient().unwrap());
        assert_eq!(found.loss, expected.loss);
        let part = |all: &[f64]| -> Vec<f64> { at.iter().map(|&i| all[i]).collect() };
        let close = |found: &[f64], expected: &[f64]| {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-15 * (1.0 + b.abs())));
        };
        close(&found.gradient, &part(&expected.gradient));
        let (found, expected) = (here.class_gradients().unwrap(), whole.class_gradients().unwrap());
        for (found, expected) in found.rows.chunks(at.len()).zip(expected.rows.chunks(whole.dim())) {
            close(found, &part(expected));
        }
        // λ_k has |c_k|² as a factor, and that is the part's.
        assert!(found.lambda.iter().zip(&expected.lambda).all(|(a, b)| 0.0 < *a && a < b));
    }
}

/// Bits do not depend on what is kept between products nor on the precision's name.
#[test]
fn passes_that_are_kept_and_single_precision() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let last = graph.layout().params().last().unwrap().name.clone();
        let [kept, fresh] = [1 << 30, 0].map(|memory| restricted::<f32>(&graph, &[&last], memory));
        let double = restricted::<f64>(&graph, &[&last], 0);
        let x = tangents(double.dim(), 3);
        let found = product(&fresh, Operator::Hessian, x.as_ref());
        assert!(product(&kept, Operator::Hessian, x.as_ref()) == found, "{}", arch.name);
        assert!(product(&kept, Operator::Hessian, x.as_ref()) == found, "{}", arch.name);
        let expected = product(&double, Operator::Hessian, x.as_ref());
        assert!((&found - &expected).norm_l2() <= 3e-6 * expected.norm_l2(), "{}", arch.name);
    }
}

/// The last layer alone needs its input and little else: forward passes fit in memory that those of all layers exceed.
#[test]
fn fewer_values_are_kept_for_fewer_parameters() {
    let graph = Graph::new(&deep()).unwrap();
    // 19 samples in one microbatch: the last layer's 5 inputs and 3 cotangents of 8 bytes each.
    let memory = 19 * 8 * 8;
    assert!(restricted::<f64>(&graph, &["d.*"], memory).keeps_primal());
    assert!(!restricted::<f64>(&graph, &["*"], memory).keeps_primal());
}

#[test]
fn a_name_that_is_not_there_is_refused() {
    let graph = Graph::new(&networks()[0]).unwrap();
    let features = graph.input().len();
    let samples = Samples::<f64>::new(features, (0..features).map(|i| i as f64), vec![0]).unwrap();
    let options = Options { only: vec!["second.*".into()], ..Options::default() };
    let refused = Curvature::new(&graph, &theta(&graph), &[], samples, &options);
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("'second.*'") && message.contains("first.weight"), "{message}");
}
