//! Every operation and every loss against PyTorch, in double precision: tests/golden/make_operations.py says how.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use common::{noise, product, relative_error};
use faer::Mat;
use qn_curvature::losses::{
    Averaging, BinaryCrossEntropy, ClassAxis, CrossEntropy, IGNORED, Loss, MeanSquaredError, Targets,
};
use qn_curvature::{Curvature, Operator, Options, Samples};
use qn_model::{
    Activation, Binary, Comparison, Graph, Op, ParamId, ParamKind, Reduction, Shape, ValueId, Window,
};
use qn_run::TensorFile;

const N: usize = 5;
const FEATURES: usize = 2;
const OUTPUTS: usize = 2;
const TOLERANCE: f64 = 1e-11;

fn numbers(stream: u64, len: usize) -> Vec<f64> {
    (0..len).map(|i| noise(stream, i)).collect()
}

/// A graph that is being built.
struct Build {
    graph: Graph,
    /// What the operation reads: the outputs of linear layers.
    x: Vec<ValueId>,
}

impl Build {
    fn new(input: &[usize]) -> Self {
        Self { graph: Graph::empty("golden", Shape::new(input)), x: Vec::new() }
    }

    fn parameter(&mut self, shape: &[usize]) -> ParamId {
        let name = format!("parameter{}", self.graph.layout().params().len());
        self.graph.parameter(name, shape.to_vec(), ParamKind::Affine { fan_in: 1 })
    }

    fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.graph.push(op, inputs.to_vec()).unwrap()
    }

    /// A linear layer without bias from `value` to a value of a shape.
    fn head(&mut self, value: ValueId, shape: &[usize]) -> ValueId {
        let (inner, len) = (self.graph.shape(value).len(), shape.iter().product());
        let flat = self.push(Op::Reshape(vec![inner]), &[value]);
        let weight = self.parameter(&[len, inner]);
        let y = self.push(Op::Linear { weight, bias: None }, &[flat]);
        self.push(Op::Reshape(shape.to_vec()), &[y])
    }

    /// An operation on all inputs.
    fn on_all(&mut self, op: Op) -> ValueId {
        let x = self.x.clone();
        self.push(op, &x)
    }

    fn tanh(&mut self, value: ValueId) -> ValueId {
        self.push(Op::Activation(Activation::Tanh), &[value])
    }

    fn statistics(&mut self) -> usize {
        self.graph.statistics("norm", 4)
    }
}

type Make = Box<dyn Fn(&mut Build) -> ValueId>;

/// An operation between linear layers.
struct Case {
    name: &'static str,
    inputs: Vec<Vec<usize>>,
    positive: bool,
    make: Make,
}

fn case(name: &'static str, inputs: &[&[usize]], make: impl Fn(&mut Build) -> ValueId + 'static) -> Case {
    let inputs = inputs.iter().map(|s| s.to_vec()).collect();
    Case { name, inputs, positive: false, make: Box::new(make) }
}

/// An operation without parameters.
fn plain(name: &'static str, inputs: &[&[usize]], op: Op) -> Case {
    case(name, inputs, move |b| b.on_all(op.clone()))
}

/// An operation without parameters, and tanh behind it.
fn bent(name: &'static str, inputs: &[&[usize]], op: Op) -> Case {
    case(name, inputs, move |b| {
        let y = b.on_all(op.clone());
        b.tanh(y)
    })
}

const IMAGE: &[&[usize]] = &[&[4, 5, 4]];
const LINE: &[&[usize]] = &[&[4, 7]];
const MATRIX: &[&[usize]] = &[&[3, 4]];

