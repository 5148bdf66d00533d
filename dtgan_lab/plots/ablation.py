"""Figures of the ablation: Fig. 3's grid, and numbers by configuration with every seed shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dtgan_lab.ablation import Cases, Measure
from dtgan_lab.plots.figures import DEFECT_COLOURS, PALETTE, WIDTH, as_pictures, image_table


def ladder_grid(
    cases: Cases, made: Mapping[str, Tensor], title: str, references: bool = True
) -> Figure:
    """Fig. 3: sources, references, and what each configuration made of them, a row each.

    Args:
        cases: sources and references, the same in every row.
        made: configuration -> its images (N, ch, H, W) in [-1, 1].
        title: of the figure.
        references: whether to show them; a latent-guided row has none.
    """
    rows, sides = [list(as_pictures(cases.x))], ["part"]
    if references:
        rows.append(list(as_pictures(cases.x_ref)))
        sides.append("reference")
    for name, images in made.items():
        rows.append(list(as_pictures(images)))
        sides.append(name)
    titles = [f"{p}\n{d}" for p, d in zip(cases.products, cases.defects, strict=True)]
    frames = [DEFECT_COLOURS.get(defect) for defect in cases.defects]
    figure = image_table(rows, titles, sides, title, frames)
    for axes in figure.axes:
        axes.yaxis.label.set(rotation=0, ha="right", va="center", fontsize=9)
        axes.title.set_fontsize(9)
    return figure


def ladder_dots(
    runs: pd.DataFrame, measures: Sequence[Measure], names: Sequence[str], title: str
) -> Figure:
    """A panel a measure: every training seed a dot, their mean a line, sampling spread a bar.

    Args:
        runs: from `ablation.read_runs`.
        measures: a panel each.
        names: configurations, from left to right.
        title: of the figure.
    """
    columns = min(3, len(measures))
    lines = -(-len(measures) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(WIDTH, 2.2 * lines + 0.5), squeeze=False)
    for axes in grid.flat[len(measures) :]:
        axes.axis("off")
    for axes, measure in zip(grid.flat, measures, strict=False):
        for place, name in enumerate(names):
            part = runs[runs["name"] == name]
            if part.empty or measure.key not in part:
                continue
            values = measure.scale * part[measure.key].astype(float).to_numpy()
            sampling = measure.scale * part[f"{measure.key} sampling"].astype(float).to_numpy()
            offsets = 0.12 * (np.arange(len(values)) - (len(values) - 1) / 2)
            axes.errorbar(
                place + offsets,
                values,
                yerr=np.nan_to_num(sampling),
                fmt="o",
                color=PALETTE[0],
                markersize=4,
                elinewidth=1,
            )
            axes.hlines(values.mean(), place - 0.3, place + 0.3, color=PALETTE[1], linewidth=2)
        axes.set_xticks(range(len(names)), [f"({name})" for name in names], fontsize=8)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.grid(axis="x", visible=False)
        arrow = "higher is better" if measure.better > 0 else "lower is better"
        axes.set_title(f"{measure.label}\n{arrow}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
