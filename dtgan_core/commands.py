"""What the commands of `python -m dtgan_core` do, each on parsed options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from dtgan_core.benchmark import measure, table
from dtgan_core.checkpoints import CheckpointError, export_run, step_folders
from dtgan_core.config import make_config
from dtgan_core.data import DatasetError, ImageError, ImageStore, load_dataset
from dtgan_core.data.images import to_png
from dtgan_core.data.layout import keep_apart
from dtgan_core.downstream_command import run_classify
from dtgan_core.evaluation.commands import run_domain_features, run_evaluate, run_judge
from dtgan_core.export_command import run_generate, what_is_kept
from dtgan_core.files import disk_is_full, write_atomic
from dtgan_core.samples import sample_grid
from dtgan_core.study import run_study
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import NonFiniteLossError
from dtgan_core.training_command import run_train

OUTPUTS = ("out", "json", "results", "cache")  # options that name what is written
WRITE_A_FILE = ("samples", "classify")  # as their --out

EXPECTED_ERRORS = (
    DatasetError,
    ImageError,
    CheckpointError,
    NonFiniteLossError,
    ValueError,
    OSError,
)


def run(options: argparse.Namespace) -> int:
    """Run one command; bad input ends with its message and status 2, no traceback."""
    try:
        command = {
            "train": lambda chosen: run_train(chosen, choose_device(chosen.device)),
            "generate": lambda chosen: run_generate(chosen, choose_device(chosen.device)),
            "samples": samples,
            "export": export_checkpoint,
            "benchmark": benchmark,
            "judge": lambda chosen: run_judge(chosen, choose_device(chosen.device)),
            "domain-features": lambda o: run_domain_features(o, choose_device(o.device)),
            "evaluate": lambda chosen: run_evaluate(chosen, choose_device(chosen.device)),
            "classify": lambda chosen: run_classify(chosen, choose_device(chosen.device)),
            "study": lambda chosen: run_study(chosen, choose_device(chosen.device)),
            "card": card,
        }[options.command]
        check_outputs(options)
        command(options)
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
    """Refuse outputs that could spoil an input, or that cannot be written where they shall go.

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
        if name not in given:
            continue
        path = given[name]
        keep_apart(path, inputs, f"--{name}")
        folder = name == "cache" or (name == "out" and options.command not in WRITE_A_FILE)
        if path.is_file() if folder else path.is_dir():
            found, wanted = ("file", "folder") if folder else ("folder", "file")
            raise ValueError(
                f"--{name} {path}: found a {found}, expected a {wanted} or a new name; choose "
                f"another --{name}"
            )
        for above in path.parents:
            if above.is_file():
                raise ValueError(f"--{name} {path}: {above} is a file, expected a folder")


def choose_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device {wanted}: expected auto, cpu or cuda")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: found no CUDA device; use --device cpu")
    return device


def export_checkpoint(options: argparse.Namespace) -> None:
    """`export`: the newest checkpoint of a run as a folder that `Synthesizer.load` takes."""
    export_run(options.run, options.out)
    print(f"done: {options.out}")


def samples(options: argparse.Namespace) -> None:
    """`samples`: a grid of sources, draws, references and results."""
    for name in ("rows", "scale"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: expected at least 1")
    synth = Synthesizer.load(options.checkpoint)
    model = synth.config.model
    dataset = load_dataset(options.data)
    if (dataset.info.products, dataset.info.defects) != (synth.products, synth.defects):
        raise ValueError(
            f"{options.data}: holds {dataset.info.products} and {dataset.info.defects}, the model "
            f"knows {synth.products} and {synth.defects}; give the data set it was trained on"
        )
    store = ImageStore.load(dataset, options.split, model.image_size, model.channels)
    picture = sample_grid(synth, store, options.seed, options.rows)
    picture = picture.repeat(options.scale, axis=0).repeat(options.scale, axis=1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, to_png(picture))
    print(f"done: {options.out}")


def card(options: argparse.Namespace) -> None:
    """`card`: see `dtgan_core.card`."""
    from dtgan_core.card import run_card  # matplotlib and seaborn would slow every other command

    run_card(options, choose_device(options.device))


def benchmark(options: argparse.Namespace) -> None:
    """`benchmark`: time training and generation on this machine."""
    model = {} if options.image_size is None else {"image_size": options.image_size}
    train = {"precision": options.dtype or "auto"}
    if options.batch is not None:
        train["batch_size"] = options.batch
    config = make_config(options.preset, options.ablation, model=model, train=train)
    report = measure(config, choose_device(options.device), options.repeats)
    print(json.dumps(report) if options.json else table(report))
