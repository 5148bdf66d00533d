"""Where an export's images lie, and what is written beside them: one class a format.

Every format ends with manifest.csv; `path` there is relative to the export's folder, a member of a
tar archive stands behind the archive's name (shard-000000.tar/000012.png).  Until then:

OUT/export.json             what was ordered
OUT/.work/000012.png        image 12 and its masks, where an image may yet be refused or packed:
OUT/.work/000012.mask.png   they get their final names when all are drawn
OUT/.work/000012.soft.png
OUT/.work/block-000003      with a gate: what it found in block 3
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from dtgan_core.files import write_atomic
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.export.drawing import Order, Row, export_columns, file_columns
from dtgan_lab.files import cell

ORDER_NAME, MANIFEST_NAME, REJECTS_NAME = "export.json", "manifest.csv", "rejects.csv"
WORK_NAME = ".work"


def member_name(index: int, column: str) -> str:
    """What an image or a mask is called where the column of the manifest names no folder."""
    kind = {"path": "", "soft_mask": ".soft"}.get(column, ".mask")
    return f"{index:06d}{kind}.png"


def drawn_file(out: Path, index: int, column: str) -> Path:
    """Where an image or a mask lies without a final name."""
    return out / WORK_NAME / member_name(index, column)


UNSAFE = '/\\:*?"<>|\0'  # not in a folder's name on every disk
Places = dict[str, str]  # by the columns of `file_columns`


class Folder:
    """OUT/images/000000.png, OUT/approximate_masks/000000.png.

    Of a generator that makes masks OUT/generated_masks/ and, with levels 0 to 255, OUT/soft_masks/.
    """

    unique = False  # whether there are no two equal images, and no mask that holds nothing
    packs = False  # images into archives
    packs_rejects = False  # into rejects.tar; else they lie in OUT/rejects/

    def __init__(self, synth: Synthesizer, order: Order) -> None:
        self.synth, self.order = synth, order
        self.files = file_columns(synth.mask_kind)  # columns that name files of the export
        self.columns = export_columns(synth.mask_kind)  # of the manifest, without those of a gate
        self.mask = self.files[1]  # column of the binary mask

    def check(self) -> None:
        """Refuse (ValueError) what cannot be made, and labels that lead out of the folder."""
        defects = self.order.defects
        if len(set(defects)) < len(defects):
            raise ValueError(f"defects are {', '.join(defects)}; expected each once")
        self.synth.label(defects, len(defects))
        if self.order.by_product and self.order.format != "imagefolder":
            raise ValueError(
                f"--by-product: goes with --format imagefolder, not {self.order.format}"
            )
        products = {part.product for part in self.order.parts.values() if part.product}
        for name in (*defects, *sorted(products)):
            if not name.strip() or name.startswith(".") or any(sign in name for sign in UNSAFE):
                raise ValueError(
                    f"product or defect {name!r}: cannot be a folder's name; rename it, or give "
                    "another --product"
                )

    def place(self, row: Row) -> Places:
        """Where an image and its masks go, relative to the export; '' for a mask left out."""
        folders = {column: "images" if column == "path" else f"{column}s" for column in self.files}
        return {column: f"{folder}/{row['index']:06d}.png" for column, folder in folders.items()}

    def alone(self, path: str) -> Places:
        """An image without masks."""
        return dict.fromkeys(self.files, "") | {"path": path}

    def place_reject(self, row: Row) -> Places:
        """Where an image that the gate refused goes."""
        folder = "rejects.tar" if self.packs_rejects else "rejects"
        return self.alone(f"{folder}/{row['index']:06d}.png")

    def finish(self, out: Path, kept: list[Row], columns: Sequence[str]) -> None:
        """Write what stands beside the images, the manifest last; `columns` are a gate's."""
        write_table(out / MANIFEST_NAME, (*self.columns, *columns), kept)


class ImageFolder(Folder):
    """OUT/<defect>/000000.png, or OUT/<product>/<defect>/000000.png: no masks, no other folders.

    So `torchvision.datasets.ImageFolder(OUT)` finds the defects and nothing else; rejects go into
    an archive, since a folder would be a class.
    """

    packs_rejects = True

    def check(self) -> None:
        """Products must be known where folders are named by them."""
        super().check()
        if self.order.by_product:
            require_products(self.order, "--by-product")

    def place(self, row: Row) -> Places:
        """See `Folder.place`."""
        product = self.order.part(row["background"]).product
        above = f"{product}/" if self.order.by_product else ""
        return self.alone(f"{above}{row['defect']}/{row['index']:06d}.png")


def require_products(order: Order, wanted_by: str) -> None:
    """Refuse (ValueError) backgrounds of an unknown product."""
    for path in order.backgrounds:
        if not order.part(str(path)).product:
            raise ValueError(
                f"{path}: found no product for this background, which {wanted_by} needs; give "
                "--product NAME, or --data with the data set that holds the backgrounds"
            )


_FOREIGN = ("background", "reference", "name", "reason")  # columns that hold names of any file


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file, whole or not at all."""
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    for name in set(_FOREIGN) & set(columns):
        table[name] = table[name].map(cell)
    text = table.to_csv(index=False, lineterminator="\n")
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


# --- tar archives --------------------------------------------------------------------------------


Member = tuple[str, bytes]


class Shards(Folder):
    """Tar archives that WebDataset reads, of `shard_size` images, packed when all are drawn.

    OUT/shard-000000.tar: 000000.png, 000000.mask.png, 000000.cls, 000000.json, 000001.png, ...
    The mask is generated, and 000000.soft.png lies beside it, or approximate: .json, the row of the
    manifest, says which.  .cls holds the label y.
    """

    packs = True

    def place(self, row: Row) -> Places:
        """See `Folder.place`; the archive is known when the rejects are."""
        return {column: member_name(row["index"], column) for column in self.files}

    def finish(self, out: Path, kept: list[Row], columns: Sequence[str]) -> None:
        """See `Folder.finish`."""
        names, size = (*self.columns, *columns), self.order.shard_size
        for start in range(0, len(kept), size):
            archive, shard = f"shard-{start // size:06d}.tar", kept[start : start + size]
            for row in shard:
                row |= {key: f"{archive}/{row[key]}" for key in self.files}
            write_tar(out / archive, self._members(out, shard, names))
        super().finish(out, kept, columns)

    def _members(self, out: Path, rows: Iterable[Row], names: Sequence[str]) -> Iterator[Member]:
        for row in rows:
            stem = f"{row['index']:06d}"
            facts = {name: row[name] for name in names} | {"synthetic": True}
            for file in (drawn_file(out, row["index"], column) for column in self.files):
                yield file.name, file.read_bytes()
            yield f"{stem}.cls", str(self.synth.defects.index(row["defect"])).encode()
            yield f"{stem}.json", json.dumps(facts).encode()


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
