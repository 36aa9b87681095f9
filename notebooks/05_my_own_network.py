# %% [markdown]
# # 5. A network of one's own
#
# From a PyTorch module to the spectrum of its Hessian, for a ResNet and a small GPT that are written here: the largest
# eigenvalues with their residuals, what each layer adds to the trace, the density of all eigenvalues, and for a small
# network every single one. `pip install ./python` is all that is needed; no run directory is read.

# %%
import pathlib
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import qn
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
records = np.fromfile(root / "crates/qn-data/assets/digits.bin", np.uint8).reshape(-1, 65)
pixels = torch.from_numpy(records[:, :64].copy()).float().reshape(-1, 1, 8, 8) / 16
labels = torch.from_numpy(records[:, 64].copy()).long()
images = (pixels - pixels.mean()) / pixels.std()
images.shape, labels.bincount()

# %% [markdown]
# ## A ResNet
#
# Blocks as torchvision has them, on 8x8 digits.

# %%
class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, width=8, classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = Block(width, width, 1)
        self.layer2 = Block(width, 2 * width, 2)
        self.layer3 = Block(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def train(model, batches, steps, lr):
    """SGD with momentum over random batches; gives the losses."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        x, y = batches()
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def digits(size=64):
    at = torch.randint(1437, (size,))
    return images[at], labels[at]


resnet = ResNet()
losses = train(resnet, digits, 200, 0.05)
resnet.eval()
accuracy = (resnet(images[1437:]).argmax(1) == labels[1437:]).float().mean()
print(f"{sum(p.numel() for p in resnet.parameters()):,} parameters, loss {np.mean(losses[-20:]):.3f}, test accuracy {accuracy:.3f}")

# %% [markdown]
# `eval` matters: with the statistics of the batch the loss would be no mean over samples, and `qn.hessian` refuses. The
# module goes through `torch.export` into the Rust engine; the loss and some gradients are compared with PyTorch's there.

# %%
data = images[:300], labels[:300]
H = qn.hessian(resnet, nn.CrossEntropyLoss(), data)
H

# %% [markdown]
# ## The largest eigenvalues
#
# Each comes with |H v - λ v| of a product of its own. And PyTorch's own product, two backward passes, says the same.

# %%
top = H.eigsh(k=12, tol=1e-5)
top.plot()
top

# %%
def product_by_pytorch(model, data, vector):
    """H v by two backward passes, in double precision."""
    model, (x, y) = model.double(), data
    x = x.double() if x.is_floating_point() else x
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
    parts = torch.from_numpy(vector).split([p.numel() for p in parameters])
    along = sum((g.flatten() * v).sum() for g, v in zip(gradient, parts))
    found = torch.cat([h.flatten() for h in torch.autograd.grad(along, parameters)]).numpy()
    model.float()
    return found


ours, theirs = H @ top.vectors[:, 0], product_by_pytorch(resnet, data, top.vectors[:, 0])
error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
print(f"|ours - PyTorch's| / |PyTorch's| = {error:.1e}")
assert error < 1e-10

# %% [markdown]
# A vector is one number for each parameter; by name they have the parameters' shapes. Which layers does the steepest
# direction move?

# %%
shares = {name: float((part**2).sum()) for name, part in top.vector(0).items()}
pd.Series(shares, name="share of the first eigenvector").sort_values(ascending=False).head(8).round(3)

# %% [markdown]
# ## Layer by layer
#
# `restrict` is the block of some parameters. The trace of the Gauss-Newton part is the sum of its curvatures, an
# estimate here, with its standard error. Single precision is enough for it.

# %%
single = qn.hessian(resnet, nn.CrossEntropyLoss(), data, dtype="float32")
G = single.with_operator("ggn")
rows = {}
for pattern in ["conv1.*", "bn1.*", "layer1.*", "layer2.*", "layer3.*", "fc.*"]:
    block = G.restrict(pattern)
    trace = block.trace(products=30)
    rows[pattern] = {"parameters": block.shape[0], "trace": trace.value, "± standard error": trace.standard_error}
whole = G.trace(products=30)
rows["all"] = {"parameters": G.shape[0], "trace": whole.value, "± standard error": whole.standard_error}
blocks = pd.DataFrame(rows).T
missing = whole.value - blocks["trace"].iloc[:-1].sum()
assert abs(missing) < 6 * np.sqrt((blocks["± standard error"] ** 2).sum()) + 1e-3 * whole.value
blocks.round(3)

# %% [markdown]
# ## All eigenvalues, smoothed
#
# Stochastic Lanczos quadrature: a bulk around zero, and a few outliers.

# %%
density = single.density(probes=4, steps=40)
axes = density.plot()
for value in top.values:
    axes.axvline(value, color="grey", linewidth=0.5)

# %% [markdown]
# ## A GPT
#
# Two blocks of causal attention over the characters of this repository's README, embedding and head tied. The module's
# logits are [n, tokens, positions], as `CrossEntropyLoss` has them.

# %%
text = (root / "README.md").read_text()
alphabet = sorted(set(text))
codes = torch.tensor([alphabet.index(c) for c in text])
POSITIONS, WIDTH = 32, 32


class Layer(nn.Module):
    def __init__(self, heads=4):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (p.view(n, t, self.heads, -1).transpose(1, 2) for p in self.qkv(self.ln1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(len(alphabet), WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.layers = nn.Sequential(Layer(), Layer())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(alphabet), bias=False)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        return self.head(self.norm(self.layers(h))).transpose(1, 2)


def sentences(size=32):
    at = torch.randint(len(codes) - POSITIONS - 1, (size, 1)) + torch.arange(POSITIONS + 1)
    return codes[at[:, :-1]], codes[at[:, 1:]]


gpt = GPT()
losses = train(gpt, sentences, 300, 0.05)
gpt.eval()
some = sentences(32)
start = time.perf_counter()
H_gpt = qn.hessian(gpt, nn.CrossEntropyLoss(), some, dtype="float32")
top_gpt = H_gpt.eigsh(k=6, tol=1e-3)
print(f"loss {np.mean(losses[-20:]):.2f} nats; {H_gpt.shape[0]:,} parameters, {top_gpt.matvecs} products, {time.perf_counter() - start:.1f} s")
top_gpt

# %%
vector = np.random.default_rng(0).standard_normal(H_gpt.shape[0])
with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
    theirs = product_by_pytorch(gpt, some, vector)
ours = qn.hessian(gpt, nn.CrossEntropyLoss(), some) @ vector
assert np.linalg.norm(ours - theirs) < 1e-9 * np.linalg.norm(theirs)

# %% [markdown]
# ## Every eigenvalue
#
# Of a network this small the matrix itself can be had, and with it the whole spectrum. What the density smooths is here
# exact, and the sum of the eigenvalues is the trace.

# %%
mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
train(mlp, digits, 300, 0.05)
H_mlp = qn.hessian(mlp, nn.CrossEntropyLoss(), data)
spectrum = qn.full_spectrum(H_mlp, k=10, which="LA")
np.testing.assert_allclose(spectrum.values.sum(), np.trace(H_mlp.to_dense()), rtol=1e-9)
np.testing.assert_allclose(spectrum.values[::-1][:10], H_mlp.eigsh(k=10).values, rtol=1e-6)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
left.plot(np.arange(1, len(spectrum) + 1), spectrum.values[::-1])
left.set_yscale("symlog", linthresh=1e-6)
left.set(xlabel="index", ylabel="eigenvalue", title=f"all {len(spectrum):,}")
H_mlp.density(probes=10, steps=60).plot(right)
spectrum
