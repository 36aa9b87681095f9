"""The shape of spectra, Papyan's hierarchy and attention's parts, against what numpy says of the definitions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import qn


def test_shape_by_hand():
    found = qn.shape(np.array([4.0, 2.0, 2.0, -1.0, 0.0]), classes=1, alpha=[2.0])
    assert found.stable_rank == pytest.approx((16 + 4 + 4 + 1) / 16)
    assert found.participation_ratio == pytest.approx(81 / 25)
    assert found.negative_share == pytest.approx(1 / 9)
    assert found.effective_dimensions == {2.0: pytest.approx(4 / 6 + 0.5 + 0.5)}
    q = np.array([4, 2, 2, 1]) / 9
    assert found.effective_rank == pytest.approx(np.exp(-(q * np.log(q)).sum()))
    assert found.gaps[0] == (1, 2.0) and found.gap_at_classes == {"index": 1, "ratio": 2.0, "wider": 0, "of": 2}
    assert found.tail is None and "stable_rank" in repr(found)
    with pytest.raises(ValueError, match="alpha"):
        qn.shape([1.0], alpha=[0.0])
    with pytest.raises(ValueError, match="finite"):
        qn.shape([1.0, np.nan])


def test_shape_of_a_power_law():
    values = np.random.default_rng(0).pareto(1.5, 4000) + 1.0
    found = qn.shape(values, draws=20)
    assert abs(found.tail.exponent - 2.5) < 5 * found.tail.standard_error and found.tail.p_value > 0.01
    assert found.plot().get_xscale() == "log"


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(24, 4, dtype=torch.float64), torch.arange(24) % 3
    return model, x, y


def test_hierarchy_by_its_definition():
    model, x, y = problem()
    h = qn.hessian(model, nn.CrossEntropyLoss(), (x, y))
    found = qn.hierarchy(h, k=4, tol=1e-9)
    named = dict(model.named_parameters())
    names = list(named)

    def outputs(flat, sample):
        parts = flat.split([named[n].numel() for n in names])
        shaped = {n: part.reshape(named[n].shape) for n, part in zip(names, parts)}
        return torch.func.functional_call(model, shaped, (sample[None],))[0]

    theta = torch.cat([named[n].detach().reshape(-1) for n in names])
    jacobians = [torch.func.jacrev(outputs)(theta, sample).detach().numpy() for sample in x]
    p = model(x).softmax(1).detach().numpy()
    g = np.array([[j.T @ (np.eye(3)[c] - p[i]) for c in range(3)] for i, j in enumerate(jacobians)])
    w = p / len(x)
    label = y.numpy()
    own = sum(w[i, label[i]] * np.outer(g[i, label[i]], g[i, label[i]]) for i in range(24))
    of_class, cross, within = (np.zeros_like(own) for _ in range(3))
    for c in range(3):
        members, others = np.flatnonzero(label == c), [o for o in range(3) if o != c]
        weights = {o: w[members, o].sum() for o in others}
        means = {o: (w[members, o, None] * g[members, o]).sum(0) / weights[o] for o in others}
        centre = sum(weights[o] * means[o] for o in others) / sum(weights.values())
        of_class += sum(weights.values()) * np.outer(centre, centre)
        for o in others:
            cross += weights[o] * np.outer(means[o] - centre, means[o] - centre)
            within += sum(w[i, o] * np.outer(g[i, o] - means[o], g[i, o] - means[o]) for i in members)
    expected = {"own_class": own, "class": of_class, "cross_class": cross, "within_class": within}
    expected["whole"] = h.with_operator("ggn").to_dense()
    np.testing.assert_allclose(own + of_class + cross + within, expected["whole"], atol=1e-12)
    for name, matrix in expected.items():
        assert found.parts[name].trace.value == pytest.approx(np.trace(matrix), rel=1e-9)
        values = np.maximum(np.linalg.eigvalsh(matrix)[::-1][:4], 0)
        np.testing.assert_allclose(found.parts[name].eigenvalues, values, atol=1e-9 * values[0])
    assert found.converged and found.cosines.shape == (3, 4)
    assert found.plot().get_yscale() == "log" and "G_0" in repr(found)


def test_hierarchy_wants_plain_cross_entropy():
    model, x, y = problem()
    for loss, backend, match in [
        (nn.CrossEntropyLoss(label_smoothing=0.1), "native", "without weights"),
        (nn.CrossEntropyLoss(reduction="sum"), "native", "mean cross-entropy"),
        (nn.CrossEntropyLoss(), "torch", "native"),
    ]:
        with pytest.raises(ValueError, match=match):
            qn.hierarchy(qn.hessian(model, loss, (x, y), backend=backend))


def test_attention_has_three_parts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    model = Net().double().eval()
    h = qn.hessian(model, "cross_entropy", (torch.randn(6, 5, 4, dtype=torch.float64), torch.arange(6) % 3))
    found = qn.energy(h, h.eigsh(3))
    assert list(found.layers) == ["attention.query", "attention.key", "attention.value", "attention.out_proj", "head"]
    np.testing.assert_allclose(found.masses.sum(1), 1.0)
    np.testing.assert_allclose(found.sizes * h.shape[0], [20, 20, 20, 20, 15])
