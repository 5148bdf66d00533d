"""Every committed notebook: its outputs belong to its code, and it runs at the smoke profile."""

from __future__ import annotations

from pathlib import Path

import pytest

import notebook_file
import runner

FOLDER = runner.ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
LONGEST = 43  # lines of an open cell; the aim: 15
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_the_quickstart_is_there():
    assert "00_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@each_notebook
def test_parameters_follow_the_convention(path: Path):
    known = runner.read_parameters(path)
    assert {"PROFILE", "SEED", "RETRAIN", "DATA", "OUT"} <= known.keys()
    assert known["PROFILE"].strip("'\"") == "laptop"
    assert known["RETRAIN"] == "False"


@each_notebook
def test_cells_are_short_and_those_that_draw_are_closed(path: Path):
    for cell in notebook_file.code_cells(notebook_file.read(path)):
        closed = notebook_file.has_tag(cell, notebook_file.HIDDEN)
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) is closed
        lines = [line for line in cell.source.splitlines() if line.strip()]
        imports = "import os" in lines
        assert imports or len(lines) <= (40 if closed else LONGEST), cell.source


@each_notebook
def test_outputs_are_up_to_date(path: Path):
    assert notebook_file.check(path, runner.ROOT) == []


@each_notebook
def test_runs_at_smoke(path: Path, tmp_path: Path):
    def inputs() -> dict[Path, tuple[int, int]]:
        files = (file for file in FOLDER.rglob("*") if "__pycache__" not in file.parts)
        stats = {file: file.stat() for file in files if file.is_file()}
        return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}

    before = inputs()
    target = runner.run_notebook(path, profile="smoke", out_dir=tmp_path)
    notebook = notebook_file.read(target)
    assert notebook_file.output_problems(notebook) == []
    assert notebook.metadata[notebook_file.RECORD]["profile"] == "smoke"
    assert inputs() == before  # a run reads the notebooks and checkpoints, it changes none
