"""Trained models as systems: DT-GAN, and the baselines of a folder of per-product exports.

    made = load_system("runs/stylegan2")            # exports of A, B and C below it
    x = made.make("A", "Scratches", count=64, seed=0)

    made = load_system("runs/mokady")               # an export a product and defect
    x = made.transfer("A", "Scratches", parts, references)
    m = made.masks("A", "Scratches", scratched)     # where they have it, in [0, 1]

All images are float32 (N, ch, H, W) in [-1, 1].
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from dtgan_core.batches import step_generator
from dtgan_core.checkpoints import Card, CheckpointError, fitted, labels_of, read_json, read_weights
from dtgan_core.files import read_plain, sha256_of
from dtgan_core.images import IMAGE_SUFFIXES
from dtgan_core.synthesis import Synthesizer, find_images, read_images
from dtgan_lab.baselines.conditional import SAMPLE_BATCH, ClassGenerator, sample
from dtgan_lab.baselines.config import BaselineConfig
from dtgan_lab.baselines.mokady import Layer
from dtgan_lab.baselines.zoo import CARD, DTGAN, FOLDER, Made, System, Wish, baseline, find_exports
from dtgan_lab.data.dataset import INFO_NAME, MANIFEST_NAME, mask_to_array
from dtgan_lab.data.folder import image_files, place_of, table_rows

WEIGHTS = "ema.safetensors"


class DtGan(System):
    """DT-GAN, or its configuration (a), StarGAN v2: one model of all products and defects."""

    method, ways, onto_parts = DTGAN, ("latent", "reference"), True

    def __init__(self, synth: Synthesizer) -> None:
        model = synth.config.model
        self.synth, self.anchor = synth, synth.anchor
        self.image_size, self.channels = model.image_size, model.channels
        self.cards, self.checkpoint_hash = [synth.card], synth.checkpoint_hash

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load an export or a finished run."""
        found = cls(Synthesizer.load(folder, device))
        found.weights = (find_exports(folder)[0] / WEIGHTS).stat().st_size
        return found

    def check(self, product: str, defect: str, count: int = 1) -> None:
        """Refuse names that the model does not know."""
        for name, known in ((product, self.synth.products), (defect, self.synth.defects)):
            if name not in known:
                raise ValueError(f"the model does not know {name}; found {', '.join(known)}")

    def images_of(self, wish: Wish, way: str) -> Made:
        """Random defects, or those of references, on the parts."""
        if way == "latent":
            first = wish.before + wish.first
            images = self.synth.latent_guided(wish.x, wish.defect, wish.seed, first)
        else:
            assert wish.x_ref is not None
            images = self.synth.reference_guided(wish.x, wish.x_ref, wish.defect)
        return Made(images.float().cpu())


class Export:
    """One export of a baseline: its averaged networks, in float32.

    `module` is G of a conditional GAN, or the encoders and decoders of a transfer;
    `checkpoint_hash` is that of the weights file.
    """

    def __init__(self, folder: Path, device: torch.device | str) -> None:
        self.folder, self.card = folder, read_json(folder / CARD, Card)
        try:
            self.method: str = self.card.get("method", DTGAN)
            loop = baseline(self.method)
            self.config: BaselineConfig = type(loop.presets["laptop"]).from_json(
                self.card["config"]
            )
        except ValueError as error:
            raise CheckpointError(
                f"{folder / CARD}: {error}; restore it, or export the run again"
            ) from error
        model = self.config.model
        labels = labels_of(self.card["data"], model.products, model.defects, folder / CARD)
        (self.product,), self.defects = labels
        self.anchor = self.defects[self.config.model.anchor]
        (name,) = loop.exported
        tensors = read_weights(folder / WEIGHTS)
        self.checkpoint_hash = sha256_of(folder / WEIGHTS)
        together = fitted(
            lambda: nn.ModuleDict({name: loop.generator(model)}), tensors, folder / WEIGHTS
        )
        self.module: nn.Module = together[name]
        self.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module.requires_grad_(False).eval()
        if isinstance(self.module, ClassGenerator):
            self.module.settle()


