"""Which photographs show the same part, dealing groups to splits, and cutting windows."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dtgan_lab.data.tiles import (
    connected_groups,
    cut_window,
    similar_pairs,
    split_groups,
    texture,
    window_corner,
)


def test_shared_streaks_do_not_make_tiles_alike():
    streaks = ndimage.gaussian_filter1d(np.random.default_rng(9).standard_normal(150), 6) * 90
    images = []
    for seed in (0, 1):
        grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((240, 150)), 4)
        level = np.clip(120 + 150 * grain + streaks, 0, 255)
        images.append(Image.fromarray(level.astype(np.uint8)))
    raw = np.corrcoef([np.asarray(image, dtype=float).ravel() for image in images])[0, 1]
    assert raw > 0.5, "as pictures they are alike, otherwise this test shows nothing"
    (pair,) = similar_pairs([texture(image) for image in images], threshold=0.0, progress=False)
    assert pair[2] < 0.2


def test_union_find_joins_through_a_third():
    assert connected_groups(5, [(0, 3, 1.0), (3, 4, 1.0)]) == [0, 1, 2, 0, 0]
    assert connected_groups(4, [(2, 3, 1.0), (0, 1, 1.0), (1, 2, 1.0)]) == [0, 0, 0, 0]
    assert similar_pairs([], progress=False) == []


def test_shares_of_the_splits():
    classes = {f"a{k:03}": ["x"] for k in range(100)} | {
        f"b{k}": ["x", "y", "y"] for k in range(10)
    }
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    split = split_groups(classes, 0, shares)
    for letter, expected in (("a", (70, 10, 20)), ("b", (7, 1, 2))):
        found = [s for group, s in split.items() if group.startswith(letter)]
        assert tuple(found.count(s) for s in shares) == expected
    assert split_groups(dict(reversed(classes.items())), 0, shares) == split
    assert split_groups(classes, 1, shares) != split


@pytest.mark.parametrize(
    ("count", "expected"), [(1, ["train"]), (2, ["test", "train"]), (3, ["test", "train", "val"])]
)
def test_few_groups_go_to_training_then_test(count, expected):
    classes = {str(k): ["x"] for k in range(count)}
    split = split_groups(classes, 0, {"train": 0.7, "val": 0.1, "test": 0.2})
    assert sorted(split.values()) == expected


def test_windows_hold_the_defect_and_stay_inside():
    generator = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        height, width = (int(n) for n in generator.integers(100, 300, 2))
        defect = np.zeros((height, width), dtype=bool)
        top, left = int(generator.integers(0, height - 20)), int(generator.integers(0, width - 12))
        defect[top : top + 20, left : left + 12] = True
        y, x = window_corner(defect, 96, generator)
        assert 0 <= y <= height - 96 and 0 <= x <= width - 96
        assert cut_window(defect, y, x, 96).sum() == 240, "the defect is in it whole"
        for place, size, start, length in ((top, 20, y, height), (left, 12, x, width)):
            assert place - start >= 8 or start == 0, "a margin, but at the image's rim"
            assert start + 96 - place - size >= 8 or start + 96 == length
        corners.add((y - top, x - left))
    assert len(corners) > 100, "its place varies"
    # a defect longer than the window is shown in its middle
    defect = np.zeros((400, 120), dtype=bool)
    defect[:, 60] = True
    for seed in range(50):
        y, x = window_corner(defect, 96, np.random.default_rng(seed))
        assert cut_window(defect, y, x, 96).sum() == 96
    # small images are reflected
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    corner = window_corner(pixels > 0, 6, np.random.default_rng(0))
    assert corner == (-1, -1)
    window = cut_window(pixels, *corner, 6)
    assert window[0].tolist() == [5, 4, 5, 6, 7, 6]
    assert window[1:4, 1:5].tolist() == pixels.tolist()
