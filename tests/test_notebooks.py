"""Every committed notebook: its outputs belong to its code, and it runs at the smoke profile."""

import ast
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import notebook_file
import runner
from dtgan_lab.measure.yardsticks import fresh_gallery
from tests.baselines.baseline_fixtures import write_images

FOLDER = runner.ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
LONGEST = 43  # lines of an open cell; the aim: 15
# where a line enters anybody's images: the parameter that names systems
ENTERED = {"05": "SYSTEMS", "06": "OTHERS", "08": "SYSTEMS", "09": "BASELINES"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_the_quickstart_is_there():
    assert "00_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@each_notebook
def test_parameters_follow_the_convention(path):
    known = runner.read_parameters(path)
    assert {"PROFILE", "SEED", "RETRAIN", "DATA", "OUT"} <= known.keys()
    assert known["PROFILE"].strip("'\"") == "laptop"
    assert known["RETRAIN"] == "False"


@each_notebook
def test_cells_are_short_and_those_that_draw_are_closed(path):
    for cell in notebook_file.code_cells(notebook_file.read(path)):
        closed = notebook_file.has_tag(cell, notebook_file.HIDDEN)
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) is closed
        lines = [line for line in cell.source.splitlines() if line.strip()]
        imports = "import os" in lines
        assert imports or len(lines) <= (40 if closed else LONGEST), cell.source


@each_notebook
def test_outputs_are_up_to_date(path):
    assert notebook_file.check(path, runner.ROOT) == []


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that no model of the kit made."""
    cells = [(product, defect) for product in "ABC" for defect in ("Scratches", "Spots")]
    made = fresh_gallery(cells, 12, seed=77, image_size=64)
    labels = [cell for cell in cells for _ in range(12)]
    return write_images(tmp_path_factory.mktemp("stranger"), made.x, labels)


@each_notebook
def test_runs_at_smoke(path, tmp_path, stranger):
    def inputs() -> dict[Path, tuple[int, int]]:
        files = (file for file in FOLDER.rglob("*") if "__pycache__" not in file.parts)
        stats = {file: file.stat() for file in files if file.is_file()}
        return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}

    parameters, name = {}, ENTERED.get(path.stem[:2])
    if name is not None:
        known = ast.literal_eval(runner.read_parameters(path)[name])
        parameters[name] = repr(known | {"stranger": str(stranger)})
    before = inputs()
    target = runner.run_notebook(path, profile="smoke", out_dir=tmp_path, parameters=parameters)
    notebook = notebook_file.read(target)
    assert notebook_file.output_problems(notebook) == []
    assert notebook.metadata[notebook_file.RECORD]["profile"] == "smoke"
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert name is None or any(
        "stranger" in f"{output.get('data', '')}{output.get('text', '')}" for output in shown
    )
    assert inputs() == before  # a run reads the notebooks and checkpoints, it changes none


def test_the_scoreboard_types_no_verdict():
    notebook = notebook_file.read(FOLDER / "13_scoreboard.ipynb")
    code = [cell.source for cell in notebook_file.code_cells(notebook)]
    (rule,) = (source for source in code if any(mark in source for mark in "🟢🟡🔴⚪"))
    names: dict[str, Any] = {"np": np, "NamedTuple": NamedTuple}
    exec(rule.partition("claims = []")[0], names)
    found = [names["standing"](checks) for checks in ({}, {"a": False}, {"a": True})]
    assert [text[0] for text in found] == ["⚪", "🔴", "🟢"]
    assert names["standing"]({"a": True, "b": False})[0] == "🟡"
