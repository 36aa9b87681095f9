"""The networks of the benchmarks: architecture files (networks/NAME.toml) and presets, and their layers in PyTorch."""

import json
import math
import subprocess
import tomllib

import torch
from torch import nn
from torch.nn import functional as F

from common import ROOT, cifar, example

FOLDER = ROOT / "analysis/bench/networks"
# Samples a measurement, and tangents a block.
NETWORKS = {
    "lenet": (512, 10),
    "mlp": (512, 10),
    "strided": (512, 10),
    "pooled": (256, 10),
    "resnet9": (64, 4),
    "resnet18": (32, 4),
    "mobilenet": (128, 10),
    "vit": (128, 10),
    "gpt": (64, 10),
}


def architecture(name):
    """The layer list, and the file or preset that qn-curvature's example is to be given."""
    file = FOLDER / f"{name}.toml"
    if file.exists():
        return tomllib.loads(file.read_text()), str(file)
    found = subprocess.run([example("products"), name, "layers"], check=True, capture_output=True, text=True)
    return json.loads(found.stdout), name


class Attention(nn.Module):
    """nn.MultiheadAttention's parameters and mathematics, written out: fused attention has no second derivatives."""

    def __init__(self, width, heads, causal):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) / math.sqrt(width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        n, tokens, width = x.shape
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        q, k, v = (p.reshape(n, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        if self.causal:
            hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -math.inf)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, width))


class Network(nn.Module):
    """A layer list. Modules lie where their names' dots say, so that state_dict has the names of our layout."""

    def __init__(self, layers, shape, integers):
        super().__init__()
        self.made_of = layers, shape, integers
        self.run, _ = self.sequence(layers, torch.zeros(1, *shape, dtype=torch.long if integers else torch.float))

    def forward(self, x):
        return self.run(x)

    def __deepcopy__(self, memo):
        """Made anew: the steps are functions, which know the modules that they were made with."""
        other = Network(*self.made_of).to(next(self.parameters()).dtype).train(self.training)
        other.load_state_dict(self.state_dict())
        return other

    def place(self, name, module):
        *path, last = name.split(".")
        at = self
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.register_parameter(last, module) if isinstance(module, nn.Parameter) else at.add_module(last, module)
        return lambda: getattr(at, last)

    def sequence(self, layers, x):
        steps = []
        for layer in layers:
            step = self.layer(dict(layer), x)
            with torch.no_grad():
                x = step(x)
            steps.append(step)

        def run(x):
            for step in steps:
                x = step(x)
            return x

        return run, x

    def layer(self, layer, x):
        kind, name = layer.pop("type"), layer.pop("name", None)
        if kind in ("residual", "gate", "concat"):
            inner, _ = self.sequence(layer["layers"], x)
            if kind == "residual":
                beside, _ = self.sequence(layer.get("shortcut", []), x)
                return lambda x: beside(x) + inner(x)
            if kind == "concat":
                return lambda x: torch.cat([x, inner(x)], 1)
            return lambda x: x * inner(x).reshape(len(x), -1, *[1] * (x.dim() - 2))
        if kind in ("position_embedding", "class_token"):
            rows = x.shape[1:] if kind == "position_embedding" else (1, x.shape[-1])
            get = self.place(name, nn.Parameter(0.02 * torch.randn(rows)))
            if kind == "position_embedding":
                return lambda x: x + get()
            return lambda x: torch.cat([get().expand(len(x), -1, -1), x], 1)
        if name is None:
            return plain(kind, layer)
        return self.place(name, module(kind, layer, x))()


def module(kind, layer, x):
    channels, width = x.shape[1] if x.dim() > 1 else 1, x.shape[-1]
    match kind:
        case "conv2d":
            out, kernel = layer.pop("out_channels"), layer.pop("kernel")
            return nn.Conv2d(channels, out, kernel, **layer)
        case "batch_norm2d":
            norm = nn.BatchNorm2d(channels)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.1)
            return norm.eval()
        case "layer_norm":
            return nn.LayerNorm(width)
        case "linear":
            return nn.Linear(width, layer.pop("out_features"), **layer)
        case "embedding":
            return nn.Embedding(layer["num_embeddings"], layer["embedding_dim"])
        case "attention":
            return Attention(width, layer["heads"], layer.get("causal", False))
    raise ValueError(f"{kind} is not known here")


def plain(kind, layer):
    functions = {
        "relu": F.relu, "relu6": F.relu6, "tanh": torch.tanh, "gelu": F.gelu, "hardswish": F.hardswish,
        "flatten": lambda x: x.flatten(1),
        "global_max_pool": lambda x: x.amax((2, 3)),
        "global_avg_pool": lambda x: x.mean((2, 3)),
    }
    match kind:
        case "max_pool2d":
            return lambda x: F.max_pool2d(x, layer["kernel"], layer.get("stride"), layer.get("padding", 0))
        case "scale":
            return lambda x: layer["factor"] * x
        case "reshape":
            return lambda x: x.reshape(len(x), *layer["shape"])
        case "permute":
            return lambda x: x.permute(0, *[a + 1 for a in layer["axes"]])
        case "mean":
            return lambda x: x.mean(layer["axis"] + 1)
        case "select":
            return lambda x: x.select(layer["axis"] + 1, layer["index"])
    return functions[kind]


def problem(name):
    """The module, inputs [N, ..], labels [N] or [N, positions] and the example's argument of a network."""
    described, argument = architecture(name)
    samples, block = NETWORKS[name]
    shape, classes = described["input"], described["classes"]
    tokens = described["layers"][0]["type"] == "embedding"
    net = Network(described["layers"], shape, tokens)
    if tokens:
        x, y = torch.randint(classes, (samples, *shape)), torch.randint(classes, (samples, *shape))
    elif shape == [3, 32, 32]:
        images, labels = cifar(samples)
        x, y = torch.from_numpy(images), torch.from_numpy(labels).long()
    else:
        x, y = torch.randn(samples, *shape, dtype=torch.float64), torch.randint(classes, (samples,))
    return net, x, y, block, argument
