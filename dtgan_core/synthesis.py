"""Putting defects onto images with a trained DT-GAN: both ways of guidance, and style sweeps.

    synth = Synthesizer.load("notebooks/checkpoints/synthetic-sdi-laptop")
    x = synth.images("my_good_parts/")                        # (N, ch, H, W) in [-1, 1]
    fakes = synth.latent_guided(x, "Scratches", seed=0)       # a random scratch on each
    fakes = synth.reference_guided(x, synth.images("scratch.png"), "Scratches")

Every image has a random generator of its own, pixel noise included, so a seed names an image
whatever the batch it was made in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dtgan_core import checkpoints
from dtgan_core.batches import step_generator
from dtgan_core.checkpoints import CheckpointError, fields_of, fitted
from dtgan_core.config import Config
from dtgan_core.files import sha256_of
from dtgan_core.images import IMAGE_SUFFIXES, ImageSource, image_to_array
from dtgan_core.layers import Guide, Painted
from dtgan_core.networks import MappingNetwork, StyleDefectEncoder, make_generator


@dataclass(frozen=True)
class Background:
    """Images x (N, ch, H, W) and what `Generator.background` made of them: paint on it often."""

    x: Tensor
    map: Tensor


class Synthesizer:
    """A trained G, M and E with the names of their products and defects.

    Attributes:
        config: the experiment that trained them.
        products, defects: names, in the order of the labels p and y.
        anchor: name of the defect-free domain.
        card: the card of the checkpoint.
        checkpoint_hash: sha256 of the weights file.
    """

    def __init__(self, card: dict[str, Any], weights: Path, device: torch.device | str = "cpu"):
        path = weights.parent / "card.json"
        self.card = fields_of(card, checkpoints.Card, path)
        self.config: Config = fields_of(card["config"], Config, path, "config")
        model = self.config.model
        counts = model.products, model.defects
        self.products, self.defects = checkpoints.labels_of(card["data"], *counts, path)
        self.anchor = self.defects[self.config.model.anchor]
        self.checkpoint_hash = sha256_of(weights)
        self.device = torch.device(device)
        tensors = checkpoints.read_weights(weights)
        if model.defects > len(tensors):  # M alone has more a defect; do not sketch millions
            told = f"tells of {model.defects} defects, {weights.name} holds {len(tensors)} tensors"
            raise checkpoints.damaged(path, told)
        kinds: Any = (("G", make_generator), ("M", MappingNetwork), ("E", StyleDefectEncoder))
        nets: Any = fitted(lambda: nn.ModuleDict({n: k(model) for n, k in kinds}), tensors, weights)
        self.G, self.M, self.E = nets["G"], nets["M"], nets["E"]
        nets.to(device=self.device, memory_format=torch.channels_last).eval()
        nets.requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Synthesizer:
        """Load an export (ema.safetensors and card.json), or the export of a finished run.

        CheckpointError: the folder holds no export, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / "card.json").is_file() and (folder / "export" / "card.json").is_file():
            folder = folder / "export"
        weights = folder / "ema.safetensors"
        if not (folder / "card.json").is_file() or not weights.is_file():
            found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "nothing"
            raise CheckpointError(
                f"{folder}: found {found}, expected card.json and ema.safetensors. Name the export "
                "folder of a run (`python -m dtgan_core train` writes RUN/export when it is done)"
            )
        card = checkpoints.read_json(folder / "card.json")
        method = card.get("method", "dtgan") if isinstance(card, dict) else "dtgan"
        if method != "dtgan":
            raise CheckpointError(
                f"{folder}: found a model of {method}, expected one of dtgan; a baseline makes "
                "images by `generate`, or from Python by `baselines.zoo.load_system`"
            )
        return cls(card, weights, device)

    def summary(self) -> pd.Series:
        """What the card says, in a few lines: data, size, training, hardware."""
        card, model, train = self.card, self.config.model, self.config.train
        return pd.Series(
            {
                "trained on": card["data"].get("name", "unnamed data"),
                "licence of the data": card["data"].get("licence", "not given"),
                "products": ", ".join(self.products),
                "defects": ", ".join(self.defects),
                "configuration": f"({self.config.ablation}), preset {self.config.preset}",
                "images": f"{model.image_size} x {model.image_size}, {model.channels} channel(s)",
                "training": f"{card['iterations']} iterations of {train.batch_size} images",
                "seconds": card["seconds"],
                "hardware": "{device}, {threads} thread(s)".format(**card["hardware"]),
                "weights sha256": self.checkpoint_hash[:16],
            },
            name="checkpoint",
        )

    def images(self, source: str | Path | Sequence[str | Path]) -> Tensor:
        """Images (N, ch, H, W) float32 in [-1, 1], squashed to the networks' size.

        `source` is a file, a folder (every image under it, sorted), or a list of files. ValueError:
        no image found, or one cannot be read (named).
        """
        model = self.config.model
        return read_images(find_images(source), model.channels, model.image_size).to(self.device)

    def label(self, defect: str | Sequence[str], count: int) -> Tensor:
        """(count,) labels y of a defect, or of as many defects, that the model must know."""
        names = [defect] * count if isinstance(defect, str) else list(defect)
        for name in names:
            if name not in self.defects:
                known = ", ".join(self.defects)
                raise ValueError(f"unknown defect {name!r}; this model knows {known}")
        return torch.tensor([self.defects.index(name) for name in names], device=self.device)

    def background(self, x: Tensor, normal: Tensor | None = None) -> Background:
        """Encode images and decode their background, once; (f) repairs where `normal` is False."""
        with torch.inference_mode():
            x = x.to(self.device).contiguous(memory_format=torch.channels_last)
            normal = None if normal is None else normal.to(self.device)
            return Background(x, self.G.background(self.G.encode(x), x, normal))

    def latent_guides(
        self, defect: str | Sequence[str], seed: int, indices: Iterable[int]
    ) -> Guide:
        """Random defects c (N, C, h, w) and styles s (N, S), (c, s) = M_y(z).

        Each is a function of (seed, index); `defect` is the target domain, or one for each index.
        """
        draws = [self.M.draw(1, step_generator(f"{seed}/latent", index)) for index in indices]
        z = torch.cat([z for z, _ in draws]).to(self.device)
        levels = zip(*(n for _, n in draws), strict=True)
        noise = [torch.cat(level).to(self.device) for level in levels]
        with torch.inference_mode():
            return self.M(z, self.label(defect, len(draws)), noise)

    def reference_guides(self, x_ref: Tensor, defect: str | Sequence[str]) -> Guide:
        """Defects and styles of references, (c, s) = E_y(x_ref): x_ref (N, ch, H, W) in [-1, 1].

        `defect` is the domain the references belong to, or one for each.
        """
        with torch.inference_mode():
            x_ref = x_ref.to(self.device).contiguous(memory_format=torch.channels_last)
            return self.E(x_ref, self.label(defect, len(x_ref)))

    def paint(self, background: Background, guide: Guide) -> Tensor:
        """The image of `painted` alone: (N * K, ch, H, W) float32 in [-1, 1]."""
        return self.painted(background, guide).image

    def painted(self, background: Background, guide: Guide) -> Painted:
        """G(x; c, s) of N backgrounds, clipped to [-1, 1], and (f)'s masks m; float32.

        The guide holds N * K defects, image after image.
        """
        with torch.inference_mode():
            image, mask = self.G.paint(background.map, guide.c, guide.s)
        image = image.float().clamp(-1, 1).clone()
        return Painted(image, None if mask is None else mask.float().clone())

    @property
    def mask_kind(self) -> Literal["generated", "approximate"]:
        """What `masks` are: (f) leaves every pixel outside a defect as it is, so they are exact."""
        return "generated" if self.config.model.blend == "composed" else "approximate"

    def masks(self, plain: np.ndarray, fakes: np.ndarray) -> np.ndarray:
        """Where a defect was put: `generated_masks` of (f), else `approximate_masks`.

        `plain` is `without_defect`, as uint8 (N, H, W, ch); -> uint8 (N, H, W), 0 or 255.
        """
        find = generated_masks if self.mask_kind == "generated" else approximate_masks
        return find(plain, fakes)

    def without_defect(self, background: Background) -> Tensor:
        """The model's Normal rendering, G(x; 0, s), as `paint`; x itself without an anchor."""
        model, n = self.config.model, len(background.x)
        if not model.anchor_zero:
            return background.x
        c = torch.zeros(n, *model.defect_shape, device=self.device)
        return self.paint(background, Guide(c, torch.zeros(n, model.style_dim, device=self.device)))

    def latent_guided(self, x: Tensor, defect: str, seed: int = 0, first: int = 0) -> Tensor:
        """A random defect of a domain on each image: x (N, ch, H, W) in [-1, 1] -> the same.

        Image n takes draw `first` + n of the seed.
        """
        guide = self.latent_guides(defect, seed, range(first, first + len(x)))
        return self.paint(self.background(x), guide)

    def reference_guided(self, x: Tensor, x_ref: Tensor, defect: str) -> Tensor:
        """The defect of a reference, one for each or for all, on images: x (N, ch, H, W) as x_ref.

        -> the same shape, in [-1, 1].
        """
        c, s = self.reference_guides(x_ref, defect)
        n = len(x)
        return self.paint(self.background(x), Guide(c.expand(n, *c.shape[1:]), s.expand(n, -1)))

    def style_sweep(self, x: Tensor, c: Tensor, styles: Tensor) -> Tensor:
        """One defect map on each image under many styles (Fig. 5); the background is decoded once.

        x (N, ch, H, W), c (N or 1, C, h, w), styles (K, S) -> (N, K, ch, H, W) in [-1, 1].
        """
        n, k = len(x), len(styles)
        maps = c.expand(n, *c.shape[1:]).repeat_interleave(k, dim=0)
        return self.paint(self.background(x), Guide(maps, styles.repeat(n, 1))).unflatten(0, (n, k))


