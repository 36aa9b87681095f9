"""Networks described by a layer list: nothing here needs torch."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import qn

SIZES = (4, 5, 3)
LAYERS = """
name = "small"
input = [4]
classes = 3
layers = [
  { type = "linear", name = "one", out_features = 5 },
  { type = "tanh" },
  { type = "linear", name = "two", out_features = 3 },
]
"""


def numbers(seed=0, samples=6):
    """Parameters by name, inputs and labels."""
    rng = np.random.default_rng(seed)
    a, b, c = SIZES
    state = {"one.weight": (b, a), "one.bias": (b,), "two.weight": (c, b), "two.bias": (c,)}
    state = {name: rng.standard_normal(shape) for name, shape in state.items()}
    return state, rng.standard_normal((samples, a)), rng.integers(0, c, samples)


def loss_and_gradient(theta, x, y):
    """Mean cross-entropy of the small network and its gradient, written out."""
    a, b, c = SIZES
    w1, b1, w2, b2 = np.split(theta, np.cumsum([b * a, b, c * b]))
    w1, w2 = w1.reshape(b, a), w2.reshape(c, b)
    h = np.tanh(x @ w1.T + b1)
    z = h @ w2.T + b2
    z = z - z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    delta = p.copy()
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = (delta @ w2) * (1 - h**2)
    return loss, np.concatenate([(back.T @ x).ravel(), back.sum(0), (delta.T @ h).ravel(), delta.sum(0)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(LAYERS)
    return path


def safetensors(path, state, dtype=np.float32):
    """A safetensors file, written by hand."""
    header, body = {}, b""
    for name, a in state.items():
        data = np.ascontiguousarray(a, dtype=dtype).tobytes()
        kind = {np.float32: "F32", np.float64: "F64"}[dtype]
        header[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_the_derivatives_are_those_of_the_network_written_out(file):
    state, x, y = numbers()
    h = qn.hessian(file, "cross_entropy", (x, y), state=state)
    theta = np.concatenate([a.ravel() for a in state.values()])
    loss, gradient = loss_and_gradient(theta, x, y)
    assert h.backend == "native" and h.layout.names == tuple(state)
    np.testing.assert_allclose(h.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(h.gradient, gradient, atol=1e-13)
    v, step = np.random.default_rng(1).standard_normal(len(theta)), 1e-5
    plus, minus = (loss_and_gradient(theta + s * step * v, x, y)[1] for s in (1, -1))
    np.testing.assert_allclose(h @ v, (plus - minus) / (2 * step), atol=1e-8)
    values = np.linalg.eigvalsh(h.to_dense())
    np.testing.assert_allclose(h.eigsh(3, tol=1e-9).values, values[::-1][:3], rtol=1e-8)
    np.testing.assert_allclose(qn.full_spectrum(h).values, values, atol=1e-12)


def test_states_in_every_form_are_one(file, tmp_path):
    state, x, y = numbers()
    expected = qn.hessian(file, "cross_entropy", (x, y), state=state).to_dense()
    forms = [state, safetensors(tmp_path / "a.safetensors", state, np.float64), str(tmp_path / "a.safetensors")]
    for form in forms:
        assert np.array_equal(qn.hessian(str(file), "cross_entropy", (x, y), state=form).to_dense(), expected)
    with pytest.warns(UserWarning, match="under 'module.'"):
        wrapped = qn.hessian(file, "cross_entropy", (x, y), state={f"module.{k}": a for k, a in state.items()})
    assert np.array_equal(wrapped.to_dense(), expected)
    as_json = tmp_path / "small.json"
    layers = [{"type": "linear", "name": "one", "out_features": 5}, {"type": "tanh"}]
    layers.append({"type": "linear", "name": "two", "out_features": 3})
    as_json.write_text(json.dumps({"name": "small", "input": [4], "classes": 3, "layers": layers}))
    assert np.array_equal(qn.hessian(as_json, "cross_entropy", [(x, y)], state=state).to_dense(), expected)


def test_parameters_losses_and_operators_are_chosen_as_for_modules(file):
    state, x, y = numbers()
    whole = qn.hessian(file, "cross_entropy", (x, y), state=state)
    a = whole.to_dense()
    part = qn.hessian(file, "cross_entropy", (x, y), state=state, params="two.*")
    np.testing.assert_allclose(part.to_dense(), a[25:, 25:], atol=1e-14)
    np.testing.assert_allclose(whole.restrict(lambda name, p: p.ndim == 1).to_dense().shape, (8, 8))
    ggn, residual = (qn.hessian(file, "cross_entropy", (x, y), state=state, operator=o) for o in ("ggn", "residual"))
    np.testing.assert_allclose(ggn.to_dense() + residual.to_dense(), a, atol=1e-13)
    ignored = np.r_[y, -100]
    same = qn.hessian(file, "cross_entropy", (np.r_[x, x[:1]], ignored), state=state)
    np.testing.assert_allclose(same.to_dense(), a, atol=1e-14)
    soft = qn.hessian(file, "cross_entropy", (x, np.eye(3)[y]), state=state)
    np.testing.assert_allclose(soft.to_dense(), a, atol=1e-14)
    mse = qn.hessian(file, "mse", (x, np.eye(3)[y]), state=state, dtype="float32")
    assert mse.dtype == np.float32 and mse.accuracy is None


def test_positions_have_their_classes_where_the_layer_list_says(tmp_path):
    path = tmp_path / "tokens.toml"
    layers = "[{ type = 'embedding', name = 'e', num_embeddings = 7, embedding_dim = 3 }, { type = 'tanh' }, {LAST}]"
    last = "{ type = 'linear', name = 'out', out_features = 7 }"
    path.write_text("name = 't'\ninput = [5]\nclasses = 7\nlayers = " + layers.replace("{LAST}", last))
    rng = np.random.default_rng(0)
    state = {"e.weight": rng.standard_normal((7, 3)), "out.weight": rng.standard_normal((7, 3)), "out.bias": rng.standard_normal(7)}
    x, y = rng.integers(0, 7, (4, 5)), rng.integers(0, 7, (4, 5))
    h = qn.hessian(path, "cross_entropy", (x, y), state=state)
    z = np.tanh(state["e.weight"][x]) @ state["out.weight"].T + state["out.bias"]
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(h.loss, -np.log(np.take_along_axis(p, y[..., None], -1)).mean(), rtol=1e-12)


def wrong(change):
    state, x, y = numbers()
    return {"loss_fn": "cross_entropy", "data": (x, y), "state": state} | change(state, x, y)


WRONG = [
    (lambda s, x, y: {"state": None}, ValueError, "give state="),
    (lambda s, x, y: {"state": "nowhere.safetensors"}, FileNotFoundError, "nowhere"),
    (lambda s, x, y: {"state": 3}, ValueError, "the state is int"),
    (lambda s, x, y: {"state": {k: a for k, a in s.items() if k != "one.bias"}}, ValueError, "missing: one.bias"),
    (lambda s, x, y: {"state": s | {"two.bias": np.zeros(4)}}, ValueError, "shape"),
    (lambda s, x, y: {"state": s | {"three.bias": np.zeros(4)}}, ValueError, "surplus: three.bias"),
    (lambda s, x, y: {"state": s | {"two.bias": np.full(3, np.nan)}}, ValueError, "NaN"),
    (lambda s, x, y: {"data": (x[:, :3], y)}, ValueError, "it takes"),
    (lambda s, x, y: {"data": (x, y[:3])}, ValueError, "3 targets"),
    (lambda s, x, y: {"data": (x, y + 1)}, ValueError, "classes"),
    (lambda s, x, y: {"data": (x, y - 1)}, ValueError, "label -1"),
    (lambda s, x, y: {"loss_fn": "hinge"}, ValueError, "loss 'hinge'"),
    (lambda s, x, y: {"loss_fn": lambda z, y: z.sum()}, ValueError, "no loss of the engine"),
    (lambda s, x, y: {"backend": "torch"}, ValueError, "native backend alone"),
    (lambda s, x, y: {"params": "three.*"}, ValueError, "no parameter is called"),
]


@pytest.mark.parametrize("change, error, words", WRONG)
def test_what_does_not_fit_is_refused(file, change, error, words):
    with pytest.raises(error, match=words):
        qn.hessian(file, **wrong(change))


def test_names_that_are_no_layer_lists_are_refused(tmp_path):
    state, x, y = numbers()
    with pytest.raises(FileNotFoundError, match="nothing.toml"):
        qn.hessian(tmp_path / "nothing.toml", "cross_entropy", (x, y), state=state)
    with pytest.raises(ValueError, match="lenett.*lenet"):
        qn.hessian("lenett", "cross_entropy", (x, y), state=state)


def test_presets_go_by_their_names():
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (8, 1, 3, 3), "conv1.bias": (8,), "conv2.weight": (16, 8, 3, 3), "conv2.bias": (16,)}
    shapes |= {"fc.weight": (10, 64), "fc.bias": (10,)}
    state = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x, y = rng.standard_normal((20, 1, 8, 8)), np.arange(20) % 10
    h = qn.hessian("digits", "cross_entropy", (x, y), state=state)
    assert h.shape == (1898, 1898)
    found = h.eigsh(2, tol=1e-8)
    residual = np.linalg.norm(h @ found.vectors - found.vectors * found.values, axis=0)
    assert residual.max() <= 1e-8 * np.abs(found.values).max()


def test_torch_is_not_needed(file):
    """In an interpreter that cannot import torch, the solvers and the estimates among it."""
    code = f"""
        import sys
        sys.modules["torch"] = None
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import numpy as np, qn
        from test_layer_lists import numbers
        state, x, y = numbers()
        h = qn.hessian({str(file)!r}, "cross_entropy", (x, y), state=state)
        assert h.eigsh(2).converged == 2 and len(h.eigvalsh()) == 43
        assert h.density(probes=2, steps=5).matvecs == 10 and h.trace().standard_error >= 0
        assert h.block_norms().exact and "native" in h._repr_html_()
    """
    # Away from the sources, which would be imported in place of the package.
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=os.path.dirname(file))


def test_a_module_and_its_layer_list_are_one_network(file):
    torch = pytest.importorskip("torch")
    state, x, y = numbers()
    one, two = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    module = Small().double()
    module.load_state_dict({k: torch.as_tensor(a) for k, a in state.items()})
    loss = torch.nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0]).double(), label_smoothing=0.1)
    expected = qn.hessian(module, loss, (x, y), backend="native").to_dense()
    found = qn.hessian(file, loss, (torch.as_tensor(x), torch.as_tensor(y)), state=module.state_dict()).to_dense()
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_a_file_of_torch_save(file, tmp_path):
    torch = pytest.importorskip("torch")
    state, x, y = numbers()
    torch.save({"net": {k: torch.as_tensor(a) for k, a in state.items()}, "epoch": 3}, tmp_path / "net.pth")
    with pytest.warns(UserWarning, match="under 'net/'"):
        found = qn.hessian(file, "cross_entropy", (x, y), state=tmp_path / "net.pth")
    np.testing.assert_allclose(found.to_dense(), qn.hessian(file, "cross_entropy", (x, y), state=state).to_dense(), atol=1e-14)
