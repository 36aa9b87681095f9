//! The tape against central differences and against identities, for every kind of layer.

mod common;

use std::sync::Arc;

use common::{
    Lower, N, Stop, at, conv, linear, networks, noise, product, relative_error, tangents, theta, with,
};
use faer::Mat;
use qn_curvature::losses::{Averaging, BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Targets};
use qn_curvature::{Curvature, Operator, Options, Samples};
use qn_model::{Architecture, Graph, Layer};

#[test]
fn gradients_and_products_match_central_differences() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let p = theta.len();
        let here = at::<f64>(&graph, &theta, Some(3), 1);
        let gradient = here.loss_and_gradient().unwrap().gradient;
        let x = tangents(p, 1);
        let hv = product(&here, Operator::Hessian, x.as_ref());
        // Third derivatives are of order one, so h = 1e-5 errs by about h² = 1e-10, and rounding by
        // eps/h = 1e-11; a kink within h of a preactivation would show, and there is none.
        let h = 1e-5;
        let moved = |sign: f64| -> Vec<f64> {
            theta.iter().enumerate().map(|(i, t)| t + sign * h * x[(i, 0)]).collect()
        };
        let plus = at::<f64>(&graph, &moved(1.0), None, 1).loss_and_gradient().unwrap();
        let minus = at::<f64>(&graph, &moved(-1.0), None, 1).loss_and_gradient().unwrap();
        let slope: f64 = gradient.iter().enumerate().map(|(i, g)| g * x[(i, 0)]).sum();
        let difference = (plus.loss - minus.loss) / (2.0 * h);
        assert!((slope - difference).abs() <= 1e-7 * slope.abs(), "{}: {slope} {difference}", arch.name);
        let differences: Vec<f64> =
            plus.gradient.iter().zip(&minus.gradient).map(|(a, b)| (a - b) / (2.0 * h)).collect();
        let error = relative_error(hv.col_as_slice(0), &differences);
        assert!(error <= 1e-7, "{}: {error}", arch.name);
    }
}

#[test]
fn every_entry_of_the_gradient_matches() {
    let graph = Graph::new(&networks()[2]).unwrap();
    let theta = theta(&graph);
    let gradient = at::<f64>(&graph, &theta, None, 1).loss_and_gradient().unwrap().gradient;
    let differences: Vec<f64> = (0..theta.len())
        .map(|i| {
            let loss = |sign: f64| {
                let mut moved = theta.clone();
                moved[i] += sign * 1e-5;
                at::<f64>(&graph, &moved, None, 1).loss_and_gradient().unwrap().loss
            };
            (loss(1.0) - loss(-1.0)) / 2e-5
        })
        .collect();
    assert!(relative_error(&gradient, &differences) <= 1e-7);
}

#[test]
fn operators_are_symmetric_and_add_up() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let here = at::<f64>(&graph, &theta, None, 1);
        let x = tangents(theta.len(), 10);
        let [h, g, f] = [Operator::Hessian, Operator::Ggn, Operator::Residual]
            .map(|operator| product(&here, operator, x.as_ref()));
        let scale = h.norm_l2();
        assert!((&h - &g - &f).norm_l2() <= 1e-14 * scale, "{}", arch.name);
        for m in [&h, &g, &f] {
            let gram = x.transpose() * m;
            assert!(
                (&gram - gram.transpose()).norm_max() <= 1e-13 * gram.norm_max().max(scale),
                "{}",
                arch.name
            );
        }
        let energy = x.transpose() * &g;
        assert!((0..10).all(|i| energy[(i, i)] >= 0.0), "G is positive semidefinite");
    }
}

