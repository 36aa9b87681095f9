"""Opens what `qn-analyse export` wrote in PyTorch, and checks the top eigenpair with curvlinops.

    cargo run --release --bin qn-analyse -- reproduce digits
    qn-analyse export parameters runs/digits/sgd -o runs/digits/sgd.safetensors
    qn-analyse export eigenvectors runs/digits/sgd -o runs/digits/vectors.safetensors
    pip install torch==2.15.0 safetensors curvlinops-for-pytorch==3.0.1
    python analysis/examples/open_in_pytorch.py
"""

import inspect
from collections import OrderedDict

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from safetensors.torch import load_file
from torch import nn

torch.set_default_dtype(torch.float64)
net = nn.Sequential(OrderedDict(
    conv1=nn.Conv2d(1, 8, 3, padding=1), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
    conv2=nn.Conv2d(8, 16, 3, padding=1), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
    flat=nn.Flatten(), fc=nn.Linear(64, 10),
))
net.load_state_dict(load_file("runs/digits/sgd.safetensors"))

records = torch.from_numpy(np.fromfile("crates/qn-data/assets/digits.bin", np.uint8).reshape(-1, 65)[:1437].copy())
pixels = records[:, :64].double() / 16
images = ((pixels - pixels.mean()) / pixels.std(correction=0)).reshape(-1, 1, 8, 8)
names, params = zip(*net.named_parameters())
# Releases after 3.0.1 may take the parameters as a dict by name.
annotation = str(inspect.signature(HessianLinearOperator).parameters["params"].annotation).lower()
params = dict(zip(names, params)) if "dict" in annotation or "mapping" in annotation else list(params)
hessian = HessianLinearOperator(net, nn.CrossEntropyLoss(), params, [(images, records[:, 64].long())])

found = load_file("runs/digits/vectors.safetensors")
value, vector = found["eigenvalues"][0], [found[name][0] for name in names]
product = hessian @ vector
product = [product[name] for name in names] if isinstance(product, dict) else product
residual = sum(((hv - value * v) ** 2).sum() for hv, v in zip(product, vector)).sqrt()
print(f"lambda_1 = {value:.6f}, |H v - lambda v| / lambda = {residual / value:.1e}")
assert residual < 1e-6 * value
