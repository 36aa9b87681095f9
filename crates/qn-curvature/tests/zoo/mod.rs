//! Networks of every usual kind, as graphs, with PyTorch's names and order of parameters.

use qn_model::{Activation, Binary, Graph, Op, ParamId, ParamKind, Reduction, Shape, ValueId, Window};

/// Every network of tests/golden/make_networks.py, by its name there.
pub(crate) fn networks() -> Vec<(&'static str, Graph)> {
    vec![
        ("resnet18", resnet18()),
        ("mobilenet", mobilenet()),
        ("densenet", densenet()),
        ("convnext", convnext()),
        ("vit", vit()),
        ("gpt", gpt()),
        ("gru", gru()),
        ("lstm", lstm()),
        ("groupnorm", groupnorm()),
    ]
}

/// A graph that is being built.
struct Net(Graph);

/// A convolution's shape.
#[derive(Clone, Copy)]
struct Filters {
    out: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

fn filters(out: usize, kernel: usize, stride: usize) -> Filters {
    Filters { out, kernel, stride, groups: 1 }
}

/// The parameters of a convolution, or of a linear layer.
#[derive(Clone, Copy)]
struct Affine {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Net {
    fn new(input: &[usize]) -> Self {
        Self(Graph::empty("zoo", Shape::new(input)))
    }

    fn parameter(&mut self, name: &str, shape: &[usize]) -> ParamId {
        self.0.parameter(name, shape.to_vec(), ParamKind::Affine { fan_in: 1 })
    }

    fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.0.push(op, inputs.to_vec()).unwrap()
    }

    fn act(&mut self, f: Activation, x: ValueId) -> ValueId {
        self.push(Op::Activation(f), &[x])
    }

    fn binary(&mut self, f: Binary, x: ValueId, y: ValueId) -> ValueId {
        self.push(Op::Binary(f), &[x, y])
    }

    fn add(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(Binary::Add, x, y)
    }

    fn dim(&self, x: ValueId, axis: usize) -> usize {
        self.0.shape(x).dims()[axis]
    }

    fn affine(&mut self, name: &str, weight: &[usize], biased: bool) -> Affine {
        let bias = |net: &mut Self| net.parameter(&format!("{name}.bias"), &weight[..1]);
        let weight = self.parameter(&format!("{name}.weight"), weight);
        Affine { weight, bias: biased.then(|| bias(self)) }
    }

    fn linear_with(&mut self, Affine { weight, bias }: Affine, x: ValueId) -> ValueId {
        self.push(Op::Linear { weight, bias }, &[x])
    }

    fn linear(&mut self, name: &str, x: ValueId, out: usize) -> ValueId {
        let inner = *self.0.shape(x).dims().last().unwrap();
        let affine = self.affine(name, &[out, inner], true);
        self.linear_with(affine, x)
    }

    /// With padding that keeps the size, but for the stride; patches beside each other are not padded.
    fn conv(&mut self, name: &str, x: ValueId, f: Filters, biased: bool) -> ValueId {
        let inner = self.dim(x, 0) / f.groups;
        let Affine { weight, bias } = self.affine(name, &[f.out, inner, f.kernel, f.kernel], biased);
        let padding = if f.kernel == f.stride { 0 } else { f.kernel / 2 };
        let window = Window::square(f.kernel, f.stride, padding);
        self.push(Op::Conv { weight, bias, window, groups: f.groups }, &[x])
    }

    fn batch_norm(&mut self, name: &str, x: ValueId) -> ValueId {
        let channels = self.dim(x, 0);
        let affine = self.affine(name, &[channels], true);
        let stats = self.0.statistics(name, channels);
        let affine = affine.bias.map(|bias| [affine.weight, bias]);
        self.push(Op::BatchNorm { affine, stats, eps: 1e-5 }, &[x])
    }

    /// A convolution and a batch normalisation.
    fn conv_norm(&mut self, [conv, norm]: [&str; 2], x: ValueId, f: Filters) -> ValueId {
        let x = self.conv(conv, x, f, false);
        self.batch_norm(norm, x)
    }

