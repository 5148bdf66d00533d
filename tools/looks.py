"""Write the numbers that README and docs/results.md give of a model of the synthetic SDI.

    python tools/looks.py --data build/data/synthetic-sdi --cache build/cache \
        --checkpoint notebooks/checkpoints/composed-laptop --out results/composed-laptop
    python tools/looks.py --data build/data/synthetic-sdi --cache build/cache \
        --out results/yardsticks

OUT.looks.csv: how defects look beside `--looks` fresh images of every product and defect.
OUT.fd.csv: FD of `--made` images a cell to `--fresh` ones, by sampling seed, each way of guidance.
Without a checkpoint the second file alone, of the yardsticks. The rows of the tables are printed;
`tests/test_docs.py` compares them with the pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.generators import DtGan
from dtgan_lab.data import load_dataset
from dtgan_lab.measure.cells import (
    GUIDANCES,
    LARGEST_RATIO,
    SMALLEST_RATIO,
    fresh_cells,
    model_looks,
    polarity_error,
)
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.sets import FLOOR, NORMAL, PASTE
from dtgan_lab.measure.yardsticks import POOLED, FreshReference, Yardsticks

SIDE = 64
SEEDS = (0, 1, 2)
GIVEN = {"latent": "drawn", "reference": "moved"}
Makers = dict[str, Callable[[Yardsticks], Gallery]]


def makers_of(synth: Synthesizer | None) -> Makers:
    """What makes the images of each row: both ways of a model, or the yardsticks."""
    if synth is None:
        return {FLOOR: Yardsticks.floor, PASTE: Yardsticks.pasted, NORMAL: Yardsticks.normals}
    system = DtGan(synth)
    return {way: partial(Yardsticks.made, system=system, way=way) for way in GUIDANCES}


def distances(fresh: FreshReference, makers: Makers, seeds: tuple[int, ...]) -> pd.DataFrame:
    """FD by "guidance" (or yardstick), "seed" and "column": a cell such as "A Spots", or pooled."""
    rows = []
    columns = [POOLED, *(" ".join(cell) for cell in fresh.points)]
    for seed in seeds:
        own = fresh.yardsticks.seeded(seed)
        for name, make in makers.items():
            for row in fresh.compare(make(own), name, seed, columns):
                value = row[fresh.extractor.label("FD")]
                rows.append({"guidance": name, "seed": seed, "column": row["column"], "FD": value})
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def summary(fd: pd.DataFrame, looks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Columns of the README's table, a row a guidance: means, and "... ±" over sampling seeds.

    "pooled", "cells" (mean of the six) and, of a model, "polarity" (error) and "right": contrasts
    and widths, of twelve, that are within 0.7 to 1.4 of real ones.
    """
    pooled = fd[fd["column"] == POOLED].set_index(["guidance", "seed"])["FD"]
    cells = fd[fd["column"] != POOLED].groupby(["guidance", "seed"], sort=False)["FD"].mean()
    table: dict[str, pd.Series] = {}
    for name, values in {"pooled": pooled, "cells": cells}.items():
        groups = values.groupby("guidance", sort=False)
        table |= {name: groups.mean(), f"{name} ±": groups.std()}
    if looks is not None:
        ratios = pd.concat([looks[name] / looks[f"real {name}"] for name in ("contrast", "width")])
        ways = pd.concat([looks["guidance"]] * 2)
        right = ratios.between(SMALLEST_RATIO, LARGEST_RATIO).to_numpy()
        table["polarity"] = polarity_error(looks)
        table["right"] = pd.Series(right, ways.to_numpy()).groupby(level=0).sum()
    return pd.DataFrame(table)


def results_rows(looks: pd.DataFrame) -> list[str]:
    """Rows of the table of looks in docs/results.md: ratios to real ones, a cell and guidance."""

    def short(value: float) -> str:
        return "" if value != value else f"{value:.2f}".removeprefix("0")

    rows = []
    for row in looks.sort_values("guidance", kind="stable").to_dict(orient="records"):
        cells = [f"{GIVEN[row['guidance']]}, {row['product']} {row['defect']}"]
        for name in ("contrast", "width", "area", "pieces"):
            cells.append(f"{row[name] / row[f'real {name}']:.2f}")
        cells.append(f"{row['dark']:.2f} / {row['real dark']:.2f}".replace("0.", "."))
        rows.append("| " + " | ".join([*cells, short(row["overlap"]), short(row["style"])]) + " |")
    return [row.replace("|  |", "| |") for row in rows]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, and print the rows of the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the synthetic SDI")
    parser.add_argument("--checkpoint", type=Path, help="an export; default: the yardsticks")
    parser.add_argument("--out", type=Path, required=True, help="path of the files without endings")
    parser.add_argument("--cache", type=Path, help="keeps the features of fresh images")
    parser.add_argument("--fresh", type=int, default=5000, help="fresh images a cell (5000)")
    parser.add_argument("--made", type=int, default=400, help="made images a cell and seed (400)")
    parser.add_argument("--looks", type=int, default=1000, help="parts a cell for looks (1000)")
    options = parser.parse_args(arguments)
    dataset, extract = load_dataset(options.data), load_extractor("domain")
    synth = None if options.checkpoint is None else Synthesizer.load(options.checkpoint)
    fresh = FreshReference(dataset, extract, SIDE, options.fresh, options.made, options.cache)
    fd, looks = distances(fresh, makers_of(synth), SEEDS), None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    fd.to_csv(f"{options.out}.fd.csv", index=False)
    if synth is not None:
        kinds = [name for name in synth.defects if name != synth.anchor]
        looks = model_looks(synth, fresh_cells(synth.products, kinds, options.looks, SIDE))
        looks.to_csv(f"{options.out}.looks.csv", index=False)
        print("\n".join(results_rows(looks)))
    print(summary(fd, looks).round(2).to_string())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
