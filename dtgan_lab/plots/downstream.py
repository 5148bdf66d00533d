"""Figures of the downstream notebook: what arms teach, their errors, parts that were put right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dtgan_lab.downstream.tables import WITHOUT_GENERATOR
from dtgan_lab.measure.sets import LATENT
from dtgan_lab.plots.figures import WIDTH, as_pictures, image_table, method_colour

GREY = "#777777"
DASHES = ("-", "--", ":", "-.")
NAMES = (
    ("StarGAN v2", "StarGAN v2"),
    ("stylegan2", "StyleGAN2"),
    ("biggan", "BigGAN"),
    ("mokady", "Mokady et al."),
)


def arm_colour(arm: str) -> str:
    """Grey for the ways without a generator, for the others the colour of their method."""
    if arm.partition("@")[0] in WITHOUT_GENERATOR:
        return GREY
    if arm.startswith("dtgan"):
        return method_colour(LATENT)
    return next((method_colour(name) for arm_of, name in NAMES if arm.startswith(arm_of)), GREY)


def error_dots(
    frame: pd.DataFrame,
    arms: Sequence[str],
    column: str,
    title: str,
    base: str | None = None,
) -> Figure:
    """Arms by error: every seed a dot, the mean a bar, a dotted line at the arm to beat.

    Args:
        frame: of `tables.per_seed`.
        arms: from top to bottom; those without results are left out.
        column: of the frame, in per cent.
        title: of the figure.
        base: arm whose mean is drawn through.
    """
    arms = [arm for arm in arms if (frame["arm"] == arm).any()]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.3 * len(arms)))
    for place, arm in enumerate(arms):
        values = frame.loc[frame["arm"] == arm, column].to_numpy()
        offsets = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, place + offsets, "o", color=arm_colour(arm), markersize=4, alpha=0.7)
        axes.vlines(values.mean(), place - 0.33, place + 0.33, color=arm_colour(arm), linewidth=2.5)
    if base is not None:
        mean = frame.loc[frame["arm"] == base, column].mean()
        axes.axvline(mean, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{column.replace('_', ' ')} (%)")
    axes.set_title(title, loc="left")
    return figure


def error_curves(
    frame: pd.DataFrame, x: str, arms: Sequence[str], column: str, title: str, label: str
) -> Figure:
    """Arms by a number, such as the real defects owned: the mean as a line, every seed a dot.

    Args:
        frame: of `tables.per_seed`, with a column `x`.
        x: its numbers stand at even distances, in their order.
        arms: a line each.
        column: of the frame, in per cent.
        title: of the figure.
        label: of the axis of `x`.
    """
    places = {value: place for place, value in enumerate(sorted(frame[x].unique()))}
    figure, axes = plt.subplots(figsize=(0.75 * WIDTH, 3.4))
    drawn: Counter[str] = Counter()  # colour -> its arms so far, told apart by dashes
    for arm in (arm for arm in arms if (frame["arm"] == arm).any()):
        part, colour = frame[frame["arm"] == arm], arm_colour(arm)
        dashes = DASHES[drawn[colour] % len(DASHES)]
        drawn[colour] += 1
        means = part.groupby(x)[column].mean()
        at = [places[value] for value in means.index]
        axes.plot(at, means, dashes, color=colour, label=arm)
        axes.plot(part[x].map(places), part[column], "o", color=colour, markersize=4, alpha=0.6)
    axes.set_xticks(list(places.values()), [f"{value:g}" for value in places])
    axes.set_xlabel(label)
    axes.set_ylabel(f"{column.replace('_', ' ')} (%)")
    axes.set_title(title, loc="left")
    axes.legend(fontsize=8)
    return figure


def changed_answers(
    x: Tensor,
    truth: Tensor,
    before: Tensor,
    after: Tensor,
    names: Sequence[str],
    shown: int = 8,
    parts: Sequence[str] | None = None,
) -> Figure | None:
    """Parts that one classifier got wrong and the other right, above those the other way round.

    Args:
        x: (N, ch, H, W) in [-1, 1].
        truth: (N,), labels.
        before: (N,), answers of the first classifier.
        after: (N,), answers of the second.
        names: of the labels.
        shown: parts in a row, at most; of more, some at even steps, so that no product is left out
            that comes late in the data.
        parts: (N,), words put before each truth, such as the product.

    Returns:
        The figure, every picture under "truth" and "answer before -> answer after"; None where no
        answer changed between right and wrong.
    """
    mended = ((before != truth) & (after == truth)).nonzero().flatten()
    broken = ((before == truth) & (after != truth)).nonzero().flatten()
    rows = [_spread(part, shown).tolist() for part in (mended, broken)]
    if not any(rows):
        return None
    pictures = as_pictures(x)
    cells = [[*(pictures[n] for n in row), *[None] * (shown - len(row))] for row in rows]
    sides = [f"put right\n({len(mended)})", f"put wrong\n({len(broken)})"]
    title = "Truth, and below it the answer before -> after"
    figure = image_table(cells, [""] * shown, sides, title)
    for line, row in enumerate(rows):
        for k, n in enumerate(row):
            y, first, second = (names[int(labels[n])] for labels in (truth, before, after))
            told = f"{parts[n]} {y}" if parts is not None else y
            figure.axes[line * shown + k].set_title(f"{told}\n{first} -> {second}", fontsize=7)
    return figure


def _spread(numbers: Tensor, most: int) -> Tensor:
    """At most so many of some numbers, at even steps from the first to the last."""
    if len(numbers) <= most:
        return numbers
    return numbers[torch.linspace(0, len(numbers) - 1, most).round().long()]
