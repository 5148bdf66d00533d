"""Square windows cut out of larger images, so that a small defect fills more of a small network."""

from __future__ import annotations

import numpy as np


def window_corner(defect: np.ndarray, side: int, generator: np.random.Generator) -> tuple[int, int]:
    """Where to cut a window so that it shows a defect.

    Along each axis: a defect that fits lies in the window whole, at a random place, with a margin
    of a twelfth of the window; of a longer one, a random pixel lies in the window's middle half.
    The window stays inside the image where the image is large enough (at the image's rim the margin
    gives way); otherwise the image lies in the middle of the window.

    Args:
        defect: bool (H, W), at least one True.
        side: side of the window in pixels.
        generator: draws the place.

    Returns:
        (top, left) of the window; negative where it must be padded.
    """
    rows, columns = np.nonzero(defect)
    chosen = int(generator.integers(len(rows)))
    corner = []
    for axis, places in enumerate((rows, columns)):
        length = defect.shape[axis]
        if length <= side:
            corner.append(-((side - length) // 2))
            continue
        low, high = int(places.min()) - side // 12, int(places.max()) + side // 12
        if high - low + 1 > side:
            place = int(places[chosen])
            low, high = place - side // 4, place + side // 4
        # Corners from which the window covers low..high, as far as the image allows.
        first, last = (min(max(c, 0), length - side) for c in (high - side + 1, low))
        corner.append(int(generator.integers(first, last + 1)))
    return corner[0], corner[1]


def cut_window(pixels: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Cut (side, side) out of (H, W) at a corner; beyond the rim the image is reflected."""
    height, width = pixels.shape
    before = (max(0, -top), max(0, -left))
    after = (max(0, top + side - height), max(0, left + side - width))
    padded = np.pad(pixels, tuple(zip(before, after, strict=True)), mode="reflect")
    top, left = top + before[0], left + before[1]
    return padded[top : top + side, left : left + side]
