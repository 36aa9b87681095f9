use qn_model::{Preset, initial_parameters};

use super::*;
use crate::Curvature;

/// A network, its first parameters and running statistics.
fn network(preset: Preset, input: [usize; 3], classes: usize) -> (Graph, Vec<f64>, Vec<Vec<f64>>) {
    let graph = Graph::new(&preset.architecture(input, classes)).unwrap();
    // Away from the shifts of zero, with which a dead unit lies on the ReLU's kink.
    let theta = initial_parameters(graph.layout(), 1).into_iter().zip(0..);
    let theta = theta.map(|(x, i)| f64::from(x) + 0.1 * f64::from(i).sin()).collect();
    let buffers = graph.layout().buffers().iter().map(|b| vec![f64::from(b.initial); b.len]).collect();
    (graph, theta, buffers)
}

fn samples(features: usize, labels: &[u32]) -> Samples<f64> {
    let x = (0..features * labels.len()).map(|i| (i as f64 * 0.37).sin());
    Samples::new(features, x, labels.to_vec()).unwrap()
}

fn close(a: &[f64], b: &[f64], tol: f64) {
    let largest = b.iter().fold(0.0, |l: f64, x| l.max(x.abs()));
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tol * largest, "{i}: {a} {b}");
    }
}

/// Where samples pass by themselves, these are the derivatives at a fixed point.
#[test]
fn a_batch_is_what_analysis_finds() {
    let (graph, theta, _) = network(Preset::Digits, [1, 8, 8], 5);
    // Class 3 is not there.
    let labels: Vec<u32> = (0..300).map(|i| [0, 1, 4, 2, 4, 4][i % 6]).collect();
    let all = samples(64, &labels);
    let there = Curvature::new(&graph, &theta, &[], all.clone(), &Options::default()).unwrap();
    let options = Options { threads: 3, ..Options::default() };
    let mut training = Training::<f64>::new(&graph, &vec![0.1; theta.len()], &[], &options).unwrap();
    training.set_theta(&theta).unwrap();
    let expected = there.loss_and_gradient().unwrap();
    let found = training.gradient(&all).unwrap();
    assert!((found.loss - expected.loss).abs() < 1e-14);
    assert_eq!(Some(found.hits as f64 / 300.0), expected.accuracy);
    close(&found.gradient, &expected.gradient, 1e-13);
    let by_class = training.class_gradients(&all, Statistics::Exact).unwrap();
    close(&by_class.whole.gradient, &expected.gradient, 1e-13);
    close(&by_class.rows.concat(), &there.class_gradients().unwrap().rows, 1e-13);
    assert!(by_class.rows[3].iter().all(|x| *x == 0.0));
    assert_eq!((by_class.labels.len(), by_class.logits.len()), (300, 1500));
    assert!((training.loss(&all).unwrap() - expected.loss).abs() < 1e-14);
    assert!(training.set_theta(&theta[1..]).is_err());
}

/// Against differences of the loss, and of the classes' mean logits, all samples being in several microbatches.
#[test]
fn batch_statistics_are_differentiated() {
    let (graph, theta, buffers) = network(Preset::Resnet9 { width: 1 }, [1, 16, 16], 3);
    let labels: Vec<u32> = (0..45).map(|i| [0, 1, 0, 1, 1][i % 5]).collect();
    let all = samples(256, &labels);
    let options = Options { microbatch: Some(4), ..Options::default() };
    let mut training = Training::<f64>::new(&graph, &theta, &buffers, &options).unwrap();
    let plain = training.gradient(&all).unwrap();
    let exact = training.class_gradients(&all, Statistics::Exact).unwrap();
    close(&exact.whole.gradient, &plain.gradient, 1e-12);
    assert_eq!(exact.whole.hits, plain.hits);
    let direction: Vec<f64> = (0..theta.len()).map(|i| (i as f64 * 0.11).cos()).collect();
    let mut at = |h: f64| {
        let moved: Vec<f64> = theta.iter().zip(&direction).map(|(t, d)| t + h * d).collect();
        training.set_theta(&moved).unwrap();
        let found = training.class_gradients(&all, Statistics::Exact).unwrap();
        let mut means = vec![0.0; 3];
        for (z, &label) in found.logits.chunks_exact(3).zip(&found.labels) {
            let n = labels.iter().filter(|l| **l == label).count();
            means[label as usize] += z[label as usize] / n as f64;
        }
        means.push(training.loss(&all).unwrap());
        assert!((means[3] - found.whole.loss).abs() < 1e-13);
        means
    };
    let (ahead, behind) = (at(1e-6), at(-1e-6));
    let rows = exact.rows.iter().chain([&plain.gradient]);
    for (k, (row, (a, b))) in rows.zip(ahead.iter().zip(&behind)).enumerate() {
        let found: f64 = row.iter().zip(&direction).map(|(a, b)| a * b).sum();
        let expected = (a - b) / 2e-6;
        assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{k}: {found} {expected}");
    }
    assert!(exact.rows[2].iter().all(|x| *x == 0.0));
}

