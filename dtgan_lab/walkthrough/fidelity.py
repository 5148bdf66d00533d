"""The fidelity table: every statement of the paper's method, where the code does it, whose it is.

It covers sections 3.1 and 3.2 with their equations, the training details (the paper's appendix B is
not public) and what the kit does otherwise.  Three kinds of row: "paper", its word; "our reading",
where the paper is silent and we chose; "our departure", where a preset or the code does something
else, with the reason.  Every place and value named here is held against the code by a test.
"""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any, get_args

import pandas as pd

from dtgan_core.config import make_config
from dtgan_lab.walkthrough.fidelity_method import METHOD, Kind
from dtgan_lab.walkthrough.fidelity_objective import OBJECTIVE, TRAINING

KINDS: tuple[Kind, ...] = get_args(Kind)
ROWS = METHOD + OBJECTIVE + TRAINING


def resolve(place: str) -> Any:
    """The object that a place of the table names.

    Args:
        place: "module.name" or "module.Class.name" below dtgan_core; modules may be nested.

    Raises:
        AttributeError: there is nothing of this name.
    """
    parts = place.split(".")
    found: Any = importlib.import_module("dtgan_core")
    for number, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(["dtgan_core", *parts[: number + 1]]))
            except ModuleNotFoundError as error:
                raise AttributeError(f"{place}: dtgan_core has no {part} there") from error
        found = getattr(found, part)
    return found


def setting(preset: str, name: str) -> Any:
    """The value of a field such as "weights.ds" in a preset's full DT-GAN, configuration (e).

    Raises:
        AttributeError: there is no such field.
    """
    return reduce(getattr, name.split("."), make_config(preset, "e"))


def _shown(name: str, preset: str) -> str:
    here, paper = setting(preset, name), setting("paper", name)
    return f"{name} {here}" if here == paper else f"{name} {here} (paper: {paper})"


def table(preset: str = "laptop") -> pd.DataFrame:
    """The fidelity table.

    Args:
        preset: the preset whose values stand beside those of `paper`.

    Returns:
        One row a statement: "source", "statement", "code", "whose", "note" and "settings", the
        last as "name value", with "(paper: value)" where preset `paper` has another.
    """
    return pd.DataFrame(
        {
            "source": row.source,
            "statement": row.statement,
            "code": ", ".join(row.places),
            "whose": row.kind,
            "note": row.note,
            "settings": "; ".join(_shown(name, preset) for name in row.settings),
        }
        for row in ROWS
    )


def as_markdown(frame: pd.DataFrame, code: tuple[str, ...] = ("code", "settings")) -> str:
    """A table as Markdown, which notebooks wrap and align to the left.

    Args:
        frame: texts.
        code: columns whose parts, split at ", " and "; ", are set as code.
    """

    def cell(column: str, text: str) -> str:
        if column in code and text:
            pieces = text.replace("; ", ", ").split(", ")
            text = "<br>".join(f"`{piece}`" for piece in pieces)
        return text.replace("|", "\\|")

    header = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + " :--- |" * frame.shape[1]
    lines = [
        "| " + " | ".join(cell(c, str(v)) for c, v in zip(frame.columns, row, strict=True)) + " |"
        for row in frame.itertuples(index=False)
    ]
    return "\n".join([header, rule, *lines])
