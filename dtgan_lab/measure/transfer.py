"""Defect transfer put to the test: a product x defect that training saw nothing of, or little.

    few = make_subset(whole, {("A", "Scratches"): 0}, Path("build/data/A-Scratches-0"))
    ...                                             # train a DT-GAN on `few`
    cell = WithheldCell(whole, few, ("A", "Scratches"), image_size=64, count=200)
    sets = {0: transfer_sets(cell, {"DT-GAN": synth})}
    distance_study(cell, sets, extract)             # against fresh images of the withheld cell

Everything that stands beside the model was open to it, too: defects of the other products, good
parts of this one, and the few images that were kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Self

import torch
from torch import Tensor

from dtgan_core.dataset import Dataset, DatasetError
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.sets import COPY, FLOOR, NORMAL, PASTE
from dtgan_lab.measure.yardsticks import GUIDE_SEED, AnchorSet, fresh_gallery

OWN_PASTE = f"{PASTE} of its own"  # what pastes the few images of the cell that were kept


class WithheldCell(AnchorSet):
    """Images of known worth of one product x defect, made of what a subset's training set holds.

    Attributes:
        cell: (product, defect).
        kept: number of its training images in the subset.
    """

    def __init__(
        self,
        whole: Dataset,
        subset: Dataset,
        cell: tuple[str, str],
        image_size: int,
        count: int,
        seed: int = 0,
    ) -> None:
        """Read the training images.

        Args:
            whole: the synthetic SDI that the subset was taken from.
            subset: of `make_subset`, or `whole` itself.
            cell: (product, defect).
            image_size: side in pixels.
            count: images of every set.
            seed: of all choices.

        Raises:
            DatasetError: `whole` is no synthetic SDI, the cell is none of its, or the subset has
                training images that `whole` has not.
            ValueError: no image is asked for.
        """
        super().__init__(whole, image_size, count, seed)
        if cell not in self.cells:
            known = ", ".join(" ".join(known) for known in self.cells)
            raise DatasetError(
                f"{whole.root}: has no cell {' '.join(cell)}, expected one of {known}"
            )
        rows = subset.manifest
        left = set(rows.loc[rows["split"] == "train", "path"])
        strange = left - set(self.train.paths)
        if strange:
            raise DatasetError(
                f"{subset.root}: holds {min(strange)}, which {whole.root} has not; expected a "
                "subset of it, made by python data_scripts/subset.py"
            )
        self.numbers = [self.numbers[self.cells.index(cell)]]
        self.cells, self.cell = [cell], cell
        self._left = torch.tensor([path in left for path in self.train.paths])
        product, defect = self.numbers[0]
        own = (self.train.products == product) & (self.train.defects == defect)
        self.kept = int((own & self._left).sum())
        self._guides_of_others: Tensor | None = None
        self._own_alone = False

    def pasting_its_own(self) -> Self:
        """The same cell, but only defects of the cell itself are pasted.

        Raises:
            ValueError: none of its images were kept.
        """
        if not self.kept:
            raise ValueError(f"{' '.join(self.cell)}: no image was kept, expected some to paste")
        other = copy(self)
        other._own_alone = True
        return other

    def _donors(self, defect: int) -> Tensor:
        """Training images of the defect that the subset has, of any product or of the cell's."""
        donors = (self.train.defects == defect) & self._left
        if self._own_alone:
            donors &= self.train.products == self.numbers[0][0]
        return donors.nonzero().flatten()

    def _guides(self, defect: int) -> Tensor:
        """Fresh images of the defect on the other products, which take turns."""
        if self._guides_of_others is None:
            name = self.train.defect_names[defect]
            others = [(p, name) for p in self.train.product_names if p != self.cell[0]]
            drawn = fresh_gallery(others, self.count, GUIDE_SEED, self.image_size).x
            index = torch.arange(self.count)
            self._guides_of_others = drawn[index % len(others) * self.count + index]
        return self._guides_of_others


def transfer_sets(cell: WithheldCell, models: Mapping[str, Synthesizer]) -> dict[str, Gallery]:
    """The scale of a withheld cell, and what models make of it by both ways of guidance.

    Args:
        cell: what was withheld.
        models: by name; references are fresh images of the other products.

    Returns:
        fresh real images, copies of *all* its training images (the owner's, had he had them),
        defects pasted from what the subset holds, untouched good parts; where images of the cell
        were kept, these alone pasted; then "NAME, latent" and "NAME, reference" of each model.
    """
    sets = {
        FLOOR: cell.floor(),
        COPY: cell.copies(),
        PASTE: cell.pasted(),
        NORMAL: cell.normals(),
    }
    if cell.kept:
        sets[OWN_PASTE] = cell.pasting_its_own().pasted()
    for name, synth in models.items():
        for way in ("latent", "reference"):
            sets[f"{name}, {way}"] = cell.translated(synth, way)
    return sets
