"""What an unfinished export has done: export.json, and a record of every block that is on disk.

OUT/export.json               what was ordered
OUT/.work/blocks/00000012     the rows of block 12, one JSON object a line; its files are all there
OUT/.work/staged/...          images that a format packs when all are made
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtgan_core.export.drawing import Row
from dtgan_core.files import (
    read_json,
    read_json_lines,
    sync_folder,
    write_atomic,
    write_json_atomic,
)
from dtgan_core.typed import typed

ORDER_NAME, MANIFEST_NAME, REJECTS_NAME = "export.json", "manifest.csv", "rejects.csv"
WORK_NAME = ".work"
VERSION = 1


class Records:
    """The state of one export on disk.

    Attributes:
        out: its folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._blocks = out / WORK_NAME / "blocks"
        self._new = not out.exists()

    # --- the whole export ------------------------------------------------------------------------

    def finished(self) -> bool:
        """Whether every image is there."""
        return (self.out / MANIFEST_NAME).is_file() and (self.out / ORDER_NAME).is_file()

    def check(self, order: dict[str, Any], resume: bool) -> None:
        """Refuse a folder that holds something else.

        Args:
            order: what is asked for now.
            resume: whether an export of the same order may go on.

        Raises:
            ValueError: the folder holds other files, or another order, or an unfinished export
                that nobody asked to go on with.
        """
        found = sorted(path.name for path in self.out.iterdir()) if self.out.exists() else []
        started = [name for name in found if not (name[0] == "." and name.endswith(".tmp"))]
        if not started:
            return
        path = self.out / ORDER_NAME
        if not path.is_file():
            raise ValueError(f"{self.out}: is not empty; choose another --out, or remove it first")
        if not resume:
            state = "a finished export" if self.finished() else "an export that was stopped"
            raise ValueError(
                f"{self.out}: is not empty, it holds {state}; go on with it by the same command "
                "and --resume, choose another --out, or remove it first"
            )
        _compare(path, {"version": VERSION, **order})

    def start(self, order: dict[str, Any]) -> None:
        """Note down the order, and clear away what a kill has left half-written."""
        self.out.mkdir(parents=True, exist_ok=True)
        for left in self.out.rglob(".*.tmp"):
            left.unlink()
        if not (
            self.out / ORDER_NAME
        ).is_file():  # before anything else: it says whose folder it is
            write_json_atomic(self.out / ORDER_NAME, {"version": VERSION, **order})
            sync_folder(self.out)
        self._blocks.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove the records of a finished export."""
        shutil.rmtree(self.out / WORK_NAME, ignore_errors=True)

    def abandon(self) -> None:
        """Remove an export that has made no image yet, as if it had not been started."""
        if not self.out.is_dir():
            return
        order = self.out / ORDER_NAME
        if any(path.is_file() and path != order for path in self.out.rglob("*")):
            return
        for path in list(self.out.iterdir()):
            if path.is_dir():  # without a file in it
                shutil.rmtree(path)
        order.unlink(missing_ok=True)
        if self._new:
            self.out.rmdir()

    # --- blocks ----------------------------------------------------------------------------------

    def write(self, number: int, rows: list[Row]) -> None:
        """Note a block down; its files must be on disk."""
        for folder in {(self.out / path).parent for path in _files(rows)}:
            sync_folder(folder)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(self._blocks / f"{number:08d}", text.encode())

    def read(self, number: int) -> list[Row] | None:
        """The rows of a block; None when it is damaged, or it or one of its files is missing."""
        path = self._blocks / f"{number:08d}"
        if not path.is_file():
            return None
        try:
            rows = read_json_lines(path, "")
            whole = all((self.out / name).is_file() for name in _files(rows))
        except (ValueError, KeyError, TypeError):  # damaged: it is drawn again
            return None
        return rows if whole else None

    def rows(self) -> Iterator[Row]:
        """The rows of all blocks in the order of their indices, one block in memory."""
        for path in sorted(self._blocks.iterdir()):
            if not _is_temporary(path):
                for line in path.read_text(encoding="utf-8").splitlines():
                    yield json.loads(line)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".")


def _files(rows: list[Row]) -> list[str]:
    """Where the files of a block lie until a format packs them."""
    return [name for row in rows for name in (row["file"], row["mask_file"]) if name]


def _compare(path: Path, order: dict[str, Any]) -> None:
    """Refuse an export.json that asks for something else."""
    try:
        found = typed(read_json(path), dict[str, Any])
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as the order of an export ({error}); remove {path.parent} "
            "and start anew"
        ) from error
    wanted = json.loads(json.dumps(order))
    for key in dict.fromkeys([*wanted, *found]):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{path}: found {key} = {found.get(key)!r}, expected {wanted.get(key)!r}; give "
                "the same arguments with --resume, or choose another --out"
            )
