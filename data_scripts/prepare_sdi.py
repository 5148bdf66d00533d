"""Bring the Surface Defect Inspection data set (SDI) of the paper into the kit's layout."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_lab.data.adopt import Recipe
from dtgan_lab.data.download import download
from dtgan_lab.data.preparing import TreeSource, add_options, command_line, guarded, prepare
from dtgan_lab.data.sdi_source import (
    ARCHIVE_NAME,
    ARCHIVE_SHA256,
    ARCHIVE_SIZE,
    ARCHIVE_URL,
    NORMAL,
    PAGE,
    check_archive,
    deal_sdi,
    label_sdi,
)
from dtgan_lab.options import Parser

LICENCE = "CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
CITATION = (
    "R. Wang, S. Hoppe, E. Monari, M. F. Huber, Defect Transfer GAN: Diverse Defect Synthesis for "
    "Data Augmentation, BMVC 2022, arXiv 2302.08366"
)
EPILOG = f"""\
Without --source, the archive ({ARCHIVE_SIZE:,} bytes) is downloaded to --archive; an interrupted
download goes on where it broke off, and the archive stays for the next time.

Splits as in the data sheet: of each product and defect 50 images are held out (val and test),
700 Normal images a product and all other defects are for training, and the remaining Normal
images are the pool of the classifier. Which images those are the sheet does not say: --seed deals
them.

examples:
  python data_scripts/prepare_sdi.py --out build/data/sdi --size 64
  python data_scripts/prepare_sdi.py --source {ARCHIVE_NAME} --out build/data/sdi --dry-run

{PAGE}
Licence: {LICENCE}
Cite: {CITATION}
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write to: empty, or an older SDI")
    parser.add_argument("--source", help="published zip or unpacked folder; without it: download")
    parser.add_argument(
        "--archive",
        help=f"where the download is kept (default: {ARCHIVE_NAME} beside --out)",
    )
    parser.add_argument(
        "--any-counts", action="store_true", help="go on with other counts than the data sheet's"
    )
    add_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("prepare_sdi", options.out, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    source = options.source
    if source is None:
        source = options.archive or options.out.resolve().parent / ARCHIVE_NAME
        if options.dry_run and not source.exists():
            print(f"dry run: would download {ARCHIVE_SIZE:,} bytes from {ARCHIVE_URL} to {source}")
            return
        print(f"the archive of {PAGE}, kept as {source}")
        download(ARCHIVE_URL, source, size=ARCHIVE_SIZE, sha256=ARCHIVE_SHA256)
    check_archive(source)
    recipe = Recipe(
        name="SDI",
        anchor=NORMAL,
        licence=LICENCE,
        citation=CITATION,
        source=PAGE,
        command=command_line("prepare_sdi", _words(options), options),
        size=options.size,
        channels=options.channels,
        fit=options.fit,
        flips=("horizontal",),  # as the synthetic SDI: the light comes from above
        seed=options.seed,
        allow_few=options.allow_few,
        deal=deal_sdi,
    )
    tree = TreeSource([source], partial(label_sdi, any_counts=options.any_counts))
    prepare(tree, recipe, options.out, dry_run=options.dry_run, force=options.force)


def _words(options: argparse.Namespace) -> list[str]:
    words = ["--source", "ZIP_OR_FOLDER"] if options.source else []
    return words + (["--any-counts"] if options.any_counts else [])


if __name__ == "__main__":
    sys.exit(main())
