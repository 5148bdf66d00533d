"""Checks of a data set on disk: all problems in one report, each with its path and a remedy.

The quick check reads dataset.json, the manifest and the folders' listings (well under a second for
20,000 images); the full check also decodes every file.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
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
    in_threads,
    info_problems,
)

#: A class with fewer training images than this is reported (the paper's smallest has 8).
TINY_CLASS = 8
#: Training draws two different references of a defect.
SMALLEST_CLASS = 2

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMAKE = "make the data set again with the script of data_scripts/ that wrote it"


class _Report:
    """Problems of a data set by kind, in the order in which the kinds first appeared."""

    def __init__(self, root: Path) -> None:
        self.root, self.remedy, self.problems = root, _REMAKE, dict[str, list[str]]()

    def add(self, kind: str, path: str, problem: str, remedy: str = "") -> None:
        """Note what is wrong with a file; `remedy` stands for the command that makes the set."""
        line = f"{self.root / path}: {problem}; {remedy or self.remedy}"
        self.problems.setdefault(kind, []).append(line)


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
    report, warnings = _Report(root), list[str]()
    info = _read_info(report)
    if info is not None:
        report.remedy = f"make the data set again: {info.command}"
    manifest, sums = _read_manifest(report), _read_sums(report)
    if manifest is not None:
        _check_rows(report, manifest, info)
        _check_repeats(report, manifest)
        _check_files(report, manifest)
        if info is not None:
            warnings = _check_class_sizes(report, manifest, info)
        if check == "full":
            _check_pixels(report, manifest, info, sums)
    if number := sum(map(len, report.problems.values())):
        count = f"{number} problem" + ("s" if number > 1 else "")
        raise DatasetError(f"{root}: {count} in this data set:", report.problems)
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


def _read_info(report: _Report) -> DatasetInfo | None:
    remedy = ""
    try:
        value = read_json(report.root / INFO_NAME)
    except FileNotFoundError:
        problems = ["missing, expected a description of the data set"]
    except ValueError as error:
        problems = [f"unreadable ({error.__cause__}), expected JSON"]
    else:
        if isinstance(value, dict):
            problems, remedy = info_problems(value), f"correct it there or {_REMAKE}"
        else:
            problems = [f"found {type(value).__name__}, expected an object"]
    for problem in problems:
        report.add(INFO_NAME, INFO_NAME, problem, remedy)
    return None if problems else DatasetInfo.from_json(value)


def _read_manifest(report: _Report) -> pd.DataFrame | None:
    try:
        with open_plain(report.root / MANIFEST_NAME) as file:
            manifest = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        problem = "missing, so its making was interrupted"
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        problem = f"unreadable ({error}), expected CSV"
    else:
        if not isinstance(manifest.index, pd.RangeIndex):  # pandas' sign of rows with more fields
            problem = "rows longer than the header"
        elif tuple(manifest.columns) != MANIFEST_COLUMNS:
            problem = f"columns {list(manifest.columns)}, expected {list(MANIFEST_COLUMNS)}"
        elif manifest.empty:
            problem = "no rows, expected one per image"
        else:
            return manifest
    report.add(MANIFEST_NAME, MANIFEST_NAME, problem)
    return None


def _read_sums(report: _Report) -> dict[str, str]:
    """Hex sha256 of masks and twins by their paths; none where an older kit wrote the data set."""
    try:
        lines = read_plain(report.root / SUMS_NAME).decode().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        report.add(SUMS_NAME, SUMS_NAME, f"unreadable ({error}), expected hashes and paths")
    return {}


def _check_rows(report: _Report, manifest: pd.DataFrame, info: DatasetInfo | None) -> None:
    """Labels, paths, hashes and groups, from the manifest alone."""
    known = {"split": SPLITS}
    if info is not None:
        known |= {"product": info.products, "defect": info.defects}
    rows: Iterable[Any] = manifest.itertuples(index=False)
    for row in rows:
        for column, names in known.items():
            found = getattr(row, column)
            if found not in names:
                problem = f"{column} {found!r}, expected one of {list(names)}"
                remedy = f"correct {MANIFEST_NAME}, or add the name to {INFO_NAME} if it is a label"
                report.add(f"unknown {column}", row.path, problem, remedy)
        for prefix, column in (("", "path"), (MASKS_FOLDER, "mask"), (TWINS_FOLDER, "twin")):
            _check_path(report, row, prefix, column)
        if not _HEX_SHA256.fullmatch(row.sha256):
            problem = f"sha256 {row.sha256!r}, expected 64 hexadecimal digits of the file's hash"
            report.add("hash", row.path, problem, f"correct {MANIFEST_NAME}")
        if not row.group.strip():
            remedy = "give images of the same part one group, a lone image its own"
            report.add("no group", row.path, f"no group in {MANIFEST_NAME}", remedy)
    apart = manifest.drop_duplicates(["group", "split"]).sort_values("split")
    for group, of_group in apart[apart["group"].duplicated(keep=False)].groupby("group", sort=True):
        if str(group).strip():
            problem = f"group {group!r} lies in the splits {', '.join(of_group['split'])}"
            problem += f" ({', '.join(of_group['path'])}), expected one"
            remedy = "move its images into one split"
            report.add("group across splits", MANIFEST_NAME, problem, remedy)


def _check_path(report: _Report, row: Any, prefix: str, column: str) -> None:
    """Paths stay inside the data set, and their folders say what the columns say."""
    found = getattr(row, column)
    if column != "path" and not found:
        return
    folder = "/".join(filter(None, (prefix, row.split, row.product, row.defect)))
    parent, _, name = found.rpartition("/")
    sound = parent == folder and ".." not in parent.split("/") and name and name[0] != "."
    if not sound or "\\" in found or not found.isprintable():
        report.add(
            f"misplaced {column}",
            MANIFEST_NAME,
            f"{column} {found!r}, expected {folder}/<name>.png with forward slashes, as the "
            "columns split, product and defect say",
            "move the file and correct the row",
        )


def _check_repeats(report: _Report, manifest: pd.DataFrame) -> None:
    """No file is named twice, under one spelling or two, and none has the bytes of another."""
    spelt: dict[str, str] = {}
    for path, count in Counter(manifest["path"].tolist()).items():
        other = spelt.setdefault(folded(path), path)
        if other != path:
            problem = f"one file with {other} on some disks"
            report.add("repeated path", path, problem, "rename one of them")
        if count > 1:
            problem = f"{count} rows in {MANIFEST_NAME}, expected one"
            report.add("repeated path", path, problem, "delete the others")
    hashed = manifest[manifest["sha256"].str.fullmatch(_HEX_SHA256.pattern)].drop_duplicates("path")
    repeated = hashed[hashed["sha256"].duplicated(keep=False)]
    for _, paths in repeated.groupby("sha256", sort=False)["path"]:
        first, *others = paths
        remedy = f"keep one file and one row of {MANIFEST_NAME}"
        report.add("duplicate image", first, f"the same bytes as {', '.join(others)}", remedy)


def _check_files(report: _Report, manifest: pd.DataFrame) -> None:
    """Every named file is there, and every file there is named."""
    present, named = set(files_below(report.root)), set[str]()
    for column in ("path", "mask", "twin"):
        for path in dict.fromkeys(manifest[column]):
            if path and path not in named and path not in present:
                remedy = f"copy it back or {report.remedy}"
                problem = f"missing, {MANIFEST_NAME} names it"
                report.add(f"missing {column}", path, problem, remedy)
        named.update(manifest[column])
    for path in sorted(present - named):
        # Notes and reports may lie beside dataset.json; anything deeper down, and any picture,
        # would be taken for data by a reader of the folder.
        if "/" in path or PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            remedy = f"move it out of the data set or {report.remedy}"
            report.add("stray file", path, f"not in {MANIFEST_NAME}", remedy)


def _check_class_sizes(report: _Report, manifest: pd.DataFrame, info: DatasetInfo) -> list[str]:
    """Too few training images of a defect is a problem; few, in a product, a warning."""
    train, root = manifest[manifest["split"] == "train"], report.root
    if train.empty:
        return [f"{root}: no images in the split 'train', so nothing can be trained on this set"]
    for defect in info.defects:
        count = int((train["defect"] == defect).sum())
        if count < SMALLEST_CLASS:
            problem = f"{count} training images of {defect}, expected at least {SMALLEST_CLASS}"
            remedy = f"add images or take {defect} out of {INFO_NAME}"
            report.add("tiny class", "train", f"{problem} over all products", remedy)
    counts = train.groupby(["product", "defect"]).size()
    return [
        f"{root / 'train' / product / defect}: {count} training images, fewer than {TINY_CLASS}; "
        "expect little variety"
        for product in info.products
        for defect in info.defects
        if (count := counts.get((product, defect), 0)) < TINY_CLASS
    ]


def _check_pixels(
    report: _Report, manifest: pd.DataFrame, info: DatasetInfo | None, sums: Mapping[str, str]
) -> None:
    """Decode every file, a few at a time; problems keep the manifest's order."""
    size = info.image_size if info else None
    mode = None if info is None else "L" if info.channels == 1 else "RGB"
    rows = manifest[["path", "mask", "twin"]].to_numpy().tolist()
    names = dict.fromkeys(name for row in rows for name in row if name)  # a twin may be shared
    masks = set(manifest["mask"])
    known = {**sums, **dict(zip(manifest["path"], manifest["sha256"], strict=True))}

    def look(name: str) -> list[tuple[str, str, str]]:
        """What is wrong with a file's content; a missing one has been reported already."""
        found, expected = list[tuple[str, str, str]](), "L" if name in masks else mode
        try:
            data, sha256 = read_plain(report.root / name), known.get(name, "")
            if _HEX_SHA256.fullmatch(sha256) and hashlib.sha256(data).hexdigest() != sha256:
                found.append(("changed file", "its bytes changed since it was prepared", ""))
            with decoded(data, name=name) as image:
                is_mode, is_size = image.mode, (image.height, image.width)
                pixels = np.asarray(image) if name in masks and is_mode == "L" else None
        except FileNotFoundError:
            return []
        except (ImageError, OSError) as error:
            problem = str(error).removeprefix(f"{name}: ")
            return [*found, ("unreadable file", problem, f"or {report.remedy}")]
        if expected and is_mode != expected:
            problem = f"mode {is_mode}, expected {expected}"
            found.append(("wrong mode", problem, f"convert it or {report.remedy}"))
        if size and is_size != size:
            shape, wanted = "x".join(map(str, is_size)), "x".join(map(str, size))
            problem = f"{shape} pixels, expected {wanted}"
            found.append(("wrong size", problem, f"resize it or {report.remedy}"))
        if pixels is not None and not np.isin(pixels, (0, 255)).all():
            problem = "grey values between, expected 0 and 255 alone"
            found.append(("grey mask", problem, ""))
        return found

    for name, problems in zip(names, in_threads(look, list(names)), strict=True):
        for kind, problem, remedy in problems:
            report.add(kind, name, problem, remedy)
