"""What the explorer shows and keeps: parts and references to choose from, its panel, favourites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from dtgan_core.batches import ImageStore
from dtgan_core.files import write_atomic
from dtgan_core.images import to_png
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.data.dataset import Dataset, numbers_of
from dtgan_lab.files import cell

FULL_COLOUR = 64  # grey levels of change that are shown in full red or blue


@dataclass(frozen=True)
class Gallery:
    """Parts (product ->) to paint on and pictures (defect ->) to choose from, (n, ch, H, W).

    Their names are for the manifest; numbers unless given.
    """

    parts: Mapping[str, Tensor]
    references: Mapping[str, Tensor]
    part_names: Mapping[str, list[str]] = field(default_factory=dict)
    reference_names: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of_dataset(cls, dataset: Dataset, synth: Synthesizer, a_cell: int = 8) -> Gallery:
        """The first held-out images of every product and defect of a data set, `a_cell` each."""
        model = synth.config.model
        store = ImageStore.load(dataset, "test", model.image_size, model.channels, progress=False)

        def cell(product: int, defect: int) -> list[int]:
            return numbers_of(store, product, defect)[:a_cell]

        products, defects = range(len(store.product_names)), range(len(store.defect_names))
        parts = {store.product_names[p]: cell(p, store.anchor) for p in products}
        shown = {
            store.defect_names[y]: [i for p in products for i in cell(p, y)]
            for y in defects
            if y != store.anchor
        }
        return cls(
            {name: store.to_float(torch.tensor(index)) for name, index in parts.items() if index},
            {name: store.to_float(torch.tensor(index)) for name, index in shown.items() if index},
            {name: [store.paths[i] for i in index] for name, index in parts.items()},
            {name: [store.paths[i] for i in index] for name, index in shown.items()},
        )

    def check_fit(self, synth: Synthesizer, name: str) -> None:
        """Refuse, by a ValueError, a model `name` that cannot paint these pictures."""
        model = synth.config.model
        if not model.defect_width:
            raise ValueError(
                f"{name}: configuration ({synth.config.ablation}) has no defect map to move; "
                "choose a checkpoint of configuration (b) to (e)"
            )
        shape = (model.channels, model.image_size, model.image_size)
        for kind, pictures in {**self.parts, **self.references}.items():
            if tuple(pictures.shape[1:]) != shape:
                raise ValueError(
                    f"{name}: takes pictures of shape {shape}, those of {kind} are "
                    f"{tuple(pictures.shape[1:])}; choose a checkpoint of the gallery's size"
                )
        missing = set(self.references) - set(synth.defects)
        if missing:
            raise ValueError(
                f"{name}: knows {', '.join(synth.defects)}, and not {', '.join(sorted(missing))}; "
                "choose a checkpoint of the gallery's defects"
            )


class Favourite(NamedTuple):
    """A picture (H, W, ch) that was kept, its mask (H, W), and the recipe that makes it again."""

    recipe: dict[str, Any]
    image: np.ndarray
    mask: np.ndarray


def name_of(names: Mapping[str, list[str]], kind: str, number: int) -> str:
    """What the manifest calls a picture of a product or defect."""
    return names[kind][number] if kind in names else f"{kind} {number}"


def flat(picture: np.ndarray) -> np.ndarray:
    """(H, W, 1) -> (H, W)."""
    return picture[..., 0] if picture.shape[-1] == 1 else picture


@cache
def _change_colours() -> np.ndarray:
    """Blue for darker, white for unchanged, red for brighter: uint8 (256, 3)."""
    return (colormaps["RdBu_r"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def strength_picture(c: Tensor, side: int) -> np.ndarray:
    """|c| of one map as a picture, uint8 (side, side, 3)."""
    size = c[0].abs().sum(dim=0).cpu().numpy()
    levels = (255 * (size - size.min()) / max(float(np.ptp(size)), 1e-9)).astype(np.uint8)
    colours = (colormaps["viridis"](levels)[..., :3] * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST))


def panel_pictures(
    x: Tensor, source: Tensor | None, c: Tensor, fake: Tensor, overlay: bool
) -> dict[str, np.ndarray]:
    """The four pictures of the panel, title -> uint8 (H, W) or (H, W, 3).

    x is the part, `fake` the result, over which `overlay` lays the change; without a `source`
    picture the strength of the map c is shown.
    """
    part, made = (flat(to_uint8(picture)[0]) for picture in (x, fake))
    change = (made.astype(np.int16) - part).reshape(*part.shape[:2], -1).mean(axis=2)
    steps = np.clip(change / FULL_COLOUR * 127 + 128, 0, 255).astype(np.uint8)
    colours = _change_colours()[steps]
    if overlay:
        share = np.clip(np.abs(change) / FULL_COLOUR, 0, 0.8)[..., None]
        colour = made if made.ndim == 3 else made[..., None].repeat(3, axis=2)
        made = (colour * (1 - share) + colours * share).round().astype(np.uint8)
    shown = strength_picture(c, part.shape[0]) if source is None else flat(to_uint8(source)[0])
    titles = ("the part", "the defect comes from", "the result", "the change")
    return dict(zip(titles, (part, shown, made, colours), strict=True))


def write_favourites(
    favourites: Sequence[Favourite], folder: Path, mask_kind: str = "approximate"
) -> pd.DataFrame:
    """Write images, masks and manifest.csv, the manifest last, each file atomically.

    The manifest holds path, generated_mask or approximate_mask, and the recipe of each.
    """
    rows = []
    folders = ("images", f"{mask_kind}_masks")
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, kept in enumerate(favourites):
        files = [f"{name}/{number:03d}.png" for name in folders]
        for path, picture in zip(files, (kept.image, kept.mask), strict=True):
            write_atomic(folder / path, to_png(picture))
        rows.append({"path": files[0], f"{mask_kind}_mask": files[1], **kept.recipe})
    table = pd.DataFrame(rows)
    write_atomic(folder / "manifest.csv", table.map(cell).to_csv(index=False).encode())
    return table
