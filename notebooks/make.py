"""Makes the .ipynb files from the readable .py files beside them (cells begin with `# %%`).

    python notebooks/make.py
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent


def cells(text):
    for block in text.split("# %%")[1:]:
        head, _, body = block.partition("\n")
        body = body.strip("\n")
        if head.strip() == "[markdown]":
            lines = [line.removeprefix("# ").removeprefix("#") for line in body.split("\n")]
            yield "markdown", "\n".join(lines)
        else:
            yield "code", body


def notebook(path):
    made = []
    for i, (kind, source) in enumerate(cells(path.read_text())):
        cell = {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": source.splitlines(keepends=True)}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


for source in sorted(HERE.glob("[0-9]*.py")):
    target = source.with_suffix(".ipynb")
    target.write_text(json.dumps(notebook(source), indent=1) + "\n")
    print(target)
