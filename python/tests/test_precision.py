"""Operators in single precision keep their vectors in single precision, and progress is told."""

import io
import sys

import numpy as np
import pytest

import qn
from qn._progress import Progress
from test_layer_lists import LAYERS, numbers

SIDE = 1200


class Diagonal:
    """An operator of dtype float32 that notes in what precision its blocks come."""

    shape, dtype = (SIDE, SIDE), np.dtype(np.float32)

    def __init__(self):
        self.values, self.seen = np.linspace(1, 3, SIDE).astype(np.float32) ** 4, set()

    def matmat(self, x):
        self.seen.add(x.dtype)
        return self.values[:, None] * x


def test_float32_operators_get_float32_blocks():
    a = Diagonal()
    found = qn.eigsh(a, 4, which="LA")
    assert a.seen == {np.dtype(np.float32)} and found.vectors.dtype == np.float32 and found.tol == 1e-5
    np.testing.assert_allclose(found.values, np.sort(a.values)[::-1][:4], rtol=1e-5)
    density = qn.density(a, probes=2, steps=8)
    assert a.seen == {np.dtype(np.float32)} and density.matvecs == 16


def test_the_engine_in_single_precision(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(LAYERS)
    state, x, y = numbers()
    single, double = (qn.hessian(path, "cross_entropy", (x, y), state=state, dtype=d) for d in ("float32", "float64"))
    found = single.eigsh(3)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.values, double.eigsh(3).values, rtol=1e-4)
    linalg = pytest.importorskip("scipy.sparse.linalg")
    assert single.to_scipy().dtype == np.float32 and double.to_scipy().dtype == np.float64
    values = linalg.eigsh(single.to_scipy(), k=3, which="LA")[0]
    np.testing.assert_allclose(values[::-1], double.eigsh(3).values, rtol=1e-4)
    block = np.ones((43, 2), dtype=np.float32)
    assert (single @ block).dtype == np.float32 and (single @ block.astype(np.float64)).dtype == np.float64


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_told_on_a_terminal_alone(monkeypatch, terminal):
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress("trace", after=0.0) as progress:
        for share in (0.25, 0.5):
            progress.drawn = 0.0
            progress("trace", share, 0.0)
    text = stderr.getvalue()
    assert ("trace  50 %|##########..........|" in text) == terminal
    assert text.endswith("\r") == terminal


def test_every_long_computation_says_how_far_it_is(monkeypatch):
    told = []
    monkeypatch.setattr(Progress, "__call__", lambda self, stage, done, detail: told.append((self.label, done)))
    a = np.diag(np.linspace(0, 1, 100))
    qn.density(a, probes=3, steps=7)
    qn.trace(a, products=30)
    qn.trace(a, products=25, method="hutchinson")
    for label, ends in {"density": 1, "trace": 2}.items():
        shares = [done for name, done in told if name == label]
        assert shares.count(1.0) == ends and all(0 < s <= 1 for s in shares)
