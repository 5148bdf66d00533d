"""The options of `judge`, `domain-features` and `evaluate`; apart, so that --help stays quick."""

from __future__ import annotations

import argparse
from typing import Any

from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.options import file, path


def add_judge(commands: argparse._SubParsersAction[argparse.ArgumentParser], style: Any) -> None:
    """Add the options of `judge`."""
    parser = commands.add_parser(
        "judge",
        help="train the classifier that `evaluate` asks",
        description="Train a small classifier of defect and product on the real training images, "
        "and say how often it is right on held-out ones. About three minutes on one core.",
        epilog="Example: python -m dtgan_core judge --data build/data/synthetic-sdi "
        "--image-size 64 --out build/judge",
        formatter_class=style,
    )
    add = parser.add_argument
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add("--out", required=True, help="folder to write")
    add("--image-size", help="side in pixels, the model's; default: the data's")
    add("--iterations", help="training steps; default: 1500")
    add("--seed", default=0, help="of initialisation, data order and augmentation")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")


def add_domain_features(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], style: Any
) -> None:
    """Add the options of `domain-features`."""
    parser = commands.add_parser(
        "domain-features",
        help="train the features that `evaluate --real --fake` compares in",
        description="Train a small network on the clean training images; its features see the "
        "product, the defect and its place, blur, grain, grids and brightness.",
        epilog="Example: python -m dtgan_core domain-features --data build/data/synthetic-sdi "
        "--out build/domain",
        formatter_class=style,
    )
    add = parser.add_argument
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add("--out", required=True, help="folder to write")
    add("--image-size", help="side in pixels, a multiple of 16; default: 64")
    add("--iterations", help="training steps; default: 1500")
    add("--seed", default=2302, help="of everything random; not the judge's")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser], style: Any) -> None:
    """Add the options of `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="how good synthetic defects are, in numbers: of a checkpoint, or of two folders",
        description="With --checkpoint: translate every held-out image into every domain, both "
        "ways of guidance, and tell: recognised as the target and product kept (by a judge), "
        "background PSNR, diversity against real defects, copies of training images. "
        "With --real and --fake: how far two folders of images are apart (Frechet distance, KID, "
        "precision, recall, density, coverage).",
        epilog="Examples: python -m dtgan_core evaluate "
        "--checkpoint notebooks/checkpoints/synthetic-sdi-laptop --data build/data/synthetic-sdi "
        "--judge notebooks/checkpoints/judge-synthetic-sdi; "
        "python -m dtgan_core evaluate --real build/data/synthetic-sdi/test --fake my_images",
        formatter_class=style,
    )
    model = parser.add_argument_group("a checkpoint").add_argument
    model("--checkpoint", help="an export, or a run, finished or not")
    model("--data", help="the data set it was trained on")
    model("--judge", help="a folder written by `judge`")
    model("--seeds", help="sampling seeds; default: 3")
    pair = parser.add_argument_group("two folders").add_argument
    pair("--real", help="a folder of real images")
    pair("--fake", help="a folder of made images")
    pair("--features", choices=EXTRACTORS, help="the space to compare in; default: domain")
    pair("--weights", type=path, help="of these features; default: committed, or downloaded")
    pair(
        "--trust-weights",
        action="store_true",
        default=None,
        help="run the --weights of inception though they are not the published file: a TorchScript "
        "file is a program, so do this only with one whose maker you trust",
    )
    pair("--image-size", help="side in pixels that both are brought to first")
    pair("--cache", help="folder that keeps features for another time")
    pair("--seed", help="of random subsets; default: 0")
    add = parser.add_argument
    add("--json", type=file, help="write everything to this file as well")
    add("--results", help="add a row to this file of JSON lines")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")


OF_A_CHECKPOINT = ("checkpoint", "data", "judge", "seeds")
OF_TWO_FOLDERS = (
    "real",
    "fake",
    "features",
    "weights",
    "trust_weights",
    "image_size",
    "cache",
    "seed",
)


def wants_folders(options: argparse.Namespace) -> bool:
    """Whether `evaluate` shall compare two folders; otherwise it judges a checkpoint.

    Raises:
        ValueError: options of both, or some that are needed are missing.
    """

    def given(names: tuple[str, ...]) -> list[str]:
        return [f"--{n.replace('_', '-')}" for n in names if getattr(options, n) is not None]

    model, pair = given(OF_A_CHECKPOINT), given(OF_TWO_FOLDERS)
    if model and pair:
        raise ValueError(
            f"found {', '.join(model)} and {', '.join(pair)}, expected either --checkpoint, --data "
            "and --judge (a checkpoint), or --real and --fake (two folders)"
        )
    needed = ["--real", "--fake"] if pair else ["--checkpoint", "--data", "--judge"]
    missing = [name for name in needed if name not in model + pair]
    if missing:
        raise ValueError(
            f"evaluate needs {', '.join(missing)}; give --checkpoint, --data and --judge (a "
            "checkpoint), or --real and --fake (two folders)"
        )
    return bool(pair)
