"""`qn.hessian`: what it accepts, what it refuses, and what its operators offer."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import networks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import qn


def problem(**options):
    model, x = networks.shaken(networks.SMALL["mlp"])
    return model, x, torch.tensor([0, 1, 2, 2, 0, 1])


@pytest.fixture
def h():
    model, x, y = problem()
    return qn.hessian(model, "cross_entropy", (x, y), backend="native")


def test_data_in_every_form_give_one_loss():
    model, x, y = problem()
    expected = nn.CrossEntropyLoss()(model(x), y).item()
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    forms = [(x, y), (x.numpy(), y.numpy()), [(x[:2], y[:2]), (x[2:], y[2:])], loader, (x.float().double(), y.int())]
    for data in forms:
        found = qn.hessian(model, nn.CrossEntropyLoss(), data, backend="native").loss
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_parameters_are_chosen_by_pattern_list_or_function():
    model, x, y = problem()
    ways = {"*.weight": ("1.weight", "3.weight"), ("1.*",): ("1.weight", "1.bias")}
    for params, names in ways.items():
        params = params if isinstance(params, str) else list(params)
        assert qn.hessian(model, "cross_entropy", (x, y), params=params).layout.names == names
    small = qn.hessian(model, "cross_entropy", (x, y), params=lambda name, p: p.numel() < 10)
    assert small.layout.names == ("1.bias", "3.bias")
    with pytest.raises(ValueError, match="no parameter is called 'nothing'.*1.weight"):
        qn.hessian(model, "cross_entropy", (x, y), params="nothing")


def test_restricted_operators_are_blocks(h):
    whole = h.to_dense()
    for backend in ("native", "torch"):
        model, x, y = problem()
        part = qn.hessian(model, "cross_entropy", (x, y), backend=backend).restrict("3.*")
        at = slice(h.layout.offsets[2], h.layout.offsets[4])
        np.testing.assert_allclose(part.to_dense(), whole[at, at], atol=1e-12)


def test_batch_norm_and_dropout_in_train_mode_are_refused_with_the_reason():
    model, x = networks.shaken(networks.SMALL["cnn with batch norm"])
    y = networks.labels_for(model, x)
    model.train()
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm2d\).*other samples.*model.eval\(\)"):
        qn.hessian(model, "cross_entropy", (x, y))
    dropping = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="drops out"):
        qn.hessian(dropping, "mse", (torch.randn(4, 3), torch.randn(4, 3)))


class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"deep": nn.Linear(3, 3)})

    def forward(self, x):
        return torch.cumsum(self.inner["deep"](x), 1)


def test_an_unknown_operation_is_named_and_auto_takes_torch():
    model, data = Cumulative().double(), (torch.randn(4, 3).double(), torch.randn(4, 3).double())
    with pytest.raises(qn.UnsupportedOperation, match=r"aten.cumsum.default.*backend=\"torch\"") as caught:
        qn.hessian(model, "mse", data, backend="native")
    assert caught.value.operation == "aten.cumsum.default"
    with pytest.warns(UserWarning, match="cumsum"):
        h = qn.hessian(model, "mse", data)
    assert h.backend == "torch"
    np.testing.assert_allclose(h.to_dense(), h.to_dense().T)


def test_samples_that_see_each_other_are_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            y = self.layer(x)
            return y - y.mean(0)

    with pytest.raises(qn.UnsupportedOperation, match="samples"):
        qn.hessian(Mixing(), "mse", (torch.randn(4, 3), torch.randn(4, 2)), backend="native")


def test_detached_parameters_are_not_differentiated_in_silence():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = self.layer(x)
            return y * y.detach()

    data = torch.randn(4, 3), torch.randn(4, 3)
    model = Detached()
    with pytest.raises(qn.UnsupportedOperation, match="stops derivatives"):
        qn.hessian(model, "mse", data, backend="native")
    with pytest.warns(UserWarning, match="stops derivatives"):
        assert qn.hessian(model, "mse", data).backend == "torch"


def test_what_pytorch_cannot_differentiate_twice_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Hardsigmoid(), nn.Linear(3, 2)).double()
    data = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    h = qn.hessian(model, "mse", data, backend="torch")
    with pytest.raises(qn.UnsupportedOperation, match="no second derivative in PyTorch; use backend=\"native\""):
        h @ np.ones(h.shape[0])
    native, gentle = qn.hessian(model, "mse", data, backend="native"), networks.twice_differentiable(model)
    expected = qn.hessian(gentle, "mse", data, backend="torch") @ np.ones(h.shape[0])
    np.testing.assert_allclose(native @ np.ones(h.shape[0]), expected, rtol=1e-9)


REFUSED = [
    ({"operator": "fischer"}, "operator 'fischer'"),
    ({"backend": "cuda"}, "backend 'cuda'"),
    ({"dtype": "float16"}, "neither float64 nor float32"),
    ({"loss_fn": "hinge"}, "loss 'hinge'"),
    ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, "reduction"),
    ({"data": (torch.zeros(0, 3, 4), torch.zeros(0))}, "no samples"),
    ({"data": 3}, "no data"),
    ({"model": lambda x: x}, "torch module"),
]


@pytest.mark.parametrize("change, words", REFUSED)
def test_wrong_arguments_are_refused_by_name(change, words):
    model, x, y = problem()
    arguments = {"model": model, "loss_fn": "cross_entropy", "data": (x, y)} | change
    with pytest.raises(ValueError, match=words):
        qn.hessian(**arguments)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_labels_and_targets_that_do_not_fit_are_refused(backend):
    model, x, y = problem()
    with pytest.raises(ValueError):
        qn.hessian(model, "cross_entropy", (x, y[:4]), backend=backend).loss
    with pytest.raises(ValueError):
        qn.hessian(model, "mse", (x, torch.randn(6)), backend=backend).loss


def test_vectors_in_every_form(h):
    n = h.shape[0]
    block = np.random.default_rng(0).standard_normal((n, 3))
    expected = h.to_dense() @ block
    for form in (block, np.asfortranarray(block), np.repeat(block, 2, 1)[:, ::2], block.astype(np.longdouble)):
        np.testing.assert_allclose(h @ form, expected, atol=1e-12)
    np.testing.assert_allclose(h @ torch.as_tensor(block), expected, atol=1e-12)
    np.testing.assert_allclose(h.matvec(block[:, :1]), expected[:, :1], atol=1e-12)
    tensors = {k: torch.as_tensor(v) for k, v in h.layout.split(block[:, 0]).items()}
    product = h @ tensors
    assert all(isinstance(p, torch.Tensor) and p.shape == tensors[k].shape for k, p in product.items())
    np.testing.assert_allclose(h.layout.join(product), expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(h.quadratic(block), np.einsum("ij,ij->j", block, expected), atol=1e-12)
    ones = np.ones(n, dtype=np.int64)
    np.testing.assert_allclose(h @ ones, h @ ones.astype(float))
    for wrong in (block[:-1], block.astype(complex), np.full(n, np.nan)):
        with pytest.raises(ValueError):
            h @ wrong


def test_eigenpairs_agree_with_the_matrix_and_with_scipy(h):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    values = np.linalg.eigvalsh(h.to_dense())
    found = h.eigsh(k=4, which="LA", tol=1e-8)
    np.testing.assert_allclose(found.values, values[::-1][:4], rtol=1e-7)
    assert found.converged == 4 and found.residuals.max() <= 1e-8 * abs(values).max()
    theirs = linalg.eigsh(h.to_scipy(), k=4, which="LA")[0]
    np.testing.assert_allclose(found.values[::-1], theirs, rtol=1e-7)
    np.testing.assert_allclose(h.eigvalsh(), values, atol=1e-12)
    spectrum = h.eigh(3, which="BE")
    np.testing.assert_allclose(spectrum.values[spectrum.chosen], values[[0, -2, -1]], atol=1e-12)
    assert found.vector(0)["1.weight"].shape == (5, 12)


def test_traces_norms_and_densities(h):
    a = h.to_dense()
    trace = h.trace(products=200)
    assert abs(trace.value - np.trace(a)) <= 4 * trace.standard_error + 1e-9
    norm = h.frobenius(products=400)
    assert abs(norm.value - np.linalg.norm(a)) <= 4 * norm.standard_error
    density = h.density(probes=4, steps=40)
    np.testing.assert_allclose(np.trapezoid(density.density, density.grid), 1.0, rtol=1e-3)
    blocks = h.block_norms()
    at = h.layout.slice(2)
    assert blocks.exact
    np.testing.assert_allclose(blocks.values[2, 2], np.linalg.norm(a[at, at]))
    np.testing.assert_allclose(blocks.traces.sum(), np.trace(a))


def test_figures_and_tables(h):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = h.eigsh(k=3)
    results = [found, h.density(probes=2, steps=10), h.eigh(0), h.block_norms(), qn.overlap(found, found.vectors[:, :2])]
    for result in results:
        assert result.plot().get_xlabel() or result.plot().images
        assert result._repr_html_().startswith("<table>") and repr(result)
    assert "mlp" not in h._repr_html_() and "native" in h._repr_html_()


def test_track_goes_through_checkpoints_and_puts_the_parameters_back():
    model, x, y = problem()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scaled = {k: 1.1 * v for k, v in before.items()}
    found = qn.track(model, "cross_entropy", (x, y), [before, ("later", scaled)], k=2)
    assert np.allclose(np.diag(found.overlaps), 1.0) and np.allclose(found.overlaps, found.overlaps.T)
    assert np.isclose(found.overlaps[0, 1], found.rows[1]["overlap"]) and found.chance == 2 / sum(p.numel() for p in model.parameters())
    found.plot_overlaps()
    assert [row["step"] for row in found.rows] == [0, "later"]
    assert found.rows[0]["overlap"] is None and 0 <= found.rows[1]["overlap"] <= 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_no_warning_where_the_engine_knows_everything():
    model, x, y = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert qn.hessian(model, "cross_entropy", (x, y)).backend == "native"