def find_images(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Image files of a file, a folder or a list, sorted; hidden files are passed over.

    ValueError: nothing there, or nothing that is an image by its suffix.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise ValueError("found no image in an empty list; expected at least one file")
        return [Path(path) for path in source]
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder; expected images")
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"{source}: found no image, expected files ending in {suffixes}")
    return found


def read_images(
    sources: Sequence[ImageSource], channels: int, size: int | tuple[int, int]
) -> Tensor:
    """Image files of any size as networks take them: float32 (N, ch, H, W) in [-1, 1]."""
    arrays = [image_to_array(source, channels, size) for source in sources]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, ch, H, W) in [-1, 1] -> uint8 (N, H, W, ch)."""
    levels = x.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


VISIBLE = 10  # grey levels of change that count as defect


def generated_masks(x: np.ndarray, fakes: np.ndarray) -> np.ndarray:
    """The pixels that a defect visibly changed, of a generator that changes no others.

    x and fakes uint8 (N, H, W, ch), the part and the same with its defect -> uint8 (N, H, W), 255
    where the mean change over channels is at least `VISIBLE`.
    """
    change = np.abs(fakes.astype(np.float32) - x.astype(np.float32)).mean(axis=3)
    return ((change >= VISIBLE) * 255).astype(np.uint8)


MASK_FLOOR = 16  # grey levels; smaller changes are the generator's own blur, not a defect


def approximate_masks(x: np.ndarray, fakes: np.ndarray) -> np.ndarray:
    """Where an image differs from the same without a defect: an estimate, not ground truth.

    x and fakes uint8 (N, H, W, ch) -> uint8 (N, H, W), 255 where the absolute difference, averaged
    over 3 x 3 pixels, is above a third of its maximum and above `MASK_FLOOR` grey levels (our
    reading: the paper makes no masks).
    """
    difference = np.abs(fakes.astype(np.float32) - x.astype(np.float32)).mean(axis=3)  # (N, H, W)
    padded = np.pad(difference, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = difference.shape[1:]
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    smooth = np.mean(shifts, axis=0)
    threshold = np.maximum(MASK_FLOOR, smooth.max(axis=(1, 2), keepdims=True) / 3)
    return ((smooth > threshold) * 255).astype(np.uint8)
