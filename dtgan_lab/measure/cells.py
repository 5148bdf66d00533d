"""What a model's defects look like, cell by cell, beside real ones of the same product and defect.

    cells = fresh_cells(products, defects, count=400, image_size=64)   # synthetic SDI, never seen
    table = model_looks(synth, cells)                                  # a row a cell and guidance

`held_out_cells` makes them of any data set with masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dtgan_core.images import resized, resized_mask
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer, to_uint8
from dtgan_lab.data.synthetic.drawing import draw, image_seed
from dtgan_lab.measure.looks import (
    MEASURES,
    compare_looks,
    looks,
    masked_change,
    overlap,
    style_share,
    verdict,
)
from dtgan_lab.measure.real import RealSide

GUIDANCES = ("latent", "reference")
TITLES = {"dark": "dark share", "contrast": "contrast", "width": "width px", "area": "area %"}
TITLES |= {"pieces": "pieces"}
FRESH_SEED = 1


class Cell(NamedTuple):
    """What is known of one product and defect.

    Attributes:
        parts: (N, ch, H, W) in [-1, 1], images of the product without a defect.
        images: (N, ch, H, W) in [-1, 1], real ones with the defect.
        masks: bool (N, H, W), where their defect is.
        change: (N, H, W), what it changed, grey levels.
    """

    parts: Tensor
    images: Tensor
    masks: NDArray[np.bool_]
    change: NDArray[np.float64]


def fresh_cells(
    products: Sequence[str], defects: Sequence[str], count: int, image_size: int
) -> dict[tuple[str, str], Cell]:
    """Cells of the synthetic SDI out of images that are in no split of any data set.

    Args:
        products: names.
        defects: names, without "Normal".
        count: images a cell.
        image_size: side in pixels; drawings are squashed, antialiased.
    """

    def drawn(product: str, defect: str) -> list[NDArray[Any]]:
        rows = []
        for index in range(count):
            found = draw(product, defect, image_seed(FRESH_SEED, "fresh", index))
            fitted = [resized(Image.fromarray(a), image_size) for a in (found.image, found.twin)]
            mask = resized_mask(Image.fromarray(found.mask), image_size)
            rows.append([np.asarray(picture) for picture in (*fitted, mask)])
        return [np.stack(column) for column in zip(*rows, strict=True)]

    cells = {}
    for product in products:
        parts = _as_images(drawn(product, "Normal")[0])
        for defect in defects:
            image, twin, mask = drawn(product, defect)
            change = image.astype(np.float64) - twin
            cells[product, defect] = Cell(parts, _as_images(image), mask > 0, change)
    return cells


def held_out_cells(real: RealSide) -> dict[tuple[str, str], Cell]:
    """Cells of a data set's held-out images; {} where it has no masks.

    A defect's change is image minus twin, or what its mask says where there is no twin.
    """
    store, cells = real.held_out, {}
    for p, product in enumerate(store.product_names):
        parts = store.to_float(torch.tensor(real.cell(p, real.anchor), dtype=torch.long))
        for y, defect in enumerate(store.defect_names):
            index = real.cell(p, y)
            if y == real.anchor or not index or not len(parts) or real.masks is None:
                continue
            images, masks = store.to_float(torch.tensor(index)), real.masks[index][:, 0].numpy()
            clean = real.clean(index)
            change = _levels(images) - _levels(clean.nan_to_num())
            bare = clean.isnan().flatten(1).any(dim=1).numpy()  # without a twin
            change[bare] = masked_change(
                _levels(images)[bare].round().astype(np.uint8), masks[bare]
            )
            cells[product, defect] = Cell(parts, images, masks, change)
    return cells


def _as_images(levels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(levels)[:, None].float() / 127.5 - 1


def _levels(images: Tensor) -> NDArray[np.float64]:
    """(N, ch, H, W) in [-1, 1] -> grey levels (N, H, W), rounded as they would be saved."""
    return to_uint8(images).astype(np.float64).mean(axis=3)


def model_looks(
    synth: Synthesizer, cells: Mapping[tuple[str, str], Cell], seed: int = 0
) -> pd.DataFrame:
    """Measure both ways of guidance in every cell.

    Args:
        synth: a model of these products and defects.
        cells: by product and defect; a reference is of the same defect and any product.
        seed: of latents and of the choice of references.

    Returns:
        A row a guidance and cell: measure and "real <measure>" of `looks.looks`, "overlap" of the
        mask with the reference's (NaN for draws), "style" (`looks.style_share`; NaN for
        references), "verdict", "n".
    """
    rows = []
    for product, defect in cells:
        cell = cells[product, defect]
        background = synth.background(cell.parts)
        plain = synth.without_defect(background)
        real = looks(cell.change)
        for guidance in GUIDANCES:
            guide, masks = _guides(synth, cells, defect, len(cell.parts), guidance, seed)
            made = synth.paint(background, guide)
            change = _levels(made) - _levels(plain)
            table = compare_looks(real, looks(change))
            row: dict[str, Any] = {"guidance": guidance, "product": product, "defect": defect}
            row["n"] = len(made)
            row |= {f"real {name}": table["real"][name] for name in MEASURES}
            row |= {name: table["made"][name] for name in MEASURES}
            row |= {"overlap": float("nan"), "style": float("nan"), "verdict": verdict(table)}
            if masks is None:
                row["style"] = _style(synth, background, plain, guide, change, cell)
            else:
                found = synth.masks(to_uint8(plain), to_uint8(made)) > 0
                row["overlap"] = float(overlap(found, masks).mean())
            rows.append(row)
    return pd.DataFrame(rows)


def _guides(
    synth: Synthesizer,
    cells: Mapping[tuple[str, str], Cell],
    defect: str,
    count: int,
    guidance: str,
    seed: int,
) -> tuple[Guide, NDArray[np.bool_] | None]:
    """Draws, or references of any product with their masks."""
    if guidance == "latent":
        return synth.latent_guides(defect, seed, range(count)), None
    donors = [cell for (_, name), cell in cells.items() if name == defect]
    rng = np.random.default_rng([seed, count])
    chosen = [donors[int(rng.integers(len(donors)))] for _ in range(count)]
    picks = [(cell, int(rng.integers(len(cell.images)))) for cell in chosen]
    images = torch.stack([cell.images[i] for cell, i in picks])
    return synth.reference_guides(images, defect), np.stack([cell.masks[i] for cell, i in picks])


def _style(
    synth: Synthesizer,
    background: Background,
    plain: Tensor,
    guide: Guide,
    change: NDArray[np.float64],
    cell: Cell,
) -> float:
    """The same maps under the styles of other draws."""
    other = Guide(guide.c, guide.s.roll(1, dims=0))
    restyled = _levels(synth.paint(background, other)) - _levels(plain)
    return style_share(restyled, change, cell.change)


def held_out_looks(synth: Synthesizer, real: RealSide) -> pd.DataFrame:
    """`model_looks` beside the held-out images of a data set; empty where it has no masks."""
    cells = held_out_cells(real)
    return model_looks(synth, cells) if cells else pd.DataFrame()


def looks_table(table: pd.DataFrame) -> pd.DataFrame:
    """`model_looks` for people: made beside real, and the verdict of each cell."""
    shown = table[["product", "defect", "guidance", "n"]].copy()
    for name in MEASURES:
        pairs = zip(table[name], table[f"real {name}"], strict=True)
        shown[f"{TITLES[name]} (real)"] = [f"{made:.3g} ({real:.3g})" for made, real in pairs]
    shown["overlap"] = ["" if value != value else f"{value:.2f}" for value in table["overlap"]]
    shown["verdict"] = table["verdict"]
    return shown


def polarity_error(table: pd.DataFrame) -> pd.Series:
    """Mean over cells of |dark share - real dark share|, by guidance; empty without cells."""
    if table.empty:
        return pd.Series(dtype=float)
    off = (table["dark"] - table["real dark"]).abs()
    return off.groupby(table["guidance"]).mean()
