"""Pictures of any aspect ratio brought to one size: squashed, cropped or letterboxed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dtgan_core.images import as_height_width, resized, resized_mask

#: How a picture of another aspect ratio is brought to the wanted one (see `fitted`).
FITS: tuple[str, ...] = ("squash", "crop", "letterbox")


def fitted(image: Image.Image, size: int | tuple[int, int], fit: str = "squash") -> Image.Image:
    """Bring an 8-bit image to `size` (side, or (height, width)), antialiased.

    Args:
        image: of any size and aspect ratio.
        size: wanted size in pixels.
        fit: "squash" changes the aspect ratio; "crop" keeps it and cuts the overhang off both
            sides; "letterbox" keeps it and fills the missing sides with the outermost pixels
            (black bars would be a feature that a network learns).
    """
    height, width = as_height_width(size)
    if fit == "letterbox":
        small = resized(image, _inside(image, height, width))
        return Image.fromarray(np.pad(np.asarray(small), _margins(small, height, width), "edge"))
    return resized(_cropped(image, height, width) if fit == "crop" else image, size)


def fitted_mask(mask: Image.Image, size: int | tuple[int, int], fit: str = "squash") -> Image.Image:
    """Bring a grey mask to `size` just as `fitted` does its image; values 0 and 255.

    Thin defects survive (see `resized_mask`); the sides that letterbox adds are no defect.
    """
    height, width = as_height_width(size)
    if fit == "letterbox":
        small = resized_mask(mask, _inside(mask, height, width))
        return Image.fromarray(np.pad(np.asarray(small), _margins(small, height, width)[:2]))
    return resized_mask(_cropped(mask, height, width) if fit == "crop" else mask, size)


def _inside(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The largest (height, width) of the image's own aspect ratio inside the given one."""
    scale = min(height / image.height, width / image.width)
    return (
        min(height, max(1, round(image.height * scale))),
        min(width, max(1, round(image.width * scale))),
    )


def _margins(image: Image.Image, height: int, width: int) -> list[tuple[int, int]]:
    """What `numpy.pad` adds around (H, W) or (H, W, 3) pixels to centre them."""
    down, right = height - image.height, width - image.width
    margins = [(down // 2, down - down // 2), (right // 2, right - right // 2)]
    return margins if image.mode == "L" else [*margins, (0, 0)]


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred cut-out of the aspect ratio height to width."""
    scale = min(image.height / height, image.width / width)
    tall = min(image.height, max(1, round(height * scale)))
    wide = min(image.width, max(1, round(width * scale)))
    left, top = (image.width - wide) // 2, (image.height - tall) // 2
    return image.crop((left, top, left + wide, top + tall))
