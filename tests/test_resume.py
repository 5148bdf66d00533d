"""Runs that were stopped, by `kill -9` or otherwise, and went on."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dtgan_core.checkpoints import (
    CheckpointError,
    newest_step,
    read_json,
    read_tensors,
    write_tensors,
)
from dtgan_core.config import Config
from dtgan_core.hardware import native_bf16
from dtgan_core.loop import cut_log
from dtgan_core.training import Trainer
from tests.core_fixtures import (
    latest_step,
    log_lines,
    log_without_time,
    same,
    snapshot,
    tiny_config,
    tiny_store,
    train_until_killed,
)

STATE_FILES = ("networks.safetensors", "ema.safetensors", "optimisers.safetensors")


# --- kill -9 and resume --------------------------------------------------------------------------

STEPS, EVERY = 6, 2
needs_bf16 = pytest.mark.skipif(not native_bf16(), reason="the processor has no native bf16")


def run_config(precision: str, guidance: str) -> Config:
    return tiny_config(
        iterations=STEPS,
        checkpoint_every=EVERY,
        sample_every=STEPS,
        precision=precision,
        guidance=guidance,
    )


def kill_a_run(config: Config, out: Path, moment: str, at: int) -> None:
    """Train in another process until it gets SIGKILL."""
    context = multiprocessing.get_context("forkserver")  # its children have torch imported already
    context.set_forkserver_preload(["dtgan_core.training", "tests.core_fixtures"])
    process = context.Process(
        target=train_until_killed,
        args=(config.to_json(), str(out), moment, at, torch.get_num_threads()),
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("precision", "guidance", "moment", "at", "from_step"),
    [
        ("fp32", "both", "save", 4, 2),
        pytest.param("bf16", "alternate", "pointer", 4, 4, marks=needs_bf16),
        pytest.param("bf16", "both", "step", 5, 4, marks=needs_bf16),
    ],
)
def test_a_killed_run_ends_in_the_same_bytes(precision, guidance, moment, at, from_step, tmp_path):
    config = run_config(precision, guidance)
    Trainer(config, tiny_store(), tmp_path / "whole").run(progress=False)
    kill_a_run(config, tmp_path / "killed", moment, at)
    trainer = resumed(tmp_path / "killed", config, None)
    assert trainer.step_count == from_step
    trainer.run(progress=False)
    whole, killed = (latest_step(tmp_path / name) for name in ("whole", "killed"))
    assert whole.name == killed.name == f"step-{STEPS:08d}"
    for name in STATE_FILES:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    pictures = [tmp_path / name / f"samples/step-{STEPS:08d}.png" for name in ("whole", "killed")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert not list((tmp_path / "killed").rglob(".*"))
    # The log has every iteration once, as if nothing had happened.
    lines = log_without_time(tmp_path / "killed")
    assert lines == log_without_time(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


CONFIG = tiny_config(iterations=4, checkpoint_every=2)
DATA = {"manifest_sha256": "aa"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at 2, and the same with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    trainer = Trainer(CONFIG, tiny_store(), folder / "whole", data=DATA)
    trainer.run(2, progress=False)
    shutil.copytree(folder / "whole", folder / "stopped")
    trainer.run(progress=False)
    return folder


@pytest.fixture
def run(runs, tmp_path) -> Path:
    """The run that was stopped at 2, for one test alone."""
    return shutil.copytree(runs / "stopped", tmp_path / "runs/mine")


def resumed(out: Path, config: Config = CONFIG, data: dict[str, Any] | None = DATA) -> Trainer:
    trainer = Trainer(config, tiny_store(), out, data=data)
    trainer.resume()
    return trainer


def test_resume_brings_everything_back_in_the_formats_of_the_parameters(run):
    whole = Trainer(CONFIG, tiny_store())
    whole.run(2, progress=False)
    trainer = resumed(run)
    assert trainer.seconds > 0
    assert same(snapshot(whole.nets), snapshot(trainer.nets))
    for name, optimiser in trainer.optimisers.items():
        assert len(optimiser.state) == len(list(getattr(trainer.nets, name).parameters()))
        for parameter, state in optimiser.state.items():
            assert state["exp_avg"].stride() == parameter.stride()
            assert state["exp_avg_sq"].stride() == parameter.stride()


def test_resume_with_another_configuration_or_other_data_is_refused(run):
    for train, named in (({"lr": 1e-3}, "train"), ({"seed": 5}, "train"), ({"batch_size": 4}, "")):
        other = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **train))
        told = rf"config\.json.*{named}.*resume with the same"
        with pytest.raises(CheckpointError, match=told):
            resumed(run, other)
    with pytest.raises(CheckpointError, match=r"config\.json.*manifest_sha256.*aa.*bb"):
        resumed(run, data={"manifest_sha256": "bb"})
    renamed = dataclasses.replace(tiny_store(), defect_names=("Normal", "Spots", "Scratches"))
    with pytest.raises(CheckpointError, match=r"config\.json.*defects"):
        Trainer(CONFIG, renamed, run, data=DATA).resume()
    with pytest.raises(CheckpointError, match=r"config\.json.*no such file"):
        resumed(run / "none")
    for content in ("{}", "[]", '{"config": {}}'):
        (run / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            resumed(run)


def test_a_run_from_before_a_field_was_known_goes_on_by_its_default(run):
    path = run / "config.json"
    saved = json.loads(path.read_text())
    del saved["config"]["model"]["blend"]
    path.write_text(json.dumps(saved))
    assert resumed(run).step_count == 2
    model = dataclasses.replace(CONFIG.model, blend="layered")
    told = r"config\.model\.blend = 'pooled', expected 'layered'"
    with pytest.raises(CheckpointError, match=told):
        resumed(run, dataclasses.replace(CONFIG, model=model))


# --- damage --------------------------------------------------------------------------------------
def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2] ^= 1  # of the last number, or of what state.json ends in
    file.write_bytes(data)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def not_finite(file: Path) -> None:
    tensors = read_tensors(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    write_tensors(file, tensors)


def of_the_step_before(file: Path) -> None:
    shutil.copy(file.parents[1] / "step-00000002" / file.name, file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", [*STATE_FILES, "state.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(name, runs, tmp_path):
    ways: list[Callable[[Path], object]]
    ways = [half, flip, of_the_step_before, a_folder, Path.unlink, emptied]
    for number, damage in enumerate([*ways, not_finite] if name == "ema.safetensors" else ways):
        run = shutil.copytree(runs / "whole", tmp_path / f"{number}")
        damage(run / "checkpoints/step-00000004" / name)
        with pytest.warns(UserWarning, match=rf"step-00000004/{name}.*Goes on from step-00000002"):
            assert newest_step(run).state["step"] == 2
    half(run / "checkpoints/step-00000002" / name)
    with pytest.raises(CheckpointError, match=rf"{name}.*remove .*/checkpoints and start without"):
        newest_step(run)


def test_a_damaged_checkpoint_is_written_anew(runs, tmp_path):
    run = shutil.copytree(runs / "whole", tmp_path / "run")
    newest = run / "checkpoints/step-00000004"
    half(newest / "ema.safetensors")
    with pytest.warns(UserWarning, match="Goes on from"):
        trainer = resumed(run)
    assert trainer.step_count == 2
    trainer.run(4, progress=False)
    for name in STATE_FILES:
        right = runs / "whole/checkpoints/step-00000004" / name
        assert (newest / name).read_bytes() == right.read_bytes()


@pytest.mark.parametrize(
    "pointer", ["../../../elsewhere/checkpoints/step-00000009", "step-00000099\n", "", "\0", "\xff"]
)
def test_latest_leads_nowhere_else(pointer, run, tmp_path):
    other = tmp_path / "elsewhere/checkpoints/step-00000009"
    shutil.copytree(latest_step(run), other)
    (run / "checkpoints/latest").write_bytes(pointer.encode("latin-1"))
    (run / "checkpoints/step-00000008").symlink_to(other)
    (run / "checkpoints/step-00000007").write_bytes(b"a file")
    assert latest_step(run) == run / "checkpoints/step-00000002"


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_a_file_where_a_folder_goes_is_told_before_the_training(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    trainer = Trainer(tiny_config(iterations=2), tiny_store(), tmp_path)
    with pytest.raises(FileExistsError, match=name):
        trainer.run(progress=False)
    assert trainer.step_count == 0


# --- what else lies in the folder ----------------------------------------------------------------
def test_a_log_is_cut_and_temporary_files_of_a_kill_go_at_the_next_start(run):
    kept = (run / "log.jsonl").read_text()
    later = kept.splitlines()[-1].replace('"step": 2', '"step": 3')
    (run / "log.jsonl").write_text(kept + later + "\n" + '{"step": 4, "seco')
    (run / "export").mkdir()
    left = [".log.jsonl.a.tmp", ".config.json.b.tmp", "samples/.step-00000002.png.c.tmp"]
    left += ["checkpoints/.latest.d.tmp", "export/.card.json.e.tmp"]
    for name in left:
        (run / name).write_bytes(b"half")
    (run / "checkpoints/.step-00000004.tmp").mkdir()
    # a state.json of an older kit knows no hashes and no log
    path = latest_step(run) / "state.json"
    state = {name: value for name, value in read_json(path).items() if name in ("step", "seconds")}
    path.write_text(json.dumps(state))
    trainer = resumed(run)
    assert trainer.step_count == 2
    assert (run / "log.jsonl").read_text() == kept
    trainer.run(progress=False)
    assert [line["step"] for line in log_lines(run)] == [1, 2, 3, 4]
    assert not list(run.rglob(".*"))


def test_guidances_take_turns_and_a_line_of_a_resumed_log_tells_of_both(run):
    trainer = resumed(run)
    trainer.run(3, progress=False)
    before, after = log_lines(run)[1:3]
    assert before.keys() <= after.keys()


@pytest.mark.parametrize(
    "line", [b"\0\0\0\0\n", b'{"step": 1, "sec\n', b"[1]\n", b"\xff\n", b"7\n", b'{"step": 1.5}\n']
)
def test_a_damaged_line_of_the_log_is_left_out_and_told(line, run):
    path = run / "log.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + second)
    with pytest.warns(UserWarning, match=r"log\.jsonl: 1 damaged lines are left out"):
        cut_log(path, 2)
    assert path.read_bytes() == first + second


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_a_log_that_is_no_file_is_begun_anew(what, run, tmp_path):
    path = run / "log.jsonl"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
    resumed(run).run(3, progress=False)
    assert [line["step"] for line in log_lines(run)] == [3]
    assert not (tmp_path / "elsewhere").exists() and not path.is_symlink()


def test_a_fresh_run_does_not_go_on_in_an_old_log(tmp_path):
    """A run that died before its first checkpoint is begun again in the same folder."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "seconds": 1.0}\n{"step": 2, "seco')
    Trainer(tiny_config(iterations=2), tiny_store(), tmp_path).run(progress=False)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2]


def test_resume_on_another_footing_says_that_the_bytes_will_differ(run):
    path = run / "config.json"
    saved = json.loads(path.read_text())
    saved["hardware"] |= {"kernels": "compiled", "precision": "bf16"}
    path.write_text(json.dumps(saved))
    with pytest.warns(UserWarning, match="kernels was compiled and is eager"):
        trainer = resumed(run)
    assert trainer.step_count > 0
