"""Where an export's images lie, and what is written beside them: one class a format.

Every format ends with manifest.csv; `path` there is relative to the export's folder, a member of a
tar archive stands behind the archive's name (shard-000000.tar/000012.png).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dtgan_core.files import write_atomic
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.export.drawing import Order, Row, export_columns, file_columns
from dtgan_lab.export.records import MANIFEST_NAME
from dtgan_lab.files import cell

FORMATS = ("folder", "imagefolder", "layout", "coco", "tar")
UNSAFE = '/\\:*?"<>|\0'  # not in a folder's name on every disk
Rows = Callable[[], Iterator[Row]]
Places = dict[str, str]  # by the columns of `file_columns`


@dataclass(frozen=True)
class ExportOptions:
    """How images are laid out on disk.

    Attributes:
        format: one of `FORMATS`.
        by_product: imagefolder: a folder for each product above those of the defects.
        shard_size: tar: images of an archive.
        tries: with a gate: images to draw at most; None: ten times count.
    """

    format: str = "folder"
    by_product: bool = False
    shard_size: int = 1000
    tries: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: expected one of {', '.join(FORMATS)}")
        if self.by_product and self.format != "imagefolder":
            raise ValueError(f"--by-product: goes with --format imagefolder, not {self.format}")
        if self.shard_size < 1:
            raise ValueError(f"--shard-size {self.shard_size}: expected at least 1 image")
        if self.tries is not None and self.tries < 1:
            raise ValueError(f"--tries {self.tries}: expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """What export.json says of it."""
        return asdict(self)


class Folder:
    """OUT/images/000000.png, OUT/approximate_masks/000000.png.

    Of a generator that makes masks OUT/generated_masks/ and, with levels 0 to 255, OUT/soft_masks/.

    Attributes:
        files: columns that name files of the export (`drawing.file_columns`).
        columns: of the manifest, without those of a gate.
        mask: column of the binary mask.
    """

    unique = False  # whether there are no two equal images, and no mask that holds nothing
    packs = False  # images into archives
    packs_rejects = False  # into rejects.tar; else they lie in OUT/rejects/

    def __init__(self, synth: Synthesizer, order: Order, options: ExportOptions) -> None:
        self.synth, self.order, self.options = synth, order, options
        self.files = file_columns(synth.mask_kind)
        self.columns, self.mask = export_columns(synth.mask_kind), self.files[1]

    def check(self) -> None:
        """Refuse an order that does not suit the format.

        Raises:
            ValueError: it does not, or a label would lead out of the export's folder.
        """
        products = {part.product for part in self.order.parts.values() if part.product}
        for name in (*self.order.defects, *sorted(products)):
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

    def finish(self, out: Path, kept: Rows, columns: Sequence[str]) -> None:
        """Write what stands beside the images, the manifest last.

        Args:
            out: the export's folder.
            kept: the rows of the images to keep, as often as wanted.
            columns: what a gate adds to the manifest.
        """
        write_table(out / MANIFEST_NAME, (*self.columns, *columns), kept())


class ImageFolder(Folder):
    """OUT/<defect>/000000.png, or OUT/<product>/<defect>/000000.png: no masks, no other folders.

    So `torchvision.datasets.ImageFolder(OUT)` finds the defects and nothing else; rejects go into
    an archive, since a folder would be a class.
    """

    packs_rejects = True

    def check(self) -> None:
        """Products must be known where folders are named by them."""
        super().check()
        if self.options.by_product:
            require_products(self.order, "--by-product")

    def place(self, row: Row) -> Places:
        """See `Folder.place`."""
        product = self.order.part(row["background"]).product
        above = f"{product}/" if self.options.by_product else ""
        return self.alone(f"{above}{row['defect']}/{row['index']:06d}.png")


def require_products(order: Order, wanted_by: str) -> None:
    """Refuse backgrounds of an unknown product.

    Raises:
        ValueError: naming the first of them.
    """
    for path in order.backgrounds:
        if not order.part(str(path)).product:
            raise ValueError(
                f"{path}: found no product for this background, which {wanted_by} needs; give "
                "--product NAME, or --data with the data set that holds the backgrounds"
            )


_FOREIGN = ("background", "reference", "name", "reason")  # columns that hold names of any file


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file as a stream, whole or not at all."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            table.writerow([cell(row[name]) if name in _FOREIGN else row[name] for name in columns])
        text.detach()  # flushed; the file stays open

    write_atomic(path, write)
