"""Run the notebooks, refresh the committed ones, or check that their outputs are up to date.

    python notebooks/runner.py --profile smoke               all, into build/notebooks/smoke
    python notebooks/runner.py --profile laptop --only 05    one of them
    python notebooks/runner.py --only 05 -p SEED=3 -p DATA=my/data
    python notebooks/runner.py --profile laptop --in-place   refresh the committed notebooks
    python notebooks/runner.py --check                       run nothing, compare the hashes

Every notebook has one cell tagged `parameters` with at least PROFILE and OUT (the folder for what
the notebook writes). It is executed through papermill in the project's root folder, by the Python
that runs this file. A file is written only when its notebook has run to the end without an error.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

import notebook_file
from dtgan_core.dataset import DatasetError
from dtgan_core.files import write_atomic
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.options import TYPES, Parser, folder
from dtgan_lab.options import path as any_path
from notebook_file import INJECTED, PARAMETERS, NotebookError, has_tag

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ("smoke", "laptop", "paper")
INPUTS = ("DATA", "PICTURES", "MTD_SOURCE", "WEIGHTS", "JUDGE")  # "" or what is there


def find_notebooks(root: Path, only: Sequence[str] = ()) -> list[Path]:
    """The notebooks NN_*.ipynb in order, or those named by number or by name.

    Raises:
        NotebookError: there are none, or `only` names one that does not exist.
    """
    every = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise NotebookError(f"{root / 'notebooks'} holds no notebook named NN_*.ipynb")
    chosen = []
    for name in only:
        wanted = name.removesuffix(".ipynb")
        found = [path for path in every if wanted in (path.stem, path.stem.split("_")[0])]
        if not found:
            known = ", ".join(path.stem for path in every)
            raise NotebookError(f"there is no notebook {name}: choose among {known}")
        chosen += found
    return sorted(set(chosen)) if only else every


def read_parameters(path: Path) -> dict[str, str]:
    """The notebook's parameters and their defaults, as written in its `parameters` cell.

    Raises:
        NotebookError: no cell is tagged `parameters`.
    """
    notebook = _for_papermill(path)
    if not any(has_tag(cell, PARAMETERS) for cell in notebook.cells):
        raise NotebookError(
            f"{path.name} has no cell tagged `parameters`: tag the one that sets PROFILE (in "
            "JupyterLab: the gears in the right side bar, then Common Tools, Cell Tags)"
        )
    known = papermill.inspect_notebook(notebook)
    return {name: parameter["default"] for name, parameter in known.items()}


def _for_papermill(path: Path) -> NotebookNode:
    """The notebook with our kernel's name in it, whichever kernel it was last saved with."""
    notebook = notebook_file.read(path)
    notebook.metadata["kernelspec"] = dict(notebook_file.KERNELSPEC)
    return notebook


