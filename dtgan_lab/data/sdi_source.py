"""The published Surface Defect Inspection data set (SDI): its archive, its names, its counts.

The data sheet gives counts and splits, but not how the archive is laid out. So product and defect
are read off folder and file names, in whatever order and spelling they come, and the counts of the
sheet decide whether that was right.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_lab.data.adopt import Candidate, Listing, deal_shares
from dtgan_lab.data.archives import LeftOut, Tree
from dtgan_lab.data.synthetic.sdi import COUNTS

PAGE = "https://github.com/boschresearch/The-Surface-Defect-Inspection-Dataset"
ARCHIVE_NAME = "SDI_DATASET_v1.zip"
ARCHIVE_URL = f"{PAGE}/raw/c6e0afe66e9dbd9d99326c986ea884ddf2aad9f8/{ARCHIVE_NAME}"
ARCHIVE_SHA256 = "d33ea340151cdf909f3807a37e00d335c66eb8960b0c2eb568fd9fc75d96fa7c"
ARCHIVE_SIZE = 1_647_097_112  # bytes

NORMAL = "Normal"
#: Images per (product, defect) as the data sheet counts them, 20,414 together.
SHEET: dict[tuple[str, str], int] = {
    ("A", "Normal"): 6250,
    ("B", "Normal"): 6250,
    ("C", "Normal"): 6250,
    ("A", "Scratches"): 340,
    ("B", "Scratches"): 167,
    ("C", "Scratches"): 121,
    ("A", "Spots"): 108,
    ("B", "Spots"): 670,
    ("C", "Spots"): 258,
}
PRODUCTS = tuple(sorted({product for product, _ in SHEET}))

#: Words that name a defect, in lower case and without a plural's s.
_DEFECT_WORDS = {
    "normal": NORMAL,
    "good": NORMAL,
    "ok": NORMAL,
    "scratch": "Scratches",
    "scratche": "Scratches",
    "spot": "Spots",
}
_POINTER = b"version https://git-lfs"
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def check_archive(path: Path) -> None:
    """Refuse the few bytes that stand in for the archive in a clone without Git LFS.

    Raises:
        DatasetError: with the commands that fetch the archive.
    """
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise DatasetError(
                    f"{path}: a Git LFS pointer, expected {ARCHIVE_SIZE:,} bytes; run "
                    "`git lfs install` and `git lfs pull` in that clone, or leave --source away"
                )


def label_sdi(tree: Tree, any_counts: bool = False) -> Listing:
    """Read product and defect off the names, and compare the counts with the data sheet.

    Raises:
        DatasetError: other counts than the sheet's, unless `any_counts`.
    """
    listing = Listing(left_out=tree.left_out)
    for name, read in tree.readers.items():
        product, defect = label_of(name)
        if len(product) == 1 and len(defect) == 1:
            listing.candidates.append(Candidate(name, read, product[0], defect[0]))
            continue
        reason = (
            f"names {_told(product, 'product')} and {_told(defect, 'defect')}, expected one of "
            f"{', '.join(PRODUCTS)} and one of {', '.join(COUNTS['train'])}"
        )
        listing.left_out.append(LeftOut(shown(name), "label", reason))
    _check_counts(listing, any_counts)
    return listing


def _told(found: list[str], what: str) -> str:
    return " and ".join(f"{what} {label}" for label in found) or f"no {what}"


def label_of(name: str) -> tuple[list[str], list[str]]:
    """Products and defects that a path names; the folder nearest to the file decides for each.

    The file's own name comes last: "a3b7.png" is a number more often than a product.

    "SDI/product_A/Scratches/0001.png", "A_scratch_0001.png", "Scratches/A/1.png" and
    "ProductA/train/Spots/7.png" all name one of each.
    """
    products: list[str] = []
    defects: list[str] = []
    path = PurePosixPath(name)
    for part in (*reversed(path.parts[:-1]), path.stem):
        words = _WORDS.findall(part)
        found = [_DEFECT_WORDS.get(word.lower().removesuffix("s")) for word in words]
        defects = defects or sorted({label for label in found if label})
        products = products or sorted({word.upper() for word in words} & set(PRODUCTS))
    return products, defects


def _check_counts(listing: Listing, any_counts: bool) -> None:
    found = Counter((c.product, c.defect) for c in listing.candidates)
    wrong = [
        f"{product} {defect}: found {found[product, defect]:,}, expected {count:,}"
        for (product, defect), count in SHEET.items()
        if found[product, defect] != count
    ]
    if wrong and not any_counts:
        examples = [f"{item.name}: {item.reason}" for item in listing.left_out[:5]]
        raise DatasetError(
            f"the counts are not those of the data sheet ({PAGE}); take the published archive, or "
            "go on with what is there by --any-counts:",
            {"count": wrong, "left out": examples},
        )
    if wrong:
        listing.remarks.append(f"other counts than the data sheet's: {'; '.join(wrong)}")


def deal_sdi(cells: dict[str, list[str]], seed: int) -> dict[str, str]:
    """The splits of the data sheet: 50 images of each cell held out, 30 % val and 70 % test.

    Of the remaining Normal images 700 a product train the GAN; the others are the pool that a
    classifier draws from. A cell with too few images for that is dealt 70/10/20 %.

    Args:
        cells: group -> cells ("A/Scratches") of its images; a group of several cells counts for
            its first.
        seed: shuffles the groups; the sheet does not name the images.
    """
    members: dict[str, list[str]] = {}
    for group in sorted(cells):
        members.setdefault(cells[group][0], []).append(group)
    generator = np.random.default_rng(seed)
    result: dict[str, str] = {}
    for cell in sorted(members):
        product, defect = cell.split("/")
        number = PRODUCTS.index(product)
        val, test = (COUNTS[split][defect][number] for split in ("val", "test"))
        groups = [members[cell][k] for k in generator.permutation(len(members[cell]))]
        if len(groups) < 2 * (val + test):
            result |= deal_shares({group: [cell] for group in groups}, seed)
            continue
        train = COUNTS["train"][defect][number] if defect == NORMAL else len(groups)
        ends = {"val": val, "test": val + test, "train": val + test + train, "pool": len(groups)}
        start = 0
        for split, end in ends.items():
            result |= dict.fromkeys(groups[start:end], split)
            start = max(start, end)
    return result
