"""The README's first example runs as it is written."""

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"


def test_the_first_example():
    text = README.read_text()
    block = text[text.index("    import qn") :].split("\n\n")[0]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    assert code.count("\n") == 2
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    names = {"model": model, "loss_fn": torch.nn.CrossEntropyLoss(), "data": (torch.randn(50, 6), torch.randint(0, 4, (50,)))}
    exec(code, names)
    e, h = names["e"], names["H"]
    assert len(e.values) == 10 and e.residuals.max() <= 1e-6 * np.abs(e.values).max() and h.backend == "native"