fn activations() -> Vec<Case> {
    use Activation as A;
    let all = [
        ("relu", A::Relu),
        ("leaky_relu", A::LeakyRelu { slope: 0.1 }),
        ("clamp", A::Clamp { low: -0.4, high: 0.5 }),
        ("relu6", A::Clamp { low: 0.0, high: 6.0 }),
        ("hardtanh", A::Clamp { low: -1.0, high: 1.0 }),
        ("elu", A::Elu { alpha: 1.3 }),
        ("gelu", A::Gelu),
        ("gelu_tanh", A::GeluTanh),
        ("silu", A::Silu),
        ("sigmoid", A::Sigmoid),
        ("tanh", A::Tanh),
        ("softplus", A::Softplus),
        ("mish", A::Mish),
        ("exp", A::Exp),
        ("abs", A::Abs),
        ("sin", A::Sin),
        ("cos", A::Cos),
    ];
    let positive = [
        ("log", A::Log),
        ("pow", A::Pow { exponent: 1.7 }),
        ("sqrt", A::Sqrt),
        ("rsqrt", A::Rsqrt),
        ("reciprocal", A::Reciprocal),
    ];
    let mut cases: Vec<Case> = all.map(|(name, f)| plain(name, MATRIX, Op::Activation(f))).into();
    let stretched = [("hardsigmoid", A::Hardsigmoid), ("hardswish", A::Hardswish)];
    cases.extend(stretched.map(|(name, f)| {
        case(name, MATRIX, move |b| {
            let x = b.on_all(Op::Scale(4.0));
            b.push(Op::Activation(f), &[x])
        })
    }));
    cases.extend(positive.map(|(name, f)| Case { positive: true, ..plain(name, MATRIX, Op::Activation(f)) }));
    cases
}

/// A convolution with a weight of this shape.
fn conv(
    name: &'static str,
    inputs: &[&[usize]],
    weight: &'static [usize],
    (window, groups, biased): (Window, usize, bool),
) -> Case {
    case(name, inputs, move |b| {
        let w = b.parameter(weight);
        let bias = biased.then(|| b.parameter(&weight[..1]));
        b.on_all(Op::Conv { weight: w, bias, window, groups })
    })
}

