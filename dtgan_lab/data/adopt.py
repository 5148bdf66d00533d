"""Pictures of any kind become images of the kit's kind: decoded, fitted, hashed; copies are found.

A script lists `Candidate`s (where a picture is and what it shows) and says in a `Recipe` what shall
become of them. `adopt` reads each once. What cannot be used is named with its reason, and the
rest goes on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from dtgan_core.dataset import DatasetError
from dtgan_core.files import Names, problems, shown
from dtgan_core.images import ImageError, decoded, resized, to_png
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.dataset import in_threads, resized_mask
from dtgan_lab.data.tiles import split_groups

#: How a picture of another aspect ratio is brought to the wanted one (see `fitted`), and in words.
FITS = {"squash": "squashed", "crop": "cut off at the ends", "letterbox": "given borders"}


def fitted(image: Image.Image, side: int, fit: str = "squash", mask: bool = False) -> Image.Image:
    """Bring an 8-bit image to `side` x `side` pixels, antialiased.

    Args:
        image: of any size and aspect ratio.
        side: in pixels.
        fit: "squash" changes the aspect ratio; "crop" keeps it and cuts the overhang off both
            sides; "letterbox" keeps it and fills the missing sides with the outermost pixels
            (black bars would be a feature that a network learns).
        mask: a grey mask goes the same way and stays 0 or 255: thin defects survive (see
            `resized_mask`), and the sides that letterbox adds are no defect.
    """
    shrink: Callable[..., Image.Image] = resized_mask if mask else resized
    if fit == "crop":
        short = min(image.size)
        left, top = ((length - short) // 2 for length in image.size)
        image = image.crop((left, top, left + short, top + short))
    if fit != "letterbox":
        return shrink(image, side)
    scale = side / max(image.size)
    inside = [min(side, max(1, round(n * scale))) for n in (image.height, image.width)]
    pixels = np.asarray(shrink(image, tuple(inside)))
    margins = [((side - n) // 2, side - n - (side - n) // 2) for n in inside]
    margins += [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, margins, "constant" if mask else "edge"))


#: A picture that is narrower shows no surface.
SMALLEST_SIDE = 8
#: Shares of the groups of each cell (product, defect), our choice.
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}

_SLUG = re.compile(r"[^A-Za-z0-9._-]+")

_FRAMES = "have several frames or pages, the first is taken"
_DAMAGED = "are damaged beside their pixels, which are whole"
_BLACK_WHITE = (
    "are nothing but black and white, as masks are; if they are, take them out, or list pictures "
    "and masks in a CSV file"
)

#: Group of images -> the cells ("product/defect") of its images, and a seed -> split of each group.
Deal = Callable[[dict[str, list[str]], int], dict[str, str]]


@dataclass(frozen=True)
class Candidate:
    """A picture of the source, by its place there, and what it shows.

    Attributes:
        read: gives its bytes; raises `ImageError` or `OSError`, as `read_mask` of its mask.
        group: what must not straddle two splits; '' for a group of its own.
        split: where it must go; '' to have it dealt.
        file: name of the written file; '' for one that is made of `name`.
        seed: of whatever was drawn at random for it, for the manifest.
        picture: what copies have in common; '' for the written image itself.
    """

    name: str
    read: Callable[[], bytes]
    product: str
    defect: str
    group: str = ""
    split: str = ""
    mask_name: str = ""
    read_mask: Callable[[], bytes] | None = None
    file: str = ""
    seed: str = ""
    picture: str = ""


@dataclass
class Listing:
    """What a source holds: usable pictures, as far as names tell, other files, and what is odd."""

    candidates: list[Candidate] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Attributes:
        paths: its files and folders.
        digest: gives a hex sha256 that names its content and its labels.
        listing: gives its pictures; the empty folder that it takes may be filled, and stays until
            they have been read.
    """

    paths: Sequence[Path]
    digest: Callable[[], str]
    listing: Callable[[Path], Listing]


