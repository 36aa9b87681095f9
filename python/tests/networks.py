"""Modules of many kinds, small, in double precision, each with inputs."""

import copy

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn


class Recurrent(nn.Module):
    def __init__(self, layer, **options):
        super().__init__()
        self.rnn = layer(4, 6, batch_first=True, **options)
        self.out = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x):
        n, t, width = x.shape
        parts = self.qkv(self.norm(x)).split(width, 2)
        return [p.view(n, t, self.heads, width // self.heads).transpose(1, 2) for p in parts]

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x):
        return x + self.out(self.attend(*self.split(x)).transpose(1, 2).reshape(x.shape))


class ByHand(Attention):
    def attend(self, q, k, v):
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        future = torch.tril(torch.ones(q.shape[-2], q.shape[-2])) == 0
        return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


class Gpt(nn.Module):
    """Logits [n, tokens, positions], with the embedding tied to the head."""

    def __init__(self, tokens=7, positions=5, width=8, attention=Attention):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.attention = nn.ModuleList(attention(width, 2) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x):
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for attention, mlp in zip(self.attention, self.mlp):
            h = attention(h)
            h = h + mlp(h)
        return self.head(self.norm(h)).transpose(1, 2)


class Positions(nn.Module):
    """Logits [n * positions, tokens], as a view makes them."""

    def __init__(self):
        super().__init__()
        self.gpt = Gpt()

    def forward(self, x):
        return self.gpt(x).transpose(1, 2).reshape(-1, 7)


class GroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(F.silu(self.norm(self.conv(x))).mean((2, 3)))


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.table(x)).mean(1))


class Standardised(nn.Conv2d):
    """Filters of mean zero and deviation one."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaskedEncoder(nn.Module):
    """Attention that leaves out a padding token, and a mean over the others."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        padding = (x == 0) & (torch.arange(x.shape[1]) > 0)
        h = self.layer(self.table(x), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        return self.out((h * kept).sum(1) / kept.sum(1))


class Conditions(nn.Module):
    """Masks that depend on the data and on parameters."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        y = self.one(x)
        y = torch.maximum(y, y.tanh() + 0.1) * (y > -0.3) + torch.minimum(y, y**2)
        inside = (x[:, :1] > 0) & (x[:, :1] < 1) | (x[:, 1:2] >= 0.5)
        return self.two(torch.where(inside, y, -y).masked_fill(x[:, 2:3] != x[:, 2:3].abs(), 0.3))


def computed_filters():
    spectral, weight = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        spectral(nn.Conv2d(3, 4, 3)), nn.ELU(), weight(nn.Conv2d(4, 4, 3, padding=1, groups=2)), nn.Tanh(),
        Standardised(4, 6, 3, stride=2, padding=1, groups=2), nn.Softplus(),
        spectral(nn.ConvTranspose2d(6, 2, 3, stride=2)), nn.Flatten(), spectral(nn.Linear(98, 3)),
    )  # fmt: skip


def computed_line():
    weight = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        weight(nn.Conv1d(3, 4, 3, dilation=2)), nn.Tanh(), weight(nn.Conv1d(4, 2, 3, stride=2, bias=False), dim=None),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def instance_norms():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4),
        nn.Tanh(), nn.Flatten(2), nn.Conv1d(4, 2, 3), nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(), nn.Linear(68, 3),
    )  # fmt: skip


def ceiled_pools():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2, 2, ceil_mode=True), nn.Tanh(),
        nn.MaxPool2d(2, 2, ceil_mode=True), nn.AvgPool2d(2, 1, 1, divisor_override=3), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.LeakyReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def line():
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ELU(), nn.MaxPool1d(2),
        nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1), nn.Softplus(), nn.AdaptiveAvgPool1d(2), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def deconvolution():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Hardswish(),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(40, 3))


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def tokens(n=4):
    return torch.randint(0, 7, (n, 5))


SMALL = {
    "mlp": lambda: (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)), noise(6, 3, 4)),
    "cnn with batch norm": lambda: (cnn(), noise(5, 3, 10, 10)),
    "one axis of space": lambda: (line(), noise(5, 3, 12)),
    "transposed convolution": lambda: (deconvolution(), noise(4, 3, 8, 8)),
    "group norm": lambda: (GroupNorm(), noise(4, 3, 6, 6)),
    "TransformerEncoder": lambda: (encoder(), noise(4, 5, 8)),
    "GRU": lambda: (Recurrent(nn.GRU, num_layers=2), noise(4, 5, 4)),
    "LSTM": lambda: (Recurrent(nn.LSTM, num_layers=2), noise(4, 5, 4)),
    "LSTM both ways": lambda: (Recurrent(nn.LSTM, bidirectional=True), noise(4, 5, 4)),
    "RNN": lambda: (Recurrent(nn.RNN), noise(4, 5, 4)),
    "GPT": lambda: (Gpt(), tokens()),
    "GPT by hand": lambda: (Gpt(attention=ByHand), tokens()),
    "positions among samples": lambda: (Positions(), tokens()),
    "padding": lambda: (Padded(), tokens()),
    "instance norm": lambda: (instance_norms(), noise(4, 3, 10, 10)),
    "filters computed from parameters": lambda: (computed_filters(), noise(4, 3, 8, 8)),
    "filters of one axis, computed": lambda: (computed_line(), noise(4, 3, 12)),
    "pools of ceil mode": lambda: (ceiled_pools(), noise(4, 3, 12, 12)),
    "padding mask": lambda: (MaskedEncoder(), tokens()),
    "conditions": lambda: (Conditions(), noise(6, 4)),
    "VisionTransformer": lambda: (tv.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=5), noise(3, 3, 16, 16)),
    "SwinTransformer": lambda: (tv.SwinTransformer([2, 2], 8, [1, 1], [2, 4], [2, 2], num_classes=5), noise(3, 3, 32, 32)),
}

TORCHVISION = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "shufflenet_v2_x0_5",
    "convnext_tiny", "regnet_y_400mf", "googlenet", "squeezenet1_0", "mnasnet0_5", "vgg11_bn",
)  # fmt: skip


def torchvision_net(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    side = 64 if name in ("googlenet", "squeezenet1_0", "densenet121", "vgg11_bn") else 32
    net = getattr(tv, name)(num_classes=5, **options)
    if name == "vgg11_bn":
        # 119 of its 129 million parameters are in these layers.
        net.classifier = nn.Sequential(nn.Linear(25088, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))
    return net, noise(2, 3, side, side)


def shaken(make):
    """A module in eval mode whose norms, biases and zeros are random, whose running statistics are those of noise, and its
    inputs."""
    torch.manual_seed(0)
    model, x = make()
    model = model.double()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1 or not p.any():
                p += 0.1 * torch.randn_like(p)
        for m in norms:
            m.momentum = 1.0
        if norms:
            model.train()(noise(16, *x.shape[1:]))
    return model.eval(), x


class Hardsigmoid(nn.Module):
    """PyTorch's own has no second derivative."""

    def forward(self, x):
        return F.relu6(x + 3) / 6


def twice_differentiable(model):
    """A copy of a module that PyTorch can differentiate twice."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, Hardsigmoid())
    return model


def labels_for(model, x, classes=None):
    """Random labels that fit a module's outputs for cross-entropy."""
    with torch.no_grad():
        z = model(x)
    return torch.randint(0, z.shape[1], (z.shape[0], *z.shape[2:]))
