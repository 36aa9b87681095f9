"""Products of both backends against curvlinops 3.0.1, in double precision.

Its products are wrong where there is layer normalisation, so that no network here has one.
"""

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch")
curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")

import networks
from torch import nn

import qn

OPERATORS = {
    "hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator, "fisher": curvlinops.EFLinearOperator,
}  # fmt: skip
LOSSES = {
    "cross_entropy": lambda z: (nn.CrossEntropyLoss(), torch.randint(0, z.shape[1], (len(z),))),
    "mse": lambda z: (nn.MSELoss(), torch.randn_like(z)),
    "bce": lambda z: (nn.BCEWithLogitsLoss(), torch.rand_like(z).round()),
}


def theirs(kind, model, loss, data):
    """An operator of curvlinops over two minibatches; releases after 3.0.1 may take the parameters as a dict by name."""
    x, y = data
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    annotation = str(inspect.signature(kind).parameters["params"].annotation).lower()
    params = named if "dict" in annotation or "mapping" in annotation else list(named.values())
    half = len(x) // 2
    return kind(model, loss, params, [(x[:half], y[:half]), (x[half:], y[half:])], check_deterministic=False)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["mlp", "cnn with batch norm", "one axis of space"])
def test_products_are_those_of_curvlinops(name, loss, backend):
    model, x = networks.shaken(networks.SMALL[name])
    with torch.no_grad():
        loss_fn, y = LOSSES[loss](model(x))
    h = qn.hessian(model, loss_fn, (x, y), backend=backend)
    v = np.random.default_rng(0).standard_normal((h.shape[0], 2))
    for operator, kind in OPERATORS.items():
        expected = (theirs(kind, model, loss_fn, (x, y)) @ torch.as_tensor(v)).detach().numpy()
        found = h.with_operator(operator) @ v
        assert np.linalg.norm(found - expected) <= 1e-9 * np.linalg.norm(expected), operator


def test_the_solvers_take_an_operator_of_curvlinops():
    model, x = networks.shaken(networks.SMALL["mlp"])
    loss, y = nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 2, 0, 1])
    operator = theirs(curvlinops.HessianLinearOperator, model, loss, (x, y))
    h = qn.hessian(model, loss, (x, y))
    np.testing.assert_allclose(qn.eigsh(operator, 3, which="LA").values, h.eigsh(3).values, rtol=1e-9)
    np.testing.assert_allclose(qn.trace(operator, products=30).value, h.trace(products=30).value, rtol=1e-9)
