"""The fresh reference: drawn once, the same images as the yardsticks', the floor below a model."""

import numpy as np
import pandas as pd
import pytest

from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.data import Dataset, DatasetError, load_dataset
from dtgan_lab.data.synthetic.sdi import make_synthetic_sdi
from dtgan_lab.measure import yardsticks as module
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.sets import FLOOR, NORMAL
from dtgan_lab.measure.yardsticks import FLOOR_SEED, REFERENCE_SEED, FreshReference, fresh_gallery
from tests.evaluation_fixtures import write_judged_dataset
from tools import looks

A_CELL, MADE = 12, 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("sdi")
    make_synthetic_sdi(folder, seed=5, scale=0.02, workers=1, progress=False)
    return load_dataset(folder)


@pytest.fixture(scope="module")
def fresh(dataset: Dataset) -> FreshReference:
    return FreshReference(dataset, load_extractor("domain"), 64, A_CELL, MADE)


def test_pieces_drawn_apart_are_the_images_drawn_together():
    whole = fresh_gallery([("A", "Spots")], 5, 7, 64)
    pieces = [fresh_gallery([("A", "Spots")], n, 7, 64, first) for first, n in ((0, 2), (2, 3))]
    assert np.array_equal(whole.x, np.concatenate([piece.x for piece in pieces]))


def test_points_are_drawn_once_and_read_after(dataset, tmp_path, monkeypatch):
    extract = load_extractor("domain")
    monkeypatch.setattr(module, "AT_ONCE", 5)  # several pieces a cell
    first = FreshReference(dataset, extract, 64, A_CELL, MADE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    monkeypatch.setattr(module, "fresh_gallery", None)  # a second drawing would fail
    again = FreshReference(dataset, extract, 64, A_CELL, MADE, tmp_path)
    drawn = extract(fresh_gallery([("B", "Scratches")], A_CELL, REFERENCE_SEED, 64).x)
    for reference in (first, again):
        np.testing.assert_allclose(reference.points["B", "Scratches"], drawn, atol=1e-5)


def test_other_fresh_images_come_nearer_than_an_untrained_model(dataset, fresh, tmp_path):
    config = config_for(dataset, "tiny", model={"image_size": 64}, train={"precision": "fp32"})
    trainer = Trainer(config, fresh.yardsticks.train, data={"name": "x", "licence": "CC0"})
    synth = Synthesizer.load(trainer.export(tmp_path))
    made = fresh.distances(synth, (0,))
    floor = fresh.compare(fresh.yardsticks.fresh(FLOOR_SEED), "none", 0)
    columns = ["A", "B", "C", "pooled"]
    assert [row["column"] for row in made] == 2 * columns
    assert [row["guidance"] for row in made] == 4 * ["latent"] + 4 * ["reference"]
    assert [row["column"] for row in floor] == columns
    assert floor[3]["n_real"] == 6 * A_CELL and floor[3]["n_fake"] == 6 * MADE
    assert floor[0]["n_real"] == 2 * A_CELL
    for row in (made[3], made[7]):
        assert row["KID (domain)"] > 10 * abs(floor[3]["KID (domain)"])
    few = ["--fresh", "8", "--made", "8", "--looks", "3"]
    where = ["--data", str(dataset.root), "--checkpoint", str(tmp_path)]
    looks.main([*where, *few, "--out", str(tmp_path / "made")])
    fd, seen = (pd.read_csv(tmp_path / f"made.{kind}.csv") for kind in ("fd", "looks"))
    assert len(fd) == 3 * 2 * 7 and len(seen) == len(looks.results_rows(seen)) == 12
    assert looks.summary(fd, seen).loc[["latent", "reference"]].notna().all(axis=None)


def test_the_tool_ranks_yardsticks(fresh):
    told = looks.summary(looks.distances(fresh, looks.makers_of(None), (0, 1)))
    assert told["pooled"].idxmin() == FLOOR and told["pooled"].idxmax() == NORMAL
    assert float(told["pooled ±"][FLOOR]) > 0


def test_what_has_no_fresh_images_is_refused(dataset, tmp_path):
    other = load_dataset(write_judged_dataset(tmp_path / "data"))
    with pytest.raises(DatasetError, match="fresh images can be drawn"):
        FreshReference(other, load_extractor("domain"), 64, A_CELL)
    with pytest.raises(ValueError, match="a_cell is 0"):
        FreshReference(dataset, load_extractor("domain"), 64, 0)
