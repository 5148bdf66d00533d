"""A disk that runs full: a clear message, nothing half-written, and later it goes on."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dtgan_core.files import write_atomic
from dtgan_lab.cli.main import main
from dtgan_lab.files import disk_is_full
from tests.core_fixtures import failure, picture, save_picture, write_tiny_export
from tests.data.folder_fixtures import tree_bytes


@contextmanager
def full_after(flushes: int) -> Iterator[None]:
    """Let the disk be full from the flush of one file on."""
    fsync, done = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > flushes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system refuse to make any file larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["flush", "limit"])
def test_what_stood_there_stays_and_the_file_is_named(way, tmp_path):
    path = tmp_path / "there.bin"
    path.write_bytes(b"precious")
    guard = full_after(0) if way == "flush" else largest_file(1000)
    with guard, pytest.raises(OSError, match=r"there\.bin") as caught:
        write_atomic(path, bytes(100_000))
    assert disk_is_full(caught.value)
    assert not disk_is_full(FileNotFoundError(errno.ENOENT, "no"))
    assert tree_bytes(tmp_path) == {"there.bin": b"precious"}


# --- export --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("material")
    for number in range(3):
        save_picture(root / f"parts/{number}.png", picture(0, 0, number))
    words = ["--checkpoint", write_tiny_export(root / "model"), "--backgrounds", root / "parts"]
    words += ["--defect", "Scratches", "Spots", "--count", "12", "--batch", "4", "--product", "A"]
    return ["generate", *map(str, words)]


@pytest.mark.parametrize(
    ("kind", "flushes"), [("folder", 5), ("folder", 28), ("layout", 35), ("tar", 29), ("coco", 33)]
)
def test_an_export_goes_on_when_there_is_room_again(kind, flushes, command, tmp_path, capsys):
    command = [*command, "--format", kind]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    whole = tree_bytes(tmp_path / "whole")
    out = tmp_path / "out"
    with full_after(flushes):
        message = failure(capsys, *command, "--out", out)
    assert "the disk is full ([Errno 28] No space left on device: " in message
    assert f"what is done is kept in {out}, go on with the same command and --resume" in message
    kept = {name: data for name, data in tree_bytes(out).items() if not name.startswith(".work")}
    assert kept
    assert all(whole[name] == data for name, data in kept.items()), "half-written"
    assert not (out / "manifest.csv").exists()
    assert main([*command, "--out", str(out), "--resume"]) == 0
    assert tree_bytes(out) == whole


def test_a_disk_full_from_the_beginning_and_shards_too_large_are_told(command, tmp_path, capsys):
    with full_after(0):
        message = failure(capsys, *command, "--out", tmp_path / "out")
    assert "the disk is full" in message
    assert "before the first image: nothing is kept" in message
    assert not (tmp_path / "out").exists()
    with largest_file(8000):
        message = failure(capsys, *command, "--format", "tar", "--out", tmp_path / "out")
    assert "the disk is full ([Errno 27]" in message
    assert "shard-000000.tar" in message
    assert not list((tmp_path / "out").glob("*.tar"))
    assert main([*command, "--format", "tar", "--out", str(tmp_path / "out"), "--resume"]) == 0


# --- training ------------------------------------------------------------------------------------
def test_a_run_keeps_its_last_checkpoint(tiny_data, tmp_path, capsys):
    command = ["train", "--data", str(tiny_data), "--preset", "tiny", "--batch", "3"]
    command += ["--iterations", "4", "--precision", "fp32", "--set", "train.checkpoint_every=2"]
    command += ["--set", "train.kernels='eager'"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    run = tmp_path / "run"
    with full_after(10):  # the first checkpoint makes 9 or so
        message = failure_of_training(capsys, *command, "--out", run)
    assert "the disk is full ([Errno 28] No space left on device: " in message
    assert "step-00000002 is kept, go on from it with --resume" in message
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["latest", "step-00000002"], "half a checkpoint would fill the disk further"
    assert main([*command, "--out", str(run), "--resume"]) == 0
    for name in ("networks", "ema", "optimisers"):
        path = f"checkpoints/step-00000004/{name}.safetensors"
        assert (run / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_a_full_disk_before_the_first_checkpoint_is_no_dead_end(tiny_data, tmp_path, capsys):
    command = ["train", "--data", str(tiny_data), "--preset", "tiny", "--iterations", "2"]
    command += ["--out", str(tmp_path / "run")]
    with full_after(3):
        message = failure_of_training(capsys, *command)
    assert "before the first checkpoint: nothing is kept, the same command starts anew" in message
    assert main(command) == 0
    assert not list((tmp_path / "run").rglob(".*"))


def failure_of_training(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line of a run that must end with status 2 and without a traceback."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.strip().splitlines()[-1]
