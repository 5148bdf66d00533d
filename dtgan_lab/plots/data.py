"""Tables and figures about data: class sizes, where defects lie, how they look, what is drawn.

Functions of arrays and data frames; figures are returned, not shown. Pictures of images themselves
are made by `dtgan_lab.plots.figures.image_table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import NearestNeighbors

from dtgan_core.images import open_image, resized
from dtgan_lab.data.synthetic.sdi import DEFECTS, PRODUCTS
from dtgan_lab.plots.figures import DEFECT_COLOURS, PALETTE, WIDTH

Cell = tuple[str, str]  # (product, defect)

# ------------------------------------------------------------------------------ arrays and tables


def cut_overview(picture: np.ndarray, side: int = 3) -> list[np.ndarray]:
    """Cut the overview figure of the SDI data sheet into its photographs.

    The figure shows three blocks, products A, B and C from left to right, each of `side` x `side`
    photographs. Black bands part the blocks, black lines the photographs.

    Args:
        picture: uint8 grey (H, W).
        side: photographs along a side of a block.

    Returns:
        One array a block, from left to right: uint8 (side * side, h, w), row by row.

    Raises:
        ValueError: there are not three blocks parted by black bands.
    """
    dark = picture.max(axis=0) < 40  # grey level; the darkest photographs reach far above it
    runs, count = ndimage.label(dark)
    bands = [part[0] for part in ndimage.find_objects(runs) if part[0].stop - part[0].start >= 4]
    inner = [band for band in bands if band.start > 4 and band.stop < picture.shape[1] - 4]
    if len(inner) != 2:
        raise ValueError(
            f"{len(inner)} black bands in a picture of {picture.shape[1]} x {picture.shape[0]} "
            f"pixels ({count} black lines), expected the 2 that part the products; take the "
            "overview figure of the SDI data sheet, uncropped"
        )
    left = [0, inner[0].stop, inner[1].stop]
    right = [inner[0].start, inner[1].start, picture.shape[1]]
    inset = 2  # pixels; the lines between the photographs are gone then
    high = picture.shape[0] // side - 2 * inset
    wide = min(b - a for a, b in zip(left, right, strict=True)) // side - 2 * inset
    blocks = []
    for a, b in zip(left, right, strict=True):
        top = [picture.shape[0] * r // side + inset for r in range(side)]
        start = [a + (b - a) * c // side + inset for c in range(side)]
        blocks.append(np.stack([picture[y : y + high, x : x + wide] for y in top for x in start]))
    return blocks


def read_overview(folder: Path, size: int = 128) -> dict[Cell, np.ndarray]:
    """The photographs of the SDI data sheet's overview figure, by product and defect.

    Args:
        folder: holds the figure's three parts as normal.png, scratches.png and spots.png.
        size: side in pixels; the figure shows photographs of 128 pixels enlarged to about 200.

    Returns:
        (product, defect) -> uint8 (9, size, size).

    Raises:
        ImageError: a file is missing or cannot be decoded.
        ValueError: a picture is not a part of that figure.
    """
    cells = {}
    for defect in DEFECTS:
        file = folder / f"{defect.lower()}.png"
        picture = np.asarray(open_image(file, "L"))
        try:
            blocks = cut_overview(picture)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        for product, block in zip(PRODUCTS, blocks, strict=True):
            small = [np.asarray(resized(Image.fromarray(tile), size)) for tile in block]
            cells[product, defect] = np.stack(small)
    return cells


def surface_table(pictures: Mapping[Cell, np.ndarray], names: list[str]) -> pd.DataFrame:
    """Light and texture of some pictures in three numbers: mean and spread over the pictures.

    Args:
        pictures: (product, kind) -> uint8 (N, H, W); the keys become the index.
        names: names of the two index levels.

    Returns:
        A data frame of text "mean ± standard deviation", in grey levels of 0 to 255: brightness,
        contrast (standard deviation within a picture) and grain (the same, after the mean of each
        pixel's 3 x 3 neighbours was taken off).
    """
    rows = {}
    for key, images in pictures.items():
        values = images.astype(np.float64)
        fine = values - ndimage.uniform_filter(values, (0, 3, 3))
        measures = {
            "brightness": values.mean(axis=(1, 2)),
            "contrast": values.std(axis=(1, 2)),
            "grain": fine.std(axis=(1, 2)),
        }
        rows[key] = {"n": len(images)} | {
            name: f"{each.mean():.1f} ± {each.std():.1f}" for name, each in measures.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=names)
    return table


def defect_table(
    images: np.ndarray, masks: np.ndarray, products: Sequence[str], defects: Sequence[str]
) -> pd.DataFrame:
    """Size, place and contrast of each defect, from its mask.

    Contrast is the mean grey level inside the mask less that of a ring around it, so that it needs
    no twin; positive is brighter than the surface.

    Args:
        images: uint8 (N, H, W).
        masks: (N, H, W), 0 where there is no defect; images with an empty mask are left out.
        products: N names.
        defects: N names.

    Returns:
        One row a defective image: product, defect, area (% of the picture), contrast (grey levels
        of 0 to 255; NaN where the ring is empty), row and column of the centre (0 to 1), pieces.
    """
    near = max(1, round(images.shape[2] / 64))  # the rim of a defect belongs to neither side
    rows = []
    for image, mask, product, defect in zip(images, masks > 0, products, defects, strict=True):
        if not mask.any():
            continue
        rim = ndimage.binary_dilation(mask, iterations=near)
        ring = ndimage.binary_dilation(rim, iterations=3 * near) & ~rim
        y, x = ndimage.center_of_mass(mask)
        outside = image[ring].mean() if ring.any() else np.nan
        rows.append(
            {
                "product": product,
                "defect": defect,
                "area": 100 * mask.mean(),
                "contrast": image[mask].mean() - outside,
                "row": y / mask.shape[0],
                "column": x / mask.shape[1],
                "pieces": ndimage.label(mask, np.ones((3, 3)))[1],
            }
        )
    names = ["product", "defect", "area", "contrast", "row", "column", "pieces"]
    return pd.DataFrame(rows, columns=names)


def nearest_tables(
    features: np.ndarray,
    classes: np.ndarray,
    groups: np.ndarray,
    seeds: Sequence[int],
    folds: int = 5,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """What the nearest training image knows of a test image, split by image and split by group.

    Every image is in the test fold once a seed. A classifier that says what its nearest neighbour
    is shows how much of a test score is recognition of the same part.

    Args:
        features: float (N, d); the distance is Euclidean.
        classes: N class names.
        groups: N group names; images of one group show the same part.
        seeds: one split into folds each.
        folds: number of folds, at most the number of groups of the rarest class.

    Returns:
        A table, one row a way of splitting and a seed: `same part` (% of test images whose nearest
        training image is of their group) and `balanced accuracy` (%, mean over the classes); and
        for each way the index of every image's nearest training image, (N,), with the last seed.
    """
    rows, nearest = [], {}
    for way, parted in (("by image", False), ("by part", True)):
        for seed in seeds:
            kind = StratifiedGroupKFold if parted else StratifiedKFold
            splitter = kind(folds, shuffle=True, random_state=seed)
            index = np.empty(len(features), dtype=np.int64)
            for train, test in splitter.split(features, classes, groups if parted else None):
                found = NearestNeighbors(n_neighbors=1).fit(features[train])
                index[test] = train[found.kneighbors(features[test], return_distance=False)[:, 0]]
            rows.append(
                {
                    "split": way,
                    "seed": seed,
                    "same part": 100 * np.mean(groups[index] == groups),
                    "balanced accuracy": 100 * balanced_accuracy_score(classes, classes[index]),
                }
            )
            nearest[way] = index
    return pd.DataFrame(rows), nearest


def shares(labels: Sequence[Cell], products: Sequence[str], defects: Sequence[str]) -> pd.DataFrame:
    """Share of each (product, defect) among some draws, in %: products down, defects across."""
    drawn = pd.DataFrame(labels, columns=["product", "defect"])
    table = pd.crosstab(drawn["product"], drawn["defect"], normalize="all") * 100
    return table.reindex(index=list(products), columns=list(defects), fill_value=0.0)


def outlined(picture: np.ndarray, mask: np.ndarray, colour: str = PALETTE[1]) -> np.ndarray:
    """A grey picture in [0, 1] with a thin line around its mask, one pixel off: (H, W, 3)."""
    inner = ndimage.binary_dilation(mask > 0, iterations=1)
    line = ndimage.binary_dilation(inner, iterations=1) & ~inner
    result = np.repeat(picture[..., None], 3, axis=2)
    result[line] = to_rgb(colour)
    return result


def framed(picture: np.ndarray, colour: str, width: int = 3) -> np.ndarray:
    """A grey picture in [0, 1] with its outermost pixels painted: (H, W, 3)."""
    result = np.repeat(picture[..., None], 3, axis=2)
    inside = np.zeros(picture.shape, dtype=bool)
    inside[width:-width, width:-width] = True
    result[~inside] = to_rgb(colour)
    return result


def changed_outside(image: np.ndarray, twin: np.ndarray, mask: np.ndarray, margin: int = 2) -> int:
    """Number of pixels more than `margin` away from the mask in which image and twin differ."""
    near = ndimage.binary_dilation(mask > 0, iterations=margin)
    return int(np.count_nonzero((image != twin) & ~near))


# ---------------------------------------------------------------------------------------- figures


def class_sizes(counts: pd.DataFrame, published: pd.DataFrame | None, title: str) -> Figure:
    """Images per product and defect on a logarithmic axis, one dash each for a published number.

    Args:
        counts: index product, one column a defect.
        published: the same numbers from elsewhere, or None.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    places = np.arange(len(counts))
    width = 0.8 / counts.shape[1]
    for k, defect in enumerate(counts.columns):
        x = places + (k - (counts.shape[1] - 1) / 2) * width
        colour = DEFECT_COLOURS.get(str(defect), PALETTE[k % len(PALETTE)])
        bars = axes.bar(x, counts[defect], width * 0.92, color=colour, label=str(defect))
        axes.bar_label(bars, fontsize=8, padding=2)
        if published is not None:
            known = published[defect].reindex(counts.index)
            label = "data sheet" if k == 0 else None
            axes.scatter(x, known, marker="_", s=420 * width, color="black", label=label, zorder=3)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(places, [str(name) for name in counts.index])
    axes.grid(False, axis="x")
    axes.set_ylabel("images (log)")
    axes.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, -0.12))
    axes.set_title(title)
    return figure


