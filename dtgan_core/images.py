"""Image files into uint8 arrays of one size, whatever a user's files look like inside."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})

#: A resized mask pixel counts as defect from this covered share on. Nearest-neighbour sampling
#: cuts a crack narrower than the step into dots; "any coverage" would thicken every defect.
MASK_COVERAGE = 0.25

#: How a picture of another aspect ratio is brought to the wanted one (see `fitted`).
FITS: tuple[str, ...] = ("squash", "crop", "letterbox")

_WIDE_INTEGER_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class ImageError(ValueError):
    """An image file cannot be used; the message names the file, the cause and the remedy."""


def image_to_array(
    path: Path | str | BinaryIO, channels: int, size: int | tuple[int, int]
) -> np.ndarray:
    """Decode one image file and bring it to a fixed size.

    EXIF rotation is applied. 16-bit grey values (0 to 65535) are divided by 257, so that the
    brightness of different files stays comparable. Palettes are looked up, transparent pixels lie
    on black, RGB becomes grey by ITU-R 601 luma, grey becomes RGB by repetition. Of several frames
    the first is taken. The image is squashed to `size` (its aspect ratio is not kept) by an
    antialiased bicubic filter; at the right size already, its pixels stay untouched.

    Args:
        path: image file, or an open binary file.
        channels: 1 (grey) or 3 (RGB).
        size: side of the square in pixels, or (height, width).

    Returns:
        uint8 array (H, W, channels), values 0 to 255.

    Raises:
        ImageError: the file is missing, no image, truncated, or holds values that no 8-bit
            picture can show.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}, expected 1 or 3")
    image = resized(open_image(path, "L" if channels == 1 else "RGB"), size)
    array = np.array(image, dtype=np.uint8)  # a copy: the image's own memory is read-only
    return array[:, :, None] if channels == 1 else array


def mask_to_array(path: Path | str | BinaryIO, size: int | tuple[int, int]) -> np.ndarray:
    """Decode one mask file: uint8 (H, W, 1), 0 or 255 (see `resized_mask`).

    Raises:
        ImageError: as `image_to_array`.
    """
    return np.array(resized_mask(open_image(path, "L"), size), dtype=np.uint8)[:, :, None]


def open_image(path: Path | str | BinaryIO, mode: str) -> Image.Image:
    """Decode a file completely and convert it to `mode` ("L" or "RGB"), at its own size.

    Raises:
        ImageError: the file is missing, no image, truncated, or cannot become 8-bit.
    """
    name = str(path) if isinstance(path, str | Path) else str(getattr(path, "name", path))
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise ImageError(f"{name}: not found, expected an image file; check the path") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name}: cannot be decoded ({error}), expected a whole image file; "
            "write or copy it again"
        ) from error
    return _to_eight_bit(upright, mode, name)


def _to_eight_bit(image: Image.Image, mode: str, name: str) -> Image.Image:
    if image.mode in _WIDE_INTEGER_MODES:
        values = np.asarray(image).astype(np.int64)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"{name}: integer values from {low} to {high}, expected 0 to 65535; "
                "export it as 8-bit or 16-bit grey"
            )
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise ImageError(
            f"{name}: floating-point pixels have no fixed range, expected integers; "
            "export it as 8-bit or 16-bit grey"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return image if image.mode == mode else image.convert(mode)


def resized(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Squash an 8-bit image to `size` (side, or (height, width)) with antialiasing."""
    height, width = as_height_width(size)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resized_mask(mask: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Squash a grey mask to `size` so that thin cracks survive; values 0 and 255.

    Pixels of 128 and more count as defect (JPEG-like grey rims do not). The result is defect where
    at least `MASK_COVERAGE` of the covered area is; a mask that would vanish altogether keeps its
    most covered pixels.
    """
    height, width = as_height_width(size)
    hard = mask.point([0] * 128 + [255] * 128)
    if mask.size == (width, height):
        return hard
    covered = np.asarray(hard.resize((width, height), Image.Resampling.BOX))
    highest = int(covered.max())
    threshold = min(round(255 * MASK_COVERAGE), highest) if highest else 256
    return Image.fromarray(np.where(covered >= threshold, 255, 0).astype(np.uint8))


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


def as_height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A side of a square, or (height, width), as (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size is {size!r}, expected at least one pixel")
    return int(height), int(width)


def to_png(image: np.ndarray) -> bytes:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) -> the bytes of a grey or RGB PNG."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
