"""The options of `python -m dtgan_core generate`."""

from __future__ import annotations

import argparse

FORMAT_HELP = (
    "folder: images/ and approximate_masks/; imagefolder: OUT/<defect>/*.png, as torchvision "
    "reads; layout: a data set of this kit, with the real backgrounds; coco: annotations.json with "
    "approximate boxes and masks; tar: shards that WebDataset reads"
)


def add_generate(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    formatter: type[argparse.HelpFormatter],
) -> None:
    """Add `generate`."""
    parser = commands.add_parser(
        "generate",
        help="put synthetic defects onto your images",
        description="Put defects onto defect-free images. Without --references every defect is a "
        "random draw (latent-guided); with them, shape and style are taken from real defects "
        "(reference-guided). Writes images, approximate masks (the difference to the same image "
        "without a defect) and OUT/manifest.csv. An export that was stopped goes on with --resume.",
        epilog="Example: python -m dtgan_core generate --checkpoint "
        "notebooks/checkpoints/synthetic-sdi-laptop --backgrounds my_good_parts "
        "--defect Scratches --count 64 --out build/my_scratches",
        formatter_class=formatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a folder with card.json, or a finished run")
    add("--backgrounds", help="a folder of defect-free images, or one")
    add("--defect", nargs="+", required=True, help="what to put onto them, such as Scratches")
    add(
        "--references",
        help="a folder of images with that defect, or one image; of several defects: a folder with "
        "a folder for each",
    )
    add("--count", default=64, help="images to make; with --gate: that pass")
    add("--seed", default=0, help="the same seed makes the same images")
    add("--batch", default=32, help="images computed together; changes no image")
    add("--out", required=True, help="a new or empty folder")
    add("--resume", action="store_true", help="go on with the same export where it was stopped")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")
    _add_format(parser.add_argument_group("format"))
    _add_gate(parser.add_argument_group("gate"))


def _add_format(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    formats = ["folder", "imagefolder", "layout", "coco", "tar"]
    add("--format", choices=formats, default="folder", help=FORMAT_HELP)
    add("--by-product", action="store_true", help="imagefolder: OUT/<product>/<defect>/*.png")
    add("--shard-size", default=1000, help="tar: images of an archive")
    add("--product", help="the product that all backgrounds show; default: found in --data")


def _add_gate(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--gate", action="store_true", help="refuse images; they go to OUT/rejects with a reason")
    add("--judge", help="gate: a folder written by `judge`")
    add("--data", help="gate: the training data, to tell copies by; also knows products")
    add("--min-confidence", help="gate: the judge's in the defect; default: 0.5")
    add("--keep-product", action="store_true", help="gate: the judge must see the background's")
    add(
        "--min-copy-distance",
        help="gate: to the nearest training image with a defect, 1 as of real images; default: "
        "nearer than 99 %% of real images and under half their distance is a copy",
    )
    add("--tries", help="gate: images to draw at most; default: ten times --count")
