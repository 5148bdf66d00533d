"""Keep fewer training images of some cells, or fewer products, to learn what scarcity costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_lab.data.preparing import guarded
from dtgan_lab.data.subset import Cell, make_subset
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.options import Parser, whole

EPILOG = """\
Held-out images and all other cells stay as they are. The input is left as it is.

examples:
  python data_scripts/subset.py --data build/data/synthetic-sdi --keep A/Scratches=0 \\
      --out build/data/without-A-scratches       (no training image shows a scratch on A)
  python data_scripts/subset.py --data build/data/synthetic-sdi --keep A/Scratches=20 \\
      --keep A/Spots=20 --out build/data/20A     (20 defects of each type for product A)
  python data_scripts/subset.py --data build/data/synthetic-sdi --product A \\
      --out build/data/A-alone                   (a data set of one product)
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="a prepared data set")
    add(
        "--keep",
        type=_cell,
        action="append",
        default=[],
        metavar="PRODUCT/DEFECT=N",
        help="keep N training images of a cell, 0 for none; give it once for each",
    )
    add(
        "--product",
        action="append",
        default=[],
        metavar="PRODUCT",
        help="keep this product alone, held-out images and all; give it once for each",
    )
    add("--seed", default=0, help="of the choice (0)")
    add("--name", help="short name (default: that of the data set with -subset)")
    add("--out", required=True, help="folder to write to: empty, or an older subset")
    options = parser.parse_args(arguments)
    twice = {cell for cell, _ in options.keep if [c for c, _ in options.keep].count(cell) > 1}
    if twice:
        parser.error(f"--keep {'/'.join(min(twice))}: found twice, expected once")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("subset", options.out, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    dataset = load_dataset(options.data)
    made = make_subset(
        dataset,
        dict(options.keep),
        options.out,
        products=options.product,
        name=options.name or "",
        seed=options.seed,
    )
    print(made.counts().to_string())
    for warning in made.warnings:
        print(f"note: {warning}")
    left = len(dataset.manifest) - len(made.manifest)
    print(f"{options.out}: {len(made.manifest):,} images, {left:,} left out")


def _cell(text: str) -> tuple[Cell, int]:
    cell, equals, count = text.rpartition("=")
    product, slash, defect = cell.partition("/")
    if not (equals and slash and product and defect):
        raise argparse.ArgumentTypeError(f"{text!r} is not PRODUCT/DEFECT=N, such as A/Scratches=5")
    return (product, defect), whole(0, 10**6)(count)


if __name__ == "__main__":
    sys.exit(main())
