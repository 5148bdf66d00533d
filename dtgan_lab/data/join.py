"""Several prepared data sets as one: the paper's joint case, every product under one model (§1).

    parts = [Part(load_dataset("build/data/synthetic-sdi")), Part(load_dataset("build/data/mtd"))]
    joint = join_datasets(parts, Path("build/data/joint"), size=64)

Products stand side by side and defects are shared: a scratch on a magnetic tile and a scratch on
product A bear one label, so that one network learns both.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import folded
from dtgan_core.images import as_height_width, open_image, resized
from dtgan_lab.data.dataset import (
    MASKS_FOLDER,
    TWINS_FOLDER,
    Dataset,
    DatasetInfo,
    info_problems,
    read_known,
    resized_mask,
)
from dtgan_lab.data.layout import keep_apart, staged_dataset, write_dataset
from dtgan_lab.data.validation import known_hashes, load_dataset

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


class _File(NamedTuple):
    """One file to be carried over: image, mask or twin."""

    source: Path
    read: Callable[[], bytes]
    target: str  # relative to the joined set
    is_mask: bool


_Job = tuple[dict[str, str], list[_File]]  # a manifest row without its hash, image first


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
    labels = _labels(parts)
    jobs = [job for part, label in zip(parts, labels, strict=True) for job in _jobs(part, label)]
    with staged_dataset(out, name) as staging:
        rows: list[dict[str, str]] = []
        written: set[str] = set()
        for row, files in tqdm(
            jobs, desc=f"writing {name}", unit="image", disable=None if progress else True
        ):
            for file in files:
                if file.target not in written:  # several images may share a twin
                    _carry(file, staging, info)
                    written.add(file.target)
            picture = (staging / row["path"]).read_bytes()
            rows.append({**row, "sha256": hashlib.sha256(picture).hexdigest()})
        table = pd.DataFrame(rows)
        _refuse_repeats(table, out)
        write_dataset(staging, table, info)
    return load_dataset(out, check="full")


def joined_info(
    parts: Sequence[Part], *, name: str = NAME, size: int | tuple[int, int] | None = None
) -> DatasetInfo:
    """What dataset.json of the joined set will say; a DatasetError lists all that does not fit.

    Licences and citations are listed by product, sources with the hash of each part's manifest.
    """
    if not parts:
        raise DatasetError("no data set to join, expected at least one; add --data DIR")
    if any((problems := _problems(parts)).values()):
        raise DatasetError("these data sets cannot be joined:", problems)
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
    unusable = info_problems(info.to_json())  # a new name may be no folder's name
    if unusable:
        raise DatasetError(
            "the joined set would not be usable; correct --rename:", {"dataset.json": unusable}
        )
    return info


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


def _problems(parts: Sequence[Part]) -> dict[str, list[str]]:
    """What does not fit together, by kind.

    Every product is one folder, every defect has one spelling ("a" and "A" are the same folder on
    some disks), and all have one anchor and one number of channels.
    """
    found: dict[str, list[str]] = {"rename": [], "product": [], "defect": [], "channels": []}
    first, owners, spelt = parts[0].dataset, dict[str, Path](), dict[str, tuple[str, Path]]()
    for part in parts:
        root, info = part.dataset.root, part.dataset.info
        again = f"make one of the two again with the other's names: {info.command}"
        found["rename"] += [
            f"{root}: --rename {old}={new}, but its products are {', '.join(info.products)}; name "
            "one of these"
            for old, new in part.rename.items()
            if old not in info.products
        ]
        for old, product in zip(info.products, part.products, strict=True):
            if folded(product) in owners:
                found["product"].append(
                    f"{root}: product {product!r} is also one of {owners[folded(product)]}, "
                    f"expected another name; add --rename {old}=NEW behind --data {root}"
                )
            owners.setdefault(folded(product), root)
        if info.anchor != first.info.anchor:
            found["defect"].append(
                f"{root}: its anchor (no defect) is {info.anchor!r}, expected "
                f"{first.info.anchor!r} as in {first.root}; {again}"
            )
        for defect in info.defects:
            other, where = spelt.setdefault(folded(defect), (defect, root))
            if other != defect:
                found["defect"].append(
                    f"{root}: defect {defect!r}, expected {other!r} as in {where}; {again}"
                )
        if info.channels != first.info.channels:
            found["channels"].append(
                f"{root}: {info.channels} channel(s), expected {first.info.channels} as in "
                f"{first.root}; make one of the two again in the other's colours: {info.command}"
            )
    return found


def _jobs(part: Part, label: str) -> Iterator[_Job]:
    """For every image of a part: its new manifest row, and the files that go with it."""
    root = part.dataset.root
    manifest, known = part.dataset.manifest, known_hashes(part.dataset)
    command = part.dataset.info.command
    for values in manifest.to_numpy().tolist():
        row: dict[str, str] = dict(zip(manifest.columns, values, strict=True))
        product = part.new_name(row["product"])
        folder = PurePosixPath(row["split"], product, row["defect"])
        new = {**row, "product": product, "group": f"{label}/{row['group']}"}
        files = []
        for column, above in (("path", ""), ("mask", MASKS_FOLDER), ("twin", TWINS_FOLDER)):
            if row[column]:
                file_name = PurePosixPath(row[column]).name
                if not file_name.lower().endswith(".png"):
                    file_name += ".png"  # in whatever format it comes, it is written as PNG
                new[column] = str(PurePosixPath(above, folder, file_name))
                source = root / row[column]
                read = partial(read_known, source, known.get(row[column]), command)
                files.append(_File(source, read, new[column], column == "mask"))
        yield new, files


def _carry(file: _File, staging: Path, info: DatasetInfo) -> None:
    """Bring one file into the joined set, resized where it has another size."""
    mode = "L" if file.is_mask or info.channels == 1 else "RGB"
    data = file.read()
    image = open_image(data, mode, str(file.source))
    target = staging / file.target
    target.parent.mkdir(parents=True, exist_ok=True)
    height, width = info.image_size
    if image.size == (width, height) and file.source.suffix.lower() == ".png":
        target.write_bytes(data)
        return
    made = resized_mask(image, info.image_size) if file.is_mask else resized(image, info.image_size)
    made.save(target, "PNG")


def _refuse_repeats(table: pd.DataFrame, out: Path) -> None:
    """The same picture twice could lie in training and test; downsizing can make it so."""
    problems = [
        f"{rows['path'].iloc[0]}: the same bytes as {', '.join(rows['path'].iloc[1:])}"
        for _, rows in table.groupby("sha256", sort=False)
        if len(rows) > 1
    ]
    if problems:
        raise DatasetError(
            f"{out}: not written, images would be in it twice, expected different ones; join a "
            "data set once, or take a larger --size:",
            {"duplicate image": problems},
        )
