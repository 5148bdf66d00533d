"""Cut the 81 photographs of the SDI data sheet's overview figure into a small data set.

Save the three parts of the figure (Normal, Scratches, Spots; products A, B and C from left to
right) as normal.png, scratches.png and spots.png in a folder, uncropped, and name it by --source.
The committed tiles, notebooks/data/sdi-tiles, were made by

    python data_scripts/cut_sdi_tiles.py --source FOLDER --out notebooks/data/sdi-tiles

The data sheet is DT_GAN_BMVC_SDI_dataset.pdf of
https://github.com/boschresearch/The-Surface-Defect-Inspection-Dataset. Licence: CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_core.images import open_image
from dtgan_lab.data import load_dataset, write_dataset
from dtgan_lab.data.dataset import DatasetInfo
from dtgan_lab.data.layout import keep_apart, put_image, staged_dataset
from dtgan_lab.data.preparing import guarded
from dtgan_lab.data.synthetic.sdi import DEFECTS, PRODUCTS
from dtgan_lab.options import Parser, path
from prepare_sdi import SOURCE

SIDE = 3  # photographs along a side of a product's block
INSET = 3  # pixels of a photograph's rim, where the figure's black lines shine through


def cut_overview(picture: Image.Image, size: int) -> list[np.ndarray]:
    """Cut one part of the overview figure: black bands part the products, lines the photographs.

    Of a grey picture, three blocks of 3 x 3 photographs of about 200 pixels, it gives an array a
    product, from left to right: uint8 (9, size, size), row by row. ValueError: no such blocks.
    """
    dark = np.asarray(picture).max(axis=0) < 40  # grey level; photographs reach far above it
    runs = [run[0] for run in ndimage.find_objects(ndimage.label(dark)[0])]
    inner = [b for b in runs if b.stop - b.start >= 4 < b.start and b.stop < picture.width - 4]
    if len(inner) != 2:
        raise ValueError(
            f"{len(inner)} black bands in a picture of {picture.width} x {picture.height} pixels, "
            "expected the 2 that part the products; take the overview figure of the SDI data "
            "sheet, uncropped"
        )
    high = picture.height / SIDE
    blocks = []
    for left, right in ((0, inner[0].start), (inner[0].stop, inner[1].start), (inner[1].stop, 0)):
        wide = ((right or picture.width) - left) / SIDE
        boxes = [
            (left + c * wide, r * high, left + (c + 1) * wide, (r + 1) * high)
            for r in range(SIDE)
            for c in range(SIDE)
        ]
        signs = (INSET, INSET, -INSET, -INSET)
        cut = [tuple(round(a) + b for a, b in zip(box, signs, strict=True)) for box in boxes]
        tiles = [picture.crop(box).resize((size, size), Image.Resampling.LANCZOS) for box in cut]  # type: ignore[arg-type]
        blocks.append(np.stack([np.asarray(tile) for tile in tiles]))
    return blocks


def cut_tiles(source: Path, out: Path, size: int) -> None:
    """Write the tiles as a data set of the kit's layout; all lie in its split `test`."""
    keep_apart(out, [source])
    rows = []
    with staged_dataset(out, "sdi-tiles") as staging:
        for defect in DEFECTS:
            file = source / f"{defect.lower()}.png"
            try:
                blocks = cut_overview(open_image(file, "L"), size)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            for product, block in zip(PRODUCTS, blocks, strict=True):
                for number, tile in enumerate(block):
                    place = f"test/{product}/{defect}/{number}.png"
                    source_of = f"{file.name}, {product} {number}"
                    rows.append(put_image(staging, place, tile, group=place, source=source_of))
        info = DatasetInfo(
            name="sdi-tiles",
            anchor=DEFECTS[0],
            products=PRODUCTS,
            defects=DEFECTS,
            image_size=(size, size),
            channels=1,
            flips=dict.fromkeys(PRODUCTS, ("horizontal",)),
            licence=SOURCE.notice["licence"],
            citation=SOURCE.notice["citation"],
            source=f"overview figure of the data sheet, {SOURCE.notice['page']}; cut and resized",
            command=f"python data_scripts/cut_sdi_tiles.py --source DIR --out DIR --size {size}",
        )
        write_dataset(staging, pd.DataFrame(rows), info)
    print(
        f"{out}: {len(load_dataset(out, check='full').manifest)} tiles. {SOURCE.notice['licence']}"
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=path, required=True, help="folder of the three parts")
    parser.add_argument("--out", required=True, help="folder to write to: empty, or older tiles")
    parser.add_argument("--size", default=64, help="side of the tiles in pixels (default 64)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    work = partial(cut_tiles, options.source, options.out, options.size)
    return guarded("cut_sdi_tiles", options.out, work)


if __name__ == "__main__":
    sys.exit(main())
