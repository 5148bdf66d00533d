"""Images for the classifiers of the lab: rare cells come as often as common ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dtgan_core.batches import stratified


def balanced_index(
    cells: Sequence[Sequence[int]], count: int, generator: torch.Generator
) -> list[int]:
    """`count` images, every cell as often as any other give or take one, uniform inside a cell.

    Args:
        cells: the images of each cell, none empty.
        count: images to draw.
        generator: of both choices.
    """
    kinds = stratified(len(cells), count, generator)
    chances = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return [
        cells[kind][int(chance * len(cells[kind]))]
        for kind, chance in zip(kinds, chances, strict=True)
    ]
