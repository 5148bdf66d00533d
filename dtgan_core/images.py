"""Image files into uint8 arrays of one size, whatever a user's files look like inside."""

from __future__ import annotations

import ctypes
import io
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Condition, get_ident
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from dtgan_core.files import open_plain, shown

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
#: What a file may hold, whatever its suffix. Pillow reads forty formats more, is less careful with
#: them, and would start Ghostscript for PostScript in a .png.
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

#: Pixels of one picture, and of all that are decoded at the same time, in whatever threads.
LARGEST_PIXELS = 100_000_000

#: A picture: its bytes, an open binary file, or where it lies.
ImageSource = Path | str | bytes | BinaryIO

# Blocks that the system takes back when a picture is freed; of smaller ones, every thread's heap
# keeps what its largest picture took.
Image.core.set_block_size(64 * 2**20)


class ImageError(ValueError):
    """An image file cannot be used; one line names the file, the cause and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def image_to_array(
    source: ImageSource, channels: int, size: int | tuple[int, int], name: str = ""
) -> np.ndarray:
    """Decode one image file and bring it to a fixed size: uint8 (H, W, channels), 0 to 255.

    EXIF rotation is applied. 16-bit grey values (0 to 65535) are divided by 257, so that the
    brightness of different files stays comparable. Palettes are looked up, transparent pixels lie
    on black, RGB becomes grey by ITU-R 601 luma, grey becomes RGB by repetition. Of several frames
    the first is taken. The image is squashed to `size` (a side, or (height, width); its aspect
    ratio is not kept) by an antialiased bicubic filter; at the right size already, its pixels stay
    untouched. For `source`, `name` and errors see `decoded`.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}, expected 1 or 3")
    with decoded(source, "L" if channels == 1 else "RGB", name) as image:
        # a copy: the image's own memory is read-only
        array = np.array(resized(image, size), dtype=np.uint8)
    return array[:, :, None] if channels == 1 else array


def open_image(source: ImageSource, mode: str, name: str = "") -> Image.Image:
    """The picture of `decoded`, to be kept."""
    with decoded(source, mode, name) as image:
        return image


@contextmanager
def decoded(source: ImageSource, mode: str = "", name: str = "") -> Iterator[Image.Image]:
    """A picture of a file or its bytes, upright and in `mode`; the kit opens pictures nowhere else.

    Until the block ends, its pixels count towards `LARGEST_PIXELS`; another thread's picture waits
    when there is no room for both. So a thread must hold one at a time. Mode '' leaves pixels and
    orientation as they are stored; `name` is what messages call it, by default its path.

    Yields the picture; its `info["several"]` says whether the file holds further frames or pages,
    its `info["said"]` what Pillow and libtiff found wrong though the pixels could be read.

    ImageError: the file is missing, no plain file, none of `FORMATS`, truncated, too large, or
    cannot become 8-bit.
    """
    if not name:
        name = str(source) if isinstance(source, str | Path) else getattr(source, "name", "picture")
    with ExitStack() as stack:
        try:
            image = _decode(source, mode, name, stack)
        except FileNotFoundError:
            raise ImageError(f"{name}: not found, expected an image file; check the path") from None
        except ImageError:
            raise
        except Exception as error:  # Pillow raises what the file makes it raise
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, PIL.UnidentifiedImageError):
                told = f"no picture of the kinds {', '.join(FORMATS)}"
            told = "; ".join([" ".join(told.split()), *dict.fromkeys(_said[get_ident()])])
            raise ImageError(
                f"{name}: cannot be decoded ({told}), expected a whole image file; "
                "write or copy it again"
            ) from error
        yield image


def _decode(source: ImageSource, mode: str, name: str, stack: ExitStack) -> Image.Image:
    """What `decoded` gives; `stack` holds the room for its pixels, and the open file."""
    _said[get_ident()].clear()
    file: Any = source
    if isinstance(source, str | Path):
        file = stack.enter_context(open_plain(source))
    elif isinstance(source, bytes):
        file = io.BytesIO(source)
    image: Image.Image = stack.enter_context(Image.open(file, formats=FORMATS))
    pixels = image.width * image.height
    if pixels > LARGEST_PIXELS:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels, a decompression bomb or a scan, "
            f"expected at most {LARGEST_PIXELS:,} pixels; cut it into pieces"
        )
    stack.enter_context(_room_for(pixels))
    several = bool(getattr(image, "is_animated", False))
    image.load()
    if mode:
        image = _to_eight_bit(ImageOps.exif_transpose(image), mode, name)
    image.info["several"] = several
    image.info["said"] = [*map(shown, dict.fromkeys(_said[get_ident()]))]
    return image


_room, _under_way = Condition(), [0]


@contextmanager
def _room_for(pixels: int) -> Iterator[None]:
    """Wait until so many pixels more may be under way."""
    with _room:
        _room.wait_for(lambda: _under_way[0] + pixels <= LARGEST_PIXELS)
        _under_way[0] += pixels
    try:
        yield
    finally:
        with _room:
            _under_way[0] -= pixels
            _room.notify_all()


_said: dict[int, list[str]] = defaultdict(list)  # thread -> what it heard of its picture
# Stands for `warnings` in Pillow; Python's own filters belong to all threads together.
_warnings = SimpleNamespace(warn=lambda message, *_, **__: _said[get_ident()].append(str(message)))
for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin):
    _module.warnings = _warnings  # type: ignore[attr-defined]
_handler = logging.Handler(logging.WARNING)  # what it logs, else printed on standard error
_handler.emit = lambda log: _said[get_ident()].append(log.getMessage())  # type: ignore
logging.getLogger("PIL").addHandler(_handler)


def _hear_libtiff() -> Any:
    """Have libtiff tell `_said` what it would print on standard error; returns the handler."""
    try:
        library = ctypes.CDLL(Image.core.__file__)  # symbols of what it is linked with count
        install, write = library.TIFFSetErrorHandler, ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError):  # built without libtiff, or it is hidden inside
        return None

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    def hear(_module: bytes, form: bytes, values: int) -> None:
        text = ctypes.create_string_buffer(200)
        write(text, ctypes.c_size_t(200), form, ctypes.c_void_p(values))
        _said[get_ident()].append(text.value.decode(errors="replace"))

    install.argtypes, install.restype = [type(hear)], ctypes.c_void_p
    install(hear)
    return hear


_ear = _hear_libtiff()  # kept: libtiff calls it


def _to_eight_bit(image: Image.Image, mode: str, name: str) -> Image.Image:
    if image.mode.partition(";")[0] == "I":  # 16 or 32 bits
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"{name}: integer values from {low} to {high}, expected 0 to 65535; "
                "export it as 8-bit or 16-bit grey"
            )
        values = values.astype(np.uint32)
        values += 128
        values //= 257
        return Image.fromarray(values.astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise ImageError(
            f"{name}: floating-point pixels have no fixed range, expected integers; "
            "export it as 8-bit or 16-bit grey"
        )
    if image.mode == "LAB":  # which Pillow cannot make grey
        image = image.convert("RGB")
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
