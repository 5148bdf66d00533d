"""Ablation tables: two spreads kept apart, verdicts that chance cannot give, Fig. 3's cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab import ablation as ab
from dtgan_lab.data import load_dataset
from dtgan_lab.measure.real import RealSide
from dtgan_lab.plots import ablation as af
from tests.core_fixtures import jumbled
from tests.evaluation_fixtures import write_judged_dataset


def study_row(name: str, seed: int, recognised: float, psnr: float, fd: float) -> dict[str, Any]:
    """A row as `study` writes it: two cells, both ways of guidance, three sampling seeds."""
    cells = [
        {
            "guidance": guidance,
            "recognised": recognised + shift,
            "recognised_std": 0.03,
            "product_kept": 0.9,
            "product_kept_std": 0.04,
            "background_psnr": psnr,
            "background_psnr_std": None,
            "overlap": 0.5 if guidance == "reference" else None,
            "overlap_std": 0.0 if guidance == "reference" else None,
            "relative_diversity": 0.7,
            "relative_diversity_std": 0.1,
        }
        for guidance in ("latent", "reference")
        for shift in (-0.1, 0.1)
    ]
    distances = [
        {
            "guidance": guidance,
            "column": column,
            "FD (domain)": fd + sampling,
            "KID (domain)": 0.1,
            "recall (domain)": 0.2,
        }
        for guidance in ("latent", "reference")
        for column in ("A", "pooled")
        for sampling in (-1.0, 0.0, 1.0)
    ]
    return {
        "run": f"{name}-{seed}",
        "seed": seed,
        "ablation": name,
        "iterations": 10,
        "seconds": 5.0,
        "checkpoint_sha256": f"{name}{seed}",
        "manifest_sha256": "data",
        "cells": cells,
        "distances": distances if name != "a" else None,
    }


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


def test_runs_are_read_flat_and_once(runs: pd.DataFrame) -> None:
    assert list(runs["run"]) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "c-0"]
    last = runs.set_index("run").loc["c-0"]
    assert last["latent/recognised"] == pytest.approx(0.7)
    assert last["latent/recognised sampling"] == pytest.approx(0.03 * np.sqrt(2) / 2)
    assert last["latent/identity_shift"] == pytest.approx(0.1)
    assert last["reference/FD (domain)"] == pytest.approx(6.0)
    assert last["reference/FD (domain) sampling"] == pytest.approx(1.0)
    assert np.isnan(last["latent/overlap"]) and last["reference/overlap"] == pytest.approx(0.5)


def test_the_spread_of_seeds_is_not_that_of_sampling(runs: pd.DataFrame) -> None:
    table = ab.spreads(runs, ab.measures_of("reference"), ["a", "b", "c"])
    chosen = (table["name"] == "a") & (table["measure"] == "recognised as target (%)")
    row = table[chosen].iloc[0]
    assert row["runs"] == 3 and row["mean"] == pytest.approx(51)
    assert row["seeds"] == pytest.approx(1.0)
    assert row["sampling"] == pytest.approx(3 / np.sqrt(2))
    text = ab.number_table(table)
    assert text.loc["a", "recognised as target (%)"] == "51 ± 1 (2)"
    assert text.loc["c", "recognised as target (%)"] == "70 (2)"  # one run: no spread over seeds
    assert text.loc["a", "FD (domain)"] == "n/a"  # rows without distances


def test_a_step_counts_only_beyond_chance(runs: pd.DataFrame) -> None:
    table = ab.spreads(runs, ab.measures_of("latent"))
    found = ab.steps(table, ["a", "b", "c"]).set_index(["step", "measure"])["verdict"]
    assert found["a -> b", "recognised as target (%)"] == "better"
    assert found["a -> b", "diversity against real"] == "not told apart"
    assert found["b -> c", "recognised as target (%)"] == "one run a side"
    assert found["a -> b", "FD (domain)"] == "n/a"
    back = ab.steps(table, ["b", "a"]).set_index("measure")["verdict"]
    assert back["recognised as target (%)"] == "worse"
    assert "change inside the reference's mask (%)" not in set(table["measure"])


@pytest.mark.parametrize(("better", "verdict"), [(1, "worse"), (-1, "better")])
def test_less_is_better_where_a_measure_says_so(better: int, verdict: str) -> None:
    side = {"measure": "m", "runs": 3, "seeds": 0.1, "sampling": 0.0, "better": better}
    table = pd.DataFrame([{"name": "a", "mean": 9.0, **side}, {"name": "b", "mean": 1.0, **side}])
    assert ab.steps(table, ["a", "b"])["verdict"].item() == verdict


def test_fig3_shows_every_model_the_same_parts_and_references(tmp_path: Path) -> None:
    dataset = load_dataset(write_judged_dataset(tmp_path / "data"))
    real = RealSide(dataset, 32, 1)
    cases = ab.fig3_cases(real)
    defects = [d for d in dataset.info.defects if d != dataset.info.anchor]
    assert cases.defects == [d for d in defects for _ in dataset.info.products]
    assert cases.products == list(dataset.info.products) * len(defects)
    assert all(a != b for a, b in zip(cases.products, cases.reference_products, strict=True))
    made = {}
    for letter in ("a", "e"):
        config = config_for(dataset, "tiny", letter, train={"precision": "fp32"})
        trainer = Trainer(config, real.held_out, data={"name": "x", "licence": "CC0"})
        jumbled(trainer.ema, scale=0.3)
        made[letter] = cases.translated(
            Synthesizer.load(trainer.export(tmp_path / letter)), "reference"
        )
        assert made[letter].shape == cases.x.shape
    assert not torch.equal(made["a"], made["e"])
    figure = af.ladder_grid(cases, {"(a)": made["a"], "(e)": made["e"]}, "title")
    assert len(figure.axes) == 4 * len(cases.x)
    assert figure.axes[0].get_ylabel() == "part"
    shown = figure.axes[2 * len(cases.x)].images[0].get_array()
    assert shown is not None and shown.shape == (32, 32)
    plt.close(figure)


def test_dots_show_every_seed_and_their_mean(runs: pd.DataFrame) -> None:
    measures = ab.measures_of("latent")
    figure = af.ladder_dots(runs, measures, ["a", "b", "c"], "title")
    axes = [a for a in figure.axes if a.get_title()]
    assert len(axes) == len(measures)
    recognised = next(a for a in axes if a.get_title().startswith("recognised"))
    dots = np.concatenate([np.asarray(line.get_ydata()) for line in recognised.lines])
    assert {50.0, 51.0, 52.0, 70.0} <= set(np.round(dots, 6))
    plt.close(figure)
