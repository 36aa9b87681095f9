"""Energy, layers and the loss along directions."""

import numpy as np
import pytest

import qn

torch = pytest.importorskip("torch")


def problem(*middle):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), *middle, torch.nn.Linear(4, 3)).double()
    return model, (torch.randn(30, 5, dtype=torch.float64), torch.randint(0, 3, (30,)))


def test_energy_is_that_of_the_dense_eigenvectors():
    model, data = problem(torch.nn.Tanh())
    h = qn.hessian(model, "cross_entropy", data)
    values, vectors = np.linalg.eigh(h.to_dense())
    found = qn.energy(h, h.eigsh(4, tol=1e-10))
    g = h.gradient / np.linalg.norm(h.gradient)
    np.testing.assert_allclose(found.shares, (g @ vectors[:, :-5:-1]) ** 2, atol=1e-10)
    assert found.layers == ("0", "2") and found.masses.shape == (4, 2)
    np.testing.assert_allclose(found.masses.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.masses[:, 0], (vectors[:24, :-5:-1] ** 2).sum(axis=0), atol=1e-8)
    np.testing.assert_allclose(found.participation, 1 / (vectors[:, :-5:-1] ** 4).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.sizes, [24 / 39, 15 / 39])
    for scale in (1e-300, 1e300):
        tiny = qn.energy(h, h.eigsh(4, tol=1e-10), g * scale)
        np.testing.assert_allclose(tiny.shares, found.shares, rtol=1e-9)
    everything = qn.energy(h, h.eigsh(39))
    assert abs(everything.shares.sum() - 1) < 1e-10 and "eigenvectors" in repr(everything)
    with pytest.raises(ValueError, match="no eigenpairs"):
        qn.energy(h, vectors)


def test_layers_are_the_diagonal_blocks():
    model, data = problem(torch.nn.Tanh())
    h = qn.hessian(model, "cross_entropy", data)
    dense, layers = h.to_dense(), h.layers()
    assert list(layers) == ["0", "2"]
    np.testing.assert_allclose(layers["0"].to_dense(), dense[:24, :24], atol=1e-13)
    np.testing.assert_allclose(layers["2"].to_dense(), dense[24:, 24:], atol=1e-13)


def test_a_quadratic_loss_is_its_model():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).double()
    data = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    random = qn.filter_normalised(model, seed=1)
    norms = np.linalg.norm(random["weight"], axis=1)
    np.testing.assert_allclose(norms, model.weight.detach().norm(dim=1).numpy())
    assert (random["bias"] == 0).all()
    gradient = qn.hessian(model, "mse", data).gradient
    for along in (random, [gradient], [random, gradient]):
        found = qn.surface(model, "mse", data, along, range=2.0, weight_decay=0.1)
        np.testing.assert_allclose(found.losses, found.model, rtol=1e-11)
        assert found.losses.shape == ((51,) if len(found.slopes) == 1 else (21, 21)) and "Surface" in repr(found)


def test_the_loss_along_a_direction_is_that_of_the_moved_module():
    model, data = problem(torch.nn.Tanh())
    h = qn.hessian(model, "cross_entropy", data)
    pairs = h.eigsh(1, tol=1e-10)
    found = qn.surface(model, "cross_entropy", data, pairs.vectors[:, 0], points=3)
    assert abs(found.curvature[0, 0] - pairs.values[0]) < 1e-9
    before = [p.detach().clone() for p in model.parameters()]
    vector = pairs.vector(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p += torch.from_numpy(np.ascontiguousarray(vector[name]))
    assert abs(found.losses[2] - qn.hessian(model, "cross_entropy", data).loss) < 1e-13
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    for bad, words in (({"points": 4}, "odd"), ({"along": np.ones(3)}, "39 parameters"), ({"along": []}, "one or two")):
        with pytest.raises(ValueError, match=words):
            qn.surface(model, "cross_entropy", data, **{"along": h.gradient, **bad})


def test_figures_are_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    model, data = problem(torch.nn.ReLU())
    h = qn.hessian(model, "cross_entropy", data)
    random = [qn.filter_normalised(model, seed) for seed in (0, 1)]
    results = [qn.energy(h, h.eigsh(3)), qn.surface(model, "cross_entropy", data, random, points=5)]
    results.append(qn.surface(model, "cross_entropy", data, random[0], points=5))
    for result in results:
        assert result.plot().get_xlabel() and result._repr_html_().startswith("<table>")
