"""The runner, on one tiny notebook per behaviour (tests/fixtures)."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

import notebook_file
import runner
from notebook_file import NotebookError

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project; braces in its path, because papermill would fill them in."""
    root = tmp_path / "a {project}"
    (root / "notebooks").mkdir(parents=True)
    return root


def put(project: Path, fixture: str, number: str = "05") -> Path:
    path = project / "notebooks" / f"{number}_{fixture}.ipynb"
    shutil.copyfile(FIXTURES / f"{fixture}.ipynb", path)
    return path


def load(fixture: str):
    return notebook_file.read(FIXTURES / f"{fixture}.ipynb")


def add_checkpoint(project: Path, weights: bytes = b"weights") -> Path:
    folder = project / "notebooks" / "checkpoints" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ema.safetensors").write_bytes(weights)
    (folder / "card.json").write_text("{}")
    return folder


def all_text(notebook) -> str:
    return "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


# running


def test_run_hands_parameters_over_and_writes_a_clean_notebook_and_page(project):
    source = put(project, "runs")
    before = source.read_bytes()
    target = runner.run_notebook(
        source, profile="smoke", parameters={"SEED": "4", "RATE": "2"}, html=True, root=project
    )
    out = project / "build" / "notebooks" / "smoke"
    assert target == out / "05_runs.ipynb"
    assert source.read_bytes() == before
    assert (out / "runs" / "seed.txt").read_text() == "4"  # its own folder, below the root
    notebook = notebook_file.read(target)
    nbformat.validate(notebook)
    assert "smoke 4 False 2.0" in all_text(notebook)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in load("runs").cells]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4]
    assert "papermill" not in target.read_text()
    assert "iopub" not in target.read_text()  # execution times
    assert "version" not in notebook.metadata.language_info
    assert notebook.metadata.dtgan.profile == "smoke"
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs)
    assert sorted(path.name for path in out.iterdir()) == ["05_runs.html", target.name, "runs"]
    page = (out / "05_runs.html").read_text()
    assert "data:image/png;base64" in page
    for reference in ('src="http', "src='http", "import(", "cdnjs", "unpkg"):
        assert reference not in page


def test_run_takes_this_python_and_leaves_out_paths_and_progress(project, tmp_path, monkeypatch):
    spec = tmp_path / "user" / "kernels" / "python3"  # the user has another kernel of this name
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    before = dict(os.environ)
    target = runner.run_notebook(put(project, "noisy"), profile="smoke", root=project)
    notebook = notebook_file.read(target)
    progress = notebook.cells[1].outputs
    assert [output.text for output in progress] == ["100 %\n"]
    text = all_text(notebook)
    assert text.startswith("100 %\n.\n")  # the working folder is the project's root
    assert "<cell>:6: UserWarning: mind the gap" in text
    assert str(project) not in text
    assert os.environ == before
    assert sys.executable in text


def test_failing_cell_is_named_and_the_partial_notebook_kept(project, capsys):
    source = put(project, "fails")
    before = source.read_bytes()
    put(project, "no_parameters", "06")
    assert runner.main(["--profile", "laptop", "--in-place"], root=project) == 1
    shown = capsys.readouterr().err
    assert "05_fails.ipynb failed in cell 3 (# divide): ZeroDivisionError: division by" in shown
    assert "build/notebooks/laptop/05_fails.failed.ipynb" in shown
    assert "06_no_parameters.ipynb has no cell tagged `parameters`" in shown  # it went on
    assert "2 of 2 notebooks failed" in shown
    partial = project / "build" / "notebooks" / "laptop" / "05_fails.failed.ipynb"
    assert "ZeroDivisionError" in partial.read_text()
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exits_early", r"cell 1 \(import sys\) holds the error SystemExit"),
        ("kernel_dies", r"failed in cell 1 \(import os\): DeadKernelError"),
    ],
)
def test_early_exit_and_dead_kernel_are_failures(project, name, told):
    with pytest.raises(NotebookError, match=told):
        runner.run_notebook(put(project, name), profile="smoke", root=project)
    assert not (project / f"build/notebooks/smoke/05_{name}.ipynb").exists()


def test_edit_during_the_run_is_not_overwritten(project, monkeypatch):
    source = put(project, "runs")

    def edit_meanwhile(path, partial, parameters, root):
        source.write_text(source.read_text().replace("A notebook that runs", "Edited"))
        return load("runs")

    monkeypatch.setattr(runner, "execute", edit_meanwhile)
    with pytest.raises(NotebookError, match="edited while it ran"):
        runner.run_notebook(source, profile="laptop", in_place=True, root=project)
    assert "Edited" in source.read_text()


# parameters and arguments