fn window(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Window {
    Window { kernel, stride, padding, dilation }
}

fn convolutions() -> Vec<Case> {
    let three = Window::square(3, 1, 1);
    let transpose =
        |b: &mut Build, weight: &[usize], bias: Option<&[usize]>, op: (Window, [usize; 2], usize)| {
            let w = b.parameter(weight);
            let bias = bias.map(|s| b.parameter(s));
            let (window, output_padding, groups) = op;
            b.on_all(Op::ConvTranspose { weight: w, bias, window, output_padding, groups })
        };
    vec![
        conv("conv2d", IMAGE, &[3, 4, 3, 2], (window([3, 2], [1, 1], [0, 0], [1, 1]), 1, true)),
        conv(
            "conv2d_stride_padding",
            IMAGE,
            &[3, 4, 3, 3],
            (window([3, 3], [2, 1], [1, 2], [1, 1]), 1, true),
        ),
        conv("conv2d_dilation", IMAGE, &[2, 4, 3, 3], (window([3, 3], [1, 1], [2, 2], [2, 2]), 1, false)),
        conv("conv2d_groups", IMAGE, &[6, 2, 3, 3], (three, 2, true)),
        conv("conv2d_depthwise", IMAGE, &[4, 1, 3, 3], (three, 4, true)),
        conv("conv2d_multiplier", IMAGE, &[8, 1, 3, 3], (Window::square(3, 2, 1), 4, false)),
        conv("conv1d", LINE, &[3, 4, 3], (window([1, 3], [1, 2], [0, 1], [1, 2]), 1, true)),
        conv("conv1d_groups", LINE, &[4, 2, 3], (window([1, 3], [1, 1], [0, 1], [1, 1]), 2, false)),
        case("conv_transpose2d", &[&[4, 3, 2]], move |b| {
            transpose(b, &[4, 2, 3, 3], Some(&[2]), (Window::square(3, 2, 1), [1, 1], 1))
        }),
        case("conv_transpose2d_groups", &[&[4, 3, 2]], move |b| {
            let window = window([2, 2], [1, 2], [0, 0], [2, 1]);
            transpose(b, &[4, 3, 2, 2], None, (window, [0, 0], 2))
        }),
    ]
}

fn normalisations() -> Vec<Case> {
    let pair = |b: &mut Build, shape: &[usize]| [b.parameter(shape), b.parameter(shape)];
    let layer = move |b: &mut Build, shape: &[usize], eps: f64| {
        let [weight, bias] = pair(b, shape).map(Some);
        b.on_all(Op::LayerNorm { weight, bias, axes: shape.len(), eps })
    };
    vec![
        case("batch_norm", IMAGE, move |b| {
            let (stats, affine) = (b.statistics(), Some(pair(b, &[4])));
            b.on_all(Op::BatchNorm { affine, stats, eps: 1e-3 })
        }),
        case("batch_norm_plain", LINE, |b| {
            let stats = b.statistics();
            b.on_all(Op::BatchNorm { affine: None, stats, eps: 1e-5 })
        }),
        case("layer_norm", MATRIX, move |b| layer(b, &[4], 1e-5)),
        case("layer_norm_two_axes", &[&[2, 3, 4]], move |b| layer(b, &[3, 4], 1e-2)),
        case("rms_norm", MATRIX, |b| {
            let weight = Some(b.parameter(&[4]));
            b.on_all(Op::RmsNorm { weight, axes: 1, eps: 1e-5 })
        }),
        case("group_norm", IMAGE, move |b| {
            let affine = Some(pair(b, &[4]));
            b.on_all(Op::GroupNorm { affine, groups: 2, eps: 1e-4 })
        }),
        plain("group_norm_plain", LINE, Op::GroupNorm { affine: None, groups: 4, eps: 1e-5 }),
    ]
}

fn products() -> Vec<Case> {
    let linear = |b: &mut Build, biased: bool| {
        let weight = b.parameter(&[5, 4]);
        let bias = biased.then(|| b.parameter(&[5]));
        b.on_all(Op::Linear { weight, bias })
    };
    let numbers = Op::Constant { shape: vec![3, 4], values: (0..12).map(|i| f64::from(i) / 10.0).collect() };
    let of_both = |binary| Op::Binary(binary);
    vec![
        case("linear", MATRIX, move |b| linear(b, true)),
        case("linear_no_bias", &[&[4]], move |b| linear(b, false)),
        plain("scale", MATRIX, Op::Scale(-1.7)),
        bent("shift", MATRIX, Op::Shift(0.3)),
        bent("add", &[&[3, 4], &[4]], of_both(Binary::Add)),
        bent("sub", &[&[3, 1], &[1, 4]], of_both(Binary::Sub)),
        plain("mul", &[&[3, 4], &[3, 1]], of_both(Binary::Mul)),
        Case { positive: true, ..plain("div", &[&[2, 3, 1], &[3, 4]], of_both(Binary::Div)) },
        plain("matmul", &[&[3, 4], &[4, 2]], Op::MatMul),
        plain("matmul_broadcast", &[&[2, 1, 3, 2], &[3, 2, 4]], Op::MatMul),
        plain("softmax", MATRIX, Op::Softmax { axis: 1 }),
        plain("softmax_first_axis", &[&[3, 2, 2]], Op::Softmax { axis: 0 }),
        plain("log_softmax", MATRIX, Op::LogSoftmax { axis: 1 }),
        case("constant", MATRIX, move |b| {
            let c = b.push(numbers.clone(), &[]);
            b.push(of_both(Binary::Mul), &[b.x[0], c])
        }),
        case("parameter", MATRIX, move |b| {
            let p = b.parameter(&[3, 4]);
            let p = b.push(Op::Parameter(p), &[]);
            let y = b.push(of_both(Binary::Mul), &[b.x[0], p]);
            b.tanh(y)
        }),
        case("tied", MATRIX, |b| {
            let linear = Op::Linear { weight: b.parameter(&[4, 4]), bias: None };
            let y = b.on_all(linear.clone());
            let y = b.tanh(y);
            b.push(linear, &[y])
        }),
    ]
}

fn reductions() -> Vec<Case> {
    let reduce = |kind, axes: &[usize], keep| Op::Reduce { kind, axes: axes.to_vec(), keep };
    let three: &[&[usize]] = &[&[2, 3, 2]];
    let pool = window([3, 3], [2, 2], [1, 1], [1, 1]);
    vec![
        bent("sum", three, reduce(Reduction::Sum, &[0, 2], false)),
        bent("mean_keep", three, reduce(Reduction::Mean, &[1], true)),
        plain("amax", three, reduce(Reduction::Amax, &[1, 2], false)),
        plain("max_pool2d", IMAGE, Op::MaxPool(Window::square(2, 2, 0))),
        plain("max_pool2d_overlap", IMAGE, Op::MaxPool(pool)),
        plain("max_pool1d", LINE, Op::MaxPool(window([1, 3], [1, 2], [0, 1], [1, 1]))),
        bent("avg_pool2d", IMAGE, Op::AvgPool { window: pool, count_padding: true }),
        bent("avg_pool2d_without_padding", IMAGE, Op::AvgPool { window: pool, count_padding: false }),
        bent("adaptive_avg_pool2d", IMAGE, Op::AdaptiveAvgPool([2, 3])),
    ]
}

fn arrangements() -> Vec<Case> {
    let summed = |b: &mut Build, op: Op| {
        let y = b.on_all(op);
        let y = b.tanh(y);
        b.push(Op::Reduce { kind: Reduction::Sum, axes: vec![0], keep: false }, &[y])
    };
    let mask = Op::Where { mask: (0..12).map(|i| i % 3 != 0).collect(), otherwise: -0.3 };
    vec![
        bent("index_select", MATRIX, Op::IndexSelect { axis: 0, index: vec![2, 0, 2] }),
        case("reshape", MATRIX, move |b| summed(b, Op::Reshape(vec![2, 6]))),
        case("permute", &[&[2, 3, 2]], move |b| summed(b, Op::Permute(vec![2, 0, 1]))),
        bent("expand", &[&[3, 1]], Op::Expand(vec![3, 4])),
        bent("slice", &[&[7]], Op::Slice { axis: 0, start: 1, end: 6, step: 2 }),
        case("concat", &[&[2, 3], &[1, 3]], |b| {
            let y = b.push(Op::Concat { axis: 0 }, &[b.x[0], b.x[1], b.x[0]]);
            b.tanh(y)
        }),
        bent("pad", MATRIX, Op::Pad { amounts: vec![[0, 2], [1, 0]], value: 0.7 }),
        bent("where", MATRIX, mask),
        case("choose", &[&[3, 4], &[1, 4]], |b| {
            let less = b.on_all(Op::Compare(Comparison::Lt));
            let y = b.push(Op::Choose, &[less, b.x[0], b.x[1]]);
            b.tanh(y)
        }),
    ]
}

/// Operations on whole numbers, below the second number, as the network's input, of the first shape.
fn tables() -> Vec<(Case, usize)> {
    let embedding = |b: &mut Build, padding| {
        let weight = b.parameter(&[5, 4]);
        let y = b.push(Op::Embedding { weight, padding }, &[0]);
        b.tanh(y)
    };
    vec![
        (case("embedding", &[&[3]], move |b| embedding(b, None)), 5),
        (case("embedding_padding", &[&[3]], move |b| embedding(b, Some(2))), 5),
        (
            case("gather", &[&[4, 5]], |b| {
                let p = b.parameter(&[3, 5]);
                let p = b.push(Op::Parameter(p), &[]);
                let y = b.push(Op::Gather { axis: 0 }, &[p, 0]);
                b.tanh(y)
            }),
            3,
        ),
    ]
}

/// The golden file, and the names of the cases that have been compared with it.
struct Golden {
    file: TensorFile,
    compared: BTreeSet<String>,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/operations.safetensors");
        Self { file: TensorFile::read(&path).unwrap(), compared: BTreeSet::new() }
    }

    fn numbers(&self, name: &str, what: &str) -> Vec<f64> {
        self.file.tensors[&format!("{name}.{what}")].to_f64().unwrap()
    }

    fn compare(&mut self, name: &str, graph: &Graph, samples: Samples<f64>, loss: Arc<dyn Loss>) {
        let p = graph.layout().len();
        let theta: Vec<f64> = numbers(1, p).iter().map(|x| 0.8 * x).collect();
        let buffers: Vec<Vec<f64>> = match graph.layout().buffers() {
            [] => Vec::new(),
            _ => vec![
                numbers(50, 4).iter().map(|x| 0.3 * x).collect(),
                numbers(51, 4).iter().map(|x| 1.0 + 0.3 * x).collect(),
            ],
        };
        let options = Options { threads: 1, loss, ..Options::default() };
        let here = Curvature::new(graph, &theta, &buffers, samples, &options).unwrap();
        let found = here.loss_and_gradient().unwrap();
        let v = Mat::from_fn(p, 1, |i, _| noise(3, i));
        let column = |operator| product(&here, operator, v.as_ref()).col_as_slice(0).to_vec();
        let all = [
            ("loss", vec![found.loss]),
            ("gradient", found.gradient),
            ("hv", column(Operator::Hessian)),
            ("gv", column(Operator::Ggn)),
        ];
        for (what, found) in all {
            let expected = self.numbers(name, what);
            assert_eq!(found.len(), expected.len(), "{name}: {what}");
            let error = relative_error(&found, &expected);
            assert!(error < TOLERANCE, "{name}: {what} is off by {error:e}");
        }
        self.compared.insert(name.into());
    }

    /// That nothing in the file has been left out.
    fn all(&self, of: impl Fn(&str) -> bool) {
        let names = self.file.tensors.keys().filter_map(|k| k.strip_suffix(".loss"));
        let expected: BTreeSet<String> = names.filter(|name| of(name)).map(String::from).collect();
        assert_eq!(self.compared, expected);
    }
}

