"""Pictures that a table lists.

::

    path,product,defect,group,mask,split      the last three may be missing
    img/0001.tif,lid,scratched,part-17,img/0001_mask.png,
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_plain, shown
from dtgan_lab.data.adopt import Candidate, Listing
from dtgan_lab.data.archives import LeftOut, Tree, add_file, digest_of
from dtgan_lab.data.dataset import SPLITS


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