#[test]
fn blocks_threads_and_microbatches_do_not_matter() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let x = tangents(theta.len(), 21);
        let reference = product(&at::<f64>(&graph, &theta, Some(N), 1), Operator::Hessian, x.as_ref());
        for microbatch in [1, 3, 4, 100] {
            let here = at::<f64>(&graph, &theta, Some(microbatch), 1);
            let block = product(&here, Operator::Hessian, x.as_ref());
            assert!((&block - &reference).norm_l2() <= 1e-14 * reference.norm_l2(), "{}", arch.name);
            // Same microbatches: the same bits with other threads, without the cache, and again.
            let threaded = at::<f64>(&graph, &theta, Some(microbatch), 2);
            assert!(threaded.keeps_primal() != here.keeps_primal());
            assert_eq!(product(&threaded, Operator::Hessian, x.as_ref()), block);
            assert_eq!(product(&here, Operator::Hessian, x.as_ref()), block);
            let single = product(&here, Operator::Hessian, x.as_ref().subcols(2, 1));
            let column = reference.as_ref().subcols(2, 1);
            assert!((single - column).norm_l2() <= 1e-14 * column.norm_l2(), "{}", arch.name);
        }
    }
}

#[test]
fn direct_convolutions_agree_with_matrix_products() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let x = tangents(theta.len(), 3);
        for microbatch in [4, 16] {
            let [fused, general] = [true, false].map(|fuse| {
                let options = Options { fuse, microbatch: Some(microbatch), ..Options::default() };
                let here = with::<f64>(&graph, &theta, &options);
                let gradient = here.loss_and_gradient().unwrap().gradient;
                let products = [Operator::Hessian, Operator::Ggn, Operator::Residual];
                let mut found = vec![Mat::from_fn(theta.len(), 1, |i, _| gradient[i])];
                found.extend(products.map(|o| product(&here, o, x.as_ref())));
                found
            });
            for (fused, general) in fused.iter().zip(&general) {
                let error = (fused - general).norm_l2() / general.norm_l2();
                // Sums in another order: some hundred roundings of 1e-16.
                assert!(error <= 1e-13, "{}: {error:e}", arch.name);
            }
        }
    }
}

#[test]
fn the_assembled_matrix_is_the_matrix_of_the_products() {
    let mut all = networks();
    // Two linear layers, so that the block of the largest has neighbours.
    all.push(Architecture {
        name: "deep".into(),
        input: vec![1, 2, 3],
        classes: 3,
        layers: vec![
            Layer::Flatten,
            linear("a", 5),
            Layer::Relu,
            Layer::Linear { name: "b".into(), out_features: 7, bias: false },
            Layer::Relu,
            linear("c", 3),
        ],
    });
    for arch in all {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let p = theta.len();
        let here = at::<f64>(&graph, &theta, Some(3), 1);
        let units = Mat::<f64>::identity(p, p);
        let operators = [Operator::Hessian, Operator::Ggn, Operator::Residual, Operator::EmpiricalFisher];
        for operator in operators {
            let expected = product(&here, operator, units.as_ref());
            let mut whole = Lower { matrix: Mat::zeros(p, p), reached: Vec::new(), stop_at: usize::MAX };
            here.assemble(operator, 0, &mut whole).unwrap();
            let (parts, shares): (Vec<_>, Vec<_>) = whole.reached.iter().copied().unzip();
            assert!(
                parts.is_sorted() && shares.is_sorted() && shares.iter().all(|s| (0.0..=1.0).contains(s))
            );
            // Broken off and taken up again: the same bits.
            for stop_at in [1, parts.len().div_ceil(2), parts.len()] {
                let mut broken = Lower { matrix: Mat::zeros(p, p), reached: Vec::new(), stop_at };
                assert!(matches!(here.assemble(operator, 0, &mut broken), Err(Stop)));
                broken.stop_at = usize::MAX;
                here.assemble(operator, broken.reached.last().unwrap().0, &mut broken).unwrap();
                assert!(broken.matrix == whole.matrix, "{} {operator:?} from {stop_at}", arch.name);
                assert_eq!(broken.reached.last().unwrap().0, *parts.last().unwrap());
            }
            let lower = Mat::from_fn(p, p, |i, j| if i >= j { expected[(i, j)] } else { 0.0 });
            let error = (whole.matrix - lower).norm_max() / expected.norm_max();
            assert!(error <= 1e-13, "{} {operator:?}: {error}", arch.name);
        }
    }
}