    fn layer_norm_with(&mut self, Affine { weight, bias }: Affine, eps: f64, x: ValueId) -> ValueId {
        self.push(Op::LayerNorm { weight: Some(weight), bias, axes: 1, eps }, &[x])
    }

    fn layer_norm(&mut self, name: &str, eps: f64, x: ValueId) -> ValueId {
        let width = *self.0.shape(x).dims().last().unwrap();
        let affine = self.affine(name, &[width], true);
        self.layer_norm_with(affine, eps, x)
    }

    /// The mean over axes 1 and 2.
    fn mean(&mut self, x: ValueId) -> ValueId {
        self.push(Op::Reduce { kind: Reduction::Mean, axes: vec![1, 2], keep: false }, &[x])
    }

    fn permute(&mut self, axes: &[usize], x: ValueId) -> ValueId {
        self.push(Op::Permute(axes.to_vec()), &[x])
    }

    fn reshape(&mut self, shape: &[usize], x: ValueId) -> ValueId {
        self.push(Op::Reshape(shape.to_vec()), &[x])
    }

    fn slice(&mut self, axis: usize, [start, end]: [usize; 2], x: ValueId) -> ValueId {
        self.push(Op::Slice { axis, start, end, step: 1 }, &[x])
    }

    fn value(&mut self, param: ParamId) -> ValueId {
        self.push(Op::Parameter(param), &[])
    }

