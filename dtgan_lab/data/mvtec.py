"""The textures of MVTec AD: which published defect becomes which of the kit's, masks carried along.

::

    <category>/train/good/000.png
    <category>/test/<defect>/000.png
    <category>/ground_truth/<defect>/000_mask.png
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_plain, shown
from dtgan_lab.data.adopt import Candidate, Listing
from dtgan_lab.data.archives import LeftOut, Tree

PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
LICENCE = (
    "CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/ (not for commercial use; "
    "adapted material goes on under the same licence)"
)
CITATION = (
    "P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, The MVTec Anomaly Detection "
    "Dataset: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection, International "
    "Journal of Computer Vision 129(4), 1038-1059, 2021, doi:10.1007/s11263-020-01400-4; "
    "P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, MVTec AD: A Comprehensive Real-World "
    "Dataset for Unsupervised Anomaly Detection, CVPR 2019, 9584-9592"
)
SUFFIX = ".tar.xz"

_GOOD = "good"
_PARTS = ("train", "test")
_MASKS = "ground_truth"


@dataclass(frozen=True)
class Mapping:
    """Which published defect becomes which of the kit's.

    Attributes:
        anchor: the defect that means "nothing there".
        products: category -> product name.
        defects: category -> published defect -> defect; those not named are left out.
    """

    anchor: str
    products: dict[str, str]
    defects: dict[str, dict[str, str]]

    def words(self) -> str:
        """The mapping as one line, the same for the same content."""
        return json.dumps([self.anchor, self.products, self.defects], sort_keys=True)


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file in TOML (see data_scripts/mvtec_mapping.toml).

    Raises:
        DatasetError: unreadable or incomplete; all problems together.
    """
    try:
        value: dict[str, Any] = tomllib.loads(read_plain(path).decode())
    except (OSError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise DatasetError(f"{path}: unreadable ({error}), expected a TOML mapping file") from error
    anchor = value.pop("anchor", None)
    problems = []
    if not isinstance(anchor, str):
        problems.append(f'anchor is {anchor!r}, expected a defect name, such as anchor = "Normal"')
    if not value:
        problems.append("no category, expected a table such as [carpet]")
    for category, table in value.items():
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            problems.append(f'{category} is {table!r}, expected lines such as cut = "Scratches"')
        elif "product" not in table:
            problems.append(f'[{category}] names no product, expected product = "NAME"')
        elif table.get(_GOOD) != anchor:
            problems.append(
                f"[{category}] good is {table.get(_GOOD)!r}, expected the anchor {anchor!r}"
            )
    if problems:
        raise DatasetError(f"{path}: not a usable mapping; correct the file:", {"": problems})
    products = {category: table.pop("product") for category, table in value.items()}
    assert isinstance(anchor, str)  # checked above
    return Mapping(anchor, products, value)


def find_sources(sources: Sequence[Path], mapping: Mapping) -> list[Path]:
    """A folder that holds the categories' archives stands for these archives."""
    found: list[Path] = []
    for source in sources:
        inside = [source / f"{category}{SUFFIX}" for category in mapping.products]
        archives = [path for path in inside if path.is_file()] if source.is_dir() else []
        found += archives or [source]
    return found


def label_mvtec(tree: Tree, mapping: Mapping) -> Listing:
    """Read category and defect off the folders, and find the mask of each defect.

    Raises:
        DatasetError: no picture in the published layout.
    """
    listing = Listing(left_out=tree.left_out)
    unnamed: dict[str, int] = {}
    places = {name: _place(name, mapping) for name in tree.readers}
    masks = {place: name for name, place in places.items() if place and place[1] == _MASKS}
    for name, place in places.items():
        if place is None:
            reason = "expected <category>/train|test|ground_truth/<defect>/<image>, with a category"
            told = f"{reason} of the mapping: {', '.join(mapping.products)}"
            listing.left_out.append(LeftOut(shown(name), "misplaced", told))
            continue
        category, part, published, stem = place
        if part == _MASKS:
            continue
        defect = mapping.defects[category].get(published)
        if defect is None:
            unnamed[f"{category}/{published}"] = unnamed.get(f"{category}/{published}", 0) + 1
            reason = f"{category}/{published} is not in the mapping"
            listing.left_out.append(LeftOut(shown(name), "not mapped", reason))
            continue
        mask = masks.get((category, _MASKS, published, f"{stem}_mask"), "")
        listing.candidates.append(
            Candidate(
                name=name,
                read=tree.readers[name],
                product=mapping.products[category],
                defect=defect,
                mask_name=mask,
                read_mask=tree.readers.get(mask),
            )
        )
    if not listing.candidates:
        raise DatasetError(
            f"no picture in <category>/train/good or <category>/test/<defect>, expected the files "
            f"of {PAGE}; give the folder that holds the categories as --source"
        )
    listing.remarks += _remarks(listing, mapping, unnamed)
    return listing


def _place(name: str, mapping: Mapping) -> tuple[str, str, str, str] | None:
    """Category, part, published defect and stem, wherever the categories' folders lie."""
    parts = PurePosixPath(name).parts
    if len(parts) < 4:
        return None
    category, part, published, file = parts[-4:]
    if category not in mapping.products or part not in (*_PARTS, _MASKS):
        return None
    return category, part, published, PurePosixPath(file).stem


def _remarks(listing: Listing, mapping: Mapping, unnamed: dict[str, int]) -> list[str]:
    remarks = [
        "MVTec AD trains on good images alone: all its defects lie in its test split. A DT-GAN "
        "needs defects to learn from, so train and test are put together and dealt anew, image by "
        "image; results do not compare with those on MVTec's own split"
    ]
    remarks += [
        f"left out, not in the mapping: {name}, {count} images" for name, count in unnamed.items()
    ]
    present = {candidate.product for candidate in listing.candidates}
    missing = [name for name, product in mapping.products.items() if product not in present]
    if missing:
        remarks.append(f"not in the source: {', '.join(missing)}")
    bare = sum(c.read_mask is None and c.defect != mapping.anchor for c in listing.candidates)
    if bare:
        remarks.append(f"{bare} defective images have no mask in {_MASKS}")
    return remarks
