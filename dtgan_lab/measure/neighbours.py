"""Nearest training images (App. E.5): has a generator learned, or does it look things up?

A copy of the training set has the best FID there is.  So each made image is held against all
training images, their allowed mirror images included, and its distance to the nearest is
relative to how near real images come that nobody trained on:

    search = Search(train, held_out, extract)      # `Gallery` each
    found = search(fakes)
    found["image"].score       # 1: as far as real held-out images are; near 0: a copy
    found["image"].copies      # which are; of real images 1 % at most, as a rule

in three spaces: the whole image, smoothed and free to slide a little (`image`); the surroundings of
the defect (`crop`, needs masks); and an extractor's features (`features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.batches import ImageStore
from dtgan_core.dataset import FLIPS
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.measures import crops, scaled

SPACES = ("image", "crop", "features")
COPY_QUANTILE = 0.01  # a copy comes nearer than all but so many held-out images ...
COPY_SCORE = 0.5  # ... and half as near: a blurred image, with no texture of its own that could
# differ, lies at the root of 1 / 2 without being a copy
SLIDE = 2  # pixels at 64 that an image may be off to every side
BORDER = 4  # pixels at 64 left out at the border, which sliding needs
CELL = 4  # pixels at 64 that are averaged into one
BLOCK = 512  # views compared at once
FEWEST_OF_A_CELL = 8  # held-out images that a median of their own is taken of


@dataclass(frozen=True)
class Gallery:
    """Images to be compared."""

    x: Tensor  # float32 (N, ch, H, W) in [-1, 1]
    # bool (N, 1, H, W), where the defect is; None where unknown: no `crop` then
    masks: Tensor | None = None
    # N labels, such as (product, defect); scores are relative to a cell. None: one cell.
    cells: Sequence[object] | None = None
    # bool (N, 2), mirror images (horizontal, vertical) that count as copies; None: none
    flips: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("masks", "cells", "flips"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.x):
                raise ValueError(f"{len(value)} {name} for {len(self.x)} images, expected as many")

    @classmethod
    def of(cls, store: ImageStore, index: Tensor) -> Gallery:
        """Images of a store, their masks, cells (product, defect) and flips."""
        masks = store.masks()
        products = [store.product_names[p] for p in store.products[index].tolist()]
        defects = [store.defect_names[y] for y in store.defects[index].tolist()]
        return cls(
            store.to_float(index).cpu(),
            None if masks is None else masks[index].cpu() > 0,
            list(zip(products, defects, strict=True)),
            store.flips[index].cpu(),
        )


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of N images in one space."""

    index: Tensor  # int64 (N, k), training images, the nearest first
    # list of N lists of k: "", "horizontal", "vertical" or "horizontal vertical", how the
    # training image was flipped to come so near
    mirrored: list[list[str]]
    distance: Tensor  # (N, k), to each
    # (N,), distance to the nearest over the median of held-out real images of the cell
    score: Tensor
    # bool (N,), nearer than 99 % of held-out real images, and than half their median
    copies: Tensor


@dataclass
class _Space:
    bank: Tensor  # (variants, K, D)
    allowed: Tensor  # bool (variants, K)
    medians: dict[str, float] = field(default_factory=dict)
    median: float = float("nan")
    threshold: float = float("nan")


