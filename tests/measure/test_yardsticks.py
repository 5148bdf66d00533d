"""Sets of known worth, systems beside them, and that the numbers put all into the right order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_core.training import Trainer
from dtgan_lab.baselines.config import only
from dtgan_lab.baselines.zoo import DTGAN, ZOO, System, baseline, load_systems
from dtgan_lab.data import Dataset, DatasetError, load_dataset
from dtgan_lab.data.synthetic.sdi import fresh_images
from dtgan_lab.measure import yardsticks as module
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.neighbours import Gallery, Search
from dtgan_lab.measure.sets import FLOOR, NORMAL
from dtgan_lab.measure.yardsticks import (
    FLOOR_SEED,
    GUIDE_SEED,
    HELD_OUT_SEED,
    REFERENCE_SEED,
    FreshReference,
    Yardsticks,
    cells_of,
    fresh_gallery,
    made_by,
)
from tests.baselines.baseline_fixtures import write_images
from tests.core_fixtures import jumbled
from tools import looks

COUNT = 6  # images a product and defect


@pytest.fixture(scope="module")
def dataset(small_sdi: Path) -> Dataset:
    return load_dataset(small_sdi)


@pytest.fixture(scope="module")
def yardsticks(dataset: Dataset) -> Yardsticks:
    return Yardsticks(dataset, 64, COUNT)


@pytest.fixture(scope="module")
def systems(
    dataset: Dataset, yardsticks: Yardsticks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, System]:
    """A DT-GAN and two baselines with jumbled weights, and a stranger's images, from disk."""
    folder, data = tmp_path_factory.mktemp("systems"), {"name": "synthetic-sdi"}
    sizes: dict[str, Any] = {"model": {"image_size": 64}, "train": {"precision": "fp32"}}
    config = config_for(dataset, "tiny", **sizes)
    trainer = Trainer(config, yardsticks.train, data=data)
    jumbled(trainer.ema, scale=0.15)
    trainer.export(folder / DTGAN)
    for method in ("stylegan2", "mokady"):
        tiny = baseline(method).presets["tiny"]
        tiny = replace(tiny, model=replace(tiny.model, image_size=64))
        for product, defect in yardsticks.cells:
            pair = ("Normal", defect) if ZOO[method].pairs else None
            if pair or defect == "Spots":  # else one model makes all defects of a product
                loop = baseline(method)(tiny, only(yardsticks.train, product, pair), data=data)
                jumbled(loop.ema, seed=ord(product), scale=0.1)
                loop.export(folder / method / f"{product}-{defect}")
    strange = yardsticks.fresh(FLOOR_SEED)
    write_images(folder / "images", strange.x, cells_of(strange).to_numpy().tolist())
    kinds = {"DT-GAN": DTGAN, "G": "stylegan2", "M": "mokady", "stranger": "images"}
    return load_systems({name: folder / kind for name, kind in kinds.items()})


@pytest.fixture(scope="module")
def sets(yardsticks: Yardsticks, systems: dict[str, System]) -> dict[str, Gallery]:
    return {
        "fresh real": yardsticks.floor(),
        "training set": yardsticks.copies(),
        "copy-paste": yardsticks.pasted(),
        "untouched Normal": yardsticks.normals(),
        **made_by(yardsticks, systems),
    }


def in_bank(gallery: Gallery, bank: torch.Tensor) -> float:
    """Share of images that are training images to the bit."""
    known = {image.tobytes() for image in to_uint8(bank)}
    return float(np.mean([image.tobytes() in known for image in to_uint8(gallery.x)]))


def test_fresh_images_are_those_of_the_data_set_command_drawn_apart_or_together():
    gallery = fresh_gallery([("A", "Spots"), ("C", "Normal")], 2, 9, 128)
    for number, (product, defect) in enumerate((("A", "Spots"), ("C", "Normal"))):
        drawn = fresh_images(product, defect, 2, seed=9)
        assert np.array_equal(to_uint8(gallery.x[2 * number : 2 * number + 2])[..., 0], drawn)
    assert gallery.masks is not None
    assert gallery.masks.flatten(1).any(dim=1).tolist() == [True, True, False, False]
    assert gallery.cells == [("A", "Spots")] * 2 + [("C", "Normal")] * 2
    whole = fresh_gallery([("A", "Spots")], 5, 7, 64)
    pieces = [fresh_gallery([("A", "Spots")], n, 7, 64, first) for first, n in ((0, 2), (2, 3))]
    assert np.array_equal(whole.x, np.concatenate([piece.x for piece in pieces]))


def test_sets_have_the_same_cells_and_are_what_they_are_called(yardsticks, sets):
    cells = [cell for cell in yardsticks.cells for _ in range(COUNT)]
    assert list(sets)[4:] == ["DT-GAN, latent", "DT-GAN, reference", "G", "M", "stranger"]
    for gallery in sets.values():
        assert list(gallery.cells or []) == cells
        assert gallery.x.shape == (6 * COUNT, 1, 64, 64) and gallery.x.abs().max() <= 1
    train = yardsticks.train.to_float(torch.arange(len(yardsticks.train)))
    copies, pasted, normals = (sets[n] for n in ("training set", "copy-paste", "untouched Normal"))
    assert in_bank(copies, yardsticks.taught.x) == 1
    assert in_bank(normals, yardsticks.taught.x) == 0
    assert in_bank(normals, train) == 1
    assert in_bank(sets["fresh real"], train) == 0
    assert pasted.masks is not None and pasted.masks.flatten(1).any(dim=1).all()
    outside = ~pasted.masks.expand_as(pasted.x)
    assert torch.equal(pasted.x[outside], normals.x[outside])
    assert not torch.equal(pasted.x, normals.x)
    assert in_bank(sets["stranger"], sets["fresh real"].x) == 1