def position_maps(masks: Mapping[Cell, np.ndarray], title: str) -> Figure:
    """Where defects lie: the share of pictures in which a place is covered, a map a cell.

    Args:
        masks: (product, defect) -> masks (N, H, W), 0 where there is no defect. Each map is
            smoothed by a Gaussian of 3 % of the width and coloured up to its own peak.
        title: of the figure.
    """
    products = list(dict.fromkeys(product for product, _ in masks))
    defects = list(dict.fromkeys(defect for _, defect in masks))
    side = min(2.1, WIDTH / len(products))
    figure, grid = plt.subplots(
        len(defects),
        len(products),
        figsize=(side * len(products), side * len(defects) * 1.12 + 0.4),
        squeeze=False,
    )
    for axes, (defect, product) in zip(
        grid.flat, ((d, p) for d in defects for p in products), strict=True
    ):
        axes.axis("off")
        if (product, defect) not in masks:
            continue
        chosen = masks[product, defect] > 0
        covered = 100 * chosen.mean(axis=0)
        covered = ndimage.gaussian_filter(covered, 0.03 * covered.shape[1], mode="nearest")
        axes.imshow(covered, cmap="magma", vmin=0, vmax=max(float(covered.max()), 1e-9))
        axes.set_title(f"{product}, {defect}\nn {len(chosen)}, peak {covered.max():.1f} %")
    figure.suptitle(title, fontsize=11)
    return figure


