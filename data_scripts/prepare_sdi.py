"""Bring the Surface Defect Inspection data set (SDI) of the paper into the kit's layout."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from download import download
from dtgan_core.dataset import DatasetError
from dtgan_lab.data.adopt import Listing, deal_shares
from dtgan_lab.data.preparing import add_options, guarded
from dtgan_lab.data.synthetic.sdi import COUNTS, PRODUCTS
from dtgan_lab.options import Parser
from published import prepare_published, read_published

SOURCE = read_published(Path(__file__).resolve().with_name("sdi.toml"))
ARCHIVE_NAME = "SDI_DATASET_v1.zip"
ARCHIVE_URL = f"{SOURCE.notice['page']}/raw/c6e0afe66e9dbd9d99326c986ea884ddf2aad9f8/{ARCHIVE_NAME}"
ARCHIVE_SHA256 = "d33ea340151cdf909f3807a37e00d335c66eb8960b0c2eb568fd9fc75d96fa7c"
ARCHIVE_SIZE = 1_647_097_112  # bytes

#: Images per (product, defect) in the archive: 18,807 JPEGs of 256, 301, 423 and 680 pixels.
PUBLISHED: dict[tuple[str, str], int] = {
    ("A", "Normal"): 6184,
    ("B", "Normal"): 6199,
    ("C", "Normal"): 4760,
    ("A", "Scratches"): 340,
    ("B", "Scratches"): 167,
    ("C", "Scratches"): 121,
    ("A", "Spots"): 108,
    ("B", "Spots"): 670,
    ("C", "Spots"): 258,
}
SHEET_NORMAL = 6250  # of each product, as the data sheet counts; defects agree
_POINTER = b"version https://git-lfs"
EPILOG = f"""\
Without --source, the archive ({ARCHIVE_SIZE:,} bytes) is downloaded to --archive; an interrupted
download goes on where it broke off, and the archive stays for the next time.

Defects keep the split of their folder: 50 of each product and defect are held out (val and test).
Normal images have none: of each product 700 are dealt to training, and as many to val and test as
the data sheet says; the others are the pool of the classifier. --seed deals them.

Five pictures of A lie under scratches AND spots, the same pixels twice. Nobody knows which is
right: all ten are left out and named.

examples:
  python data_scripts/prepare_sdi.py --out build/data/sdi --size 64
  python data_scripts/prepare_sdi.py --source {ARCHIVE_NAME} --out build/data/sdi --dry-run

{SOURCE.notice["page"]}
Licence: {SOURCE.notice["licence"]}
Cite: {SOURCE.notice["citation"]}
"""


def check_archive(path: Path) -> None:
    """Refuse (DatasetError) what stands in for the archive in a clone without Git LFS."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise DatasetError(
                    f"{path}: a Git LFS pointer, expected {ARCHIVE_SIZE:,} bytes; run "
                    "`git lfs install` and `git lfs pull` in that clone, or leave --source away"
                )


def check_counts(listing: Listing, any_counts: bool) -> None:
    """Compare the counts with the archive's; DatasetError: others, unless `any_counts`."""
    found = Counter((c.product, c.defect) for c in listing.candidates)
    wrong = [
        f"{product} {defect}: found {found[product, defect]:,}, expected {count:,}"
        for (product, defect), count in PUBLISHED.items()
        if found[product, defect] != count
    ]
    if wrong and not any_counts:
        examples = [f"{item.name}: {item.reason}" for item in listing.left_out[:5]]
        raise DatasetError(
            f"the counts are not those of the archive ({SOURCE.notice['page']}); take it as "
            "published, or go on with what is there by --any-counts:",
            {"count": wrong, "left out": examples},
        )
    if wrong:
        listing.remarks.append(f"other counts than the archive's: {'; '.join(wrong)}")
    else:
        listing.remarks.append(
            f"the data sheet counts {SHEET_NORMAL:,} Normal images a product, the archive holds "
            f"{', '.join(f'{PUBLISHED[p, SOURCE.anchor]:,}' for p in PRODUCTS)}"
        )


def deal_normal(cells: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Val, test and training of Normal images as in the data sheet; the others are the pool.

    A product with too few images for that is dealt 70/10/20 %. A group of several cells counts for
    its first; the seed shuffles the groups, since neither sheet nor archive names the images.
    """
    members: dict[str, list[str]] = {}
    for group in sorted(cells):
        members.setdefault(cells[group][0], []).append(group)
    generator = np.random.default_rng(seed)
    result: dict[str, str] = {}
    for cell in sorted(members):
        product, defect = cell.split("/")
        sizes = {split: COUNTS[split][defect][PRODUCTS.index(product)] for split in COUNTS}
        groups = [members[cell][k] for k in generator.permutation(len(members[cell]))]
        if len(groups) < 2 * (sizes["val"] + sizes["test"]):
            result |= deal_shares({group: [cell] for group in groups}, seed)
            continue
        for split in ("val", "test", "train"):
            result |= dict.fromkeys(groups[: sizes[split]], split)
            groups = groups[sizes[split] :]
        result |= dict.fromkeys(groups, "pool")
    return result


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
        "--any-counts", action="store_true", help="go on with other counts than the archive's"
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
        print(f"the archive of {SOURCE.notice['page']}, kept as {source}")
        download(ARCHIVE_URL, source, size=ARCHIVE_SIZE, sha256=ARCHIVE_SHA256)
    check_archive(source)
    words = ["--source", "ZIP_OR_FOLDER"] if options.source else []
    words += ["--any-counts"] if options.any_counts else []
    prepare_published(
        "prepare_sdi",
        SOURCE,
        [source],
        words,
        options,
        check=lambda listing: check_counts(listing, options.any_counts),
        deal=deal_normal,
    )


if __name__ == "__main__":
    sys.exit(main())
