"""Every figure of the notebooks: functions of arrays that return a matplotlib Figure.

One style for the whole kit: a colour-blind-safe palette (Okabe and Ito) with one colour a defect,
titles that say what to see, sizes that stay readable at a code host's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from dtgan_lab.measure.sets import COPY, FLOOR, JITTERED, LATENT, MIRRORED, NORMAL, PASTE, REFERENCE

WIDTH = 9.0  # inches, the width of a notebook's text
DEFECT_COLOURS = {"Normal": "#999999", "Scratches": "#0072B2", "Spots": "#D55E00"}
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
METHOD_COLOURS = {
    FLOOR: "#009E73",
    COPY: "#CC79A7",
    JITTERED: "#D55E00",
    MIRRORED: "#882255",
    PASTE: "#E69F00",
    NORMAL: "#999999",
    LATENT: "#0072B2",
    REFERENCE: "#56B4E9",
    "StarGAN v2": "#7A5C00",
    "StyleGAN2": "#5E4FA2",
    "BigGAN": "#B3446C",
    "BigGAN + DiffAug": "#E6A0C4",
    "Mokady et al.": "#4D4D4D",
    "older DT-GAN (e)": "#8DA0CB",
    "Poisson-blended": "#A65628",
}


def method_colour(name: str) -> str:
    """A set's own colour in every figure, or its method's; black for those that have none.

    Before a name's first comma stands the method, after its last the way: "copy-paste, 20 kept".
    """
    method, way = name.partition(",")[0], name.rpartition(", ")[2]
    for known in (name, f"{method}, {way}", method):
        if known in METHOD_COLOURS:
            return METHOD_COLOURS[known]
    return PALETTE[6]


def use_style() -> None:
    """Set the kit's style for every figure drawn after this call."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": 84,  # keeps an executed notebook under 1.5 MB
            "savefig.dpi": 110,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def as_pictures(images: Tensor | np.ndarray) -> np.ndarray:
    """Tensors in [-1, 1], or uint8 (N, H, W[, ch]) -> what imshow takes, in [0, 1]."""
    if isinstance(images, Tensor):
        array = images.detach().float().cpu().clamp(-1, 1).add(1).div(2).permute(0, 2, 3, 1).numpy()
    else:
        array = np.asarray(images, dtype=np.float32) / 255
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    return array


def show_image(axes: Axes, picture: np.ndarray, frame: str | None = None) -> None:
    """Draw one picture without ticks, in a coloured frame if one is named."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(frame is not None)
        spine.set_edgecolor(frame or "none")
        spine.set_linewidth(2.5)


def image_table(
    rows: Sequence[Sequence[np.ndarray | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    title: str,
    frames: Sequence[str | None] | None = None,
) -> Figure:
    """Pictures in rows and columns with a title that says what to see.

    They are (H, W) or (H, W, 3) in [0, 1], None leaves a place empty; `frames` are colours by
    column, None for no frame.
    """
    columns = len(column_titles)
    cell = (WIDTH - 0.4) / columns  # a picture and its gap; 0.4 inches go to the row titles
    first = next(picture for row in rows for picture in row if picture is not None)
    height = cell * len(rows) * (first.shape[0] / first.shape[1]) + 0.55
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(WIDTH, height), squeeze=False, layout=tight
    )
    for r, row in enumerate(rows):
        for k in range(columns):
            axes, picture = grid[r, k], row[k] if k < len(row) else None
            if picture is None:
                axes.axis("off")
            else:
                show_image(axes, picture, frames[k] if frames else None)
            if r == 0:
                axes.set_title(column_titles[k])
            if k == 0:
                axes.set_ylabel(row_titles[r], fontweight="bold")
    figure.suptitle(title, fontsize=11)
    return figure


def defect_grid(cells: Sequence[tuple[str, str]], rows: Mapping[str, Tensor], title: str) -> Figure:
    """Fig. 3 and Fig. 4: parts, references, and what each system made of them, a row each.

    `cells` are (product, defect) of each column, `rows` name -> images (N, ch, H, W) in [-1, 1].
    """
    pictures = [list(as_pictures(images)) for images in rows.values()]
    titles = [f"{product}\n{defect}" for product, defect in cells]
    frames = [DEFECT_COLOURS.get(defect) for _, defect in cells]
    figure = image_table(pictures, titles, list(rows), title, frames)
    for axes in figure.axes:
        axes.yaxis.label.set(rotation=0, ha="right", va="center", fontsize=9)
        axes.title.set_fontsize(9)
    return figure


def difference_map(x: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Signed change as a picture: blue where darker, red where brighter; (H, W) -> (H, W, 3)."""
    change = fake - x
    if change.ndim == 3:
        change = change.mean(axis=2)
    limit = max(float(np.abs(change).max()), 1e-6)
    return plt.get_cmap("RdBu_r")(0.5 + 0.5 * change / limit)[..., :3]
