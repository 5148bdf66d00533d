"""The downstream comparison: arms x seeds, one line of a results file each, resumable.

A line names everything that a result depends on: arm, seed, images per class, and the hashes of the
configuration, of the data's manifest and, for arms that need them, of the model and of the judge.
A line that is there already is not run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dtgan_core.batches import ImageStore
from dtgan_core.hardware import describe, resolve_precision
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.zoo import BASELINES, ZOO, System
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.data.validation import require_labels
from dtgan_lab.downstream.arms import Arm, arm_named
from dtgan_lab.downstream.classifier import ClassifierConfig
from dtgan_lab.downstream.training import answers, measures, train_classifier
from dtgan_lab.downstream.training_set import Materials, Need, refuse_leaks, training_store
from dtgan_lab.export.gate import Gate
from dtgan_lab.files import read_json_lines
from dtgan_lab.measure.results import append_result

FORMAT = 1  # raise it when an arm or the training changes, so that old lines are run again
KEY = (
    "format",
    "arm",
    "seed",
    "images_per_class",
    "config_sha256",
    "manifest_sha256",
    "checkpoint_sha256",
    "judge_sha256",  # older lines have none, and are of arms without a gate
    "test_sha256",  # none where the test images are the data set's own
)


def lacking(arms: Mapping[str, Arm], given: Collection[Need]) -> dict[Need, list[str]]:
    """What arms need and nobody gave: need -> the arms."""
    found: dict[Need, list[str]] = {}
    for name, arm in arms.items():
        for need in arm.needs:
            if need not in given:
                found.setdefault(need, []).append(name)
    return found


class Comparison:
    """Everything that arms have in common: data with train, val and test, models, configuration."""

    def __init__(
        self,
        dataset: Dataset,
        config: ClassifierConfig,
        synth: Synthesizer | None = None,
        device: torch.device | str = "cpu",
        baselines: Mapping[str, System] | None = None,
        gate: Gate | None = None,
        test: Dataset | None = None,
    ) -> None:
        """Read the images; `baselines` are systems by the names of their arms.

        `test` is another data set whose test images are looked at instead of `dataset`'s own.
        ValueError: a model makes other images, or knows other names, than asked for, or `test` has
        other labels or shows images that `dataset` teaches.
        """
        if test is not None:
            require_labels(test, dataset.info.products, dataset.info.defects)
            rows, shown = dataset.manifest, test.manifest[test.manifest["split"] == "test"]
            taught = rows[rows["split"].isin(("train", "pool"))]
            for path in shown.loc[shown["sha256"].isin(taught["sha256"]), "path"]:
                raise ValueError(
                    f"{test.root / path}: is a training image of {dataset.root}, too; expected "
                    "test images that it does not teach"
                )
        if synth is not None:  # it may know further products
            _check_images("the model", synth.config.model, config, "--checkpoint")
            known = tuple(p for p in synth.products if p in dataset.info.products)
            require_labels(dataset, known or synth.products, synth.defects)
        for name, baseline in (baselines or {}).items():
            _check_baseline(name, baseline, dataset, config)
        self.dataset, self.config, self.device = dataset, config, torch.device(device)
        self.test = test or dataset
        size, channels = config.image_size, config.channels
        store = training_store(dataset, size, channels)
        self.materials = Materials(store, synth, baselines or {}, gate)
        self.val = ImageStore.load(dataset, "val", size, channels, progress=False)

    def key(self, name: str, seed: int, images_per_class: int) -> dict[str, Any]:
        """What a result depends on, by the names `KEY`."""
        made_of = self.materials
        arm = arm_named(name, made_of.baselines)
        baseline = made_of.baselines.get(arm.baseline or "")
        model: Synthesizer | System | None = made_of.synth if arm.needs_model else baseline
        gate = made_of.gate if arm.gated else None
        config = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        return {
            "format": FORMAT,
            "arm": name,
            "seed": seed,
            "images_per_class": images_per_class,
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
            "manifest_sha256": self.dataset.manifest_hash,
            "checkpoint_sha256": model.checkpoint_hash if model else None,
            "judge_sha256": gate.judge_sha256 if gate else None,
            "test_sha256": None if self.test is self.dataset else self.test.manifest_hash,
        }

    def run(
        self, name: str, seed: int, images_per_class: int, progress: bool = True
    ) -> dict[str, Any]:
        """Make an arm's training set, train, choose by `val`, look at `test` once.

        Returns the line of the results file. DatasetError: a held-out image got into the training
        set, or masks are missing. ValueError: a model or a judge is needed and missing.
        """
        begin = time.perf_counter()
        arm = arm_named(name, self.materials.baselines)
        taught = arm.training_set(self.materials, images_per_class, seed)
        refuse_leaks({path for source in taught.sources for path in source}, self.dataset)
        made = time.perf_counter()
        trained = train_classifier(taught, self.val, arm, self.config, seed, self.device, progress)
        size, channels = self.config.image_size, self.config.channels
        test = ImageStore.load(self.test, "test", size, channels, progress=False)
        chances, _ = answers(trained.network, test.images)
        of_domain = trained.domain_accuracy
        return {
            **self.key(name, seed, images_per_class),
            "title": arm.title,
            "data": self.dataset.info.name,
            "test_data": self.test.info.name,
            "counts": taught.counts(self.dataset.info.defects),
            "gate": taught.gate_counts(self.dataset.info.defects) if arm.gated else None,
            "iteration": trained.iteration,
            "val_balanced_accuracy": round(trained.val_balanced_accuracy, 6),
            "domain_accuracy": None if of_domain is None else round(of_domain, 6),
            "test": measures(chances, test),
            "seconds_making": round(made - begin, 1),
            "seconds": round(time.perf_counter() - begin, 1),
            "config": dataclasses.asdict(self.config),
            "hardware": describe(self.device, resolve_precision("auto", self.device)),
        }


def _check_images(what: str, model: Any, config: ClassifierConfig, option: str) -> None:
    found, expected = (model.channels, model.image_size), (config.channels, config.image_size)
    if found != expected:
        size = f"--image-size {found[1]}, or " if found[0] == expected[0] else ""
        raise ValueError(
            f"{what} makes images of {found[0]} channel(s) and {found[1]} pixels, the "
            f"classifier takes {expected[0]} and {expected[1]}; give {size}another {option}"
        )


def _check_baseline(name: str, system: System, dataset: Dataset, config: ClassifierConfig) -> None:
    """Refuse a system of another method, of other images, or without a product or defect."""
    info, train = dataset.info, f"python -m dtgan_core train --method {name}"
    if name in BASELINES and system.method != name:
        raise ValueError(
            f"--baseline {name}: found models of {system.method}, expected {name}; give a "
            f"folder that `{train}` wrote"
        )
    if system.image_size is not None:
        _check_images(f"--baseline {name}", system, config, "folder")
    if system.anchor not in ("", info.anchor):
        raise ValueError(
            f"--baseline {name}: good parts are {system.anchor}, {dataset.root} calls them "
            f"{info.anchor}; give the data set it was trained on"
        )
    rows = dataset.manifest
    rows = rows[(rows["split"] == "train") & (rows["defect"] != info.anchor)]
    for product, defect in dict.fromkeys(zip(rows["product"], rows["defect"], strict=True)):
        try:
            system.check(product, defect)
        except ValueError as error:
            remedy = ""
            if name in BASELINES:
                pair = f" --defect {defect}" if ZOO[name].pairs else ""
                remedy = "; give the data set it was trained on, or train it: "
                remedy += f"{train} --product {product}{pair}"
            raise ValueError(
                f"--baseline {name}: {error}; expected all that {dataset.root} holds{remedy}"
            ) from error


def run_arms(
    comparison: Comparison,
    names: Sequence[str],
    seeds: Sequence[int],
    images_per_class: int,
    out: Path,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Run what is not in the results file yet, a line at a time; all arms of a seed come first.

    Returns the lines of the file that belong to these arms and seeds. ValueError: an unknown arm or
    product, an arm whose model or judge is missing, or a damaged results file.
    """
    materials = comparison.materials
    arms = {name: arm_named(name, materials.baselines) for name in names}
    missing = [
        f"the arms {', '.join(lame)} need {need.what}; name one with {need.option}"
        for need, lame in lacking(arms, materials.given()).items()
    ]
    if missing:
        raise ValueError("; ".join(missing))
    for arm in arms.values():  # now, not after the arms before it
        materials.donor(arm.donor)
        arm.check_amounts(materials, images_per_class)
    keys = [comparison.key(name, seed, images_per_class) for seed in seeds for name in arms]
    done = {_identity(row) for row in read_results(out)}
    for key in keys:
        if _identity(key) in done:
            continue
        row = comparison.run(key["arm"], key["seed"], images_per_class, progress)
        append_result(out, row)
        if progress:
            print(
                f"{row['arm']}, seed {row['seed']}: error {100 * row['test']['error']:.1f} %, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
    wanted = {_identity(key) for key in keys}
    return [row for row in read_results(out) if _identity(row) in wanted]


# --- the results file ----------------------------------------------------------------------------


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file, whole and sound; none if it is not there yet."""
    return read_json_lines(path, "remove it, or choose another --out") if path.is_file() else []


def in_per_cent(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of a results file, by the names of `results_table`'s columns."""
    test, domain = row["test"], row["domain_accuracy"]
    return {
        "error": 100 * test["error"],
        **{f"recall {y}": 100 * share for y, share in test["recall"].items()},
        "defect_recall": 100 * test["defect_recall"],
        "domain": float("nan") if domain is None else 100 * domain,
    }


def results_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row an arm: means over seeds in percent, with the spread of the error.

    Columns: arm, n (test images), seeds, error, error_std (NaN with one seed), recall of each
    defect, defect_recall (at 1 % false rejects), domain (accuracy of the domain head, NaN without
    synthetic images), seconds.
    """
    flat = pd.DataFrame(
        {"arm": row["arm"], "n": row["test"]["n"], **in_per_cent(row), "seconds": row["seconds"]}
        for row in rows
    )
    groups = flat.groupby("arm", sort=False)
    table = groups.mean(numeric_only=True)
    table.insert(1, "seeds", groups.size())
    table.insert(3, "error_std", groups["error"].std())
    return table.reset_index()
