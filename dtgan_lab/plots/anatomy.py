"""Figures of a DT-GAN taken apart: the map of its networks, what its maps hold, what losses push.

Pictures of maps are arrays that `figures.image_table` takes; everything else returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from dtgan_core.config import BOTTLENECK_SIZE, ModelConfig
from dtgan_core.networks import Features, Guide
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.plots.figures import PALETTE, WIDTH, as_pictures, show_image

# --- maps as pictures ----------------------------------------------------------------------------


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def heat(values: Tensor | np.ndarray, limit: float | None = None) -> np.ndarray:
    """A map of sizes as a picture, dark for 0 and yellow for `limit`.

    Args:
        values: (h, w), not negative.
        limit: what is yellow; default: the map's largest value.

    Returns:
        (h, w, 3) in [0, 1].
    """
    array = _array(values)
    limit = float(array.max()) if limit is None else limit
    return plt.get_cmap("viridis")(array / max(limit, 1e-12))[..., :3]


def signed(values: Tensor | np.ndarray, limit: float | None = None) -> np.ndarray:
    """A map of either sign as a picture: blue below 0, white at 0, red above.

    Args:
        values: (h, w).
        limit: what is fully red, and, negated, fully blue; default: the largest of |values|.

    Returns:
        (h, w, 3) in [0, 1].
    """
    array = _array(values)
    limit = float(np.abs(array).max()) if limit is None else limit
    return plt.get_cmap("RdBu_r")(0.5 + 0.5 * array / max(limit, 1e-12))[..., :3]


def push(gradient: Tensor | np.ndarray, share: float = 0.995) -> np.ndarray:
    """What a loss asks of an image: red where it wants it brighter, blue where darker.

    Args:
        gradient: (ch, H, W), minus the gradient of the loss; colours and every 2 x 2 pixels are
            averaged, for single pixels are noisy.
        share: part of the pixels inside the scale, so that a few do not pale the rest.

    Returns:
        (H / 2, W / 2, 3) in [0, 1].
    """
    _, height, width = gradient.shape
    cells = _array(gradient).mean(axis=0).reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return signed(cells, float(np.quantile(np.abs(cells), share)))


def mosaic(maps: Tensor | np.ndarray, columns: int, limit: float | None = None) -> np.ndarray:
    """All channels of a map side by side, `signed`, with white lines between.

    Args:
        maps: (C, h, w).
        columns: channels a row.
        limit: as in `signed`, one for all channels.

    Returns:
        (rows * (h + 1) - 1, columns * (w + 1) - 1, 3) in [0, 1]; places left over are white.
    """
    array = _array(maps)
    count, height, width = array.shape
    limit = float(np.abs(array).max()) if limit is None else limit
    rows = -(-count // columns)
    picture = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for number, values in enumerate(array):
        top, left = (number // columns) * (height + 1), (number % columns) * (width + 1)
        picture[top : top + height, left : left + width] = signed(values, limit)
    return picture


def channel_figure(
    pictures: Sequence[np.ndarray], clean: Features, seen: Features, title: str, columns: int = 6
) -> Figure:
    """The bottleneck of one part without and with its defect, and the change: BG and FG channels.

    Args:
        pictures: the part without, with, and the change, (H, W) or (H, W, 3) in [0, 1].
        clean: its features without the defect, N = 1.
        seen: with the defect.
        title: of the figure.
        columns: channels a row; three rows of the strongest are shown.
    """
    rows: list[list[np.ndarray]] = [[picture] for picture in pictures]
    for a, b in zip(clean, seen, strict=True):
        strongest = (a[0].abs() + b[0].abs()).mean(dim=(1, 2)).argsort(descending=True)
        chosen = strongest[: 3 * columns].sort().values
        limit = float(b[0, chosen].abs().quantile(0.995))
        for row, maps in zip(rows, (a, b, b - a), strict=True):
            row.append(mosaic(maps[0, chosen], columns, limit))
    ratios = [picture.shape[1] / picture.shape[0] for picture in rows[0]]
    figure, grid = plt.subplots(
        3, 3, figsize=(WIDTH, 3 * (WIDTH - 0.6) / sum(ratios) + 0.6), width_ratios=ratios
    )
    for r, (row, name) in enumerate(zip(rows, ("without", "with", "change"), strict=True)):
        for axes, picture in zip(grid[r], row, strict=True):
            show_image(axes, picture)
        grid[r, 0].set_ylabel(name, fontweight="bold")
    for axes, name in zip(grid[0], ("the part", "BG channels", "FG channels"), strict=True):
        axes.set_title(name)
    figure.suptitle(title, fontsize=11)
    return figure


# --- the map of the networks ---------------------------------------------------------------------

_INK = "#333333"
_FILL = {"G": "#CFE4F3", "M": "#CDEBDF", "E": "#F8DCC7", "D": "#F0D9E6", "": "#FFFFFF"}


def _box(axes: Axes, x: float, y: float, w: float, h: float, text: str, network: str = "") -> None:
    """A rounded box centred at (x, y), filled in the colour of its network."""
    style = "round,pad=0,rounding_size=0.8"
    axes.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2), w, h, boxstyle=style, facecolor=_FILL[network], edgecolor=_INK
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=_INK)


def _arrow(axes: Axes, path: Sequence[tuple[float, float]], dashed: bool = False) -> None:
    """A line through points with a head at the last."""
    colour, line = ("#777777", "--") if dashed else (_INK, "-")
    if len(path) > 2:
        across, up = zip(*path[:-1], strict=True)
        axes.plot(across, up, linewidth=1.2, color=colour, linestyle=line)
    head = FancyArrowPatch(
        path[-2], path[-1], arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0
    )
    head.set(color=colour, linestyle=line)
    axes.add_patch(head)


def _note(axes: Axes, x: float, y: float, text: str, ha: str = "center") -> None:
    axes.text(x, y, text, ha=ha, va="center", fontsize=8, color="#555555")


def network_map(model: ModelConfig) -> Figure:
    """Fig. 2 in our words: the four networks of configuration (e), and who feeds whom.

    Args:
        model: sizes to write beside the arrows; with separate decoders.

    Raises:
        ValueError: the configuration has one decoder, which this map does not show.
    """
    if not model.separate_decoders:
        raise ValueError("network_map draws configurations (d) and (e); this one has one decoder")
    figure, axes = plt.subplots(figsize=(WIDTH, 4.9))
    axes.set(xlim=(0, 100), ylim=(0, 56))
    axes.axis("off")
    side, c = BOTTLENECK_SIZE, model.defect_width
    _draw_generator(axes, model, f"{model.bottleneck_width - c} x {side} x {side}")
    _draw_guides(axes, model, f"{c} x {side} x {side}")
    title = (
        "Solid: how an image is made. Dashed: where losses compare. Numbers: the paper's equations"
    )
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_generator(axes: Axes, model: ModelConfig, background: str) -> None:
    """The upper row: x -> encoder -> BG and FG -> two decoders -> pooling -> the fake -> D."""
    image = f"{model.channels} x {model.image_size} x {model.image_size}"
    _box(axes, 4, 44, 6, 6, "x")
    _note(axes, 4, 39.5, image)
    _box(axes, 16, 44, 10, 8, "encoder\nof G", "G")
    _box(axes, 30.5, 47, 12, 5.4, "BG(x)", "G")
    _box(axes, 30.5, 41, 12, 5.4, "FG(x)", "G")
    _note(axes, 30.5, 51.3, background)
    _box(axes, 50, 47, 16, 6.4, "background decoder\nno style", "G")
    _box(axes, 50, 31, 16, 6.4, r"defect decoder" + "\n" + r"AdaIN by $\tilde{s}$", "G")
    _box(axes, 66.5, 44, 9, 8, "pooling\n1 x 1 conv.", "G")
    _box(axes, 77, 44, 6, 6, r"$\tilde{x}$")
    _note(axes, 77, 48.7, image)
    _box(axes, 92, 44, 15, 15, "D\nreal or fake? (1)\nwhich defect? (6)\nwhich product? (7)", "D")
    _arrow(axes, [(7, 44), (11, 44)])
    _arrow(axes, [(21, 44), (24.5, 44)])
    _arrow(axes, [(36.5, 47), (42, 47)])
    _arrow(axes, [(58, 47), (62, 45.2)])
    _arrow(axes, [(58, 31), (66.5, 31), (66.5, 40)])
    _arrow(axes, [(71, 44), (74, 44)])
    _arrow(axes, [(80, 44), (84.5, 44)])
    _arrow(axes, [(30.5, 38.3), (30.5, 33.5)], dashed=True)
    _note(axes, 30.5, 31.8, "taken out; (3): equal to E's c")
    _note(axes, 89, 33, "D learns from real and fake,\nG, M and E through D from the fake")


def _draw_guides(axes: Axes, model: ModelConfig, defect: str) -> None:
    """The lower rows: M from noise, or E from a reference, gives the defect and the style."""
    _box(axes, 4, 19, 6, 6, "z\nnoise")
    _box(axes, 17, 19, 12, 8, "M: a branch\nper defect", "M")
    _box(axes, 4, 6, 6, 6, r"$x_{ref}$")
    _box(axes, 17, 6, 12, 8, "E: a branch\nper defect", "E")
    _box(
        axes,
        40,
        12.5,
        17,
        10,
        r"$\tilde{c}$ and $\tilde{s}$" + "\nof the target domain\n" + "Normal: c = 0",
    )
    _note(axes, 55.5, 17.2, r"$\tilde{c}$: " + defect, "left")
    _note(axes, 55.5, 14.4, rf"$\tilde{{s}}$: {model.style_dim}", "left")
    _note(axes, 10, 25, "latent-guided")
    _note(axes, 10, 12.3, "reference-guided")
    _arrow(axes, [(7, 19), (11, 19)])
    _arrow(axes, [(23, 19), (31.5, 15)])
    _arrow(axes, [(7, 6), (11, 6)])
    _arrow(axes, [(23, 6), (31.5, 10)])
    _arrow(axes, [(48.5, 12.5), (53, 12.5), (53, 27.8)])
    _arrow(axes, [(77, 41), (77, 3.5), (23, 3.5)], dashed=True)
    _note(axes, 51, 1.4, r"(2): E finds $\tilde{c}$ and $\tilde{s}$ again in $\tilde{x}$")
    _note(
        axes,
        78,
        24,
        r"(4): two draws,"
        + "\ntwo pictures\n\n"
        + r"(5): $\tilde{x}$ goes through G"
        + "\nonce more, with E's c, s\nof x: x comes back",
        "left",
    )


# --- measurements --------------------------------------------------------------------------------


def paired_bars(frame: pd.DataFrame, groups: Sequence[Sequence[str]], title: str) -> Figure:
    """Groups of bars, one panel a group because scales differ, one colour a state.

    Args:
        frame: index: quantities; columns: states such as "before" and "after".
        groups: quantities of each panel.
        title: of the figure.
    """
    figure, grid = plt.subplots(
        1, len(groups), figsize=(WIDTH, 2.5), squeeze=False, width_ratios=[len(g) for g in groups]
    )
    for axes, names in zip(grid[0], groups, strict=True):
        places, width = np.arange(len(names)), 0.8 / frame.shape[1]
        for number, state in enumerate(frame.columns):
            values = frame.loc[list(names), state].to_numpy(dtype=float)
            shift = (number - (frame.shape[1] - 1) / 2) * width
            axes.bar(places + shift, values, width, color=PALETTE[number], label=state)
        axes.set_xticks(places, names)
        axes.grid(axis="x", visible=False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title, fontsize=11)
    return figure


def four_images(
    pictures: Sequence[np.ndarray], distances: Mapping[str, float], title: str
) -> Figure:
    """The four images of equation (4) and the distances of their six pairs.

    Args:
        pictures: (c1, s1), (c1, s2), (c2, s1), (c2, s2); (H, W) or (H, W, 3) in [0, 1].
        distances: pair -> distance.
        title: of the figure.
    """
    figure, grid = plt.subplots(1, 5, figsize=(WIDTH, 2.3), width_ratios=[1, 1, 1, 1, 2])
    names = ["$c_1, s_1$", "$c_1, s_2$", "$c_2, s_1$", "$c_2, s_2$"]
    for axes, picture, name in zip(grid[:4], pictures, names, strict=True):
        show_image(axes, picture)
        axes.set_title(name)
    bars = grid[4]
    bars.barh(list(distances), list(distances.values()), color=PALETTE[0])
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set_title("distance of the pair")
    figure.suptitle(title, fontsize=11)
    return figure


def gradient_table(frames: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Lengths of gradients as heat maps, one panel a step; blank where a term does not reach.

    Args:
        frames: panel title -> table of `anatomy_losses.gradient_norms`.
        title: of the figure.
    """
    every = np.concatenate([frame.to_numpy().ravel() for frame in frames.values()])
    every = every[np.isfinite(every) & (every > 0)]
    scale = LogNorm(every.min(), every.max())
    rows = max(len(frame) for frame in frames.values())
    figure, grid = plt.subplots(
        1, len(frames), figsize=(WIDTH, 0.27 * rows + 1.0), squeeze=False, sharey=True
    )
    for axes, (name, frame) in zip(grid[0], frames.items(), strict=True):
        sns.heatmap(
            frame,
            ax=axes,
            mask=~(frame > 0),  # NaN, and exact zeros, which a logarithm has no colour for
            annot=True,
            fmt=".2g",
            norm=scale,
            cmap="crest",
            cbar=False,
            annot_kws={"fontsize": 8.5},
        )
        axes.set_title(name)
        axes.grid(False)
        axes.tick_params(axis="y", rotation=0)
    figure.suptitle(title, fontsize=11)
    return figure


