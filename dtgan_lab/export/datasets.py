"""Exports as data sets: the kit's own, which `train` learns from, and COCO's, with boxes and masks.

Layout, what `load_dataset` accepts and `join_datasets` joins:

OUT/dataset.json, OUT/manifest.csv                     `source` marks synthetic images as such
OUT/train/<product>/<defect>/synthetic-000000.png      the images
OUT/masks/train/...                                    their masks, generated or approximate
OUT/train/<product>/<anchor>/real-000000.png           the real backgrounds they were made on
OUT/synthetic.csv                                      the rows of the other formats' manifest

A background and everything made on it are one group, so that no split can part them.

COCO, read off the masks of an export:

OUT/annotations.json            images, annotations, categories
OUT/images/000000.png           the images
OUT/generated_masks/...         what boxes and masks were read from, or approximate_masks/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from dtgan_core.files import shown, write_atomic
from dtgan_core.images import image_to_array, open_image, to_png
from dtgan_lab.data.dataset import MANIFEST_COLUMNS, MASKS_FOLDER, DatasetInfo
from dtgan_lab.data.layout import write_dataset
from dtgan_lab.export.drawing import Row
from dtgan_lab.export.formats import Folder, Places, require_products, write_table

LIST_NAME = "synthetic.csv"
SPLIT = "train"
FEWEST = 2  # images of a class, which training asks for


class Layout(Folder):
    """The images as training images of a data set, each beside its real background."""

    unique = True
    packs_rejects = True  # a data set holds no image that its manifest does not know

    def check(self) -> None:
        """Products must be known, and every class must come out large enough to be trained on."""
        super().check()
        require_products(self.order, "--format layout")
        if self.synth.anchor in self.order.defects:
            raise ValueError(
                f"--defect {self.synth.anchor}: --format layout takes the real backgrounds for it; "
                "leave it out"
            )
        least = FEWEST * len(self.order.defects)
        if self.order.count < least or len(self.order.backgrounds) < FEWEST:
            raise ValueError(
                f"found {len(self.order.backgrounds)} backgrounds and a count of "
                f"{self.order.count}; --format layout expects at least {FEWEST} and {least}, "
                f"{FEWEST} images of every defect"
            )

    def place(self, row: Row) -> Places:
        """See `Folder.place`."""
        product = self.order.part(row["background"]).product
        path = f"{SPLIT}/{product}/{row['defect']}/synthetic-{row['index']:06d}.png"
        return self.alone(path) | {self.mask: f"{MASKS_FOLDER}/{path}"}

    def finish(self, out: Path, kept: list[Row], columns: Sequence[str]) -> None:
        """See `Folder.finish`."""
        numbers = {str(path): n for n, path in enumerate(self.order.backgrounds)}
        used = {row["background"] for row in kept}
        rows = [self._row(row, numbers) for row in kept]
        rows += self._real_rows(out, [path for path in numbers if path in used], numbers)
        write_table(out / LIST_NAME, (*self.columns, *columns), kept)
        table = pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))
        write_dataset(out, table, self._info(set(table["product"])))

    def _row(self, row: Row, numbers: dict[str, int]) -> Row:
        by = f", reference {shown(row['reference'])}" if row["reference"] else ""
        mask = f"; mask {self.synth.mask_kind}" if row[self.mask] else ""
        return {
            "path": row["path"],
            "product": self.order.part(row["background"]).product,
            "defect": row["defect"],
            "split": SPLIT,
            "group": self._group(row["background"], numbers),
            "mask": row[self.mask],
            "twin": "",
            "seed": row["seed"],
            "sha256": row["sha256"],
            "source": f"synthetic: DT-GAN {row['checkpoint_sha256'][:16]}, {row['guidance']}-"
            f"guided, index {row['index']}, background {shown(row['background'])}{by}{mask}",
        }

    def _group(self, background: str, numbers: dict[str, int]) -> str:
        return self.order.part(background).group or f"background-{numbers[background]:06d}"

    def _real_rows(self, out: Path, used: list[str], numbers: dict[str, int]) -> Iterator[Row]:
        """Write every background once, as the model sees it; the same bytes are not repeated."""
        model, anchor = self.synth.config.model, self.synth.anchor
        seen: set[str] = set()
        for background in used:
            product = self.order.part(background).product
            path = f"{SPLIT}/{product}/{anchor}/real-{numbers[background]:06d}.png"
            data = to_png(image_to_array(background, model.channels, model.image_size))
            digest = hashlib.sha256(data).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out / path, data)
            row: Row = dict.fromkeys(MANIFEST_COLUMNS, "")
            row |= {"path": path, "product": product, "defect": anchor, "split": SPLIT}
            row |= {"group": self._group(background, numbers), "sha256": digest}
            yield row | {"source": f"real: {shown(background)}"}

    def _info(self, products: set[str]) -> DatasetInfo:
        synth, data = self.synth, self.synth.card["data"]
        side = synth.config.model.image_size
        known = {name: n for n, name in enumerate(synth.products)}
        others = [d for d in synth.defects if d in self.order.defects and d != synth.anchor]
        return DatasetInfo(
            name="dtgan-export",
            anchor=synth.anchor,
            products=tuple(sorted(products, key=lambda name: (known.get(name, len(known)), name))),
            defects=(synth.anchor, *others),
            image_size=(side, side),
            channels=synth.config.model.channels,
            flips={},
            licence=f"made by a model that learned from data under: {data.get('licence', '?')}",
            citation=str(data.get("citation", "none")),
            source=f"synthetic defects of the DT-GAN {synth.checkpoint_hash[:16]} on real "
            f"backgrounds; the source of every image says which it is; masks are {synth.mask_kind}",
            command="python -m dtgan_core generate --format layout, with what export.json says",
        )


# --- COCO ----------------------------------------------------------------------------------------


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

    def finish(self, out: Path, kept: list[Row], columns: Sequence[str]) -> None:
        """See `Folder.finish`."""
        names = [name for name in self.synth.defects if name != self.synth.anchor]
        ids = {name: number for number, name in enumerate(names, 1)}
        licence = self.synth.card["data"].get("licence", "not given")
        told = {
            "info": {
                "description": _DESCRIPTIONS[self.synth.mask_kind],
                "checkpoint": self.synth.checkpoint_hash,
            },
            "licenses": [{"id": 1, "name": f"data that the model learned from: {licence}"}],
            "categories": [{"id": ids[n], "name": n, "supercategory": "defect"} for n in names],
            "images": [self._image(row) for row in kept],
            "annotations": list(self._annotations(out, kept, ids)),
        }
        write_atomic(out / ANNOTATIONS_NAME, json.dumps(told).encode())
        super().finish(out, kept, columns)

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
        self, out: Path, rows: list[Row], ids: dict[str, int]
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
        high, wide = (side.stop - side.start for side in place)
        found.append(
            {
                "bbox": [columns.start, rows.start, wide, high],
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
