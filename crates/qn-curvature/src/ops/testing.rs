//! An operation's derivatives against central differences and against each other, in double precision.

use qn_model::{Graph, Op, ParamKind, Shape};

use crate::layout::{Layout, Plan, plan};
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Samples: fewer than the vector lanes, and as many.
const SAMPLES: [usize; 2] = [3, 16];
/// Number of tangents.
const B: usize = 2;
/// Steps of this size err by its square and by rounding, eps/h: both about 1e-10.
const H: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

/// An operation and what it is tried on.
pub(crate) struct Check {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Shape>,
    pub(crate) params: Vec<Vec<usize>>,
    pub(crate) buffers: Vec<Vec<f64>>,
    /// Whether its inputs must be positive.
    pub(crate) positive: bool,
    /// For inputs that are integers, how many values they may take.
    pub(crate) integers: Vec<Option<usize>>,
}

/// A reproducible number in [-1, 1).
fn noise(stream: usize, i: usize) -> f64 {
    let mut x = ((stream as u64) << 32 | i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^= x >> 32;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn numbers(stream: usize, len: usize) -> Vec<f64> {
    (0..len).map(|i| noise(stream, i)).collect()
}

fn moved(x: &[Vec<f64>], dots: &[Vec<f64>], t: usize, step: f64) -> Vec<Vec<f64>> {
    let each = |(x, dot): (&Vec<f64>, &Vec<f64>)| {
        let dot = if dot.is_empty() { &[][..] } else { &dot[t * x.len()..(t + 1) * x.len()] };
        x.iter().enumerate().map(|(i, x)| x + step * dot.get(i).copied().unwrap_or(0.0)).collect()
    };
    x.iter().zip(dots).map(each).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * size, "{what}: entry {i} is {a}, expected {b}");
    }
}

/// The tangents and the primal cotangent of a second-order pass.
struct Second<'a> {
    xdot: &'a [Vec<f64>],
    theta_dot: &'a [Vec<f64>],
    primal: &'a [f64],
}

/// An operation at a point.
struct Point<'a> {
    operation: &'a dyn Operation<f64>,
    m: usize,
    x: Vec<Vec<f64>>,
    theta: Vec<Vec<f64>>,
}

fn slices(all: &[Vec<f64>]) -> Vec<&[f64]> {
    all.iter().map(Vec::as_slice).collect()
}

fn present(all: &[Vec<f64>]) -> Vec<Option<&[f64]>> {
    all.iter().map(|x| (!x.is_empty()).then_some(x.as_slice())).collect()
}

impl Point<'_> {
    fn forward(&self, len: usize) -> (Vec<f64>, Saved<f64>) {
        let mut y = vec![f64::NAN; len * self.m];
        let (x, theta) = (slices(&self.x), slices(&self.theta));
        let packed = self.operation.pack(&present(&self.theta), 1);
        let at = At { m: self.m, x: &x, theta: &theta, packed: &packed };
        let saved = self.operation.forward(&at, &mut y, &mut Scratch::new());
        (y, saved)
    }

    /// Cotangents of inputs and parameters. Of first order, or of second order along the tangents.
    fn backward(
        &self,
        len: usize,
        (ybar, b): (&[f64], usize),
        second: Option<Second<'_>>,
        wanted: &[bool],
    ) -> Vec<Vec<f64>> {
        let (_, mut saved) = self.forward(len);
        let (x, theta) = (slices(&self.x), slices(&self.theta));
        let own = self.operation.pack(&present(&self.theta), 1);
        let at = At { m: self.m, x: &x, theta: &theta, packed: &own };
        let mut scratch = Scratch::new();
        let mut xbar: Vec<Vec<f64>> = self.x.iter().map(|x| vec![f64::NAN; x.len() * b]).collect();
        let mut theta_bar: Vec<Vec<f64>> = self.theta.iter().map(|t| vec![0.0; t.len() * b]).collect();
        {
            let mut want = wanted.iter();
            let mut targets: Vec<Option<&mut [f64]>> = xbar
                .iter_mut()
                .map(|x| want.next().is_some_and(|w| *w).then_some(x.as_mut_slice()))
                .collect();
            let mut sums: Vec<Option<&mut [f64]>> = theta_bar
                .iter_mut()
                .map(|t| want.next().is_some_and(|w| *w).then_some(t.as_mut_slice()))
                .collect();
            let mut to = Cotangents { x: &mut targets, theta: &mut sums };
            match second {
                None => self.operation.vjp(&at, &saved, (ybar, b), &mut to, &mut scratch),
                Some(Second { xdot, theta_dot, primal }) => {
                    self.operation.prepare(&at, &mut saved, primal, &mut scratch);
                    // What is not kept must not be read.
                    let keeps = self.operation.keeps();
                    let empty = vec![&[][..]; self.x.len()];
                    let at = At { x: if keeps.inputs { &x } else { &empty }, ..at };
                    let (xdot, theta_dot) = (present(xdot), present(theta_dot));
                    let packed = self.operation.pack(&theta_dot, b);
                    let tangents = Tangents { b, x: &xdot, theta: &theta_dot, packed: &packed, kept: &[] };
                    let mut ydot = vec![f64::NAN; len * self.m * b];
                    let kept = self.operation.jvp_keeping(&at, &saved, &tangents, &mut ydot, &mut scratch);
                    let primal = if keeps.cotangent { primal } else { &[] };
                    let tangents = Tangents { kept: &kept, ..tangents };
                    self.operation.vjp_tangent(&at, &saved, &tangents, (primal, ybar), &mut to, &mut scratch);
                }
            }
        }
        xbar.into_iter().chain(theta_bar).collect()
    }
}