def test_copies_repeat_only_when_a_class_is_used_up(yardsticks):
    spots_of_a = (yardsticks.train.products == 0) & (yardsticks.train.defects == 2)
    have = int(spots_of_a.sum())
    assert have < COUNT  # so few that copies must repeat
    copies = to_uint8(yardsticks.copies().x[COUNT : 2 * COUNT])
    counts = pd.Series([image.tobytes() for image in copies]).value_counts()
    assert len(counts) == have and counts.max() == -(-COUNT // have)


def test_another_seed_chooses_anew_from_the_same_images(yardsticks, sets):
    other = yardsticks.seeded(1)
    assert other.train is yardsticks.train and (yardsticks.seed, other.seed) == (0, 1)
    assert not torch.equal(other.normals().x, sets["untouched Normal"].x)
    assert torch.equal(yardsticks.seeded(0).pasted().x, sets["copy-paste"].x)
    assert not torch.equal(other.floor().x, sets["fresh real"].x)
    assert other.fresh(1) is yardsticks.fresh(1)  # drawn once


def test_masks_are_told_where_a_part_was_painted(yardsticks, systems, sets):
    for name in ("DT-GAN, latent", "DT-GAN, reference", "M"):
        masks = sets[name].masks
        assert masks is not None
        areas = masks.flatten(1).sum(dim=1).view(6, COUNT)
        assert (areas == areas[:, :1]).all() and (areas > 0).all()
    assert sets["G"].masks is None and sets["stranger"].masks is None
    again = yardsticks.made(systems["DT-GAN"], "reference")
    assert torch.equal(again.x, sets["DT-GAN, reference"].x)
    for name in ("M", "G"):
        with pytest.raises(ValueError, match="guidance 'both': expected"):
            yardsticks.made(systems[name], "both")


def test_references_are_fresh_images_of_the_parts_own_product_or_of_any(yardsticks, systems, sets):
    x, fresh = yardsticks.normals().x[COUNT : 2 * COUNT], yardsticks.fresh(GUIDE_SEED).x
    own = fresh[COUNT : 2 * COUNT]  # A Spots
    of_any = torch.stack([fresh[(2 * (n % 3) + 1) * COUNT + n] for n in range(COUNT)])
    laid = systems["M"].transfer("A", "Spots", x, own)
    painted = systems["DT-GAN"].synth.reference_guided(x, of_any, "Spots")
    assert torch.allclose(sets["M"].x[COUNT : 2 * COUNT], laid, atol=1e-5)
    assert torch.allclose(sets["DT-GAN, reference"].x[COUNT : 2 * COUNT], painted, atol=1e-5)


def test_numbers_put_the_sets_into_order(yardsticks, sets):
    extract = load_extractor("domain")
    real = extract(yardsticks.fresh(REFERENCE_SEED).x)
    found = {name: compare(real, extract(gallery.x), extract) for name, gallery in sets.items()}
    assert {distances.first for distances in found.values()} == {"KID"}  # 36 images, 64 dimensions
    kid = {name: distances.kid["value"] for name, distances in found.items()}
    assert kid["stranger"] == pytest.approx(kid["fresh real"], abs=0.06)  # 36 images: noise
    assert kid["fresh real"] < 0.1
    assert kid["fresh real"] < kid["untouched Normal"] < kid["DT-GAN, latent"]
    assert kid["copy-paste"] < kid["untouched Normal"]


def test_only_the_copy_is_caught(yardsticks, sets):
    fresh = yardsticks.fresh(HELD_OUT_SEED)
    search = Search(yardsticks.taught, fresh, load_extractor("domain"))
    found = search(sets["training set"])
    assert set(found) == {"image", "crop", "features"}
    assert all(near.copies.all() and near.score.median() < 0.01 for near in found.values())
    for name in ("fresh real", "copy-paste", "DT-GAN, latent", "stranger"):
        for space, near in search(sets[name]).items():
            assert near.copies.float().mean() <= 0.1, (space, name)
    assert "crop" not in search(sets["untouched Normal"])


def test_what_cannot_be_drawn_is_refused(data, dataset):
    other = load_dataset(data)
    with pytest.raises(DatasetError, match="expected 'synthetic-sdi'"):
        Yardsticks(other, 32, 4)
    with pytest.raises(ValueError, match="count is 0"):
        Yardsticks(dataset, 64, 0)


def test_one_product_keeps_its_fresh_images(dataset):
    every = Yardsticks(dataset, 32, 2)
    own = every.only("B")
    assert own.cells == [("B", "Scratches"), ("B", "Spots")]
    of_b = (cells_of(every.fresh(1))["product"] == "B").tolist()
    assert torch.equal(own.fresh(1).x, every.fresh(1).x[torch.tensor(of_b)])
    assert own.normals().cells == [cell for cell in own.cells for _ in range(2)]
    with pytest.raises(ValueError, match="expected one of A, B, C"):
        every.only("D")


# --- the fresh reference: drawn once, the floor below a model ------------------------------------
A_CELL, MADE = 12, 8


@pytest.fixture(scope="module")
def fresh(dataset: Dataset) -> FreshReference:
    return FreshReference(dataset, load_extractor("domain"), 64, A_CELL, MADE)


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
