"""`generate` for baselines: images, masks and a manifest, in the folder format of `export`.

StyleGAN2 and BigGAN make whole images, so there is no background and no mask; content transfer lays
the defect of a reference over a background, and its own mask is written, soft and above one half.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dtgan_core.files import write_atomic
from dtgan_core.images import image_to_array, to_png
from dtgan_core.synthesis import to_uint8
from dtgan_lab.baselines.generators import Makers, Transfers
from dtgan_lab.baselines.zoo import load_system
from dtgan_lab.data.usable import tell_left_out, usable_images
from dtgan_lab.export.drawing import Shuffle, export_columns
from dtgan_lab.files import cell

COLUMNS = (*export_columns("generated"), "product")
# options of `generate` for DT-GAN's exports alone, with what says that they are not given
DTGAN_ALONE: dict[str, tuple[Any, ...]] = {
    "format": ("folder",),
    "by_product": (False,),
    "resume": (False,),
    "gate": (False,),
    "judge": (None,),
    "data": (None,),
    "min_confidence": (None,),
    "keep_product": (False,),
    "min_copy_distance": (None,),
    "tries": (None,),
}

Piece = tuple[dict[str, object], np.ndarray, np.ndarray | None]  # row, image, its mask m


def run_generate_baseline(options: argparse.Namespace) -> None:
    """Load a baseline, check the options, write what was asked for.

    Raises:
        ValueError: an option that does not apply, or a name that the models do not know.
    """
    made = load_system(options.checkpoint, options.device)
    if not isinstance(made, Makers | Transfers):
        raise ValueError(
            f"{options.checkpoint}: holds images, expected a trained model; `evaluate --fake` and "
            "`classify --baseline` take images"
        )
    for name, absent in DTGAN_ALONE.items():
        if getattr(options, name) not in absent:
            raise ValueError(
                f"--{name.replace('_', '-')}: goes with DT-GAN alone, not with {made.method}; "
                "leave it out"
            )
    for name in ("count", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: expected at least 1")
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"{options.out}: is not empty; choose another --out, or remove it first")
    if isinstance(made, Makers):
        pieces = _from_nothing(made, options)
    else:
        pieces = _onto_backgrounds(made, options)
    count = _write(pieces, options.out, options.count)
    size = made.image_size
    print(f"note: images are {size} x {size} {'grey' if made.channels == 1 else 'colour'}")
    print(f"done: {count} images in {options.out}/images, listed in {options.out}/manifest.csv")


def _products(made: Makers | Transfers, options: argparse.Namespace) -> tuple[str, ...]:
    products = made.products if options.product is None else (options.product,)
    for product in products:
        for defect in options.defect:
            made.of(product, defect)
    return products


def _from_nothing(made: Makers, options: argparse.Namespace) -> Iterator[Piece]:
    """Products take turns, and so do the defects of each."""
    for name in ("backgrounds", "references"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name}: {made.method} makes images from nothing; leave it out")
    cells = [(p, y) for y in options.defect for p in _products(made, options)]
    for index in range(options.count):
        (product, defect), number = cells[index % len(cells)], index // len(cells)
        image = made.make(product, defect, 1, options.seed, number)
        row = _row(made, product, defect, options.seed, index, "none")
        yield row, to_uint8(image)[0], None


def _onto_backgrounds(made: Transfers, options: argparse.Namespace) -> Iterator[Piece]:
    """Backgrounds and references in a random order, every one once a round."""
    for name in ("backgrounds", "references"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name} is not given: {made.method} lays a reference's defect over")
    products = _products(made, options)
    if len(products) != 1 or len(options.defect) != 1:
        raise ValueError(
            f"found products {', '.join(products)} and defects {', '.join(options.defect)}, "
            f"expected one of each: {made.method} has a model for each; name them by --product "
            "and --defect"
        )
    (product,), (defect,) = products, options.defect
    (backgrounds, left_out), (references, more) = map(
        usable_images, (options.backgrounds, options.references)
    )
    tell_left_out(left_out + more)
    of_background = Shuffle(len(backgrounds), options.seed, "backgrounds")
    of_reference = Shuffle(len(references), options.seed, "references")
    for index in range(options.count):
        a, b = backgrounds[of_background[index]], references[of_reference[index]]
        x = _image(made, a)
        layer = made.layers(product, defect, x, _image(made, b))
        row = _row(made, product, defect, options.seed, index, "reference")
        row |= {"background": cell(str(a)), "reference": cell(str(b))}
        yield row, to_uint8(layer.over(x))[0], layer.m[0, 0].float().cpu().numpy()


def _image(made: Transfers, path: Path) -> Tensor:
    """A file as the networks take it: (1, ch, H, W) in [-1, 1]."""
    model = made.exports[0].config.model
    array = image_to_array(path, model.channels, model.image_size)
    return (torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1).to(made.device)


def _row(
    made: Makers | Transfers, product: str, defect: str, seed: int, index: int, guidance: str
) -> dict[str, object]:
    return {
        "path": f"images/{index:06d}.png",
        "generated_mask": "",
        "soft_mask": "",
        "background": "",
        "defect": defect,
        "guidance": guidance,
        "reference": "",
        "seed": seed,
        "index": index,
        "checkpoint_sha256": made.of(product, defect).checkpoint_hash,
        "product": product,
    }


def _write(pieces: Iterator[Piece], out: Path, count: int) -> int:
    """Write images and masks as they come, then the manifest; returns how many."""
    rows = []
    for row, image, mask in tqdm(pieces, total=count, desc="generate", unit="image", disable=None):
        (out / "images").mkdir(parents=True, exist_ok=True)
        write_atomic(out / str(row["path"]), to_png(image))
        if mask is not None:
            soft = np.rint(255 * mask)
            for name, levels in (("generated_mask", 255 * (mask > 0.5)), ("soft_mask", soft)):
                (out / f"{name}s").mkdir(exist_ok=True)
                row[name] = f"{name}s/{row['index']:06d}.png"
                write_atomic(out / str(row[name]), to_png(levels.astype(np.uint8)[:, :, None]))
        rows.append(row)
    manifest = pd.DataFrame(rows, columns=list(COLUMNS))
    write_atomic(out / "manifest.csv", manifest.to_csv(index=False).encode())
    return len(rows)
