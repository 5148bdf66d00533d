"""The one layout in which every data set of this kit lies on disk.

::

    DATA/dataset.json                                 what the set is (`DatasetInfo`)
    DATA/manifest.csv                                 one row per image (`MANIFEST_COLUMNS`)
    DATA/<split>/<product>/<defect>/<name>.png        the images, 8-bit grey or RGB
    DATA/masks/<split>/<product>/<defect>/<name>.png  ground-truth masks, 0 or 255 (optional)
    DATA/twins/<split>/<product>/<defect>/<name>.png  defect-free twins (optional)

Whatever writes a data set uses `staged_dataset` and `write_dataset`; whatever reads one uses
`load_dataset`, which checks it first (see `dtgan_core.data.validation`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dtgan_core.files import read_json, sync_folder, write_atomic, write_json_atomic

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

#: Folder under a data set's root in which its successor is written; a kill may leave it.
STAGING_NAME = ".staging"
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
        kinds = dict(problems or {})
        self.problems: list[str] = [line for lines in kinds.values() for line in lines]
        shown = [headline]
        for kind, lines in kinds.items():
            shown += [f"- {line}" for line in lines[:_SHOWN_PER_KIND]]
            if len(lines) > _SHOWN_PER_KIND:
                shown.append(f"- ... and {len(lines) - _SHOWN_PER_KIND} more of this kind ({kind})")
        super().__init__("\n".join(shown))


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
        signs = any(sign in name for sign in '/\\:*?"<>|') or not name.isprintable()
        if not name.strip() or name.startswith(".") or signs:
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
        return hashlib.sha256((self.root / MANIFEST_NAME).read_bytes()).hexdigest()

    def counts(self) -> pd.DataFrame:
        """Images per class: index (split, product), one column per defect, zeros kept."""
        splits = [split for split in SPLITS if (self.manifest["split"] == split).any()]
        index = pd.MultiIndex.from_product([splits, self.info.products], names=["split", "product"])
        table = self.manifest.groupby(["split", "product", "defect"]).size().unstack("defect")
        table = table.reindex(index=index, columns=list(self.info.defects))
        return table.fillna(0).astype(int)


def write_dataset(root: Path, rows: pd.DataFrame, info: DatasetInfo) -> None:
    """Write dataset.json and manifest.csv for images that already lie under `root`.

    The manifest is written last: a folder with a manifest is complete.

    Args:
        root: folder of the data set.
        rows: one row per image, with the columns `MANIFEST_COLUMNS` in any order; missing values
            become ''. Rows are sorted by path, so the file does not depend on their order.
        info: content of dataset.json.

    Raises:
        DatasetError: the columns are not those of the layout, or `info` contradicts itself.
    """
    expected, found = set(MANIFEST_COLUMNS), list(rows.columns)
    if set(found) != expected or len(found) != len(expected):
        raise DatasetError(
            f"{root / MANIFEST_NAME}: rows have the columns {found}, expected {MANIFEST_COLUMNS}"
        )
    DatasetInfo.from_json(info.to_json())
    table = rows.loc[:, list(MANIFEST_COLUMNS)].sort_values("path", kind="stable")
    write_json_atomic(root / INFO_NAME, info.to_json())
    text = table.to_csv(index=False, lineterminator="\n", na_rep="")
    write_atomic(root / MANIFEST_NAME, text.encode("utf-8"))
    sync_folder(root)


def load_dataset(root: Path | str, *, check: Literal["quick", "full"] = "quick") -> Dataset:
    """Read a data set and check it.

    Args:
        root: its folder.
        check: "quick" looks at dataset.json, the manifest and the file names; "full" also opens
            every image and compares mode, size and hash.

    Raises:
        DatasetError: one error that lists all problems together, each with path and remedy.
    """
    from dtgan_core.data.validation import inspect_dataset  # it builds on this module

    return inspect_dataset(Path(root), check=check)


def keep_apart(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """Refuse an output that lies in, on or above an input, which it could spoil; links followed.

    Args:
        out: file or folder that is going to be written.
        inputs: files and folders that are only read.
        option: by which `out` was given, for the message.

    Raises:
        DatasetError: naming both.
    """
    target = Path(os.path.realpath(out))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if _lies_in(target, source) or _lies_in(source, target):
            raise DatasetError(
                f"{option} {out}: shares its folder with the input {path}, expected a place beside "
                f"it; choose another {option}"
            )


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or below it, also where upper and lower case are the same."""
    if path.is_relative_to(folder):
        return True
    return folder.exists() and any(
        above.exists() and above.samefile(folder) for above in (path, *path.parents)
    )


@contextmanager
def staged_dataset(root: Path, name: str) -> Iterator[Path]:
    """Give a folder to write a data set into; it takes its place under `root` when all went well.

    Until then nothing of an older data set under `root` is touched, and files of an earlier run
    with other options never mix with new ones.

    Args:
        root: where the data set goes; it may be missing, empty, or hold an older one of that name.
        name: the data set's name (`DatasetInfo.name`).

    Yields:
        The staging folder; write images there and finish with `write_dataset(staging, ...)`.

    Raises:
        DatasetError: `root` holds something else, or files that no manifest knows.
    """
    root.mkdir(parents=True, exist_ok=True)
    _refuse_foreign_folder(root, name)
    staging = root / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        if not (staging / MANIFEST_NAME).is_file():
            raise DatasetError(f"{staging}: no manifest was written, expected write_dataset(...)")
        _put_in_place(staging, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign_folder(root: Path, name: str) -> None:
    """Only an empty folder or an older data set of that name may be written over."""
    visible = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    if not visible:
        return
    remedy = "choose an empty folder with --out, or move these files away"
    try:
        found = read_json(root / INFO_NAME)["name"]
    except FileNotFoundError:
        raise DatasetError(
            f"{root}: not empty (found {', '.join(visible[:5])}) and not a data set of this kit; "
            f"{remedy}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{root / INFO_NAME}: unreadable ({error}); {remedy}") from error
    if found != name:
        raise DatasetError(f"{root}: holds the data set {found!r}, expected {name!r}; {remedy}")
    _refuse_unknown_files(root, remedy)


def _refuse_unknown_files(root: Path, remedy: str) -> None:
    """Replacing the folders of an older data set must not delete what its user put there."""
    manifest = root / MANIFEST_NAME
    if not manifest.is_file():  # an interrupted replacement: nothing here was ever complete
        return
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    known = {path for column in ("path", "mask", "twin") for path in table.get(column, [])}
    unknown = [path for path in files_below(root) if "/" in path and path not in known]
    if unknown:
        raise DatasetError(
            f"{root}: files that its manifest does not know would be lost; {remedy}:",
            {"unknown file": [str(root / path) for path in unknown]},
        )


def files_below(root: Path) -> list[str]:
    """Paths of all files under `root`, sorted, relative to it, with forward slashes.

    Dotfiles and everything in dot-folders (`.ipynb_checkpoints`) are left out.
    """
    found: list[str] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found)


def _put_in_place(staging: Path, root: Path) -> None:
    """Swap the folders; without a manifest in between, so that a kill here cannot go unnoticed."""
    (root / MANIFEST_NAME).unlink(missing_ok=True)
    os.replace(staging / INFO_NAME, root / INFO_NAME)
    for name in (*SPLITS, MASKS_FOLDER, TWINS_FOLDER):
        if (root / name).exists():
            shutil.rmtree(root / name)
        if (staging / name).exists():
            os.replace(staging / name, root / name)
    os.replace(staging / MANIFEST_NAME, root / MANIFEST_NAME)
    sync_folder(root)
