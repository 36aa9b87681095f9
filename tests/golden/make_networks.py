"""Writes networks.safetensors and .json: derivatives of whole networks, each with one of the losses, by PyTorch.

    pip install torch numpy safetensors
    python tests/golden/make_networks.py

In double precision, with parameters, inputs and vectors that crates/qn-curvature/tests/networks.rs makes by the same
formula. Of the gradient, H v and G v there are two projections on random vectors, the norm, and some 300 entries; the
parameters' names and shapes are in the JSON file. Running this again gives the same bytes.
"""

import json
import pathlib

import torch
from make_operations import noise
from safetensors.numpy import save_file
from torch import nn
from torch.func import functional_call, vjp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

N, SAMPLED = 4, 300


def conv_norm(inner, out, kernel, stride=1, groups=1):
    return nn.Conv2d(inner, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)


class BasicBlock(nn.Module):
    def __init__(self, inner, out, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inner, out, 3, stride)
        self.conv2, self.bn2 = conv_norm(out, out, 3)
        self.downsample = nn.Sequential(*conv_norm(inner, out, 1, stride)) if stride > 1 or inner != out else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, width, 3)
        inner = width
        for i in range(4):
            out = width << i
            setattr(self, f"layer{i + 1}", nn.Sequential(BasicBlock(inner, out, 1 + (i > 0)), BasicBlock(out, out, 1)))
            inner = out
        self.fc = nn.Linear(inner, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, inner, out, stride, expand):
        super().__init__()
        hidden = inner * expand
        self.conv = nn.Sequential(
            *conv_norm(inner, hidden, 1), nn.ReLU6(), *conv_norm(hidden, hidden, 3, stride, hidden), nn.ReLU6(),
            *conv_norm(hidden, out, 1),
        )
        self.beside = stride == 1 and inner == out

    def forward(self, x):
        return x + self.conv(x) if self.beside else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [InvertedResidual(4, 6, 2, 3), InvertedResidual(6, 6, 1, 3), InvertedResidual(6, 8, 1, 2)]
        self.features = nn.Sequential(*conv_norm(3, 4, 3, 2), nn.ReLU6(), *blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class DenseNet(nn.Module):
    def __init__(self, growth=3):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        for i in range(3):
            inner = 4 + i * growth
            layer = nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, growth, 3, padding=1, bias=False))
            setattr(self, f"layer{i}", layer)
        self.norm, self.transition = nn.BatchNorm2d(13), nn.Conv2d(13, 6, 1, bias=False)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x):
        features = [self.conv0(x)]
        for i in range(3):
            features.append(getattr(self, f"layer{i}")(torch.cat(features, 1)))
        x = F.avg_pool2d(self.transition(F.relu(self.norm(torch.cat(features, 1)))), 2)
        return self.classifier(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class ConvNeXt(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.stem, self.stem_norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width, eps=1e-6)
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head_norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem_norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.head_norm(x.mean((2, 3))))


class Block(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.causal = causal

    def forward(self, x):
        y, mask = self.norm1(x), None
        if self.causal:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh" if self.causal else "none"))


class ViT(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.zeros(1, width)), nn.Parameter(torch.zeros(17, width))
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.block1, self.block2 = Block(width, 2, False), Block(width, 2, False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), 1, -1), x], 1) + self.positions
        return self.head(self.norm(self.block2(self.block1(x)))[:, 0])


