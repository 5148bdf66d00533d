"""Damaged pictures by the thousand: each is decoded or has its reason."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from dtgan_core.images import FORMATS, IMAGE_SUFFIXES
from dtgan_lab.data import ImageError, image_to_array
from tests.data.hostile_fixtures import encoded, gif, turned, wide

CASES = 20_000
_OTHERS = ("AVIF", "DDS", "EPS", "ICNS", "ICO", "IM", "JPEG2000", "MSP", "PCX", "PPM", "SGI", "TGA")


def sound_files() -> list[bytes]:
    """Small pictures in all formats that are read, in several modes, and in some that are not."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    pictures = [rgba, *(rgba.convert(mode) for mode in ("RGB", "L", "1", "LA", "CMYK", "P", "I"))]
    files = [gif(1), turned(5), wide(0), wide(1)]
    lab = Image.frombytes("LAB", (16, 16), noise[..., :3].tobytes())
    packings = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")
    tiffs = [(picture, {"compression": how}) for picture in (*pictures, lab) for how in packings]
    for kind in (*FORMATS, *_OTHERS):
        for picture, options in [(p, {}) for p in pictures] + (tiffs if kind == "TIFF" else []):
            try:
                files.append(encoded(picture, kind, **options))
            except (OSError, KeyError, ValueError, RuntimeError):  # no such mode in this format
                continue
    return files


def damaged(files: list[bytes], chance: random.Random) -> bytes:
    """A file with some bits, a cut, a splice or a number of ones changed."""
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place, way = chance.randrange(len(data)), chance.randrange(6)
        if way == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[place] = chance.choice((0, 1, 127, 128, 254, 255))
        elif way == 2:
            del data[place + 1 :]
        elif way == 3:
            other = chance.choice(files)
            data[place:] = other[chance.randrange(len(other)) :] or b"\0"
        elif way == 4:
            size = chance.choice((2, 4, 8))
            data[place : place + size] = chance.choice((b"\xff", b"\0", b"\x7f")) * size
        else:
            data[place:place] = chance.randbytes(chance.randrange(1, 40))
    return bytes(data)


@pytest.mark.slow
def test_damaged_pictures_come_out_or_have_a_reason(tmp_path, capfd):
    files, chance = sound_files(), random.Random(0)
    assert len(files) > 80
    decoded = refused = 0
    for _ in range(CASES):
        data = damaged(files, chance)
        source = tmp_path / f"a{chance.choice(sorted(IMAGE_SUFFIXES))}"
        source.write_bytes(data)
        try:
            array = image_to_array(source, chance.choice((1, 3)), 8)
        except ImageError as error:
            refused += 1
            assert str(error).isprintable() and "expected" in str(error)
        else:
            decoded += 1
            assert array.shape[:2] == (8, 8) and array.dtype == np.uint8
    assert decoded > CASES / 20 and refused > CASES / 5
    assert capfd.readouterr().err == "", "libtiff and Pillow print nothing"
    with capfd.disabled():
        print(f"\n[fuzz] {CASES} damaged files: {decoded} decoded, {refused} refused")


def test_sound_files_of_the_formats_that_are_read_are_decoded():
    for kind in FORMATS:
        data = encoded(Image.new("RGB", (16, 16), (90, 90, 90)), kind)
        assert abs(image_to_array(io.BytesIO(data), 3, 8).astype(int) - 90).max() <= 2, kind
