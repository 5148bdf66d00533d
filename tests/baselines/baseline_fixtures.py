"""What the tests of the trained baselines share: tiny models, tiny exports, a run that dies."""

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtgan_core.synthesis import to_uint8
from dtgan_lab.baselines.config import only
from dtgan_lab.baselines.zoo import BASELINES, ZOO, baseline
from dtgan_lab.data import ImageStore
from tests.core_fixtures import DEFECTS, jumbled, save_picture, tiny_store

METHODS = BASELINES


def store_of(method: str, product: str = "A", defect: str = "Scratches") -> ImageStore:
    """What a baseline learns from: one product of the tiny data set, or a pair of its domains."""
    return only(tiny_store(), product, (DEFECTS[0], defect) if ZOO[method].pairs else None)


def tiny_loop(method: str, out: Path | None = None, **groups: dict[str, Any]) -> Any:
    """A baseline at preset `tiny` in fp32, with fields of its groups replaced."""
    found = baseline(method)
    config = found.presets["tiny"]
    groups["train"] = {"precision": "fp32", **groups.get("train", {})}
    parts = {name: dataclasses.replace(getattr(config, name), **f) for name, f in groups.items()}
    data = {"name": "tiny", "licence": "CC0"}
    return found(dataclasses.replace(config, **parts), store_of(method), out, data=data)


def write_export(method: str, folder: Path, product: str, defect: str = "Scratches") -> Path:
    """An export of a baseline whose averaged weights were jumbled instead of trained."""
    found = baseline(method)
    loop = found(found.presets["tiny"], store_of(method, product, defect), data={"name": "tiny"})
    jumbled(loop.ema, seed=ord(product) + len(defect), scale=0.1)
    return loop.export(folder)


def train_until_killed(method: str, out: str, at: int, groups: dict[str, Any]) -> None:
    """Train and `kill -9` this process in iteration `at`, when one player of two has learned."""
    torch.set_num_threads(1)
    loop = tiny_loop(method, Path(out), **groups)
    learn, first = loop._learn, loop.exported if ZOO[method].pairs else ("D",)

    def learn_or_die(names: tuple[str, ...], loss: Tensor) -> None:
        if names != first and loop.step_count == at - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        learn(names, loss)

    loop._learn = learn_or_die
    loop.run(progress=False)


def write_images(folder: Path, images: Tensor, cells: Sequence[Sequence[str]]) -> Path:
    """Somebody's images as FOLDER/PRODUCT/DEFECT/NUMBER.png; returns the folder."""
    for number, (levels, (product, defect)) in enumerate(zip(to_uint8(images), cells, strict=True)):
        save_picture(folder / product / defect / f"{number:03d}.png", levels)
    return folder