#[test]
fn single_precision_agrees_to_its_rounding() {
    for arch in networks() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let x = tangents(theta.len(), 3);
        let double = product(&at::<f64>(&graph, &theta, None, 1), Operator::Hessian, x.as_ref());
        let single = product(&at::<f32>(&graph, &theta, None, 1), Operator::Hessian, x.as_ref());
        // A few hundred roundings of 6e-8, added as in a random walk.
        let error = (&double - single).norm_l2() / double.norm_l2();
        assert!(error <= 3e-6, "{}: {error}", arch.name);
    }
}

#[test]
fn class_gradients_are_means_of_logit_gradients() {
    let arch = &networks()[3];
    let graph = Graph::new(arch).unwrap();
    let theta = theta(&graph);
    let here = at::<f64>(&graph, &theta, Some(2), 1);
    let rows = here.class_gradients().unwrap().rows;
    assert_eq!(rows.len(), 3 * theta.len());
    // The bias of the last layer moves logit k alone, and by one.
    let last = graph.layout().params().last().unwrap();
    for (k, row) in rows.chunks(theta.len()).enumerate() {
        let bias = &row[last.range()];
        assert!(bias.iter().enumerate().all(|(j, &v)| (v - f64::from(u8::from(j == k))).abs() < 1e-15));
    }
}

#[test]
fn bad_numbers_are_named() {
    let graph = Graph::new(&networks()[0]).unwrap();
    let mut bad = theta(&graph);
    bad[5] = f64::NAN;
    let features = graph.input().len();
    let sample = |x: f64| Samples::<f64>::new(features, std::iter::repeat_n(x, features), vec![0]);
    let message =
        |r: Result<Curvature<f64>, _>| r.err().map(|e: qn_curvature::CurvatureError| e.to_string()).unwrap();
    let make = |theta: &[f64], s| Curvature::new(&graph, theta, &[], s, &Options::default());
    assert!(message(make(&bad, sample(0.0).unwrap())).contains("entry 5"));
    assert!(message(make(&bad[1..], sample(0.0).unwrap())).contains("expected"));
    assert!(sample(f64::INFINITY).unwrap_err().to_string().contains("input"));
    let wrong = Samples::new(features, std::iter::repeat_n(0.0, features), vec![3]).unwrap();
    assert!(message(make(&theta(&graph), wrong)).contains("label 3"));
    let good = make(&theta(&graph), sample(0.5).unwrap()).unwrap();
    let x = Mat::from_fn(good.dim(), 1, |i, _| if i == 9 { f64::NAN } else { 0.0 });
    let mut y = Mat::zeros(good.dim(), 1);
    let error = good.product(Operator::Hessian, x.as_ref(), y.as_mut()).unwrap_err().to_string();
    assert!(error.contains("tangent") && error.contains("entry 9"), "{error}");
}

/// Every loss over a network with its data, whose labels are the first three outputs.
fn losses() -> Vec<(Arc<dyn Loss>, Targets)> {
    let labels = Targets::Classes((0..N as u32).map(|i| i % 3).collect());
    let values = Targets::Values((0..3 * N).map(|i| 0.5 + 0.5 * noise(7, i)).collect());
    let weighted =
        CrossEntropy { weight: Some(vec![0.5, 2.0, 1.0]), label_smoothing: 0.1, ..Default::default() };
    let sum = MeanSquaredError { averaging: Averaging::Sum };
    let bce = BinaryCrossEntropy {
        weight: Some(vec![1.0, 0.5, 3.0]),
        pos_weight: Some(vec![2.0, 0.5, 1.0]),
        ..Default::default()
    };
    vec![
        (Arc::new(weighted.clone()), labels.clone()),
        (Arc::new(weighted), values.clone()),
        (Arc::new(sum), values.clone()),
        (Arc::new(MeanSquaredError::default()), labels),
        (Arc::new(bce), values),
    ]
}

fn with_loss(
    graph: &Graph,
    theta: &[f64],
    (loss, targets): &(Arc<dyn Loss>, Targets),
    weight_decay: f64,
) -> Curvature<f64> {
    let features = graph.input().len();
    let inputs = (0..N * features).map(|i| noise(2, i));
    let samples = Samples::with_targets([features, N], inputs, targets.clone()).unwrap();
    let options = Options { loss: Arc::clone(loss), weight_decay, microbatch: Some(8), ..Options::default() };
    Curvature::new(graph, theta, &[], samples, &options).unwrap()
}