class Gpt(nn.Module):
    def __init__(self, vocabulary=11, width=8, tokens=6):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.embedding = nn.Embedding(vocabulary, width)
        self.block1, self.block2 = Block(width, 2, True), Block(width, 2, True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        x = self.embedding(x) + self.positions
        return self.head(self.norm(self.block2(self.block1(x))))


class Recurrent(nn.Module):
    def __init__(self, kind, outputs):
        super().__init__()
        self.cell, self.head = kind(3, 4, batch_first=True), nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class GroupNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(3, 6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.norm1(self.conv1(x)))
        return self.head(F.silu(self.norm2(self.conv2(x))).mean((2, 3)))


def parameter(name, shape, flat):
    """What noise becomes: of a size that keeps values near one."""
    if len(shape) > 1:
        return flat * (3 * shape[0] / flat.numel()) ** 0.5
    return 1 + 0.3 * flat if name.endswith(("weight", "gamma")) else 0.2 * flat


def filled(net):
    """The module in double precision with parameters and running statistics by formula; names and shapes."""
    net, at = net.double().eval(), 0
    described = [[name, list(p.shape)] for name, p in net.named_parameters()]
    everything = noise(1, sum(p.numel() for p in net.parameters()))
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(parameter(name, p.shape, everything[at : at + p.numel()]).reshape(p.shape))
            at += p.numel()
        buffers = [(name, b) for name, b in net.named_buffers() if b.is_floating_point()]
        for i, (name, b) in enumerate(buffers):
            b.copy_(0.3 * noise(50 + i, len(b)) + float(name.endswith("var")))
    return net, described


def derivatives(net, x, loss):
    params = dict(net.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def split(flat):
        return {n: part.reshape(p.shape) for (n, p), part in zip(params.items(), flat.split(sizes))}

    def outputs(flat):
        return functional_call(net, split(flat), (x,), tie_weights=True)

    def product(function, at, vector):
        at = at.clone().requires_grad_()
        gradient = torch.autograd.grad(function(at), at, create_graph=True)[0]
        return gradient.detach(), torch.autograd.grad(gradient, at, vector)[0]

    theta = torch.cat([p.detach().flatten() for p in params.values()])
    v = noise(3, len(theta))
    z, pull = vjp(outputs, theta)
    zdot = vjp(lambda u: pull(u)[0], torch.zeros_like(z))[1](v)[0]
    gv = pull(product(loss, z, zdot)[1])[0]
    gradient, hv = product(lambda flat: loss(outputs(flat)), theta, v)
    found = {"loss": loss(z).reshape(1)}
    for name, vector in (("gradient", gradient), ("hv", hv), ("gv", gv)):
        p = len(vector)
        sums = torch.stack([vector @ noise(5, p), vector @ noise(6, p), vector.norm()])
        places = torch.arange(SAMPLED) * p // SAMPLED
        found[name] = torch.cat([sums, vector[places]])
    return found


IMAGES = noise(2, N * 3 * 32 * 32).reshape(N, 3, 32, 32)
SMALL = noise(2, N * 3 * 16 * 16).reshape(N, 3, 16, 16)
SERIES = noise(2, N * 4 * 3).reshape(N, 4, 3)
TOKENS = (torch.arange(N * 6) * 7 % 11).reshape(N, 6)
NEXT = torch.where(torch.arange(N * 6) % 5 == 2, -100, torch.arange(N * 6) * 3 % 11).reshape(N, 6)
LABELS = torch.arange(N) % 5
WEIGHT = torch.tensor([0.5, 2.0, 1.25, 1.0, 0.75])
SOFT = (2 * noise(4, N * 5).reshape(N, 5)).softmax(1)
VALUES = noise(4, N * 5).reshape(N, 5)
HALVES = (noise(4, N * 3).reshape(N, 3) + 1) / 2

NETWORKS = {
    "resnet18": (ResNet18(), IMAGES, lambda z: F.cross_entropy(z, LABELS)),
    "mobilenet": (MobileNetV2(), SMALL, lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1)),
    "densenet": (DenseNet(), SMALL, lambda z: F.cross_entropy(z, LABELS, weight=WEIGHT)),
    "convnext": (ConvNeXt(), SMALL, lambda z: F.cross_entropy(z, SOFT)),
    "vit": (ViT(), SMALL, lambda z: F.mse_loss(z, VALUES)),
    "gpt": (Gpt(), TOKENS, lambda z: F.cross_entropy(z.flatten(0, 1), NEXT.flatten())),
    "gru": (
        Recurrent(nn.GRU, 3), SERIES,
        lambda z: F.binary_cross_entropy_with_logits(z, HALVES, pos_weight=WEIGHT[:3]),
    ),
    "lstm": (Recurrent(nn.LSTM, 5), SERIES, lambda z: F.cross_entropy(z, LABELS)),
    "groupnorm": (GroupNormNet(), SMALL, lambda z: F.cross_entropy(z, LABELS, reduction="sum")),
}

if __name__ == "__main__":
    tensors, layouts = {}, {}
    with sdpa_kernel(SDPBackend.MATH):
        for name, (net, x, loss) in NETWORKS.items():
            net, layouts[name] = filled(net)
            tensors |= {f"{name}.{k}": t.numpy() for k, t in derivatives(net, x, loss).items()}
    path = pathlib.Path(__file__).with_name("networks.safetensors")
    save_file(tensors, path)
    lines = [f"{json.dumps(name)}: {json.dumps(layout)}" for name, layout in layouts.items()]
    path.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(len(NETWORKS), "networks,", path.stat().st_size, "bytes")