impl Check {
    /// An operation on inputs of these shapes.
    pub(crate) fn new(op: Op, inputs: &[&[usize]]) -> Self {
        let inputs: Vec<Shape> = inputs.iter().map(|d| Shape::new(*d)).collect();
        let integers = vec![None; inputs.len()];
        Self { op, inputs, params: Vec::new(), buffers: Vec::new(), positive: false, integers }
    }

    /// With parameters of these shapes, which the operation calls `ParamId(0)` and so on.
    pub(crate) fn params(mut self, shapes: &[&[usize]]) -> Self {
        self.params = shapes.iter().map(|s| s.to_vec()).collect();
        self
    }

    /// With running statistics.
    pub(crate) fn buffers(mut self, buffers: Vec<Vec<f64>>) -> Self {
        self.buffers = buffers;
        self
    }

    /// The operation, and the entries of its output.
    fn operation(&self) -> (Box<dyn Operation<f64>>, usize) {
        let mut graph = Graph::empty("test", Shape::new([1]));
        let ids: Vec<_> = self
            .params
            .iter()
            .enumerate()
            .map(|(i, s)| graph.parameter(format!("p{i}"), s.clone(), ParamKind::NormScale))
            .collect();
        assert_eq!(ids.len(), self.params.len());
        let mut values = Vec::new();
        for (i, shape) in self.inputs.iter().enumerate() {
            let id = graph.parameter(format!("x{i}"), shape.dims().to_vec(), ParamKind::NormScale);
            values.push(graph.push(Op::Parameter(id), vec![]).unwrap());
        }
        let last = graph.push(self.op.clone(), values).unwrap_or_else(|e| panic!("{:?}: {e}", self.op));
        let node = graph.nodes().last().unwrap();
        // As in a network whose other operations keep to the graph's order of axes.
        let inputs: Vec<Layout> = self.inputs.iter().map(Layout::plain).collect();
        let (inputs, output) = match plan(&self.op, &inputs.iter().collect::<Vec<_>>(), &node.shape) {
            Plan::Compute(inputs, output) => (inputs, output),
            Plan::Alias(_) => (inputs, Layout::plain(&node.shape)),
        };
        let operation = crate::ops::resolve((&graph, node), (&inputs, &output), &self.buffers).unwrap();
        (operation, graph.shape(last).len())
    }

    /// y for one sample.
    pub(crate) fn values(&self, x: &[&[f64]], theta: &[&[f64]]) -> Vec<f64> {
        let (operation, len) = self.operation();
        let mut y = vec![f64::NAN; len];
        operation.forward(&At { m: 1, x, theta, packed: &[] }, &mut y, &mut Scratch::new());
        y
    }

    /// The cotangent of the first input for one sample.
    pub(crate) fn cotangent(&self, x: &[&[f64]], theta: &[&[f64]], ybar: &[f64]) -> Vec<f64> {
        let (operation, len) = self.operation();
        let (at, mut scratch) = (At { m: 1, x, theta, packed: &[] }, Scratch::new());
        let saved = operation.forward(&at, &mut vec![f64::NAN; len], &mut scratch);
        let mut xbar = vec![f64::NAN; x[0].len()];
        let mut targets: Vec<Option<&mut [f64]>> = x.iter().map(|_| None).collect();
        targets[0] = Some(&mut xbar);
        let mut sums: Vec<Option<&mut [f64]>> = theta.iter().map(|_| None).collect();
        let mut to = Cotangents { x: &mut targets, theta: &mut sums };
        operation.vjp(&at, &saved, (ybar, 1), &mut to, &mut scratch);
        xbar
    }

