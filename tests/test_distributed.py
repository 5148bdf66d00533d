"""Two processes that share every batch take the same steps as one: gloo, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dtgan_core.batches import shard_batch
from dtgan_core.hardware import Workers, shard_pairs
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import main
from dtgan_lab.options import share
from tests.core_fixtures import (
    log_lines,
    make_batch,
    picture,
    save_picture,
    tiny_config,
    tiny_store,
    write_tiny_dataset,
)
from tests.data.folder_fixtures import tree_bytes

STEPS = 4
# What `torchrun` starts twice, one command line after the other in the same two processes.
SCRIPT = (
    "import sys; from dtgan_lab.cli.main import main\nfor line in sys.argv[1:]: main(line.split())"
)


def train(data: Path, out: Path, *settings: str) -> str:
    line = f"train --data {data} --out {out} --preset tiny --batch 6 --iterations {STEPS}"
    line += " --precision fp32 --device cpu --threads 1 --set train.guidance='both'"
    return " ".join([line, *(f"--set {setting}" for setting in settings)])


def generate(model: Path, parts: Path, out: Path) -> str:
    line = f"generate --checkpoint {model} --backgrounds {parts} --defect Spots --count 7"
    return f"{line} --out {out} --threads 1 --batch 2"  # four blocks to share


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{STEPS:08d}" / "networks.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and exports of one process, of two, and a run of another seed."""
    data = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", a_cell=4)
    folder, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    for number in range(3):
        save_picture(folder / f"parts/{number}.png", picture(0, 0, number))
    drawn = (folder / "one", folder / "parts")
    alone = [train(data, folder / "one"), train(data, folder / "other", "train.seed=1")]
    try:
        for line in (*alone, generate(*drawn, folder / "one-images")):
            assert main(line.split()) == 0
    finally:
        torch.set_num_threads(threads)
    (folder / "both.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lines = [train(data, folder / "two"), generate(*drawn, folder / "two-images")]
    command = [sys.executable, *launcher, str(folder / "both.py"), *lines]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    return folder


def test_two_processes_take_the_steps_of_one_and_one_of_them_writes_the_log(runs):
    one, two, other = (log_lines(runs / name)[-1] for name in ("one", "two", "other"))
    losses = [key for key in one if "/" in key and not key.endswith(("rel_err", "spread", "c_abs"))]
    assert len(losses) >= 16
    for key in losses:
        assert two[key] == pytest.approx(one[key], rel=2e-3, abs=2e-4), key
    assert any(abs(other[key] - one[key]) > 0.05 * abs(one[key]) for key in losses)

    # Adam turns a rounding error in a gradient near zero into a step of its own, so single weights
    # may differ; as a whole two processes must move as one does, and far closer than another seed.
    def distance(a: str, b: str) -> float:
        first, second = weights(runs / a), weights(runs / b)
        return sum(float((first[k] - second[k]).abs().sum()) for k in first)

    assert distance("one", "two") < 0.02 * distance("one", "other")
    assert [line["step"] for line in log_lines(runs / "two")] == list(range(1, STEPS + 1))
    card = json.loads((runs / "two/export/card.json").read_text())
    assert card["hardware"]["processes"] == 2


def test_two_processes_share_an_export(runs):
    one, two = (pd.read_csv(runs / f"{name}-images/manifest.csv") for name in ("one", "two"))
    assert len(one) == 7
    pd.testing.assert_frame_equal(one, two)
    assert tree_bytes(runs / "two-images") == tree_bytes(runs / "one-images")


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [("", "", Workers()), ("", "1", Workers()), ("2", "3", Workers(2, 3))],
)
def test_a_share_is_that_of_the_environment(rank, world, expected, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert share(torch.device("cpu")) == expected


@pytest.mark.parametrize(("rank", "world"), [("", "2"), ("2", "2"), ("-1", "2"), ("0", "two")])
def test_a_share_that_cannot_be_is_refused(rank, world, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match=f"found RANK={rank} and WORLD_SIZE={world} in the env"):
        share(torch.device("cpu"))


def test_shards_are_a_partition():
    batch = make_batch([0, 1, 2, 0], [1, 2, 0, 1])
    parts = [shard_batch(batch, Workers(rank, 2)) for rank in (0, 1)]
    assert [part.y.tolist() for part in parts] == [[0, 2], [1, 0]]
    assert torch.equal(torch.stack([part.x for part in parts], 1).flatten(0, 1), batch.x)
    pairs = torch.arange(8)  # first draws 0 to 3, second draws 4 to 7
    assert shard_pairs(pairs, Workers(1, 2)).tolist() == [1, 3, 5, 7]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="multiple of the 2 processes"):
        Trainer(tiny_config(batch_size=5), tiny_store(), workers=Workers(0, 2))
