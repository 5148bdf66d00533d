"""The folder of an export: what was ordered, and what is drawn so far.

OUT/export.json             what was ordered
OUT/.work/000012.png        image 12 and its masks, where an image may yet be refused or packed:
OUT/.work/000012.mask.png   they get their final names when all are drawn
OUT/.work/000012.soft.png
OUT/.work/block-000003      with a gate: what it found in block 3
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dtgan_core.files import read_json, sync_folder, typed, write_json_atomic

ORDER_NAME, MANIFEST_NAME, REJECTS_NAME = "export.json", "manifest.csv", "rejects.csv"
WORK_NAME = ".work"
VERSION = 1


def member_name(index: int, column: str) -> str:
    """What an image or a mask is called where the column of the manifest names no folder."""
    kind = {"path": "", "soft_mask": ".soft"}.get(column, ".mask")
    return f"{index:06d}{kind}.png"


def drawn_file(out: Path, index: int, column: str) -> Path:
    """Where an image or a mask lies without a final name."""
    return out / WORK_NAME / member_name(index, column)


class Records:
    """The state of one export on disk.

    Attributes:
        out: its folder.
        work: what has no final name, or is no part of the finished export.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / WORK_NAME
        self._new = not out.exists()

    def findings(self, number: int) -> Path:
        """The file of what the gate found in a block."""
        return self.work / f"block-{number:06d}"

    def found(self, number: int) -> list[dict[str, Any]] | None:
        """What the gate found in a block; None while it is missing, and where it is damaged."""
        try:
            rows: list[dict[str, Any]] = typed(
                read_json(self.findings(number)), list[dict[str, Any]]
            )
        except (FileNotFoundError, ValueError):
            return None
        return rows if all("reason" in row for row in rows) else None

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
        """Note down the order, before anything else: it says whose folder this is."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / ORDER_NAME).is_file():
            write_json_atomic(self.out / ORDER_NAME, {"version": VERSION, **order})
            sync_folder(self.out)
        self.work.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Remove from a finished export what it was made with, and what kills left half-written."""
        shutil.rmtree(self.work, ignore_errors=True)
        for left in self.out.rglob(".*.tmp"):
            left.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove an export that has made no image yet, as if it had not been started."""
        if not self.out.is_dir():
            return
        order = self.out / ORDER_NAME
        if any(path.is_file() and path != order for path in self.out.rglob("*")):
            return
        order.unlink(missing_ok=True)
        for folder in list(self.out.iterdir()):
            shutil.rmtree(folder)  # without a file in it
        if self._new:
            self.out.rmdir()


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
