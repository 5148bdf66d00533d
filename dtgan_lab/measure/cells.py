"""What a model's defects look like, cell by cell, beside real ones of the same product and defect.

    cells = fresh_cells(products, defects, count=400, image_size=64)   # synthetic SDI, never seen
    table = model_looks(synth, cells)                                  # a row a cell and guidance

`held_out_cells` makes them of any data set with masks.  Polarity, contrast, width, area, pieces and
overlap are read off the *change*, image minus the same part without a defect, in grey levels.  A
judge and a distance between features pass over them: an embossed stamp has both polarities, and a
judge knows it for a scratch all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dtgan_core.images import resized
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.data.dataset import resized_mask
from dtgan_lab.data.synthetic.drawing import draw, image_seed
from dtgan_lab.measure.real import RealSide

VISIBLE = 12.0  # grey levels that count as a change
MOST_CHANGED = 40  # pixels that polarity is read off, at 64 x 64
STRONGEST = 20  # pixels that contrast is read off, at 64 x 64
SMALLEST_PIECE = 3  # pixels
MEASURES = ("dark", "contrast", "width", "area", "pieces")
SMALLEST_RATIO, LARGEST_RATIO = 0.7, 1.4  # of contrast, width and area to real ones
LARGEST_POLARITY_ERROR = 0.05
AS_REAL = "as real ones"  # the verdict on a cell that is as it should be

Levels = NDArray[np.float64]


def looks(change: NDArray[np.floating]) -> pd.DataFrame:
    """Measure every `change` (N, H, W): grey levels by which a defect brightened its part.

    A row an image: "dark", share of the squared change of the most changed pixels that darkens,
    0 to 1; "contrast", mean of the strongest changes, grey levels; "width", mean over the ridges of
    what changed visibly, pixels; "area", share that changed visibly, per cent; "pieces", number of
    connected ones.  Width is NaN where nothing changed visibly.
    """
    scale = change.shape[1] * change.shape[2] / 64**2
    most, strong = max(1, round(MOST_CHANGED * scale)), max(1, round(STRONGEST * scale))
    rows = []
    for d in change.astype(np.float64):
        size = np.abs(d)
        ranked = np.sort(size, axis=None)[::-1]
        energy = np.where(size >= ranked[most - 1], d**2, 0.0)
        visible = size > VISIBLE
        rows.append(
            {
                "dark": energy[d < 0].sum() / max(energy.sum(), 1e-9),
                "contrast": ranked[:strong].mean(),
                "width": _width(visible),
                "area": 100 * visible.mean(),
                "pieces": _pieces(visible),
            }
        )
    return pd.DataFrame(rows, columns=list(MEASURES))


def _width(visible: NDArray[np.bool_]) -> float:
    """Mean width along the ridges of a shape, pixels; a line of one pixel has width 1."""
    depth = ndimage.distance_transform_edt(np.pad(visible, 1))
    ridge = (depth > 0) & (depth == ndimage.maximum_filter(depth, 3))
    return float((2 * depth[ridge] - 1).mean()) if ridge.any() else float("nan")


def _pieces(visible: NDArray[np.bool_]) -> int:
    """Connected pieces, corners included, but for crumbs."""
    labels, count = ndimage.label(visible, np.ones((3, 3)))
    sizes = ndimage.sum_labels(visible, labels, range(1, count + 1))
    return int((np.asarray(sizes) >= SMALLEST_PIECE).sum())


def masked_change(images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Levels:
    """The change (N, H, W) of real defects of which only a mask is known, 0 outside.

    It is the image minus what a smooth filling-in from around the mask expects.
    """
    change = np.zeros(images.shape)
    for n, (image, mask) in enumerate(zip(images.astype(np.float64), masks, strict=True)):
        around = ndimage.binary_dilation(mask, iterations=1)
        known = (~around).astype(np.float64)
        weight = ndimage.gaussian_filter(known, 3.0)
        filled = ndimage.gaussian_filter(image * known, 3.0) / np.maximum(weight, 1e-6)
        expected = np.where(weight > 1e-3, filled, np.median(image))
        change[n] = np.where(mask, image - expected, 0.0)
    return change


def overlap(made: NDArray[np.bool_], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of each pair of masks (N, H, W); 0 where both are empty."""
    both, either = (made & reference).sum((1, 2)), (made | reference).sum((1, 2))
    return both / np.maximum(either, 1)


def style_share(
    restyled: NDArray[np.floating], change: NDArray[np.floating], shared: NDArray[np.floating]
) -> float:
    """How much a style changes a defect of a given shape, against what real ones differ.

    `change` and `restyled` (N, H, W) are of the same maps c under two styles, `shared` of real
    defects of the cell. The mean relative difference of the two contrasts, over that of two real
    defects: 1 means that styles vary defects as real ones vary.
    """

    def contrasts(d: NDArray[np.floating]) -> Levels:
        return looks(np.asarray(d))["contrast"].to_numpy(dtype=np.float64)

    def difference(a: Levels, b: Levels) -> float:
        return float(np.mean(2 * np.abs(a - b) / np.maximum(a + b, 1e-9)))

    real = contrasts(shared)
    made = difference(contrasts(change), contrasts(restyled))
    return made / max(difference(real, np.roll(real, 1)), 1e-9)