fn is_loss(name: &str) -> bool {
    name.contains('.')
}

/// What an operation is called in [`ALL`]; a new one does not compile without a name here.
fn variant(op: &Op) -> &'static str {
    use Activation as A;
    match op {
        Op::Linear { .. } => "Linear",
        Op::Conv { .. } => "Conv",
        Op::ConvTranspose { .. } => "ConvTranspose",
        Op::BatchNorm { .. } => "BatchNorm",
        Op::LayerNorm { .. } => "LayerNorm",
        Op::RmsNorm { .. } => "RmsNorm",
        Op::GroupNorm { .. } => "GroupNorm",
        Op::Activation(f) => match f {
            A::Relu => "Relu",
            A::LeakyRelu { .. } => "LeakyRelu",
            A::Clamp { .. } => "Clamp",
            A::Elu { .. } => "Elu",
            A::Gelu => "Gelu",
            A::GeluTanh => "GeluTanh",
            A::Silu => "Silu",
            A::Sigmoid => "Sigmoid",
            A::Hardsigmoid => "Hardsigmoid",
            A::Hardswish => "Hardswish",
            A::Tanh => "Tanh",
            A::Softplus => "Softplus",
            A::Mish => "Mish",
            A::Exp => "Exp",
            A::Log => "Log",
            A::Abs => "Abs",
            A::Pow { .. } => "Pow",
            A::Sqrt => "Sqrt",
            A::Rsqrt => "Rsqrt",
            A::Reciprocal => "Reciprocal",
            A::Sin => "Sin",
            A::Cos => "Cos",
        },
        Op::Scale(_) => "Scale",
        Op::Shift(_) => "Shift",
        Op::Binary(Binary::Add) => "Add",
        Op::Binary(Binary::Sub) => "Sub",
        Op::Binary(Binary::Mul) => "Mul",
        Op::Binary(Binary::Div) => "Div",
        Op::Compare(_) => "Compare",
        Op::Choose => "Choose",
        Op::MatMul => "MatMul",
        Op::Softmax { .. } => "Softmax",
        Op::LogSoftmax { .. } => "LogSoftmax",
        Op::Reduce { kind: Reduction::Sum, .. } => "Sum",
        Op::Reduce { kind: Reduction::Mean, .. } => "Mean",
        Op::Reduce { kind: Reduction::Amax, .. } => "Amax",
        Op::MaxPool(_) => "MaxPool",
        Op::AvgPool { .. } => "AvgPool",
        Op::AdaptiveAvgPool(_) => "AdaptiveAvgPool",
        Op::Embedding { .. } => "Embedding",
        Op::Gather { .. } => "Gather",
        Op::IndexSelect { .. } => "IndexSelect",
        Op::Reshape(_) => "Reshape",
        Op::Permute(_) => "Permute",
        Op::Expand(_) => "Expand",
        Op::Slice { .. } => "Slice",
        Op::Concat { .. } => "Concat",
        Op::Pad { .. } => "Pad",
        Op::Where { .. } => "Where",
        Op::Constant { .. } => "Constant",
        Op::Parameter(_) => "Parameter",
        Op::Custom(_) => "Custom",
    }
}

