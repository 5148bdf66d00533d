"""Reading a training run: its log, the signs that it goes wrong, its samples as time goes on.

A line of log.jsonl holds the terms of single iterations, the last of each way of guidance, so the
curves are noisy: figures draw them thin and their running mean bold. Figures are returned.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from dtgan_core.files import sha256_of
from dtgan_lab.files import read_json_lines
from dtgan_lab.plots.figures import PALETTE, WIDTH

GUIDANCES = {"latent": PALETTE[0], "reference": PALETTE[1]}
UNDECIDED = 2 * math.log(2)  # D's loss (1) when it answers 1/2 to every image

# --- the log -------------------------------------------------------------------------------------


def read_log(path: Path) -> pd.DataFrame:
    """A run's log.jsonl as a table, one row a line, indexed by iteration.

    Args:
        path: JSON lines as `Trainer.run` writes them: "step", "seconds", "latent/cyc" and so on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or a line is not what `Trainer` writes.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no log, expected one JSON object a line; `python -m dtgan_core train "
            "--data DATA --out RUN` writes one to RUN/log.jsonl"
        )
    remedy = "`python -m dtgan_core train ... --out RUN --resume` leaves it out"
    rows = read_json_lines(path, remedy)
    for number, row in enumerate(rows, 1):
        if type(row.get("step")) is not int:
            raise ValueError(f"{path}: line {number} has no step, found {row}; {remedy}")
    if not rows:
        raise ValueError(
            f"{path}: found no lines, expected one every few iterations; train longer than "
            "train.log_every iterations"
        )
    return pd.DataFrame(rows).set_index("step")


def window_of(log: pd.DataFrame | pd.Series, share: float = 0.05) -> int:
    """Lines that the running mean of a figure takes together: a share of the log, at least one."""
    return max(1, round(share * len(log)))


def smoothed(values: pd.Series, window: int, logarithmic: bool = False) -> pd.Series:
    """Centred running mean over `window` lines; at the ends over those there are.

    `logarithmic` takes the geometric mean, which one outlier does not carry (0 counts as 1e-6).
    """
    if logarithmic:
        return np.exp(smoothed(np.log(values.clip(lower=1e-6)), window))
    return values.rolling(window, min_periods=1, center=True).mean()


def part(log: pd.DataFrame, which: str = "last", share: float = 0.1) -> pd.Series:
    """Mean of every column over the "first" or "last" part of a log, a line at least."""
    lines = max(1, round(share * len(log)))
    return (log.iloc[:lines] if which == "first" else log.iloc[-lines:]).mean()


def phases(log: pd.DataFrame, terms: Mapping[str, str], share: float = 0.1) -> pd.DataFrame:
    """Means over the first and the last part of a run, one row a term.

    Args:
        log: as `read_log` returns it.
        terms: name in the log, without its guidance -> what to call it.
        share: length of a part.

    Returns:
        Rows `terms`' values; columns (guidance, "first" or "last").
    """
    ends = {which: part(log, which, share) for which in ("first", "last")}
    columns = {
        (guidance, name): [values[f"{guidance}/{term}"] for term in terms]
        for guidance in GUIDANCES
        for name, values in ends.items()
    }
    return pd.DataFrame(columns, index=list(terms.values()))


# --- signs of a run going wrong ------------------------------------------------------------------


@dataclass(frozen=True)
class Sign:
    """A quantity that tells of one failure.

    Attributes:
        failure: what goes wrong, in words.
        term: name in the log, without its guidance.
        bound: where it begins; a rule of thumb of ours, set after the trials of results/.
        above: whether values above the bound are bad, else those below.
    """

    failure: str
    term: str
    bound: float
    above: bool = False

    def alarm(self, value: float) -> bool:
        """Whether a value is on the bad side of the bound; NaN is."""
        return not (value <= self.bound if self.above else value >= self.bound)


SIGNS = (
    Sign("D wins", "d_adv", UNDECIDED / 2),
    # two drawn defects at one place, as `noise_per` has it, are worth 0.03 in the preset
    Sign("diversity is dead", "ds", 0.01),
    Sign("draws repaint the part", "ds", 0.6, above=True),
    # AdaIN divides the size out: 0.03 was dead in trials t2 and t4, and is well read in the preset
    Sign("c fades away", "c_abs", 0.01),
    Sign("E does not read c", "c_rel_err", 0.9, above=True),
    Sign("every draw or reference gives the same c", "c_spread", 0.1),
)


