"""Downstream tables: seeds paired, chance told, the arm to beat; figures show what they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from dtgan_lab.downstream import tables as dt


def line(arm: str, seed: int, error: float, checkpoint: str | None = None) -> dict[str, Any]:
    """A line as `classify` appends it."""
    return {
        "arm": arm,
        "seed": seed,
        "images_per_class": 18,
        "checkpoint_sha256": checkpoint,
        "manifest_sha256": "data",
        "counts": {
            "Normal": {"real": 18, "synthetic": 0},
            "Spots": {"real": 4, "synthetic": 14 if checkpoint else 0},
        },
        "domain_accuracy": 0.75 if checkpoint else None,
        "test": {
            "n": 10,
            "error": error,
            "error_by_product": {"A": error, "B": 0.0},
            "recall": {"Normal": 1.0, "Spots": 1 - error},
            "recall_by_cell": {"A Spots": 1 - error} if checkpoint else {},
            "defect_recall": 0.9,
        },
        "seconds": 3.0,
    }


ERRORS = {"none": [0.3, 0.4, 0.2], "traditional": [0.2, 0.3, 0.1], "dtgan-both": [0.1, 0.21, 0.0]}


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        line(arm, seed, error, "e" if arm.startswith("dtgan") else None)
        for arm, errors in ERRORS.items()
        for seed, error in enumerate(errors)
    ]
    rows.insert(0, line("none", 0, 0.99))  # run again later: the later line counts
    rows.append(line("dtgan-both", 0, 0.5, "a"))
    return dt.per_seed(rows, {"a": "StarGAN v2"})


def test_lines_become_rows_in_per_cent(frame: pd.DataFrame) -> None:
    assert list(frame["arm"].unique()) == [*ERRORS, "StarGAN v2 both"]
    none = frame[frame["arm"] == "none"]
    assert list(none["error"]) == pytest.approx([30, 40, 20])
    assert none["domain"].isna().all() and (none["synthetic"] == 0).all()
    both = frame[frame["arm"] == "dtgan-both"].iloc[0]
    assert (both["domain"], both["synthetic"], both["n"]) == (75, 14, 10)
    assert both["error A"] == pytest.approx(10) and both["recall Spots"] == pytest.approx(90)
    assert both["recall A Spots"] == pytest.approx(90)
    assert none["recall A Spots"].isna().all()


def test_no_lines_are_an_empty_table() -> None:
    empty = dt.per_seed([])
    assert empty.empty and "arm" in empty
    with pytest.raises(ValueError, match="no arm without a generator"):
        dt.best_without_generator(empty)


def test_the_arm_to_beat_has_no_generator(frame: pd.DataFrame) -> None:
    assert dt.best_without_generator(frame) == "traditional"


def test_arms_are_held_against_one_seed_by_seed(frame: pd.DataFrame) -> None:
    found = dt.against(frame, "traditional").to_dict("index")
    assert list(found) == ["none", "dtgan-both", "StarGAN v2 both"]
    both = found["dtgan-both"]
    # the seeds differ by 10 points from one another, the pairs by about the same 10
    assert both["difference"] == pytest.approx(-29 / 3)
    assert both["relative"] == pytest.approx(-100 * 29 / 60)
    assert both["low"] < both["difference"] < both["high"] < 0
    assert both["p"] < 0.01 and dt.verdict(both) == "lower"
    none = found["none"]
    assert none["difference"] == pytest.approx(10)
    assert np.isnan(none["p"]) or none["p"] < 1e-6  # the same difference in every pair
    assert dt.verdict(none) == "higher"
    alone = found["StarGAN v2 both"]
    assert alone["pairs"] == 1 and np.isnan(alone["low"]) and dt.verdict(alone) == "one seed"


def test_chance_is_not_told_as_a_gain() -> None:
    rows = [line("none", s, e) for s, e in enumerate((0.2, 0.3, 0.4))]
    rows += [line("cutmix", s, e) for s, e in enumerate((0.3, 0.1, 0.4))]
    row = dt.against(dt.per_seed(rows), "none").to_dict("index")["cutmix"]
    assert row["difference"] < 0 < row["high"]
    assert dt.verdict(row) == "not told apart"


def test_against_an_arm_that_is_not_there(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no results of perlin; the table has none, traditional"):
        dt.against(frame, "perlin")


def test_numbers_as_text_with_seeds_counted(frame: pd.DataFrame) -> None:
    table = dt.number_table(frame, ["error", "domain"], ["traditional", "perlin", "dtgan-both"])
    assert list(table.index) == ["traditional", "dtgan-both"]
    assert list(table.loc["traditional"]) == [3, "20.0 ± 10.0", ""]
    assert table.loc["dtgan-both", "domain"] == "75.0 ± 0.0"


def test_a_difference_is_told_with_its_verdict(frame: pd.DataFrame) -> None:
    told = dt.told_against(frame, "none", ["none", "traditional", "dtgan-both", "perlin"])
    verdicts = {arm: dt.verdict(row) for arm, row in dt.against(frame, "none").iterrows()}
    assert told[0] == told[3] == ""
    assert told[1] == f"-10.0 ({verdicts['traditional']})"
    assert told[2] == f"-19.7 ({verdicts['dtgan-both']})"


def test_data_sets_stand_under_one_another() -> None:
    rows = [
        line("none", 0, error) | {"data": name, "manifest_sha256": name}
        for name, error in (("five", 0.3), ("fifty", 0.1), ("another", 0.9))
    ]
    found = dt.by_data(rows, {"five": 5, "fifty": 50}, "owned")
    assert found[["owned", "error"]].to_numpy().tolist() == [[5, 30], [50, 10]]
    rows.append(line("none", 1, 0.2) | {"data": "five", "manifest_sha256": "five, made anew"})
    with pytest.raises(ValueError, match="name five stands for 2 data sets .*of_data"):
        dt.by_data(rows, {"five": 5}, "owned")
