"""Pictures of a folder that can be used as they are, and pictures that a table lists.

::

    path,product,defect,group,mask,split      the last three may be missing
    img/0001.tif,lid,scratched,part-17,img/0001_mask.png,
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_plain, shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded, open_image
from dtgan_lab.data.adopt import Candidate, Listing, failure, require_sides
from dtgan_lab.data.archives import LeftOut, Tree, add_file, digest_of, walk_folder
from dtgan_lab.data.dataset import SPLITS

SHOWN = 20


def usable_images(source: Path) -> tuple[list[Path], list[LeftOut]]:
    """Image files of a folder (or the one file), each decoded once; the others with a reason.

    Links to folders are not followed, pipes are not opened, hidden files and folders are passed
    over. ValueError: `source` is missing, or holds no usable image, with the reasons.
    """
    if source.is_file():
        tree = Tree({source.name: source.read_bytes}, hidden=True)
        folder = source.parent
    elif source.is_dir():
        tree, folder = Tree(), source
        walk_folder(source, tree)
    else:
        raise ValueError(f"{source}: no such file or folder; expected images")
    paths = sorted(folder / name for name in tree.readers)
    left_out = [item for item in tree.left_out if not item.kind.startswith("hidden")]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = list(pool.map(partial(_problem, folder), paths))
    usable = [path for path, problem in zip(paths, problems, strict=True) if problem is None]
    left_out += [problem for problem in problems if problem is not None]
    if not usable:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:20])
        raise ValueError(
            f"{source}: found no image that can be used, expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}{f' ({reasons})' if reasons else ''}"
        )
    return usable, left_out


@dataclass(frozen=True)
class ImageFiles:
    """Image files that can be decoded, with their (height, width), in the order given.

    `sha256` is over their names below a folder and their bytes.
    """

    sizes: dict[Path, tuple[int, int]]
    sha256: str

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return list(self.sizes)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all of them, or None where they differ."""
        found = set(self.sizes.values())
        return found.pop() if len(found) == 1 else None


def image_files(paths: Sequence[Path], folder: Path) -> ImageFiles:
    """Decode files once and hash them, named below `folder`; unusable ones are told and left out.

    ImageError: none of them can be decoded.
    """
    digest, sizes = hashlib.sha256(), dict[Path, tuple[int, int]]()
    left_out = []
    for path in paths:
        try:
            data = read_plain(path)
            width, height = open_image(data, "L", str(path)).size
        except (ImageError, OSError) as error:
            left_out.append(failure(shown(str(path)), error))
            continue
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        line = f"{name} {hashlib.sha256(data).hexdigest()}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
        sizes[path] = (height, width)
    if not sizes:
        first = left_out[0]
        raise ImageError(
            f"{folder}: none of {len(left_out)} images can be used ({first.name}: {first.reason})"
        )
    tell_left_out(left_out)
    return ImageFiles(sizes, digest.hexdigest())