def danger_signs(runs: Mapping[str, pd.DataFrame], share: float = 0.1) -> pd.DataFrame:
    """The last part of several runs against `SIGNS`; an alarm is marked by "!".

    Args:
        runs: name -> log as `read_log` returns it.
        share: length of that part, in lines of each log.

    Returns:
        One row a sign and guidance: "failure", "measured by", "alarm", then a run's value in words.
    """
    ends = {name: part(log, share=share) for name, log in runs.items()}
    rows = []
    for sign in SIGNS:
        for guidance in GUIDANCES:
            column = f"{guidance}/{sign.term}"
            bound = f"{'over' if sign.above else 'under'} {sign.bound:.2g}"
            row = {"failure": sign.failure, "measured by": column, "alarm": bound}
            for name, values in ends.items():
                value = float(values[column])
                row[name] = f"{value:.2f}" + (" !" if sign.alarm(value) else "")
            rows.append(row)
    return pd.DataFrame(rows)


# --- curves --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One small plot of a term for both ways of guidance.

    Attributes:
        term: name in the log, without its guidance.
        title: of the plot.
        level: height of a dashed line, and what it says; None for no line.
        logarithmic: whether the vertical axis is.
    """

    term: str
    title: str
    level: tuple[float, str] | None = None
    logarithmic: bool = False


def _draw(axes: Axes, values: pd.Series, mean: pd.Series, colour: str, label: str) -> None:
    """One curve, thin as logged and bold as its running mean."""
    axes.plot(values.index, values, color=colour, alpha=0.25, linewidth=0.7)
    axes.plot(mean.index, mean, color=colour, label=label)


def _draw_level(axes: Axes, height: float, label: str, below: bool) -> None:
    """A dashed line with its name at the right end, above or below it."""
    axes.axhline(height, color="black", linestyle="--", linewidth=1)
    if not below:  # room for the name
        room = 8 if axes.get_yscale() == "log" else 1.15
        axes.set_ylim(top=max(axes.get_ylim()[1], height * room))
    text = axes.text(1, height, label, transform=axes.get_yaxis_transform(), fontsize=8)
    text.set(ha="right", va="top" if below else "bottom")


def term_curves(
    log: pd.DataFrame, panels: Sequence[Panel], title: str, height: float = 2.5
) -> Figure:
    """Terms over iterations, one panel each and two a row, both ways of guidance in it.

    Args:
        log: as `read_log` returns it.
        panels: what to draw, row by row.
        title: of the figure.
        height: of a row in inches.
    """
    rows = math.ceil(len(panels) / 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(WIDTH, height * rows + 0.4), squeeze=False, sharex=True
    )
    window = window_of(log)
    for axes, panel in zip(grid.flat, panels, strict=False):
        values = log[[f"{guidance}/{panel.term}" for guidance in GUIDANCES]]
        for column, (guidance, colour) in zip(values, GUIDANCES.items(), strict=True):
            mean = smoothed(values[column], window, panel.logarithmic)
            _draw(axes, values[column], mean, colour, guidance)
        if panel.logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if panel.level is not None:
            below = float(values.iloc[-window:].min(axis=1).mean()) > panel.level[0]
            _draw_level(axes, *panel.level, below)
        axes.set_title(panel.title)
        if panel is panels[0]:
            axes.legend(fontsize=9, loc="lower left" if panel.level else "best")
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    for axes in grid[-1]:
        axes.set_xlabel("iteration")
    figure.suptitle(title, fontsize=11)
    return figure


def diversity_curves(log: pd.DataFrame, weight: Callable[[int], float], title: str) -> Figure:
    """L_ds (4), its falling weight, and what the two are worth in (8) beside L_adv of G.

    Args:
        log: as `read_log` returns it.
        weight: w_ds at an iteration, such as `Config.diversity_weight`.
        title: of the figure.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 2.9))
    window = window_of(log)
    weights = pd.Series([weight(int(step)) for step in log.index], index=log.index)
    middle.plot(weights, color="black")
    for guidance, colour in GUIDANCES.items():
        terms = log[f"{guidance}/ds"]
        _draw(left, terms, smoothed(terms, window), colour, guidance)
        worth = terms * weights
        _draw(right, worth, smoothed(worth, window), colour, f"w L_ds, {guidance}")
        adversarial = smoothed(log[f"{guidance}/adv"], window)
        right.plot(adversarial, color=colour, linestyle=":", label=f"L_adv, {guidance}")
    right.set_yscale("log")
    left.legend(fontsize=9)
    right.legend(fontsize=8)
    names = ("L_ds (4), six pairs", "weight w_ds", "share in (8) beside L_adv")
    for axes, name in zip((left, middle, right), names, strict=True):
        axes.set(xlabel="iteration", title=name)
    for axes in (left, middle):
        axes.set_ylim(bottom=0)
    figure.suptitle(title, fontsize=11)
    return figure


