//! The Jacobian against differences of the outputs, against itself and against the matrices made of it.

mod common;

use common::{N, at, linear, networks, noise, product, tangents, theta, with};
use faer::{Mat, MatRef};
use qn_curvature::{Curvature, Operator, Options, Real, Samples};
use qn_model::{Architecture, Graph, Layer};

/// All networks of three outputs, and one whose twenty do not fit into a block of tangents.
fn all() -> Vec<Architecture> {
    let layers = vec![Layer::Flatten, linear("a", 4), Layer::Tanh, linear("b", 20)];
    let wide = Architecture { name: "wide".into(), input: vec![1, 2, 3], classes: 20, layers };
    networks().into_iter().chain([wide]).collect()
}

fn jvp<T: Real>(c: &Curvature<T>, x: MatRef<'_, f64>) -> Mat<f64> {
    let mut y = Mat::from_fn(N * c.outputs_per_sample(), x.ncols(), |_, _| f64::NAN);
    c.jvp(x, y.as_mut()).unwrap();
    y
}

fn vjp<T: Real>(c: &Curvature<T>, u: MatRef<'_, f64>) -> Mat<f64> {
    let mut y = Mat::from_fn(c.dim(), u.ncols(), |_, _| f64::NAN);
    c.vjp(u, y.as_mut()).unwrap();
    y
}

fn assert_close(found: &Mat<f64>, expected: &Mat<f64>, tolerance: f64, what: &str) {
    let (error, scale) = ((found - expected).norm_l2(), expected.norm_l2());
    assert!(error <= tolerance * scale, "{what}: {error:e} of {scale:e}");
}

#[test]
fn tangents_of_the_outputs_are_differences_of_the_outputs() {
    for arch in all() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let x = tangents(theta.len(), 1);
        let outputs = |h: f64| {
            let moved: Vec<f64> = theta.iter().enumerate().map(|(i, t)| t + h * x[(i, 0)]).collect();
            at::<f64>(&graph, &moved, Some(5), 1).outputs().unwrap()
        };
        let h = 1e-5;
        let (plus, minus) = (outputs(h), outputs(-h));
        let expected = Mat::from_fn(plus.len(), 1, |i, _| (plus[i] - minus[i]) / (2.0 * h));
        let found = jvp(&at::<f64>(&graph, &theta, Some(5), 1), x.as_ref());
        assert_close(&found, &expected, 1e-7, &arch.name);
    }
}

#[test]
fn rows_products_and_transposed_products_are_of_one_matrix() {
    for arch in all() {
        let graph = Graph::new(&arch).unwrap();
        let theta = theta(&graph);
        let here = at::<f64>(&graph, &theta, Some(8), 1);
        let (p, k) = (theta.len(), here.outputs_per_sample());
        let samples: Vec<usize> = (0..N).collect();
        let rows = here.jacobian_rows(&samples).unwrap();
        assert_eq!((rows.nrows(), rows.ncols()), (p, N * k));
        // More tangents than go through together.
        let x = tangents(p, 18);
        let u = Mat::from_fn(N * k, 18, |i, j| noise(80 + j as u64, i));
        let (along, back) = (rows.transpose() * &x, &rows * &u);
        assert_close(&jvp(&here, x.as_ref()), &along, 1e-13, &arch.name);
        assert_close(&vjp(&here, u.as_ref()), &back, 1e-13, &arch.name);
        // With the passes that a product has kept, and with other threads: the former to rounding, the latter bit by bit.
        product(&here, Operator::Hessian, x.as_ref());
        assert!(here.keeps_primal());
        assert_close(&jvp(&here, x.as_ref()), &along, 1e-13, &arch.name);
        assert_close(&vjp(&here, u.as_ref()), &back, 1e-13, &arch.name);
        let threaded = at::<f64>(&graph, &theta, Some(8), 2);
        let fresh = at::<f64>(&graph, &theta, Some(8), 1);
        assert!(jvp(&threaded, x.as_ref()) == jvp(&fresh, x.as_ref()), "{}", arch.name);
        assert!(vjp(&threaded, u.as_ref()) == vjp(&fresh, u.as_ref()), "{}", arch.name);
        assert!(threaded.jacobian_rows(&samples).unwrap() == rows, "{}", arch.name);
        // Some samples, in any order.
        let some = here.jacobian_rows(&[4, 2]).unwrap();
        assert!(some.subcols(0, k) == rows.subcols(4 * k, k) && some.subcols(k, k) == rows.subcols(2 * k, k));
    }
}

