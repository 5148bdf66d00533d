"""Decoding: every kind of file a user may have becomes the same kind of array."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dtgan_core.images import FORMATS
from dtgan_lab.data import ImageError, image_to_array
from dtgan_lab.data.adopt import FITS, fitted
from dtgan_lab.data.dataset import mask_to_array

RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_grey_at_its_own_size_stays_untouched_and_becomes_rgb_and_back(tmp_path):
    array = image_to_array(saved(tmp_path / "a.png", Image.fromarray(RAMP)), 1, 8)
    assert array.shape == (8, 8, 1) and array.dtype == np.uint8
    np.testing.assert_array_equal(array[:, :, 0], RAMP)
    array = image_to_array(tmp_path / "a.png", 3, 8)
    assert array.shape == (8, 8, 3)
    np.testing.assert_array_equal(array[:, :, 1], RAMP)
    colour = saved(tmp_path / "b.png", Image.new("RGB", (8, 8), (255, 0, 0)))
    assert image_to_array(colour, 1, 8).max() == 76  # 0.299 * 255


def test_sixteen_bit_keeps_its_brightness_and_values_without_a_range_are_refused(tmp_path):
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for name in ("a.png", "a.tif"):
        array = image_to_array(saved(tmp_path / name, wide), 1, 8)
        np.testing.assert_array_equal(array[:, :, 0], RAMP)
    assert image_to_array(tmp_path / "a.png", 3, 8).shape == (8, 8, 3)
    floats = saved(tmp_path / "f.tif", Image.fromarray(np.ones((8, 8), np.float32)))
    with pytest.raises(ImageError, match=r"f\.tif: floating-point"):
        image_to_array(floats, 1, 8)
    large = saved(tmp_path / "i.tif", Image.fromarray(np.full((8, 8), 70000, np.int32)))
    with pytest.raises(ImageError, match=r"i\.tif: integer values from 70000"):
        image_to_array(large, 1, 8)
    with pytest.raises(ValueError, match="expected 1 or 3"):
        image_to_array(saved(tmp_path / "a.png", Image.fromarray(RAMP)), 2, 8)


def test_palette_is_looked_up_and_transparent_pixels_lie_on_black(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    array = image_to_array(saved(tmp_path / "a.png", image), 3, 8)
    assert array[0, 0].tolist() == [10, 20, 30]
    image = Image.new("RGBA", (8, 8), (200, 200, 200, 255))
    image.putpixel((0, 0), (255, 255, 255, 0))
    array = image_to_array(saved(tmp_path / "a.png", image), 1, 8)
    assert array[0, 0, 0] == 0 and array[4, 4, 0] == 200
    grey = saved(tmp_path / "b.png", image.convert("LA"))
    assert image_to_array(grey, 1, 8)[0, 0, 0] == 0


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr"])
def test_other_modes_are_converted(tmp_path, mode):
    suffix = "jpg" if mode != "1" else "png"
    path = saved(tmp_path / f"a.{suffix}", Image.new("L", (8, 8), 255).convert(mode))
    assert image_to_array(path, 1, 8).min() >= 253


def test_resizing_is_antialiased_and_exif_rotation_applied(tmp_path):
    board = np.indices((64, 32)).sum(axis=0) % 2 * 255
    path = saved(tmp_path / "a.png", Image.fromarray(board.astype(np.uint8)))
    array = image_to_array(path, 1, (8, 16))
    assert array.shape == (8, 16, 1)
    assert abs(array.astype(int) - 127).max() < 12, "every pixel averages both colours"
    picture = np.zeros((8, 8), np.uint8)
    picture[:, :4] = 255  # bright left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter to the right
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture), exif=exif, quality=95)
    array = image_to_array(path, 1, 8)[:, :, 0]
    assert array[:3].min() > 200 and array[5:].max() < 50


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(tmp_path, kind):
    Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / "a.png", kind)
    assert abs(image_to_array(tmp_path / "a.png", 3, 8).astype(int) - 90).max() <= 2


def test_broken_files_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: not found"):
        image_to_array(tmp_path / "none.png", 1, 8)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.png: cannot be decoded"):
        image_to_array(tmp_path / "text.png", 1, 8)
    whole = saved(tmp_path / "whole.jpg", Image.fromarray(np.tile(RAMP, (8, 8)))).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"half\.jpg: cannot be decoded"):
        image_to_array(tmp_path / "half.jpg", 1, 8)


def test_a_hair_survives_in_a_small_mask(tmp_path):
    mask = np.zeros((384, 384), np.uint8)
    mask[:, 100] = 255  # one pixel wide; nearest neighbour at a third would keep or lose it whole
    mask[:12, 300:312] = 255  # a large defect beside it must not outshine it
    for column in (100, 101, 102):
        shifted = np.roll(mask, column - 100, axis=1)
        array = mask_to_array(saved(tmp_path / "m.png", Image.fromarray(shifted)), 128)
        assert array.shape == (128, 128, 1)
        assert set(np.unique(array)) == {0, 255}
        line = array[:, 20:60, 0] > 0
        assert line.any(axis=1).all(), "the line has no gaps"
        assert line.sum() <= 2 * 128, "and did not swell"


def test_a_dot_survives_nothing_stays_nothing_and_soft_edges_do_not_count(tmp_path):
    mask = np.zeros((256, 256), np.uint8)
    empty = mask_to_array(saved(tmp_path / "e.png", Image.fromarray(mask)), 16)
    assert not empty.any()
    mask[40, 40] = 255
    dot = mask_to_array(saved(tmp_path / "d.png", Image.fromarray(mask)), 16)
    assert np.argwhere(dot[:, :, 0]).tolist() == [[2, 2]]
    # soft edges do not count
    mask = np.full((8, 8), 60, np.uint8)
    mask[:4] = 200
    array = mask_to_array(saved(tmp_path / "m.png", Image.fromarray(mask)), 8)
    assert (array[:4] == 255).all() and (array[4:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_crop_and_letterbox_keep_the_aspect_ratio(mode):
    picture = np.zeros((20, 60), np.uint8)
    picture[:, 20:40] = 200  # a bright square in the middle
    image = Image.fromarray(picture).convert(mode)
    cropped = np.asarray(fitted(image, 20, "crop"))
    assert (cropped == 200).all()
    boxed = np.asarray(fitted(image, 30, "letterbox")).reshape(30, 30, -1)
    assert (boxed[0, 12:18] > 190).all() and (boxed[29, 12:18] > 190).all(), "borders go on"
    assert (boxed[:, :8] < 20).all()
    squashed = np.asarray(fitted(image, 20))
    assert squashed.shape[:2] == (20, 20) and not (squashed == 200).all()
    with Image.new(mode, (20, 20), 7) as square:
        for fit in FITS:
            assert np.asarray(fitted(square, 20, fit)).tobytes() == square.tobytes()


def test_masks_follow_their_images():
    mask = np.zeros((20, 60), np.uint8)
    mask[5:15, 25:35] = 255
    image = Image.fromarray(mask)
    assert np.asarray(fitted(image, 20, "crop", mask=True)).nonzero()[1].tolist()[:10] == [
        *range(5, 15)
    ]
    boxed = np.asarray(fitted(image, 60, "letterbox", mask=True))
    rows, columns = boxed.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 34, 25, 34)
    assert np.asarray(fitted(image, 60, mask=True)).sum() == 255 * 30 * 10
    # a letterboxed strip stays small in memory
    strip = Image.new("L", (1_000_000, 1), 9)
    assert np.asarray(fitted(strip, 32, "letterbox")).shape == (32, 32)
    assert np.asarray(fitted(strip, 8, "crop")).shape == (8, 8)
