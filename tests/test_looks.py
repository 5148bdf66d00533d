from __future__ import annotations

import numpy as np
import pytest

from dtgan_lab.measure.cells import (
    compare_looks,
    looks,
    masked_change,
    overlap,
    style_share,
    verdict,
)


def strokes(width: int, level: float, count: int = 4) -> np.ndarray:
    change = np.zeros((count, 64, 64))
    change[:, 10:50, 30 : 30 + width] = level
    return change


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("level", [-40.0, 40.0])
def test_a_stroke_is_measured(width: int, level: float) -> None:
    found = looks(strokes(width, level)).mean()
    assert found["dark"] == (1.0 if level < 0 else 0.0)
    assert found["contrast"] == pytest.approx(40.0)
    assert found["width"] == pytest.approx(width, abs=0.6)
    assert found["area"] == pytest.approx(100 * 40 * width / 64**2)
    assert found["pieces"] == 1


def test_an_embossed_stamp_is_half_dark() -> None:
    change = strokes(1, 40.0) + np.roll(strokes(1, -40.0), 1, axis=2)
    assert looks(change)["dark"].mean() == pytest.approx(0.5)


def test_nothing_changed() -> None:
    found = looks(np.zeros((2, 64, 64)))
    assert (found[["dark", "contrast", "area", "pieces"]] == 0).all().all()
    assert found["width"].isna().all()


def test_crumbs_are_no_pieces() -> None:
    change = strokes(2, 30.0)
    change[:, 5, 5] = 30.0
    change[:, 60:63, 60:63] = 30.0
    assert (looks(change)["pieces"] == 2).all()


def test_polarity_is_read_off_as_large_a_share_at_every_size() -> None:
    large = np.kron(strokes(1, -40.0), np.ones((1, 2, 2)))
    assert looks(large)["contrast"].mean() == pytest.approx(40.0)
    assert looks(large)["dark"].mean() == 1.0


def test_the_change_of_a_real_defect_is_what_its_surroundings_do_not_expect() -> None:
    part = np.broadcast_to(np.linspace(80, 120, 64), (2, 64, 64))
    masks = strokes(3, 1.0, 2) > 0
    images = (part + 50 * masks).astype(np.uint8)
    change = masked_change(images, masks)
    assert change[masks].mean() == pytest.approx(50, abs=2)
    assert not change[~masks].any()


def test_overlap() -> None:
    one, two = strokes(2, 1.0, 3) > 0, strokes(4, 1.0, 3) > 0
    two[2] = False
    assert overlap(one, two) == pytest.approx([0.5, 0.5, 0.0])


def test_a_style_that_does_nothing_and_one_that_does_as_much_as_real_ones_differ() -> None:
    scale = np.random.default_rng(0).uniform(0.5, 2.0, 40)[:, None, None]
    real = strokes(2, 40.0, 40) * scale
    same = strokes(2, 40.0, 40)
    assert style_share(same, same, real) == 0.0
    assert style_share(np.roll(real, 1, axis=0), real, real) == pytest.approx(1.0)


def test_a_cell_has_a_verdict() -> None:
    real = looks(strokes(1, 40.0))
    assert verdict(compare_looks(real, real)) == "as real ones"
    found = compare_looks(real, looks(strokes(4, -15.0)))
    assert not found.loc[["dark", "contrast", "width", "area"], "right"].any()
    assert verdict(found) == "too dark, too faint, too wide, too large"