def discriminator_lesson(log: pd.DataFrame, verdicts: pd.DataFrame, title: str) -> Figure:
    """A discriminator learning, and its logits of real and fake images afterwards.

    Args:
        log: of `anatomy_losses.teach_discriminator`.
        verdicts: of `anatomy_losses.verdicts`.
        title: of the figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    names = {"adv": "real or fake (1)", "fg": "defect (6)", "bg": "product (7)"}
    window = max(1, len(log) // 10)
    for colour, (column, label) in zip(PALETTE, names.items(), strict=False):
        if column in log:
            smooth = log[column].rolling(window, min_periods=1).mean()
            left.plot(log["step"], smooth, color=colour, label=label)
    left.set(xlabel="D's step", ylabel=f"loss, mean of {window} steps", title="D learns")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25), "ncols": 3}
    left.legend(**below, columnspacing=1.0, handlelength=1.2)
    sns.kdeplot(verdicts, x="logit", hue="image", ax=right, common_norm=False, warn_singular=False)
    right.set(xlabel="logit of the domain's branch (above 0: real)", ylabel="", yticks=[])
    right.set_title("its verdicts on held-out sources")
    sns.move_legend(right, **below, title=None, columnspacing=1.0, handlelength=1.2)
    figure.suptitle(title, fontsize=11)
    return figure


def blend_rows(
    synth: Synthesizer, x: Tensor, guide: Guide, seen: Mapping[str, Tensor]
) -> list[list[np.ndarray]]:
    """Rows for `figures.image_table`: a part, what became of it, and what met.

    Args:
        synth: the model.
        x: (N, ch, H, W) in [-1, 1].
        guide: of N defects.
        seen: from `anatomy.blend_parts`.

    Returns:
        A row a part: part, image, twice the change, twice the change over a flat background, and
        the first channel of the background's and of the defect's map, each at its own contrast.
    """
    columns = [x, synth.paint(synth.background(x), guide)]
    columns += [2 * seen["change"], 2 * seen["change on flat"]]
    for name in ("background", "defect"):
        first = seen[name][:, :1] - seen[name][:, :1].mean(dim=(2, 3), keepdim=True)
        columns.append(first / (3 * first.std(dim=(2, 3), keepdim=True)).clamp(min=1e-6))
    return [list(row) for row in zip(*map(as_pictures, columns), strict=True)]
