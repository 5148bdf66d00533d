"""The gate before a classifier: of an arm's images only those pass that a judge believes.

    gate = load_gate(synth, Path("notebooks/checkpoints/judge-synthetic-sdi"), dataset)
    painted, count = paint_until_passed(Materials(store, synth, gate=gate), task, paint_latent)

The judge must take an image for the wanted defect and see the product of its background, and it
must be no copy of a training image.  What fails is drawn again on the same background.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.downstream.training_set import JUDGE, MODEL, GateCount, Materials, Painted, Task
from dtgan_lab.export.drawing import Drawn, Part
from dtgan_lab.export.gate import Gate, Rules

RULES = Rules(min_confidence=0.5, keep_product=True)
TRIES = 5  # rounds of drawing, the first among them
USUAL = ("val",)  # says what is no copy; `test` is looked at once, when all is trained

Painter = Callable[[Materials, Task], Painted]
"""Makes the images of a task."""


def load_gate(synth: Synthesizer, judge: Path, dataset: Dataset) -> Gate:
    """The gate of the arms that have one; see `Gate.load` for what is refused."""
    return Gate.load(RULES, synth, judge, dataset, USUAL)


def paint_until_passed(
    materials: Materials, task: Task, paint: Painter
) -> tuple[Painted, GateCount]:
    """Paint a task, and again what does not pass, `TRIES` rounds at most; with the count.

    At most one image a background passes, round after round.
    """
    images, sources, refused = [], [], 0
    waiting = task
    for _ in range(TRIES):
        painted = paint(materials, waiting)
        passed = _passed(materials, waiting, painted.images)
        images.append(painted.images[passed])
        good_ones = passed.tolist()
        sources += [source for source, good in zip(painted.sources, good_ones, strict=True) if good]
        failed = [b for b, good in zip(waiting.backgrounds, good_ones, strict=True) if not good]
        refused += len(failed)
        waiting = waiting.again(failed)
        if not failed:
            break
    count = GateCount(len(task.backgrounds), refused, len(waiting.backgrounds))
    return Painted(torch.cat(images), sources), count


def _passed(materials: Materials, task: Task, images: Tensor) -> Tensor:
    """Which images, (n, ch, H, W) in [-1, 1], on the backgrounds of a task pass: bool (n,)."""
    store, synth, gate = materials.store, materials.the(MODEL), materials.the(JUDGE)
    x = store.to_float(torch.tensor(task.backgrounds))
    plain = to_uint8(synth.without_defect(synth.background(x)))
    levels = to_uint8(images)
    paths = [store.paths[i] for i in task.backgrounds]
    rows = [{"background": path, "defect": store.defect_names[task.defect]} for path in paths]
    drawn = Drawn(rows, levels, synth.masks(plain, levels), x)
    parts = {path: Part(store.product_names[task.product]) for path in paths}
    return torch.tensor([not found["reason"] for found in gate(drawn, parts)])
