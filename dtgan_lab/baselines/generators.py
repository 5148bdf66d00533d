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
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dtgan_core.checkpoints import (
    Card,
    CheckpointError,
    fitted,
    labels_of,
    read_json,
    read_weights,
)
from dtgan_core.files import sha256_of
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.conditional import SAMPLE_BATCH, ClassGenerator, sample
from dtgan_lab.baselines.config import BaselineConfig
from dtgan_lab.baselines.mokady import Layer
from dtgan_lab.baselines.zoo import CARD, DTGAN, Made, System, Wish, baseline, find_exports

WEIGHTS = "ema.safetensors"


class DtGan(System):
    """DT-GAN, or its configuration (a), StarGAN v2: one model of all products and defects.

    Attributes:
        synth: the model.
    """

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

    Attributes:
        card: its card; `method`, `config`, `product` and `defects` come from it.
        module: G of a conditional GAN, or the encoders and decoders of a transfer.
        checkpoint_hash: sha256 of the weights file.
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

    Attributes:
        exports: all of them.
        products, defects: what they can make; `anchor` is the defect-free domain.
        checkpoint_hash: sha256 over the hashes of all weights.
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
        """What is drawn and where: z (N, ch, H, W) and m (N, 1, H, W).

        Args:
            product: name of the product that x shows.
            defect: what x_ref has.
            x: (N, ch, H, W), good parts.
            x_ref: (N or 1, ch, H, W), of the same product, as the model was trained.
        """
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