/// Every operation of [`variant`] that PyTorch has.
const ALL: &str = "Abs AdaptiveAvgPool Add Amax AvgPool BatchNorm Choose Clamp Compare Concat Constant Conv ConvTranspose Cos Div Elu \
    Embedding Exp Expand Gather Gelu GeluTanh GroupNorm Hardsigmoid Hardswish IndexSelect LayerNorm LeakyRelu Linear Log \
    LogSoftmax MatMul MaxPool Mean Mish Mul Pad Parameter Permute Pow Reciprocal Relu Reshape RmsNorm Rsqrt Scale Shift \
    Sigmoid Silu Sin Slice Softmax Softplus Sqrt Sub Sum Tanh Where";

#[test]
fn operations_are_pytorchs() {
    let mut golden = Golden::read();
    let mut seen = BTreeSet::new();
    let targets = || Targets::Values(numbers(4, N * OUTPUTS));
    let mut compare = |case: &Case, mut build: Build, inputs: Vec<f64>| {
        let y = (case.make)(&mut build);
        build.head(y, &[OUTPUTS]);
        let sizes = [build.graph.input().len(), N];
        let samples = Samples::with_targets(sizes, inputs.into_iter(), targets()).unwrap();
        golden.compare(case.name, &build.graph, samples, Arc::new(MeanSquaredError::default()));
        seen.extend(build.graph.nodes().iter().map(|node| variant(&node.op)));
    };
    let cases = [activations(), convolutions(), normalisations(), products(), reductions(), arrangements()];
    for case in cases.iter().flatten() {
        let mut build = Build::new(&[FEATURES]);
        for shape in &case.inputs {
            let mut x = build.head(0, shape);
            if case.positive {
                x = build.push(Op::Activation(Activation::Softplus), &[x]);
                x = build.push(Op::Shift(0.5), &[x]);
            }
            build.x.push(x);
        }
        compare(case, build, numbers(2, N * FEATURES));
    }
    for (case, count) in tables() {
        let build = Build::new(&case.inputs[0]);
        let len = N * build.graph.input().len();
        compare(&case, build, (0..len).map(|i| (i * 7 % count) as f64).collect());
    }
    golden.all(|name| !is_loss(name));
    assert_eq!(seen, ALL.split_whitespace().collect());
}

