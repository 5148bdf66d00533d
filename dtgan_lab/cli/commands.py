"""What the commands of `python -m dtgan_core` do, each on parsed options."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

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
from dtgan_core.files import write_atomic
from dtgan_core.images import to_png
from dtgan_core.loop import NonFiniteLossError
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import sample_grid
from dtgan_lab.data import ImageStore, load_dataset
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.data.validation import require_labels
from dtgan_lab.files import disk_is_full

OUTPUTS = ("out", "json", "results", "cache")  # options that name what is written

EXPECTED_ERRORS = (CheckpointError, NonFiniteLossError, ValueError, OSError)
LARGEST = 3 * 10**8  # bytes of the picture that `samples` draws


def run(options: argparse.Namespace, target: str) -> int:
    """Run one command; bad input ends with its message and status 2, no traceback.

    Args:
        options: parsed.
        target: "module.function" of `dtgan_lab`, which takes them.
    """
    try:
        check_outputs(options)
        module, _, name = target.rpartition(".")
        getattr(import_module(f"dtgan_lab.{module}"), name)(options)
    except EXPECTED_ERRORS as error:
        full = disk_is_full(error)
        told = f"the disk is full ({error}){_what_is_kept(options)}" if full else error
        print(f"error: {told}", file=sys.stderr)
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
    """Refuse outputs that could spoil an input.

    Every path among the options that is no output is an input; of a run that is exported these are
    its checkpoints, for an export may lie beside them.

    Raises:
        ValueError: naming option and path.
    """
    given = {name: value for name, value in vars(options).items() if isinstance(value, Path)}
    inputs = [value for name, value in given.items() if name not in OUTPUTS]
    inputs += [Path(text.partition("=")[2]) for text in getattr(options, "baseline", None) or []]
    if "run" in given:
        inputs[inputs.index(given["run"])] = given["run"] / "checkpoints"
    for name in OUTPUTS:
        if name in given:
            keep_apart(given[name], inputs, f"--{name}")


def run_export(options: argparse.Namespace) -> None:
    """`export`: the newest checkpoint of a run as a folder that `Synthesizer.load` takes."""
    out = options.out
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held and "card.json" not in held:
        raise ValueError(
            f"{out}: holds something else, expected a folder that is new, empty or an export; "
            "choose another --out"
        )
    export_run(options.run, out)
    print(f"done: {options.out}")


def export_run(run: Path, folder: Path) -> None:
    """Export the newest checkpoint of a run, finished or not; the card says its iterations.

    Raises:
        CheckpointError: the run has no whole checkpoint.
    """
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, to_png(picture))
    print(f"done: {options.out}")