    /// All comparisons.
    pub(crate) fn run(&self) {
        let (operation, len) = self.operation();
        let input = |(i, shape): (usize, &Shape), m: usize| -> Vec<f64> {
            let raw = numbers(i, shape.len() * m);
            match self.integers[i] {
                Some(n) => raw.iter().map(|x| ((x + 1.0) / 2.0 * n as f64).floor()).collect(),
                None if self.positive => raw.iter().map(|x| x + 1.5).collect(),
                None => raw,
            }
        };
        let theta: Vec<Vec<f64>> =
            self.params.iter().enumerate().map(|(i, s)| numbers(20 + i, s.iter().product())).collect();
        // Everything has a tangent; then every part alone.
        let (inputs, parts) = (self.inputs.len(), self.inputs.len() + theta.len());
        let can = |i: usize| i >= inputs || self.integers[i].is_none();
        let mut choices: Vec<Vec<bool>> = vec![(0..parts).map(can).collect()];
        choices.extend((0..parts).filter(|&i| can(i)).map(|i| (0..parts).map(|j| i == j).collect()));
        for m in SAMPLES {
            let x: Vec<Vec<f64>> = self.inputs.iter().enumerate().map(|i| input(i, m)).collect();
            let point = Point { operation: operation.as_ref(), m, x, theta: theta.clone() };
            choices.iter().for_each(|choice| self.compare(&point, len, choice));
        }
    }

    /// With tangents for, and cotangents of, what is chosen.
    fn compare(&self, point: &Point<'_>, len: usize, choice: &[bool]) {
        let what = format!("{:?} {choice:?}", self.op);
        let n = point.x.len();
        let tangent = |i: usize, len: usize| if choice[i] { numbers(40 + i, len * B) } else { Vec::new() };
        let xdot: Vec<Vec<f64>> = point.x.iter().enumerate().map(|(i, x)| tangent(i, x.len())).collect();
        let theta_dot: Vec<Vec<f64>> =
            point.theta.iter().enumerate().map(|(i, t)| tangent(n + i, t.len())).collect();
        let at = |t: usize, step: f64| Point {
            operation: point.operation,
            m: point.m,
            x: moved(&point.x, &xdot, t, step),
            theta: moved(&point.theta, &theta_dot, t, step),
        };
        let (y, saved) = point.forward(len);
        let mut ydot = vec![f64::NAN; y.len() * B];
        let (x, theta) = (slices(&point.x), slices(&point.theta));
        let (xs, ts) = (present(&xdot), present(&theta_dot));
        let (packed, own) = (point.operation.pack(&ts, B), point.operation.pack(&present(&point.theta), 1));
        let tangents = Tangents { b: B, x: &xs, theta: &ts, packed: &packed, kept: &[] };
        let here = At { m: point.m, x: &x, theta: &theta, packed: &own };
        point.operation.jvp(&here, &saved, &tangents, &mut ydot, &mut Scratch::new());
        let ybar = numbers(60, y.len() * B);
        let (primal, ybardot) = (numbers(61, y.len()), numbers(62, y.len() * B));
        let back = point.backward(len, (&ybar, B), None, choice);
        let second = point.backward(
            len,
            (&ybardot, B),
            Some(Second { xdot: &xdot, theta_dot: &theta_dot, primal: &primal }),
            choice,
        );
        for t in 0..B {
            let [plus, minus] = [H, -H].map(|h| at(t, h).forward(len).0);
            let difference: Vec<f64> = plus.iter().zip(&minus).map(|(a, b)| (a - b) / (2.0 * H)).collect();
            let ydot = &ydot[t * y.len()..(t + 1) * y.len()];
            close(ydot, &difference, TOLERANCE, &format!("{what}: jvp"));
            let ybar = &ybar[t * y.len()..(t + 1) * y.len()];
            let own = |all: &[Vec<f64>], i: usize, len: usize| all[i][t * len..(t + 1) * len].to_vec();
            let dots: Vec<&Vec<f64>> = xdot.iter().chain(&theta_dot).collect();
            let paired: f64 = (0..choice.len())
                .filter(|&i| choice[i])
                .map(|i| {
                    let len = dots[i].len() / B;
                    dot(&own(&back, i, len), &dots[i][t * len..(t + 1) * len])
                })
                .sum();
            let expected = dot(ybar, ydot);
            assert!(
                (paired - expected).abs() <= 1e-11 * (1.0 + expected.abs()),
                "{what}: {paired} {expected}"
            );
            let ybardot = &ybardot[t * y.len()..(t + 1) * y.len()];
            let [plus, minus] = [H, -H].map(|h| {
                let ybar: Vec<f64> = primal.iter().zip(ybardot).map(|(y, d)| y + h * d).collect();
                at(t, h).backward(len, (&ybar, 1), None, choice)
            });
            for i in (0..choice.len()).filter(|&i| choice[i]) {
                let difference: Vec<f64> =
                    plus[i].iter().zip(&minus[i]).map(|(a, b)| (a - b) / (2.0 * H)).collect();
                let found = own(&second, i, plus[i].len());
                close(&found, &difference, TOLERANCE, &format!("{what}: vjp_tangent, part {i}"));
            }
        }
    }
}
