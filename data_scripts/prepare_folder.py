"""Bring your own pictures, in folders or listed in a CSV file, into the kit's layout."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_core.dataset import DatasetError
from dtgan_lab.data.adopt import Recipe
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
from dtgan_lab.options import Parser

EPILOG = """\
A folder has either of these forms; --anchor names the folder of good parts, here "good":

    parts/good/*  parts/scratched/*                    one product, named parts (or --product)
    parts/lid/good/*  parts/lid/scratched/*  ...       a folder for each product

A CSV file has the columns path, product, defect and, where you like, group, mask, split; paths
start at its own folder. A zip or tar archive of such folders will do as well.

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
    prepare(source, recipe, options.out, dry_run=options.dry_run, force=options.force)


def _words(options: argparse.Namespace) -> list[str]:
    words = ["--source", "SOURCE", "--anchor", options.anchor, "--flips", options.flips]
    for name in ("product", "name", "licence", "citation"):
        if getattr(options, name) not in (None, "not stated", "none"):
            words += [f"--{name}", getattr(options, name)]
    if options.group_pattern:
        words += ["--group-pattern", options.group_pattern.pattern]
    return words


if __name__ == "__main__":
    sys.exit(main())
