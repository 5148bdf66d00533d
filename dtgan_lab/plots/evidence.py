"""Figures of the evidence notebooks: distances with intervals, strips of sets, neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from dtgan_core.dataset import FLIPS
from dtgan_lab.measure.evidence import cells_of
from dtgan_lab.measure.neighbours import COPY_SCORE, Gallery, Nearest
from dtgan_lab.plots.figures import (
    DEFECT_COLOURS,
    PALETTE,
    WIDTH,
    as_pictures,
    image_table,
    method_colour,
)

LARGEST_SCORE = 2.0  # right end of the axis; what lies beyond is as good as at it


def _plain_ticks(axis: Axis) -> None:
    """1, 3, 10, 30 ... on a logarithmic axis, instead of powers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def distance_dots(summary: pd.DataFrame, label: str, columns: Sequence[str], title: str) -> Figure:
    """Sets by distance, a panel a column: the mean as a dot with both of its spreads.

    The thick bar is the standard deviation over seeds, the thin one the spread over subsamples.
    The axis is logarithmic where all means are above 0.

    Args:
        summary: from `evidence.distance_summary`.
        label: full name of a measure that has a spread, such as "FD (domain)".
        columns: a panel each.
        title: of the figure.
    """
    names = list(summary["set"].unique())
    figure, grid = plt.subplots(
        1,
        len(columns),
        figsize=(WIDTH, 1.3 + 0.3 * len(names)),
        sharey=True,
        sharex=True,
        squeeze=False,
    )
    shown = summary[summary["column"].isin(columns)]
    for axes, column in zip(grid[0], columns, strict=True):
        rows = shown[shown["column"] == column].set_index("set")
        for place, name in enumerate(names):
            if name not in rows.index:
                continue
            row, colour = rows.loc[name], method_colour(name)
            for spread, width in ((f"{label} spread", 1.2), (f"{label} seeds", 4.5)):
                if np.isfinite(row[spread]):
                    axes.errorbar(
                        row[label], place, xerr=row[spread], color=colour, elinewidth=width
                    )
            axes.plot(row[label], place, "o", color=colour, markersize=6, markeredgecolor="white")
        axes.set_title(column)
        axes.grid(axis="y", visible=False)
    if (shown[label] > 0).all():
        grid[0, 0].set_xscale("log")
        _plain_ticks(grid[0, 0].xaxis)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"{label}: thick, over seeds; thin, over subsamples", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def distortion_curves(
    table: pd.DataFrame, label: str, marks: Mapping[str, float], title: str
) -> Figure:
    """Distance over the strength of a distortion, with sets of known worth as level lines.

    Args:
        table: from `evidence.distortion_study`.
        label: full name of a measure.
        marks: set -> its value.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.0))
    values = [*table[label], *marks.values()]
    styles = ("o", "s", "^", "D", "v")
    for marker, (kind, part) in zip(styles, table.groupby("kind", sort=False), strict=False):
        axes.plot(
            part["strength"],
            part[label],
            f"{marker}-",
            color=PALETTE[6],
            label=str(kind),
            markersize=5,
            linewidth=1,
        )
    for name, value in marks.items():
        axes.axhline(value, color=method_colour(name), linestyle="--", linewidth=1.2)
    if min(values) > 0:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.set_xlabel("strength of the distortion (1: the strongest the features learned from)")
    axes.set_ylabel(label)
    _name_lines(figure, marks)
    told = axes.legend(title="real images with", loc="upper left", frameon=True, framealpha=1.0)
    told.set_zorder(10)  # level lines pass behind it
    axes.set_title(title, fontsize=11)
    return figure


def _name_lines(figure: Figure, marks: Mapping[str, float]) -> None:
    """Names of level lines right of the axes, pushed apart where lines lie close together."""
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    scale = np.log if axes.get_yscale() == "log" else np.asarray
    low, high = float(scale(low)), float(scale(high))
    place = -1.0
    for name, value in sorted(marks.items(), key=lambda item: item[1]):
        place = max((float(scale(value)) - low) / (high - low), place + 0.06)
        axes.text(
            1.01, place, name, color=method_colour(name), transform=axes.transAxes, va="center"
        )


def set_strips(sets: Mapping[str, Gallery], a_cell: int, title: str) -> Figure:
    """A row a set: its first images of every cell.

    Args:
        sets: name -> images, all with the same cells in the same order.
        a_cell: images of each product and defect.
        title: of the figure.
    """
    rows = []
    titles: list[str] = []
    frames: list[str | None] = []
    for number, gallery in enumerate(sets.values()):
        names = cells_of(gallery)
        index = names.groupby(["product", "defect"], sort=False).head(a_cell).index.tolist()
        rows.append(list(as_pictures(gallery.x[index])))
        if number == 0:
            chosen = list(names.loc[index].itertuples(index=False))
            seen = [f"{product}\n{defect}" for product, defect in chosen]
            titles = [t if n == 0 or t != seen[n - 1] else "" for n, t in enumerate(seen)]
            frames = [DEFECT_COLOURS.get(defect) for _, defect in chosen]
    sides = [name.replace(", ", "\n").replace("untouched ", "untouched\n") for name in sets]
    figure = image_table(rows, titles, sides, title, frames)
    for axes in figure.axes:  # names of two words are taller than a picture when they stand upright
        axes.yaxis.label.set(rotation=0, ha="right", va="center", fontsize=9)
        axes.title.set_fontsize(9)
    return figure


def as_matched(train: Gallery, nearest: Nearest, number: int) -> Tensor:
    """The training image nearest to image `number`, flipped as it was when it came so near."""
    image = train.x[int(nearest.index[number, 0])]
    flipped = nearest.mirrored[number][0].split()
    dims = [dim for dim, name in zip((2, 1), FLIPS, strict=True) if name in flipped]
    return image.flip(dims)


def neighbour_table(
    blocks: Mapping[str, tuple[Gallery, Mapping[str, Nearest]]],
    train: Gallery,
    picks: Mapping[str, Sequence[int]],
    row_titles: Sequence[str],
    title: str,
) -> Figure:
    """Generated images and the nearest training image in each space, with the scores.

    Args:
        blocks: name -> images and what `neighbours.Search` found for them; side by side.
        train: the training images that were searched.
        picks: name -> which images to show, one a row.
        row_titles: one a row.
        title: of the figure.
    """
    rows: list[list[np.ndarray | None]] = [[] for _ in row_titles]
    texts: list[list[str]] = [[] for _ in row_titles]
    titles = []
    for name, (gallery, found) in blocks.items():
        titles += [name.replace(", ", "\n"), *(f"nearest by\n{space}" for space in found)]
        for row, written, number in zip(rows, texts, picks[name], strict=True):
            near = [as_matched(train, nearest, number) for nearest in found.values()]
            row += list(as_pictures(torch.stack([gallery.x[number], *near])))
            written += ["", *(f"{float(nearest.score[number]):.2f}" for nearest in found.values())]
    generated = [PALETTE[0] if not text else None for text in texts[0]]
    figure = image_table(rows, titles, row_titles, title, generated)
    flat = [text for row in texts for text in row]
    for axes, text in zip(figure.axes, flat, strict=True):
        if text:
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
            axes.text(0.04, 0.05, text, transform=axes.transAxes, fontsize=8, bbox=box)
    return figure


def score_boxes(rows: pd.DataFrame, title: str) -> Figure:
    """How near each set comes to training images: score by set, a panel a space.

    Boxes hold half of the images, whiskers 98 of 100; scores beyond 2 are drawn at 2.

    Args:
        rows: from `evidence.nearest_rows`, of any sets and seeds.
        title: of the figure.
    """
    names, spaces = list(rows["set"].unique()), list(rows["space"].unique())
    height = 1.4 + 0.32 * len(names)
    figure, grid = plt.subplots(1, len(spaces), figsize=(WIDTH, height), sharey=True, squeeze=False)
    for axes, space in zip(grid[0], spaces, strict=True):
        part = rows[rows["space"] == space]
        for place, name in enumerate(names):
            scores = part.loc[part["set"] == name, "score"].clip(upper=LARGEST_SCORE)
            if scores.empty:
                axes.annotate("no mask, no crop", (1, place), ha="center", va="center", fontsize=8)
                continue
            drawn = axes.boxplot(
                [scores],
                positions=[place],
                widths=0.6,
                orientation="horizontal",
                whis=(1, 99),
                sym=".",
                patch_artist=True,
                medianprops={"color": "black"},
                flierprops={"markersize": 3, "markeredgecolor": method_colour(name)},
            )
            drawn["boxes"][0].set(facecolor=method_colour(name), linewidth=0.8)
        axes.axvspan(0, COPY_SCORE, color="#D55E00", alpha=0.08, zorder=0)
        axes.axvline(1, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(-0.05, LARGEST_SCORE + 0.05)
        axes.set_title(f"by {space}")
        axes.grid(axis="y", visible=False)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(
        "distance to the nearest training image; 1: as far as held-out real images in the median; "
        "copies lie in the shaded part",
        fontsize=9,
    )
    figure.suptitle(title, fontsize=11)
    return figure


def caught_bars(summary: pd.DataFrame, title: str) -> Figure:
    """Share of copies by set, a panel a space, with 95 % intervals.

    Args:
        summary: from `evidence.copies_summary`.
        title: of the figure.
    """
    names, spaces = list(summary["set"].unique()), list(summary["space"].unique())
    height = 1.2 + 0.3 * len(names)
    figure, grid = plt.subplots(1, len(spaces), figsize=(WIDTH, height), sharey=True, squeeze=False)
    for axes, space in zip(grid[0], spaces, strict=True):
        part = summary[summary["space"] == space].set_index("set")
        for place, name in enumerate(names):
            if name not in part.index:
                axes.annotate("no crop", (2, place), va="center", fontsize=8)
                continue
            row = part.loc[name]
            share, ends = 100 * row["copies"], 100 * np.array([[row["low"]], [row["high"]]])
            reach = np.abs(ends - share)
            axes.barh(place, share, 0.6, color=method_colour(name))
            axes.errorbar(share, place, xerr=reach, color="black", elinewidth=1, capsize=2)
            axes.annotate(
                f"{share:.1f}",
                (max(share, ends[1, 0]), place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_xlim(0, 118)
        axes.set_title(f"by {space}")
        axes.grid(axis="y", visible=False)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("copies of training images (% of what was made)", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure
