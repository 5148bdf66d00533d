"""What a person sees of a defect: polarity, contrast, width, area, pieces, and overlap in shape.

    real = looks(twin_change(images, twins))       # a row an image
    made = looks(to_levels(fakes) - to_levels(parts))
    table = compare_looks(real, made)              # a row a measure, with a verdict

All are read off the *change*, image minus the same part without a defect, in grey levels.  They are
what a judge and a distance between features pass over: an embossed stamp has both polarities and a
judge knows it for a scratch all the same.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

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
    """Measure every image of a set.

    Args:
        change: (N, H, W), grey levels by which a defect changed its part; positive is brighter.

    Returns:
        A row an image: "dark", share of the squared change of the most changed pixels that darkens,
        0 to 1; "contrast", mean of the strongest changes, grey levels; "width", mean over the
        ridges of what changed visibly, pixels; "area", share that changed visibly, per cent;
        "pieces", number of connected ones.  Width is NaN where nothing changed visibly.
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
    """The change of real defects of which only a mask is known.

    Args:
        images: (N, H, W).
        masks: (N, H, W), where the defect is.

    Returns:
        (N, H, W), image minus what a smooth filling-in from around the mask expects; 0 outside.
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
    """Intersection over union of each pair of masks, no dilation; 0 where both are empty.

    Args:
        made: (N, H, W).
        reference: the same shape.
    """
    both, either = (made & reference).sum((1, 2)), (made | reference).sum((1, 2))
    return both / np.maximum(either, 1)


def style_share(
    restyled: NDArray[np.floating], change: NDArray[np.floating], shared: NDArray[np.floating]
) -> float:
    """How much a style changes a defect of a given shape, against what real ones differ.

    Args:
        restyled: (N, H, W), the changes of the same maps c under other styles.
        change: (N, H, W), under the first styles.
        shared: (N, H, W), changes of real defects of the cell.

    Returns:
        Mean relative difference of the two contrasts, over the mean relative difference of the
        contrasts of two real defects; 1 means that styles vary defects as real ones vary.
    """

    def contrasts(d: NDArray[np.floating]) -> Levels:
        return looks(np.asarray(d))["contrast"].to_numpy(dtype=np.float64)

    def difference(a: Levels, b: Levels) -> float:
        return float(np.mean(2 * np.abs(a - b) / np.maximum(a + b, 1e-9)))

    real = contrasts(shared)
    made = difference(contrasts(change), contrasts(restyled))
    return made / max(difference(real, np.roll(real, 1)), 1e-9)


def compare_looks(real: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """Means of two sets side by side, and what is wrong with the second.

    Args:
        real: from `looks`.
        made: from `looks`.

    Returns:
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
