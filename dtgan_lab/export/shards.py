"""Tar archives that WebDataset reads: the members of an image follow each other under one name.

OUT/shard-000000.tar: 000000.png, 000000.mask.png, 000000.cls, 000000.json, 000001.png, ...

The mask is generated, and 000000.soft.png lies beside it, or approximate: .json, the row of the
manifest, says which.  .cls holds the label y.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from dtgan_core.files import write_atomic
from dtgan_lab.export.drawing import Row
from dtgan_lab.export.formats import Folder, Places, Rows
from dtgan_lab.export.records import drawn_file, member_name

Member = tuple[str, bytes]


class Shards(Folder):
    """Images are packed, `shard_size` an archive, when all are drawn."""

    packs = True

    def place(self, row: Row) -> Places:
        """See `Folder.place`; the archive is known when the rejects are."""
        return {column: member_name(row["index"], column) for column in self.files}

    def finish(self, out: Path, kept: Rows, columns: Sequence[str]) -> None:
        """See `Folder.finish`."""

        def packed() -> Iterator[Row]:
            for number, row in enumerate(kept()):
                archive = shard_name(number // self.options.shard_size)
                listed = {key: f"{archive}/{row[key]}" for key in self.files}
                yield row | listed

        names = (*self.columns, *columns)
        rows, number = packed(), 0
        while shard := list(islice(rows, self.options.shard_size)):
            write_tar(out / shard_name(number), self._members(out, shard, names))
            number += 1
        super().finish(out, packed, columns)

    def _members(self, out: Path, rows: Iterable[Row], names: Sequence[str]) -> Iterator[Member]:
        for row in rows:
            stem = f"{row['index']:06d}"
            facts = {name: row[name] for name in names} | {"synthetic": True}
            for file in (drawn_file(out, row["index"], column) for column in self.files):
                yield file.name, file.read_bytes()
            yield f"{stem}.cls", str(self.synth.defects.index(row["defect"])).encode()
            yield f"{stem}.json", json.dumps(facts).encode()


def shard_name(number: int) -> str:
    """The name of an archive."""
    return f"shard-{number:06d}.tar"


def write_tar(path: Path, members: Iterable[Member]) -> None:
    """Write a tar archive as a stream, whole or not at all; the same members, the same bytes."""

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in members:
                member = tarfile.TarInfo(name)  # no time, no owner: nothing of this machine
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
                archive.members = []  # type: ignore[attr-defined]  # else it remembers every one

    write_atomic(path, write)
