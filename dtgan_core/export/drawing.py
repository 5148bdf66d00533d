"""From an order to images: which background, defect and reference an index takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dtgan_core.data.store import step_generator
from dtgan_core.files import sha256_of
from dtgan_core.synthesis import Synthesizer, approximate_masks, to_uint8

EXPORT_COLUMNS = (
    "path",
    "approximate_mask",
    "background",
    "defect",
    "guidance",
    "reference",
    "seed",
    "index",
    "checkpoint_sha256",
)

Row = dict[str, Any]


class Shuffle:
    """An endless, balanced draw: every round takes each of `count` items once, in a new order.

    The item of an index is a function of (seed, name, index) alone, so workers agree on it.
    """

    def __init__(self, count: int, seed: int, name: str) -> None:
        self.count = count

        @lru_cache(maxsize=4)
        def order(number: int) -> list[int]:
            return torch.randperm(
                count, generator=step_generator(f"{seed}/{name}", number)
            ).tolist()

        self._order = order

    def __getitem__(self, index: int) -> int:
        return self._order(index // self.count)[index % self.count]


class Part(NamedTuple):
    """What is known of a background beside its pixels.

    Attributes:
        product: the product it shows, '' where unknown.
        group: images of the same part share it, '' where unknown.
        split: of the data set it comes from, '' where unknown.
    """

    product: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class Order:
    """What was ordered; it decides every image of an export.

    Attributes:
        backgrounds: defect-free images.
        defects: what to put onto them, in turn: index i takes the (i mod n)-th.
        count: images to keep.
        seed: of latents and of the order of backgrounds and references.
        references: defect -> images to take defect and style from; None draws latents.
        batch_size: images of a block.
        parts: background, as text -> what is known of it.
    """

    backgrounds: tuple[Path, ...]
    defects: tuple[str, ...]
    count: int
    seed: int = 0
    references: Mapping[str, Sequence[Path]] | None = None
    batch_size: int = 32
    parts: Mapping[str, Part] = field(default_factory=dict)

    def check(self, synth: Synthesizer) -> None:
        """Refuse what cannot be made.

        Raises:
            ValueError: nothing is asked for, or something that the model does not know.
        """
        if self.count < 1:
            raise ValueError(f"count is {self.count}; expected at least 1")
        if self.batch_size < 1:
            raise ValueError(f"batch size is {self.batch_size}; expected at least 1")
        if not self.backgrounds:
            raise ValueError("found no background; expected at least one image file")
        if not self.defects or len(set(self.defects)) < len(self.defects):
            raise ValueError(f"defects are {', '.join(self.defects)}; expected each once")
        for defect in self.defects:
            synth.label(defect, 1)
            if self.references is not None and not self.references.get(defect):
                raise ValueError(f"found no reference of {defect}; expected at least one image")

    def part(self, background: str) -> Part:
        """What is known of a background."""
        return self.parts.get(background, Part())

    def to_json(self) -> dict[str, Any]:
        """What export.json says of it; files count with their names and bytes."""
        references = self.references or {}
        return {
            "defects": list(self.defects),
            "count": self.count,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "backgrounds": _digest(self.backgrounds),
            "references": {name: _digest(references[name]) for name in sorted(references)},
            "parts": hashlib.sha256(repr(sorted(self.parts.items())).encode()).hexdigest(),
        }


def _digest(paths: Sequence[Path]) -> str:
    """How many files, and a hash of their names and bytes, in their order."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path} {sha256_of(path)}\n".encode(errors="surrogateescape"))
    return f"{len(paths)} files, sha256 {whole.hexdigest()}"


class Drawn(NamedTuple):
    """The images of some indices.

    Attributes:
        rows: what the manifest says of each, without paths.
        images: uint8 (N, H, W, ch).
        masks: uint8 (N, H, W), 0 or 255, where each differs from itself without a defect.
        sources: float32 (N, ch, H, W) in [-1, 1], the backgrounds.
    """

    rows: list[Row]
    images: np.ndarray
    masks: np.ndarray
    sources: Tensor


class Painter:
    """Draws the images of an order."""

    def __init__(self, synth: Synthesizer, order: Order) -> None:
        self.synth, self.order = synth, order
        self._of_background = Shuffle(len(order.backgrounds), order.seed, "backgrounds")
        self._of_reference = {
            defect: Shuffle(len(paths), order.seed, "references")
            for defect, paths in (order.references or {}).items()
        }

    def __call__(self, indices: Sequence[int]) -> Drawn:
        """Draw some indices together.

        Raises:
            ImageError: a background or reference cannot be read.
        """
        synth, order = self.synth, self.order
        rows = self.rows(indices)
        defects = [row["defect"] for row in rows]
        x = synth.images([row["background"] for row in rows])
        if order.references is None:
            guide = synth.latent_guides(defects, order.seed, indices)
        else:
            guide = synth.reference_guides(
                synth.images([row["reference"] for row in rows]), defects
            )
        background = synth.background(x)
        images = to_uint8(synth.paint(background, guide))
        # Against the model's own Normal: what it fails to reconstruct of a part is no defect.
        masks = approximate_masks(to_uint8(synth.without_defect(background)), images)
        return Drawn(rows, images, masks, x)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """What the manifest says of some images, without paths."""
        return [self._row(index) for index in indices]

    def _row(self, index: int) -> Row:
        order = self.order
        kinds = len(order.defects)
        defect = order.defects[index % kinds]
        reference = ""
        if order.references is not None:
            number = self._of_reference[defect][index // kinds]
            reference = str(order.references[defect][number])
        return {
            "background": str(order.backgrounds[self._of_background[index]]),
            "defect": defect,
            "guidance": "latent" if order.references is None else "reference",
            "reference": reference,
            "seed": order.seed,
            "index": index,
            "checkpoint_sha256": self.synth.checkpoint_hash,
        }
