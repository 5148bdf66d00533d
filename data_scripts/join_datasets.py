"""Join several prepared data sets into one, such as magnetic tiles beside the synthetic SDI."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_core.files import shown
from dtgan_lab.data.join import NAME, Part, join_datasets
from dtgan_lab.data.preparing import guarded
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.options import TYPES, Parser, folder

EPILOG = """\
Products stand side by side, defects of the same name become one: all inputs must call their
anchor (no defect) and their other defects alike. Splits, groups, masks, twins, flips, licences
and citations are carried over. The inputs are left as they are.

examples:
  python data_scripts/join_datasets.py --data build/data/synthetic-sdi \\
      --data build/data/mtd --out build/data/joint --size 64
  python data_scripts/join_datasets.py --data parts-2023 --data parts-2024 \\
      --rename A=A-new --out parts      (the second set's A becomes A-new)
"""

_Word = tuple[str, str, str]  # ("data", folder, "") or ("rename", old, new), as typed in order


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("join_datasets", options.out, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    start = time.monotonic()
    parts = [Part(load_dataset(folder), rename) for folder, rename in options.parts]
    dataset = join_datasets(parts, options.out, name=options.name, size=options.size)
    print(dataset.counts().to_string())
    for warning in dataset.warnings:
        print(f"note: {warning}")
    print(f"licence: {shown(dataset.info.licence)}\ncite: {shown(dataset.info.citation)}")
    height, width = dataset.info.image_size
    print(
        f"{options.out}: {len(dataset.manifest):,} images of {height} x {width} pixels, every file "
        f"checked ({time.monotonic() - start:.0f} s)"
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; `parts` holds (folder, renamed products) in the order given."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        dest="words",
        action="append",
        required=True,
        type=lambda text: ("data", str(folder(text)), ""),
        metavar="DIR",
        help="a prepared data set; give it once for each",
    )
    parser.add_argument(
        "--rename",
        dest="words",
        action="append",
        type=_rename,
        metavar="OLD=NEW",
        help="another name for a product of the --data before it",
    )
    parser.add_argument(
        "--out", required=True, help="folder to write to: empty, or an older joined set"
    )
    parser.add_argument("--name", default=NAME, help=f"short name of the joined set ({NAME})")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="N",
        help="side in pixels, or HEIGHTxWIDTH (default: that of the smallest images)",
    )
    options = parser.parse_args(arguments)
    options.parts = []
    for kind, first, second in options.words:
        if kind == "data":
            options.parts.append((Path(first), {}))
        elif not options.parts:
            parser.error(f"--rename {first}={second} stands before every --data; put it behind one")
        elif first in options.parts[-1][1]:
            parser.error(f"--rename {first}={second}: found {first} twice, expected it once")
        else:
            options.parts[-1][1][first] = second
    return options


def _rename(text: str) -> _Word:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW, such as A=A-new")
    return "rename", old, new


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    side = TYPES["size"]
    return side(height), side(width if cross else height)


if __name__ == "__main__":
    sys.exit(main())
