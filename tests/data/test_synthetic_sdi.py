"""The synthetic SDI: counts, seeds, bytes, ground truth, and what the command refuses."""

import subprocess
import sys
from itertools import product as pairs
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import make_synthetic_sdi
from dtgan_lab.data import DatasetError, load_dataset
from dtgan_lab.data.synthetic import sdi
from tests.data.folder_fixtures import tree_bytes

CLASSES = list(pairs(sdi.PRODUCTS, sdi.DEFECTS))
DEFECTIVE = [(product, defect) for product, defect in CLASSES if defect != "Normal"]
SCRIPT = Path(__file__).parents[2] / "data_scripts" / "make_synthetic_sdi.py"
SCALE = 0.01


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set with a pool and fresh images."""
    out = tmp_path_factory.mktemp("synthetic") / "set"
    sdi.make_synthetic_sdi(out, 3, SCALE, pool=3, fresh=2, workers=1, progress=False)
    return out


# ---------------------------------------------------------------------------- single drawings
@pytest.mark.parametrize(("product", "defect"), CLASSES)
def test_drawing_has_the_promised_form_and_comes_from_its_seed(product, defect):
    drawing, again = sdi.draw(product, defect, 11), sdi.draw(product, defect, 11)
    for part, same in zip(drawing, again, strict=True):
        assert part.shape == (128, 128)
        assert part.dtype == np.uint8
        assert np.array_equal(part, same)
    assert set(np.unique(drawing.mask)) <= {0, 255}
    assert drawing.twin.std() > 3, "a surface has structure"
    assert not np.array_equal(drawing.image, sdi.draw(product, defect, 6).image)
    if defect == "Normal":
        assert np.array_equal(drawing.image, drawing.twin)
        assert not drawing.mask.any()


@pytest.mark.parametrize(("product", "defect"), DEFECTIVE)
def test_image_and_twin_differ_only_at_the_mask(product, defect):
    for seed in range(15):
        image, twin, mask = sdi.draw(product, defect, seed)
        change = np.abs(image.astype(int) - twin.astype(int))
        near = ndimage.binary_dilation(mask > 0, iterations=2)
        assert change[~near].max() == 0, f"seed {seed}: changed beyond the mask"
        assert (mask > 0).sum() >= 10, f"seed {seed}: next to nothing is masked"
        # whatever changed visibly is masked: 9 grey levels on A and C, 8 on B; one for rounding
        assert (mask[change > 10] == 255).all(), f"seed {seed}: a visible change is not masked"
        # a person sees the defect: somewhere a 3 x 3 patch stands well off the surface
        patch = np.abs(ndimage.uniform_filter(image.astype(float) - twin, 3)).max()
        assert patch >= (40 if product == "A" else 25), f"seed {seed}: hardly visible"


def test_defects_have_the_right_sign_and_products_lie_where_the_figure_has_them():
    """Scratches are bright on A and B and dark on C."""
    for product, sign in (("A", 1), ("B", 1), ("C", -1)):
        for seed in range(10):
            image, twin, mask = sdi.draw(product, "Scratches", seed)
            change = (image.astype(float) - twin)[mask > 0].mean()
            assert sign * change > 0, f"product {product}, seed {seed}: mean change {change:.1f}"
    # C's groove is its darkest band near 63 % of the height; A's lower ledge is darker.
    for seed in range(10):
        rows = sdi.draw("C", "Normal", seed).image[16:].mean(axis=1)
        assert 0.60 < (16 + rows.argmin()) / 128 < 0.67
        plate = sdi.draw("A", "Normal", seed).image
        assert plate[:100].mean() > plate[112:].mean()


def test_the_surface_does_not_tell_the_class():
    """Twins and normal images of B have streaks equally often, so vertical contrast is alike."""

    def columns(defect: str) -> float:
        twins = [sdi.draw("B", defect, seed).twin.astype(float) for seed in range(30)]
        return float(np.median([np.diff(twin, axis=1).std() for twin in twins]))

    levels = [columns(defect) for defect in sdi.DEFECTS]
    assert max(levels) < 1.25 * min(levels), levels


@pytest.mark.parametrize(
    ("product", "defect", "seed", "named"),
    [("D", "Normal", 0, "'D'"), ("A", "Dents", 0, "'Dents'"), ("A", "Normal", -1, "-1")],
)
def test_draw_refuses(product, defect, seed, named):
    with pytest.raises(ValueError, match=named):
        sdi.draw(product, defect, seed)


# ---------------------------------------------------------------------------------- seeds
def test_seeds_are_disjoint_over_splits_indices_and_data_sets():
    splits, indices = ("train", "val", "test", "pool", "fresh"), (0, 1, 6199, 2**32 - 1)
    sets = (0, 1, 2, sdi.MAX_SEED - 1)
    seeds = [sdi.image_seed(*which) for which in pairs(sets, splits, indices)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 2**32, "seeds that users make up stay apart"
    assert max(seeds) < 2**63, "fits the integers of every table"
    wrong = ((-1, "train", 0), (sdi.MAX_SEED, "train", 0), (0, "all", 0), (0, "train", 2**32))
    for seed, split, index in wrong:
        with pytest.raises(ValueError, match="expected"):
            sdi.image_seed(seed, split, index)


def test_fresh_images_are_new_and_the_same_as_the_fresh_split(made):
    fresh = sdi.fresh_images("A", "Spots", 2, seed=3)
    assert fresh.shape == (2, 128, 128)
    assert fresh.dtype == np.uint8
    written = sorted((made / "fresh" / "A" / "Spots").glob("*.png"))
    for image, path in zip(fresh, written, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(path)))
    hashes = load_dataset(made).manifest["sha256"]
    assert hashes.is_unique, "no image stands in two splits"


# ------------------------------------------------------------------------------- whole sets
def test_full_counts_are_those_of_the_data_sheet():
    total = {split: sum(map(sum, cells.values())) for split, cells in sdi.COUNTS.items()}
    assert total == {"train": 3464, "val": 135, "test": 315}
    for number in range(3):  # the held-out images, 50 per product and class
        for defect in sdi.DEFECTS:
            assert sdi.COUNTS["val"][defect][number] + sdi.COUNTS["test"][defect][number] == 50


def test_small_set_passes_the_full_check_and_has_the_scaled_counts(made):
    dataset = load_dataset(made, check="full")
    counts = dataset.counts()
    assert counts.loc["train"].to_numpy().tolist() == [[7, 4, 4], [7, 4, 6], [7, 4, 4]]
    assert (counts.loc[["val", "test"]] == 2).all(axis=None)
    assert counts.loc["pool"].to_numpy().tolist() == [[3, 0, 0]] * 3
    assert counts.loc["fresh"].to_numpy().tolist() == [[2, 2, 2]] * 3
    assert dataset.info.flips == {product: ("horizontal",) for product in sdi.PRODUCTS}
    assert "--scale 0.01" in dataset.info.command
    assert dataset.info.licence == "CC0-1.0"


def test_every_row_can_be_drawn_again_from_its_seed(made):
    rows = load_dataset(made).manifest
    assert rows["group"].is_unique
    for row in rows[::5].itertuples():
        again = sdi.draw(str(row.product), str(row.defect), int(str(row.seed)))
        assert np.array_equal(again.image, np.asarray(Image.open(made / str(row.path))))
        if row.defect == "Normal":
            assert (row.mask, row.twin) == ("", "")
        else:
            assert np.array_equal(again.mask, np.asarray(Image.open(made / str(row.mask))))
            assert np.array_equal(again.twin, np.asarray(Image.open(made / str(row.twin))))


def test_bytes_do_not_depend_on_run_or_workers(tmp_path):
    for workers in (1, 2):
        out = tmp_path / f"{workers}"
        sdi.make_synthetic_sdi(out, 1, SCALE, workers=workers, progress=False)
    assert tree_bytes(tmp_path / "1") == tree_bytes(tmp_path / "2")


def test_second_run_keeps_what_is_there(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    sdi.make_synthetic_sdi(made, 3, SCALE, pool=3, fresh=2, workers=1, progress=False)
    sdi.make_synthetic_sdi(made, 3, SCALE, workers=1, progress=False)  # asks for a part of it
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.png")} == before


def test_a_damaged_image_is_drawn_again_and_a_pool_added_later_touches_no_split(tmp_path):
    out = tmp_path / "set"
    sdi.make_synthetic_sdi(out, 0, SCALE, workers=1, progress=False)
    whole = tree_bytes(out)
    victim = next((out / "train").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:100])
    sdi.make_synthetic_sdi(out, 0, SCALE, workers=1, progress=False)
    assert tree_bytes(out) == whole
    sdi.make_synthetic_sdi(out, 0, SCALE, pool=1, workers=1, progress=False)
    after = tree_bytes(out)
    assert all(after[name] == data for name, data in whole.items() if name.endswith(".png"))
    assert len(list((out / "pool").rglob("*.png"))) == 3


# -------------------------------------------------------------------------------- refusals
def test_folder_with_something_else_or_a_set_of_another_seed_is_refused_and_kept(tmp_path, made):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="not empty"):
        sdi.make_synthetic_sdi(tmp_path, scale=SCALE, workers=1, progress=False)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"
    with pytest.raises(DatasetError, match="is a file"):
        sdi.make_synthetic_sdi(tmp_path / "holiday.jpg", scale=SCALE, progress=False)
    before = tree_bytes(made)
    with pytest.raises(DatasetError, match="--seed 3.*would remove"):
        sdi.make_synthetic_sdi(made, 4, SCALE, workers=1, progress=False)
    assert tree_bytes(made) == before


OUT_OF_RANGE = [
    *({"scale": 0.0}, {"scale": 1.5}, {"pool": 6201}, {"fresh": -1}, {"seed": -1}, {"workers": 0}),
    {"fresh": 1, "products": ("Z",)},
]


@pytest.mark.parametrize("arguments", OUT_OF_RANGE)
def test_argument_out_of_range_is_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="expected"):
        sdi.make_synthetic_sdi(tmp_path / "set", progress=False, **arguments)
    assert not (tmp_path / "set").exists()


def test_command_line_prints_the_counts_and_its_own_command_and_refuses(tmp_path, capsys):
    out = tmp_path / "set"
    options = ["--scale", "0.01", "--fresh", "3", "--product", "C", "--defect", "Spots"]
    assert make_synthetic_sdi.main(["--out", str(out), "--workers", "1", *options]) == 0
    assert "Scratches" in capsys.readouterr().out
    dataset = load_dataset(out)
    assert dataset.counts().loc["fresh"].to_numpy().sum() == 3
    assert dataset.info.command.endswith("--scale 0.01 --fresh 3 --product C --defect Spots")
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--scale", "0.01"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert str(tmp_path) in refused.stderr and "Traceback" not in refused.stderr
    with pytest.raises(SystemExit, match="2"):
        make_synthetic_sdi.main(["--out", str(tmp_path / "new"), "--product", "A"])
    assert "--fresh" in capsys.readouterr().err
