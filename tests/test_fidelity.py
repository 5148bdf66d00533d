"""docs/fidelity.toml names places that exist and values that the presets have."""

import importlib
import re
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from dtgan_core.config import make_config

FILE = Path(__file__).resolve().parents[1] / "docs" / "fidelity.toml"
ROWS = tomllib.loads(FILE.read_text(encoding="utf-8"))["row"]
KINDS = {"paper", "our reading", "our departure"}


def resolve(place: str) -> Any:
    """The object that "module.name" below dtgan_core names."""
    module, *names = place.split(".")
    return reduce(getattr, names, importlib.import_module(f"dtgan_core.{module}"))


def setting(preset: str, name: str) -> Any:
    """The value of a field such as "weights.ds" in a preset's configuration (e)."""
    return reduce(getattr, name.split("."), make_config(preset, "e"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['source']}-{row['statement']}")
def test_a_row_is_whole_and_true(row):
    assert row.keys() <= {"source", "statement", "places", "whose", "note", "settings"}
    assert row["places"] and row["whose"] in KINDS
    if row["whose"] == "paper":
        assert row["source"] != "-"
    else:
        assert row["note"], "a choice of ours needs its reason"
    for place in row["places"]:
        assert resolve(place) is not None
    # preset `paper` has the stated values
    for name, stated in row.get("settings", {}).items():
        found = setting("paper", name)
        assert found == stated and type(found) is type(stated), (name, found)
        if row["whose"] == "our departure":  # and the laptop departs from them
            assert setting("laptop", name) != stated


def test_readings_and_equations_are_all_there_and_nothing_twice():
    notes = " ".join(row["note"] for row in ROWS if row["whose"] == "our reading")
    assert {int(number) for number in re.findall(r"reading (\d+)", notes)} == set(range(1, 11))
    sources = {row["source"] for row in ROWS if row["whose"] == "paper"}
    assert {f"({number})" for number in range(1, 9)} <= sources
    assert len({row["statement"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "place", ["losses.no_such_loss", "no_module.name", "networks.Generator.no_method"]
)
def test_a_wrong_place_is_refused(place):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(place)
