"""Several prepared data sets as one: the paper's joint case, every product under one model (§1).

    parts = [Part(load_dataset("build/data/synthetic-sdi")), Part(load_dataset("build/data/mtd"))]
    joint = join_datasets(parts, Path("build/data/joint"), size=64)

Products stand side by side and defects are shared: a scratch on a magnetic tile and a scratch on
product A bear one label, so that one network learns both.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import folded
from dtgan_core.images import as_height_width, open_image, resized, to_png
from dtgan_lab.data.dataset import MASKS_FOLDER, TWINS_FOLDER, Dataset, DatasetInfo, resized_mask
from dtgan_lab.data.layout import keep_apart, staged_dataset, write_dataset
from dtgan_lab.data.validation import load_dataset

NAME = "joint"


@dataclass(frozen=True)
class Part:
    """A data set to be joined, and its products' new names; those not named keep theirs."""

    dataset: Dataset
    rename: dict[str, str] = field(default_factory=dict)

    def new_name(self, product: str) -> str:
        """The product's name in the joined set."""
        return self.rename.get(product, product)

    @property
    def products(self) -> tuple[str, ...]:
        """The part's products under their new names, in order."""
        return tuple(self.new_name(product) for product in self.dataset.info.products)


def join_datasets(
    parts: Sequence[Part],
    out: Path,
    *,
    name: str = NAME,
    size: int | tuple[int, int] | None = None,
    progress: bool = True,
) -> Dataset:
    """Write one data set that holds all images, masks and twins of several.

    Images and twins are resized with antialiasing; masks stay 0 or 255, and thin cracks survive in
    them (see `masks.resized_mask`). A file that has the common size already is
    copied byte for byte. Splits, seeds and sources stay; groups get their data set's name in front.

    Args:
        parts: what to join, in the order in which the products get their labels p.
        out: folder to write to; missing, empty, or holding an older data set of that name.
        name: short name of the joined data set.
        size: side in pixels, or (height, width); default: that of the smallest images.
        progress: show a bar when standard error is a terminal.

    Returns:
        The joined data set, every file checked.

    Raises:
        DatasetError: anchors, channels or names do not fit together, `out` is one of the inputs or
            holds something else, or two images have become the same. `out` is left as it was.
        ImageError: an input file cannot be decoded; `out` is left as it was.
    """
    info = joined_info(parts, name=name, size=size)
    keep_apart(out, [part.dataset.root for part in parts])
    rows = []
    with staged_dataset(out, name) as staging:
        for part, label in zip(parts, _labels(parts), strict=True):
            old = part.dataset.manifest.to_dict("records")
            title = f"writing {name}, {label}"
            for row in tqdm(old, title, unit="image", disable=None if progress else True):
                rows.append(_carried(part, label, row, staging, info))
        write_dataset(staging, pd.DataFrame(rows), info)
    return load_dataset(out, check="full")


def joined_info(
    parts: Sequence[Part], *, name: str = NAME, size: int | tuple[int, int] | None = None
) -> DatasetInfo:
    """What dataset.json of the joined set will say; a DatasetError lists all that does not fit.

    Licences and citations are listed by product, sources with the hash of each part's manifest.
    """
    if not parts:
        raise DatasetError("no data set to join, expected at least one; add --data DIR")
    if problems := _problems(parts):
        raise DatasetError("these data sets cannot be joined:", {"": problems})
    infos = [part.dataset.info for part in parts]
    smallest = min((info.image_size for info in infos), key=lambda side: (side[0] * side[1], side))
    image_size = smallest if size is None else as_height_width(size)
    info = DatasetInfo(
        name=name,
        anchor=infos[0].anchor,
        products=tuple(product for part in parts for product in part.products),
        defects=tuple(dict.fromkeys(defect for info in infos for defect in info.defects)),
        image_size=image_size,
        channels=infos[0].channels,
        flips={
            part.new_name(product): allowed
            for part in parts
            for product, allowed in part.dataset.info.flips.items()
        },
        licence=_by_products(parts, [info.licence for info in infos]),
        citation=_by_products(parts, [info.citation for info in infos]),
        source=_by_products(parts, [part.dataset.origin for part in parts]),
        command=_command(parts, name, image_size),
    )
    return DatasetInfo.from_json(info.to_json())  # a new name may be no folder's name


