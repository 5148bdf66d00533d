"""What people marked on pictures, as masks: LabelMe and COCO files, YOLO texts, mask pictures.

None of it is needed to train. Where there are masks, yardsticks know where a real defect is, and a
segmentation has something to learn from. Part of prepare_folder.py, by --annotations.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dtgan_core.files import shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded, to_png
from dtgan_lab.data.adopt import Candidate, Listing, Source
from dtgan_lab.data.archives import (
    LeftOut,
    Tree,
    require_source,
    source_digest,
    walk_folder,
)

SUFFIXES = frozenset({".json", ".txt"})
# Files that YOLO tools and Label Studio write beside the marks.
NO_MARKS = frozenset({"classes.txt", "train.txt", "val.txt", "test.txt", "notes.json"})
STROKE = 3  # pixels: the width of a line that somebody drew
_BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
_FARTHEST = 1e3  # pictures away


class Marks(NamedTuple):
    """What one file marks on one picture.

    Attributes:
        name: the file.
        outlines: (n, 2) each, x and y as shares of width and height; of two points, a line.
        read: gives the bytes of a mask's picture instead.
        size: width and height that the file says the picture has.
    """

    name: str
    outlines: list[np.ndarray]
    read: Callable[[], bytes] | None = None
    size: tuple[float, float] | None = None


def annotated(source: Source, marked: Path) -> Source:
    """A source whose pictures get masks from a file or folder of annotations.

    Marks belong to the picture of the same place and name, or to the only one of that name. They
    lie in a COCO file, or a folder of LabelMe files, YOLO texts or mask pictures. DatasetError:
    nothing there.
    """
    require_source(marked, "--annotations")

    def digest() -> str:
        marks = source_digest([marked], also=SUFFIXES)
        return hashlib.sha256(f"{source.digest()} {marks}".encode()).hexdigest()

    def listing(work: Path) -> Listing:
        found = source.listing(work)
        among = any(path.resolve() == marked.resolve() for path in source.paths)
        marks, left_out = read_marks(marked, pictures=not among)
        read = {shown(mark.name) for mark in marks.values()}
        others = [item for item in found.left_out if not among or item.name not in read]
        return with_marks(Listing(found.candidates, others + left_out, found.remarks), marks)

    return Source([*source.paths, marked], digest, listing)


def read_marks(source: Path, pictures: bool = True) -> tuple[dict[str, Marks], list[LeftOut]]:
    """Every annotation below a folder, or of one file.

    Gives place and name of a picture, without suffix -> its marks, and what cannot be read.
    `pictures` says whether pictures there are masks; otherwise they are passed over.
    """
    tree, marks, left_out = Tree(also=SUFFIXES), dict[str, Marks](), list[LeftOut]()
    if source.is_dir():
        walk_folder(source, tree)
    else:
        tree.add(source, source.name)
    for name, read in tree.readers.items():
        path = PurePosixPath(name)
        if path.name in NO_MARKS:
            continue
        place = str(path.with_suffix(""))
        try:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found = {place.removesuffix("_mask"): Marks(name, [], read)} if pictures else {}
            elif path.suffix.lower() == ".txt":
                found = {place: Marks(name, _yolo(read().decode("utf-8-sig")))}
            else:
                found = _json(json.loads(read().decode("utf-8-sig")), name, place)
        except (*_BROKEN, OSError) as error:
            told = f"{type(error).__name__} {error}".strip()
            reason = f"no LabelMe, COCO or YOLO annotation ({told}); export it again"
            left_out.append(LeftOut(shown(name), "annotation", shown(reason)))
        else:
            marks |= {where: m for where, m in found.items() if m.outlines or m.read}
    return marks, left_out


def with_marks(listing: Listing, marks: dict[str, Marks]) -> Listing:
    """The listing with masks where marks fit its pictures; masks that it has already stay."""
    places = [str(PurePosixPath(c.name).with_suffix("")) for c in listing.candidates]
    count = Counter(PurePosixPath(place).name for place in places)
    by_name: dict[str, list[str]] = {}
    for place in marks:
        by_name.setdefault(PurePosixPath(place).name, []).append(place)
    candidates, used = [], set[str]()
    for candidate, place in zip(listing.candidates, places, strict=True):
        name = PurePosixPath(place).name
        alone = by_name.get(name, []) if count[name] == 1 else []
        found = [place] if place in marks else alone
        if len(found) == 1 and candidate.read_mask is None:
            used.add(found[0])
            mark = marks[found[0]]
            read = mark.read or partial(painted, candidate, mark.outlines, mark.size)
            candidate = replace(candidate, mask_name=mark.name, read_mask=read)
        candidates.append(candidate)
    lost = sorted(marks.keys() - used)
    remarks = [f"{len(used)} pictures have masks from annotations"]
    if lost:
        remarks.append(
            f"{len(lost)} annotations fit no picture by its place, or by a name that is there "
            f"once: {', '.join(map(shown, lost[:3]))}{', ...' if len(lost) > 3 else ''}"
        )
    return Listing(candidates, listing.left_out, [*listing.remarks, *remarks])


def painted(
    candidate: Candidate, outlines: list[np.ndarray], size: tuple[float, float] | None = None
) -> bytes:
    """Outlines as a PNG of the picture's size, white where something is marked.

    ImageError: the file was made for a picture of another shape, such as one not yet turned.
    """
    with decoded(candidate.read(), "L", shown(candidate.name)) as image:
        mask = Image.new("L", image.size)
    if size and not 0.98 < size[0] * mask.height / (size[1] * mask.width) < 1.02:
        raise ImageError(
            f"marks of a picture of {size[0]:g} x {size[1]:g} pixels, expected {mask.width} x "
            f"{mask.height} as {shown(candidate.name)} is when upright; mark it again, upright"
        )
    if outlines and not any(_reaches(outline) for outline in outlines):
        raise ImageError(f"its marks lie outside the picture of {mask.width} x {mask.height}")
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        points = [(x, y) for x, y in (outline * mask.size).tolist()]
        if len(points) == 2:
            draw.line(points, fill=255, width=STROKE)
        else:
            draw.polygon(points, fill=255, outline=255)
    return to_png(np.asarray(mask))


def _reaches(outline: np.ndarray) -> bool:
    """Whether the box around an outline touches the picture."""
    return bool((outline.max(axis=0) >= 0).all() and (outline.min(axis=0) <= 1).all())


# ----- the formats


def _outline(values: Any, width: float = 1, height: float = 1) -> np.ndarray:
    """Numbers x, y, x, y, ... as (n, 2) shares of a picture."""
    points = np.asarray(values, dtype=np.float64).reshape(-1, 2) / (width, height)
    if len(points) < 2 or not (np.abs(points) < _FARTHEST).all():
        raise ValueError("an outline of no two points, or of points that lie nowhere")
    return points


def _box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def _yolo(text: str) -> list[np.ndarray]:
    """Lines "class x y width height", or "class x1 y1 x2 y2 x3 y3 ...", shares of the picture."""
    outlines = []
    for line in filter(str.strip, text.splitlines()):
        _, *numbers = [float(word) for word in line.split()]
        if len(numbers) == 4:
            x, y, w, h = numbers
            numbers = _box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        outlines.append(_outline(numbers))
    return outlines


def _json(value: Any, name: str, place: str) -> dict[str, Marks]:
    """A LabelMe file of one picture, or a COCO file of many."""
    if "shapes" in value:
        size = value["imageWidth"], value["imageHeight"]
        if not all(isinstance(n, int | float) and n > 0 for n in size):
            raise ValueError(f"imageWidth and imageHeight of {size[0]} and {size[1]}")
        parts = [part for shape in value["shapes"] for part in _labelme(shape)]
        return {place: Marks(name, [_outline(part, *size) for part in parts], size=size)}
    images = {image["id"]: image for image in value["images"]}
    marks: dict[str, Marks] = {}
    for note in value["annotations"]:
        image = images[note["image_id"]]
        where = str(PurePosixPath(image["file_name"]).with_suffix(""))
        held = note.get("segmentation")
        if isinstance(held, dict):
            raise ValueError("runs of pixels instead of polygons")
        if not held:
            x, y, w, h = note["bbox"]
            held = [_box(x, y, x + w, y + h)]
        size = image["width"], image["height"]
        outlines = marks.setdefault(where, Marks(name, [], size=size)).outlines
        outlines += [_outline(part, *size) for part in held]
    return marks


def _labelme(shape: dict[str, Any]) -> list[Any]:
    """The outlines of a shape, in pixels."""
    kind, points = shape.get("shape_type", "polygon"), np.asarray(shape["points"], dtype=np.float64)
    if kind == "rectangle":
        low, high = points.min(axis=0), points.max(axis=0)  # of two corners, or of four
        return [_box(*low, *high)] if len(points) == 2 else [points]
    if kind == "circle":
        turn = np.linspace(0, 2 * np.pi, 32)
        around = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        return [points[0] + np.hypot(*(points[1] - points[0])) * around]
    if kind in ("line", "linestrip"):
        return [points[k : k + 2] for k in range(len(points) - 1)]
    if kind == "point":
        return []  # which outlines nothing
    if kind != "polygon":
        raise ValueError(f"a shape of the kind {kind!r}")
    return [points]
