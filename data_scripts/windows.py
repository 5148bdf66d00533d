"""Windows cut out of photographs: around what is marked, about as often there on good parts.

A model sees 64 x 64 pixels, so a hole of a whole photograph is one pixel of it. Part of
prepare_folder.py, by --crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_core.images import ImageError, decoded, to_png
from dtgan_lab.data.adopt import Candidate, Listing, Source, failure
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.tiles import cut_window, generator_of, window_corner

MOST = 8  # windows of a picture


def in_windows(source: Source, windows: Windows) -> Source:
    """A source in windows of its pictures; a defect without a mask is left out."""
    return replace(source, listing=lambda work: windows.of(source.listing(work)))


@dataclass(frozen=True)
class Windows:
    """Square windows of pictures; those of a picture are one group.

    Attributes:
        side: of a window, in pixels of the picture.
        anchor: the defect that means: nothing there.
        mode: "L" or "RGB", what the windows are kept as.
        seed: of their places.
    """

    side: int
    anchor: str
    mode: str
    seed: int

    def of(self, whole: Listing) -> Listing:
        """The windows of pictures; DatasetError: no defect has a mask."""
        listing, small = Listing(left_out=list(whole.left_out), remarks=whole.remarks), 0
        places = list[tuple[float, float]]()  # of windows with a defect, as shares of their way
        pictures = self._once(whole.candidates, listing.left_out)
        for candidate in sorted(pictures, key=lambda c: c.defect == self.anchor):
            if candidate.defect == self.anchor and not places:
                raise DatasetError(
                    "--crop found no picture with a marked defect, expected marks to lay windows "
                    "around; name them with --annotations, or in the column mask of a CSV file",
                    {"": whole.remarks} | _reasons(listing.left_out),
                )
            try:
                corners, ways = self._corners(candidate, places)
            except (ImageError, OSError) as error:
                listing.left_out.append(failure(shown(candidate.name), error))
                continue
            small += min(ways) < 0
            listing.candidates += [self._window(candidate, corner) for corner in corners]
            if candidate.defect != self.anchor:
                places += [(_share(top, ways[0]), _share(left, ways[1])) for top, left in corners]
            if not corners:
                reason = "nothing is marked on it, so no window can be laid; mark the defect"
                listing.left_out.append(LeftOut(shown(candidate.name), "no mark", reason))
        listing.remarks.append(
            f"{len(listing.candidates)} windows of {self.side} x {self.side} pixels are cut "
            f"out of {len(whole.candidates)} pictures, {MOST} of one at most"
        )
        if small:
            listing.remarks.append(
                f"{small} pictures are smaller than a window and are reflected at their rims; "
                "a smaller --crop leaves them as they are"
            )
        return listing

    def _once(self, candidates: list[Candidate], left_out: list[LeftOut]) -> list[Candidate]:
        """The pictures without copies, pixel by pixel, which windows cut by chance would hide.

        One that stands under good parts and under a defect is left out wherever it stands; under
        two defects it stays, as one group.
        """
        same: dict[str, list[Candidate]] = {}
        for candidate in sorted(candidates, key=lambda c: (c.read_mask is None, c.name)):
            try:
                with decoded(candidate.read(), self.mode, shown(candidate.name)) as image:
                    pixels = f"{image.size}".encode() + image.tobytes()
                key = hashlib.sha256(pixels).hexdigest()
            except (ImageError, OSError):
                key = candidate.name  # told when its windows are laid
            same.setdefault(key, []).append(candidate)
        kept: list[Candidate] = []
        for copies in same.values():
            cells = sorted({f"{c.product}/{c.defect}" for c in copies})
            if len(cells) > 1 and any(c.defect == self.anchor for c in copies):
                reason = f"the same picture stands under {', '.join(cells)}; delete the wrong ones"
                left_out += [LeftOut(shown(c.name), "contradiction", reason) for c in copies]
                continue
            first: dict[tuple[str, str], Candidate] = {}
            for c in copies:
                there = first.setdefault((c.product, c.defect), c)
                if there is c:
                    kept.append(replace(c, group=c.group or copies[0].group or copies[0].name))
                else:
                    reason = f"the same pixels as {shown(there.name)}"
                    left_out.append(LeftOut(shown(c.name), "copy", reason))
        return kept

    def _corners(
        self, candidate: Candidate, places: list[tuple[float, float]]
    ) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """(top, left) of each window of a picture, and how far windows can move down and right.

        Windows are laid around what no window shows yet; on good parts about where those of defects
        lie (a window's side to and fro), as many as fit beside each other.
        """
        with decoded(candidate.read(), self.mode, shown(candidate.name)) as image:
            size = image.size
        ways = size[1] - self.side, size[0] - self.side
        generator = generator_of(self.seed, candidate.name)
        if candidate.defect == self.anchor:
            count = max(1, min(MOST, size[0] * size[1] // self.side**2))
            chosen = generator.choice(np.array(places), count) * ways
            moved = chosen + generator.uniform(-self.side, self.side, (count, 2))
            middle = np.minimum(ways, 0) // 2  # of a picture that is smaller than a window
            corners = np.clip(moved.round().astype(int), middle, np.maximum(ways, middle))
            return list(dict.fromkeys(map(tuple, corners.tolist()))), ways
        if candidate.read_mask is None:
            return [], ways
        with decoded(candidate.read_mask(), "L", shown(candidate.mask_name)) as mask:
            left = np.asarray(mask) > 127
        if left.shape != size[::-1]:
            raise ImageError(f"its mask has {mask.size} pixels, expected {size} as the image")
        found: list[tuple[int, int]] = []
        while left.any() and len(found) < MOST:
            top, first = corner = window_corner(left, self.side, generator)
            left[max(top, 0) : top + self.side, max(first, 0) : first + self.side] = False
            found.append(corner)
        return found, ways

    def _window(self, candidate: Candidate, corner: tuple[int, int]) -> Candidate:
        """The candidate of one window; its name tells column and row in the picture."""
        top, left = corner
        cut = partial(_cut, top=top, left=left, side=self.side)
        mask = candidate.read_mask
        return replace(
            candidate,
            name=f"{candidate.name}@{left},{top}",
            read=partial(cut, candidate.read, mode=self.mode, name=candidate.name),
            group=candidate.group or candidate.name,
            read_mask=mask and partial(cut, mask, mode="L", name=candidate.mask_name),
            seed=str(self.seed),
        )


def _cut(
    read: Callable[[], bytes], *, top: int, left: int, side: int, mode: str, name: str
) -> bytes:
    """A window of a picture as PNG."""
    with decoded(read(), mode, shown(name)) as image:
        return to_png(cut_window(np.asarray(image), top, left, side))


def _share(corner: int, way: int) -> float:
    """How far along its way a window lies; the middle of one that is wider than the picture."""
    return corner / way if way > 0 else 0.5


def _reasons(left_out: list[LeftOut]) -> dict[str, list[str]]:
    """What was left out, by its kind."""
    kinds: dict[str, list[str]] = {}
    for item in left_out:
        kinds.setdefault(item.kind, []).append(f"{item.name}: {item.reason}")
    return kinds
