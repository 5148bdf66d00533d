r"""A study: many runs from one plan, each trained, judged and noted down; stop and go on at will.

    python -m dtgan_core study --plan results/ablation.toml --data DATA --judge JUDGE \
        --out runs/ablation --results results/ablation.jsonl

A plan is TOML: fields for all runs, then a table a run, whose fields come first:

    iterations = 2400
    seeds = [0, 1, 2]                # each run once a seed, named NAME-SEED
    [run.a]
    ablation = "a"
    [run.e-quiet]
    ablation = "e"
    set = ["weights.ds=0.03"]        # as `train --set`

A run whose row stands in the results, of the same configuration, data and judge, is passed over;
one that was stopped goes on from its newest checkpoint; one that diverges is told, and the others
go on.  Several processes of one machine may share a plan: each takes the next run that no other
holds.  Many machines do with Ray (`--ray ADDRESS`, or `local`): every one has the kit installed,
and reads and writes the same folders under the same paths.  A run is a task, which Ray starts where
there is room, and again where a machine is lost; rows are written by the first machine alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dtgan_core.checkpoints import step_folders
from dtgan_core.config import Config
from dtgan_core.dataset import config_for, data_facts
from dtgan_core.files import sha256_of, typed
from dtgan_core.loop import NonFiniteLossError
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.data import Dataset, ImageStore, load_dataset
from dtgan_lab.files import locked, read_toml
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.judge import WEIGHTS_NAME, Judge
from dtgan_lab.measure.quality import assess, warn_of_other_data
from dtgan_lab.measure.real import RealSide
from dtgan_lab.measure.results import append_result, read_results
from dtgan_lab.measure.yardsticks import FreshReference
from dtgan_lab.options import device, parse_overrides

SEEDS = (0, 1, 2)  # of sampling, in the evaluation
RUN_NAME = re.compile(r"[\w+-][\w.+-]{0,99}")  # never leaves --out


@dataclass(frozen=True)
class PlanFields:
    """What a plan may say of a run."""

    preset: str = "laptop"
    ablation: str = "e"
    iterations: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    set: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One run of a plan: `name` is that of its table and its seed."""

    name: str
    config: Config

    @property
    def config_hash(self) -> str:
        """Hex sha256 of what the configuration sets otherwise than the dataclasses do.

        A field that the kit gets later leaves the hash as it is, as long as it has its default.
        """
        text = json.dumps(_set_fields(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _set_fields(config: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from its defaults, groups within."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found[item.name] = _set_fields(value)
        elif value != item.default:
            found[item.name] = value
    return found


def read_plan(path: Path, dataset: Dataset) -> list[Run]:
    """The runs of a plan, in its order: every run with its first seed, then with the second ...

    ValueError: the TOML file cannot be read, or says what no run can be made of.
    """
    plan = read_toml(path, "a plan")
    tables = plan.pop("run", {})
    if not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path}: found no run, expected a table [run.NAME] for each")
    runs: list[tuple[int, Run]] = []
    for name, table in tables.items():
        if not RUN_NAME.fullmatch(name):
            raise ValueError(
                f"{path}: found a run {name[:80]!r}, expected a name of letters, digits and . _ + -"
                ", which becomes a folder in --out"
            )
        if not isinstance(table, dict):
            raise ValueError(f"{path}: run {name}: found {table!r}, expected a table [run.{name}]")
        try:
            fields = typed(plan | table, PlanFields)
            for order, seed in enumerate(fields.seeds):
                runs.append((order, Run(f"{name}-{seed}", _config(fields, seed, dataset))))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: run {name}: {error}") from error
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])]


def _config(fields: PlanFields, seed: int, dataset: Dataset) -> Config:
    groups = parse_overrides(fields.set)
    groups["train"]["seed"] = seed
    if fields.iterations is not None:
        groups["train"]["iterations"] = fields.iterations
    return config_for(dataset, fields.preset, fields.ablation, **groups)


# --- doing it ------------------------------------------------------------------------------------


