"""Writing files so that a kill, a full disk or a power cut never leaves half a file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Put a file under its final name only when it is whole and on disk.

    Args:
        path: final name; its folder must exist.
        data: the bytes, or a function that writes them to an open binary file.

    Raises:
        OSError: the disk is full or the folder cannot be written; whatever stood under `path`
            before is still there, untouched.
    """
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; data sets are meant to be shared
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file found it full
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all (see `write_atomic`)."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())


def disk_is_full(error: BaseException) -> bool:
    """Whether there was no room for a file: on the disk, in a quota or within a limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entry to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder against the other processes of this machine; a kill frees it.

    Args:
        folder: it must exist.
        wait: until nobody else holds it.

    Yields:
        Whether it is held; without `wait` False where another process holds it.
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


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