def compare_runs(
    runs: Mapping[str, pd.DataFrame], panels: Mapping[str, str], title: str, until: int
) -> Figure:
    """Columns of several runs' logs over iterations, one panel a column, one colour a run.

    Args:
        runs: name -> log as `read_log` returns it.
        panels: column of the logs -> title of its panel.
        title: of the figure.
        until: last iteration shown.
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(WIDTH, 2.9), squeeze=False)
    for axes, (column, name) in zip(grid[0], panels.items(), strict=True):
        for k, (run, log) in enumerate(runs.items()):
            values = log.loc[log.index <= until, column]
            mean = smoothed(values, window_of(values, 0.1))
            _draw(axes, values, mean, PALETTE[k % len(PALETTE)], run)
            axes.get_lines()[-1].set_linestyle(("-", "--", ":")[k % 3])  # one may hide another
        axes.set(xlabel="iteration", title=name)
        axes.set_ylim(bottom=0)
    grid[0, 0].legend(fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


# --- samples -------------------------------------------------------------------------------------


def sample_files(folder: Path, count: int = 6) -> dict[int, Path]:
    """A run's sample pictures, some of them: the first, the last, ever wider apart between.

    Args:
        folder: holds step-NNNNNNNN.png as `Trainer.write_samples` names them.
        count: how many at most.

    Returns:
        iteration -> file, in the order of iterations.

    Raises:
        FileNotFoundError: there is no such picture.
    """
    found = {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.png")}
    if not found:
        raise FileNotFoundError(
            f"{folder}: found no step-NNNNNNNN.png, expected the samples of a run; take RUN/samples"
        )
    steps = np.array(sorted(found))
    if len(steps) <= count:
        return {int(step): found[step] for step in steps}
    wanted = np.geomspace(max(1, steps[0]), max(1, steps[-1]), count)
    picked = {int(steps[np.abs(steps - step).argmin()]) for step in wanted}
    return {step: found[step] for step in sorted(picked)}


def sample_strip(
    pictures: Sequence[np.ndarray], titles: Sequence[str], defects: Sequence[str], title: str
) -> Figure:
    """Pictures of `training.sample_grid` one below the other, pixel for pixel.

    A picture scaled by an odd factor would show a grid that is not there, or hide one that is, so
    each takes as many pixels of the figure as it has.

    Args:
        pictures: uint8 (height, width, 3), of equal width.
        titles: one a picture, written at its left.
        defects: names of the defects in the columns, in order; each has four.
        title: of the figure.
    """
    dpi, left, top, gap = plt.rcParams["figure.dpi"], 110, 66, 8  # the last three in pixels
    width = pictures[0].shape[1]
    heights = [picture.shape[0] for picture in pictures]
    total = (left + width, top + sum(heights) + gap * len(heights))
    figure = plt.figure(figsize=(total[0] / dpi, total[1] / dpi))
    # An engine that does nothing; None would be replaced by the style's own after a savefig.
    figure.set_layout_engine(PlaceHolderLayoutEngine(True, True))
    tile = (width - 2) / (1 + 4 * len(defects))  # two white pixels lie between tiles and around
    names = ["part"] + ["draw 1", "draw 2", "reference", "result"] * len(defects)
    y = total[1] - top
    for k, name in enumerate(names):
        x = (left + 1 + tile * (k + 0.5)) / total[0]
        figure.text(x, (y + 4) / total[1], name, ha="center", fontsize=8)
    for k, name in enumerate(defects):
        x = (left + 1 + tile * (4 * k + 3)) / total[0]
        figure.text(x, (y + 22) / total[1], name, ha="center", fontsize=9, fontweight="bold")
    for picture, label, height in zip(pictures, titles, heights, strict=True):
        y -= height
        box = (left / total[0], y / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(box)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.axis("off")
        x, middle = (left - 8) / total[0], (y + height / 2) / total[1]
        figure.text(x, middle, label, ha="right", va="center", fontsize=9)
        y -= gap
    figure.suptitle(title, fontsize=11, y=1 - 6 / total[1], va="top")
    return figure


# --- tables --------------------------------------------------------------------------------------


def prose_table(frame: pd.DataFrame) -> str:
    """A table of sentences as HTML, without its index: every word shown, an alarm ("!") bold."""

    def cell(tag: str, value: object) -> str:
        text = html.escape(str(value))
        if text.endswith(" !"):
            text = f"<b>{text}</b>"
        return f'<{tag} style="text-align: left; vertical-align: top">{text}</{tag}>'

    lines = ["".join(cell("th", name) for name in frame.columns)]
    lines += ["".join(cell("td", value) for value in row) for row in frame.itertuples(index=False)]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n{body}\n</table>"


def compare_files(folders: Mapping[str, Path]) -> pd.DataFrame:
    """sha256 of the files in folders (name -> path), cut to 16 digits, and whether all agree.

    Returns:
        One row a file name that any of them holds; "-" where a folder lacks it.
    """
    hashes = {
        name: {path.name: sha256_of(path)[:16] for path in folder.iterdir() if path.is_file()}
        for name, folder in folders.items()
    }
    files = sorted(set().union(*hashes.values()))
    table = pd.DataFrame(
        {name: [found.get(f, "-") for f in files] for name, found in hashes.items()}
    )
    table.index = pd.Index(files, name="file")
    table["same"] = table.nunique(axis=1) == 1
    return table
