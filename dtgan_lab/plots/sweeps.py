"""Figures of style sweeps and of moved defects, and the explorer's still picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dtgan_lab.plots.figures import (
    DEFECT_COLOURS,
    PALETTE,
    WIDTH,
    as_pictures,
    image_table,
    show_image,
)
from dtgan_lab.walkthrough.sweeps import spread_over_styles

INSIDE, OUTSIDE = PALETTE[1], "#999999"
SPREAD_LIMIT = 60.0  # grey levels that the spread map shows as its brightest


def sweep_rows(
    x: Tensor, sweep: Tensor, row_titles: Sequence[str], title: str, shown: int = 8
) -> Figure:
    """A row a part: the part, the first styles of its sweep, and the spread over all styles.

    Args:
        x: (N, ch, H, W) in [-1, 1].
        sweep: (N, K, ch, H, W).
        row_titles: one a part.
        title: of the figure.
        shown: styles to show.
    """
    parts, spread = as_pictures(x), spread_over_styles(sweep)[:, 0].cpu().numpy()
    colours = plt.get_cmap("inferno")
    rows = []
    for n in range(len(x)):
        heat = colours(np.clip(spread[n] / SPREAD_LIMIT, 0, 1))[..., :3]
        rows.append([parts[n], *as_pictures(sweep[n, :shown]), heat])
    shown = min(shown, sweep.shape[1])
    titles = ["part", *(f"style {k + 1}" for k in range(shown)), "spread"]
    return image_table(rows, titles, row_titles, title)


def variation_bars(summaries: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Spread over styles inside and outside the defect; the ratio stands above each pair.

    Args:
        summaries: name of a model -> `sweeps.variation_summary`.
        title: of the figure.
    """
    figure, grid = plt.subplots(1, len(summaries), figsize=(WIDTH, 3.2), sharey=True, squeeze=False)
    for axes, (name, table) in zip(grid[0], summaries.items(), strict=True):
        place = np.arange(len(table))
        for offset, column, colour in ((-0.2, "inside", INSIDE), (0.2, "outside", OUTSIDE)):
            axes.bar(
                place + offset,
                table[column],
                0.4,
                yerr=table[f"{column}_std"],
                color=colour,
                label=f"{column} the defect",
                error_kw={"elinewidth": 1, "capsize": 2},
            )
        tops = np.maximum(table["inside"] + table["inside_std"].fillna(0), table["outside"])
        for k, (top, ratio) in enumerate(zip(tops, table["ratio"], strict=True)):
            axes.annotate(
                f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.1f} x",
                (k, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        axes.margins(y=0.15)
        labels = [f"{p}\n{d}" for p, d in zip(table["product"], table["defect"], strict=True)]
        axes.set_xticks(place, labels, fontsize=10 if len(summaries) == 1 else 7.5)
        axes.grid(axis="x", visible=False)
        axes.set_title(name)
    grid[0, 0].set_ylabel("spread over styles\n(grey levels of 255)")
    grid[0, 0].legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
    figure.suptitle(title, fontsize=11)
    return figure


def marked_row(
    rows: Sequence[Sequence[np.ndarray | None]],
    places: Sequence[Sequence[tuple[float, float] | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    title: str,
) -> Figure:
    """`figures.image_table` with a ring at the place where a defect was asked for.

    Args:
        rows: pictures.
        places: for each picture (row, column) in pixels, or None.
        column_titles: one a column.
        row_titles: one a row.
        title: of the figure.
    """
    figure = image_table(rows, column_titles, row_titles, title)
    wanted = [place for row in places for place in row]
    for axes, place in zip(figure.axes, wanted, strict=True):
        if place is not None:
            axes.autoscale(False)  # a ring at the border must not shrink the picture
            axes.plot(
                place[1],
                place[0],
                "o",
                markersize=17,
                markerfacecolor="none",
                markeredgecolor=PALETTE[4],
                markeredgewidth=1.4,
            )
    return figure


def placement_curves(summaries: Mapping[str, pd.DataFrame], label: str, title: str) -> Figure:
    """Error of the place and background PSNR over bins of a shift or of the way to the border.

    Args:
        summaries: name -> `placement_study.placement_summary`, all with the same bins.
        label: of the horizontal axis.
        title: of the figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for colour, (name, table) in zip(_colours(summaries), summaries.items(), strict=True):
        place = np.arange(len(table))
        left.plot(place, table["error"], "o-", color=colour, label=name)
        left.plot(place, table["error_p90"], "^:", color=colour)
        right.plot(place, table["background_psnr"], "o-", color=colour)
        right.plot(place, table["unmoved_psnr"], ":", color=colour)
    bins = next(iter(summaries.values())).index
    for axes in (left, right):
        axes.set_xticks(range(len(bins)), [f"{b.left:g} to {b.right:g}" for b in bins])
        axes.set_xlabel(label)
    left.set_ylabel("wanted to found (pixels)")
    left.set_title("median; dotted: nine of ten are below")
    right.set_ylabel("background PSNR (dB)")
    right.set_title("median; dotted: at its own place")
    left.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=len(summaries))
    figure.suptitle(title, fontsize=11)
    return figure


def _colours(names: Mapping[str, object]) -> list[str]:
    """A defect's own colour where a name begins with it, else the palette's."""
    found = []
    for number, name in enumerate(names):
        own = [colour for defect, colour in DEFECT_COLOURS.items() if name.startswith(defect)]
        found.append(own[0] if own else PALETTE[number % len(PALETTE)])
    return found if len(set(found)) == len(found) else PALETTE[: len(found)]


def turning_figure(table: pd.DataFrame, title: str) -> Figure:
    """By how much painted lines turn, each a dot, against how much they were asked to.

    Args:
        table: from `placement_study.turning_study`.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(WIDTH / 2, 3.2))
    angles = sorted(table["asked"].unique())
    # a line has no front: 89 degrees asked and -89 found are 2 apart, so the error is drawn
    axes.boxplot(
        [table.loc[table["asked"] == angle, "error"] for angle in angles],
        tick_labels=[f"{angle:g}" for angle in angles],
        medianprops={"color": INSIDE, "linewidth": 2},
        flierprops={"markersize": 3},
    )
    axes.axhline(45, color="black", linestyle=":", linewidth=1)
    axes.annotate("blind guess", (0.6, 46), fontsize=8)
    axes.set_xlabel("asked for (degrees)")
    axes.set_ylabel("error of the direction (degrees)")
    axes.set_title(title)
    return figure


def panel(pictures: Mapping[str, np.ndarray], title: str) -> Figure:
    """The explorer as a still picture: its images side by side.

    Args:
        pictures: title -> uint8 (H, W) or (H, W, 3), as `ExplorerModel.pictures` gives them.
        title: of the figure, such as what the sliders say.
    """
    figure, grid = plt.subplots(1, len(pictures), figsize=(WIDTH, WIDTH / len(pictures) + 0.6))
    for axes, (name, picture) in zip(np.atleast_1d(grid), pictures.items(), strict=True):
        show_image(axes, picture / 255)
        axes.set_title(name)
    figure.suptitle(title, fontsize=10)
    return figure
