"""The Magnetic Tile Defect data set (MTD) in the kit's layout: classes, crops, groups, splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dtgan_core.dataset import FLIPS
from dtgan_core.images import ImageError, open_image, resized, to_png
from dtgan_lab.data.adopt import Candidate, Listing, Recipe, adopt, failure
from dtgan_lab.data.adopt_plan import Plan, make_plan, write_plan
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.dataset import resized_mask
from dtgan_lab.data.layout import staged_dataset
from dtgan_lab.data.mtd_source import CONTENT_SHA256, PAGE, Photograph, content_digest
from dtgan_lab.data.tiles import (
    connected_groups,
    cut_window,
    generator_of,
    similar_pairs,
    texture,
    window_corner,
)

PRODUCT = "MTD"
LICENCE = (
    "No licence file in the published archive. Its README says: 'It is welcomed to use our "
    "dataset. And if it is used in your research, please cite our paper.' We take that as leave "
    "for research, not for passing the images on."
)
CITATION = (
    'Y. Huang, C. Qiu, K. Yuan, "Surface defect saliency of magnetic tile", '
    "The Visual Computer 36, 85-96, 2020, doi:10.1007/s00371-018-1588-5"
)


@dataclass(frozen=True)
class Mapping:
    """Which published class becomes which defect; classes that are not named are left out."""

    anchor: str = "Normal"
    classes: dict[str, str] = field(
        default_factory=lambda: {"Free": "Normal", "Crack": "Scratches", "Blowhole": "Spots"}
    )


@dataclass(frozen=True)
class Options:
    """What the command line says.

    `crop` is the side of the window around the mask, in pixels of the source; None keeps the tile.
    """

    mapping: Mapping = field(default_factory=Mapping)
    size: int = 128
    crop: int | None = None
    seed: int = 0
    command: str = "python data_scripts/prepare_mtd.py --out DIR"


def mtd_recipe(options: Options) -> Recipe:
    """What shall become of the tiles."""
    return Recipe(
        name="MTD",
        anchor=options.mapping.anchor,
        licence=LICENCE,
        citation=CITATION,
        source=PAGE,
        command=options.command,
        size=options.size,
        flips=FLIPS,
        seed=options.seed,
    )


def label_tiles(photographs: list[Photograph], options: Options, progress: bool = True) -> Listing:
    """Group all photographs by tile, and make candidates of those whose class is mapped.

    Photographs of left-out classes take part in the grouping: two images may be known to show the
    same tile through a third.
    """
    listing, mapping = Listing(), options.mapping
    sound, images = _decoded(photographs, listing)
    pairs = similar_pairs([texture(image) for image in images], progress=progress)
    unnamed: Counter[str] = Counter()
    for photo, image, tile in zip(sound, images, connected_groups(len(sound), pairs), strict=True):
        defect = mapping.classes.get(photo.class_name)
        if defect is None:
            unnamed[photo.class_name] += 1
            reason = f"{photo.class_name} is not in the mapping"
            listing.left_out.append(LeftOut(photo.member, "not mapped", reason))
            continue
        seen = defect != mapping.anchor and _mask(photo).getbbox() is not None
        if options.crop is not None and defect != mapping.anchor and not seen:
            reason = "no mask to lay the window around"
            listing.left_out.append(LeftOut(photo.member, "no mask", reason))
            continue
        picture = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        listing.candidates.append(
            Candidate(
                name=photo.member,
                read=partial(_png, photo, options, 0),
                product=PRODUCT,
                defect=defect,
                group=f"tile-{tile:04d}",
                mask_name=f"{photo.member}: mask" if seen else "",
                read_mask=partial(_png, photo, options, 1) if seen else None,
                # The class is part of the name: stems are unique within a class only.
                file=f"{photo.class_name.lower()}_{photo.stem}.png",
                seed="" if options.crop is None else str(options.seed),
                picture=picture,
            )
        )
    listing.remarks += [
        f"left out, not in the mapping: {name}, {n} images" for name, n in unnamed.items()
    ]
    if content_digest(photographs) != CONTENT_SHA256:
        listing.remarks.append(
            f"the source differs from the published data set ({len(photographs)} images found, "
            "1344 published)"
        )
    return listing


def _decoded(
    photographs: list[Photograph], listing: Listing
) -> tuple[list[Photograph], list[Image.Image]]:
    """The photographs that can be used, and their grey images; the others are left out."""
    sound: list[Photograph] = []
    images: list[Image.Image] = []
    for photo in photographs:
        try:
            image = open_image(photo.image, "L", photo.member)
            mask = open_image(photo.mask, "L", f"{photo.member}: mask") if photo.mask else image
            if mask.size != image.size:
                raise ImageError(f"mask of {mask.size} pixels, expected {image.size} as the image")
        except ImageError as error:
            listing.left_out.append(failure(photo.member, error))
        else:
            sound.append(photo)
            images.append(image)
    return sound, images


def make_mtd(
    photographs: list[Photograph], options: Options, out: Path, progress: bool = True
) -> Plan:
    """Write images, masks, dataset.json and manifest.csv; an older MTD in `out` is replaced.

    DatasetError: `out` holds something else, or see `make_plan`.
    """
    recipe, listing = mtd_recipe(options), label_tiles(photographs, options, progress)
    with staged_dataset(out, recipe.name) as staging:
        spool = staging / ".spool"  # removed with the staging folder
        spool.mkdir()
        plan = make_plan(adopt(listing, recipe, spool, progress), listing, recipe)
        write_plan(plan, staging)
    return plan


def _png(photo: Photograph, options: Options, which: int) -> bytes:
    """Image (0) or mask (1) as it is written."""
    return to_png(np.asarray(render(photo, options)[which]))


def _mask(photo: Photograph) -> Image.Image:
    """The mask as published, 0 or 255; all zero where there is none."""
    if photo.mask:
        mask = open_image(photo.mask, "L")
        return resized_mask(mask, (mask.height, mask.width))
    image = open_image(photo.image, "L")
    return Image.new("L", image.size)


def render(photo: Photograph, options: Options) -> tuple[Image.Image, Image.Image]:
    """One photograph as it is written: grey image and mask, `size` pixels square.

    Without `crop` the whole tile is squashed to the square, antialiased. With `crop` a window of
    that many pixels is cut out first, one per image: around the mask for a defect, anywhere for the
    anchor; its place depends on the seed and on the photograph's name alone.
    """
    image, mask = open_image(photo.image, "L"), _mask(photo)
    if options.crop is not None:
        generator = generator_of(options.seed, photo.member)
        pixels, defect = np.asarray(image), np.asarray(mask) > 0
        if options.mapping.classes[photo.class_name] == options.mapping.anchor:
            defect = np.ones_like(defect)
        top, left = window_corner(defect, options.crop, generator)
        image = Image.fromarray(cut_window(pixels, top, left, options.crop))
        mask = Image.fromarray(cut_window(np.asarray(mask), top, left, options.crop))
    return resized(image, options.size), resized_mask(mask, options.size)