/// f, f′ and f″ at every half from -4 to 4, kinks among them, of f(x + w) as a function of w at zero: with the loss
/// Σ (f - t)² the gradient is 2 (f - t) f′ and the residual's diagonal 2 (f - t) f″.
#[test]
fn derivatives_at_kinks_are_pytorchs() {
    let golden = Golden::read();
    let (n, target) = (17, -10.0);
    let mut names = BTreeSet::new();
    for case in activations().into_iter().filter(|case| !case.positive) {
        let mut build = Build::new(&[n]);
        let w = build.parameter(&[n]);
        let w = build.push(Op::Parameter(w), &[]);
        let x = build.push(Op::Binary(Binary::Add), &[0, w]);
        let f = match case.name {
            "clamp" => Activation::Clamp { low: -0.5, high: 0.5 },
            "hardsigmoid" => Activation::Hardsigmoid,
            "hardswish" => Activation::Hardswish,
            _ => {
                build.x.push(x);
                (case.make)(&mut build);
                let Op::Activation(f) = build.graph.nodes()[2].op else { panic!("{}", case.name) };
                f
            }
        };
        if build.x.is_empty() {
            build.push(Op::Activation(f), &[x]);
        }
        let inputs = (0..n).map(|i| i as f64 / 2.0 - 4.0);
        let samples = Samples::<f64>::with_targets([n, 1], inputs, Targets::Values(vec![target; n])).unwrap();
        let loss = Arc::new(MeanSquaredError { averaging: Averaging::Sum });
        let options = Options { threads: 1, loss, ..Options::default() };
        let here = Curvature::new(&build.graph, &vec![0.0; n], &[], samples, &options).unwrap();
        let gradient = here.loss_and_gradient().unwrap().gradient;
        let residual = product(&here, Operator::Residual, Mat::<f64>::identity(n, n).as_ref());
        let expected = golden.file.tensors[&format!("grid.{}", case.name)].to_f64().unwrap();
        for i in 0..n {
            let [y, first, second] = [0, 1, 2].map(|d| expected[d * n + i]);
            let factor = 2.0 * (y - target);
            for (found, expected) in [(gradient[i], first), (residual[(i, i)], second)] {
                let error = (found / factor - expected).abs();
                assert!(error < 1e-13, "{} at {}: off by {error:e}", case.name, i as f64 / 2.0 - 4.0);
            }
        }
        names.insert(format!("grid.{}", case.name));
    }
    let stored = golden.file.tensors.keys().filter(|name| name.starts_with("grid."));
    assert_eq!(names, stored.cloned().collect());
}