def defect_boxes(table: pd.DataFrame, title: str) -> Figure:
    """Area and contrast of the defects of each product (see `defect_table`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
    palette = {
        name: DEFECT_COLOURS.get(name, PALETTE[k % len(PALETTE)])
        for k, name in enumerate(dict.fromkeys(table["defect"]))
    }
    for axes, column in ((left, "area"), (right, "contrast")):
        sns.boxplot(
            table,
            x="product",
            y=column,
            hue="defect",
            palette=palette,
            whis=(5, 95),
            fliersize=1.5,
            linewidth=0.9,
            gap=0.15,
            legend=column == "area",
            ax=axes,
        )
        axes.set_xlabel("")
    left.set_yscale("log")
    left.set_ylabel("area (% of the picture, log)")
    right.axhline(0, color="black", linewidth=0.8)
    right.set_ylabel("contrast (grey levels)")
    left.legend(title="")
    figure.suptitle(title, fontsize=11)
    return figure


def share_maps(tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Shares in % as tables of coloured cells, side by side (see `shares`)."""
    figure, grid = plt.subplots(1, len(tables), figsize=(WIDTH, 2.9), squeeze=False)
    for axes, (name, table) in zip(grid.flat, tables.items(), strict=True):
        sns.heatmap(
            table, annot=True, fmt=".1f", cmap="Blues", vmin=0, vmax=40, cbar=False, ax=axes
        )
        axes.set_title(name)
        axes.set_xlabel("")
        axes.set_ylabel("")
        axes.tick_params(axis="y", rotation=0)
    figure.suptitle(title, fontsize=11)
    return figure
