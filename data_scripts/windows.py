"""Windows cut out of photographs: around what is marked, anywhere on good parts.

A model sees 64 x 64 pixels, so a hole of a whole photograph is one pixel of it. Part of
prepare_folder.py, by --crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_core.images import ImageError, decoded, to_png
from dtgan_lab.data.adopt import Candidate, Listing, failure
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.preparing import Source
from dtgan_lab.data.tiles import cut_window, generator_of, window_corner

MOST = 8  # windows of a picture


@dataclass(frozen=True)
class Windows:
    """A source in square windows of its pictures; those of a picture are one group.

    Attributes:
        source: pictures and masks; a defect without a mask is left out.
        side: of a window, in pixels of the picture.
        anchor: the defect that means: nothing there.
        mode: "L" or "RGB", what the windows are kept as.
        seed: of their places.
    """

    source: Source
    side: int
    anchor: str
    mode: str
    seed: int

    @property
    def paths(self) -> list[Path]:
        """Its files and folders."""
        return list(self.source.paths)

    def digest(self) -> str:
        """Hex sha256 of what is cut; the command says how."""
        return self.source.digest()

    @contextmanager
    def opened(self, work: Path) -> Iterator[Listing]:
        """See `dtgan_lab.data.preparing.Source.opened`; DatasetError: no defect has a mask."""
        with self.source.opened(work) as whole:
            listing, small = Listing(left_out=list(whole.left_out), remarks=whole.remarks), 0
            for candidate in whole.candidates:
                try:
                    corners, size = self._corners(candidate)
                except (ImageError, OSError) as error:
                    listing.left_out.append(failure(shown(candidate.name), error))
                    continue
                small += min(size) < self.side
                listing.candidates += [self._window(candidate, corner) for corner in corners]
                if not corners:
                    reason = "nothing is marked on it, so no window can be laid; mark the defect"
                    listing.left_out.append(LeftOut(shown(candidate.name), "no mark", reason))
            if all(candidate.defect == self.anchor for candidate in listing.candidates):
                raise DatasetError(
                    "--crop found no picture with a marked defect, expected marks to lay windows "
                    "around; name them with --annotations, or in the column mask of a CSV file"
                )
            listing.remarks.append(
                f"{len(listing.candidates)} windows of {self.side} x {self.side} pixels are cut "
                f"out of {len(whole.candidates)} pictures, {MOST} of one at most"
            )
            if small:
                listing.remarks.append(
                    f"{small} pictures are smaller than a window and are reflected at their rims; "
                    "a smaller --crop leaves them as they are"
                )
            yield listing

    def _corners(self, candidate: Candidate) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """(top, left) of each window of a picture, and the picture's (width, height).

        Windows are laid around what no window shows yet; on good parts anywhere, as many as fit
        beside each other.
        """
        name = shown(candidate.name)
        with decoded(candidate.read(), self.mode, name) as image:
            size = image.size
        whole = np.ones(size[::-1], bool)
        generator = generator_of(self.seed, candidate.name)
        if candidate.defect == self.anchor:
            count = max(1, min(MOST, whole.size // self.side**2))
            found = (window_corner(whole, self.side, generator) for _ in range(count))
            return list(dict.fromkeys(found)), size
        if candidate.read_mask is None:
            return [], size
        with decoded(candidate.read_mask(), "L", shown(candidate.mask_name)) as mask:
            left = np.asarray(mask) > 127
        if left.shape != whole.shape:
            raise ImageError(f"its mask has {mask.size} pixels, expected {size} as the image")
        corners: list[tuple[int, int]] = []
        while left.any() and len(corners) < MOST:
            top, first = corner = window_corner(left, self.side, generator)
            left[max(top, 0) : top + self.side, max(first, 0) : first + self.side] = False
            corners.append(corner)
        return corners, size

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
