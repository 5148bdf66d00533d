"""Checks of a data set on disk: all problems in one report, each with its path and a remedy.

The quick check reads dataset.json, the manifest and the folders' listings (well under a second for
20,000 images); the full check also decodes every file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import folded, open_plain, read_json, read_plain
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded
from dtgan_lab.data.dataset import (
    INFO_NAME,
    MANIFEST_COLUMNS,
    MANIFEST_NAME,
    MASKS_FOLDER,
    SPLITS,
    SUMS_NAME,
    TWINS_FOLDER,
    Dataset,
    DatasetInfo,
    files_below,
    info_problems,
)

#: A class with fewer training images than this is reported (the paper's smallest has 8).
TINY_CLASS = 8
#: Training draws two different references of a defect.
SMALLEST_CLASS = 2

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


Add = Callable[[str, str], None]  # notes a problem: its kind, and a line


def _rows(manifest: pd.DataFrame) -> Iterable[Any]:
    """Its rows, with a text for each of `MANIFEST_COLUMNS`."""
    return manifest.itertuples(index=False)


def load_dataset(root: Path | str, *, check: Literal["quick", "full"] = "quick") -> Dataset:
    """Read a data set and check it.

    Args:
        root: its folder.
        check: "quick" looks at dataset.json, the manifest and the file names; "full" also opens
            every image and compares mode, size and hash.

    Raises:
        DatasetError: one error that lists all problems together, each with path and remedy.
    """
    if check not in ("quick", "full"):
        raise ValueError(f"check is {check!r}, expected 'quick' or 'full'")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder, expected a data set ({INFO_NAME}, {MANIFEST_NAME} and "
            "images); make one with a script of data_scripts/ or mend the path"
        )
    problems: dict[str, list[str]] = {}  # by kind, in the order in which the kinds first appeared

    def add(kind: str, line: str) -> None:
        problems.setdefault(kind, []).append(line)

    info = _read_info(root, add)
    remedy = f"make the data set again: {info.command}" if info else _REMAKE
    manifest = _read_manifest(root, add, remedy)
    sums = _read_sums(root, add, remedy)
    warnings: list[str] = []
    if manifest is not None:
        _check_rows(root, manifest, info, add)
        _check_files(root, manifest, add, remedy)
        if info is not None:
            warnings = _check_class_sizes(root, manifest, info, add)
        if check == "full":
            _check_pixels(root, manifest, info, add, remedy, sums)
    if number := sum(map(len, problems.values())):
        count = f"{number} problem" + ("s" if number > 1 else "")
        raise DatasetError(f"{root}: {count} in this data set:", problems)
    assert info is not None and manifest is not None  # otherwise there is a problem in the report
    return Dataset(root, info, manifest, tuple(warnings), sums)


def require_labels(dataset: Dataset, products: tuple[str, ...], defects: tuple[str, ...]) -> None:
    """Refuse, by a ValueError, a data set that has not a model's labels in their order."""
    sides = ((dataset.info.products, dataset.info.defects), (products, defects))
    if sides[0] != sides[1]:
        found, known = (" and ".join(", ".join(names) for names in side) for side in sides)
        raise ValueError(
            f"{dataset.root}: holds {found}, the model knows {known}; give the data set it was "
            "trained on"
        )


_REMAKE = "make the data set again with the script of data_scripts/ that wrote it"


def _read_info(root: Path, add: Add) -> DatasetInfo | None:
    path = root / INFO_NAME
    try:
        value = read_json(path)
    except FileNotFoundError:
        add(INFO_NAME, f"{path}: missing, expected a description of the data set; {_REMAKE}")
        return None
    except ValueError as error:
        add(INFO_NAME, f"{path}: unreadable ({error.__cause__}), expected JSON; {_REMAKE}")
        return None
    if not isinstance(value, dict):
        add(INFO_NAME, f"{path}: found {type(value).__name__}, expected an object; {_REMAKE}")
        return None
    problems = info_problems(value)
    for problem in problems:
        add(INFO_NAME, f"{path}: {problem}; correct it there or {_REMAKE}")
    return None if problems else DatasetInfo.from_json(value)


