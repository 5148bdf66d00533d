"""The Magnetic Tile Defect data set (MTD) in the kit's layout: classes, crops, groups, splits."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dtgan_core.dataset import MANIFEST_COLUMNS, MASKS_FOLDER, DatasetError, DatasetInfo
from dtgan_core.files import read_plain
from dtgan_core.images import open_image, resized, resized_mask
from dtgan_lab.data.layout import staged_dataset, write_dataset
from dtgan_lab.data.mtd_source import CLASSES, CONTENT_SHA256, PAGE, Photograph, content_digest
from dtgan_lab.data.tiles import connected_groups, similar_pairs, split_groups, texture
from dtgan_lab.data.windows import cut_window, window_corner

PRODUCT = "MTD"
#: Shares of the groups, our choice: the paper does not say how MTD was split.
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
#: Pixels of all images, which are held in memory together.
MOST_PIXELS = 1_000_000_000
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
    """Which published class becomes which defect.

    Attributes:
        anchor: the defect that means "nothing there".
        classes: published class -> defect; classes that are not named are left out.
    """

    anchor: str = "Normal"
    classes: dict[str, str] = field(
        default_factory=lambda: {"Free": "Normal", "Crack": "Scratches", "Blowhole": "Spots"}
    )

    @property
    def defects(self) -> tuple[str, ...]:
        """The anchor, then the other defects in the order in which `classes` names them."""
        return tuple(dict.fromkeys((self.anchor, *self.classes.values())))


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file in TOML.

    For example::

        anchor = "Normal"
        [classes]
        Free = "Normal"
        Crack = "Scratches"
        Fray = "Scratches"

    Raises:
        DatasetError: unreadable, unknown keys or classes, or no image of the anchor or of any
            other defect would be left; all problems together.
    """
    try:
        value: dict[str, Any] = tomllib.loads(read_plain(path).decode())
    except (OSError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise DatasetError(f"{path}: unreadable ({error}), expected a TOML mapping file") from error
    problems = [
        f"unknown key {key!r}, expected anchor and classes"
        for key in value
        if key not in ("anchor", "classes")
    ]
    anchor, classes = value.get("anchor"), value.get("classes")
    if not isinstance(anchor, str):
        problems.append(f'anchor is {anchor!r}, expected a defect name, such as anchor = "Normal"')
    if not isinstance(classes, dict) or not all(isinstance(v, str) for v in classes.values()):
        problems.append(f'[classes] is {classes!r}, expected lines such as Free = "Normal"')
    else:
        problems += [
            f"[classes] names {name!r}, expected one of {', '.join(CLASSES)}"
            for name in classes
            if name not in CLASSES
        ]
        if anchor not in classes.values():
            problems.append(f"no class becomes the anchor {anchor!r}, expected at least one")
        if not set(classes.values()) - {anchor}:
            problems.append("every class becomes the anchor, expected at least one defect")
    if problems:
        raise DatasetError(f"{path}: not a usable mapping; correct the file:", {"": problems})
    assert isinstance(anchor, str) and isinstance(classes, dict)  # checked above
    return Mapping(anchor, dict(classes))


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        mapping: published class -> defect.
        size: side of the written images, in pixels.
        crop: side of the window around the mask, in pixels of the source; None keeps the tile.
        seed: seed of the splits and of the windows' places.
        command: the command line, for dataset.json.
    """

    mapping: Mapping = field(default_factory=Mapping)
    size: int = 128
    crop: int | None = None
    seed: int = 0
    command: str = "python data_scripts/prepare_mtd.py --out DIR"


@dataclass(frozen=True)
class Plan:
    """What will be written, known before anything is written.

    Attributes:
        chosen: the photographs that become images, sorted by defect and name.
        rows: their manifest rows, `sha256` still empty.
        remarks: what was left out and why, and what is odd about the source.
        left_out: images of published classes that the mapping does not name, by class.
    """

    chosen: list[Photograph]
    rows: pd.DataFrame
    remarks: list[str]
    left_out: dict[str, int]

    def table(self) -> str:
        """Images and distinct tiles per defect and split, as text."""
        lines = [f"{'':<14}{'images':>8}{'tiles':>7}   " + "".join(f"{s:>16}" for s in SHARES)]
        for defect, rows in self.rows.groupby("defect", sort=False):
            cells = ""
            for split in SHARES:
                part = rows[rows["split"] == split]
                cell = f"{len(part)} ({part['group'].nunique()} tiles)"
                cells += f"{cell:>16}"
            lines.append(f"{defect!s:<14}{len(rows):>8}{rows['group'].nunique():>7}   {cells}")
        total = self.rows["group"].nunique()
        lines.append(f"{'together':<14}{len(self.rows):>8}{total:>7}")
        return "\n".join(lines)


def make_plan(photographs: list[Photograph], options: Options, progress: bool = True) -> Plan:
    """Group all photographs by tile, pick the mapped ones, and deal the tiles to the splits.

    Photographs of left-out classes take part in the grouping: two images may be known to show the
    same tile through a third.

    Raises:
        DatasetError: images cannot be decoded, masks do not fit, or a defect has no image.
    """
    images = _decode(photographs)
    pairs = similar_pairs([texture(image) for image in images], progress=progress)
    groups = connected_groups(len(photographs), pairs)
    group_of = {
        photo.member: f"tile-{number:04d}"
        for photo, number in zip(photographs, groups, strict=True)
    }
    left_out: dict[str, int] = {}
    for photo in photographs:
        if photo.class_name not in options.mapping.classes:
            left_out[photo.class_name] = left_out.get(photo.class_name, 0) + 1
    remarks = []
    if content_digest(photographs) != CONTENT_SHA256:
        remarks.append(
            f"the source differs from the published data set ({len(photographs)} images found, "
            "1344 published)"
        )
    chosen, dropped = _without_duplicates(photographs, images, options.mapping)
    remarks += dropped
    if options.crop is not None:
        chosen, dropped = _with_masks(chosen, options.mapping)
        remarks += dropped
    rows = _rows(chosen, group_of, options)
    missing = [d for d in options.mapping.defects if d not in set(rows["defect"])]
    if missing:
        raise DatasetError(
            f"the source holds no image for {', '.join(missing)}, expected at least one; correct "
            "--mapping or --source"
        )
    return Plan(chosen, rows, remarks, left_out)


def _decode(photographs: list[Photograph]) -> list[Image.Image]:
    """Grey images of all photographs; decoding problems are reported together."""
    images: list[Image.Image] = []
    problems, pixels = [], 0
    for photo in photographs:
        if pixels > MOST_PIXELS:
            raise DatasetError(
                f"more than {MOST_PIXELS:,} pixels in the first {len(images)} images, expected "
                f"those of {PAGE}; correct --source"
            )
        try:
            image = open_image(photo.image, "L", photo.member)
            if photo.mask:
                mask = open_image(photo.mask, "L", photo.member + ": mask")
                if mask.size != image.size:
                    problems.append(
                        f"{photo.member}: mask of {mask.size} pixels, expected {image.size} as the "
                        "image"
                    )
            images.append(image)
            pixels += image.width * image.height
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError(
            "the source holds unusable files; download it again from " + PAGE, {"": problems}
        )
    return images


def _without_duplicates(
    photographs: list[Photograph], images: list[Image.Image], mapping: Mapping
) -> tuple[list[Photograph], list[str]]:
    """Mapped photographs, of identical pictures only the first; the contradictory ones all go."""
    same: dict[str, list[Photograph]] = {}
    for photo, image in zip(photographs, images, strict=True):
        if photo.class_name in mapping.classes:
            key = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
            same.setdefault(key, []).append(photo)
    chosen, remarks = [], []
    for copies in same.values():
        names = ", ".join(photo.member for photo in copies)
        if len({mapping.classes[photo.class_name] for photo in copies}) > 1:
            remarks.append(f"left out, the same picture under different defects: {names}")
            continue
        if len(copies) > 1:
            remarks.append(f"the same picture {len(copies)} times, the first kept: {names}")
        chosen.append(copies[0])
    return chosen, remarks


def _with_masks(
    photographs: list[Photograph], mapping: Mapping
) -> tuple[list[Photograph], list[str]]:
    """A window can be laid around a defect only where the mask shows it."""
    kept, remarks = [], []
    for photo in photographs:
        if mapping.classes[photo.class_name] == mapping.anchor or _mask(photo).getbbox():
            kept.append(photo)
        else:
            remarks.append(f"left out, no mask to lay the window around: {photo.member}")
    return kept, remarks


def _mask(photo: Photograph) -> Image.Image:
    """The mask as published, 0 or 255; all zero where there is none."""
    if photo.mask:
        mask = open_image(photo.mask, "L")
        return resized_mask(mask, (mask.height, mask.width))
    image = open_image(photo.image, "L")
    return Image.new("L", image.size)


def _rows(chosen: list[Photograph], group_of: dict[str, str], options: Options) -> pd.DataFrame:
    classes: dict[str, list[str]] = {}
    for photo in chosen:
        defect = options.mapping.classes[photo.class_name]
        classes.setdefault(group_of[photo.member], []).append(defect)
    split_of = split_groups(classes, options.seed, SHARES)
    chosen.sort(
        key=lambda p: (
            options.mapping.defects.index(options.mapping.classes[p.class_name]),
            p.member,
        )
    )
    rows = []
    for photo in chosen:
        defect, group = options.mapping.classes[photo.class_name], group_of[photo.member]
        # The class is part of the name: stems are unique within a class only.
        tail = f"{split_of[group]}/{PRODUCT}/{defect}/{photo.class_name.lower()}_{photo.stem}.png"
        has_mask = defect != options.mapping.anchor and _mask(photo).getbbox() is not None
        rows.append(
            {
                "path": tail,
                "product": PRODUCT,
                "defect": defect,
                "split": split_of[group],
                "group": group,
                "mask": f"{MASKS_FOLDER}/{tail}" if has_mask else "",
                "twin": "",
                "seed": "" if options.crop is None else str(options.seed),
                "sha256": "",
                "source": photo.member,
            }
        )
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))


def write_plan(plan: Plan, options: Options, out: Path, progress: bool = True) -> None:
    """Write images, masks, dataset.json and manifest.csv; an older MTD in `out` is replaced.

    Raises:
        DatasetError: `out` holds something else.
    """
    info = DatasetInfo(
        name="MTD",
        anchor=options.mapping.anchor,
        products=(PRODUCT,),
        defects=options.mapping.defects,
        image_size=(options.size, options.size),
        channels=1,
        flips={PRODUCT: ("horizontal", "vertical")},
        licence=LICENCE,
        citation=CITATION,
        source=PAGE,
        command=options.command,
    )
    rows = plan.rows.copy()
    hashes = []
    with staged_dataset(out, info.name) as staging:
        jobs = zip(plan.chosen, rows.itertuples(index=False), strict=True)
        for photo, row in tqdm(
            jobs, total=len(rows), desc="writing MTD", disable=None if progress else True
        ):
            image, mask = render(photo, options)
            path = staging / str(row.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
            if row.mask:
                mask_path = staging / str(row.mask)
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                mask.save(mask_path)
        rows["sha256"] = hashes
        write_dataset(staging, rows, info)


def render(photo: Photograph, options: Options) -> tuple[Image.Image, Image.Image]:
    """One photograph as it is written: grey image and mask, `size` pixels square.

    Without `crop` the whole tile is squashed to the square, antialiased. With `crop` a window of
    that many pixels is cut out first, one per image: around the mask for a defect, anywhere for the
    anchor; its place depends on the seed and on the photograph's name alone.
    """
    image, mask = open_image(photo.image, "L"), _mask(photo)
    if options.crop is not None:
        generator = _generator(options.seed, photo.member)
        pixels, defect = np.asarray(image), np.asarray(mask) > 0
        if options.mapping.classes[photo.class_name] == options.mapping.anchor:
            defect = np.ones_like(defect)
        top, left = window_corner(defect, options.crop, generator)
        image = Image.fromarray(cut_window(pixels, top, left, options.crop))
        mask = Image.fromarray(cut_window(np.asarray(mask), top, left, options.crop))
    return resized(image, options.size), resized_mask(mask, options.size)


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