@dataclass
class Study:
    """The runs of a plan on one data set, judged by one judge.

    `results` gets a row a finished run, `fresh` are images that distances are told to; `diverged`
    says which runs did so, and why.
    """

    runs: list[Run]
    dataset: Dataset
    judge: Judge
    judge_hash: str
    out: Path
    results: Path
    device: torch.device
    fresh: FreshReference | None = None
    diverged: dict[str, str] = field(default_factory=dict)
    _stores: dict[tuple[int, int], tuple[ImageStore, RealSide]] = field(default_factory=dict)

    def done(self, run: Run) -> bool:
        """Whether the results hold this run, of the same configuration, data and judge."""
        if not self.results.is_file():
            return False
        wanted = {
            "run": run.name,
            "config_sha256": run.config_hash,
            "manifest_sha256": self.dataset.manifest_hash,
            "judge_sha256": self.judge_hash,
        }
        # rows of other commands lack these columns
        table = read_results(self.results).reindex(columns=list(wanted))
        return bool((table == pd.Series(wanted)).all(axis=1).any())

    def execute(
        self,
        limit: int | None = None,
        compute: Callable[[Run], dict[str, Any] | None] | None = None,
    ) -> list[str]:
        """Do what is left of the plan, `limit` runs at most; returns the names of those done.

        `compute` gives a run's row in place of this class's own.
        """
        finished: list[str] = []
        for run in self.left():
            if len(finished) == limit:
                break
            try:
                row = (compute or self.compute)(run)
            except NonFiniteLossError as error:
                self.diverged[run.name] = str(error)
                print(f"{run.name}: diverged: {error}", file=sys.stderr)
                continue
            if row is not None and not self.done(run):
                append_result(self.results, row)
                finished.append(run.name)
        return finished

    def left(self) -> list[Run]:
        """The runs without a row."""
        return [run for run in self.runs if not self.done(run)]

    def compute(self, run: Run) -> dict[str, Any] | None:
        """Train a run, or what is left of it, and judge it; NonFiniteLossError where it diverges.

        Returns its row; None where another process of this machine is at it, or was.
        """
        folder = self.out / run.name
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=False) as mine:
            if not mine or self.done(run):
                return None
            print(f"{run.name}: {run.config.train.iterations} iterations", flush=True)
            store, real = self._sides(run.config)
            trainer = Trainer(run.config, store, folder, self.device, data_facts(self.dataset))
            if step_folders(folder):
                trainer.resume()
            trainer.run()
            trainer.export(folder / "export")
            return self._row(run, folder, real)

    def _sides(self, config: Config) -> tuple[ImageStore, RealSide]:
        """Training images and the real side, read once for all runs of a size."""
        size = (config.model.image_size, config.model.channels)
        if size not in self._stores:
            store = ImageStore.load(self.dataset, "train", *size)
            self._stores[size] = store, RealSide(self.dataset, *size)
        return self._stores[size]

    def _row(self, run: Run, folder: Path, real: RealSide) -> dict[str, Any]:
        synth = Synthesizer.load(folder / "export", self.device)
        found = assess(synth, self.dataset, self.judge, SEEDS, real)
        row = {
            "run": run.name,
            "ablation": run.config.ablation,
            "seed": run.config.train.seed,
            "iterations": synth.card["iterations"],
            "seconds": synth.card["seconds"],
            "hardware": synth.card["hardware"],
            "config_sha256": run.config_hash,
            "manifest_sha256": self.dataset.manifest_hash,
            "checkpoint_sha256": synth.checkpoint_hash,
            "judge_sha256": self.judge_hash,
            "sampling_seeds": len(SEEDS),
            "overall": found.overall,
            "cells": found.summary.to_dict(orient="records"),
            "translations": found.translations.to_dict(orient="records"),
        }
        if self.fresh:
            row["fresh_a_cell"] = self.fresh.a_cell
            row["distances"] = self.fresh.distances(synth, SEEDS)
        return row


