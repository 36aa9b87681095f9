//! Operations from outside the crate, beside those that are in it.

use std::sync::Arc;

use faer::Mat;
use qn_curvature::{At, Cotangents, Curvature, CustomOperation, Keeps, Operation, Options, Real, Samples};
use qn_curvature::{Operator, Saved, Scratch, Tangents};
use qn_model::{Binary, CustomOp, Graph, Op, ParamId, ParamKind, ParamLayout, Shape};

/// x y entry by entry, as [`Binary::Mul`] of equal shapes.
#[derive(Clone, Debug)]
struct Times;

impl CustomOperation for Times {
    fn name(&self) -> &str {
        "times"
    }

    fn output(&self, inputs: &[&Shape], _: &ParamLayout) -> Result<Shape, String> {
        match inputs {
            [a, b] if a == b => Ok((*a).clone()),
            _ => Err("its inputs differ".into()),
        }
    }

    fn operation<T: Real>(&self, _: &[&Shape], _: &Shape) -> Box<dyn Operation<T>> {
        Box::new(Self)
    }
}

/// out = or += a b, with b repeated.
fn multiply<T: Real>(a: &[T], b: &[T], out: &mut [T], adds: bool) {
    for (i, out) in out.iter_mut().enumerate() {
        let product = a[i] * b[i % b.len()];
        *out = if adds { *out + product } else { product };
    }
}

impl<T: Real> Operation<T> for Times {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        multiply(at.x[0], at.x[1], y, false);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        ydot.fill(T::of(0.0));
        for side in 0..2 {
            if let Some(xdot) = tangents.x[side] {
                multiply(xdot, at.x[1 - side], ydot, true);
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        for side in 0..2 {
            if let Some(xbar) = &mut to.x[side] {
                multiply(ybar, at.x[1 - side], xbar, false);
            }
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        for side in 0..2 {
            if let (Some(xbar), Some(xdot)) = (&mut to.x[side], tangents.x[1 - side]) {
                multiply(xdot, ybar, xbar, true);
            }
        }
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}

fn noise(i: usize) -> f64 {
    (i as f64 * 12.9898 + 1.0).sin()
}

/// V ((W₁ x) ∘ (W₂ x)), with some operation in the middle.
fn network(middle: Op) -> Graph {
    let mut graph = Graph::empty("product", Shape::new([3]));
    let mut weight =
        |name: &str, out, inner| graph.parameter(name, vec![out, inner], ParamKind::Affine { fan_in: inner });
    let [a, b, c] = [weight("a", 4, 3), weight("b", 4, 3), weight("c", 2, 4)];
    let [a, b] = [a, b].map(|weight| graph.push(Op::Linear { weight, bias: None }, vec![0]).unwrap());
    let product = graph.push(middle, vec![a, b]).unwrap();
    graph.push(Op::Linear { weight: c, bias: None }, vec![product]).unwrap();
    graph
}

fn at<T: Real>(graph: &Graph, only: &[&str]) -> Curvature<T> {
    let theta: Vec<f64> = (0..graph.layout().len()).map(|i| noise(i + 100)).collect();
    let samples = Samples::new(3, (0..21).map(noise), (0..7).map(|i| i % 2).collect()).unwrap();
    let only = only.iter().map(|&name| name.to_owned()).collect();
    Curvature::new(graph, &theta, &[], samples, &Options { only, ..Options::default() }).unwrap()
}

#[test]
fn a_custom_operation_is_like_one_of_the_crate() {
    let (own, known) = (network(Times.into_op()), network(Op::Binary(Binary::Mul)));
    for only in [&[][..], &["a"], &["b", "c"]] {
        let (found, expected) = (at::<f64>(&own, only), at::<f64>(&known, only));
        let (single, p) = (at::<f32>(&own, only), found.dim());
        let (g, e) = (found.loss_and_gradient().unwrap(), expected.loss_and_gradient().unwrap());
        assert!(g.gradient.iter().zip(&e.gradient).all(|(a, b)| (a - b).abs() < 1e-14), "{only:?}");
        for operator in [Operator::Hessian, Operator::Ggn, Operator::Residual] {
            let product = |apply: &dyn Fn(&Mat<f64>, &mut Mat<f64>)| {
                let mut y = Mat::zeros(p, p);
                apply(&Mat::identity(p, p), &mut y);
                y
            };
            let e = product(&|x, y| expected.product(operator, x.as_ref(), y.as_mut()).unwrap());
            let f = product(&|x, y| found.product(operator, x.as_ref(), y.as_mut()).unwrap());
            let s = product(&|x, y| single.product(operator, x.as_ref(), y.as_mut()).unwrap());
            assert!((&f - &e).norm_max() < 1e-14, "{only:?} {operator:?}");
            assert!((&s - &e).norm_max() < 1e-5, "{only:?} {operator:?}");
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_in_its_words() {
    let mut graph = Graph::empty("wrong", Shape::new([3]));
    assert_eq!(graph.push(Times.into_op(), vec![0]).unwrap_err(), "its inputs differ");
    assert_eq!(Times.into_op().name(), "times");
    let op = Times.into_op();
    assert_eq!(op, op.clone());
    assert_ne!(op, Times.into_op());
}

/// A shape without numbers.
#[derive(Debug)]
struct Nameless;

impl CustomOp for Nameless {
    fn name(&self) -> &str {
        "nameless"
    }

    fn params(&self) -> Vec<ParamId> {
        Vec::new()
    }

    fn output(&self, inputs: &[&Shape], _: &ParamLayout) -> Result<Shape, String> {
        Ok(inputs[0].clone())
    }
}

#[test]
fn an_operation_whose_numbers_nobody_knows_is_refused_by_name() {
    let graph = network(Op::Custom(Arc::new(Nameless)));
    let theta = vec![0.5; graph.layout().len()];
    let samples = Samples::<f64>::new(3, (0..3).map(noise), vec![0]).unwrap();
    let refused = Curvature::new(&graph, &theta, &[], samples, &Options::default());
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("operation nameless"), "{message}");
}