@pytest.mark.parametrize(
    ("out", "parameters"),
    [
        ("out", {"DATA": "my data", "OUT": "my data/pictures"}),
        ("my data", {"DATA": "my data"}),
        ("notebooks", {}),
    ],
)
def test_outputs_keep_apart_from_inputs(project, out, parameters):
    path = put(project, "runs")
    before = path.read_bytes()
    (project / "my data/train").mkdir(parents=True)
    how = {"profile": "smoke", "out_dir": project / out, "parameters": parameters}
    with pytest.raises(NotebookError, match=r"05_runs\.ipynb: .*shares its folder with the input"):
        runner.run_notebook(path, **how, root=project)
    assert path.read_bytes() == before and not list((project / "my data").rglob("*.*"))


def test_unknown_parameters_and_missing_checkpoints_show_before_the_run(project, monkeypatch):
    told = r"05_runs\.ipynb has no parameter SEEDS: it knows PROFILE, SEED, RETRAIN"
    with pytest.raises(NotebookError, match=told):
        runner.resolve_parameters(put(project, "runs"), {"SEEDS": "1", "SEED": "1"})
    monkeypatch.setattr(runner, "execute", lambda *arguments: pytest.fail("it ran"))
    with pytest.raises(NotebookError, match=r"05_loads_checkpoint.ipynb: it loads .*/tiny, which"):
        runner.run_notebook(put(project, "loads_checkpoint"), profile="smoke", root=project)


def test_parameters_take_the_type_of_their_default_and_no_other(project):
    (project / "123").mkdir()
    given = {"SEED": "7", "RETRAIN": "true", "RATE": "1e-3", "DATA": "123"}
    resolved = runner.resolve_parameters(put(project, "runs"), given)
    assert resolved == {"SEED": 7, "RETRAIN": True, "RATE": 0.001, "DATA": "123"}
    assert type(resolved["RETRAIN"]) is bool
    for text in ("SEED=x", "SEED=1.5", "SEED=True", "RETRAIN=1", "RATE=fast"):
        name, value = text.split("=")
        with pytest.raises(NotebookError, match=f"{text} is not of type"):
            runner.resolve_parameters(put(project, "runs"), {name: value})


def test_only_selects_by_number_or_name_and_no_notebook_at_all_is_an_error(project, capsys):
    assert runner.main(["--check"], root=project) == 1
    assert "holds no notebook" in capsys.readouterr().err
    first, second = put(project, "runs", "05"), put(project, "noisy", "06")
    assert runner.find_notebooks(project) == [first, second]
    assert runner.find_notebooks(project, ["06"]) == [second]
    assert runner.find_notebooks(project, ["06", "05_runs"]) == [first, second]
    with pytest.raises(NotebookError, match="no notebook 07: choose among 05_runs, 06_noisy"):
        runner.find_notebooks(project, ["07"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--in-place", "--profile", "smoke"],
        ["--check", "-p", "SEED=1"],
        ["-p", "SEED"],
    ],
)
def test_arguments_that_do_not_fit_are_refused(project, arguments):
    with pytest.raises(SystemExit) as ended:
        runner.main(arguments, root=project)
    assert ended.value.code == 2


# hashes and the check


def test_code_hash_ignores_prose_and_layout_but_not_code_order_and_magics():
    notebook = load("runs")
    before = notebook_file.code_hash(notebook)
    notebook.cells[0].source = "# Another title"
    notebook.cells[3].source = "print( PROFILE,SEED, RETRAIN,RATE,DATA )\nSEED+1"
    notebook.cells.append(nbformat.v4.new_code_cell("  \n"))
    assert notebook_file.code_hash(notebook) == before
    notebook.cells[3].source = "print(PROFILE, SEED, RETRAIN, RATE, DATA)\nSEED + 2"
    assert notebook_file.code_hash(notebook) != before
    notebook = load("runs")
    before = notebook_file.code_hash(notebook)
    notebook.cells[2], notebook.cells[3] = notebook.cells[3], notebook.cells[2]
    swapped = notebook_file.code_hash(notebook)
    assert swapped != before
    notebook.cells.append(nbformat.v4.new_code_cell("%matplotlib inline\n!ls"))
    assert notebook_file.code_hash(notebook) != swapped
    notebook.cells[2].source = "def ("
    with pytest.raises(NotebookError, match="cannot be formatted"):
        notebook_file.code_hash(notebook)