def load_study(options: argparse.Namespace, device: torch.device) -> Study:
    """What the options of `study` ask for, checked before hours of training."""
    dataset = load_dataset(options.data)
    runs = read_plan(options.plan, dataset)
    judge = Judge.load(options.judge, device)
    judge.check_names(dataset.info.products, dataset.info.defects, str(options.data))
    for run in runs:
        model = run.config.model
        judge.check_images(model.channels, model.image_size, model.image_size)
    warn_of_other_data(judge.card, dataset, f"{options.judge}")
    judge_hash = sha256_of(options.judge / WEIGHTS_NAME)
    fresh = None
    if options.fresh is not None:
        sizes = {run.config.model.image_size for run in runs}
        if len(sizes) > 1:
            raise ValueError(f"{options.plan}: runs of {sorted(sizes)} pixels; expected one size")
        extractor = load_extractor("domain", None, device)
        fresh = FreshReference(dataset, extractor, sizes.pop(), options.fresh, cache=options.cache)
    return Study(runs, dataset, judge, judge_hash, options.out, options.results, device, fresh)


# --- on a Ray cluster ----------------------------------------------------------------------------


RETRIES = 10  # of a run whose machine or process is lost, each from its newest checkpoint


def run_study(options: argparse.Namespace) -> None:
    """`study`: do a plan, or what is left of it."""
    study = load_study(options, device(options.device))
    if options.ray is None:
        finished = study.execute(options.limit)
    else:
        finished = execute_on_ray(study, options)
    total = len(study.runs)
    print(
        f"done: {len(finished)} runs finished, {len(study.left())} of {total} left; "
        f"{options.results}"
    )
    if study.diverged:
        raise NonFiniteLossError(
            f"{options.plan}: diverged: {', '.join(study.diverged)}; change them in the plan"
        )


def execute_on_ray(study: Study, options: argparse.Namespace) -> list[str]:
    """Do what is left of a plan (see `Study.execute`).

    ValueError: Ray is missing, cannot be reached, or has no room for a run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local one reports to nobody
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"--ray {options.ray}: found no Ray; install it: pip install 'dtgan-kit[ray]'"
        ) from error
    if options.fresh is not None and options.cache is None:
        raise ValueError("--ray with --fresh: expected --cache, else every run draws them anew")
    runs = study.left()[: options.limit]
    if not runs:
        return []
    try:
        ray.init(options.ray, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ValueError(
            f"--ray {options.ray}: found no cluster ({error}); start one with `ray start --head` "
            "and give its address, or --ray local"
        ) from error
    lost = []
    try:
        cpus, gpus = _shares(options, ray.cluster_resources())
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_compute)
        whole_paths = argparse.Namespace(
            **{
                name: value.resolve() if isinstance(value, Path) else value
                for name, value in vars(options).items()
            }
        )
        tasks = {run.name: task.remote(whole_paths, run, options.threads or cpus) for run in runs}

        def row(run: Run) -> dict[str, Any] | None:
            try:
                return ray.get(tasks[run.name]) if run.name in tasks else None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # what the run itself has raised
            except ray.exceptions.RayError as error:
                lost.append(run.name)
                print(f"{run.name}: lost: {error}", file=sys.stderr)
                return None

        finished = study.execute(compute=row)
    finally:
        ray.shutdown()
    if lost:
        raise ValueError(
            f"--ray {options.ray}: lost {RETRIES + 1} times: {', '.join(lost)}; expected machines "
            "that stay; the same command goes on with them"
        )
    return finished


def _compute(options: argparse.Namespace, run: Run, threads: int) -> dict[str, Any] | None:
    """One run, in a process of the cluster."""
    torch.set_num_threads(threads)
    return load_study(options, device(options.device)).compute(run)


def _shares(options: argparse.Namespace, found: dict[str, float]) -> tuple[int, float]:
    """CPUs and GPUs of a run; ValueError where there is no room for one."""
    cpus, gpus = options.cpus_per_run or options.threads or 1, options.gpus_per_run
    if gpus is None:
        gpus = float(options.device != "cpu" and found.get("GPU", 0) >= 1)
    for name, option, wanted in (("CPU", "--cpus-per-run", cpus), ("GPU", "--gpus-per-run", gpus)):
        if wanted < 0 or wanted > found.get(name, 0):
            raise ValueError(
                f"{option} {wanted:g}: expected at most the {found.get(name, 0):g} {name}s that "
                f"--ray {options.ray} has"
            )
    return cpus, gpus
