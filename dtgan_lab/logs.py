"""A training run's log: read, its ends, and the signs that the run goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dtgan_lab.files import read_json_lines

GUIDANCES = ("latent", "reference")
UNDECIDED = 2 * math.log(2)  # D's loss (1) when it answers 1/2 to every image

# --- the log -------------------------------------------------------------------------------------


def read_log(path: Path) -> pd.DataFrame:
    """A run's log.jsonl as a table, one row a line, indexed by iteration.

    FileNotFoundError: there is none. ValueError: it is empty, or a line is not what `Trainer`
    writes.
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


def part(log: pd.DataFrame, which: str = "last", share: float = 0.1) -> pd.Series:
    """Mean of every column over the "first" or "last" part of a log, a line at least."""
    lines = max(1, round(share * len(log)))
    return (log.iloc[:lines] if which == "first" else log.iloc[-lines:]).mean()


# --- signs of a run going wrong ------------------------------------------------------------------


@dataclass(frozen=True)
class Sign:
    """A quantity that tells of one failure, by a bound that is a rule of thumb of ours."""

    failure: str
    term: str  # its name in the log, without its guidance
    bound: float
    above: bool = False  # whether values above the bound are bad, or those below

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


def danger_signs(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The last part of several runs' lines against `SIGNS`; an alarm is marked by "!".

    One row a sign and guidance: "failure", "measured by", "alarm", then a run's value in words.
    """
    ends = {name: part(log) for name, log in runs.items()}
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
