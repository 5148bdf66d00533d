"""The one layout in which every data set of this kit lies on disk.

::

    DATA/dataset.json                                 what the set is (`DatasetInfo`)
    DATA/manifest.csv                                 one row per image (`MANIFEST_COLUMNS`)
    DATA/<split>/<product>/<defect>/<name>.png        the images, 8-bit grey or RGB
    DATA/masks/<split>/<product>/<defect>/<name>.png  ground-truth masks, 0 or 255 (optional)
    DATA/twins/<split>/<product>/<defect>/<name>.png  defect-free twins (optional)

Whatever writes a data set uses `dtgan_lab.data.layout`; whatever reads one uses `load_dataset` of
`dtgan_lab.data.validation`, which checks it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dtgan_core.files import read_plain, shown

FORMAT = 1
INFO_NAME = "dataset.json"
MANIFEST_NAME = "manifest.csv"
MANIFEST_COLUMNS: tuple[str, ...] = (
    "path",
    "product",
    "defect",
    "split",
    "group",
    "mask",
    "twin",
    "seed",
    "sha256",
    "source",
)
#: train, val, test; `pool`: extra Normal images for a classifier; `fresh`: further draws.
SPLITS: tuple[str, ...] = ("train", "val", "test", "pool", "fresh")
MASKS_FOLDER = "masks"
TWINS_FOLDER = "twins"
FLIPS: tuple[str, ...] = ("horizontal", "vertical")
_INFO_KEYS = (
    "name",
    "anchor",
    "products",
    "defects",
    "image_size",
    "channels",
    "flips",
    "licence",
    "citation",
    "source",
    "command",
)
_SHOWN_PER_KIND = 20


class DatasetError(ValueError):
    """A data set cannot be used as it is.

    Attributes:
        problems: every problem found, in order; the message shows the first few of each kind.
    """

    def __init__(self, headline: str, problems: Mapping[str, list[str]] | None = None) -> None:
        """Build the message from problems sorted by kind (kind -> lines)."""
        kinds = {kind: [shown(line) for line in lines] for kind, lines in (problems or {}).items()}
        self.problems: list[str] = [line for lines in kinds.values() for line in lines]
        told = [shown(line) for line in headline.split("\n")]
        for kind, lines in kinds.items():
            told += [f"- {line}" for line in lines[:_SHOWN_PER_KIND]]
            if len(lines) > _SHOWN_PER_KIND:
                told.append(f"- ... and {len(lines) - _SHOWN_PER_KIND} more of this kind ({kind})")
        super().__init__("\n".join(told))


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says.

    Attributes:
        name: short name of the data set.
        anchor: the one defect that means "nothing there"; always the first of `defects`.
        products: product names; their order gives the labels p.
        defects: defect names; their order gives the labels y, so the anchor is y = 0.
        image_size: (height, width) of every image, in pixels.
        channels: 1 (grey) or 3 (RGB).
        flips: for each product the flips that leave it plausible: "horizontal", "vertical".
        licence: terms of use of the images.
        citation: what to cite.
        source: where the images came from.
        command: the command line that makes this data set again.
    """

    name: str
    anchor: str
    products: tuple[str, ...]
    defects: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    flips: dict[str, tuple[str, ...]]
    licence: str
    citation: str
    source: str
    command: str

    def to_json(self) -> dict[str, Any]:
        """The dictionary that dataset.json holds."""
        return {
            "format": FORMAT,
            "name": self.name,
            "anchor": self.anchor,
            "products": list(self.products),
            "defects": list(self.defects),
            "image_size": list(self.image_size),
            "channels": self.channels,
            "flips": {product: list(flips) for product, flips in self.flips.items()},
            "licence": self.licence,
            "citation": self.citation,
            "source": self.source,
            "command": self.command,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetInfo:
        """Read the dictionary of dataset.json.

        Raises:
            DatasetError: keys are missing, of the wrong kind, or contradict each other.
        """
        problems = info_problems(value)
        if problems:
            raise DatasetError("dataset.json is not usable:", {"dataset.json": problems})
        height, width = value["image_size"]
        return cls(
            name=value["name"],
            anchor=value["anchor"],
            products=tuple(value["products"]),
            defects=tuple(value["defects"]),
            image_size=(height, width),
            channels=value["channels"],
            flips={product: tuple(flips) for product, flips in value["flips"].items()},
            licence=value["licence"],
            citation=value["citation"],
            source=value["source"],
            command=value["command"],
        )


def info_problems(value: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the content of a dataset.json, one line each."""
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        return [f'"format" is {value.get("format")!r}, this version of the kit reads {FORMAT}']
    missing = [key for key in _INFO_KEYS if key not in value]
    if missing:
        return [f"keys missing: {', '.join(missing)}"]
    problems = [
        f'"{key}" is {value[key]!r}, expected a text'
        for key in ("name", "anchor", "licence", "citation", "source", "command")
        if not isinstance(value[key], str)
    ]
    for key in ("products", "defects"):
        problems += _name_list_problems(key, value[key])
    defects = value["defects"]
    if isinstance(defects, list) and defects and defects[0] != value["anchor"]:
        problems.append(
            f'the anchor {value["anchor"]!r} must be the first of "defects", found {defects!r}'
        )
    size = value["image_size"]
    if not (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
    ):
        problems.append(f'"image_size" is {size!r}, expected [height, width] in pixels')
    if type(value["channels"]) is not int or value["channels"] not in (1, 3):
        problems.append(f'"channels" is {value["channels"]!r}, expected 1 or 3')
    return problems + _flip_problems(value["flips"], value["products"])


def _name_list_problems(key: str, names: Any) -> list[str]:
    """Names become folder names and labels: non-empty, unique, without path separators."""
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        return [f'"{key}" is {names!r}, expected a list of at least one name']
    problems = [
        f'"{key}" names {name!r} {names.count(name)} times, expected once'
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for name in names:
        odd = not name.isprintable() or any(sign in name for sign in '/\\:*?"<>|')
        if odd or not name.strip() or name.startswith("."):
            problems.append(f'"{key}" holds {name!r}, which cannot be a folder name')
    return problems


def _flip_problems(flips: Any, products: Any) -> list[str]:
    if not isinstance(flips, dict):
        return [f'"flips" is {flips!r}, expected {{product: [allowed flips]}}']
    problems = []
    for product, allowed in flips.items():
        if isinstance(products, list) and product not in products:
            problems.append(f'"flips" names the product {product!r}, which "products" does not')
        if not isinstance(allowed, list) or any(flip not in FLIPS for flip in allowed):
            problems.append(
                f'"flips" of {product!r} is {allowed!r}, expected a list out of {list(FLIPS)}'
            )
    return problems


@dataclass(frozen=True)
class Dataset:
    """A data set on disk that passed its checks.

    Attributes:
        root: its folder.
        info: the content of dataset.json.
        manifest: the rows of manifest.csv, every column as text ('' where there is nothing).
        warnings: remarks that do not prevent its use, such as very small classes.
    """

    root: Path
    info: DatasetInfo
    manifest: pd.DataFrame
    warnings: tuple[str, ...] = field(default=())

    @property
    def manifest_hash(self) -> str:
        """Hex sha256 of manifest.csv's bytes; it names the data, since rows hold image hashes."""
        return hashlib.sha256(read_plain(self.root / MANIFEST_NAME)).hexdigest()

    def counts(self) -> pd.DataFrame:
        """Images per class: index (split, product), one column per defect, zeros kept."""
        splits = [split for split in SPLITS if (self.manifest["split"] == split).any()]
        index = pd.MultiIndex.from_product([splits, self.info.products], names=["split", "product"])
        table = self.manifest.groupby(["split", "product", "defect"]).size().unstack("defect")
        table = table.reindex(index=index, columns=list(self.info.defects))
        return table.fillna(0).astype(int)