class Collection(System):
    """Exports of one method, of the same sizes and data, one a product or a pair.

    `checkpoint_hash` is over the hashes of all weights.
    """

    def __init__(self, exports: list[Export], device: torch.device | str = "cpu") -> None:
        first = exports[0]
        self.method, self.exports, self.device = first.method, exports, torch.device(device)
        self._by_cell: dict[tuple[str, str], Export] = {}
        for export in exports:
            for name, mine, theirs in (
                ("method", first.method, export.method),
                ("model", first.config.model, export.config.model),
                ("data", _data_of(first), _data_of(export)),
            ):
                if mine != theirs:
                    raise CheckpointError(
                        f"{export.folder}: found {name} {theirs}, expected {mine} as in "
                        f"{first.folder}; keep what belongs together in a folder of its own"
                    )
            for defect in self._made_by(export):
                cell = (export.product, defect)
                if cell in self._by_cell:
                    raise CheckpointError(
                        f"{export.folder}: makes {' '.join(cell)} as does "
                        f"{self._by_cell[cell].folder}; keep one of them"
                    )
                self._by_cell[cell] = export
        self.anchor, model = first.anchor, first.config.model
        self.image_size, self.channels = model.image_size, model.channels
        self.products = tuple(dict.fromkeys(export.product for export in exports))
        self.defects = tuple(dict.fromkeys(d for export in exports for d in export.defects))
        hashes = "".join(export.checkpoint_hash for export in exports)
        self.checkpoint_hash = hashlib.sha256(hashes.encode()).hexdigest()
        self.cards = [export.card for export in exports]
        self.weights = sum((export.folder / WEIGHTS).stat().st_size for export in exports)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load an export, a finished run, or a folder of them, one a product or pair."""
        return cls([Export(path, device) for path in find_exports(folder)], device)

    @staticmethod
    def _made_by(export: Export) -> tuple[str, ...]:
        return export.defects

    def of(self, product: str, defect: str) -> Export:
        """The export that makes a defect of a product; ValueError where there is none."""
        if (product, defect) not in self._by_cell:
            known = ", ".join(" ".join(cell) for cell in self._by_cell)
            raise ValueError(f"no {self.method} model makes {product} {defect}; found {known}")
        return self._by_cell[product, defect]

    def check(self, product: str, defect: str, count: int = 1) -> None:
        """Refuse a product and defect that no export makes."""
        self.of(product, defect)


class Makers(Collection):
    """Models that make images from nothing: StyleGAN2 and BigGAN."""

    def images_of(self, wish: Wish, way: str = "latent") -> Made:
        """Random images; the parts say how many."""
        made = self.make(wish.product, wish.defect, len(wish.x), wish.seed, wish.first)
        return Made(made.cpu())

    def make(self, product: str, defect: str, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Random images of a product with a defect; the i-th is a function of (seed, first + i).

        (count, ch, H, W) in [-1, 1]; the anchor's are good parts.
        """
        export = self.of(product, defect)
        assert isinstance(export.module, ClassGenerator)
        label = export.defects.index(defect)
        parts = []
        for start in range(0, count, SAMPLE_BATCH):
            size = min(SAMPLE_BATCH, count - start)
            y = torch.full((size,), label, device=self.device)
            indices = range(first + start, first + start + size)
            # a stream of z for each cell: else every defect would be drawn from the same ones
            parts.append(sample(export.module, y, f"{seed}/{product}/{defect}", indices))
        return torch.cat(parts)


class Transfers(Collection):
    """Models that lay the defect of a reference over a part: mask-based content transfer."""

    ways, onto_parts, own_references = ("reference",), True, True

    @staticmethod
    def _made_by(export: Export) -> tuple[str, ...]:
        return tuple(name for name in export.defects if name != export.anchor)

    def images_of(self, wish: Wish, way: str = "reference") -> Made:
        """The defects of the references on the parts."""
        assert wish.x_ref is not None
        return Made(self.transfer(wish.product, wish.defect, wish.x, wish.x_ref).cpu())

    def layers(self, product: str, defect: str, x: Tensor, x_ref: Tensor) -> Layer:
        """What is drawn, z (N, ch, H, W), and where, m (N, 1, H, W), of a reference."""
        export = self.of(product, defect)
        x_ref = x_ref.expand(len(x), *x_ref.shape[1:])
        parts = []
        with torch.inference_mode():
            for a, b in zip(x.split(SAMPLE_BATCH), x_ref.split(SAMPLE_BATCH), strict=True):
                parts.append(export.module(a.to(self.device), b.to(self.device)))
        return Layer(*(torch.cat(maps).float().clone() for maps in zip(*parts, strict=True)))

    def transfer(self, product: str, defect: str, x: Tensor, x_ref: Tensor) -> Tensor:
        """The defect of x_ref on x, m * z + (1 - m) * x; see `layers`."""
        return self.layers(product, defect, x, x_ref).over(x.to(self.device)).clamp(-1, 1)

    def masks(self, product: str, defect: str, b: Tensor) -> Tensor:
        """Where images have their defect, by the model's own mask: (N, 1, H, W) in [0, 1]."""
        return self.layers(product, defect, b, b).m


def _data_of(export: Export) -> Any:
    return export.card["data"].get("manifest_sha256"), export.anchor


# --- anybody's images ----------------------------------------------------------------------------


class ImageFolder(System):
    """Images that were made elsewhere; each is given out once under a seed.

    They lie in FOLDER/PRODUCT/DEFECT/..., or FOLDER/manifest.csv (or any .csv file) names them by
    path, product, defect and mask, which may be missing; paths are relative to the table.

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
            rows, place = table_rows(table), partial(place_of, table)
            cells = {place(row.path): (row.product, row.defect) for row in rows}
            masks = {place(row.path): place(row.mask) for row in rows if row.mask}
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
        images = read_images([self._large(path, size) for path, _ in chosen], channels, size)
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