def _read_manifest(root: Path, add: Add, remedy: str) -> pd.DataFrame | None:
    path = root / MANIFEST_NAME
    try:
        with open_plain(path) as file:
            manifest = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        add(MANIFEST_NAME, f"{path}: missing, so its making was interrupted; {remedy}")
        return None
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        add(MANIFEST_NAME, f"{path}: unreadable ({error}), expected CSV; {remedy}")
        return None
    if not isinstance(manifest.index, pd.RangeIndex):  # pandas' sign of rows with too many fields
        add(MANIFEST_NAME, f"{path}: rows longer than the header; {remedy}")
        return None
    if tuple(manifest.columns) != MANIFEST_COLUMNS:
        add(
            MANIFEST_NAME,
            f"{path}: columns {list(manifest.columns)}, expected {list(MANIFEST_COLUMNS)}; "
            f"{remedy}",
        )
        return None
    if manifest.empty:
        add(MANIFEST_NAME, f"{path}: no rows, expected one per image; {remedy}")
        return None
    return manifest


def _read_sums(root: Path, add: Add, remedy: str) -> dict[str, str]:
    """Hex sha256 of masks and twins by their paths; none where an older kit wrote the data set."""
    path = root / SUMS_NAME
    try:
        lines = read_plain(path).decode().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        add(SUMS_NAME, f"{path}: unreadable ({error}), expected hashes and paths; {remedy}")
        return {}


def _check_rows(root: Path, manifest: pd.DataFrame, info: DatasetInfo | None, add: Add) -> None:
    """Labels, paths, hashes and groups, from the manifest alone."""
    where = f"{root / MANIFEST_NAME}:"
    known = {"split": SPLITS}
    if info is not None:
        known |= {"product": info.products, "defect": info.defects}
    for row in _rows(manifest):
        for column, names in known.items():
            found = getattr(row, column)
            if found not in names:
                add(
                    f"unknown {column}",
                    f"{root / row.path}: {column} {found!r}, expected one of {list(names)}; "
                    f"correct {MANIFEST_NAME}, or add the name to {INFO_NAME} if it is a label",
                )
        for prefix, column in (("", "path"), (MASKS_FOLDER, "mask"), (TWINS_FOLDER, "twin")):
            _check_path(where, row, prefix, column, add)
        if not _HEX_SHA256.fullmatch(row.sha256):
            add(
                "hash",
                f"{root / row.path}: sha256 {row.sha256!r}, expected 64 hexadecimal digits of the "
                f"file's hash; correct {MANIFEST_NAME}",
            )
        if not row.group.strip():
            add(
                "no group",
                f"{root / row.path}: no group; give images of the same part one group in "
                f"{MANIFEST_NAME}, and an image on its own a group of its own",
            )
    _check_repeats(root, manifest, add)
    _check_groups(root, manifest, add)


def _check_path(where: str, row: Any, prefix: str, column: str, add: Add) -> None:
    """Paths stay inside the data set, and their folders say what the columns say."""
    found = getattr(row, column)
    if column != "path" and not found:
        return
    folder = PurePosixPath(prefix, row.split, row.product, row.defect)
    path = PurePosixPath(found)
    if (
        "\\" in found
        or ".." in path.parts
        or path.parent != folder
        or path.name.startswith(".")
        or not found.isprintable()
    ):
        add(
            f"misplaced {column}",
            f"{where} {column} {found!r}, expected {folder}/<name>.png with forward slashes, as "
            "the columns split, product and defect say; move the file and correct the row",
        )


def _check_repeats(root: Path, manifest: pd.DataFrame, add: Add) -> None:
    spelt: dict[str, str] = {}
    for path, count in manifest["path"].value_counts(sort=False).items():
        other = spelt.setdefault(folded(str(path)), str(path))
        if other != path:
            add(
                "repeated path",
                f"{root / str(path)}: one file with {other} on some disks; rename one of them",
            )
        if count > 1:
            add(
                "repeated path",
                f"{root / str(path)}: {count} rows in {MANIFEST_NAME}, expected one; delete the "
                "others",
            )
    repeated = manifest[manifest["sha256"].duplicated(keep=False)]
    for sha256, rows in repeated.groupby("sha256", sort=False):
        paths = list(dict.fromkeys(rows["path"]))
        if len(paths) > 1 and _HEX_SHA256.fullmatch(str(sha256)):
            add(
                "duplicate image",
                f"{root / paths[0]}: the same bytes as {', '.join(paths[1:])}; keep one file and "
                f"one row of {MANIFEST_NAME}",
            )


def _check_groups(root: Path, manifest: pd.DataFrame, add: Add) -> None:
    for group, rows in manifest.groupby("group", sort=True):
        splits = sorted(set(rows["split"]))
        if str(group).strip() and len(splits) > 1:
            examples = [str(rows.loc[rows["split"] == s, "path"].iloc[0]) for s in splits]
            add(
                "group across splits",
                f"{root / MANIFEST_NAME}: group {group!r} lies in the splits {', '.join(splits)} "
                f"({', '.join(examples)}), expected one; move its images into one split",
            )


