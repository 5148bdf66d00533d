"""The options of `python -m dtgan_core judge` and `evaluate`; apart, so that --help stays quick."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


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
    add("--data", type=Path, required=True, help="a data set made by a script of data_scripts/")
    add("--out", type=Path, required=True, help="folder to write")
    add("--image-size", type=int, help="side in pixels, the model's; default: the data's")
    add("--iterations", type=int, help="training steps; default: 1500")
    add("--seed", type=int, default=0, help="of initialisation, data order and augmentation")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, help="processor threads; default: all cores")


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser], style: Any) -> None:
    """Add the options of `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="how good a checkpoint's defects are, in numbers",
        description="Translate every held-out image into every domain, both ways of guidance, and "
        "tell: recognised as the target and product kept (by a judge), background PSNR, diversity "
        "against real defects, copies of training images.",
        epilog="Example: python -m dtgan_core evaluate "
        "--checkpoint notebooks/checkpoints/synthetic-sdi-laptop --data build/data/synthetic-sdi "
        "--judge notebooks/checkpoints/judge-synthetic-sdi",
        formatter_class=style,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="an export, or a run, finished or not")
    add("--data", type=Path, required=True, help="the data set it was trained on")
    add("--judge", type=Path, required=True, help="a folder written by `judge`")
    add("--seeds", type=int, default=3, help="sampling seeds")
    add("--json", type=Path, help="write all tables to this file as well")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, help="processor threads; default: all cores")
