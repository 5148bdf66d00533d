"""No command writes where it reads, or finds after its work that it cannot write."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

import prepare_mtd
import prepare_mvtec
from dtgan_lab.cli.commands import OUTPUTS
from dtgan_lab.cli.main import make_parser
from dtgan_lab.data import DatasetError
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.data.preparing import guarded
from dtgan_lab.options import file, folder, path
from tests.core_fixtures import failure, write_tiny_dataset
from tests.data.folder_fixtures import tree_bytes

(COMMANDS,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
PATHS = {
    name: [action for action in parser._actions if action.type in (path, file, folder)]
    for name, parser in COMMANDS.choices.items()
}

# Where Linux tells of itself: no file can be made there, whoever one is.
NO_PLACE = [(Path("/proc/x"), "--{} /proc/x: found that /proc takes no new file")]
NO_PLACE = NO_PLACE if Path("/proc/self").is_dir() else []


def pairs() -> Iterator[tuple[str, str, str]]:
    """Every command with every one of its outputs and inputs, but for inputs that are one file."""
    for name, actions in PATHS.items():
        options = [a.dest for a in actions if a.dest in OUTPUTS or a.type is not file]
        if name == "classify":
            options.append("baseline")
        for out in options:
            if out in OUTPUTS:
                yield from ((name, out, source) for source in options if source not in OUTPUTS)


def words(command: str, place: Path, changed: dict[str, str]) -> list[str]:
    """A command line with a place of its own for every option that names one."""
    given = {"classify": ["--baseline", f"stylegan2={place}/baseline"]}.get(command, [])
    if command == "classify" and "baseline" in changed:
        given = ["--baseline", f"stylegan2={changed['baseline']}"]
    if command == "generate":
        given += ["--defect", "Spots", "--count", "1"]
    for action in PATHS[command]:
        given += [action.option_strings[0], changed.get(action.dest, f"{place}/{action.dest}")]
    return [command, *given]


def test_there_are_inputs_and_outputs_to_try():
    assert len(list(pairs())) > 25
    names = "train generate samples export judge domain-features evaluate classify study"
    assert {command for command, _, _ in pairs()} == {*names.split(), "export-onnx"}


@pytest.mark.parametrize(("command", "out", "source"), pairs())
@pytest.mark.parametrize("how", ["on", "in", "above", "through a link"])
def test_every_output_keeps_apart_from_every_input(command, out, source, how, tmp_path, capsys):
    place = tmp_path / "inputs" / "here"
    read = place / "checkpoints" if source == "run" else place
    read.mkdir(parents=True)
    (tmp_path / "link").symlink_to(read)
    target = {"on": read, "in": read / "new", "above": tmp_path / "inputs"}
    written = target.get(how, tmp_path / "link" / "new")
    changed = {source: str(place), out: str(written)}
    message = failure(capsys, *words(command, tmp_path / "other", changed))
    kind = next(action.type for action in PATHS[command] if action.dest == out)
    told = f"--{out} {written}: shares its folder with the input {read}"
    if kind is file and written.is_dir():  # which its type refuses, before anybody looks closer
        told = "expected a file; it is a folder"
    assert told in message
    assert list(read.iterdir()) == []


@pytest.mark.parametrize(("out", "written"), [("results", "in/plan"), ("out", "in")])
def test_a_plan_is_an_input(out, written, tmp_path, capsys):
    plan = tmp_path / "in" / "plan"
    plan.parent.mkdir()
    plan.touch()
    changed = {"plan": str(plan), out: str(tmp_path / written)}
    message = failure(capsys, *words("study", tmp_path / "other", changed))
    assert f"--{out} {tmp_path / written}: shares its folder with the input {plan}" in message


@pytest.mark.parametrize("command", [name for name in PATHS if name != "card"])
def test_an_output_of_the_wrong_kind_is_told_before_the_work(command, tmp_path, capsys):
    a_file, a_folder = tmp_path / "file", tmp_path / "folder"
    a_file.write_bytes(b"")
    a_folder.mkdir()
    for action in PATHS[command]:
        if action.dest not in OUTPUTS:
            continue
        wrong = (a_folder, "a file; it is a folder")
        if action.type is folder:
            wrong = (a_file, "a folder; it is a file")
        below = (a_file / "below", "a path that can be used")
        for written, told in (wrong, below, *NO_PLACE):
            lines = words(command, tmp_path / "other", {action.dest: str(written)})
            assert told.format(action.dest) in failure(capsys, *lines)


def test_an_export_may_lie_beside_the_checkpoints_of_its_run(tmp_path, capsys):
    run = tmp_path / "run"
    message = failure(capsys, "export", "--run", run, "--out", run / "export")
    assert "found no checkpoint" in message


@pytest.mark.parametrize("name", ["manifest.csv", "train/A/new.json", "new.json"])
def test_a_part_of_a_data_set_stands_for_the_whole(name, tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    before = tree_bytes(data)
    part = data / "train/A/Normal"
    line = ["evaluate", "--real", part, "--fake", part, "--features", "domain"]
    message = failure(capsys, *line, "--json", data / name)
    assert f"--json {data / name}: shares its folder with the input {part}" in message
    failure(capsys, "train", "--data", data, "--out", data, "--preset", "tiny")
    assert tree_bytes(data) == before


def test_neighbours_links_in_a_circle_and_other_spellings(tmp_path):
    (tmp_path / "data").mkdir()
    keep_apart(tmp_path / "data-2", [tmp_path / "data"])
    keep_apart(tmp_path / "new" / "out", [tmp_path / "data", tmp_path / "gone"])
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    keep_apart(tmp_path / "out", [tmp_path / "a"])
    # As on a disk that does not tell upper from lower case: the same inode by another path.
    (tmp_path / "Data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "samefile", lambda a, b: str(a).lower() == str(b).lower())
        patch.setattr(Path, "exists", lambda self: True)
        with pytest.raises(DatasetError, match="shares its folder"):
            keep_apart(tmp_path / "data" / "out", [tmp_path / "Data"])


@pytest.mark.parametrize("script", [prepare_mtd, prepare_mvtec])
def test_prepare_scripts_keep_apart(script, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    out = tmp_path / "source" / "made"
    assert script.main(["--source", str(tmp_path / "source"), "--out", str(out)]) == 1
    assert "shares its folder with the input" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("out", "told"), NO_PLACE)
def test_scripts_want_a_place_before_their_work(out, told, capsys):
    assert guarded("script", out, lambda: pytest.fail("it began")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"script: {told.format('out')}")
