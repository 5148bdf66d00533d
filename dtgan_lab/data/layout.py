"""Writing a data set in the kit's layout (see `dtgan_lab.data.dataset`), whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import (
    open_plain,
    read_json,
    sha256_of,
    sync_folder,
    write_atomic,
    write_json_atomic,
)
from dtgan_core.images import to_png
from dtgan_lab.data.dataset import (
    INFO_NAME,
    MANIFEST_COLUMNS,
    MANIFEST_NAME,
    MASKS_FOLDER,
    SPLITS,
    SUMS_NAME,
    TWINS_FOLDER,
    DatasetInfo,
    files_below,
)
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.files import cell

#: Folder under a data set's root in which its successor is written; a kill may leave it.
STAGING_NAME = ".staging"
#: Beside manifest.csv: name, kind and reason of every file that became no image.
LEFT_OUT_NAME = "left_out.csv"
_BEFORE = (INFO_NAME, SUMS_NAME, LEFT_OUT_NAME)


def write_dataset(root: Path, rows: pd.DataFrame, info: DatasetInfo) -> None:
    """Write dataset.json, SHA256SUMS and manifest.csv for files that already lie under `root`.

    The manifest is written last: a folder with a manifest is complete. `rows` has one row per
    image, with the columns `MANIFEST_COLUMNS` in any order; missing values become ''. Rows are
    sorted by path. DatasetError: the columns are not those of the layout, or `info` contradicts
    itself.
    """
    expected, found = set(MANIFEST_COLUMNS), list(rows.columns)
    if set(found) != expected or len(found) != len(expected):
        raise DatasetError(
            f"{root / MANIFEST_NAME}: rows have the columns {found}, expected {MANIFEST_COLUMNS}"
        )
    DatasetInfo.from_json(info.to_json())
    table = rows.loc[:, list(MANIFEST_COLUMNS)].sort_values("path", kind="stable")
    table = table.assign(**{name: table[name].map(cell) for name in ("group", "source")})
    beside = {path for path in (*table["mask"], *table["twin"]) if isinstance(path, str) and path}
    sums = [f"{sha256_of(root / path)}  {path}\n" for path in sorted(beside)]
    (root / SUMS_NAME).unlink(missing_ok=True)
    if sums:
        write_atomic(root / SUMS_NAME, "".join(sums).encode())
    write_json_atomic(root / INFO_NAME, info.to_json())
    text = table.to_csv(index=False, lineterminator="\n", na_rep="")
    write_atomic(root / MANIFEST_NAME, text.encode("utf-8"))
    sync_folder(root)


def put_image(
    root: Path,
    place: str,
    image: np.ndarray,
    mask: np.ndarray | None = None,
    twin: np.ndarray | None = None,
    **words: Any,
) -> dict[str, Any]:
    """Write an image with its mask and twin, uint8 (H, W) or (H, W, 3); returns its manifest row.

    `place` is `<split>/<product>/<defect>/<name>.png`; `words` are further columns.
    """
    split, product, defect, _ = PurePosixPath(place).parts
    row = dict.fromkeys(MANIFEST_COLUMNS, "") | {"split": split, "product": product} | words
    files = (("path", "", image), ("mask", MASKS_FOLDER, mask), ("twin", TWINS_FOLDER, twin))
    for column, above, pixels in files:
        if pixels is not None:
            row[column] = str(PurePosixPath(above, place))
            (root / row[column]).parent.mkdir(parents=True, exist_ok=True)
            (root / row[column]).write_bytes(to_png(pixels))
    return row | {"defect": defect, "sha256": sha256_of(root / place)}


def require_place(out: Path, option: str = "--out") -> None:
    """Refuse an output, named by its option, where no file can be made: DatasetError."""
    place = next(above for above in (out, *out.absolute().parents) if above.is_dir())
    try:
        TemporaryFile(dir=place).close()
    except OSError as error:
        raise DatasetError(
            f"{option} {out}: found that {place} takes no new file ({error.strerror}), expected a "
            f"place for files; choose another {option}"
        ) from error


def keep_apart(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """Refuse an output in, on or above an input (a data set, if it is part of one); links followed.

    DatasetError names both; `option` is the one by which `out` was given.
    """
    target = Path(os.path.realpath(out))
    for path in inputs:
        source = Path(os.path.realpath(path))
        sets = [above for above in source.parents if (above / INFO_NAME).is_file()]  # it is part of
        if _lies_in(source, target) or any(_lies_in(target, whole) for whole in (source, *sets)):
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

    Until then nothing of an older data set of that name under `root` is touched, and files of an
    earlier run with other options never mix with new ones. Write images there and finish with
    `write_dataset(staging, ...)`. DatasetError: `root` holds something else, or files that no
    manifest knows; or what was written does not pass the quick check of `load_dataset`.
    """
    new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    _refuse_foreign_folder(root, name)
    staging = root / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        try:
            load_dataset(staging)
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(staging), str(root))) from error
        _put_in_place(staging, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new and not any(root.iterdir()):
            root.rmdir()


def _refuse_foreign_folder(root: Path, name: str) -> None:
    """Only an older data set of that name, without anything of its user's, may be replaced."""
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
    if MANIFEST_NAME not in visible:  # an interrupted replacement: nothing here was ever complete
        return
    with open_plain(root / MANIFEST_NAME) as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    known = {path for column in ("path", "mask", "twin") for path in table.get(column, [])}
    unknown = [str(root / path) for path in files_below(root) if "/" in path and path not in known]
    if unknown:
        told = f"{root}: files that its manifest does not know would be lost; {remedy}:"
        raise DatasetError(told, {"unknown file": unknown})


def _put_in_place(staging: Path, root: Path) -> None:
    """Swap old and new, or leave the old; of a link what it leads to stays."""
    old, names = staging / ".old", (*_BEFORE, *SPLITS, MASKS_FOLDER, TWINS_FOLDER, MANIFEST_NAME)
    old.mkdir()
    try:
        for name in reversed(names):  # without a manifest in between, so that a kill is noticed
            _move(root / name, old / name)
        for name in names:
            _move(staging / name, root / name)
    except BaseException:
        for name in names:
            if os.path.lexists(old / name):
                _move(root / name, staging / name)
                _move(old / name, root / name)
        raise
    sync_folder(root)


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(source):
        os.replace(source, target)
