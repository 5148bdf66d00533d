"""Bring your own pictures, in folders or listed in a CSV file, into the kit's layout."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from annotations import Annotated
from dtgan_core.dataset import DatasetError
from dtgan_core.files import write_atomic
from dtgan_core.images import decoded, to_png
from dtgan_lab.data.adopt import Recipe
from dtgan_lab.data.adopt_plan import FEWEST, FEWEST_TRIED, Placed, Plan
from dtgan_lab.data.folder import TableSource, label_folders
from dtgan_lab.data.preparing import (
    Source,
    TreeSource,
    add_options,
    command_line,
    flips_of,
    guarded,
    prepare,
)
from dtgan_lab.options import Parser, path

COLUMNS = 10  # pictures of a cell in the picture of a dry run
EPILOG = """\
A folder has either of these forms; --anchor names the folder of good parts, here "good":

    parts/good/*  parts/scratched/*                    one product, named parts (or --product)
    parts/lid/good/*  parts/lid/scratched/*  ...       a folder for each product

A CSV file has the columns path, product, defect and, where you like, group, mask, split; paths
start at its own folder. A zip or tar archive of such folders will do as well.

--annotations names a folder of LabelMe files, YOLO texts or mask pictures, or a COCO file: they
become masks, which yardsticks and segmentation use. They are not needed. A file belongs to the
picture of the same place and name (scratched/017.json to scratched/017.png), or to the only one of
that name.

--dry-run ends with a picture of what would be taught, OUT.png, a row for each product and defect.

Images of one group never straddle training and test. Several pictures of one part are one group:
say so with the column group, or with --group-pattern, for example 'part(\\d+)' for
part017_left.png and part017_right.png. Copies (same bytes, pixels, or image once resized) are
kept once. Without a column split, groups go to train, val and test (70/10/20 % of each class).

examples:
  python data_scripts/prepare_folder.py --source parts --anchor good --size 64 \\
      --out build/data/parts --dry-run
  python data_scripts/prepare_folder.py --source parts --anchor good --size 64 \\
      --out build/data/parts
  python data_scripts/prepare_folder.py --source parts.csv --anchor good --flips both \\
      --out build/data/parts

docs/your_own_data.md goes on from here to a trained model.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="folder, archive or CSV file of pictures")
    parser.add_argument("--anchor", required=True, help="the defect that means: nothing there")
    parser.add_argument(
        "--out",
        required=True,
        help="folder to write to: empty, or this set made before",
    )
    parser.add_argument("--product", help="product name, where the source names none")
    parser.add_argument("--name", help="short name of the data set (default: that of the source)")
    parser.add_argument(
        "--group-pattern",
        type=_pattern,
        metavar="REGEX",
        help="searched in each path; what its (brackets) match names the image's group",
    )
    parser.add_argument(
        "--flips",
        choices=("none", "horizontal", "vertical", "both"),
        default="none",
        help="flips that leave your parts plausible; training draws more variety from them "
        "(default none)",
    )
    parser.add_argument(
        "--annotations",
        type=path,
        help="COCO file, or folder of LabelMe, YOLO or mask files; not needed",
    )
    parser.add_argument("--licence", default="not stated", help="terms of use, for dataset.json")
    parser.add_argument("--citation", default="none", help="what to cite, for dataset.json")
    add_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("prepare_folder", options.out, lambda: _run(options))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} has {pattern.groups} pairs of brackets, expected one, as in 'part(\\d+)'"
        )
    return pattern


def _run(options: argparse.Namespace) -> None:
    title = options.source.resolve().name.split(".")[0] or "parts"
    source: Source
    if options.source.suffix.lower() == ".csv":
        if options.group_pattern:
            raise DatasetError("--group-pattern is for folders; a table has the column group")
        source = TableSource(options.source, options.product)
    else:
        label = partial(
            label_folders,
            anchor=options.anchor,
            product=options.product,
            title=title,
            pattern=options.group_pattern,
        )
        source = TreeSource([options.source], label)
    if options.annotations:
        source = Annotated(source, options.annotations)
    recipe = Recipe(
        name=options.name or title,
        anchor=options.anchor,
        licence=options.licence,
        citation=options.citation,
        source=f"own pictures, {title}",
        command=command_line("prepare_folder", _words(options), options),
        size=options.size,
        channels=options.channels,
        fit=options.fit,
        flips=flips_of(options.flips),
        seed=options.seed,
        allow_few=options.allow_few,
    )
    look = partial(show, target=options.out.with_name(f"{options.out.name}.png"))
    prepare(source, recipe, options.out, dry_run=options.dry_run, force=options.force, look=look)


def show(plan: Plan, target: Path) -> None:
    """Write a picture of the training images, a row a cell, and name the cells that are small.

    Args:
        plan: with its pictures spooled.
        target: the file.
    """
    cells: dict[str, list[Placed]] = {}
    for placed in plan.images:
        shown = placed.picture.candidate
        cell = cells.setdefault(f"{shown.product} / {shown.defect}", [])
        cell += [placed] if placed.split == "train" else []
    side, line = max(plan.recipe.size, 64), 14  # pixels
    sheet = Image.new("RGB", (COLUMNS * (side + 2), len(cells) * (side + line + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, cell) in enumerate(sorted(cells.items())):
        top = row * (side + line + 4)
        draw.text((2, top), f"{name}: {len(cell)} to learn from", fill="black")
        for column, placed in enumerate(cell[:: max(1, len(cell) // COLUMNS)][:COLUMNS]):
            with decoded(placed.picture.png, "RGB") as image:
                tile = image.resize((side, side), Image.Resampling.NEAREST)
            if placed.picture.mask is not None:
                with decoded(placed.picture.mask, "L") as mask:
                    grown = mask.resize((side, side), Image.Resampling.NEAREST)
                rim = ImageChops.subtract(grown.filter(ImageFilter.MaxFilter(3)), grown)
                tile.paste((213, 94, 0), mask=rim)
            sheet.paste(tile, (column * (side + 2), top + line))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, to_png(np.asarray(sheet)))
    small = [f"{name} ({len(cell)})" for name, cell in sorted(cells.items()) if len(cell) < FEWEST]
    if small:
        print(
            f"note: too small for what was measured on real pictures ({FEWEST_TRIED}): "
            f"{', '.join(small)}; add pictures, or train them with another product of that defect"
        )
    print(f"{target}: a picture of what would be taught, with masks outlined where there are any")


def _words(options: argparse.Namespace) -> list[str]:
    words = ["--source", "SOURCE", "--anchor", options.anchor, "--flips", options.flips]
    for name in ("product", "name", "licence", "citation"):
        if getattr(options, name) not in (None, "not stated", "none"):
            words += [f"--{name}", getattr(options, name)]
    words += ["--annotations", "ANNOTATIONS"] if options.annotations else []
    if options.group_pattern:
        words += ["--group-pattern", options.group_pattern.pattern]
    return words


if __name__ == "__main__":
    sys.exit(main())