def deal_shares(cells: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Deal groups to train, val and test by `SHARES`, cell by cell."""
    return split_groups(cells, seed, SHARES)


@dataclass(frozen=True)
class Recipe:
    """What shall become of the pictures; texts are those of `DatasetInfo`.

    Attributes:
        size: side of the written images, in pixels.
        fit: "squash", "crop" or "letterbox" (see `fitted`).
        flips: flips that leave every product plausible.
        seed: of `deal`, which deals the groups to the splits.
        allow_few: go on without the defects that have too few images.
    """

    name: str
    anchor: str
    licence: str
    citation: str
    source: str
    command: str
    size: int = 128
    channels: int = 1
    fit: str = "squash"
    flips: tuple[str, ...] = ()
    seed: int = 0
    allow_few: bool = False
    deal: Deal = deal_shares


@dataclass
class Adopted:
    """A picture as it will be written, in a file until it finds its place; some have masks.

    Hex hashes are of the written PNG, of the decoded picture before it was fitted, and of the
    source file; group and split are found when all pictures are there.
    """

    candidate: Candidate
    sha256: str
    pixels: str
    content: str
    png: Path
    mask: Path | None
    group: str = ""
    split: str = ""

    @property
    def cell(self) -> tuple[str, str]:
        """Product and defect."""
        return self.candidate.product, self.candidate.defect

    @property
    def name(self) -> str:
        """Its place in the source, printable."""
        return shown(self.candidate.name)

    @property
    def same(self) -> str:
        """What copies have in common."""
        return self.candidate.picture or self.sha256

    @property
    def path(self) -> str:
        """Place in the data set: readable, ASCII, and different for different sources."""
        candidate = self.candidate
        folder = PurePosixPath(self.split, *self.cell)
        if candidate.file:
            return str(folder / candidate.file)
        stem = _SLUG.sub("-", PurePosixPath(candidate.name).stem).strip("-.")[:60] or "image"
        name = f"{candidate.product}/{candidate.defect}/{candidate.name}"
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        return str(folder / f"{stem}-{digest[:8]}.png")


def adopt(listing: Listing, recipe: Recipe, spool: Path, progress: bool = True) -> list[Adopted]:
    """Decode and fit every candidate into PNGs in the empty folder `spool`, in the order of names.

    What fails is added to `listing.left_out`, what is odd to its remarks.
    """
    ordered = sorted(listing.candidates, key=lambda candidate: candidate.name)
    adopted: list[Adopted] = []
    odd: dict[str, list[str]] = {}
    work = partial(_render, recipe=recipe, spool=spool)
    rendered = in_threads(work, ordered, range(len(ordered)), title="decoding", progress=progress)
    for candidate, (picture, left_out, oddities) in zip(ordered, rendered, strict=True):
        listing.left_out += left_out
        for oddity, more in oddities.items():
            odd.setdefault(oddity, []).append(shown(candidate.name) + more)
        adopted += [] if picture is None else [picture]
    for oddity, names in odd.items():
        examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        listing.remarks.append(f"{len(names)} pictures {oddity}: {examples}")
    return adopted


def _render(
    candidate: Candidate, number: int, recipe: Recipe, spool: Path
) -> tuple[Adopted | None, list[LeftOut], dict[str, str]]:
    """One picture; what is wrong with it or its mask; and what is odd about it, with the reason."""
    name, oddities = shown(candidate.name), dict[str, str]()
    try:
        data = candidate.read()
        with decoded(data, "L" if recipe.channels == 1 else "RGB", name) as image:
            require_sides(image, name)
            if image.info["several"]:
                oddities[_FRAMES] = ""
            if set(image.convert("L").histogram()[1:255]) == {0}:
                oddities[_BLACK_WHITE] = ""
            if image.info["said"]:
                oddities[_DAMAGED] = f" ({'; '.join(image.info['said'][:3])})"
            if (size := image.size) != (recipe.size, recipe.size):
                uneven = f"are not square: {FITS[recipe.fit]} (see --fit), they "
                become = f"{uneven if size[0] != size[1] else ''}become {recipe.size} pixels square"
                oddities[become] = f" ({size[0]} x {size[1]})"
            pixels = hashlib.sha256(f"{image.mode} {size} ".encode() + image.tobytes())
            png = to_png(np.asarray(fitted(image, recipe.size, recipe.fit)))
    except (ImageError, OSError) as error:
        return None, [failure(name, error)], {}
    mask, left_out = _mask(candidate, size, recipe)
    files = spool / f"{number}.png", spool / f"{number}.mask"
    files[0].write_bytes(png)
    if mask is not None:
        files[1].write_bytes(mask)
    adopted = Adopted(
        candidate=candidate,
        sha256=hashlib.sha256(png).hexdigest(),
        pixels=pixels.hexdigest(),
        content=hashlib.sha256(data).hexdigest(),
        png=files[0],
        mask=None if mask is None else files[1],
    )
    return adopted, left_out, oddities


def failure(name: str, error: Exception) -> LeftOut:
    """Why a picture cannot be used, as an entry of the list of those left out."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    reason = reason.removeprefix(f"{name}: ")
    kind = "unreadable" if isinstance(error, OSError) else "not usable"
    return LeftOut(name, kind, shown(" ".join(reason.split())))


def require_sides(image: Image.Image, name: str) -> None:
    """Refuse (ImageError) a picture that is too small to show a surface."""
    if min(image.size) < SMALLEST_SIDE:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels, expected at least {SMALLEST_SIDE} on "
            "each side"
        )


def _mask(
    candidate: Candidate, size: tuple[int, int], recipe: Recipe
) -> tuple[bytes | None, list[LeftOut]]:
    """The fitted mask of a defect; an unusable one is left out, its image of `size` stays."""
    if candidate.read_mask is None or candidate.defect == recipe.anchor:
        return None, []
    name = shown(candidate.mask_name)
    try:
        with decoded(candidate.read_mask(), "L", name) as mask:
            found, small = mask.size, np.asarray(fitted(mask, recipe.size, recipe.fit, True))
    except (ImageError, OSError) as error:
        return None, [failure(name, error)]
    if found != size:
        given, expected = ("x".join(map(str, sides)) for sides in (found, size))
        return None, [LeftOut(name, "mask", f"{given} pixels, expected {expected} as its image")]
    if not small.any():
        return None, [LeftOut(name, "mask", "shows no defect, expected white pixels on black")]
    return to_png(small), []


def check_labels(listing: Listing) -> None:
    """Refuse (DatasetError) products or defects that cannot be folders of their own on any disk."""
    for kind in ("product", "defect"):
        labels = sorted({getattr(candidate, kind) for candidate in listing.candidates})
        if labels and (wrong := problems(labels, Names, kind)):
            raise DatasetError(
                f"found the {kind}s {', '.join(map(repr, labels))}, expected names that can be "
                "folders on any disk; rename:",
                {"": wrong},
            )
