"""Distances of a model to thousands of fresh images of the synthetic SDI, for tables of many runs.

    fresh = FreshReference(dataset, extract, image_size=64, cache=Path("build/cache"))
    rows = fresh.distances(synth, seeds=(0, 1, 2))

The real side is drawn once and kept as points; each run of a study is held against the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtgan_core.dataset import Dataset
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.generators import DtGan
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.folders import cached
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.yardsticks import POOLED, REFERENCE_SEED, Yardsticks, cells_of, fresh_gallery

A_CELL = 5000  # fresh images a product and defect
MADE = 200  # images of the model a product and defect, sampling seed and way of guidance
AT_ONCE = 500  # drawings in memory
GUIDANCES = ("latent", "reference")


class FreshReference:
    """Points of many fresh images of every product and defect.

    Attributes:
        yardsticks: chooses the good parts that a model paints on, and fresh references.
        extractor: the space.
        a_cell: fresh images a product and defect.
    """

    def __init__(
        self,
        dataset: Dataset,
        extractor: Extractor,
        image_size: int,
        a_cell: int = A_CELL,
        made: int = MADE,
        cache: Path | None = None,
    ) -> None:
        """Draw the fresh images, or read their points where they were drawn before.

        Args:
            dataset: a synthetic SDI.
            extractor: the space.
            image_size: side in pixels.
            a_cell: fresh images a product and defect.
            made: images of a model a product, defect, sampling seed and way of guidance.
            cache: folder of points that were computed before; None computes anew.

        Raises:
            DatasetError: another data set, of which no fresh images can be drawn.
            ValueError: `a_cell` or `made` is not positive.
        """
        if a_cell < 1:
            raise ValueError(f"a_cell is {a_cell}; expected at least 1 fresh image a cell")
        self.yardsticks = Yardsticks(dataset, image_size, made)
        self.extractor, self.a_cell = extractor, a_cell
        what = {"fresh": REFERENCE_SEED, "a_cell": a_cell, "size": image_size}
        self._points = {
            cell: cached(cache, {**what, "cell": cell}, extractor, partial(self._draw, cell))
            for cell in self.yardsticks.cells
        }

    def _draw(self, cell: tuple[str, str]) -> NDArray[np.float32]:
        """Points of the fresh images of a cell, (a_cell, D); a few drawings in memory."""
        parts = []
        for first in range(0, self.a_cell, AT_ONCE):
            count = min(AT_ONCE, self.a_cell - first)
            drawn = fresh_gallery([cell], count, REFERENCE_SEED, self.yardsticks.image_size, first)
            parts.append(self.extractor(drawn.x))
        return np.concatenate(parts)

    def distances(self, synth: Synthesizer, seeds: Iterable[int]) -> list[dict[str, Any]]:
        """Distances of both ways of guidance, by product and pooled.

        Args:
            synth: a model of this data set and image size.
            seeds: sampling seeds: of the good parts, of latents.

        Returns:
            A row for each guidance, seed and column: "guidance", "column", and `Distances.to_dict`.
        """
        rows, system = [], DtGan(synth)
        for seed in seeds:
            self.yardsticks.seed = seed
            for guidance in GUIDANCES:
                rows += self.compare(self.yardsticks.made(system, guidance), guidance, seed)
        return rows

    def compare(self, gallery: Gallery, guidance: str, seed: int) -> list[dict[str, Any]]:
        """Distances of any images of the same cells: a row for each product, and for all."""
        made, cells = self.extractor(gallery.x), cells_of(gallery)
        rows = []
        for column in (*dict.fromkeys(product for product, _ in self._points), POOLED):
            real = np.concatenate(
                [points for cell, points in self._points.items() if column in (cell[0], POOLED)]
            )
            chosen = made[((cells["product"] == column) | (column == POOLED)).to_numpy()]
            found = compare(real, chosen, self.extractor, seed).to_dict()
            rows.append({"guidance": guidance, "column": column} | found)
        return rows
