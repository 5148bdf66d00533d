"""`train`: from options to a trained export, for DT-GAN and the baselines."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dtgan_core import hardware, kernels
from dtgan_core.checkpoints import step_folders
from dtgan_core.dataset import config_for, data_facts
from dtgan_core.loop import Loop
from dtgan_core.training import Trainer
from dtgan_lab.baselines.config import baseline_config, its_defects, its_images
from dtgan_lab.baselines.zoo import DTGAN, baseline
from dtgan_lab.data import Dataset, ImageStore, load_dataset
from dtgan_lab.options import parse_overrides


def run_train(options: argparse.Namespace) -> None:
    """Load, check, train, export."""
    dataset = load_dataset(options.data)
    goes_on = _goes_on(options)
    workers = hardware.join(options.device)
    make = _dtgan if options.method == DTGAN else _baseline
    trainer = make(options, dataset, workers)
    if goes_on:
        trainer.resume()
    say = print if workers.writes else (lambda text: None)
    if not goes_on and options.out.is_dir():
        say(f"{options.out}: found no checkpoint, the training starts from the beginning")
    say(_begins(options, trainer, dataset))
    if trainer.kernels == "compiled":
        say(
            "resumes to within rounding; for the same bytes after a kill, train with "
            "--set train.kernels='eager'"
        )
    for warning in (*dataset.warnings, *kernel_hints(trainer)):
        print(f"warning: {warning}", file=sys.stderr)
    trainer.run()
    if workers.writes:
        trainer.export(options.out / "export")
    workers.leave()
    say(f"done: {options.out}/export holds the weights, {options.out}/samples the pictures")


def _goes_on(options: argparse.Namespace) -> bool:
    """Whether there is a checkpoint to go on from.

    Raises:
        ValueError: there is something to lose, and --resume is not given or of no help.
    """
    if step_folders(options.out):
        if not options.resume:
            raise ValueError(
                f"{options.out}: holds a run already; go on with it by --resume, or choose another "
                "--out"
            )
        return True
    if options.resume and not options.out.is_dir():  # a slip of the pen, perhaps
        raise ValueError(
            f"{options.out}: found no run to go on with; begin it by the same command without "
            "--resume"
        )
    if (options.out / "export" / "card.json").is_file():
        raise ValueError(
            f"{options.out}: holds an export and no checkpoint to go on from; choose another --out"
        )
    return False


def _dtgan(
    options: argparse.Namespace,
    dataset: Dataset,
    workers: hardware.Workers,
) -> Loop[Any, Any]:
    for name in ("product", "defect", "augment"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name}: {options.method} learns all products and defects together, without "
                "augmentation of D's images; leave it out, or choose a baseline with --method"
            )
    config = config_for(
        dataset, options.preset, options.ablation, **_named(options, parse_overrides(options.set))
    )
    store = ImageStore.load(dataset, "train", config.model.image_size, config.model.channels)
    return Trainer(config, store, options.out, options.device, data_facts(dataset), workers)


def _baseline(
    options: argparse.Namespace,
    dataset: Dataset,
    workers: hardware.Workers,
) -> Loop[Any, Any]:
    method = options.method
    if options.ablation is not None:
        raise ValueError(f"--ablation {options.ablation}: is DT-GAN's alone; leave it out")
    if workers.world > 1:
        raise ValueError(
            f"found {workers.world} processes, expected one: {method} learns from whole batches; "
            "train several products at once instead"
        )
    loop = baseline(method)
    groups = _named(options, parse_overrides(options.set, loop.presets["laptop"]))
    if options.augment is not None:
        if "augment" not in groups:
            raise ValueError(f"--augment: {method} has no discriminator of images; leave it out")
        groups["augment"]["kind"] = options.augment
    defects = its_defects(method, dataset, options.defect)
    config = baseline_config(method, dataset, defects, options.preset, groups)
    store = ImageStore.load(dataset, "train", config.model.image_size, config.model.channels)
    store = its_images(store, method, options.product, defects)
    out, device = options.out, options.device
    trainer: Loop[Any, Any] = loop(config, store, out, device, data_facts(dataset), workers)
    return trainer


def _named(
    options: argparse.Namespace, groups: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Fields that have an option of their own, beside those of --set."""
    named = {
        "iterations": options.iterations,
        "batch_size": options.batch,
        "seed": options.seed,
        "precision": options.precision,
    }
    for group, fields in (("train", named), ("model", {"image_size": options.image_size})):
        for name, value in fields.items():
            if value is None:
                continue
            if name in groups[group]:
                raise ValueError(f"--set {group}.{name}: is given by an option, too; leave one out")
            groups[group][name] = value
    return groups


def _begins(options: argparse.Namespace, trainer: Loop[Any, Any], dataset: Dataset) -> str:
    """What is about to be trained, in a line."""
    config, store = trainer.config, trainer.store
    if options.method == DTGAN:
        what = f"{config.preset} ({config.ablation})"
    else:
        what = f"{options.method} ({config.preset}) of product {store.product_names[0]}"
    return (
        f"{what} on {len(store)} images of {dataset.info.name}: "
        f"{config.train.iterations} iterations of {config.train.batch_size} in "
        f"{trainer.precision} ({trainer.kernels} norms) on {trainer.device}, "
        f"from iteration {trainer.step_count}"
    )


def kernel_hints(trainer: Loop[Any, Any]) -> list[str]:
    """Why a long run works with slower norms than it could, if it does."""
    train = trainer.config.train
    wanted = kernels.wants_compiling(train.kernels, train.iterations)
    if trainer.method != DTGAN or trainer.kernels == "compiled" or not wanted:
        return []
    problem = kernels.why_not_compiled(trainer.device.type)
    return [
        f"norms are not compiled, an iteration takes about a quarter longer ({problem}). A C++ "
        "compiler and Python's headers help (Debian: g++ and python3-dev)"
    ]