def resolve_parameters(path: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Turn `values` into what the notebook's parameters take; each has its default's type.

    Raises:
        NotebookError: a parameter is unknown to the notebook, or its value is of another type, out
            of range, or names nothing that is there.
    """
    known = read_parameters(path)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NotebookError(
            f"{path.name} has no parameter {', '.join(unknown)}: it knows {', '.join(known)}"
        )
    found = {name: _convert(path, name, text, known[name]) for name, text in values.items()}
    for name, value in found.items():
        try:
            _check_value(name, value, path.resolve().parent.parent)
        except argparse.ArgumentTypeError as error:
            raise NotebookError(f"{path.name}: {name}: {error}") from error
    return found


def _check_value(name: str, value: Any, root: Path) -> None:
    """Refuse what no notebook can run with; its cells would tell so late, or not at all."""
    choices = {"PROFILE": PROFILES, "FEATURES": EXTRACTORS}.get(name)
    if choices and value not in choices:
        raise argparse.ArgumentTypeError(f"found {value!r}, expected one of {', '.join(choices)}")
    if name in ("SEED", "ITERATIONS"):
        TYPES[name.lower()](str(value))
    if name == "OUT":
        folder(value and str(root / value))
    if name in INPUTS and value and not any_path(str(root / value)).exists():
        raise argparse.ArgumentTypeError(f"found {value!r}, expected a file or folder that exists")


def _keep_apart(path: Path, folder: Path, given: Mapping[str, Any], root: Path) -> None:
    """Refuse to write over the notebook, or into what its parameters name as an input."""
    texts = {k: str(v).strip("\"'") for k, v in {**read_parameters(path), **given}.items()}
    named = [root / v for k, v in texts.items() if v and k not in ("OUT", "RESULTS")]
    inputs = [path, *(place for place in named if os.path.exists(place))]
    try:
        keep_apart(folder, inputs)
        keep_apart(root / texts.get("OUT", folder), inputs, "OUT")
    except DatasetError as error:
        raise NotebookError(f"{path.name}: {error}") from error


def _convert(path: Path, name: str, text: str, default: str) -> Any:
    """One parameter's value, read from the command line."""
    try:
        kind = type(ast.literal_eval(default))
    except (ValueError, SyntaxError):
        kind = str  # the default is an expression: hand the text on as it is
    if kind is str:
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind and kind is not type(None):
        raise NotebookError(
            f"{path.name}: {name}={text} is not of type {kind.__name__} as its default {default} is"
        )
    return value


@contextmanager
def kernel_environment() -> Iterator[None]:
    """Make the kernel this Python's own, with nobody's personal start-up files."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="dtgan-kernel-", ignore_cleanup_errors=True) as folder:
        own = os.path.join(sys.prefix, "share", "jupyter")
        inherited = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([own, inherited] if inherited else [own])
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a user-level `python3` may be another Python
        os.environ["IPYTHONDIR"] = folder
        os.environ["JUPYTER_RUNTIME_DIR"] = folder  # the home folder may be read-only
        os.environ["PYTHONHASHSEED"] = "0"
        os.environ.pop("MPLBACKEND", None)  # a shell's or a test's Agg would leave no pictures
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def execute(path: Path, partial: Path, parameters: Mapping[str, Any], root: Path) -> NotebookNode:
    """Run a notebook in `root` and return it, cleaned.

    Args:
        path: the notebook; it is only read.
        partial: where the notebook stands while it runs and stays when a cell fails.
        parameters: values for its parameters.
        root: the project's folder.

    Raises:
        NotebookError: a cell failed or the kernel died; the message names the cell.
    """
    try:
        with kernel_environment():
            executed = papermill.execute_notebook(
                _for_papermill(path),
                str(partial).replace("{", "{{").replace("}", "}}"),  # papermill fills in braces
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=str(root),
                progress_bar=sys.stderr.isatty(),
                start_timeout=180,  # two busy cores and a cold disk can need more than a minute
                extra_arguments=["--log-level=ERROR"],  # no advice on encrypting a local socket
            )
    except (PapermillExecutionError, CellTimeoutError, RuntimeError) as error:  # or a dead kernel
        raise NotebookError(_failure(path, partial, error, root)) from error
    cleaned = notebook_file.clean(executed, root)
    problems = notebook_file.output_problems(cleaned)
    if problems:  # a cell that calls exit() ends the run early without an error
        raise NotebookError(f"{path.name}: {'; '.join(problems)} (see {_short(partial, root)})")
    return cleaned


def _failure(path: Path, partial: Path, error: Exception, root: Path) -> str:
    """Which cell failed and how, counted as in the notebook that the user has."""
    added = (INJECTED, "papermill-error-cell-tag")  # cells that papermill has put in
    cells = notebook_file.read(partial).cells
    cells = [cell for cell in cells if not any(has_tag(cell, tag) for tag in added)]
    started = [
        index
        for index, cell in enumerate(cells)
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    where = "before its first cell"
    if started:
        source = cells[started[-1]].source.strip()
        where = f"in cell {started[-1]} ({source.splitlines()[0] if source else ''})"
    if isinstance(error, PapermillExecutionError):
        reason = f"{error.ename}: {error.evalue}"
    else:
        reason = f"{type(error).__name__}: {error}"
    return (
        f"{path.name} failed {where}: {reason}\n"
        f"  the notebook as far as it came: {_short(partial, root)}"
    )


def _short(path: Path, root: Path) -> str:
    """A path as a person in `root` would type it."""
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def run_notebook(
    path: Path,
    *,
    profile: str,
    out_dir: Path | None = None,
    parameters: Mapping[str, str] | None = None,
    in_place: bool = False,
    html: bool = False,
    root: Path = ROOT,
) -> Path:
    """Run one notebook and write it, cleaned and with its record, when it has ended well.

    Args:
        path: the notebook.
        profile: smoke, laptop or paper; handed to the notebook as PROFILE.
        out_dir: folder for the executed notebook and its page; build/notebooks/PROFILE by default.
        parameters: further parameters, as text. Unless OUT is among them or `in_place` is set, the
            notebook writes its files to a folder of its own in `out_dir`.
        in_place: replace `path` itself by the executed notebook.
        html: also write a page that needs no network.
        root: the project's folder, in which the notebook runs.

    Returns:
        The executed notebook's path.

    Raises:
        NotebookError: the notebook cannot be run, or a cell failed.
    """
    root = root.resolve()
    folder = (out_dir or root / "build" / "notebooks" / profile).resolve()
    values = {"PROFILE": profile}
    if not in_place:
        values["OUT"] = _short(folder / path.stem.partition("_")[2], root)
    resolved = resolve_parameters(path, {**values, **(parameters or {})})
    _keep_apart(path, folder, resolved, root)
    folder.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes()
    partial = folder / f"{path.stem}.failed.ipynb"
    source = notebook_file.read(path)
    try:  # before the run: a missing checkpoint shows now, one replaced meanwhile shows in --check
        notebook_file.record(source, root, profile)
    except NotebookError as error:
        raise NotebookError(f"{path.name}: {error}") from error
    notebook = execute(path, partial, resolved, root)
    notebook.metadata[notebook_file.RECORD] = source.metadata[notebook_file.RECORD]
    if in_place and path.read_bytes() != before:
        raise NotebookError(
            f"{path.name} was edited while it ran and is left as you saved it; its outputs are in "
            f"{_short(partial, root)}; run it again"
        )
    target = path if in_place else folder / path.name
    text = nbformat.writes(notebook)
    write_atomic(target, (text if text.endswith("\n") else text + "\n").encode())
    partial.unlink()
    if html:
        write_atomic(folder / f"{path.stem}.html", as_page(notebook, path).encode())
    return target


def as_page(notebook: NotebookNode, path: Path) -> str:
    """The notebook as one HTML page that loads nothing from anywhere: formulas stay as TeX."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    offline = (
        "{% extends 'lab/index.html.j2' %}{% block html_head_js %}{% endblock %}"
        "{% block jupyter_widgets %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}"
        "{% block html_head_js_mermaidjs %}{% endblock %}{% block input %}"
        f"{{% set closed = '{notebook_file.HIDDEN}' in cell.metadata.get('tags', []) %}}"
        "{% if closed %}<details><summary>the code of this figure</summary>{% endif %}"
        "{{ super() }}{% if closed %}</details>{% endif %}{% endblock %}"
    )
    shown = copy.deepcopy(notebook)
    for cell in shown.cells:
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(notebook_file.VIEW, None) is None or data.keys() - {"text/plain"}:
                kept.append(output)  # a live widget shows nothing here, a picture beside it does
        if "outputs" in cell:
            cell.outputs = kept
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"offline.html.j2": offline})],
        template_file="offline.html.j2",
        embed_images=True,
    )
    about = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    page, _ = exporter.from_notebook_node(shown, resources=about)
    return str(page)