/// G v = (1/N) Jᵀ A J v with A = diag p - p pᵀ of every sample.
#[test]
fn gauss_newton_products_are_made_of_the_jacobian() {
    for arch in all() {
        let graph = Graph::new(&arch).unwrap();
        let here = at::<f64>(&graph, &theta(&graph), Some(4), 1);
        let k = here.outputs_per_sample();
        let x = tangents(here.dim(), 2);
        let z = here.outputs().unwrap();
        let mut along = jvp(&here, x.as_ref());
        for (i, z) in z.chunks(k).enumerate() {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            let p: Vec<f64> = z.iter().map(|z| z.exp() / sum).collect();
            for t in 0..2 {
                let mean: f64 = (0..k).map(|j| p[j] * along[(i * k + j, t)]).sum();
                (0..k).for_each(|j| along[(i * k + j, t)] = p[j] * (along[(i * k + j, t)] - mean) / N as f64);
            }
        }
        let expected = product(&here, Operator::Ggn, x.as_ref());
        assert_close(&vjp(&here, along.as_ref()), &expected, 1e-12, &arch.name);
    }
}

#[test]
fn gradients_of_samples_make_up_the_gradient_and_the_empirical_fisher_matrix() {
    for arch in all() {
        let graph = Graph::new(&arch).unwrap();
        let here = with::<f64>(&graph, &theta(&graph), &Options { threads: 2, ..Options::default() });
        let rows = here.sample_gradients(&(0..N).collect::<Vec<_>>()).unwrap();
        let mean = Mat::from_fn(here.dim(), 1, |i, _| rows.row(i).iter().sum::<f64>() / N as f64);
        let gradient = here.loss_and_gradient().unwrap().gradient;
        assert_close(&mean, &Mat::from_fn(here.dim(), 1, |i, _| gradient[i]), 1e-13, &arch.name);
        let x = tangents(here.dim(), 3);
        let expected = product(&here, Operator::EmpiricalFisher, x.as_ref());
        let found = (&rows * (rows.transpose() * &x)) * faer::Scale(1.0 / N as f64);
        assert_close(&found, &expected, 1e-13, &arch.name);
    }
}

#[test]
fn some_parameters_and_single_precision() {
    for arch in all() {
        let graph = Graph::new(&arch).unwrap();
        let whole = at::<f64>(&graph, &theta(&graph), None, 1);
        let rows = whole.jacobian_rows(&[3, 7]).unwrap();
        let last = graph.layout().params().last().unwrap();
        let options = Options { only: vec![last.name.clone()], ..Options::default() };
        let part = with::<f64>(&graph, &theta(&graph), &options).jacobian_rows(&[3, 7]).unwrap();
        let expected = rows.subrows(last.offset, last.len()).to_owned();
        assert_close(&part, &expected, 1e-14, &arch.name);

        let single = at::<f32>(&graph, &theta(&graph), None, 1);
        assert_close(&single.jacobian_rows(&[3, 7]).unwrap(), &rows, 3e-6, &arch.name);
        let x = tangents(whole.dim(), 2);
        let x32 = Mat::from_fn(x.nrows(), 2, |i, j| x[(i, j)] as f32);
        let mut y32 = Mat::<f32>::zeros(N * whole.outputs_per_sample(), 2);
        single.jvp(x32.as_ref(), y32.as_mut()).unwrap();
        let y = Mat::from_fn(y32.nrows(), 2, |i, j| f64::from(y32[(i, j)]));
        assert_close(&y, &jvp(&whole, x.as_ref()), 3e-6, &arch.name);
    }
}

/// Of a network that is sure of its labels: single precision holds the gradients of samples that are right by far.
#[test]
fn small_gradients_of_samples_keep_their_digits() {
    let graph = Graph::new(&Architecture {
        name: "sure".into(),
        input: vec![2],
        classes: 2,
        layers: vec![linear("a", 2)],
    })
    .unwrap();
    let theta = [40.0, 0.0, -40.0, 0.0, 0.0, 0.0];
    let samples = Samples::<f32>::new(2, [1.0, 0.5].into_iter(), vec![0]).unwrap();
    let here = Curvature::new(&graph, &theta, &[], samples, &Options::default()).unwrap();
    let found = here.sample_gradients(&[0]).unwrap()[(0, 0)];
    let expected = -(-80.0_f64).exp();
    assert!((found / expected - 1.0).abs() < 1e-6, "{found:e} {expected:e}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let graph = Graph::new(&networks()[0]).unwrap();
    let here = at::<f64>(&graph, &theta(&graph), None, 1);
    let message = here.jacobian_rows(&[0, N]).unwrap_err().to_string();
    assert!(message.contains("no sample 19"), "{message}");
    let (x, mut y) = (tangents(here.dim(), 1), Mat::zeros(N, 1));
    let message = here.jvp(x.as_ref(), y.as_mut()).unwrap_err().to_string();
    assert!(message.contains("expected 57"), "{message}");
    let u = Mat::from_fn(3 * N, 1, |i, _| if i == 2 { f64::NAN } else { 0.0 });
    let message = here.vjp(u.as_ref(), Mat::zeros(here.dim(), 1).as_mut()).unwrap_err().to_string();
    assert!(message.contains("cotangent of the outputs is not finite (first at entry 2)"), "{message}");
}