def _check_files(root: Path, manifest: pd.DataFrame, add: Add, remedy: str) -> None:
    """Every named file is there, and every file there is named."""
    present = set(files_below(root))
    named: set[str] = set()
    for column in ("path", "mask", "twin"):
        for path in manifest[column]:
            if path and path not in named and path not in present:
                add(
                    f"missing {column}",
                    f"{root / path}: missing, {MANIFEST_NAME} names it; copy it back or {remedy}",
                )
            named.add(path)
    for path in sorted(present - named):
        # Notes and reports may lie beside dataset.json; anything deeper down, and any picture,
        # would be taken for data by a reader of the folder.
        if "/" in path or PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            add(
                "stray file",
                f"{root / path}: not in {MANIFEST_NAME}; move it out of the data set or {remedy}",
            )


def _check_class_sizes(
    root: Path, manifest: pd.DataFrame, info: DatasetInfo, add: Add
) -> list[str]:
    """Too few training images of a defect is a problem; few, in a product, a warning."""
    train = manifest[manifest["split"] == "train"]
    if train.empty:
        return [f"{root}: no images in the split 'train', so nothing can be trained on this set"]
    for defect in info.defects:
        count = int((train["defect"] == defect).sum())
        if count < SMALLEST_CLASS:
            add(
                "tiny class",
                f"{root / 'train'}: {count} training images of {defect}, expected at least "
                f"{SMALLEST_CLASS} over all products; add images or take {defect} out of "
                f"{INFO_NAME}",
            )
    warnings = []
    for product in info.products:
        for defect in info.defects:
            count = int(((train["product"] == product) & (train["defect"] == defect)).sum())
            if count < TINY_CLASS:
                warnings.append(
                    f"{root / 'train' / product / defect}: {count} training images, fewer than "
                    f"{TINY_CLASS}; expect little variety"
                )
    return warnings


def _check_pixels(
    root: Path,
    manifest: pd.DataFrame,
    info: DatasetInfo | None,
    add: Add,
    remedy: str,
    sums: Mapping[str, str],
) -> None:
    """Decode every file, a few at a time; problems keep the manifest's order.

    Without a usable dataset.json no size and no mode is expected of the images.
    """
    size = info.image_size if info else None
    mode = None if info is None else "L" if info.channels == 1 else "RGB"
    files: list[tuple[Path, str | None, str, bool]] = []
    twins: set[str] = set()
    for row in _rows(manifest):
        files.append((root / row.path, mode, row.sha256, False))
        if row.mask:
            files.append((root / row.mask, "L", sums.get(row.mask, ""), True))
        if row.twin and row.twin not in twins:  # several images may share a twin
            twins.add(row.twin)
            files.append((root / row.twin, mode, sums.get(row.twin, ""), False))

    def look(file: tuple[Path, str | None, str, bool]) -> list[tuple[str, str]]:
        return list(_pixel_problems(*file, size, remedy))

    with ThreadPoolExecutor(max_workers=4) as pool:
        for found in pool.map(look, files):
            for kind, line in found:
                add(kind, line)


def _pixel_problems(
    path: Path, mode: str | None, sha256: str, hard: bool, size: tuple[int, int] | None, remedy: str
) -> Iterator[tuple[str, str]]:
    """What is wrong with one file's content; a missing file has been reported already."""
    try:
        data = read_plain(path)
        if _HEX_SHA256.fullmatch(sha256) and hashlib.sha256(data).hexdigest() != sha256:
            yield "changed file", f"{path}: its bytes changed since it was prepared; {remedy}"
        with decoded(data, name=str(path)) as image:
            found_mode, found_size = image.mode, (image.height, image.width)
            pixels = np.asarray(image) if hard and image.mode == "L" else None
    except FileNotFoundError:
        return
    except (ImageError, OSError) as error:
        yield "unreadable file", f"{error}; or {remedy}"
        return
    if mode and found_mode != mode:
        yield "wrong mode", f"{path}: mode {found_mode}, expected {mode}; convert it or {remedy}"
    if size and found_size != size:
        shape, expected = "x".join(map(str, found_size)), "x".join(map(str, size))
        yield "wrong size", f"{path}: {shape} pixels, expected {expected}; resize it or {remedy}"
    if pixels is not None and not np.isin(pixels, (0, 255)).all():
        yield "grey mask", f"{path}: grey values between, expected 0 and 255 alone; {remedy}"


def known_hashes(dataset: Dataset) -> dict[str, str]:
    """Path -> hex sha256 of all images, and of masks and twins where they are known."""
    rows = dataset.manifest
    return {**dataset.sums, **dict(zip(rows["path"], rows["sha256"], strict=True))}
