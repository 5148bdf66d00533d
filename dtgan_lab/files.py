"""Files as only the lab needs them: JSON lines, full disks, folders held, cells of tables."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dtgan_core.dataset import DatasetError
from dtgan_core.files import clear_temporary, read_plain, shown


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a ValueError names a damaged line, with the remedy."""
    rows = []
    *lines, rest = read_plain(path).split(b"\n")
    if rest:
        raise ValueError(
            f"{path}: line {len(lines) + 1} is no JSON line, the file ends in half a line; {remedy}"
        )
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is no JSON ({error}); {remedy}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}: line {number} is no JSON object, found {line[:40]!r}; {remedy}"
            )
        rows.append(row)
    return rows


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a TOML file says; a DatasetError names it and `what` it should have been."""
    try:
        return tomllib.loads(read_plain(path).decode())
    except (OSError, ValueError, RecursionError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise DatasetError(f"{path}: cannot be read as {what} ({error})") from error


def require_empty(out: Path) -> None:
    """Refuse (ValueError) a folder that holds something."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; choose another --out, or remove it first")


def disk_is_full(error: BaseException) -> bool:
    """Whether there was no room for a file: on the disk, in a quota or within a limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder against the other processes of this machine; a kill frees it.

    Yields whether it is held; without `wait` False where another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)  # frees the lock


def make_place(path: Path) -> None:
    """Make the folder of a file that is about to be written, and clear what a kill left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_temporary(path.parent, name=path.name)


def cell(value: Any) -> Any:
    """A value for a table that people open: `shown`, and no formula for a spreadsheet to run."""
    if not isinstance(value, str):
        return value
    return shown(f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value)
