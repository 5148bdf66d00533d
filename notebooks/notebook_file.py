"""What a committed notebook carries: clean outputs, and hashes of the code and weights behind them.

The runner calls `clean` and `record` after a run; `check` tells, without running anything, whether
a notebook's outputs still belong to its code and to the checkpoints that it loads.

Convention: a cell that loads a checkpoint writes its folder out as one string,
`"notebooks/checkpoints/NAME"`. That string is how the record knows which weights to hash.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from dtgan_core.files import sha256_of

MAX_BYTES = 1_500_000  # a clone with every notebook stays small, and the pages open at once
PARAMETERS = "parameters"  # tag of the cell whose values the runner may replace
HIDDEN = "hide-input"  # tag of a cell that draws: pages and JupyterLab show its code on a click
INJECTED = "injected-parameters"  # tag of the cell that papermill puts in with the new values
RECORD = "dtgan"  # key of our record in the notebook's metadata
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
CHECKPOINTS = "notebooks/checkpoints"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class NotebookError(ValueError):
    """A notebook cannot be run or recorded; the message says which, why, and what mends it."""


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell bears a tag."""
    return tag in cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The notebook's own code cells: not empty, and not put in by papermill."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source.strip() and not has_tag(cell, INJECTED)
    ]


def code_hash(notebook: NotebookNode) -> str:
    """Hex sha256 of the code cells after `ruff format`: prose and layout do not change it.

    Raises:
        NotebookError: a cell is not valid Python, or ruff is not installed.
    """
    bare = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    bare.cells = [nbformat.v4.new_code_cell(cell.source) for cell in code_cells(notebook)]
    # --isolated: the project's own lint settings may change without making every output old.
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "100"]
    done = subprocess.run(
        [*command, "--stdin-filename", "cells.ipynb", "-"],
        input=nbformat.writes(bare),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode != 0:
        raise NotebookError(f"its code cells cannot be formatted by ruff: {done.stderr.strip()}")
    formatted = nbformat.reads(done.stdout, as_version=4)
    sources = [cell.source for cell in formatted.cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def checkpoint_names(notebook: NotebookNode) -> list[str]:
    """Names of the checkpoints under notebooks/checkpoints/ that the code's strings mention.

    Raises:
        NotebookError: a string stops before the name, so that the record could not be made.
    """
    names = set()
    for cell in code_cells(notebook):
        for text in _string_literals(cell.source):
            for rest in text.split(CHECKPOINTS)[1:]:
                name = re.match(r"/([A-Za-z0-9][\w.-]*)", rest)
                if name is None:
                    raise NotebookError(
                        f"the string {text!r} in a cell names no checkpoint: write the folder in "
                        f'one string, as in "{CHECKPOINTS}/NAME", so that its weights are recorded'
                    )
                names.add(name[1])
    return sorted(names)


def _string_literals(source: str) -> list[str]:
    """Every string constant in a cell's code, the constant parts of f-strings among them."""
    python = TransformerManager().transform_cell(source)  # magics and shell lines become calls
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a cell is ruff's matter
            tree = ast.parse(python)
    except SyntaxError as error:
        raise NotebookError(f"a code cell is not valid Python: {error}") from error
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def checkpoint_hashes(notebook: NotebookNode, root: Path) -> dict[str, str]:
    """sha256 of weights and cards of each checkpoint that the code names, by path under `root`.

    Raises:
        NotebookError: a named checkpoint does not exist, or holds no weights or no card.
    """
    hashes = {}
    for name in checkpoint_names(notebook):
        folder = root / CHECKPOINTS / name
        weights = sorted(folder.rglob("*.safetensors"))
        cards = sorted(folder.rglob("*.json"))
        if not weights or not cards:
            raise NotebookError(
                f"it loads {CHECKPOINTS}/{name}, which holds {len(weights)} .safetensors and "
                f"{len(cards)} .json files where at least one of each was expected: restore the "
                f"folder (git checkout -- {CHECKPOINTS}/{name}) or correct the name"
            )
        for file in weights + cards:
            hashes[file.relative_to(root).as_posix()] = sha256_of(file)
    return hashes


def record(notebook: NotebookNode, root: Path, profile: str) -> None:
    """Store in the notebook's metadata which code, weights and profile its outputs come from."""
    notebook.metadata[RECORD] = {
        "code_hash": code_hash(notebook),
        "checkpoints": checkpoint_hashes(notebook, root),
        "profile": profile,
    }


def clean(notebook: NotebookNode, root: Path) -> NotebookNode:
    """A copy without what differs from run to run: papermill's traces, timings, paths, versions.

    Args:
        notebook: an executed notebook; it is left as it is.
        root: the project's folder, whose absolute path is written as `.` in text outputs.
    """
    result = copy.deepcopy(notebook)
    result.cells = [cell for cell in result.cells if not has_tag(cell, INJECTED)]
    result.metadata.pop("papermill", None)
    result.metadata["kernelspec"] = dict(KERNELSPEC)
    result.metadata.get("language_info", {}).pop("version", None)
    _strip_widgets(result)
    number = 0
    for cell in result.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill leaves an empty list in every cell
        if cell.cell_type != "code":
            continue
        cell.outputs = _settle_streams(cell.outputs)
        for output in cell.outputs:
            _hide_machine(output, root)
        if cell.execution_count is not None:
            number += 1  # the injected cell has left a gap in the numbers
            cell.execution_count = number
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = number
    return result


def _strip_widgets(notebook: NotebookNode) -> None:
    """Drop widget state that no front end can show, and the views that would find no state."""
    bundle = notebook.metadata.get("widgets", {}).get(STATE, {})
    models = bundle.get("state") if isinstance(bundle, dict) else None
    valid = isinstance(models, dict) and all(
        isinstance(model, dict) and {"model_name", "model_module", "state"} <= model.keys()
        for model in models.values()
    )
    known = set(models) if valid and models else set()
    if not known:
        notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(VIEW)
            if view is not None and view.get("model_id") not in known:
                del output["data"][VIEW]


def _settle_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream and keep of a progress line what it ended as."""
    settled: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and settled and settled[-1].get("name") == output.name:
            settled[-1].text += output.text
        else:
            settled.append(output)
    for output in settled:
        if output.output_type == "stream":
            lines = output.text.replace("\r\n", "\n").split("\n")
            output.text = "\n".join(line.rstrip("\r").split("\r")[-1] for line in lines)
    return settled


def _hide_machine(output: NotebookNode, root: Path) -> None:
    """Write the project's folder as `.` and a cell's temporary file name as `<cell>`."""

    def plain(text: str) -> str:
        text = re.sub(r"[^\s\"'<>]*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
        return text.replace(str(root), ".")

    if output.output_type == "stream":
        output.text = plain(output.text)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/") and isinstance(value, str):
            output["data"][kind] = plain(value)


def output_problems(notebook: NotebookNode) -> list[str]:
    """Code cells that were not executed or that ended in an error, one line each."""
    problems = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        line = cell.source.strip().splitlines()[0]
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors:
            problems.append(f"cell {index} ({line}) holds the error {errors[0].ename}")
        elif cell.execution_count is None:
            problems.append(f"cell {index} ({line}) was not executed")
    return problems


def read(path: Path) -> NotebookNode:
    """Read a notebook.

    Raises:
        NotebookError: the file is not a notebook.
    """
    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.validator.ValidationError) as error:
        raise NotebookError(f"{path} is not a Jupyter notebook ({error})") from error


def mend_command(path: Path) -> str:
    """The command that makes a committed notebook's outputs anew."""
    return f"make notebooks PROFILE=laptop ONLY={path.stem.split('_')[0]}"


def check(path: Path, root: Path) -> list[str]:
    """What is wrong with a committed notebook, one line each with the remedy; [] when nothing is.

    Args:
        path: the notebook.
        root: the project's folder.
    """
    name = path.relative_to(root).as_posix()
    try:
        notebook = read(path)
        problems = _record_problems(notebook, root) + output_problems(notebook)
    except NotebookError as error:
        return [f"{name}: {error}"]
    if any(has_tag(cell, INJECTED) for cell in notebook.cells) or "papermill" in notebook.metadata:
        problems.append("it holds papermill's injected cell or paths")
    size = path.stat().st_size
    found = [f"{name}: {problem}; run `{mend_command(path)}`" for problem in problems]
    if not any(has_tag(cell, PARAMETERS) for cell in notebook.cells):
        found.append(f"{name}: no cell is tagged `parameters`; tag the one that sets PROFILE")
    if size > MAX_BYTES:
        found.append(
            f"{name}: it weighs {size / 1e6:.2f} MB, at most {MAX_BYTES / 1e6} MB was expected; "
            f"show fewer or smaller pictures, then run `{mend_command(path)}`"
        )
    return found


def _record_problems(notebook: NotebookNode, root: Path) -> list[str]:
    """Where the stored record differs from the code and the weights as they are now."""
    stored = notebook.metadata.get(RECORD)
    if not stored:
        return ["its outputs carry no record of the code that made them"]
    problems = []
    if stored.get("profile") != "laptop":
        problems.append(f"its outputs come from profile {stored.get('profile')}, not laptop")
    if stored.get("code_hash") != code_hash(notebook):
        problems.append("its outputs are older than its code")
    now = checkpoint_hashes(notebook, root)
    before = stored.get("checkpoints", {})
    for file in sorted(now.keys() | before.keys()):
        if now.get(file) != before.get(file):
            problems.append(f"its outputs were made with another version of {file}")
    return problems