#[test]
fn every_loss_has_its_gradient_products_and_matrix() {
    let arch = Architecture {
        name: "small".into(),
        input: vec![1, 4, 4],
        classes: 3,
        layers: vec![
            conv("c", 2, 3, 1, 0),
            Layer::Tanh,
            Layer::Flatten,
            linear("a", 4),
            Layer::Relu,
            linear("b", 3),
        ],
    };
    let graph = Graph::new(&arch).unwrap();
    let theta = theta(&graph);
    let p = theta.len();
    let x = tangents(p, 1);
    for case in losses() {
        for decay in [0.0, 0.3] {
            let here = with_loss(&graph, &theta, &case, decay);
            let found = here.loss_and_gradient().unwrap();
            assert_eq!(
                found.accuracy.is_some(),
                matches!(case.1, Targets::Classes(_)) || format!("{:?}", case.0).starts_with("CrossEntropy")
            );
            let h = 1e-5;
            let [plus, minus] = [h, -h].map(|h| {
                let moved: Vec<f64> = theta.iter().enumerate().map(|(i, t)| t + h * x[(i, 0)]).collect();
                with_loss(&graph, &moved, &case, decay).loss_and_gradient().unwrap()
            });
            let slope: f64 = found.gradient.iter().enumerate().map(|(i, g)| g * x[(i, 0)]).sum();
            let difference = (plus.loss - minus.loss) / (2.0 * h);
            assert!(
                (slope - difference).abs() <= 1e-7 * slope.abs().max(1.0),
                "{case:?}: {slope} {difference}"
            );
            let differences: Vec<f64> =
                plus.gradient.iter().zip(&minus.gradient).map(|(a, b)| (a - b) / (2.0 * h)).collect();
            let hv = product(&here, Operator::Hessian, x.as_ref());
            assert!(relative_error(hv.col_as_slice(0), &differences) <= 1e-7, "{case:?}");
            let units = Mat::<f64>::identity(p, p);
            let operators = [Operator::Hessian, Operator::Ggn, Operator::Residual, Operator::EmpiricalFisher];
            for operator in operators {
                let expected = product(&here, operator, units.as_ref());
                let mut whole = Lower { matrix: Mat::zeros(p, p), reached: Vec::new(), stop_at: usize::MAX };
                here.assemble(operator, 0, &mut whole).unwrap();
                let lower = Mat::from_fn(p, p, |i, j| if i >= j { expected[(i, j)] } else { 0.0 });
                let error = (whole.matrix - lower).norm_max() / expected.norm_max();
                assert!(error <= 1e-13, "{case:?} {operator:?}: {error}");
            }
        }
    }
}

/// Against the outer products of the samples' gradients, each found by itself.
#[test]
fn the_empirical_fisher_matrix_is_the_mean_of_outer_products() {
    let graph = Graph::new(&networks()[3]).unwrap();
    let theta = theta(&graph);
    let (p, features) = (theta.len(), graph.input().len());
    let x = tangents(p, 2);
    let mut expected = Mat::<f64>::zeros(p, 2);
    for i in 0..N {
        let image = (i * features..(i + 1) * features).map(|j| noise(2, j));
        let samples = Samples::new(features, image, vec![(i % 3) as u32]).unwrap();
        let one = Curvature::<f64>::new(&graph, &theta, &[], samples, &Options::default()).unwrap();
        let gradient = one.loss_and_gradient().unwrap().gradient;
        for t in 0..2 {
            let along: f64 = gradient.iter().enumerate().map(|(j, g)| g * x[(j, t)]).sum();
            (0..p).for_each(|j| expected[(j, t)] += along * gradient[j] / N as f64);
        }
    }
    let found = product(&at::<f64>(&graph, &theta, Some(4), 1), Operator::EmpiricalFisher, x.as_ref());
    assert!((&found - &expected).norm_l2() <= 1e-13 * expected.norm_l2());
}
