"""Anybody's images as a system: sorted into folders, or listed in a table.

::

    FOLDER/PRODUCT/DEFECT/...      or      FOLDER/manifest.csv (or any .csv file), such as

    path,product,defect,mask       mask may be missing; paths are relative to the table
    img/0001.png,A,Scratches,img/0001_mask.png
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dtgan_core.batches import step_generator
from dtgan_core.dataset import INFO_NAME, MANIFEST_NAME
from dtgan_core.files import read_plain
from dtgan_core.images import IMAGE_SUFFIXES, image_to_array, mask_to_array
from dtgan_core.synthesis import find_images
from dtgan_lab.baselines.zoo import FOLDER, Made, System, Wish
from dtgan_lab.data.folder import TableSource
from dtgan_lab.data.usable import image_files


class ImageFolder(System):
    """Images that were made elsewhere; each is given out once under a seed.

    Which of them a seed takes is drawn: ask for far fewer than there are of a cell, or the seeds
    share images and the spread over them is too small.

    Attributes:
        files: the images that can be used, and their hash.
    """

    method = FOLDER

    def __init__(self, source: Path) -> None:
        """Read what there is, and check that it can be decoded; the rest is told and left out.

        Raises:
            ValueError: no images, a data set, or images that do not say what they show.
        """
        if (source / INFO_NAME).is_file():
            raise ValueError(
                f"{source}: is a data set, real images of all splits; name the folder of one "
                f"split, such as {source}/test"
            )
        self.source = source
        table = source if source.is_file() else source / MANIFEST_NAME
        masks: dict[Path, Path] = {}
        if table.is_file() and b"product" in read_plain(table).partition(b"\n")[0].lower():
            listed = TableSource(table, None)
            rows = listed.rows()
            cells = {listed.place(row.path): (row.product, row.defect) for row in rows}
            masks = {listed.place(row.path): listed.place(row.mask) for row in rows if row.mask}
            self.files = image_files(list(cells), table.parent)
        else:
            self.files = image_files(find_images(source), source)
            cells = {path: self._cell(path) for path in self.files.paths}
        self._by_cell: dict[tuple[str, str], list[tuple[Path, Path | None]]] = {}
        for path in self.files.paths:
            self._by_cell.setdefault(cells[path], []).append((path, masks.get(path)))
        labels = repr([cells[path] for path in self.files.paths])
        self.checkpoint_hash = hashlib.sha256(f"{self.files.sha256} {labels}".encode()).hexdigest()

    @classmethod
    def load(cls, source: Path, device: torch.device | str = "cpu") -> ImageFolder:
        """The images of a folder or table; nothing is computed on `device`."""
        return cls(source)

    @staticmethod
    def is_one(source: Path) -> bool:
        """Whether there are images or a table of them."""
        if source.is_file():
            return source.suffix.lower() == ".csv"
        found = (path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        return (source / MANIFEST_NAME).is_file() or any(found)

    def _cell(self, path: Path) -> tuple[str, str]:
        parts = path.relative_to(self.source).parts
        if len(parts) < 3:
            raise ValueError(
                f"{path}: lies in no folder of a product and defect, expected "
                f"{self.source}/PRODUCT/DEFECT/{path.name}, or {self.source}/{MANIFEST_NAME} with "
                "the columns path, product and defect"
            )
        return parts[0], parts[1]

    def check(self, product: str, defect: str, count: int = 1) -> None:
        """Refuse a cell of which there are fewer images than asked for."""
        found = len(self._by_cell.get((product, defect), ()))
        if found < count:
            known = ", ".join(f"{len(x)} of {' '.join(c)}" for c, x in self._by_cell.items())
            raise ValueError(
                f"{self.source}: holds {found} images of {product} {defect}, expected at least "
                f"{count} (found {known}); add images, or ask for fewer"
            )

    def images_of(self, wish: Wish, way: str = "latent") -> Made:
        """Images of the folder in an order drawn by the seed, brought to the size of the parts."""
        cell = wish.product, wish.defect
        self.check(*cell, len(wish.x))
        held = self._by_cell[cell]
        generator = step_generator(f"{wish.seed}/folder/{'/'.join(cell)}", 0)
        order = torch.randperm(len(held), generator=generator)
        numbers = torch.arange(wish.first, wish.first + len(wish.x)) % len(held)
        chosen = [held[i] for i in order[numbers].tolist()]
        channels, height, width = wish.x.shape[1:]
        size = (height, width)
        arrays = [image_to_array(self._large(path, size), channels, size) for path, _ in chosen]
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Made(images, self._masks([mask for _, mask in chosen], size))

    def _large(self, path: Path, size: tuple[int, int]) -> Path:
        """Refuse an image that would have to be enlarged: its blur alone would tell it apart."""
        found = self.files.sizes[path]
        if found[0] < size[0] or found[1] < size[1]:
            raise ValueError(
                f"{path}: is {found[1]} x {found[0]} pixels, expected at least {size[1]} x "
                f"{size[0]}, since what is enlarged is blurred; make larger images"
            )
        return path

    @staticmethod
    def _masks(paths: list[Path | None], size: tuple[int, int]) -> Tensor | None:
        """Bool (N, 1, H, W), or None where an image has none."""
        known = [path for path in paths if path is not None]
        if len(known) < len(paths):
            return None
        arrays = np.stack([mask_to_array(path, size) for path in known])  # (N, H, W, 1)
        return torch.from_numpy(arrays).permute(0, 3, 1, 2) > 0
