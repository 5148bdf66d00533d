"""What `python -m dtgan_core classify` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.zoo import BASELINES, System, load_system
from dtgan_lab.data import Dataset, load_dataset
from dtgan_lab.downstream.arms import ARMS, Arm, arm_named
from dtgan_lab.downstream.classifier import ClassifierConfig, classifier_config
from dtgan_lab.downstream.comparison import Comparison, lacking, results_table, run_arms
from dtgan_lab.downstream.gate import load_gate
from dtgan_lab.downstream.training_set import JUDGE, MODEL, baseline_need
from dtgan_lab.export.gate import Gate
from dtgan_lab.measure.quality import warn_of_other_data

ALL = "all"


def run_classify(options: argparse.Namespace) -> None:
    """`classify`: run the arms that are not in the results file, print the table."""
    folders = baseline_folders(options.baseline)
    arms = _arms(options, folders)
    dataset = load_dataset(options.data)
    comparison = _comparison(options, arms, folders, dataset)
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


def baseline_folders(given: Sequence[str]) -> dict[str, Path]:
    """Folders by what followed each --baseline: trained baselines, or images made elsewhere.

    ValueError: something that is no NAME=DIR, a name of another arm, or one given twice.
    """
    folders = dict[str, Path]()
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ValueError(
                f"--baseline {text}: expected NAME=DIR, such as stylegan2=runs/stylegan2 or "
                "diffusion=my_images"
            )
        if name not in BASELINES and (name in (*ARMS, ALL) or set(name) & set("@+,")):
            raise ValueError(
                f"--baseline {text}: {name!r} cannot name an arm; expected {', '.join(BASELINES)} "
                "or a new name"
            )
        if name in folders:
            raise ValueError(
                f"--baseline {text}: {name} is {folders[name]} already; expected each name once"
            )
        folders[name] = Path(folder)
    return folders


def _arms(options: argparse.Namespace, folders: Mapping[str, Path]) -> dict[str, Arm]:
    """The arms asked for, if known; of `all` those that lack nothing."""
    if options.arms.strip() != ALL:
        names = [name.strip() for name in options.arms.split(",")]
        return {name: arm_named(name, folders) for name in names}
    given = {baseline_need(name) for name in folders}
    given |= {MODEL} if options.checkpoint is not None else set()
    given |= {JUDGE} if options.judge is not None else set()
    known = ARMS | {name: arm_named(name, folders) for name in folders}
    for need, lame in lacking(known, given).items():
        print(f"left out, for want of {need.option}: {', '.join(lame)}", file=sys.stderr)
    return {name: arm for name, arm in known.items() if given.issuperset(arm.needs)}


def _comparison(
    options: argparse.Namespace,
    arms: Mapping[str, Arm],
    folders: Mapping[str, Path],
    dataset: Dataset,
) -> Comparison:
    """Load what the arms need, and no more."""
    device = options.device
    needs = {need for arm in arms.values() for need in arm.needs}
    synth, gate = None, None
    if MODEL in needs and options.checkpoint is not None:
        synth = Synthesizer.load(options.checkpoint, device)
        warn_of_other_data(synth.card, dataset, f"{options.checkpoint}")
    baselines = {
        name: _baseline(folder, dataset, device)
        for name, folder in folders.items()
        if baseline_need(name) in needs
    }
    config = _config(options, dataset, synth, baselines)
    if JUDGE in needs and synth is not None and options.judge is not None:
        gate = _gate(synth, options.judge, dataset)
    test = None if options.test is None else load_dataset(options.test)
    return Comparison(dataset, config, synth, device, baselines, gate, test)


def _baseline(folder: Path, dataset: Dataset, device: torch.device) -> System:
    system = load_system(folder, device)
    for card in system.cards[:1]:
        warn_of_other_data(dict(card), dataset, f"{folder}")
    return system


def _gate(synth: Synthesizer, judge: Path, dataset: Dataset) -> Gate:
    gate = load_gate(synth, judge, dataset)
    assert gate.judge is not None
    warn_of_other_data(gate.judge.card, dataset, f"{judge}")
    return gate


def _config(
    options: argparse.Namespace,
    dataset: Dataset,
    synth: Synthesizer | None,
    baselines: Mapping[str, System],
) -> ClassifierConfig:
    fields: dict[str, Any] = {"channels": dataset.info.channels}
    if synth is not None:
        model = synth.config.model
        fields = {"channels": model.channels, "image_size": model.image_size}
    for system in baselines.values():
        if system.image_size is not None:
            fields.setdefault("image_size", system.image_size)
    names = ("backbone", "weights", "image_size", "iterations")
    named = {name: getattr(options, name) for name in names}
    if options.backbone == "small" and options.weights is None:
        named["weights"] = "scratch"
    fields |= {name: value for name, value in named.items() if value is not None}
    return classifier_config(options.preset, **fields)
