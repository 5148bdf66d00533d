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

from dtgan_core.batches import step_generator
from dtgan_core.files import sha256_of

FACTS = ("background", "defect", "guidance", "reference", "seed", "index", "checkpoint_sha256")

Row = dict[str, Any]


def file_columns(mask_kind: str) -> tuple[str, ...]:
    """Columns of an image and its masks, soft ones of a generator that makes masks, too.

    `mask_kind` is "generated" or "approximate", as `Synthesizer.mask_kind`.
    """
    return ("path", f"{mask_kind}_mask", "soft_mask")[: 3 if mask_kind == "generated" else 2]


def export_columns(mask_kind: str) -> tuple[str, ...]:
    """Columns of an export's manifest (see `file_columns`)."""
    return (*file_columns(mask_kind), *FACTS)


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
    """What is known of a background beside its pixels, '' where unknown.

    Images of the same part share a group; `split` is of the data set that it comes from.
    """

    product: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class Order:
    """What was ordered; it decides every file of an export."""

    backgrounds: tuple[Path, ...]  # defect-free images
    defects: tuple[str, ...]  # to put onto them, in turn: index i takes the (i mod n)-th
    count: int  # images to keep
    seed: int = 0  # of latents and of the order of backgrounds and references
    references: Mapping[str, Sequence[Path]] | None = None  # of each defect; None: latents
    batch_size: int = 32  # images of a block
    parts: Mapping[str, Part] = field(default_factory=dict)  # by background, as text
    format: str = "folder"  # one of `export.FORMATS`
    by_product: bool = False  # imagefolder: a folder a product
    shard_size: int = 1000  # tar: images of an archive
    tries: int | None = None  # with a gate: images to draw at most; None: ten times the count

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
            "format": self.format,
            "by_product": self.by_product,
            "shard_size": self.shard_size,
            "tries": self.tries,
        }


def _digest(paths: Sequence[Path]) -> str:
    """How many files, and a hash of their names and bytes, in their order."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path} {sha256_of(path)}\n".encode(errors="surrogateescape"))
    return f"{len(paths)} files, sha256 {whole.hexdigest()}"


class Drawn(NamedTuple):
    """The images of some indices."""

    rows: list[Row]  # what the manifest says of each, without paths
    images: np.ndarray  # uint8 (N, H, W, ch)
    masks: np.ndarray  # uint8 (N, H, W), 0 or 255, where the defect is (`Synthesizer.masks`)
    sources: Tensor  # float32 (N, ch, H, W) in [-1, 1], the backgrounds
    soft: np.ndarray | None = None  # uint8 (N, H, W), the generator's own mask m, if it has one
