"""COCO-style annotations: boxes and masks, read off the masks of an export.

OUT/annotations.json            images, annotations, categories
OUT/images/000000.png           the images
OUT/generated_masks/...         what boxes and masks were read from, or approximate_masks/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy import ndimage

from dtgan_core.files import write_atomic
from dtgan_core.images import open_image
from dtgan_lab.export.drawing import Row
from dtgan_lab.export.formats import Folder, Rows

ANNOTATIONS_NAME = "annotations.json"
SMALLEST_AREA = 4  # pixels; a smaller spot of the difference map is noise
_DESCRIPTIONS = {
    "approximate": "Synthetic images of a DT-GAN. Boxes and masks are approximate: read off the "
    "difference to the same image without a defect, not drawn by anybody.",
    "generated": "Synthetic images of a DT-GAN. Boxes and masks are generated: the pixels that the "
    "generator visibly changed; it changes no others.",
}


class Coco(Folder):
    """`Folder` with annotations.json; one annotation for each connected spot of a mask."""

    def finish(self, out: Path, kept: Rows, columns: Sequence[str]) -> None:
        """See `Folder.finish`."""
        write_atomic(out / ANNOTATIONS_NAME, lambda file: self._write(file, out, kept))
        super().finish(out, kept, columns)

    def _write(self, file: BinaryIO, out: Path, kept: Rows) -> None:
        """Write the JSON piece by piece: nothing of it is ever whole in memory."""
        names = [name for name in self.synth.defects if name != self.synth.anchor]
        ids = {name: number for number, name in enumerate(names, 1)}
        licence = self.synth.card["data"].get("licence", "not given")
        head = {
            "info": {
                "description": _DESCRIPTIONS[self.synth.mask_kind],
                "checkpoint": self.synth.checkpoint_hash,
            },
            "licenses": [{"id": 1, "name": f"data that the model learned from: {licence}"}],
            "categories": [{"id": ids[n], "name": n, "supercategory": "defect"} for n in names],
        }
        file.write(json.dumps(head)[:-1].encode())
        file.write(b', "images": [')
        _write_items(file, (self._image(row) for row in kept()))
        file.write(b'], "annotations": [')
        _write_items(file, self._annotations(out, kept(), ids))
        file.write(b"]}\n")

    def _image(self, row: Row) -> dict[str, Any]:
        side = self.synth.config.model.image_size
        return {
            "id": row["index"],
            "file_name": row["path"],
            "width": side,
            "height": side,
            "license": 1,
            "synthetic": True,
            "background": row["background"],
            "reference": row["reference"],
        }

    def _annotations(
        self, out: Path, rows: Iterator[Row], ids: dict[str, int]
    ) -> Iterator[dict[str, Any]]:
        """Those of every row with a defect, numbered from 1."""
        kind, number = self.synth.mask_kind, 0
        for row in rows:
            if row["defect"] not in ids:  # the anchor: nothing there
                continue
            for spot in spots(np.asarray(open_image(out / row[self.mask], "L")) > 0):
                number += 1
                yield {
                    "id": number,
                    "image_id": row["index"],
                    "category_id": ids[row["defect"]],
                    "iscrowd": 0,
                    "approximate": kind == "approximate",
                    "mask_kind": kind,
                    **spot,
                }


def _write_items(file: BinaryIO, items: Iterator[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        file.write(b",\n" if number else b"\n")
        file.write(json.dumps(item).encode())


def spots(mask: np.ndarray) -> list[dict[str, Any]]:
    """Box, area and run lengths of every connected spot of at least `SMALLEST_AREA` pixels.

    Pixels of the bool (H, W) mask that touch at a corner are connected. "bbox": [left, top, width,
    height]; "area": pixels; "segmentation": {"size": [H, W], "counts": run lengths down the
    columns, beginning with zeros}, COCO's uncompressed RLE.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        spot = labels == number
        area = int(spot.sum())
        if area < SMALLEST_AREA:
            continue
        rows, columns = place
        found.append(
            {
                "bbox": [
                    int(columns.start),
                    int(rows.start),
                    int(columns.stop - columns.start),
                    int(rows.stop - rows.start),
                ],
                "area": area,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(spot)},
            }
        )
    return found


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of zeros and ones down the columns of a bool (H, W) mask, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = [0, *changes.tolist(), len(flat)]
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat[0] else runs
