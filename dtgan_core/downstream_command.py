"""What `python -m dtgan_core classify` does."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from dtgan_core.classification import ClassifierConfig, classifier_config
from dtgan_core.classification_arms import ARMS
from dtgan_core.data import Dataset, load_dataset
from dtgan_core.downstream import Comparison, chosen_arms, results_table, run_arms
from dtgan_core.evaluation.quality import warn_of_other_data
from dtgan_core.synthesis import Synthesizer


def run_classify(options: argparse.Namespace, device: torch.device) -> None:
    """`classify`: run the arms that are not in the results file, print the table."""
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: expected at least 1")
    names = list(ARMS) if options.arms == "all" else options.arms.split(",")
    arms = chosen_arms([name.strip() for name in names])
    dataset = load_dataset(options.data)
    synth = None
    if options.checkpoint is not None and any(arm.needs_model for arm in arms.values()):
        synth = Synthesizer.load(options.checkpoint, device)
        warn_of_other_data(synth.card, dataset, f"{options.checkpoint}")
    comparison = Comparison(dataset, _config(options, dataset, synth), synth, device)
    rows = run_arms(
        comparison, list(arms), range(options.seeds), options.images_per_class, options.out
    )
    table = results_table(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    print(
        f"percent, means over seeds; defect_recall: at 1 % of {rows[0]['test']['n_normal']} good "
        "parts thrown away; domain: 50 is chance"
    )
    print(f"done: {options.out}")


def _config(
    options: argparse.Namespace, dataset: Dataset, synth: Synthesizer | None
) -> ClassifierConfig:
    fields: dict[str, Any] = {"channels": dataset.info.channels}
    if synth is not None:
        fields = {
            "channels": synth.config.model.channels,
            "image_size": synth.config.model.image_size,
        }
    named = {
        "backbone": options.backbone,
        "weights": options.weights,
        "image_size": options.image_size,
        "iterations": options.iterations,
    }
    if options.backbone == "small" and options.weights is None:
        named["weights"] = "scratch"
    fields |= {name: value for name, value in named.items() if value is not None}
    return classifier_config(options.preset, **fields)
