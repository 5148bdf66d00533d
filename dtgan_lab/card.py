"""What a judge found, written into a checkpoint's card, with a picture of its worst images.

    python -m dtgan_core card --checkpoint DIR --data DATA --judge JUDGE

The faults are chosen by a rule, not by hand: cells that do not look like real ones or are below the
aims are listed, and of every cell one image is shown: one that the judge did not recognise, if
there is one, and whose background kept least.
"""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from dtgan_core.checkpoints import read_json
from dtgan_core.files import write_atomic, write_json_atomic
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.cli.evaluate import evaluation
from dtgan_lab.measure.cells import AS_REAL
from dtgan_lab.measure.judge import Judge
from dtgan_lab.measure.quality import LATENT, REFERENCE, Assessment
from dtgan_lab.measure.real import RealSide
from dtgan_lab.measure.results import records
from dtgan_lab.plots.figures import as_pictures, image_table, use_style

FAULTS_NAME = "faults.png"
# What the kit aims at, a share of 1 or dB; copies are held against those among real images.
AIMS = {
    "recognised": 0.90,
    "product_kept": 0.99,
    "background_psnr": 25.0,
    "relative_diversity": 0.5,
}
WORDS = {
    "recognised": "recognised as the target",
    "product_kept": "product kept",
    "background_psnr": "background",
    "relative_diversity": "diversity of real",
    "copies": "copies of training images",
}
CELL = ("product", "defect", "guidance")


def run_card(options: argparse.Namespace) -> None:
    """`card`: evaluate, write the picture, then the card."""
    folder = options.checkpoint
    if not (folder / "card.json").is_file():  # a finished run: its export, as `Synthesizer.load`
        folder = folder / "export"
    synth = Synthesizer.load(folder, options.device)
    seen = evaluation(synth, options, options.seeds)
    quality = quality_facts(seen.found, seen.trust, seen.judge, seen.looks)
    figure = faults_figure(synth, seen.real, seen.found.images)
    write_atomic(folder / FAULTS_NAME, lambda file: figure.savefig(file, format="png"))
    card = read_json(folder / "card.json") | {"quality": seen.origin(options) | quality}
    write_json_atomic(folder / "card.json", card)
    print("\n".join(quality["below_the_aims"]) or "no cell is below the aims")
    print(f"done: {folder}/card.json and {FAULTS_NAME}")


# --- numbers -------------------------------------------------------------------------------------


def quality_facts(
    found: Assessment, trust: pd.DataFrame, judge: Judge, looks: pd.DataFrame
) -> dict[str, Any]:
    """The part of a card that says how good the model is, as plain JSON.

    "looks" (a row a product, defect and guidance), "judge" (seed, held-out accuracy), "cells" (a
    row likewise, with mean and `_std` over sampling seeds; null where not defined),
    "below_the_aims" (a line a shortfall) and "faults_picture".
    """
    right = trust[(trust["defect"] == "all") & (trust["product"] == "all")]
    return {
        "looks": records(looks.round(4)),
        "judge": {
            "seed": judge.config.seed,
            "right_on_real": dict(zip(right["question"], right["right"].round(4), strict=True)),
            "n": int(right["n"].max()),
        },
        "cells": records(found.summary.round(4)),
        "below_the_aims": shortfalls(found.summary, looks),
        "faults_picture": FAULTS_NAME,
    }


def shortfalls(summary: pd.DataFrame, looks: pd.DataFrame) -> list[str]:
    """A line for every cell unlike real ones, and for every one below an aim, the worst first."""
    rows = looks.to_dict(orient="records")
    lines = [f"{_cell(row)}: {row['verdict']}" for row in rows if row["verdict"] != AS_REAL]
    for name, aim in AIMS.items():
        for row in summary[summary[name] < aim].sort_values(name).to_dict(orient="records"):
            made, wanted = _amount(name, row[name]), _amount(name, aim)
            if made != wanted:  # below it by less than is written
                lines.append(f"{_cell(row)}: {WORDS[name]} {made}, aim {wanted}")
    more = summary[summary["copies"] > summary["copies_real"]].sort_values("copies")
    for row in more.iloc[::-1].to_dict(orient="records"):
        made, real = (_amount("copies", row[key]) for key in ("copies", "copies_real"))
        if made != real:
            lines.append(
                f"{_cell(row)}: {WORDS['copies']} {made}, among real held-out images {real}"
            )
    return lines


def _cell(row: dict[Any, Any]) -> str:
    return " ".join(str(row[key]) for key in CELL)


def _amount(name: str, value: float) -> str:
    return f"{value:.1f} dB" if name == "background_psnr" else f"{100 * value:.0f} %"


# --- picture -------------------------------------------------------------------------------------


def worst_images(images: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """Of every product, defect and guidance the image that is furthest from what it should be.

    Of Normal sources: one that the judge takes for something else comes before one it recognises,
    and among equals the one whose background kept least.
    """
    chosen = images[(images["source"] == anchor) & (images["target"] != anchor)]
    order = chosen.sort_values(["recognised", "background_psnr"], kind="stable")
    return order.drop_duplicates(["product", "target", "guidance"]).sort_index()


def faults_figure(synth: Synthesizer, real: RealSide, images: pd.DataFrame) -> Figure:
    """The worst image of every cell beside its source, with what the judge took it for."""
    use_style()
    worst = worst_images(images, synth.anchor)
    number = {path: k for k, path in enumerate(real.held_out.paths)}
    defects = [name for name in synth.defects if name != synth.anchor]
    columns = [(y, guidance) for y in defects for guidance in (REFERENCE, LATENT)]
    rows = []
    for product in synth.products:
        row: list[Any] = []
        for y, guidance in columns:
            keys = (worst["product"] == product, worst["target"] == y)
            cell = worst[keys[0] & keys[1] & (worst["guidance"] == guidance)]
            row += _pair(synth, real, number, cell.iloc[0]) if len(cell) else [None, None]
        rows.append(row)
    titles = [part for y, guidance in columns for part in ("part", f"{y}, {guidance}")]
    return image_table(
        rows,
        [textwrap.fill(title, 10) for title in titles],
        list(synth.products),
        "The worst image of every cell, by the judge and by its background",
    )


def _pair(synth: Synthesizer, real: RealSide, number: dict[str, int], row: Any) -> list[Any]:
    """Source and result of one row of `quality.Assessment.images`, made again."""
    store, source = real.held_out, number[row["path"]]
    x = store.to_float(torch.tensor([source]))
    if row["guidance"] == REFERENCE:
        x_ref = store.to_float(torch.tensor([number[row["reference"]]]))
        guide = synth.reference_guides(x_ref, row["target"])
    else:
        guide = synth.latent_guides(row["target"], int(row["seed"]), [source])
    fake = synth.paint(synth.background(x), guide)
    return [as_pictures(x)[0], as_pictures(fake)[0]]
