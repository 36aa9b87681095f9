"""Every operator, by both backends, on modules of many kinds, against torch.autograd in double precision."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import networks
import reference
from torch import nn

import qn

TOLERANCE = 1e-9


def close(found, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected)
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def compare(model, x, y, loss_fn, sum_fn, terms, backend, names=None):
    h = qn.hessian(model, loss_fn, (x, y), params=names, backend=backend)
    operators = {name: h.with_operator(name) for name in ("ggn", "residual", "fisher")}
    assert all(o.backend == backend and o.name == name for name, o in operators.items())
    model = networks.twice_differentiable(model)
    close(h.loss, reference.loss(model, loss_fn, x, y).item(), 1e-10)
    close(h.gradient, reference.gradient(model, loss_fn, x, y, names).detach())
    v = torch.as_tensor(np.random.default_rng(1).standard_normal(h.shape[0]))
    hv = reference.hessian_product(model, loss_fn, x, y, v, names)
    gv = reference.ggn_product(model, loss_fn, x, y, v, names)
    close(h @ v.numpy(), hv)
    close(operators["ggn"] @ v.numpy(), gv)
    residual = operators["residual"] @ v.numpy()
    assert np.linalg.norm(residual - (hv - gv).numpy()) <= TOLERANCE * np.linalg.norm(hv)
    close(operators["fisher"] @ v.numpy(), reference.fisher_product(model, sum_fn, x, y, v, terms, names))


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", networks.SMALL)
def test_small_modules(name, backend):
    model, x = networks.shaken(networks.SMALL[name])
    y = networks.labels_for(model, x)
    compare(model, x, y, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), y.numel(), backend)


@pytest.mark.parametrize("name", networks.TORCHVISION)
def test_torchvision(name):
    model, x = networks.shaken(lambda: networks.torchvision_net(name))
    y = networks.labels_for(model, x)
    compare(model, x, y, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), y.numel(), "native")


LOSSES = {
    "class weights": (lambda r: nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0]).double(), reduction=r), "labels"),
    "smoothing": (lambda r: nn.CrossEntropyLoss(label_smoothing=0.1, reduction=r), "labels"),
    "ignored": (lambda r: nn.CrossEntropyLoss(ignore_index=1, reduction=r), "labels"),
    "soft labels": (lambda r: nn.CrossEntropyLoss(label_smoothing=0.2, reduction=r), "soft"),
    "mse": (lambda r: nn.MSELoss(reduction=r), "values"),
    "bce of weighted outputs": (
        lambda r: nn.BCEWithLogitsLoss(torch.tensor([[2.0, 0.0, 0.5]]).double(), reduction=r), "soft",
    ),
    "bce": (lambda r: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 1.0, 2.0]).double(), reduction=r), "soft"),
}


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, reduction, backend):
    make, kind = LOSSES[name]
    model, x = networks.shaken(networks.SMALL["mlp"])
    y = torch.tensor([0, 1, 2, 2, 0, 1])
    if kind != "labels":
        values = torch.randn(6, 3, dtype=torch.float64)
        y = values.softmax(1) if kind == "soft" else values
    terms = 1.0
    if reduction == "mean":
        z = model(x)
        terms = (make("sum")(z, y) / make("mean")(z, y)).item()
    compare(model, x, y, make(reduction), make("sum"), terms, backend)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_some_parameters(backend):
    model, x = networks.shaken(networks.SMALL["cnn with batch norm"])
    y = networks.labels_for(model, x)
    names = ["1.weight", "4.weight", "8.bias"]
    compare(model, x, y, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), len(x), backend, names)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_frozen_unused_and_shared_parameters(backend):
    model, x = networks.shaken(networks.SMALL["GPT"])
    y = networks.labels_for(model, x)
    model.register_parameter("unused", nn.Parameter(torch.randn(3, dtype=torch.float64)))
    model.mlp[0][1].weight.requires_grad_(False)
    h = qn.hessian(model, nn.CrossEntropyLoss(), (x, y), backend=backend)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert h.layout.names == tuple(names)
    assert "head.weight" not in names and "mlp.0.1.weight" not in names
    v = torch.randn(h.shape[0], dtype=torch.float64)
    found = h @ v.numpy()
    close(found, reference.hessian_product(model, nn.CrossEntropyLoss(), x, y, v, names))
    assert not np.any(h.layout.split(found)["unused"])


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_padding_rows_are_zero(backend):
    model, x = networks.shaken(networks.SMALL["padding"])
    h = qn.hessian(model, "cross_entropy", (x, networks.labels_for(model, x)), backend=backend)
    a = h.to_dense()
    assert np.any(a) and not np.any(a[h.layout.slice(0)][:4])


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_weight_decay_is_of_the_chosen_parameters(backend):
    model, x = networks.shaken(networks.SMALL["mlp"])
    data = x, networks.labels_for(model, x)
    for params in (None, ["1.weight"]):
        plain, decayed = (
            qn.hessian(model, "cross_entropy", data, params=params, weight_decay=d, backend=backend) for d in (0.0, 0.3)
        )
        named = dict(model.named_parameters())
        theta = np.concatenate([named[n].detach().numpy().reshape(-1) for n in plain.layout.names])
        np.testing.assert_allclose(decayed.loss - plain.loss, 0.15 * theta @ theta, rtol=1e-9)
        np.testing.assert_allclose(decayed.gradient - plain.gradient, 0.3 * theta, atol=1e-12)
        np.testing.assert_allclose(decayed.to_dense() - plain.to_dense(), 0.3 * np.eye(len(theta)), atol=1e-12)


def test_single_precision_agrees_with_double():
    model, x = networks.shaken(networks.SMALL["cnn with batch norm"])
    data = x, networks.labels_for(model, x)
    v = np.random.default_rng(0).standard_normal(sum(p.numel() for p in model.parameters()))
    expected = qn.hessian(model, "cross_entropy", data) @ v
    for backend in ("native", "torch"):
        h = qn.hessian(model, "cross_entropy", data, dtype="float32", backend=backend)
        assert h.dtype == np.float32
        close(h @ v, expected, 1e-4)
        assert (h @ v.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_operators_are_asked_for_by_name(backend):
    model, x = networks.shaken(networks.SMALL["mlp"])
    data = x, networks.labels_for(model, x)
    h = qn.hessian(model, "cross_entropy", data, backend=backend)
    found = {n: qn.hessian(model, "cross_entropy", data, operator=n, backend=backend) for n in ("ggn", "residual", "fisher")}
    for name, operator in found.items():
        np.testing.assert_allclose(operator.to_dense(), h.with_operator(name).to_dense(), atol=1e-14)
    np.testing.assert_allclose(found["ggn"].to_dense() + found["residual"].to_dense(), h.to_dense(), atol=1e-12)
    with pytest.raises(ValueError, match="operator 'ggm'"):
        h.with_operator("ggm")


def test_threads_do_not_change_a_bit():
    model, x = networks.shaken(networks.SMALL["cnn with batch norm"])
    x = networks.noise(300, 3, 10, 10)
    data = x, networks.labels_for(model, x)
    v = np.random.default_rng(0).standard_normal((sum(p.numel() for p in model.parameters()), 3))
    one, two = (qn.hessian(model, "cross_entropy", data, threads=t, backend="native") @ v for t in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_activations(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.Softplus(), nn.Linear(5, 4)
    ).double()
    x, y = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    found = qn.hessian(model, nn.CrossEntropyLoss(), (x, y), operator=name, weight_decay=0.5).activations()
    assert list(found) == ["input", "4.input", "6.input", "output"]
    parts = {"input": (model, x), "4.input": (model[4:], model[:4](x)), "6.input": (model[6:], model[:6](x))}
    for at, (part, values) in (parts | {"output": (nn.Identity(), model(x))}).items():
        expected = 0.0
        for value, label in zip(values.detach(), y):
            outputs = lambda v: part(v.reshape(1, *value.shape)).reshape(-1)  # noqa: E731
            loss = lambda z: nn.functional.cross_entropy(z, label)  # noqa: E731
            if name == "hessian":
                expected += torch.func.hessian(lambda v: loss(outputs(v)))(value.reshape(-1)) / 6
            else:
                jacobian = torch.func.jacrev(outputs)(value.reshape(-1))
                expected += jacobian.T @ torch.func.hessian(loss)(outputs(value)) @ jacobian / 6
        close(found[at].to_dense(), expected.detach())
    h = qn.hessian(model, nn.CrossEntropyLoss(), (x, y))
    assert list(h.activations("[46].*")) == ["4.input", "6.input"]
    with pytest.raises(ValueError, match="no activation is called '5.input'.*output"):
        h.activations("5.input")
    with pytest.raises(ValueError, match='backend="native" alone'):
        qn.hessian(model, nn.CrossEntropyLoss(), (x, y), backend="torch").activations()


OPTIMISERS = {
    "adam": (torch.optim.Adam, {"betas": (0.0, 0.95)}),
    "amsgrad": (torch.optim.AdamW, {"betas": (0.0, 0.9), "amsgrad": True, "weight_decay": 0.0}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9}),
    "centred": (torch.optim.RMSprop, {"centered": True}),
    "adagrad": (torch.optim.Adagrad, {}),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_preconditioned(name):
    """A step of an optimiser without momentum is the gradient over D."""
    model, x = networks.shaken(networks.SMALL["mlp"])
    y = networks.labels_for(model, x)
    make, options = OPTIMISERS[name]
    optimizer = make(model.parameters(), lr=0.01, **options)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = reference.flat([p.detach().clone() for p in model.parameters()])
        optimizer.step()
    moved = before - reference.flat([p.detach() for p in model.parameters()])
    h = qn.hessian(model, nn.CrossEntropyLoss(), (x, y))
    d = h.preconditioned(optimizer).diagonal
    close(moved.numpy() * d, 0.01 * reference.flat([p.grad for p in model.parameters()]))

    dense = h.to_dense() / np.sqrt(np.outer(d, d))
    close(h.preconditioned(optimizer).to_dense(), dense)
    assert np.array_equal(h.preconditioned(optimizer.state_dict()).diagonal, d)
    close(h.preconditioned(dict(h.layout.split(d))).gradient, h.gradient / np.sqrt(d))
    part = h.preconditioned(optimizer).restrict("1.*")
    close(part.to_dense(), dense[: part.shape[0], : part.shape[0]])
    close(h.preconditioned(d).eigsh(1).values, np.linalg.eigvalsh(dense)[-1:], 1e-6)


def test_what_cannot_precondition_is_refused():
    model, x = networks.shaken(networks.SMALL["mlp"])
    h = qn.hessian(model, nn.CrossEntropyLoss(), (x, networks.labels_for(model, x)))
    with pytest.raises(ValueError, match="no mean squares of '.*Adam"):
        h.preconditioned(torch.optim.SGD(model.parameters(), lr=0.1))
    for make in (torch.optim.Adagrad, torch.optim.Adam):
        with pytest.raises(ValueError, match="has taken no step"):
            h.preconditioned(make(model.parameters()))
    adadelta = torch.optim.Adadelta(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    adadelta.step()
    with pytest.raises(ValueError, match="no mean squares"):
        h.preconditioned(adadelta)
    twice = h.preconditioned(np.ones(h.shape[0]))
    for ask in (twice.activations, lambda: twice.preconditioned(np.ones(h.shape[0])), lambda: qn.hierarchy(twice)):
        with pytest.raises(ValueError, match="operator itself"):
            ask()
    with pytest.raises(ValueError, match="does not have"):
        h.preconditioned(torch.optim.Adam([nn.Parameter(torch.zeros(3))]))
    with pytest.raises(ValueError, match="positive"):
        h.preconditioned(np.zeros(h.shape[0]))
    with pytest.raises(ValueError, match="shape"):
        h.preconditioned(np.ones(3))