class Search:
    """Training images and what held-out images tell of them."""

    def __init__(
        self,
        train: Gallery,
        held_out: Gallery,
        extractor: Extractor | None = None,
        spaces: Sequence[str] = SPACES,
    ) -> None:
        """Prepare the spaces, as far as there is what they need.

        `held_out` are real images that the generator did not learn from, `extractor` makes the
        space `features`. ValueError: no images on a side, or of another size.
        """
        if not len(train.x) or not len(held_out.x):
            raise ValueError(
                f"found {len(train.x)} training and {len(held_out.x)} held-out images, expected "
                "some of both"
            )
        self.train, self.extractor, self.shape = train, extractor, train.x.shape[1:]
        self._check(held_out)
        possible = {
            "image": True,
            "crop": train.masks is not None and held_out.masks is not None,
            "features": extractor is not None,
        }
        self._spaces = {name: self._prepare(name, held_out) for name in spaces if possible[name]}

    def __call__(self, fakes: Gallery, count: int = 5) -> dict[str, Nearest]:
        """The `count` nearest training images in every space that both sides have.

        Crops need masks of where a generator put the defect, such as `measures.most_changed` of the
        difference to its source. ValueError: images of another size.
        """
        self._check(fakes)
        return {
            name: self._search(name, space, fakes, min(count, len(self.train.x)))
            for name, space in self._spaces.items()
            if name != "crop" or fakes.masks is not None
        }

    # --- inside ----------------------------------------------------------------------------------

    def _check(self, gallery: Gallery) -> None:
        if gallery.x.shape[1:] != self.shape:
            raise ValueError(
                f"the images are {tuple(gallery.x.shape[1:])}, the training images "
                f"{tuple(self.shape)} (channels, height, width); bring them to one size"
            )

    def _views(self, space: str, gallery: Gallery, slide: bool) -> Tensor:
        """Each image as points of a space, (N, views, D) float64."""
        if space == "image":
            return slid(gallery.x, SLIDE if slide else 0).double()
        if space == "crop":
            assert gallery.masks is not None
            return crops(gallery.x, gallery.masks).double()[:, None]
        assert self.extractor is not None
        return torch.from_numpy(self.extractor(gallery.x)).double()[:, None]

    def _prepare(self, name: str, held_out: Gallery) -> _Space:
        train, flips = self.train, self.train.flips
        if flips is None:
            flips = torch.zeros(len(train.x), 2, dtype=torch.bool)
        banks, allowed = [], []
        for flipped in _variants(flips):
            dims = [dim for dim, on in zip((3, 2), flipped, strict=True) if on]
            masks = None if train.masks is None else train.masks.flip(dims)
            version = Gallery(train.x.flip(dims), masks)
            banks.append(self._views(name, version, slide=False)[:, 0])
            allowed.append((flips | ~torch.tensor(flipped)).all(dim=1))
        space = _Space(torch.stack(banks), torch.stack(allowed))
        found, *_ = _nearest(self._views(name, held_out, slide=True), space, 1)
        nearest = found[:, 0]
        space.median = float(nearest.median())
        if held_out.cells is not None:
            table = pd.Series(nearest.numpy()).groupby(list(map(str, held_out.cells)))
            space.medians = dict(table.median()[table.size() >= FEWEST_OF_A_CELL])
        lowest = float(_scores(nearest, held_out, space).quantile(COPY_QUANTILE))
        space.threshold = min(lowest, COPY_SCORE)
        return space

    def _search(self, name: str, space: _Space, fakes: Gallery, count: int) -> Nearest:
        distance, index, variant = _nearest(self._views(name, fakes, slide=True), space, count)
        words = [
            " ".join(word for word, on in zip(FLIPS, flipped, strict=True) if on)
            for flipped in _variants(self.train.flips)
        ]
        score = _scores(distance[:, 0], fakes, space)
        mirrored = [[words[v] for v in row] for row in variant.tolist()]
        return Nearest(index, mirrored, distance, score, score < space.threshold)


def _variants(flips: Tensor | None) -> list[tuple[bool, bool]]:
    """All mirror images that some training image allows, itself first: (horizontal, vertical)."""
    ways = (False, True)
    some = (False, False) if flips is None or not len(flips) else flips.any(dim=0).tolist()
    return [(h, v) for v in ways for h in ways if (some[0] or not h) and (some[1] or not v)]


def _scores(nearest: Tensor, gallery: Gallery, space: _Space) -> Tensor:
    """Distances over the held-out median of each image's cell, or of all where it has none."""
    if gallery.cells is None:
        return nearest / space.median
    medians = [space.medians.get(str(cell), space.median) for cell in gallery.cells]
    return nearest / torch.tensor(medians, dtype=nearest.dtype)


def slid(x: Tensor, reach: int) -> Tensor:
    """The inside of images, averaged over 4 x 4 pixels, at every offset; brightness taken off.

    (N, ch, H, W) -> (N, (2 reach + 1)^2, D); `reach` is in pixels at 64, 0 for the middle alone.
    """
    height, width = x.shape[2:]
    border, step = scaled(BORDER, height), scaled(1, height)
    cells = (
        (height - 2 * border) // scaled(CELL, height),
        (width - 2 * border) // scaled(CELL, height),
    )
    offsets = [step * offset for offset in range(-reach, reach + 1)]
    if max(offsets) > border:
        raise ValueError(f"reach is {reach}; expected at most {BORDER}, the border")
    views = []
    for down in offsets:
        for right in offsets:
            top, left = border + down, border + right
            cut = x[:, :, top : top + height - 2 * border, left : left + width - 2 * border]
            view = F.adaptive_avg_pool2d(cut, cells).flatten(1)  # (N, D)
            views.append(view - view.mean(dim=1, keepdim=True))
    return torch.stack(views, dim=1)


def _nearest(views: Tensor, space: _Space, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, numbers and variants of the k nearest training images, (N, k), of any view."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in views.split(max(1, BLOCK // views.shape[1])):
        n, many, _ = part.shape
        layers = [
            torch.cdist(part.flatten(0, 1), bank)
            .view(n, many, -1)
            .amin(dim=1)
            .masked_fill(~allowed, float("inf"))
            for bank, allowed in zip(space.bank, space.allowed, strict=True)
        ]
        distance, variant = torch.stack(layers).min(dim=0)  # (n, K)
        near, index = distance.topk(count, dim=1, largest=False)
        found.append((near, index, variant.gather(1, index)))
    near, index, variant = (torch.cat(parts) for parts in zip(*found, strict=True))
    return near, index, variant
