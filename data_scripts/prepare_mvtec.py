"""Bring the textures of MVTec AD (carpet, leather, tile, wood) into the kit's layout."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_lab.data.adopt import Recipe
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.data.mvtec import CITATION, LICENCE, PAGE, find_sources, label_mvtec, read_mapping
from dtgan_lab.data.preparing import TreeSource, add_options, command_line, guarded, prepare
from dtgan_lab.options import Parser, path

MAPPING = Path(__file__).resolve().with_name("mvtec_mapping.toml")
EPILOG = f"""\
Load the archives of the categories (carpet.tar.xz, leather.tar.xz, tile.tar.xz, wood.tar.xz, or
the archive of all) with a browser: the page asks you to accept its terms.
  {PAGE}

data_scripts/mvtec_mapping.toml says which published defect becomes Scratches or Spots, and which
is left out. It is our reading: the paper prints no list. Edit a copy for another.

MVTec's own training split has no defects, so all images are dealt anew, image by image, to train,
val and test (70/10/20 % of each product and defect). Masks come along.

examples:
  python data_scripts/prepare_mvtec.py --source downloads/ --out build/data/mvtec --dry-run
  python data_scripts/prepare_mvtec.py --source carpet.tar.xz --source wood.tar.xz \\
      --out build/data/mvtec --size 64

Licence: {LICENCE}
Cite: {CITATION}
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        type=path,
        action="append",
        required=True,
        help="an archive, a folder of archives, or an unpacked folder; may be repeated",
    )
    parser.add_argument(
        "--out", required=True, help="folder to write to: empty, or an older MVTec-AD"
    )
    parser.add_argument("--mapping", default=MAPPING, help=f"TOML file (default {MAPPING.name})")
    add_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("prepare_mvtec", options.out, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    keep_apart(options.out, [*options.source, options.mapping])
    mapping = read_mapping(options.mapping)
    own = [] if options.mapping == MAPPING else ["--mapping", "FILE.toml"]
    recipe = Recipe(
        name="MVTec-AD",
        anchor=mapping.anchor,
        licence=LICENCE,
        citation=CITATION,
        source=PAGE,
        command=command_line("prepare_mvtec", ["--source", "SOURCE", *own], options),
        size=options.size,
        channels=options.channels,
        fit=options.fit,
        flips=("horizontal", "vertical"),
        seed=options.seed,
        allow_few=options.allow_few,
    )
    source = TreeSource(
        find_sources(options.source, mapping),
        partial(label_mvtec, mapping=mapping),
        mapping.words(),
    )
    prepare(source, recipe, options.out, dry_run=options.dry_run, force=options.force)


if __name__ == "__main__":
    sys.exit(main())
