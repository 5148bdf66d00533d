"""Exports that were stopped go on, and processes that share one change no byte."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dtgan_core.hardware import Workers
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.export import FORMATS, running
from dtgan_lab.export.drawing import Drawn, Part
from tests.data.folder_fixtures import tree_bytes
from tests.export import export_fixtures
from tests.export.export_fixtures import some_pass

COUNT = 14


class Interrupted(BaseException):
    """Stands for a kill at this moment."""


def export(synth: Synthesizer, good: list[Path], out: Path, **more: Any) -> None:
    gate = some_pass() if more.pop("gated", False) else None
    parts = {str(path): Part("A") for path in good}
    usual: dict[str, Any] = {"count": COUNT, "batch_size": 3, "parts": parts}
    export_fixtures.export(synth, good, out, gate, **usual | more)


# --- several processes ---------------------------------------------------------------------------
def together(world: int, work: Any) -> None:
    """Run `work(workers)` in threads, all at once."""
    with ThreadPoolExecutor(world) as pool:
        list(pool.map(lambda rank: work(Workers(rank, world)), range(world)))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("world", [2, 7])
def test_the_number_of_processes_changes_no_byte(world, gated, synth, good, tmp_path):
    export(synth, good, tmp_path / "one", gated=gated)

    def work(workers: Workers) -> None:
        export(synth, good, tmp_path / "many", gated=gated, workers=workers)

    together(world, work)
    assert tree_bytes(tmp_path / "many") == tree_bytes(tmp_path / "one")


@pytest.mark.parametrize(
    ("kind", "gated"), [("folder", False), ("coco", True), ("tar", False), ("layout", True)]
)
def test_machines_that_share_an_export_need_not_meet(kind, gated, synth, good, tmp_path):
    export(synth, good, tmp_path / "one", format=kind, gated=gated)
    whole, out = tree_bytes(tmp_path / "one"), tmp_path / "many"
    for rank in (2, 0, 1):
        assert not (out / "manifest.csv").exists()
        export(synth, good, out, format=kind, gated=gated, workers=Workers(rank, 3))
        shown = {name: data for name, data in tree_bytes(out).items() if ".work/" not in name}
        assert all(whole[name] == data for name, data in shown.items())
        assert rank == 1 or not {"manifest.csv", "annotations.json", "dataset.json"} & set(shown)
    assert tree_bytes(out) == whole


def test_an_export_that_another_machine_finishes_meanwhile_is_no_error(synth, good, tmp_path):
    """A lock of this machine does not hold the other back."""
    export(synth, good, tmp_path / "one", format="tar")
    finish = running._Export._finish
    with pytest.MonkeyPatch.context() as patch:

        def late(self: Any, fates: Any) -> None:
            finish(self, fates)  # the other machine's
            self.clear()
            finish(self, fates)  # ours: nothing is left to read

        patch.setattr(running._Export, "_finish", late)
        export(synth, good, tmp_path / "many", format="tar")
    assert tree_bytes(tmp_path / "many") == tree_bytes(tmp_path / "one")


# --- stopped and resumed -------------------------------------------------------------------------
def dying(name: str, at: int, function: Any) -> Any:
    """The function, raising `Interrupted` in its call number `at` whose path holds `name`."""
    calls = 0

    def wrapped(path: Path, *rest: Any) -> Any:
        nonlocal calls
        calls += name in str(path)
        if name in str(path) and calls == at:
            raise Interrupted
        return function(path, *rest)

    return wrapped


def stopped(synth: Synthesizer, good: list[Path], out: Path, moment: Any, **more: Any) -> None:
    """An export that is killed at a moment: in which function of which module, and which call."""
    holder, function, name, at = (running, "write_atomic", *moment)[-4:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, function, dying(name, at, getattr(holder, function)))
        with pytest.raises(Interrupted):
            export(synth, good, out, **more)
    assert not (out / "manifest.csv").exists()


MOMENTS = [
    (running, "write_json_atomic", "export.json", 1),
    ("png", 1),
    ("png", 9),
    ("000006", 1),
]


@pytest.mark.parametrize(
    ("moment", "kind"),
    [(moment, "folder") for moment in MOMENTS] + [(MOMENTS[2], kind) for kind in FORMATS[1:]],
)
def test_a_stopped_export_ends_in_the_same_bytes(moment, kind, synth, good, tmp_path):
    export(synth, good, tmp_path / "whole", format=kind)
    stopped(synth, good, tmp_path / "stopped", moment, format=kind)
    export(synth, good, tmp_path / "stopped", format=kind, resume=True)
    assert tree_bytes(tmp_path / "stopped") == tree_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("folder", "formats", "manifest.csv"),
        ("folder", "formats", "rejects.csv"),
        ("coco", "datasets", "annotations.json"),
        ("tar", "formats", "shard-000001.tar"),
        ("imagefolder", "formats", "rejects.tar"),
        ("layout", "datasets", "real-000002.png"),
        ("layout", "datasets", "dataset"),
    ],
)
def test_an_export_stopped_at_its_end_ends_in_the_same_bytes(
    kind, module, name, synth, good, tmp_path
):
    export(synth, good, tmp_path / "whole", format=kind, gated=True)
    holder = import_module(f"dtgan_lab.export.{module}")
    function = "write_dataset" if name == "dataset" else "write_atomic"
    moment = (holder, function, "stopped" if name == "dataset" else name, 1)
    stopped(synth, good, tmp_path / "stopped", moment, format=kind, gated=True)
    export(synth, good, tmp_path / "stopped", format=kind, gated=True, resume=True)
    assert tree_bytes(tmp_path / "stopped") == tree_bytes(tmp_path / "whole")


@pytest.mark.parametrize("at", range(1, 13))
def test_a_kill_at_the_very_beginning_can_be_resumed(at, synth, good, tmp_path):
    """Whatever file operation was the last: found by a kill between two folders."""
    calls = 0

    def counted(function: Any) -> Any:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Interrupted
            return function(*arguments, **more)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running._Export, "abandon", lambda self: None)  # a kill tidies nothing up
        for name in ("mkdir", "open", "replace", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with pytest.raises(Interrupted):
            export(synth, good, tmp_path / "out", count=2)
    export(synth, good, tmp_path / "out", count=2, resume=True)
    assert (tmp_path / "out/manifest.csv").is_file()
    assert len(list((tmp_path / "out/images").iterdir())) == 2


def test_blocks_on_disk_are_not_drawn_again(synth, good, tmp_path):
    stopped(synth, good, tmp_path / "out", ("000009", 1))
    drawn: list[int] = []

    def watch(block: Drawn) -> None:
        drawn.extend(row["index"] for row in block.rows)

    (tmp_path / "out/images/000004.png").unlink()  # and what is gone is made again
    export(synth, good, tmp_path / "out", resume=True, watch=watch)
    assert drawn == [3, 4, 5, *range(9, COUNT)]
    drawn.clear()
    export(synth, good, tmp_path / "out", resume=True, watch=watch)  # it is finished
    assert drawn == []


def test_the_rest_may_be_made_by_another_number_of_processes(synth, good, tmp_path):
    export(synth, good, tmp_path / "whole", gated=True)
    stopped(synth, good, tmp_path / "out", ("000006", 1), gated=True)

    def work(workers: Workers) -> None:
        export(synth, good, tmp_path / "out", gated=True, workers=workers, resume=True)

    together(2, work)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_what_a_kill_leaves_half_written_is_cleared_away(synth, good, tmp_path):
    export(synth, good, tmp_path / "whole")
    stopped(synth, good, tmp_path / "out", ("000003", 1))
    for name in ("images/.000009.png.abc.tmp", ".manifest.csv.abc.tmp"):
        (tmp_path / "out" / name).write_bytes(b"ha")
    export(synth, good, tmp_path / "out", resume=True)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


# --- another order -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"count": 15}, "count"),
        ({"seed": 4}, "seed"),
        ({"defects": ("Spots",)}, "defects"),
        ({"batch_size": 4}, "batch_size"),
        ({"format": "coco"}, "format"),
        ({"gated": True}, "gate"),
    ],
)
def test_another_order_is_refused(more, named, synth, good, tmp_path):
    stopped(synth, good, tmp_path / "out", ("000003", 1))
    before = tree_bytes(tmp_path / "out")
    expected = rf"export\.json: found {named} = .*expected.*same arguments with --resume"
    with pytest.raises(ValueError, match=expected):
        export(synth, good, tmp_path / "out", resume=True, **more)
    told = "is not empty, it holds an export that was stopped.*--resume"
    with pytest.raises(ValueError, match=told):
        export(synth, good, tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == before


def test_other_backgrounds_are_refused(synth, good, tmp_path):
    export(synth, good, tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty, it holds a finished export"):
        export(synth, good, tmp_path / "out")
    with pytest.raises(ValueError, match="found backgrounds = '4 files"):
        export(synth, good[:3], tmp_path / "out", resume=True)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 0}'])
def test_an_alien_export_json_is_named(content, synth, good, tmp_path):
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(ValueError, match=r"export\.json: (cannot be read|found version)"):
        export(synth, good, tmp_path, resume=True)
    assert (tmp_path / "export.json").read_text() == content


def test_resume_of_nothing_begins_anew_and_a_first_failure_leaves_nothing(synth, good, tmp_path):
    """So that the same command can be given whatever happened before."""
    export(synth, good, tmp_path / "out", resume=True)
    told = json.loads((tmp_path / "out/export.json").read_text())
    assert (told["count"], told["seed"], told["defects"]) == (COUNT, 3, ["Scratches", "Spots"])
    assert told["checkpoint_sha256"] == synth.checkpoint_hash
    assert str(tmp_path) not in json.dumps(told)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        export(synth, [broken], tmp_path / "none")
    assert not (tmp_path / "none").exists()
