"""A plan on a local Ray: one run is killed in the middle, and nothing differs."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dtgan_lab.cli.main import main
from tests.core_fixtures import failure

PLAN = """
preset = "tiny"
iterations = 1
[run.long]
iterations = 16
set = ["train.checkpoint_every=4"]
[run.a]
ablation = "a"
"""
KILLED = "long-0"
OF_THE_MOMENT = ("written", "seconds")


@pytest.fixture
def inputs(data: Path, judge_folder: Path, tmp_path: Path) -> list[object]:
    (tmp_path / "plan.toml").write_text(PLAN)
    return ["--data", data, "--judge", judge_folder, "--plan", tmp_path / "plan.toml"]


def command(inputs: list[object], out: Path, *more: object) -> list[str]:
    words = [*inputs, "--out", out / "runs", "--results", out / "results.jsonl", "--device", "cpu"]
    return ["study", *map(str, [*words, *more])]


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def holder(run: Path) -> int | None:
    """The process that has a run's folder open, since it holds the lock."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(run):
                return int(link.parts[2])
        except OSError:  # the process has ended, or is somebody else's
            continue
    return None


class Killer(threading.Thread):
    """Kills whoever trains a run as soon as it has a checkpoint."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.killed, self.log = run, 0, b""

    def run(self) -> None:
        while not list(self.run_folder.glob("checkpoints/step-*")):
            time.sleep(0.01)
        process = holder(self.run_folder)
        assert process is not None and process != os.getpid()
        os.kill(process, signal.SIGKILL)
        self.log = (self.run_folder / "log.jsonl").read_bytes()
        self.killed = process


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="processes are found in /proc")
def test_rows_are_those_of_the_plain_study_though_a_worker_is_killed(inputs, tmp_path, capfd):
    pytest.importorskip("ray", reason="Ray is not installed")
    threads = torch.get_num_threads()
    try:
        assert main(command(inputs, tmp_path / "plain", "--threads", 1)) == 0
    finally:
        torch.set_num_threads(threads)

    killer = Killer(tmp_path / "many/runs" / KILLED)
    killer.start()
    shared = command(inputs, tmp_path / "many", "--ray", "local", "--cpus-per-run", 1)
    assert main(shared) == 0
    assert "2 runs finished, 0 of 2 left" in capfd.readouterr().out
    assert killer.killed, "it ended before it could be killed"

    plain, many = rows(tmp_path / "plain"), rows(tmp_path / "many")
    for row in (*plain, *many):
        for name in OF_THE_MOMENT:
            row.pop(name)
    assert many == plain  # weights, numbers, hardware, and their order
    log = (tmp_path / "many/runs" / KILLED / "log.jsonl").read_bytes()
    first = [line for line in killer.log.splitlines(keepends=True) if line.endswith(b"\n")][:4]
    assert len(first) == 4 and log.startswith(b"".join(first)), "it has begun anew"
    assert len(log.splitlines()) == 16

    before = (tmp_path / "many/results.jsonl").read_bytes()
    assert main(shared) == 0
    assert "0 runs finished, 0 of 2 left" in capfd.readouterr().out
    assert (tmp_path / "many/results.jsonl").read_bytes() == before


def test_a_missing_ray_says_what_to_install(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = failure(capsys, *command(inputs, tmp_path, "--ray", "local"))
    assert "--ray local: found no Ray; install it: pip install 'dtgan-kit[ray]'" in message
    assert not (tmp_path / "runs").exists()
