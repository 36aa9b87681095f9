"""The solvers on arrays, functions and scipy's operators; nothing here needs torch."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import qn


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return (a + a.T) / 2


@pytest.mark.parametrize("n", [1, 2, 7, 150, 2100])
def test_all_eigenvalues_are_numpys(n):
    a = symmetric(n)
    expected = np.linalg.eigvalsh(a)
    np.testing.assert_allclose(qn.eigvalsh(a), expected, atol=1e-11 * max(n, 10))
    np.testing.assert_allclose(qn.eigvalsh(a.astype(np.float32)), expected, atol=1e-5 * max(n, 10))


def test_vectors_of_the_ends():
    a = symmetric(2100)
    found = qn.eigh(a, k=3, which="BE")
    assert found.vectors.shape == (2100, 3) and list(found.chosen) == [0, 2098, 2099]
    residuals = a @ found.vectors - found.vectors * found.values[found.chosen]
    assert np.abs(residuals).max() < 1e-10
    everything = qn.eigh(symmetric(30))
    np.testing.assert_allclose((everything.vectors * everything.values) @ everything.vectors.T, symmetric(30), atol=1e-12)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_some_eigenpairs(which):
    a = symmetric(400)
    values = np.linalg.eigvalsh(a)
    wanted = {
        "LA": values[::-1][:5],
        "SA": values[:5],
        "LM": values[np.argsort(-np.abs(values))[:5]],
        "BE": np.r_[values[::-1][:3], values[1], values[0]],
    }
    found = qn.eigsh(a, 5, which=which, tol=1e-9)
    np.testing.assert_allclose(found.values, wanted[which], rtol=1e-8)
    residuals = np.linalg.norm(a @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(residuals, found.residuals, atol=1e-12)
    again = qn.eigsh(lambda x: a @ x, 5, which=which, tol=1e-9, n=400)
    assert np.array_equal(again.values, found.values)


def test_operators_of_scipy():
    sparse = pytest.importorskip("scipy.sparse")
    from scipy.sparse.linalg import aslinearoperator, eigsh

    a = sparse.diags_array(np.arange(500.0))
    expected = eigsh(a, k=4, which="LA")[0][::-1]
    for operator in (a, aslinearoperator(a)):
        np.testing.assert_allclose(qn.eigsh(operator, 4, which="LA").values, expected, rtol=1e-9)


def test_not_converging_has_the_result_in_it():
    with pytest.raises(qn.NotConverged, match="larger ncv or maxiter") as caught:
        qn.eigsh(np.diag(np.linspace(0, 1, 6000)), 4, which="LA", tol=1e-12, maxiter=1)
    found = caught.value.result
    assert found.converged < 4 and found.stop_reason == "max_iterations" and len(found.values) == 4
    same = qn.eigsh(np.diag(np.linspace(0, 1, 6000)), 4, which="LA", tol=1e-12, maxiter=1, check=False)
    assert np.array_equal(same.residuals, found.residuals)


def test_traces_and_densities():
    a = symmetric(300) + np.diag(np.linspace(0, 50, 300))
    for method in ("hutch++", "hutchinson"):
        found = qn.trace(a, products=120, method=method)
        assert abs(found.value - np.trace(a)) < 5 * found.standard_error
        assert found == qn.trace(a, products=120, method=method)
    density = qn.density(a, probes=5, steps=60)
    mean = np.trapezoid(density.grid * density.density, density.grid)
    assert abs(mean - np.trace(a) / 300) < 1.0
    assert np.array_equal(density.density, qn.density(a, probes=5, steps=60).density)


WRONG = [
    (lambda: qn.eigsh(symmetric(10), 11), "k must be 1 to 10"),
    (lambda: qn.eigsh(symmetric(10), 2, which="XX"), "LA, SA, LM, BE"),
    (lambda: qn.eigsh(symmetric(10), 2, tol=-1), "tol"),
    (lambda: qn.eigsh(np.ones((3, 4)), 1), "not square"),
    (lambda: qn.eigsh(np.ones((3, 3), complex), 1), "not real"),
    (lambda: qn.eigsh(lambda x: x, 1), "dimension n"),
    (lambda: qn.eigsh(lambda x: x[:2], 1, n=50), "shape"),
    (lambda: qn.eigsh(lambda x: x * np.nan, 1, n=50), "not finite"),
    (lambda: qn.eigsh(symmetric(300), 2, block=0), "block"),
    (lambda: qn.eigsh("a", 1), "no operator"),
    (lambda: qn.eigvalsh(np.triu(np.ones((4, 4)))), "not symmetric"),
    (lambda: qn.eigvalsh(np.full((4, 4), np.inf)), "not finite"),
    (lambda: qn.eigh(symmetric(4), 5), "k is 0 to 4"),
    (lambda: qn.density(symmetric(9), probes=1), "at least 2"),
    (lambda: qn.trace(symmetric(9), method="exact"), "hutch"),
    (lambda: qn.overlap(np.ones((3, 1)), np.ones((4, 1))), "cannot be compared"),
    (lambda: qn.overlap(np.zeros((3, 1)), np.ones((3, 1))), "not zero"),
]


@pytest.mark.parametrize("call, words", WRONG)
def test_wrong_arguments_are_value_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_exception_in_a_product_comes_out_as_it_is():
    class Mine(Exception):
        pass

    def product(x):
        raise Mine("here")

    with pytest.raises(Mine, match="here"):
        qn.eigsh(product, 2, n=100)
    with pytest.raises(Mine):
        qn.density(product, n=100)


def test_ctrl_c_stops_a_solver_within_a_product():
    a = np.diag(np.linspace(0, 1, 5000))

    def product(x):
        time.sleep(0.01)
        return np.linspace(0, 1, 5000)[:, None] * x

    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        qn.eigsh(product, 20, which="SA", tol=1e-14, maxiter=100_000, n=5000)
    assert time.monotonic() - start < 5
    assert a.shape == (5000, 5000)


PRESSED = """
import os, signal, sys, threading, time
import numpy as np, qn
rng = np.random.default_rng(0)
layers = [(64, 784), (64,), (10, 64), (10,)]
names = ["one.weight", "one.bias", "two.weight", "two.bias"]
state = {n: 0.1 * rng.standard_normal(s) for n, s in zip(names, layers)}
x, y = rng.standard_normal((40_000, 784)), rng.integers(0, 10, 40_000)
h = qn.hessian(sys.argv[1], "cross_entropy", (x, y), state=state, memory=0, threads=1)
block = np.ones((h.shape[0], 64))
began = []
def press():
    time.sleep(0.5)
    began.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