/// With the statistics of a batch as running ones, frozen class gradients are those that analysis finds.
#[test]
fn frozen_statistics_are_constants() {
    let (graph, theta, buffers) = network(Preset::Resnet9 { width: 1 }, [1, 16, 16], 3);
    let labels: Vec<u32> = (0..23).map(|i| i * i % 3).collect();
    let all = samples(256, &labels);
    let mut training = Training::<f64>::new(&graph, &theta, &buffers, &Options::default()).unwrap();
    let frozen = training.class_gradients(&all, Statistics::Frozen).unwrap();
    let mut seen = buffers.clone();
    for s in &frozen.whole.statistics {
        seen[s.buffer].clone_from(&s.mean);
        seen[s.buffer + 1].clone_from(&s.variance);
    }
    let there = Curvature::new(&graph, &theta, &seen, all.clone(), &Options::default()).unwrap();
    close(&frozen.rows.concat(), &there.class_gradients().unwrap().rows, 1e-11);
    training.set_buffers(&seen).unwrap();
    let (loss, hits) = training.evaluate(&all).unwrap();
    assert!((loss - frozen.whole.loss).abs() < 1e-13 && hits == frozen.whole.hits);
    assert!(training.set_buffers(&seen[1..]).is_err());
}

#[test]
fn means_and_variances_are_those_of_the_batch() {
    let (graph, theta, buffers) = network(Preset::Resnet9 { width: 1 }, [1, 8, 8], 2);
    let conv = graph.nodes().iter().position(|n| matches!(n.op, Op::BatchNorm { .. })).unwrap();
    assert_eq!(conv, 1);
    let all = samples(64, &[0, 1, 1]);
    let training = Training::<f64>::new(&graph, &theta, &buffers, &Options::default()).unwrap();
    let seen = training.gradient(&all).unwrap().statistics;
    let mut work = Scratch::new();
    let primal = Primal::forward(&training.network, &all, &[0, 1, 2], &mut work);
    let values = &primal.values[1];
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    assert_eq!((seen[0].buffer, seen[0].count), (0, n));
    close(&[seen[0].mean[0], seen[0].variance[0]], &[mean, variance], 1e-13);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let labels: Vec<u32> = (0..70).map(|i| i * i % 3).collect();
    for (preset, side) in [(Preset::Resnet9 { width: 2 }, 16), (Preset::Lenet, 28)] {
        let (graph, theta, buffers) = network(preset, [1, side, side], 3);
        let x = (0..side * side * labels.len()).map(|i| (i as f64 * 0.37).sin());
        let all = Samples::<f32>::new(side * side, x, labels.clone()).unwrap();
        let with = |threads| {
            let options = Options { threads, ..Options::default() };
            let training = Training::<f32>::new(&graph, &theta, &buffers, &options).unwrap();
            let plain = training.gradient(&all).unwrap();
            let exact = training.class_gradients(&all, Statistics::Exact).unwrap();
            let frozen = training.class_gradients(&all, Statistics::Frozen).unwrap();
            let losses = vec![plain.loss, exact.whole.loss, training.evaluate(&all).unwrap().0];
            [plain.gradient, exact.whole.gradient, exact.rows.concat(), frozen.rows.concat(), losses].concat()
        };
        let one = with(1);
        assert!([2, 5].map(with).iter().all(|found| *found == one));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (graph, theta, buffers) = network(Preset::Resnet9 { width: 1 }, [1, 8, 8], 2);
    let training = Training::<f64>::new(&graph, &theta, &buffers, &Options::default()).unwrap();
    let message = training.gradient(&samples(64, &[0])).unwrap_err().to_string();
    assert!(message.contains("one value a channel") && message.contains("two samples"), "{message}");
    assert!(training.evaluate(&samples(64, &[0])).is_ok());
    assert!(training.gradient(&samples(63, &[0, 1])).is_err());
    assert!(training.gradient(&samples(64, &[0, 2])).is_err());
    let soft = Targets::Values(vec![0.5; 4]);
    let soft = Samples::with_targets([64, 2], (0..128).map(f64::from), soft).unwrap();
    assert!(training.gradient(&soft).is_ok());
    assert!(training.class_gradients(&soft, Statistics::Frozen).is_err());
}