    fn constant(&mut self, shape: &[usize], value: f64) -> ValueId {
        let values = vec![value; shape.iter().product()].into();
        self.push(Op::Constant { shape: shape.to_vec(), values }, &[])
    }
}

fn basic_block(net: &mut Net, name: &str, x: ValueId, [out, stride]: [usize; 2]) -> ValueId {
    let names = |i: usize| [format!("{name}.conv{i}"), format!("{name}.bn{i}")];
    let ([conv1, bn1], [conv2, bn2]) = (names(1), names(2));
    let y = net.conv_norm([&conv1, &bn1], x, filters(out, 3, stride));
    let y = net.act(Activation::Relu, y);
    let y = net.conv_norm([&conv2, &bn2], y, filters(out, 3, 1));
    let mut beside = x;
    if net.dim(x, 0) != out || stride > 1 {
        let names = [format!("{name}.downsample.0"), format!("{name}.downsample.1")];
        let window = Window::square(1, stride, 0);
        let inner = net.dim(x, 0);
        let Affine { weight, bias } = net.affine(&names[0], &[out, inner, 1, 1], false);
        beside = net.push(Op::Conv { weight, bias, window, groups: 1 }, &[x]);
        beside = net.batch_norm(&names[1], beside);
    }
    let y = net.add(y, beside);
    net.act(Activation::Relu, y)
}

fn resnet18() -> Graph {
    let (mut net, width) = (Net::new(&[3, 32, 32]), 4);
    let mut x = net.conv_norm(["conv1", "bn1"], 0, filters(width, 3, 1));
    x = net.act(Activation::Relu, x);
    for layer in 0..4 {
        for block in 0..2 {
            let stride = if layer > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", layer + 1);
            x = basic_block(&mut net, &name, x, [width << layer, stride]);
        }
    }
    x = net.push(Op::AdaptiveAvgPool([1, 1]), &[x]);
    x = net.reshape(&[width << 3], x);
    net.linear("fc", x, 5);
    net.0
}

fn mobilenet() -> Graph {
    let mut net = Net::new(&[3, 16, 16]);
    let relu6 = Activation::Clamp { low: 0.0, high: 6.0 };
    let mut x = net.conv_norm(["features.0", "features.1"], 0, filters(4, 3, 2));
    x = net.act(relu6, x);
    for (i, [out, stride, expand]) in [[6, 2, 3], [6, 1, 3], [8, 1, 2]].into_iter().enumerate() {
        let names = |j: usize| [0, 1].map(|k| format!("features.{}.conv.{}", i + 3, j + k));
        let ([c0, n0], [c1, n1], [c2, n2]) = (names(0), names(3), names(6));
        let hidden = net.dim(x, 0) * expand;
        let y = net.conv_norm([&c0, &n0], x, filters(hidden, 1, 1));
        let y = net.act(relu6, y);
        let y = net.conv_norm([&c1, &n1], y, Filters { groups: hidden, ..filters(hidden, 3, stride) });
        let y = net.act(relu6, y);
        let y = net.conv_norm([&c2, &n2], y, filters(out, 1, 1));
        x = if stride == 1 && net.dim(x, 0) == out { net.add(x, y) } else { y };
    }
    x = net.mean(x);
    net.linear("classifier.1", x, 5);
    net.0
}

fn densenet() -> Graph {
    let mut net = Net::new(&[3, 16, 16]);
    let mut features = vec![net.conv("conv0", 0, filters(4, 3, 1), false)];
    for i in 0..3 {
        let x = net.push(Op::Concat { axis: 0 }, &features);
        let x = net.batch_norm(&format!("layer{i}.0"), x);
        let x = net.act(Activation::Relu, x);
        features.push(net.conv(&format!("layer{i}.2"), x, filters(3, 3, 1), false));
    }
    let x = net.push(Op::Concat { axis: 0 }, &features);
    let x = net.batch_norm("norm", x);
    let x = net.act(Activation::Relu, x);
    let Affine { weight, .. } = net.affine("transition", &[6, 13, 1, 1], false);
    let window = Window::square(1, 1, 0);
    let x = net.push(Op::Conv { weight, bias: None, window, groups: 1 }, &[x]);
    let x = net.push(Op::AvgPool { window: Window::square(2, 2, 0), count_padding: true }, &[x]);
    let x = net.push(Op::AdaptiveAvgPool([1, 1]), &[x]);
    let x = net.reshape(&[6], x);
    net.linear("classifier", x, 5);
    net.0
}

fn convnext() -> Graph {
    let (mut net, width, eps) = (Net::new(&[3, 16, 16]), 6, 1e-6);
    let gamma = net.parameter("gamma", &[width]);
    let x = net.conv("stem", 0, filters(width, 4, 4), true);
    let x = net.permute(&[1, 2, 0], x);
    let x = net.layer_norm("stem_norm", eps, x);
    let x = net.permute(&[2, 0, 1], x);
    let y = net.conv("dwconv", x, Filters { groups: width, ..filters(width, 7, 1) }, true);
    let y = net.permute(&[1, 2, 0], y);
    let y = net.layer_norm("norm", eps, y);
    let y = net.linear("pwconv1", y, 4 * width);
    let y = net.act(Activation::Gelu, y);
    let y = net.linear("pwconv2", y, width);
    let gamma = net.value(gamma);
    let y = net.binary(Binary::Mul, gamma, y);
    let y = net.permute(&[2, 0, 1], y);
    let x = net.add(x, y);
    let x = net.mean(x);
    let x = net.layer_norm("head_norm", eps, x);
    net.linear("head", x, 5);
    net.0
}

/// The parameters of a transformer's block, in PyTorch's order.
struct Block {
    norms: [Affine; 2],
    attention: [Affine; 2],
    linear: [Affine; 2],
    causal: bool,
}

fn block(net: &mut Net, name: &str, width: usize, causal: bool) -> Block {
    let norms = ["norm1", "norm2"].map(|n| net.affine(&format!("{name}.{n}"), &[width], true));
    let weight = net.parameter(&format!("{name}.attention.in_proj_weight"), &[3 * width, width]);
    let bias = Some(net.parameter(&format!("{name}.attention.in_proj_bias"), &[3 * width]));
    let out = net.affine(&format!("{name}.attention.out_proj"), &[width, width], true);
    let fc1 = net.affine(&format!("{name}.fc1"), &[4 * width, width], true);
    let fc2 = net.affine(&format!("{name}.fc2"), &[width, 4 * width], true);
    Block { norms, attention: [Affine { weight, bias }, out], linear: [fc1, fc2], causal }
}

fn attention(net: &mut Net, [inner, out]: [Affine; 2], x: ValueId, causal: bool) -> ValueId {
    let (tokens, width, heads) = (net.dim(x, 0), net.dim(x, 1), 2);
    let all = net.linear_with(inner, x);
    let [q, k, v] = [([1, 0, 2], 0), ([1, 2, 0], 1), ([1, 0, 2], 2)].map(|(axes, i)| {
        let part = net.slice(1, [i * width, (i + 1) * width], all);
        let part = net.reshape(&[tokens, heads, width / heads], part);
        net.permute(&axes, part)
    });
    let scores = net.push(Op::MatMul, &[q, k]);
    let mut scores = net.push(Op::Scale(1.0 / ((width / heads) as f64).sqrt()), &[scores]);
    if causal {
        let sees = |i: usize| i % tokens <= i / tokens % tokens;
        let mask = (0..heads * tokens * tokens).map(sees).collect();
        scores = net.push(Op::Where { mask, otherwise: f64::NEG_INFINITY }, &[scores]);
    }
    let p = net.push(Op::Softmax { axis: 2 }, &[scores]);
    let y = net.push(Op::MatMul, &[p, v]);
    let y = net.permute(&[1, 0, 2], y);
    let y = net.reshape(&[tokens, width], y);
    net.linear_with(out, y)
}

fn transformer(net: &mut Net, block: &Block, x: ValueId) -> ValueId {
    let y = net.layer_norm_with(block.norms[0], 1e-5, x);
    let y = attention(net, block.attention, y, block.causal);
    let x = net.add(x, y);
    let y = net.layer_norm_with(block.norms[1], 1e-5, x);
    let y = net.linear_with(block.linear[0], y);
    let y = net.act(if block.causal { Activation::GeluTanh } else { Activation::Gelu }, y);
    let y = net.linear_with(block.linear[1], y);
    net.add(x, y)
}

fn vit() -> Graph {
    let (mut net, width) = (Net::new(&[3, 16, 16]), 8);
    let [token, positions] =
        [("token", 1), ("positions", 17)].map(|(n, rows)| net.parameter(n, &[rows, width]));
    let x = net.conv("patches", 0, filters(width, 4, 4), true);
    let x = net.reshape(&[width, 16], x);
    let x = net.permute(&[1, 0], x);
    let [token, positions] = [token, positions].map(|p| net.value(p));
    let x = net.push(Op::Concat { axis: 0 }, &[token, x]);
    let mut x = net.add(x, positions);
    for name in ["block1", "block2"] {
        let block = block(&mut net, name, width, false);
        x = transformer(&mut net, &block, x);
    }
    let x = net.layer_norm("norm", 1e-5, x);
    let x = net.slice(0, [0, 1], x);
    let x = net.reshape(&[width], x);
    net.linear("head", x, 5);
    net.0
}

/// With the embedding's table as the last layer's weight.
fn gpt() -> Graph {
    let (mut net, vocabulary, width, tokens) = (Net::new(&[6]), 11, 8, 6);
    let positions = net.parameter("positions", &[tokens, width]);
    let table = net.parameter("embedding.weight", &[vocabulary, width]);
    let x = net.push(Op::Embedding { weight: table, padding: None }, &[0]);
    let positions = net.value(positions);
    let mut x = net.add(x, positions);
    for name in ["block1", "block2"] {
        let block = block(&mut net, name, width, true);
        x = transformer(&mut net, &block, x);
    }
    let x = net.layer_norm("norm", 1e-5, x);
    net.linear_with(Affine { weight: table, bias: None }, x);
    net.0
}

/// A recurrent cell's parameters: of the input and of the hidden state.
fn cell(net: &mut Net, gates: usize, inputs: usize, hidden: usize) -> [Affine; 2] {
    let [weights, biases] = [["weight_ih", "weight_hh"], ["bias_ih", "bias_hh"]];
    let widths = [inputs, hidden];
    let weights =
        [0, 1].map(|i| net.parameter(&format!("cell.{}_l0", weights[i]), &[gates * hidden, widths[i]]));
    let biases = biases.map(|name| net.parameter(&format!("cell.{name}_l0"), &[gates * hidden]));
    [0, 1].map(|i| Affine { weight: weights[i], bias: Some(biases[i]) })
}

/// Part i of `hidden` numbers.
fn gate(net: &mut Net, x: ValueId, i: usize, hidden: usize) -> ValueId {
    net.slice(0, [i * hidden, (i + 1) * hidden], x)
}

/// What the input at a step and the hidden state give to the gates.
fn gates(net: &mut Net, cell: [Affine; 2], step: usize, h: ValueId) -> [ValueId; 2] {
    let x = net.slice(0, [step, step + 1], 0);
    let x = net.reshape(&[3], x);
    [net.linear_with(cell[0], x), net.linear_with(cell[1], h)]
}

fn gru() -> Graph {
    let (mut net, hidden) = (Net::new(&[4, 3]), 4);
    let cell = cell(&mut net, 3, 3, hidden);
    let (mut h, one) = (net.constant(&[hidden], 0.0), net.constant(&[hidden], 1.0));
    for step in 0..4 {
        let of = gates(&mut net, cell, step, h);
        let [r, z] = [0, 1].map(|i| {
            let [a, b] = of.map(|x| gate(&mut net, x, i, hidden));
            let sum = net.add(a, b);
            net.act(Activation::Sigmoid, sum)
        });
        let [a, b] = of.map(|x| gate(&mut net, x, 2, hidden));
        let b = net.binary(Binary::Mul, r, b);
        let n = net.add(a, b);
        let n = net.act(Activation::Tanh, n);
        let other = net.binary(Binary::Sub, one, z);
        let [new, old] = [(other, n), (z, h)].map(|(a, b)| net.binary(Binary::Mul, a, b));
        h = net.add(new, old);
    }
    net.linear("head", h, 3);
    net.0
}

fn lstm() -> Graph {
    let (mut net, hidden) = (Net::new(&[4, 3]), 4);
    let cell = cell(&mut net, 4, 3, hidden);
    let [mut h, mut c] = [0.0; 2].map(|zero| net.constant(&[hidden], zero));
    for step in 0..4 {
        let [a, b] = gates(&mut net, cell, step, h);
        let all = net.add(a, b);
        let [i, f, g, o] = [0, 1, 2, 3].map(|k| {
            let x = gate(&mut net, all, k, hidden);
            net.act(if k == 2 { Activation::Tanh } else { Activation::Sigmoid }, x)
        });
        let [kept, new] = [(f, c), (i, g)].map(|(a, b)| net.binary(Binary::Mul, a, b));
        c = net.add(kept, new);
        let bent = net.act(Activation::Tanh, c);
        h = net.binary(Binary::Mul, o, bent);
    }
    net.linear("head", h, 5);
    net.0
}

fn groupnorm() -> Graph {
    let mut net = Net::new(&[3, 16, 16]);
    let mut x = 0;
    for (i, (f, groups)) in [(filters(6, 3, 1), 3), (filters(8, 3, 2), 2)].into_iter().enumerate() {
        x = net.conv(&format!("conv{}", i + 1), x, f, true);
        let Affine { weight, bias } = net.affine(&format!("norm{}", i + 1), &[f.out], true);
        let affine = bias.map(|bias| [weight, bias]);
        x = net.push(Op::GroupNorm { affine, groups, eps: 1e-5 }, &[x]);
        x = net.act(Activation::Silu, x);
    }
    let x = net.mean(x);
    net.linear("head", x, 5);
    net.0
}
