"""Damaged and hostile files of many kinds, ten of each: some are taken, some have their reason."""

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dtgan_core.files import open_plain
from dtgan_lab.data import archives
from tests.data.folder_fixtures import picture, png, write_tree

PER_KIND = 10


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(number: int) -> bytes:
    """A PNG of a side of 12,000 (Pillow warns) or 50,000 pixels (it refuses) in a few bytes."""
    side = 50_000 if number % 2 else 12_000
    header = struct.pack(">IIBBBBB", side, side + number, 1, 0, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in pieces
    )


def damaged(number: int) -> bytes:
    data = bytearray(png(number))
    data[60:90] = bytes(30)
    return bytes(data)


def gif(number: int) -> bytes:
    frames = [picture(number * 10 + i) for i in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    return encoded(picture(number, (40, 24)), "JPEG", exif=exif)


def wide(number: int) -> bytes:
    values = np.random.default_rng(number).integers(0, 65536, (32, 32), dtype=np.uint16)
    return encoded(Image.fromarray(values), "PNG" if number % 2 else "TIFF")


HARMLESS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "cmyk": ("{}.jpg", lambda n: encoded(picture(n, mode="RGB").convert("CMYK"), "JPEG")),
    "alpha": ("{}.png", lambda n: encoded(picture(n, mode="RGB").convert("RGBA"), "PNG")),
    "palette": ("{}.png", lambda n: encoded(picture(n, mode="RGB").quantize(16), "PNG")),
    "animated": ("{}.gif", gif),
    "turned": ("{}.jpg", turned),
    "wide": ("{}.tif", wide),
    "other suffix": ("{}.png", lambda n: encoded(picture(n), "JPEG")),
    "names": ("a b\tc\n ü 部品 % ' \" {}.png", png),
    "undecodable name": (os.fsdecode(b"\xff\xfe") + "{}.png", png),
    "long": ("{}.png", lambda n: encoded(picture(n, (3000, 9)), "PNG")),
}
HARMFUL: dict[str, tuple[str, Callable[[int], bytes], str]] = {
    "empty": ("{}.png", lambda n: b"", "0 bytes"),
    "cut": ("{}.jpg", lambda n: encoded(picture(n, (64, 64)), "JPEG")[:900], "cannot be decoded"),
    "cut png": ("{}.png", lambda n: png(n)[: 60 + n], "cannot be decoded"),
    "damaged": ("{}.png", damaged, "cannot be decoded"),
    "cut gif": ("{}.gif", lambda n: gif(n)[:14], "cannot be decoded"),
    "psd": ("{}.png", lambda n: b"8BPS\0\1" + b"\xff" * 60, "no picture of the kinds"),
    "text": ("{}.png", lambda n: b"I am a picture " * n, "cannot be decoded"),
    "bomb": ("{}.png", bomb, "decompression bomb"),
    "dot": ("{}.png", lambda n: png(n, (1, 1)), "1 x 1 pixels"),
    "float": (
        "{}.tif",
        lambda n: encoded(Image.fromarray(np.full((9, 9), n, np.float32)), "TIFF"),
        "floating-point",
    ),
    "no image": ("{}.exe", lambda n: b"MZ", "expected a name ending in"),
    "hidden": (".{}.png", png, "starts with a dot"),
}


def hostile_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ten files of each kind below root/bad; name -> what its reason must say, if it is refused."""
    files, expected = dict[str, bytes](), dict[str, str]()
    kinds: dict[str, tuple[Any, ...]] = {**HARMLESS, **HARMFUL}
    for number, (kind, (stem, make, *reason)) in enumerate(kinds.items(), 1):
        for n in range(PER_KIND):
            name = f"bad/{'' if stem.startswith('.') else kind + ' '}{stem.format(n)}"
            files[name] = make(n + 1 if reason else 1000 * number + n)
            expected |= dict.fromkeys([name], *reason) if reason else {}
    secret = {f"bad/secret{n}.png": png(n) for n in range(PER_KIND)}
    write_tree(root, files | secret)
    for name in secret:
        (root / name).chmod(0)
    if os.geteuid() == 0:  # root reads everything
        monkeypatch.setattr("dtgan_core.files.open_plain", denied(open_plain))
    return expected | add_links(root / "bad") | dict.fromkeys(secret, "Permission denied")


def add_links(folder: Path) -> dict[str, str]:
    """Files that only a file system knows; name -> what its reason must say."""
    expected = {}
    for number in range(PER_KIND):
        (folder / f"loop{number}.png").symlink_to(f"loop{number}.png")
        (folder / f"gone{number}.png").symlink_to("nothing.png")
        os.mkfifo(folder / f"pipe{number}.png")
        (folder / f"circle{number}").symlink_to(folder, target_is_directory=True)
        with open(folder / f"huge{number}.png", "wb") as file:
            file.truncate(archives.LARGEST_FILE + 1)  # sparse: takes no room
        for stem, reason in (
            ("loop{}.png", "in a circle"),
            ("gone{}.png", "leads nowhere"),
            ("pipe{}.png", "a pipe"),
            ("circle{}", "not followed"),
            ("huge{}.png", "expected at most"),
        ):
            expected[f"bad/{stem.format(number)}"] = reason
    return expected


def denied(opened: Callable[[Path | str], Any]) -> Callable[[Path | str], Any]:
    def read(path: Path | str) -> Any:
        if Path(path).name.startswith("secret"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path)

    return read
