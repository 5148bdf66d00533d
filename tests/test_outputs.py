"""No command writes where it reads, or finds after its work that it cannot write."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

import prepare_mtd
import prepare_mvtec
from dtgan_core import __main__ as command_line
from dtgan_core.commands import OUTPUTS, WRITE_A_FILE
from dtgan_core.data import DatasetError
from dtgan_core.data.layout import keep_apart
from tests.core_fixtures import failure, write_tiny_dataset
from tests.data.folder_fixtures import tree_bytes


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, as `main` builds them."""
    found: dict[str, argparse.ArgumentParser] = {}

    class Stop(Exception):
        pass

    def seen(parser: argparse.ArgumentParser, *_: object) -> None:
        for action in parser._subparsers._group_actions if parser._subparsers else []:
            found.update(action.choices or {})
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", seen)
        with pytest.raises(Stop):
            command_line.main([])
    return found


PATHS = {
    name: [
        action for action in parser._actions if action.type is Path and action.dest not in ("help",)
    ]
    for name, parser in parsers().items()
}


def pairs() -> Iterator[tuple[str, str, str]]:
    """Every command with every one of its outputs and inputs."""
    for name, actions in PATHS.items():
        options = [action.dest for action in actions]
        if name == "classify":
            options.append("baseline")
        for out in options:
            if out in OUTPUTS:
                yield from ((name, out, source) for source in options if source not in OUTPUTS)


def words(command: str, folder: Path, changed: dict[str, str]) -> list[str]:
    """A command line with a place of its own for every option that names one."""
    given = {"classify": ["--baseline", f"stylegan2={folder}/baseline"]}.get(command, [])
    if command == "classify" and "baseline" in changed:
        given = ["--baseline", f"stylegan2={changed['baseline']}"]
    if command == "generate":
        given += ["--defect", "Spots", "--count", "1"]
    for action in PATHS[command]:
        given += [action.option_strings[0], changed.get(action.dest, f"{folder}/{action.dest}")]
    return [command, *given]


def test_there_are_inputs_and_outputs_to_try() -> None:
    assert len(list(pairs())) > 25
    assert {command for command, _, _ in pairs()} == {
        *("train", "generate", "samples", "export", "judge", "domain-features"),
        *("evaluate", "classify", "study"),
    }


@pytest.mark.parametrize(("command", "out", "source"), pairs())
@pytest.mark.parametrize("how", ["on", "in", "above", "through a link"])
def test_every_output_keeps_apart_from_every_input(
    command: str,
    out: str,
    source: str,
    how: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "inputs" / "here"
    read = place / "checkpoints" if source == "run" else place
    read.mkdir(parents=True)
    (tmp_path / "link").symlink_to(read)
    target = {"on": read, "in": read / "new", "above": tmp_path / "inputs"}
    written = target.get(how, tmp_path / "link" / "new")
    changed = {source: str(place), out: str(written)}
    message = failure(capsys, *words(command, tmp_path / "other", changed))
    assert f"--{out} {written}: shares its folder with the input {read}" in message
    assert list(read.iterdir()) == []


@pytest.mark.parametrize("command", [name for name in PATHS if name not in ("benchmark", "card")])
def test_an_output_of_the_wrong_kind_is_told_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_bytes(b"")
    folder.mkdir()
    for action in PATHS[command]:
        if action.dest not in OUTPUTS:
            continue
        is_file = action.dest in ("json", "results") or command in WRITE_A_FILE
        for written, told in (
            (
                folder if is_file else file,
                "found a folder, expected" if is_file else "found a file",
            ),
            (file / "below", f"{file} is a file"),
        ):
            lines = words(command, tmp_path / "other", {action.dest: str(written)})
            assert told in failure(capsys, *lines)


def test_an_export_may_lie_beside_the_checkpoints_of_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    message = failure(capsys, "export", "--run", run, "--out", run / "export")
    assert "found no checkpoint" in message


def test_training_into_its_data_leaves_them_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    before = tree_bytes(data)
    failure(capsys, "train", "--data", data, "--out", data, "--preset", "tiny")
    assert tree_bytes(data) == before


def test_a_neighbour_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    keep_apart(tmp_path / "data-2", [tmp_path / "data"])
    keep_apart(tmp_path / "new" / "out", [tmp_path / "data", tmp_path / "gone"])


def test_a_link_in_a_circle_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    keep_apart(tmp_path / "out", [tmp_path / "a"])


def test_a_folder_under_another_spelling_is_the_same(tmp_path: Path) -> None:
    """As on a disk that does not tell upper from lower case: the same inode by another path."""
    (tmp_path / "Data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "samefile", lambda a, b: str(a).lower() == str(b).lower())
        patch.setattr(Path, "exists", lambda self: True)
        with pytest.raises(DatasetError, match="shares its folder"):
            keep_apart(tmp_path / "data" / "out", [tmp_path / "Data"])


@pytest.mark.parametrize("script", [prepare_mtd, prepare_mvtec])
def test_prepare_scripts_keep_apart(
    script: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    out = tmp_path / "source" / "made"
    assert script.main(["--source", str(tmp_path / "source"), "--out", str(out)]) == 1  # type: ignore[attr-defined]
    assert "shares its folder with the input" in capsys.readouterr().err
    assert not out.exists()