def _by_products(parts: Sequence[Part], texts: Sequence[str]) -> str:
    """Each part's text behind the names of its products."""
    return " | ".join(
        f"{', '.join(part.products)}: {text}" for part, text in zip(parts, texts, strict=True)
    )


def _command(parts: Sequence[Part], name: str, image_size: tuple[int, int]) -> str:
    """The command that makes the joined set again; paths of this machine are left out."""
    words = ["python", "data_scripts/join_datasets.py"]
    for part, label in zip(parts, _labels(parts), strict=True):
        words += ["--data", f"DIR_OF_{label}"]
        words += [w for old, new in part.rename.items() for w in ("--rename", f"{old}={new}")]
    words += ["--out", "DIR"]
    words += ["--name", name] if name != NAME else []
    height, width = image_size
    return shlex.join([*words, "--size", str(height) if height == width else f"{height}x{width}"])


def _labels(parts: Sequence[Part]) -> list[str]:
    """The parts' names, numbered where a name comes twice: they keep the groups apart."""
    names = [part.dataset.info.name for part in parts]
    labels: list[str] = []
    for name in names:
        label, number = name, 1
        while label in labels or (label != name and label in names):
            number += 1
            label = f"{name}-{number}"
        labels.append(label)
    return labels


def _problems(parts: Sequence[Part]) -> list[str]:
    """What does not fit together: names of products, anchors, spellings of defects, channels."""
    found, first = list[str](), parts[0].dataset
    owners, spelt = dict[str, Path](), dict[str, tuple[str, Path]]()
    for part in parts:
        root, info = part.dataset.root, part.dataset.info
        again = f"make one of the two again like the other: {info.command}"
        found += [
            f"{root}: --rename {old}={new}, but its products are {', '.join(info.products)}; name "
            "one of these"
            for old, new in part.rename.items()
            if old not in info.products
        ]
        for old, product in zip(info.products, part.products, strict=True):
            if folded(product) in owners:
                found.append(
                    f"{root}: product {product!r} is also one of {owners[folded(product)]}, "
                    f"expected another name; add --rename {old}=NEW behind --data {root}"
                )
            owners.setdefault(folded(product), root)
        same: list[tuple[str, object, object, Path]] = [
            ("anchor (no defect)", info.anchor, first.info.anchor, first.root),
            ("number of channels", info.channels, first.info.channels, first.root),
        ]
        for defect in info.defects:
            same += [("defect", defect, *spelt.setdefault(folded(defect), (defect, root)))]
        found += [
            f"{root}: its {name} is {own!r}, expected {other!r} as in {where}; {again}"
            for name, own, other, where in same
            if own != other
        ]
    return found


def _carried(
    part: Part, label: str, row: dict[Any, str], staging: Path, info: DatasetInfo
) -> dict[Any, str]:
    """Bring an image with its mask and twin into the joined set; returns its new row."""
    product = part.new_name(row["product"])
    new = {**row, "product": product, "group": f"{label}/{row['group']}"}
    for column, above in (("path", ""), ("mask", MASKS_FOLDER), ("twin", TWINS_FOLDER)):
        if not row[column]:
            continue
        name = PurePosixPath(row[column]).name
        new[column] = str(PurePosixPath(above, row["split"], product, row["defect"], name))
        target = staging / new[column]
        if not target.exists():  # several images may share a twin
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_resized(part.dataset, row[column], column == "mask", info))
    picture = (staging / new["path"]).read_bytes()
    return new | {"sha256": hashlib.sha256(picture).hexdigest()}


def _resized(dataset: Dataset, path: str, mask: bool, info: DatasetInfo) -> bytes:
    """A file as it is where it has the common size, else brought to it."""
    data = dataset.read(path)
    mode = "L" if mask or info.channels == 1 else "RGB"
    image = open_image(data, mode, str(dataset.root / path))
    if image.size == info.image_size[::-1]:
        return data
    made = resized_mask(image, info.image_size) if mask else resized(image, info.image_size)
    return to_png(np.asarray(made))
