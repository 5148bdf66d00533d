"""What the commands of `python -m dtgan_core` do, each on parsed options."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dtgan_core import kernels
from dtgan_core.checkpoints import (
    Card,
    CheckpointError,
    fields_of,
    make_card,
    newest_step,
    read_json,
    step_folders,
    write_export,
)
from dtgan_core.dataset import config_for, data_facts
from dtgan_core.files import clear_temporary, shown, write_atomic
from dtgan_core.hardware import Workers
from dtgan_core.images import to_png
from dtgan_core.loop import Loop, NonFiniteLossError
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import LATENT_COLUMNS, Trainer, sample_grid
from dtgan_lab.baselines.config import baseline_config, its_defects, its_images
from dtgan_lab.baselines.zoo import DTGAN, baseline
from dtgan_lab.data import Dataset, ImageStore, load_dataset
from dtgan_lab.data.layout import keep_apart, require_place
from dtgan_lab.data.validation import require_labels
from dtgan_lab.files import disk_is_full, make_place
from dtgan_lab.options import join, parse_overrides

OUTPUTS = ("out", "json", "results", "cache")  # options that name what is written

EXPECTED_ERRORS = (CheckpointError, NonFiniteLossError, ValueError, OSError)
LARGEST = 3 * 10**8  # bytes of the picture that `samples` draws


def run(options: argparse.Namespace, target: str) -> int:
    """Run "module.function" of `dtgan_lab`; bad input ends with status 2, no traceback."""
    try:
        check_outputs(options)
        module, _, name = target.rpartition(".")
        getattr(import_module(f"dtgan_lab.{module}"), name)(options)
    except EXPECTED_ERRORS as error:
        full = disk_is_full(error)
        told = f"the disk is full ({error}){_what_is_kept(options)}" if full else error
        print("error:", "\n".join(map(shown, str(told).split("\n"))), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped{_what_is_kept(options)}", file=sys.stderr)
        return 130
    return 0


def _what_is_kept(options: argparse.Namespace) -> str:
    """What a command that was interrupted has left."""
    if options.command == "generate":
        from dtgan_lab.cli.generate import what_is_kept

        return what_is_kept(options.out)
    if options.command in ("study", "classify"):
        return "; finished runs are noted down, the same command goes on with the rest"
    if options.command != "train":
        return ""
    steps = step_folders(options.out)
    if steps:
        return f"; {steps[-1].name} is kept, go on from it with --resume"
    return " before the first checkpoint: nothing is kept, the same command starts anew"


def check_outputs(options: argparse.Namespace) -> None:
    """Refuse (ValueError) outputs that could spoil an input, or have no place.

    Every path among the options that is no output is an input; of a run that is exported these are
    its checkpoints, for an export may lie beside them.
    """
    given = {name: value for name, value in vars(options).items() if isinstance(value, Path)}
    inputs = [value for name, value in given.items() if name not in OUTPUTS]
    inputs += [Path(text.partition("=")[2]) for text in getattr(options, "baseline", None) or []]
    if "run" in given:
        inputs[inputs.index(given["run"])] = given["run"] / "checkpoints"
    for name in OUTPUTS:
        if name in given:
            keep_apart(given[name], inputs, f"--{name}")
            require_place(given[name], f"--{name}")


def run_export(options: argparse.Namespace) -> None:
    """`export`: the newest checkpoint of a run as a folder that `Synthesizer.load` takes."""
    out = options.out
    clear_temporary(out, name="ema.safetensors")  # of an export that was killed
    clear_temporary(out, name="card.json")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held - {"ema.safetensors"} and "card.json" not in held:  # the card comes last
        raise ValueError(
            f"{out}: holds something else, expected a folder that is new, empty or an export; "
            "choose another --out"
        )
    export_run(options.run, out)
    print(f"done: {options.out}")


def export_run(run: Path, folder: Path) -> None:
    """Export the newest whole checkpoint of a run, finished or not; the card says which."""
    path, (_, state, tensors) = run / "config.json", newest_step(run)
    card = make_card(read_json(path, dict[str, Any]), state["step"], state["seconds"])
    fields_of(card, Card, path)  # written as it is: a type puts its own fields first
    write_export(folder, tensors["ema"], card)


def run_samples(options: argparse.Namespace) -> None:
    """`samples`: a grid of sources, draws, references and results."""
    synth = Synthesizer.load(options.checkpoint)
    model = synth.config.model
    dataset = load_dataset(options.data)
    require_labels(dataset, synth.products, synth.defects)
    store = ImageStore.load(dataset, options.split, model.image_size, model.channels)
    picture = sample_grid(synth, store, options.seed, options.rows)
    if picture.size * options.scale**2 > LARGEST:
        height, width = (options.scale * side for side in picture.shape[:2])
        raise ValueError(
            f"{options.out}: would be {width} x {height} pixels, expected at most "
            f"{LARGEST // 3:,} in all; lower --rows or --scale"
        )
    picture = picture.repeat(options.scale, axis=0).repeat(options.scale, axis=1)
    kinds = [d for d in synth.defects if d != synth.anchor]
    make_place(options.out)
    write_atomic(options.out, to_png(_with_titles(picture, kinds)))
    print(f"done: {options.out}")


def _with_titles(picture: np.ndarray, defects: list[str]) -> np.ndarray:
    """The grid of `sample_grid` below the names of its columns."""
    kinds = ["drawn"] * LATENT_COLUMNS + ["real", "moved"]
    titles = ["\ngood part", *(f"{d}\n{kind}" for d in defects for kind in kinds)]
    head = Image.new("RGB", (picture.shape[1], 32), "white")
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(12)
    for k, title in enumerate(titles):
        left = 2 + k * picture.shape[1] // len(titles)
        draw.text((left, 2), title, fill="black", font=font)
    return np.concatenate([np.asarray(head), picture])


# --- train ---------------------------------------------------------------------------------------


def run_train(options: argparse.Namespace) -> None:
    """Load, check, train, export."""
    dataset = load_dataset(options.data)
    goes_on = _goes_on(options)
    workers = join(options.device)
    if options.begin_as and options.start_from is None:
        raise ValueError("--begin-as: goes with --start-from; add it")
    make = _dtgan if options.method == DTGAN else _baseline
    trainer, begins = make(options, dataset, workers), dict[str, str]()
    if goes_on:
        trainer.resume()
    elif isinstance(trainer, Trainer) and options.start_from is not None:
        begins = trainer.start_from(options.start_from, _pairs(options.begin_as))
    say = print if workers.writes else (lambda text: None)
    if not goes_on and options.out.is_dir():
        say(f"{options.out}: found no checkpoint, the training starts from the beginning")
    say(_begins(options, trainer, dataset))
    if begins:
        pairs = ", ".join(f"{name} as {there}" for name, there in begins.items())
        say(f"begins with {options.start_from}: {pairs}; D is new")
    for warning in (*dataset.warnings, *kernel_hints(trainer)):
        print(f"warning: {warning}", file=sys.stderr)
    trainer.run()
    if workers.writes:
        trainer.export(options.out / "export")
    workers.leave()
    say(f"done: {options.out}/export holds the weights, {options.out}/samples the pictures")


def _goes_on(options: argparse.Namespace) -> bool:
    """Whether there is a checkpoint to go on from; ValueError where there is something to lose."""
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


def _dtgan(options: argparse.Namespace, dataset: Dataset, workers: Workers) -> Loop[Any, Any]:
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


def _pairs(words: list[str]) -> dict[str, str]:
    """Words MINE=THEIRS as a table; ValueError: a word without the sign."""
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"--begin-as {wrong[0]}: expected MINE=THEIRS, such as hole=Spots")
    return dict(word.split("=", 1) for word in words)


def _baseline(options: argparse.Namespace, dataset: Dataset, workers: Workers) -> Loop[Any, Any]:
    method = options.method
    for name in ("ablation", "start_from", "begin_as"):
        if getattr(options, name):
            option = f"--{name.replace('_', '-')} {getattr(options, name)}"
            raise ValueError(f"{option}: is DT-GAN's alone; leave it out")
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
        f"{what} on {len(store)} images of {shown(dataset.info.name)}: "
        f"{config.train.iterations} iterations of {config.train.batch_size} in "
        f"{trainer.precision} ({trainer.kernels} norms) on {trainer.device}, "
        f"from iteration {trainer.step_count}"
    )


def kernel_hints(trainer: Loop[Any, Any]) -> list[str]:
    """Why a long run works with slower norms than it could, if it does."""
    train = trainer.config.train
    slow = trainer.method == DTGAN and trainer.kernels == "eager" and train.kernels == "auto"
    if not slow or train.iterations < kernels.WORTH_COMPILING:
        return []
    problem = kernels.why_not_compiled(trainer.device.type)
    return [
        f"norms are not compiled, an iteration takes about a quarter longer ({problem}). A C++ "
        "compiler and Python's headers help (Debian: g++ and python3-dev)"
    ]
