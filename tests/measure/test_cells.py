import numpy as np
import pytest

from dtgan_lab.data import load_dataset
from dtgan_lab.measure.cells import (
    Cell,
    compare_looks,
    fresh_cells,
    held_out_cells,
    looks,
    masked_change,
    model_looks,
    overlap,
    polarity_error,
    style_share,
    verdict,
)
from dtgan_lab.measure.real import RealSide
from tests.core_fixtures import SIZE
from tests.evaluation_fixtures import write_judged_dataset

PRODUCTS, DEFECTS = ("A", "B", "C"), ("Scratches", "Spots")


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str], Cell]:
    return fresh_cells(PRODUCTS, DEFECTS, count=6, image_size=32)


def test_fresh_cells_know_what_their_defects_changed(cells):
    assert list(cells) == [(product, defect) for product in PRODUCTS for defect in DEFECTS]
    for cell in cells.values():
        assert cell.parts.shape == cell.images.shape == (6, 1, 32, 32)
        assert abs(cell.change[cell.masks]).mean() > 5 * abs(cell.change[~cell.masks]).mean()


def test_a_model_is_measured_beside_real_defects(synth, cells):
    table = model_looks(synth, cells)
    assert len(table) == 2 * len(cells)
    drawn = table["guidance"] == "latent"
    assert table["overlap"].isna().equals(drawn) and table["style"].isna().equals(~drawn)
    assert table["overlap"].dropna().between(0, 1).all()
    assert (table["n"] == 6).all() and table["verdict"].str.len().gt(0).all()
    assert polarity_error(table).between(0, 1).all()
    again = model_looks(synth, cells)
    assert table.equals(again)


@pytest.mark.parametrize("twins", [True, False])
def test_cells_of_a_data_set_know_what_its_defects_changed(twins, tmp_path):
    """Bright bars by 50 to 70 levels, dark squares likewise; by twins and by masks alike."""
    dataset = load_dataset(write_judged_dataset(tmp_path, twins=twins))
    cells = held_out_cells(RealSide(dataset, SIZE, 1))
    assert list(cells) == [(product, defect) for product in PRODUCTS for defect in DEFECTS]
    for (_, defect), cell in cells.items():
        assert len(cell.parts) == len(cell.images) == 5  # of val and test
        inside = cell.change[cell.masks]
        assert 40 < (inside if defect == "Scratches" else -inside).mean() < 80
        assert abs(cell.change[~cell.masks]).max() == 0


def test_a_data_set_without_masks_has_no_cells(tmp_path):
    dataset = load_dataset(write_judged_dataset(tmp_path, masks=False))
    assert held_out_cells(RealSide(dataset, SIZE, 1)) == {}


# --- what a person sees of a defect ---------------------------------------------------------------
def strokes(width: int, level: float, count: int = 4) -> np.ndarray:
    change = np.zeros((count, 64, 64))
    change[:, 10:50, 30 : 30 + width] = level
    return change


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("level", [-40.0, 40.0])
def test_a_stroke_is_measured(width, level):
    found = looks(strokes(width, level)).mean()
    assert found["dark"] == (1.0 if level < 0 else 0.0)
    assert found["contrast"] == pytest.approx(40.0)
    assert found["width"] == pytest.approx(width, abs=0.6)
    assert found["area"] == pytest.approx(100 * 40 * width / 64**2)
    assert found["pieces"] == 1


def test_looks_of_nothing_of_an_embossed_stamp_of_crumbs_and_of_a_large_picture():
    found = looks(np.zeros((2, 64, 64)))
    assert (found[["dark", "contrast", "area", "pieces"]] == 0).all().all()
    assert found["width"].isna().all()
    change = strokes(1, 40.0) + np.roll(strokes(1, -40.0), 1, axis=2)
    assert looks(change)["dark"].mean() == pytest.approx(0.5)
    # crumbs are no pieces
    change = strokes(2, 30.0)
    change[:, 5, 5] = 30.0
    change[:, 60:63, 60:63] = 30.0
    assert (looks(change)["pieces"] == 2).all()
    # polarity is read off as large a share at every size
    large = np.kron(strokes(1, -40.0), np.ones((1, 2, 2)))
    assert looks(large)["contrast"].mean() == pytest.approx(40.0)
    assert looks(large)["dark"].mean() == 1.0


def test_the_change_of_a_real_defect_is_what_its_surroundings_do_not_expect():
    part = np.broadcast_to(np.linspace(80, 120, 64), (2, 64, 64))
    masks = strokes(3, 1.0, 2) > 0
    images = (part + 50 * masks).astype(np.uint8)
    change = masked_change(images, masks)
    assert change[masks].mean() == pytest.approx(50, abs=2)
    assert not change[~masks].any()


def test_overlap_and_the_share_of_a_style():
    one, two = strokes(2, 1.0, 3) > 0, strokes(4, 1.0, 3) > 0
    two[2] = False
    assert overlap(one, two) == pytest.approx([0.5, 0.5, 0.0])
    scale = np.random.default_rng(0).uniform(0.5, 2.0, 40)[:, None, None]
    real = strokes(2, 40.0, 40) * scale
    same = strokes(2, 40.0, 40)
    assert style_share(same, same, real) == 0.0
    assert style_share(np.roll(real, 1, axis=0), real, real) == pytest.approx(1.0)


def test_a_cell_has_a_verdict():
    real = looks(strokes(1, 40.0))
    assert verdict(compare_looks(real, real)) == "as real ones"
    found = compare_looks(real, looks(strokes(4, -15.0)))
    assert not found.loc[["dark", "contrast", "width", "area"], "right"].any()
    assert verdict(found) == "too dark, too faint, too wide, too large"
