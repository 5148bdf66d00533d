"""What the tests of the export share: an order of the usual size, and a judge by a function."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dtgan_core.hardware import Workers
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.export.drawing import Order
from dtgan_lab.export.gate import Gate, Rules
from dtgan_lab.export.running import generate
from dtgan_lab.measure.judge import Judge, JudgeConfig, JudgeNetwork, Prediction
from tests.core_fixtures import DEFECTS, PRODUCTS, SIZE

BOTH = ("Scratches", "Spots")


def export(
    synth: Synthesizer,
    good: Sequence[Path],
    out: Path,
    gate: Gate | None = None,
    *,
    workers: Workers | None = None,
    resume: bool = False,
    watch: Any = None,
    **fields: Any,
) -> pd.DataFrame:
    """Ten images of two defects in three blocks, with fields of the order replaced."""
    usual: dict[str, Any] = {"defects": BOTH, "count": 10, "seed": 3}
    usual |= {"batch_size": 4, "shard_size": 4}
    return generate(
        synth,
        Order(tuple(good), **usual | fields),
        out,
        gate,
        workers=workers,
        resume=resume,
        watch=watch,
    )


def write_judge(
    folder: Path, image_size: int = SIZE, products: tuple[str, ...] = PRODUCTS, **card: Any
) -> Path:
    """An untrained judge, unsure of everything; returns its folder."""
    config = JudgeConfig(image_size=image_size, width=8)
    Judge(JudgeNetwork(config, 3, 3), config, products, DEFECTS, card).save(folder)
    return folder


class StubJudge(Judge):
    """Sees what a function of the image's mean says: (chances of the defects, product)."""

    def __init__(self, prediction: Callable[[float], tuple[list[float], int]]) -> None:
        config = JudgeConfig(image_size=SIZE, width=8)
        super().__init__(JudgeNetwork(config, 3, 3), config, PRODUCTS, DEFECTS, {})
        self.prediction = prediction

    def __call__(self, x: Tensor, batch_size: int = 128) -> Prediction:
        self.check_images(*x.shape[1:])
        found = [self.prediction(float(image.mean())) for image in x]
        chances = torch.tensor([chance for chance, _ in found])
        return Prediction(chances.argmax(dim=1), torch.tensor([p for _, p in found]), chances)


def halves(mean: float) -> tuple[list[float], int]:
    """Sure of Spots in about every second image, by a digit of its mean; always product A."""
    sure = int(abs(mean) * 1e4) % 2
    return ([0.1, 0.1, 0.8] if sure else [0.5, 0.3, 0.2]), 0


def some_pass(**rules: Any) -> Gate:
    """A gate that refuses about every second image of Spots."""
    return Gate(Rules(**rules), StubJudge(halves))