def tell_left_out(left_out: list[LeftOut], more: str = "") -> None:
    """Print what is left out, the first few by name; `more` says where the others stand."""
    if left_out:
        print(f"left out: {len(left_out)} files that are no usable image", file=sys.stderr)
    for item in left_out[:SHOWN]:
        print(f"- {item.name}: {item.reason}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"- ... and {len(left_out) - SHOWN} more{more}", file=sys.stderr)


def _problem(folder: Path, path: Path) -> LeftOut | None:
    """Why a file cannot be used; None when it can."""
    name = shown(path.relative_to(folder).as_posix())
    try:
        with decoded(path.read_bytes(), "RGB", name) as image:
            require_sides(image, name)
    except (ImageError, OSError) as error:
        return failure(name, error)
    return None


# ----- tables


class _Row(NamedTuple):
    """One row of the table."""

    path: str
    product: str
    defect: str
    group: str
    mask: str
    split: str


CSV_COLUMNS = _Row._fields


class TableSource:
    """Pictures that a CSV file lists; paths are relative to its folder, or absolute."""

    def __init__(self, path: Path, product: str | None) -> None:
        """`product` is the product's name where the table has no such column."""
        self.paths = [path]
        self._product = product

    def digest(self) -> str:
        """Hex sha256 of the table and of every file that it names."""
        _, tree, masks = self._read()
        whole = hashlib.sha256(read_plain(self.paths[0]))
        whole.update(f"{self._product}\n".encode())
        for part in (tree, masks):
            for name in sorted(part.readers):
                whole.update(f"{shown(name)} {digest_of(part.readers[name])}\n".encode())
        return whole.hexdigest()

    @contextmanager
    def opened(self, work: Path) -> Iterator[Listing]:
        """See `dtgan_lab.data.preparing.Source.opened`; nothing is written to `work`."""
        rows, tree, masks = self._read()
        listing = Listing(left_out=tree.left_out + masks.left_out)
        labels: dict[str, set[_Row]] = {}
        for row in rows:
            labels.setdefault(row.path, set()).add(row)
        for path, found in labels.items():
            if len(found) > 1:
                reason = f"{len(found)} different rows name it, expected one; correct the table"
                listing.left_out.append(LeftOut(shown(path), "contradiction", reason))
            elif path in tree.readers:
                row = found.pop()
                listing.candidates.append(
                    Candidate(
                        row.path,
                        tree.readers[row.path],
                        row.product,
                        row.defect,
                        row.group,
                        row.split,
                        row.mask,
                        masks.readers.get(row.mask),
                    )
                )
        yield listing

    def _read(self) -> tuple[list[_Row], Tree, Tree]:
        """All rows, the pictures and the masks that they name."""
        rows = self.rows()
        masks = self._tree(row.mask for row in rows if row.mask)
        return rows, self._tree(row.path for row in rows), masks

    def _tree(self, names: Iterator[str]) -> Tree:
        tree = Tree(hidden=True)  # the table names each file on purpose
        for name in dict.fromkeys(names):
            add_file(self.place(name), name, tree)
        return tree

    def place(self, name: str) -> Path:
        """The file of a path; backslashes of a table made on Windows are understood."""
        path = self.paths[0].parent / name
        return path if os.path.exists(path) else self.paths[0].parent / name.replace("\\", "/")

    def rows(self) -> list[_Row]:
        """All rows, checked."""
        path = self.paths[0]
        try:
            text = read_plain(path).decode("utf-8-sig")
            header = text.partition("\n")[0]
            separator = max(",;\t", key=header.count)  # Excel writes ; in many countries
            table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise DatasetError(f"{path}: unreadable ({error}), expected a CSV in UTF-8") from error
        table.columns = [str(name).strip().lower() for name in table.columns]
        if "product" not in table and self._product is not None:
            table["product"] = self._product
        problems = _table_problems(table)
        if problems:
            raise DatasetError(f"{path}: not usable; correct the table:", {"": problems})
        complete = table.reindex(columns=list(CSV_COLUMNS), fill_value="")
        return [_Row(*(cell.strip() for cell in row)) for row in complete.to_numpy().tolist()]


def _table_problems(table: pd.DataFrame) -> list[str]:
    missing = [name for name in ("path", "product", "defect") if name not in table]
    if missing or not isinstance(table.index, pd.RangeIndex):  # an index: rows with more cells
        lacking = f"no column {' and '.join(missing)}" if missing else "rows longer than the header"
        hint = "; --product NAME stands for that column" if missing == ["product"] else ""
        return [f"{lacking}, found {list(table.columns)}, expected {list(CSV_COLUMNS)}{hint}"]
    problems = [
        f"row {number}: {name} is empty"
        for name in ("path", "product", "defect")
        for number, cell in enumerate(table[name], 2)  # as a spreadsheet counts
        if not cell.strip()
    ]
    splits = table["split"].str.strip() if "split" in table else pd.Series(dtype=str)
    unknown = sorted(set(splits) - {*SPLITS, ""})
    if unknown:
        problems.append(f"split {', '.join(unknown)}: expected one of {', '.join(SPLITS)}")
    if (splits == "").any() and (splits != "").any():
        problems.append("split is filled in some rows only, expected in all or in none")
    if table.empty:
        problems.append("no rows, expected one per picture")
    return problems