/// Softmax of 2 noise over three classes.
fn soft() -> Vec<f64> {
    let mut p = numbers(4, N * 3);
    for p in p.chunks_exact_mut(3) {
        p.iter_mut().for_each(|x| *x = (2.0 * *x).exp());
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
    }
    p
}

/// A name, the outputs' shape, the loss and its targets.
type LossCase = (&'static str, Vec<usize>, Arc<dyn Loss>, Targets);

fn losses(averaging: Averaging) -> Vec<LossCase> {
    let weight = Some(vec![0.5, 2.0, 1.25]);
    let entropy = |weighted: bool, label_smoothing| -> Arc<dyn Loss> {
        let weight = weight.clone().filter(|_| weighted);
        Arc::new(CrossEntropy { weight, label_smoothing, classes: ClassAxis::First, averaging })
    };
    let binary = |weight, pos_weight| -> Arc<dyn Loss> {
        Arc::new(BinaryCrossEntropy { weight, pos_weight, averaging })
    };
    let labels = || Targets::Classes((0..N as u32).map(|i| i % 3).collect());
    let positions = |ignored: bool| {
        let of = |i: u32| if ignored && i % 4 == 1 { IGNORED } else { i % 3 };
        Targets::Classes((0..2 * N as u32).map(of).collect())
    };
    let values = || Targets::Values(numbers(4, N * 3));
    let halves = || Targets::Values(numbers(4, N * 3).iter().map(|x| (x + 1.0) / 2.0).collect());
    vec![
        ("cross_entropy", vec![3], entropy(false, 0.0), labels()),
        ("cross_entropy_weight", vec![3], entropy(true, 0.0), labels()),
        ("cross_entropy_smoothing", vec![3], entropy(true, 0.2), labels()),
        ("cross_entropy_soft", vec![3], entropy(false, 0.0), Targets::Values(soft())),
        ("cross_entropy_positions", vec![3, 2], entropy(true, 0.0), positions(false)),
        ("cross_entropy_ignored", vec![3, 2], entropy(true, 0.1), positions(true)),
        ("mse", vec![3], Arc::new(MeanSquaredError { averaging }), values()),
        ("bce", vec![3], binary(None, None), halves()),
        ("bce_pos_weight", vec![3], binary(None, weight.clone()), halves()),
        ("bce_weight", vec![3], binary(Some(vec![1.5, 0.5, 3.0]), weight.clone()), halves()),
    ]
}

#[test]
fn losses_are_pytorchs() {
    let mut golden = Golden::read();
    for (word, averaging) in [("mean", Averaging::Mean), ("sum", Averaging::Sum)] {
        for (name, outputs, loss, targets) in losses(averaging) {
            let mut build = Build::new(&[FEATURES]);
            let hidden = build.head(0, &[3]);
            let hidden = build.tanh(hidden);
            let len = outputs.iter().product();
            let (weight, bias) = (build.parameter(&[len, 3]), Some(build.parameter(&[len])));
            let z = build.push(Op::Linear { weight, bias }, &[hidden]);
            build.push(Op::Reshape(outputs), &[z]);
            let inputs = numbers(2, N * FEATURES).into_iter();
            let samples = Samples::with_targets([FEATURES, N], inputs, targets).unwrap();
            golden.compare(&format!("{name}.{word}"), &build.graph, samples, loss);
        }
    }
    golden.all(is_loss);
}
