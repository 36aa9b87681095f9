"""Run directories and the callback for training loops."""

import json

import numpy as np
import pytest

import qn


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"seed": 3, "layout": {"hash": "abc"}}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    (tmp_path / "reports" / "eigen.json").write_text(json.dumps({"eigenvalues": [2.0, 1.0]}))
    return tmp_path


def test_a_run_directory_is_opened(directory):
    found = qn.run(directory)
    assert found.manifest.seed == 3 and found.manifest.layout.hash == "abc"
    assert [line["loss"] for line in found.log] == [2.0, 1.5]
    assert found.reports["eigen"].eigenvalues == [2.0, 1.0]
    assert "eigen" in repr(found) and found._repr_html_().startswith("<table>")
    with pytest.raises(AttributeError, match="it has eigenvalues"):
        found.reports["eigen"].values_of_it


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no manifest.json"):
        qn.run(tmp_path)


def test_the_tracker_gives_plain_numbers_and_leaves_the_mode_alone():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    data = torch.randn(8, 3), torch.randint(0, 2, (8,))
    tracker = qn.Tracker(model, "cross_entropy", data, every=10, k=2, trace=True)
    rows = [row for step in range(25) if (row := tracker(step))]
    assert [row["step"] for row in rows] == [0, 10, 20] and model.training
    assert all(type(v) in (int, float) for row in rows for v in row.values())
    values = np.linalg.eigvalsh(qn.hessian(model.eval(), "cross_entropy", data).to_dense())
    np.testing.assert_allclose([rows[0]["lambda_1"], rows[0]["lambda_2"]], values[[-1, -2]], rtol=1e-3)
