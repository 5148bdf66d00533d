"""What the tests of the core share: tiny data, tiny networks, a run that kills itself."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dtgan_core import checkpoints
from dtgan_core.config import Config, make_config
from dtgan_core.loop import seeded
from dtgan_core.networks import Networks
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import main
from dtgan_lab.data import Batch, DatasetInfo, ImageStore, load_dataset, write_dataset
from dtgan_lab.data.layout import put_image

PRODUCTS = ("A", "B", "C")
DEFECTS = ("Normal", "Scratches", "Spots")
SIZE = 32  # pixels, as in preset `tiny`


def tiny_config(ablation: str = "e", **train: Any) -> Config:
    """Preset `tiny` in fp32, three images a step, with fields of `TrainConfig` replaced."""
    return make_config("tiny", ablation, train={"precision": "fp32", "batch_size": 3, **train})


def latest_step(run: Path) -> Path:
    """The folder of a run's newest whole checkpoint."""
    return checkpoints.newest_step(run).folder


# --- data ----------------------------------------------------------------------------------------
def picture(product: int, defect: int, number: int, channels: int = 1) -> np.ndarray:
    """A made image, uint8 (32, 32, channels): a ramp a product, a bright bar or dots a defect."""
    random = np.random.default_rng([product, defect, number])
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    ramp = (rows, columns, rows + columns)[product % 3]
    grey: np.ndarray = 90 + 40 * product + 1.5 * ramp + random.normal(0, 4, (SIZE, SIZE))
    top, left = random.integers(2, SIZE - 12, 2)
    if defect == 1:
        grey[top : top + 10, left : left + 2] += 60
    elif defect:
        grey[top : top + 3, left : left + 3] -= 70
        grey[top + 6 : top + 9, left + 6 : left + 9] -= 70
    image = np.clip(grey, 0, 255).astype(np.uint8)[:, :, None]
    return np.concatenate([image, 255 - image, image // 2], axis=2)[:, :, :channels]


def save_picture(path: Path, image: np.ndarray) -> Path:
    """Write a uint8 (H, W, 1 or 3) array as an image file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(path)
    return path


def info_of(name: str, products: tuple[str, ...], channels: int = 1) -> DatasetInfo:
    """What dataset.json says of a data set that a test made."""
    return DatasetInfo(
        name=name,
        anchor=DEFECTS[0],
        products=products,
        defects=DEFECTS,
        image_size=(SIZE, SIZE),
        channels=channels,
        flips={product: ("horizontal",) for product in products},
        licence="CC0",
        citation="none",
        source="made for a test",
        command="pytest",
    )


def write_tiny_dataset(
    root: Path, *, products: tuple[str, ...] = PRODUCTS, channels: int = 1, a_cell: int = 3
) -> Path:
    """Write a data set of `a_cell` training images for every product and defect; returns root."""
    rows = []
    for p, product in enumerate(products):
        for y, defect in enumerate(DEFECTS):
            for number in range(a_cell):
                place = f"train/{product}/{defect}/{number:02d}.png"
                words = {"group": f"{product}-{defect}-{number}", "source": "made for a test"}
                rows.append(put_image(root, place, picture(p, y, number, channels)) | words)
    write_dataset(root, pd.DataFrame(rows), info_of("tiny", products, channels))
    return root


@cache
def tiny_store(channels: int = 1) -> ImageStore:
    """The training split of the tiny data set, in memory."""
    with TemporaryDirectory() as folder:
        root = write_tiny_dataset(Path(folder), channels=channels)
        return ImageStore.load(load_dataset(root), "train", SIZE, channels, progress=False)


def make_batch(y: list[int], y_trg: list[int], channels: int = 1, seed: int = 0) -> Batch:
    """A batch of random images in [-1, 1] with the labels given; products 0, 1, 2, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(y), channels, SIZE, SIZE)
    x, x_ref, x_ref2 = (2 * torch.rand(shape, generator=generator) - 1 for _ in range(3))
    p = torch.arange(len(y)) % len(PRODUCTS)
    return Batch(x, torch.tensor(y), p, torch.tensor(y_trg), x_ref, x_ref2)


# --- networks ------------------------------------------------------------------------------------
def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def calls_of(*modules: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of the calls of each module that are made within."""
    sizes: list[int] = []
    hooks = [m.register_forward_hook(lambda m, i, o: sizes.append(len(o))) for m in modules]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


def jumbled(module: nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Move every weight a little, so that no bias is zero and no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))


def tiny_networks(config: Config, seed: int = 0) -> Networks:
    """Networks of a configuration with jumbled weights, in channels_last memory."""
    nets = seeded(lambda: Networks(config.model), config.train.seed, "cpu")
    jumbled(nets, seed)
    return nets


def write_tiny_export(folder: Path, config: Config | None = None) -> Path:
    """An export as `train` writes it, of networks that were jumbled instead of trained."""
    config = config or tiny_config()
    store = tiny_store(config.model.channels)
    trainer = Trainer(config, store, data={"name": "tiny", "licence": "CC0"})
    jumbled(trainer.ema, scale=0.15)
    trainer.export(folder)
    return folder


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients there are, by name."""
    return {
        name: weight.grad.clone()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two snapshots are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def log_without_time(run: Path) -> list[dict[str, Any]]:
    """The same but for what differs between runs that computed the same."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log_lines(run)]


# --- the command line ----------------------------------------------------------------------------
def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must end as bad input does: status 2, one line, no output."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        assert isinstance(stopped.code, int)
        status = stopped.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert "error: " in lines[-1]
    if lines[-1].startswith("error: "):  # not argparse, which shows the usage first
        assert len(lines) == 1, err
    return lines[-1]


# --- a run that dies -----------------------------------------------------------------------------
def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(
    config: dict[str, Any], out: str, moment: str, at: int, threads: int
) -> None:
    """Train into `out` and `kill -9` this process: what a child process of a test runs.

    "step" dies in the iteration that would be number `at`, when D has learned and G has not; "save"
    with half of the checkpoint of `at` written; "pointer" while `latest` names the one before.
    """
    torch.set_num_threads(threads)
    trainer = Trainer(Config.from_json(config), tiny_store(), Path(out))
    learn, write_tensors = trainer._learn, checkpoints.write_tensors
    write_atomic = checkpoints.write_atomic

    def learn_or_die(names: tuple[str, ...], loss: Tensor) -> None:
        if names != ("D",) and trainer.step_count == at - 1:
            _die()
        learn(names, loss)

    def write_tensors_or_die(path: Path, tensors: dict[str, Tensor]) -> str:
        digest = write_tensors(path, tensors)
        if trainer.step_count == at and path.name == "networks.safetensors":
            _die()
        return digest

    def write_atomic_or_die(path: Path, data: Any) -> None:
        if trainer.step_count == at and path.name == "latest":
            _die()
        write_atomic(path, data)

    if moment == "step":
        trainer._learn = learn_or_die  # type: ignore[method-assign]
    elif moment == "save":
        checkpoints.write_tensors = write_tensors_or_die
    else:
        checkpoints.write_atomic = write_atomic_or_die
    trainer.run(progress=False)
