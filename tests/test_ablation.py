"""Ablation tables: two spreads kept apart, verdicts that chance cannot give, Fig. 3's cases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dtgan_lab import ablation as ab


def study_row(name: str, seed: int, recognised: float, psnr: float, fd: float) -> dict[str, Any]:
    """A row as `study` writes it: two cells, both ways of guidance, three sampling seeds."""
    one: dict[str, Any] = {"recognised_std": 0.03, "product_kept": 0.9, "product_kept_std": 0.04}
    one |= {"background_psnr": psnr, "background_psnr_std": None}
    one |= {"relative_diversity": 0.7, "relative_diversity_std": 0.1}
    overlap = {"latent": (None, None), "reference": (0.5, 0.0)}
    cells = [
        one
        | {"guidance": guidance, "recognised": recognised + shift, "overlap": mean}
        | {"overlap_std": spread}
        for guidance, (mean, spread) in overlap.items()
        for shift in (-0.1, 0.1)
    ]
    distance: dict[str, Any] = {"KID (domain)": 0.1, "recall (domain)": 0.2}
    distances = [
        distance | {"guidance": guidance, "column": column, "FD (domain)": fd + sampling}
        for guidance in overlap
        for column in ("A", "pooled")
        for sampling in (-1.0, 0.0, 1.0)
    ]
    row = {"run": f"{name}-{seed}", "seed": seed, "ablation": name, "iterations": 10}
    row |= {"seconds": 5.0, "checkpoint_sha256": f"{name}{seed}", "manifest_sha256": "data"}
    return row | {"cells": cells, "distances": distances if name != "a" else None}


@pytest.fixture
def runs(tmp_path: Path) -> pd.DataFrame:
    path = tmp_path / "rows.jsonl"
    rows = [study_row("a", seed, 0.5 + 0.01 * seed, 20.0, 40.0) for seed in range(3)]
    rows += [study_row("b", seed, 0.8 + 0.01 * seed, 20.0, 10.0) for seed in range(3)]
    rows += [study_row("c", 0, 0.9, 25.0, 5.0)]
    rows += [study_row("c", 0, 0.7, 30.0, 6.0)]  # done again: the later row counts
    rows += [study_row("e", 0, 0.1, 1.0, 1.0) | {"manifest_sha256": "other data"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ab.read_runs(path, "data")


def test_runs_are_read_flat_and_once(runs):
    assert list(runs["run"]) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "c-0"]
    last = runs.set_index("run").loc["c-0"]
    assert last["latent/recognised"] == pytest.approx(0.7)
    assert last["latent/recognised sampling"] == pytest.approx(0.03 * np.sqrt(2) / 2)
    assert last["latent/identity_shift"] == pytest.approx(0.1)
    assert last["reference/FD (domain)"] == pytest.approx(6.0)
    assert last["reference/FD (domain) sampling"] == pytest.approx(1.0)
    assert np.isnan(last["latent/overlap"]) and last["reference/overlap"] == pytest.approx(0.5)


def test_the_spread_of_seeds_is_not_that_of_sampling(runs):
    table = ab.spreads(runs, ab.measures_of("reference"), ["a", "b", "c"])
    chosen = (table["name"] == "a") & (table["measure"] == "recognised as target (%)")
    row = table[chosen].iloc[0]
    assert row["runs"] == 3 and row["mean"] == pytest.approx(51)
    assert row["seeds"] == pytest.approx(1.0)
    assert row["sampling"] == pytest.approx(3 / np.sqrt(2))
    of_c = (table["name"] == "c") & (table["measure"] == "recognised as target (%)")
    (one,) = table[of_c].to_dict("records")
    assert one["mean"] == pytest.approx(70) and np.isnan(one["seeds"])  # one run: no spread
    assert table[(table["name"] == "a") & (table["measure"] == "FD (domain)")]["mean"].isna().all()