def describe_folder(folder: Path, root: Path) -> str:
    """What a run left in a folder, one line per file and per folder, pages first."""
    lines = ["Look here:"]
    for file in sorted(folder.iterdir(), key=lambda entry: (entry.suffix != ".html", entry.name)):
        if file.is_dir():
            count = sum(1 for entry in file.rglob("*") if entry.is_file())
            lines.append(f"  {_short(file, root)}/  ({count} files)")
        else:
            hint = "  (opens in any browser)" if file.suffix == ".html" else ""
            lines.append(f"  {_short(file, root)}{hint}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="laptop", help="default: laptop")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="numbers or names of notebooks"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--out", metavar="DIR", help="default: build/notebooks/PROFILE")
    target.add_argument("--in-place", action="store_true", help="replace the notebooks (laptop)")
    target.add_argument("--check", action="store_true", help="run nothing, compare the hashes")
    parser.add_argument("--html", action="store_true", help="also write a page for the browser")
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook's parameter; may be repeated",
    )
    return parser


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """Arguments and the parameters among them; ends the program when they do not fit together."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.in_place and (args.profile != "laptop" or args.parameters):
        parser.error("--in-place goes with --profile laptop and without -p: what is committed is")
    if args.check and (args.html or args.parameters):
        parser.error("--check runs nothing: leave out --html and -p")
    parameters = {}
    for text in args.parameters:
        name, equals, value = text.partition("=")
        if not name or not equals:
            parser.error(f"-p {text}: expected NAME=VALUE, as in -p SEED=3")
        if name == "PROFILE" or name in parameters:
            parser.error(f"-p {text}: expected each name once, and PROFILE by --profile alone")
        parameters[name] = value
    return args, parameters


def _run_all(
    paths: Sequence[Path], args: argparse.Namespace, parameters: Mapping[str, str], root: Path
) -> int:
    """Run notebooks one after the other, the rest too when one fails; returns the exit status."""
    failed = 0
    for path in paths:
        print(f"{path.name} at profile {args.profile} ...", flush=True)
        start = time.monotonic()
        try:
            target = run_notebook(
                path,
                profile=args.profile,
                out_dir=args.out,
                parameters=parameters,
                in_place=args.in_place,
                html=args.html,
                root=root,
            )
        except NotebookError as error:
            print(error, file=sys.stderr, flush=True)
            failed += 1
        else:
            print(f"  {time.monotonic() - start:.0f} s: {_short(target, root)}", flush=True)
    if failed:
        print(f"{failed} of {len(paths)} notebooks failed", file=sys.stderr)
    elif args.out:
        print(describe_folder(args.out, root))
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Entry point; returns the exit status."""
    args, parameters = _parse(argv)
    root = root.resolve()
    try:
        paths = find_notebooks(root, args.only)
        if not args.check:
            return _run_all(paths, args, parameters, root)
    except (NotebookError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the notebook that was running is left as it was", file=sys.stderr)
        return 130
    problems = [problem for path in paths for problem in notebook_file.check(path, root)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(paths)} notebooks are up to date")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
