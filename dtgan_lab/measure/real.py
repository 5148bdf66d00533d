"""The real side of an evaluation: held-out sources and references, and what training images hold.

Nothing of it depends on a model, so one `RealSide` serves many checkpoints of a size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dtgan_core.batches import step_generator
from dtgan_core.dataset import DatasetError
from dtgan_core.synthesis import read_images
from dtgan_lab.data.dataset import HELD_OUT, Dataset, numbers_of
from dtgan_lab.measure.measures import layer_by_ring
from dtgan_lab.measure.neighbours import Gallery, Search

AREA_SHARE = 0.95  # k covers the real mask of so many training images


class RealSide:
    """Held-out and training images of a data set, as an evaluation needs them.

    Attributes:
        dataset: where they come from.
        held_out: the images of val and test together, all products and defects.
        masks: bool (N, 1, H, W) of `held_out`; None where the data has no masks.
        train: the training images with a defect.
        areas: (p, y) -> k, the pixels that a defect of that cell covers at most, as a rule;
            empty without masks.
        copies: what says how near the surroundings of a defect come to those of training images;
            None without masks.
    """

    def __init__(self, dataset: Dataset, image_size: int, channels: int) -> None:
        """Read the images; a DatasetError where Normal, held-out or training images are missing."""
        info, manifest = dataset.info, dataset.manifest
        self.dataset = dataset
        self.anchor = info.defects.index(info.anchor)
        held = manifest[manifest["split"].isin(HELD_OUT)]
        taught = manifest[(manifest["split"] == "train") & (manifest["defect"] != info.anchor)]
        for rows, what in (
            (held[held["defect"] == info.anchor], f"{info.anchor} image in val or test"),
            (held[held["defect"] != info.anchor], "defect image in val or test"),
            (taught, "defect image in train"),
        ):
            if rows.empty:
                raise DatasetError(
                    f"{dataset.root}: found no {what}, expected at least one of every product; "
                    f"make the data set again: {info.command}"
                )
        self.held_out = dataset.store_of(held, image_size, channels)
        self.train = dataset.store_of(taught, image_size, channels)
        self._twins = list(held["twin"]), list(taught["twin"])
        masks = self.held_out.masks()
        self.masks = None if masks is None else masks > 0
        taught_masks = self.train.masks()
        self._train_masks = None if taught_masks is None else taught_masks > 0
        self.areas = self._areas()
        self.copies: Search | None = None
        if self.masks is not None and self._train_masks is not None:
            faulty = (self.held_out.defects != self.anchor).nonzero().flatten()
            known = Gallery.of(self.train, torch.arange(len(self.train)))
            self.copies = Search(known, Gallery.of(self.held_out, faulty), spaces=("crop",))

    def cell(self, product: int, defect: int) -> list[int]:
        """Held-out images of a product and defect."""
        return numbers_of(self.held_out, product, defect)

    def references(self, sources: Iterable[int], defect: int, seed: int) -> list[int]:
        """A held-out reference for each source: its product uniform among those with the defect.

        It is a function of (seed, defect, source), and no source becomes its own unless there is no
        other. DatasetError: the held-out images have no such defect.
        """
        everywhere = [self.cell(p, defect) for p in range(len(self.held_out.product_names))]
        cells = [cell for cell in everywhere if cell]
        if not cells:
            name = self.held_out.defect_names[defect]
            raise DatasetError(
                f"{self.dataset.root}: val and test hold no {name}, expected a reference; "
                f"make the data set again: {self.dataset.info.command}"
            )
        chosen = []
        for source in sources:
            chance = torch.rand(2, generator=step_generator(f"{seed}/reference/{defect}", source))
            others = [[i for i in cell if i != source] for cell in cells]
            others = [cell for cell in others if cell] or cells
            cell = others[int(chance[0] * len(others))]
            chosen.append(cell[int(chance[1] * len(cell))])
        return chosen

    # --- what training images hold ---------------------------------------------------------------

    def _areas(self) -> dict[tuple[int, int], int]:
        if self._train_masks is None:
            return {}
        sizes = self._train_masks.flatten(1).sum(dim=1).float()
        areas = {}
        for p in range(len(self.train.product_names)):
            for y in self.train.defects.unique().tolist():
                # a product without the defect: how large it is on the others
                found = sizes[numbers_of(self.train, p, y) or numbers_of(self.train, None, y)]
                areas[p, y] = max(1, round(float(found.quantile(AREA_SHARE))))
        return areas

    def layers(self, product: int, defect: int, count: int, seed: int) -> Tensor:
        """Defect layers of real training images: x minus twin, or by the ring where twins lack.

        (n, ch, H, W), `count` of them or all if there are fewer; n = 0 without twins and masks.
        """
        cell = torch.tensor(numbers_of(self.train, product, defect), dtype=torch.long)
        order = torch.randperm(
            len(cell), generator=step_generator(f"{seed}/real/{product}", defect)
        )
        cell = cell[order[:count]]
        x = self.train.to_float(cell)
        twins = [self._twins[1][i] for i in cell.tolist()]
        if twins and all(twins):
            return x - self._read(twins, x)
        if self._train_masks is not None:
            return layer_by_ring(x, self._train_masks[cell])
        return x[:0]

    def clean(self, index: list[int]) -> Tensor:
        """Held-out images without their defect, as `held_out.to_float(index)` gives them.

        The twin of a defect, the image itself where it is Normal, NaN where a defect has no twin.
        """
        x = self.held_out.to_float(torch.tensor(index))
        for n, i in enumerate(index):
            if int(self.held_out.defects[i]) != self.anchor:
                twin = self._twins[0][i]
                x[n] = self._read([twin], x)[0] if twin else float("nan")
        return x

    def _read(self, paths: list[str], like: Tensor) -> Tensor:
        files, (_, channels, *size) = [self.dataset.root / path for path in paths], like.shape
        return read_images(files, channels, (size[0], size[1])).to(like.device)
