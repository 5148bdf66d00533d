"""The options of `python -m dtgan_core classify`; apart, so that --help stays quick."""

from __future__ import annotations

import argparse
from typing import Any

from dtgan_lab.options import file

ARM_NAMES = (
    "none",
    "traditional",
    "cutmix",
    "copy-paste",
    "copy-paste-all",
    "cutpaste",
    "perlin",
    "stylegan2",
    "biggan",
    "mokady",
    *(
        f"dtgan-{guidance}{reversal}"
        for guidance in ("latent", "reference", "both")
        for reversal in ("", "+reversal", "+reversal-all")
    ),
    *(f"dtgan-{guidance}+gate" for guidance in ("latent", "reference", "both")),
    "dtgan-both+gate+reversal",
)


def add_classify(commands: argparse._SubParsersAction[argparse.ArgumentParser], style: Any) -> None:
    """Add the options of `classify`."""
    parser = commands.add_parser(
        "classify",
        help="whether synthetic defects help a classifier",
        description="Train a classifier of defects on real images alone, and with every kind of "
        "synthetic images (an arm each), several seeds of each. `val` chooses among a classifier's "
        "states, `test` is looked at once. Every arm x seed appends a line to --out; lines that "
        "are there already are not run again.",
        epilog=f"Arms: {', '.join(ARM_NAMES)}; copy-paste-all@P and dtgan-reference@P take "
        "all defects from product P. Example: python -m dtgan_core classify --data "
        "build/data/synthetic-sdi --arms none,traditional,copy-paste,dtgan-both "
        "--checkpoint notebooks/checkpoints/synthetic-sdi-laptop --out runs/classify.jsonl",
        formatter_class=style,
    )
    add = parser.add_argument
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add(
        "--arms",
        default="none,traditional",
        help="names with commas between, or `all`: every arm whose needs are given",
    )
    add("--checkpoint", help="an export or a finished run, for the arms dtgan-...")
    add(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a trained baseline, for the arm of its name: an export, a finished run or a folder "
        "of them, such as stylegan2=runs/stylegan2; once for each",
    )
    add("--judge", help="a folder written by `judge`, for the arms ...+gate")
    add("--images-per-class", default=1200, help="over all products, synthetic included")
    add("--seeds", default=5, help="seeds 0 to N - 1")
    add("--out", type=file, required=True, help="results file, JSON lines; new or to go on with")
    presets = ["tiny", "laptop", "paper"]
    add("--preset", choices=presets, default="laptop", help="paper: ResNet-50; else a small one")
    add("--backbone", help="small, resnet50 or efficientnet_b4; default: the preset's")
    add("--weights", help="scratch, imagenet (downloaded) or a file of torchvision's weights")
    add("--image-size", help="side in pixels; default: the model's, or the preset's")
    add("--iterations", help="training steps; default: the preset's")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")
