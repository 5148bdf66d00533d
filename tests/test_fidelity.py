"""The fidelity table names places that exist and values that the presets have."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from dtgan_core.config import PRESETS
from dtgan_lab.walkthrough import fidelity
from dtgan_lab.walkthrough.fidelity import ROWS, as_markdown, resolve, setting, table

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source}-{row.statement}")


@each_row
def test_every_place_exists(row):
    assert row.places
    for place in row.places:
        assert resolve(place) is not None


@each_row
def test_preset_paper_has_the_stated_values(row):
    for name, stated in row.settings.items():
        found = setting("paper", name)
        assert found == stated and type(found) is type(stated), (name, found)


@each_row
def test_whose_it_is(row):
    assert row.kind in fidelity.KINDS
    if row.kind == "paper":
        assert row.source != "-"
    else:
        assert row.note, "a choice of ours needs its reason"


@each_row
def test_a_departure_of_the_laptop_departs(row):
    if row.kind == "our departure" and row.settings:
        departs = [setting("laptop", name) != value for name, value in row.settings.items()]
        assert all(departs)


def test_all_ten_readings_are_there():
    notes = " ".join(row.note for row in ROWS if row.kind == "our reading")
    assert {int(number) for number in re.findall(r"reading (\d+)", notes)} == set(range(1, 11))


def test_all_equations_are_there():
    sources = {row.source for row in ROWS if row.kind == "paper"}
    assert {f"({number})" for number in range(1, 9)} <= sources


def test_no_statement_twice():
    statements = [row.statement for row in ROWS]
    assert len(set(statements)) == len(statements)


@pytest.mark.parametrize(
    "place",
    ["losses.no_such_loss", "no_module.name", "networks.Generator.no_method", "config.Config.x.y"],
)
def test_a_wrong_place_is_refused(place):
    with pytest.raises(AttributeError):
        resolve(place)


def test_a_wrong_setting_is_refused():
    with pytest.raises(AttributeError):
        setting("laptop", "weights.no_such_weight")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_shows_both_values_where_they_differ(preset):
    frame = table(preset)
    assert list(frame["statement"]) == [row.statement for row in ROWS]
    row = frame[frame["statement"] == "A smaller w_ds"].iloc[0]
    here, paper = setting(preset, "weights.ds"), setting("paper", "weights.ds")
    assert row["settings"] == (
        f"weights.ds {here}" if here == paper else f"weights.ds {here} (paper: {paper})"
    )
    assert row["code"] == "config.LossWeights"
    assert set(frame["whose"]) == set(fidelity.KINDS)


def test_as_markdown():
    frame = pd.DataFrame({"code": ["a.b, c.d", ""], "note": ["either | or", "x; y"]})
    assert as_markdown(frame).splitlines() == [
        "| code | note |",
        "| :--- | :--- |",
        "| `a.b`<br>`c.d` | either \\| or |",
        "|  | x; y |",
    ]