def test_checkpoints_are_found_in_strings_but_not_in_comments(project):
    with pytest.raises(NotebookError, match="names no checkpoint: write the folder in one string"):
        notebook_file.checkpoint_names(load("hides_checkpoint"))
    notebook = load("loads_checkpoint")
    assert notebook_file.checkpoint_names(notebook) == ["tiny"]
    with pytest.raises(NotebookError, match="loads notebooks/checkpoints/tiny, which holds 0"):
        notebook_file.checkpoint_hashes(notebook, project)
    add_checkpoint(project)
    tiny = "notebooks/checkpoints/tiny"
    assert notebook_file.checkpoint_hashes(notebook, project) == {
        f"{tiny}/card.json": hashlib.sha256(b"{}").hexdigest(),
        f"{tiny}/ema.safetensors": hashlib.sha256(b"weights").hexdigest(),
    }


def test_check_follows_a_notebook_through_its_life(project, capsys):
    add_checkpoint(project)
    path = put(project, "loads_checkpoint")
    mend = "run `make notebooks PROFILE=laptop ONLY=05`"
    whole = path.read_bytes()
    path.write_text("{")
    assert "is not a Jupyter notebook" in notebook_file.check(path, project)[0]
    path.write_bytes(whole)

    def problems() -> list[str]:
        found = notebook_file.check(path, project)
        assert all(line.startswith("notebooks/05_loads_checkpoint.ipynb: ") for line in found)
        return found

    fresh = problems()
    assert "carry no record" in fresh[0] and "was not executed" in fresh[1] and mend in fresh[0]

    assert runner.main(["--in-place"], root=project) == 0
    assert problems() == []
    assert runner.main(["--check"], root=project) == 0
    assert "ema.safetensors" in all_text(notebook_file.read(path))
    refreshed = path.read_bytes()
    assert runner.main(["--in-place"], root=project) == 0
    assert path.read_bytes() == refreshed  # the same run leaves the same bytes

    add_checkpoint(project, b"other weights")
    assert len(problems()) == 1
    assert "another version of notebooks/checkpoints/tiny/ema.safetensors" in problems()[0]
    add_checkpoint(project)

    path.write_bytes(refreshed.replace(b"sorted(file.name", b"list(file.name"))
    assert "its outputs are older than its code" in problems()[0] and mend in problems()[0]
    capsys.readouterr()
    assert runner.main(["--check"], root=project) == 1
    assert mend in capsys.readouterr().err


def executed(project: Path):
    """A notebook that passes the check, made without a kernel."""
    path = put(project, "runs")
    notebook = notebook_file.read(path)
    for number, cell in enumerate(notebook_file.code_cells(notebook), start=1):
        cell.execution_count = number
    notebook_file.record(notebook, project, "laptop")
    nbformat.write(notebook, path)
    assert notebook_file.check(path, project) == []
    return path, notebook


PRINT = "print(PROFILE, SEED, RETRAIN, RATE, DATA)"
ERROR = nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[])
INJECTED = nbformat.v4.new_code_cell("SEED = 3", metadata={"tags": ["injected-parameters"]})
INJECTED.execution_count = 9
HEAVY = "x" * notebook_file.MAX_BYTES


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda n: n.cells[3].update(outputs=[ERROR]), f"({PRINT}) holds the error KeyError"),
        (lambda n: n.cells[0].update(source=HEAVY), "it weighs 1.50 MB, at most 1.5 MB was"),
        (lambda n: n.metadata.dtgan.update(profile="smoke"), "from profile smoke, not laptop"),
        (lambda n: n.cells[3].update(execution_count=None), f"({PRINT}) was not executed"),
        (lambda n: n.cells[1].metadata.update(tags=[]), "no cell is tagged `parameters`"),
        (lambda n: n.cells.append(INJECTED), "papermill's injected cell"),
    ],
)
def test_check_finds(project, spoil, expected):
    path, notebook = executed(project)
    spoil(notebook)
    nbformat.write(notebook, path)
    found = notebook_file.check(path, project)
    assert len(found) == 1
    assert expected in found[0]


# widgets


def test_sound_widget_state_stays_and_broken_or_orphaned_views_go(tmp_path):
    notebook = notebook_file.clean(load("widgets_sound"), tmp_path)
    assert "aa" in notebook.metadata.widgets[notebook_file.STATE].state
    assert notebook_file.VIEW in notebook.cells[0].outputs[0].data
    assert list(notebook.cells[1].outputs[0].data) == ["text/plain"]
    # broken state goes with its views
    notebook = notebook_file.clean(load("widgets_broken"), tmp_path)
    assert "widgets" not in notebook.metadata
    assert list(notebook.cells[0].outputs[0].data) == ["text/plain"]
    # a page leaves out widgets that need a kernel
    page = runner.as_page(load("widgets_sound"), FIXTURES / "widgets_sound.ipynb")
    assert "bar aa" not in page and "widget-view" not in page