def compare_looks(real: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """Means of two sets of `looks` side by side, and what is wrong with the second.

    A row a measure: "real", "made", "ratio" (NaN for "dark"), "right" (bool).
    """
    table = pd.DataFrame({"real": real.mean(), "made": made.mean()}).loc[list(MEASURES)]
    table["ratio"] = table["made"] / table["real"].replace(0.0, np.nan)
    table.loc["dark", "ratio"] = np.nan
    error = (table["made"] - table["real"]).abs()
    of_polarity = (table.index == "dark") & (error <= LARGEST_POLARITY_ERROR)
    table["right"] = table["ratio"].between(SMALLEST_RATIO, LARGEST_RATIO) | of_polarity
    return table


def verdict(table: pd.DataFrame) -> str:
    """One line on a cell, from `compare_looks`: what is as it should be, or how it is off."""
    words = {
        "dark": ("too bright", "too dark"),
        "contrast": ("too faint", "too strong"),
        "width": ("too thin", "too wide"),
        "area": ("too small", "too large"),
        "pieces": ("too few pieces", "too many pieces"),
    }
    more = table["made"] > table["real"]
    off = [words[name][int(more[name])] for name in MEASURES if not table["right"][name]]
    return ", ".join(off) or AS_REAL


# --- cells ---------------------------------------------------------------------------------------


GUIDANCES = ("latent", "reference")
TITLES = {"dark": "dark share", "contrast": "contrast", "width": "width px", "area": "area %"}
TITLES |= {"pieces": "pieces"}
FRESH_SEED = 1


class Cell(NamedTuple):
    """What is known of one product and defect."""

    parts: Tensor  # (N, ch, H, W) in [-1, 1], images of the product without a defect
    images: Tensor  # (N, ch, H, W) in [-1, 1], real ones with the defect
    masks: NDArray[np.bool_]  # bool (N, H, W), where their defect is
    change: NDArray[np.float64]  # (N, H, W), what it changed, grey levels


def drawn(
    product: str, defect: str, seed: int, numbers: Iterable[int], image_size: int
) -> list[NDArray[np.uint8]]:
    """Images, twins and masks (N, H, W) of the synthetic SDI that are in no split of a data set."""
    rows = []
    for number in numbers:
        found = draw(product, defect, image_seed(seed, "fresh", number))
        fitted = [resized(Image.fromarray(a), image_size) for a in (found.image, found.twin)]
        mask = resized_mask(Image.fromarray(found.mask), image_size)
        rows.append([np.asarray(picture) for picture in (*fitted, mask)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def fresh_cells(
    products: Sequence[str], defects: Sequence[str], count: int, image_size: int
) -> dict[tuple[str, str], Cell]:
    """Cells of the synthetic SDI, `count` images each, that are in no split of any data set."""
    numbers, cells = range(count), {}
    for product in products:
        parts = _as_images(drawn(product, "Normal", FRESH_SEED, numbers, image_size)[0])
        for defect in defects:
            image, twin, mask = drawn(product, defect, FRESH_SEED, numbers, image_size)
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
    """Measure both ways of guidance in every cell; a reference is of the same defect, any product.

    A row a guidance and cell: measure and "real <measure>" of `looks`, "overlap" of the mask with
    the reference's (NaN for draws), "style" (`style_share`; NaN for references), "verdict", "n".
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
                other = Guide(guide.c, guide.s.roll(1, dims=0))  # the styles of other draws
                restyled = _levels(synth.paint(background, other)) - _levels(plain)
                row["style"] = style_share(restyled, change, cell.change)
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


def held_out_looks(synth: Synthesizer, real: RealSide) -> pd.DataFrame:
    """`model_looks` beside the held-out images of a data set; empty where it has no masks."""
    cells = held_out_cells(real)
    return model_looks(synth, cells) if cells else pd.DataFrame()


def looks_table(table: pd.DataFrame) -> pd.DataFrame:
    """`model_looks` for people: made beside real, and the verdict of each cell."""
    shown = table[["product", "defect", "guidance", "n"]].copy()
    for name in MEASURES:
        pairs = zip(table[name], table[f"real {name}"], strict=True)
        shown[f"{TITLES[name]} (real)"] = [f"{made:.2f} ({real:.2f})" for made, real in pairs]
    shown["overlap"] = ["" if value != value else f"{value:.2f}" for value in table["overlap"]]
    shown["verdict"] = table["verdict"]
    return shown


def polarity_error(table: pd.DataFrame) -> pd.Series:
    """Mean over cells of |dark share - real dark share|, by guidance; empty without cells."""
    if table.empty:
        return pd.Series(dtype=float)
    off = (table["dark"] - table["real dark"]).abs()
    return off.groupby(table["guidance"]).mean()
