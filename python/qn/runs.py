"""Run directories of `qn-train` and `qn-analyse`, and a callback for training loops of one's own."""

import json
import pathlib

from .results import _table


class Report:
    """A JSON report: its fields as attributes and items, those inside it as well; `raw` is the parsed JSON."""

    def __init__(self, raw):
        self.raw = raw

    def __getattr__(self, name):
        try:
            return _wrapped(self.__dict__["raw"][name])
        except KeyError:
            raise AttributeError(f"the report has no field '{name}': it has {', '.join(self.__dict__.get('raw', {}))}") from None

    def __getitem__(self, name):
        return _wrapped(self.raw[name])

    def __dir__(self):
        return [*super().__dir__(), *self.raw]

    def __repr__(self):
        return f"Report({', '.join(self.raw)})"


# Of the reports' format; eigenvalues descend.
SCHEMA_VERSION = 2


def _report(path):
    raw = json.loads(path.read_text())
    version = raw.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} is of version {version} of the reports' format, and version {SCHEMA_VERSION} is read here: "
            f"make it again with qn-analyse {raw.get('kind', path.stem)}"
        )
    return Report(raw)


def _wrapped(x):
    return Report(x) if isinstance(x, dict) else x


class Run:
    """A run directory: `path`, `manifest`, `config` (the text), `log` (a dict for each line), `reports` by name."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if not (self.path / "manifest.json").is_file():
            raise ValueError(f"{self.path} is no run directory: it has no manifest.json; qn-train --out makes one")
        self.manifest = Report(json.loads((self.path / "manifest.json").read_text()))
        config = self.path / "config.toml"
        self.config = config.read_text() if config.is_file() else ""
        reports = sorted((self.path / "reports").glob("*.json"))
        self.reports = {p.stem: _report(p) for p in reports}

    @property
    def log(self):
        file = self.path / "metrics.jsonl"
        lines = file.read_text().split("\n") if file.is_file() else []
        # A last line that was cut short has no newline behind it.
        return [json.loads(line) for line in lines[:-1] if line]

    def metrics(self):
        """The log as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.log)

    def __repr__(self):
        return f"Run({str(self.path)!r}, reports: {', '.join(self.reports) or 'none'})"

    def _repr_html_(self):
        return _table(str(self.path), [("reports", ", ".join(self.reports)), ("lines in the log", len(self.log))])


def run(path):
    """Opens a run directory; raises ValueError where there is none."""
    return Run(path)


class Tracker:
    """A callback that measures the largest eigenvalues every `every` steps of a training loop.

        tracker = qn.Tracker(model, loss_fn, data, every=100, k=3)
        for step, batch in enumerate(loader):
            ...
            if row := tracker(step):
                wandb.log(row)

    A row is a dict of plain numbers: `step`, `loss`, `trace` where asked for, `lambda_1` to `lambda_k`, `products`. `options`
    are those of `qn.hessian`. The module is put into eval mode while it is measured, and back after it.
    """

    def __init__(self, model, loss_fn, data, every=100, k=1, which="LA", tol=1e-3, trace=False, **options):
        from .data import collect

        if every < 1:
            raise ValueError(f"every = {every}: give at least 1")
        self.model, self.loss_fn, self.data = model, loss_fn, collect(data)
        self.every, self.k, self.which, self.tol, self.trace = every, k, which, tol, trace
        self.options, self.rows = options, []

    def __call__(self, step):
        """The row of this step, or None where it is not one of those measured."""
        if step % self.every:
            return None
        from .hessian import hessian

        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            h = hessian(self.model, self.loss_fn, self.data, **self.options)
            found = h.eigsh(self.k, which=self.which, tol=self.tol, check=False)
            row = {"step": int(step), "loss": float(h.loss), "products": int(found.matvecs)}
            row |= {f"lambda_{i + 1}": float(v) for i, v in enumerate(found.values)}
            if self.trace:
                row["trace"] = float(h.trace())
        finally:
            for module, training in modes:
                module.training = training
        self.rows.append(row)
        return row
