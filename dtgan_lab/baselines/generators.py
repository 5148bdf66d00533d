"""Trained baselines, made ready to make images: one generator of a folder of per-product exports.

    made = load_generator("runs/stylegan2")         # exports of A, B and C below it
    x = made.make("A", "Scratches", count=64, seed=0)

    made = load_generator("runs/mokady")            # an export a product and defect
    x = made.transfer("A", "Scratches", parts, references)
    m = made.masks("A", "Scratches", scratched)     # where they have it, in [0, 1]

All images are float32 (N, ch, H, W) in [-1, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from dtgan_core.checkpoints import (
    Card,
    CheckpointError,
    fitted,
    labels_of,
    read_json,
    read_weights,
)
from dtgan_core.config import METHODS
from dtgan_core.files import sha256_of
from dtgan_lab.baselines.conditional import SAMPLE_BATCH, ClassGenerator, sample
from dtgan_lab.baselines.config import BaselineConfig
from dtgan_lab.baselines.methods import DTGAN, MAKERS, baseline
from dtgan_lab.baselines.mokady import Layer, Transfer

CARD, WEIGHTS = "card.json", "ema.safetensors"


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
            found = baseline(self.method)
            self.config: BaselineConfig = type(found.presets["laptop"]).from_json(
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
        name = "G" if self.method in MAKERS else "transfer"
        kind: Any = found.module.Generator if self.method in MAKERS else Transfer
        tensors = read_weights(folder / WEIGHTS)
        self.checkpoint_hash = sha256_of(folder / WEIGHTS)
        together = fitted(lambda: nn.ModuleDict({name: kind(model)}), tensors, folder / WEIGHTS)
        self.module: nn.Module = together[name]
        self.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module.requires_grad_(False).eval()
        if isinstance(self.module, ClassGenerator):
            self.module.settle()


class Collection:
    """Exports of one method, of the same sizes and data, one a product or a pair.

    Attributes:
        method: its name.
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
        self.anchor = first.anchor
        self.products = tuple(dict.fromkeys(export.product for export in exports))
        self.defects = tuple(dict.fromkeys(d for export in exports for d in export.defects))
        hashes = "".join(export.checkpoint_hash for export in exports)
        self.checkpoint_hash = hashlib.sha256(hashes.encode()).hexdigest()

    @staticmethod
    def _made_by(export: Export) -> tuple[str, ...]:
        return export.defects

    @property
    def model(self) -> Any:
        """Sizes of the networks, image size and channels among them."""
        return self.exports[0].config.model

    def of(self, product: str, defect: str) -> Export:
        """The export that makes a defect of a product.

        Raises:
            ValueError: there is none.
        """
        if (product, defect) not in self._by_cell:
            known = ", ".join(" ".join(cell) for cell in self._by_cell)
            raise ValueError(f"no {self.method} model makes {product} {defect}; found {known}")
        return self._by_cell[product, defect]


class Makers(Collection):
    """Models that make images from nothing: StyleGAN2 and BigGAN."""

    def make(self, product: str, defect: str, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Random images of a product with a defect; the i-th is a function of (seed, first + i).

        Args:
            product: name of the product.
            defect: name of the defect; the anchor makes good parts.
            count: images to make.
            seed: any integer.
            first: number of the first image under this seed.

        Returns:
            (count, ch, H, W) in [-1, 1].
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

    @staticmethod
    def _made_by(export: Export) -> tuple[str, ...]:
        return tuple(name for name in export.defects if name != export.anchor)

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


def mask_agreement(m: Tensor, truth: Tensor) -> dict[str, float]:
    """How a soft mask agrees with the truth, over all pixels of all images.

    Args:
        m: (N, 1, H, W) in [0, 1].
        truth: (N, 1, H, W), nonzero where the defect is.

    Returns:
        "iou" at m > 0.5, "best_iou" over 99 thresholds with its "threshold" (chosen on these very
        images), "precision" (average precision) and "share" (of pixels in the truth, which is the
        average precision of a mask that knows nothing).
    """
    soft, real = m.float().cpu().flatten().numpy(), truth.cpu().flatten().numpy() > 0

    def iou(threshold: float) -> float:
        found = soft > threshold
        either = int(np.logical_or(found, real).sum())
        return float(np.logical_and(found, real).sum() / either) if either else float("nan")

    thresholds = np.arange(1, 100) / 100
    best = max(thresholds, key=iou)
    return {
        "iou": iou(0.5),
        "best_iou": iou(best),
        "threshold": float(best),
        "precision": float(average_precision_score(real, soft)) if real.any() else float("nan"),
        "share": float(real.mean()),
    }


def _data_of(export: Export) -> Any:
    return export.card["data"].get("manifest_sha256"), export.anchor


# --- loading -------------------------------------------------------------------------------------


def find_exports(folder: str | Path) -> list[Path]:
    """Export folders of a run, or of every run in a folder, sorted.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(folder)
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidates in ([folder], [folder / "export"], [*below, *(p / "export" for p in below)]):
        found = [path for path in candidates if (path / CARD).is_file()]
        if found:
            return sorted(found)
    names = [path.name for path in below] or "nothing"
    raise CheckpointError(
        f"{folder}: found {names}, expected {CARD} of an export, there or in folders below "
        "(`python -m dtgan_core train` writes RUN/export when it is done)"
    )


def method_of(folder: str | Path) -> str:
    """Name of the system whose export a folder is, or holds; a card without a name is DT-GAN's.

    Raises:
        CheckpointError: no export, or one of an unknown system.
    """
    path = find_exports(folder)[0] / CARD
    card = read_json(path)
    name = card.get("method", DTGAN) if isinstance(card, dict) else "another kind"
    if name not in METHODS:
        raise CheckpointError(
            f"{path}: found a model of {name!r}, expected one of {', '.join(METHODS)}"
        )
    return str(name)


def load_generator(folder: str | Path, device: torch.device | str = "cpu") -> Makers | Transfers:
    """Load a baseline: an export, a finished run, or a folder of them, one a product or pair.

    Raises:
        CheckpointError: none there, damaged, or exports that do not belong together.
    """
    exports = [Export(path, device) for path in find_exports(folder)]
    kind: Callable[..., Makers | Transfers] = Makers if exports[0].method in MAKERS else Transfers
    return kind(exports, device)
