"""Figures of the evidence notebooks: distances with intervals, strips of sets, neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from dtgan_lab.plots.figures import WIDTH, method_colour


def _plain_ticks(axis: Axis) -> None:
    """1, 3, 10, 30 ... on a logarithmic axis, instead of powers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def distance_dots(summary: pd.DataFrame, label: str, columns: Sequence[str], title: str) -> Figure:
    """Sets by distance, a panel a column: the mean as a dot with both of its spreads.

    The thick bar is the standard deviation over seeds, the thin one the spread over subsamples. The
    axis is logarithmic where all means are above 0.
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
