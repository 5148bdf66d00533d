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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_plain, shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded
from dtgan_lab.data.adopt import Candidate, Listing, Source, failure, require_sides
from dtgan_lab.data.archives import LeftOut, Tree, walk_folder
from dtgan_lab.data.dataset import SPLITS, in_threads

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
    left_out = [item for item in tree.left_out if not item.kind.startswith("hidden")]
    looks, more = _looked_at(sorted(folder / name for name in tree.readers), folder)
    left_out += more
    if not looks:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:20])
        raise ValueError(
            f"{source}: found no image that can be used, expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}{f' ({reasons})' if reasons else ''}"
        )
    return list(looks), left_out


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
    looks, left_out = _looked_at(paths, folder)
    if not looks:
        first = left_out[0]
        raise ImageError(
            f"{folder}: none of {len(left_out)} images can be used ({first.name}: {first.reason})"
        )
    tell_left_out(left_out)
    digest = hashlib.sha256()
    for path, (_, sha256) in looks.items():
        line = f"{_below(path, folder)} {sha256}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return ImageFiles({path: size for path, (size, _) in looks.items()}, digest.hexdigest())


def tell_left_out(left_out: list[LeftOut], more: str = "") -> None:
    """Print what is left out, the first few by name; `more` says where the others stand."""
    if left_out:
        print(f"left out: {len(left_out)} files that are no usable image", file=sys.stderr)
    for item in left_out[:SHOWN]:
        print(f"- {item.name}: {item.reason}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"- ... and {len(left_out) - SHOWN} more{more}", file=sys.stderr)


_Look = tuple[tuple[int, int], str]  # (height, width), and hex sha256 of the file


def _looked_at(paths: Sequence[Path], folder: Path) -> tuple[dict[Path, _Look], list[LeftOut]]:
    """Pictures that can be decoded, in their order, and those that cannot be used."""

    def look(path: Path) -> _Look | LeftOut:
        name = shown(_below(path, folder))
        try:
            data = read_plain(path)
            with decoded(data, "RGB", name) as image:
                require_sides(image, name)
                return (image.height, image.width), hashlib.sha256(data).hexdigest()
        except (ImageError, OSError) as error:
            return failure(name, error)

    found = dict(zip(paths, in_threads(look, paths), strict=True))
    left_out = [item for item in found.values() if isinstance(item, LeftOut)]
    return {p: look for p, look in found.items() if not isinstance(look, LeftOut)}, left_out


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


# ----- tables


class Row(NamedTuple):
    """One row of the table."""

    path: str
    product: str
    defect: str
    group: str
    mask: str
    split: str


def table_source(table: Path, product: str | None) -> Source:
    """Pictures that a CSV file lists; paths are relative to its folder, or absolute.

    `product` is the product's name where the table has no such column.
    """

    def trees() -> tuple[list[Row], Tree, Tree]:
        rows = table_rows(table, product)
        found = Tree(hidden=True), Tree(hidden=True)  # the table names each file on purpose
        for tree, column in zip(found, ("path", "mask"), strict=True):
            for name in dict.fromkeys(getattr(row, column) for row in rows):
                if name:
                    tree.add(place_of(table, name), name)
        return rows, *found

    def digest() -> str:
        _, *found = trees()
        whole = hashlib.sha256(read_plain(table))
        whole.update(f"{product}\n".encode())
        for tree in found:
            whole.update(tree.digest_lines())
        return whole.hexdigest()

    def listing(work: Path) -> Listing:
        rows, pictures, masks = trees()
        found = Listing(left_out=pictures.left_out + masks.left_out)
        labels: dict[str, set[Row]] = {}
        for row in rows:
            labels.setdefault(row.path, set()).add(row)
        for path, (row, *others) in labels.items():
            if others:
                reason = (
                    f"{1 + len(others)} different rows name it, expected one; correct the table"
                )
                found.left_out.append(LeftOut(shown(path), "contradiction", reason))
            elif path in pictures.readers:
                read, read_mask = pictures.readers[path], masks.readers.get(row.mask)
                words = row.product, row.defect, row.group, row.split, row.mask
                found.candidates.append(Candidate(path, read, *words, read_mask))
        return found

    return Source([table], digest, listing)


def place_of(table: Path, name: str) -> Path:
    """The file of a table's path; backslashes of a table made on Windows are understood."""
    path = table.parent / name
    return path if os.path.exists(path) else table.parent / name.replace("\\", "/")


def table_rows(path: Path, product: str | None = None) -> list[Row]:
    """All rows of a table of pictures; a DatasetError lists what is wrong with it.

    `product` is the product's name where the table has no such column.
    """
    try:
        text = read_plain(path).decode("utf-8-sig")
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)  # Excel writes ; in many countries
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DatasetError(f"{path}: unreadable ({error}), expected a CSV in UTF-8") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    if "product" not in table and product is not None:
        table["product"] = product
    problems = _table_problems(table)
    if problems:
        raise DatasetError(f"{path}: not usable; correct the table:", {"": problems})
    complete = table.reindex(columns=list(Row._fields), fill_value="")
    return [Row(*(cell.strip() for cell in row)) for row in complete.to_numpy().tolist()]


def _table_problems(table: pd.DataFrame) -> list[str]:
    missing = [name for name in ("path", "product", "defect") if name not in table]
    if missing or not isinstance(table.index, pd.RangeIndex):  # an index: rows with more cells
        lacking = f"no column {' and '.join(missing)}" if missing else "rows longer than the header"
        hint = "; --product NAME stands for that column" if missing == ["product"] else ""
        return [f"{lacking}, found {list(table.columns)}, expected {list(Row._fields)}{hint}"]
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
