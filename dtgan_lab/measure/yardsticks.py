"""What a distance means: the same numbers for sets of images of which the truth is known.

    yardsticks = Yardsticks(dataset, image_size=64, count=100)
    sets = {FLOOR: yardsticks.floor(), PASTE: yardsticks.pasted()}
    sets |= made_by(yardsticks, load_systems({"DT-GAN": "...", "diffusion": "my_images"}))

A distance alone says little.  So the synthetic SDI, of which fresh images can be drawn without end,
gives a scale: fresh images against other fresh ones (nothing can be better), a copy of the training
set (as good, though worthless: only the share of copies tells), real defects pasted onto good
parts, and good parts left as they are (what no defect at all costs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtgan_core.batches import ImageStore, step_generator
from dtgan_core.dataset import DatasetError
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.generators import DtGan
from dtgan_lab.baselines.paste import paste_defects
from dtgan_lab.baselines.zoo import System, Wish
from dtgan_lab.data.dataset import Dataset, numbers_of
from dtgan_lab.data.synthetic.drawing import NAME, PRODUCTS
from dtgan_lab.measure.cells import drawn
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.folders import cached
from dtgan_lab.measure.measures import most_changed
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.sets import COPY, FLOOR, NORMAL, PASTE  # noqa: F401, notebooks: ys.FLOOR

POOLED = "pooled"  # the column of all images at once
# data set seeds of fresh images: what all are compared with, the floor, what copies are measured
# against, references of a reference-guided model
REFERENCE_SEED, FLOOR_SEED, HELD_OUT_SEED, GUIDE_SEED = 1, 2, 3, 4
FLOOR_STEP = 10  # keeps the floor's data set seeds apart from the others


def fresh_gallery(
    cells: Iterable[tuple[str, str]], count: int, seed: int, image_size: int, first: int = 0
) -> Gallery:
    """Fresh images of the synthetic SDI with masks, those of `fresh_images(..., seed=seed)`.

    `count` images a cell (product, defect), cell after cell, from number `first` on.
    """
    cells, numbers = list(cells), range(first, first + count)
    found = [drawn(*cell, seed, numbers, image_size) for cell in cells]
    images, _, masks = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
    labels = [cell for cell in cells for _ in numbers]
    return Gallery(images[:, None].float() / 127.5 - 1, masks[:, None] > 0, labels)


class Yardsticks:
    """Images of known worth, of a synthetic SDI: as many of every product and defect."""

    def __init__(self, dataset: Dataset, image_size: int, count: int, seed: int = 0) -> None:
        """Read the training images; of each product and defect `count` will be made.

        A DatasetError refuses a data set of which no fresh images can be drawn.
        """
        if dataset.info.name != NAME:
            raise DatasetError(
                f"{dataset.root}: is the data set {dataset.info.name!r}, expected {NAME!r}, of "
                "which fresh images can be drawn; make one: "
                "python data_scripts/make_synthetic_sdi.py --out DIR"
            )
        if count < 1:
            raise ValueError(f"count is {count}; expected at least 1 image a product and defect")
        self.image_size, self.count, self.seed = image_size, count, seed
        self._drawn: dict[int, Gallery] = {}
        self.train = ImageStore.load(dataset, "train", image_size, 1, progress=False)
        anchor = self.train.anchor
        self.defects = [y for y in range(len(self.train.defect_names)) if y != anchor]
        self.numbers = [(p, y) for p in range(len(PRODUCTS)) for y in self.defects]
        self.cells = [(PRODUCTS[p], self.train.defect_names[y]) for p, y in self.numbers]
        found = (self.train.defects != anchor).nonzero().flatten()
        self.taught = Gallery.of(self.train, found)

    def fresh(self, seed: int) -> Gallery:
        """Fresh images with a defect, drawn at the first call."""
        if seed not in self._drawn:
            self._drawn[seed] = fresh_gallery(self.cells, self.count, seed, self.image_size)
        return self._drawn[seed]

    def seeded(self, seed: int) -> Self:
        """The same images, drawn once; other choices of parts, copies, pastes and latents."""
        other = copy(self)
        other.seed = seed
        return other

    def only(self, product: str) -> Self:
        """The cells of one product; fresh images are the ones drawn for all of them."""
        kept = [n for n, (name, _) in enumerate(self.cells) if name == product]
        if not kept:
            raise ValueError(f"product {product!r}: expected one of {', '.join(PRODUCTS)}")
        other = copy(self)
        other.numbers, other.cells = [self.numbers[n] for n in kept], [self.cells[n] for n in kept]
        other._drawn = {}
        return other

    def floor(self) -> Gallery:
        """Fresh images that are nothing but real, other ones for every seed."""
        return self.fresh(FLOOR_SEED + FLOOR_STEP * self.seed)

    def _each(self, choose: Callable[[int, int], list[int]]) -> Tensor:
        chosen = [choose(p, y) for p, y in self.numbers]
        return torch.tensor([index for part in chosen for index in part])

    def _some(self, product: int, defect: int, purpose: str) -> list[int]:
        """Training images of a cell, none twice before all were taken."""
        numbers = numbers_of(self.train, product, defect)
        generator = step_generator(f"{self.seed}/anchor/{purpose}/{product}", defect)
        rounds = -(-self.count // len(numbers))
        order = [torch.randperm(len(numbers), generator=generator) for _ in range(rounds)]
        return [numbers[i] for i in torch.cat(order)[: self.count].tolist()]

    def copies(self) -> Gallery:
        """Training images as they are."""
        return Gallery.of(self.train, self._each(lambda p, y: self._some(p, y, "copy")))

    def normals(self) -> Gallery:
        """Good parts of the training set where a defect was asked for; they have no masks."""
        anchor = self.train.anchor
        index = self._each(lambda p, y: self._some(p, anchor, f"normal/{y}"))
        labels = [cell for cell in self.cells for _ in range(self.count)]
        return Gallery(self.train.to_float(index), None, labels, self.train.flips[index])

    def _guides(self, defect: int) -> Tensor:
        """(count, 1, side, side), fresh images of a defect; their products take turns."""
        same = [n for n, (_, other) in enumerate(self.numbers) if other == defect]
        turn = torch.arange(self.count) % len(same)
        index = torch.tensor(same)[turn] * self.count + torch.arange(self.count)
        return self.fresh(GUIDE_SEED).x[index]

    def pasted(self) -> Gallery:
        """Defects of training images, of any product, pasted onto good parts."""
        normals = self.normals()
        masks = self.train.masks()
        assert masks is not None  # the synthetic SDI has them
        generator = step_generator(f"{self.seed}/anchor/paste", 0)
        chosen = []
        for _, y in self.numbers:
            donors = torch.tensor(numbers_of(self.train, None, y), dtype=torch.long)
            chosen.append(donors[torch.randint(len(donors), (self.count,), generator=generator)])
        index = torch.cat(chosen)
        made = paste_defects(
            normals.x, self.train.to_float(index), masks[index], generator, flips=normals.flips
        )
        return Gallery(made.images, made.masks, normals.cells)

    def made(self, system: System, way: str) -> Gallery:
        """As many images of every cell by a system, on the same good parts as `normals`.

        References are fresh images of any product, or of the part's own where the system wants
        that. Where it lays defects over parts, masks are the pixels that changed most, as many as
        the defects of the cell cover in the median; else they are what the system says, if it does.
        ValueError: not one of its ways, or something that it cannot make.
        """
        if way not in system.ways:
            raise ValueError(f"guidance {way!r}: expected {' or '.join(system.ways)}")
        normals, images, masks = self.normals(), [], []
        for number, (cell, (p, y)) in enumerate(zip(self.cells, self.numbers, strict=True)):
            begin = number * self.count
            part = slice(begin, begin + self.count)
            x, x_ref = normals.x[part], None
            if way == "reference":
                own = system.own_references
                x_ref = self.fresh(GUIDE_SEED).x[part] if own else self._guides(y)
            made = system.images_of(Wish(*cell, x, x_ref, self.seed, before=begin), way)
            images.append(made.images)
            changed = system.onto_parts
            masks.append(most_changed(made.images - x, self.area(p, y)) if changed else made.masks)
        known = [mask for mask in masks if mask is not None]
        whole = torch.cat(known) if len(known) == len(masks) else None
        return Gallery(torch.cat(images), whole, normals.cells)

    def area(self, product: int, defect: int) -> int:
        """Pixels that a defect of a cell covers in the median."""
        masks = self.train.masks()
        assert masks is not None  # the synthetic SDI has them
        cell = masks[numbers_of(self.train, product, defect)]
        return max(1, int((cell > 0).flatten(1).sum(dim=1).median()))


def cells_of(gallery: Gallery) -> pd.DataFrame:
    """Columns "product" and "defect", a row for each image of a gallery with such cells."""
    return pd.DataFrame(list(gallery.cells or []), columns=["product", "defect"])


def column_masks(gallery: Gallery) -> dict[str, NDArray[np.bool_]]:
    """Which images count for each product, defect, pair ("A Scratches") and all ("pooled")."""
    cells = cells_of(gallery)
    pairs = cells["product"] + " " + cells["defect"]
    names = [*cells["product"].unique(), *cells["defect"].unique(), *pairs.unique()]
    masks = {
        name: ((cells["product"] == name) | (cells["defect"] == name) | (pairs == name)).to_numpy()
        for name in names
    }
    return masks | {POOLED: np.ones(len(cells), dtype=bool)}


def made_by(yardsticks: Yardsticks, systems: Mapping[str, System]) -> dict[str, Gallery]:
    """Images of every cell by every system, "NAME, WAY" where it has several ways."""
    return {
        f"{name}, {way}" if len(system.ways) > 1 else name: yardsticks.made(system, way)
        for name, system in systems.items()
        for way in system.ways
    }


# --- thousands of fresh images -------------------------------------------------------------------


A_CELL = 5000  # fresh images a product and defect
MADE = 200  # images of the model a product and defect, sampling seed and way of guidance
AT_ONCE = 500  # drawings in memory


class FreshReference:
    """Points of many fresh images of every product and defect, for tables of many runs.

    They are drawn once; each run of a study is held against the same ones.

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
        """Draw `a_cell` fresh images a product and defect, or read their points from `cache`.

        A DatasetError refuses a data set of which no fresh images can be drawn.
        """
        self.yardsticks = Yardsticks(dataset, image_size, made)
        self.extractor, self.a_cell = extractor, a_cell
        what = {"fresh": REFERENCE_SEED, "a_cell": a_cell, "size": image_size}
        self.points = {
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

        A row for each guidance, sampling seed and column: "guidance", "column", and
        `Distances.to_dict`.
        """
        rows, system = [], DtGan(synth)
        for seed in seeds:
            self.yardsticks.seed = seed
            for guidance in system.ways:
                rows += self.compare(self.yardsticks.made(system, guidance), guidance, seed)
        return rows

    def compare(
        self, gallery: Gallery, guidance: str, seed: int, columns: Iterable[str] = ()
    ) -> list[dict[str, Any]]:
        """Distances of any images of the same cells by `columns`; default: products, and all."""
        made, masks, rows = self.extractor(gallery.x), column_masks(gallery), []
        for column in columns or (*dict.fromkeys(product for product, _ in self.points), POOLED):
            its = [x for c, x in self.points.items() if column in (*c, " ".join(c), POOLED)]
            found = compare(np.concatenate(its), made[masks[column]], self.extractor, seed)
            rows.append({"guidance": guidance, "column": column} | found.to_dict())
        return rows
