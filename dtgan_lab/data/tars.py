"""A tar archive, read in pieces and to its very end, or refused.

Python's `tarfile` takes a damaged header for the end of the archive, reads a header as long as it
claims to be, and remembers every member. Here a header must be sound, what is unpacked has a limit,
and the blocks of zeros at the end must be there, with nothing behind them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dtgan_core.files import open_plain

PIECE = 2**20  # bytes read at once; a header that is longer is refused
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class _Limited:
    """A stream of at most `most` bytes, read in pieces of at most `PIECE`."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most
        self.tell: Callable[[], int] = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= PIECE:
            raise tarfile.ReadError(f"a header of {size:,} bytes, expected at most {PIECE:,}")
        self._check(self.tell() + size)
        data: bytes = self._stream.read(size)
        return data

    def seek(self, place: int) -> None:
        if place < self.tell():  # it would go round for ever, and unpack anew each time
            raise tarfile.ReadError("a member that ends before it begins")
        self._check(place)
        self._stream.seek(place)

    def _check(self, place: int) -> None:
        if place > self._most:
            raise tarfile.ReadError(
                f"a decompression bomb, it unpacks to more than {self._most:,} bytes"
            )


class _Strict(tarfile.TarInfo):
    """A member whose header is sound."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Strict:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # zeros: the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(
                f"{error} at byte {archive.offset:,}, expected a member or the end"
            ) from error


def tar_members(
    source: Path, most: int
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], Iterator[bytes]]]]:
    """Each member in its turn, and a function that gives its bytes in pieces.

    `most` bytes may be unpacked, headers and all; raises what Python raises of damaged archives.
    """
    with _unpacked(source, most) as stream:
        archive = tarfile.TarFile(fileobj=stream, tarinfo=_Strict)  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            yield member, partial(_pieces, archive, member)
            archive.members = []  # type: ignore[attr-defined]  # else it remembers every one
        ending = tarfile.BLOCKSIZE  # one block of zeros has been read
        while piece := stream.read(min(PIECE, most - stream.tell())):
            ending += len(piece)
            if piece.strip(b"\0"):
                raise tarfile.ReadError(f"more after its end, at byte {archive.offset:,}")
        stream.read(1)  # refused where the limit has ended it
        if ending < 2 * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing, expected two blocks of zeros")


@contextmanager
def _unpacked(source: Path, most: int) -> Iterator[_Limited]:
    with open_plain(source) as file:
        head = file.read(6)
        file.seek(0)
        opener = next((o for magic, o in _OPENERS.items() if head.startswith(magic)), None)
        if opener is None:
            yield _Limited(file, most)
        else:
            with opener(file) as stream:
                yield _Limited(stream, most)


def _pieces(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    opened = archive.extractfile(member)
    assert opened is not None  # asked of regular members alone
    while piece := opened.read(PIECE):
        yield piece
