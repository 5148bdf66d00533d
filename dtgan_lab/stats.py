"""One number table and one rule of significance, for everything that the kit compares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

ROUNDING = 1e-9  # means of equal runs may differ in their last bits


def with_spread(
    mean: float,
    spread: float = np.nan,
    digits: str = ".1f",
    spread_digits: str = "",
    none: str = "",
) -> str:
    """Such as "3.1 ± 0.2"; the mean alone where there is no spread, `none` where there is no mean.

    `digits` is the format of the mean, such as ".3g", and of the spread unless another is given.
    """
    if np.isnan(mean):
        return none
    behind = f" ± {0.0 if spread < ROUNDING else spread:{spread_digits or digits}}"
    return f"{mean:{digits}}" + ("" if np.isnan(spread) else behind)


def number_table(
    frame: pd.DataFrame, texts: Sequence[str], index: str, columns: str
) -> pd.DataFrame:
    """Texts as a table, rows and columns (`index`, `columns`) in the order in which they come."""
    wide = frame.assign(text=list(texts)).pivot(index=index, columns=columns, values="text")
    return wide.reindex(index=list(frame[index].unique()), columns=list(frame[columns].unique()))


def verdict(
    change: float,
    margin: float,
    less: str,
    more: str,
    same: str = "not told apart",
    alone: str = "one seed",
) -> str:
    """The rule: a change counts where it is larger than its margin, its 95 % interval without 0.

    `change` is a difference of means, NaN where there is nothing to compare; `margin` is half the
    interval: from the t distribution over paired runs, else twice the standard error, and NaN where
    one run a side has no spread. `less`, `more`, `same` and `alone` (without a margin) are what to
    say.
    """
    if not np.isfinite(change):
        return "n/a"
    if np.isnan(margin):
        return alone
    if abs(change) <= max(margin, ROUNDING):
        return same
    return more if change > 0 else less