try:
    h @ block
    print("not stopped")
except KeyboardInterrupt:
    print("stopped", time.monotonic() - began[0])
start = time.monotonic()
h @ block
print("whole", time.monotonic() - start)
"""


def test_ctrl_c_stops_a_product_of_the_engine_in_its_middle(tmp_path):
    layers = "[{ type = 'linear', name = 'one', out_features = 64 }, { type = 'tanh' }, { type = 'linear', name = 'two', out_features = 10 }]"
    path = tmp_path / "wide.toml"
    path.write_text("name = 'wide'\ninput = [784]\nclasses = 10\nlayers = " + layers)
    done = subprocess.run([sys.executable, "-c", PRESSED, path], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("stopped"), done.stdout + done.stderr
    stopped, whole = (float(line.split()[1]) for line in done.stdout.splitlines())
    assert stopped < 0.8 * whole, done.stdout


def test_the_interpreter_goes_on_while_a_matrix_is_solved():
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    qn.eigvalsh(symmetric(1900))
    end = time.monotonic()
    stop.set()
    thread.join()
    during = [t for t in ticks if start < t < end]
    assert len(during) > (end - start) / 0.005 / 10


def test_overlaps():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((200, 6)))[0]
    same = qn.overlap(3 * q[:, :4], q[:, [3, 2, 1, 0]])
    np.testing.assert_allclose(same.subspace, 1.0)
    np.testing.assert_allclose(same.angles, 0.0, atol=1e-7)
    apart = qn.overlap(q[:, :3], q[:, 3:])
    assert apart.subspace < 1e-28 and np.abs(apart.cosines).max() < 1e-14


def test_full_spectrum_of_an_array():
    found = qn.full_spectrum(symmetric(40), k=2)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(symmetric(40)), atol=1e-12)
    assert list(found.chosen) == [0, 39]
