"""Sets of known worth: what they hold, and that the numbers put them into the right order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_core.training import Trainer
from dtgan_lab.baselines.generators import load_generator
from dtgan_lab.baselines.methods import baseline
from dtgan_lab.data import DatasetError, load_dataset
from dtgan_lab.data.synthetic.sdi import fresh_images
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.evidence import evidence_sets
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.neighbours import Gallery, Search
from dtgan_lab.measure.sets import LATENT, REFERENCE
from dtgan_lab.measure.systems import by_baseline
from dtgan_lab.measure.yardsticks import (
    ANCHORS,
    HELD_OUT_SEED,
    REFERENCE_SEED,
    AnchorSet,
    cells_of,
    fresh_gallery,
)
from tests.core_fixtures import jumbled
from tests.evaluation_fixtures import write_judged_dataset

COUNT = 6  # images a product and defect


@pytest.fixture(scope="module")
def anchors(small_sdi: Path) -> AnchorSet:
    return AnchorSet(load_dataset(small_sdi), 64, COUNT)


@pytest.fixture(scope="module")
def synth(
    small_sdi: Path, anchors: AnchorSet, tmp_path_factory: pytest.TempPathFactory
) -> Synthesizer:
    config = config_for(
        load_dataset(small_sdi), "tiny", model={"image_size": 64}, train={"precision": "fp32"}
    )
    trainer = Trainer(config, anchors.train, data={"name": "synthetic-sdi", "licence": "CC0"})
    jumbled(trainer.ema, scale=0.15)
    folder = tmp_path_factory.mktemp("export")
    trainer.export(folder)
    return Synthesizer.load(folder)


@pytest.fixture(scope="module")
def table(anchors: AnchorSet, synth: Synthesizer) -> pd.DataFrame:
    """Distances to fresh real images, and the share of copies, of every set."""
    extract = load_extractor("domain")
    reference = extract(anchors.fresh(REFERENCE_SEED).x)
    search = Search(anchors.taught, anchors.fresh(HELD_OUT_SEED), extract)
    rows = []
    for name, gallery in evidence_sets(anchors, synth).items():
        row = {"set": name} | compare(reference, extract(gallery.x), extract).to_dict()
        for near in Search.summary(search(gallery)).to_dict(orient="records"):
            row |= {f"{near['space']} {column}": near[column] for column in ("score", "copies")}
        rows.append(row)
    return pd.DataFrame(rows).set_index("set")


@pytest.mark.parametrize("method", ["stylegan2", "mokady"])
def test_sets_of_trained_baselines(method: str, small_sdi: Path, tmp_path: Path) -> None:
    dataset = load_dataset(small_sdi)
    small = AnchorSet(dataset, 32, COUNT)
    found = baseline(method)
    for product, defect in small.cells:
        pair = ("Normal", defect) if method == "mokady" else None
        if pair is None and defect != "Spots":
            continue  # one model makes all defects of a product
        store = small.train.only(product, pair)
        loop = found.loop(found.presets["tiny"], store, data={"name": "synthetic-sdi"})
        loop.export(tmp_path / f"{product}-{defect}")
    made = by_baseline(small, load_generator(tmp_path))
    assert made.cells == small.normals().cells
    assert made.x.shape == small.normals().x.shape
    assert made.x.abs().max() <= 1
    assert (made.masks is None) == (method == "stylegan2")
    if made.masks is not None:
        assert made.masks.flatten(1).any(dim=1).all()


def in_bank(gallery: Gallery, bank: torch.Tensor) -> float:
    """Share of images that are training images to the bit."""
    known = {image.tobytes() for image in to_uint8(bank)}
    return float(np.mean([image.tobytes() in known for image in to_uint8(gallery.x)]))


def test_fresh_images_are_those_of_the_data_set_command() -> None:
    gallery = fresh_gallery([("A", "Spots"), ("C", "Normal")], 2, 9, 128)
    for number, (product, defect) in enumerate((("A", "Spots"), ("C", "Normal"))):
        drawn = fresh_images(product, defect, 2, seed=9)
        assert np.array_equal(to_uint8(gallery.x[2 * number : 2 * number + 2])[..., 0], drawn)
    assert gallery.masks is not None
    assert gallery.masks.flatten(1).any(dim=1).tolist() == [True, True, False, False]
    assert gallery.cells == [("A", "Spots")] * 2 + [("C", "Normal")] * 2


def test_all_sets_have_the_same_cells(anchors: AnchorSet) -> None:
    cells = [cell for cell in anchors.cells for _ in range(COUNT)]
    for gallery in (anchors.fresh(1), anchors.copies(), anchors.normals(), anchors.pasted()):
        assert list(gallery.cells or []) == cells and len(gallery.x) == 6 * COUNT


def test_sets_are_what_they_are_called(anchors: AnchorSet) -> None:
    train = anchors.train.to_float(torch.arange(len(anchors.train)))
    assert in_bank(anchors.copies(), anchors.taught.x) == 1
    assert in_bank(anchors.normals(), anchors.taught.x) == 0
    assert in_bank(anchors.normals(), train) == 1
    assert in_bank(anchors.fresh(1), train) == 0
    pasted, normals = anchors.pasted(), anchors.normals()
    assert pasted.masks is not None and pasted.masks.flatten(1).any(dim=1).all()
    outside = ~pasted.masks.expand_as(pasted.x)
    assert torch.equal(pasted.x[outside], normals.x[outside])
    assert not torch.equal(pasted.x, normals.x)


def test_copies_repeat_only_when_a_class_is_used_up(anchors: AnchorSet) -> None:
    spots_of_a = (anchors.train.products == 0) & (anchors.train.defects == 2)
    have = int(spots_of_a.sum())
    assert have < COUNT  # so few that copies must repeat
    copies = to_uint8(anchors.copies().x[COUNT : 2 * COUNT])
    counts = pd.Series([image.tobytes() for image in copies]).value_counts()
    assert len(counts) == have and counts.max() == -(-COUNT // have)


@pytest.mark.parametrize("guidance", ["latent", "reference"])
def test_a_models_images_stand_beside(
    anchors: AnchorSet, synth: Synthesizer, guidance: str
) -> None:
    made = anchors.translated(synth, guidance)
    assert made.x.shape == anchors.normals().x.shape and made.masks is not None
    assert list(made.cells or []) == list(anchors.normals().cells or [])
    areas = made.masks.flatten(1).sum(dim=1).view(6, COUNT)
    assert (areas == areas[:, :1]).all() and (areas > 0).all()
    assert torch.equal(made.x, anchors.translated(synth, guidance).x)
    with pytest.raises(ValueError, match="expected latent or reference"):
        anchors.translated(synth, "both")


def test_numbers_put_the_sets_into_order(table: pd.DataFrame) -> None:
    assert list(table.index) == [*ANCHORS, LATENT, REFERENCE]
    assert (table["first"] == "KID").all()  # 36 images for 64 dimensions
    kid = table["KID (domain)"]
    assert kid["fresh real"] < 0.1
    assert kid["fresh real"] < kid["untouched Normal"] < kid[LATENT]
    assert kid["copy-paste"] < kid["untouched Normal"]


def test_only_the_copy_is_caught(table: pd.DataFrame) -> None:
    for space in ("image", "crop", "features"):
        copies = table[f"{space} copies"]
        assert copies["training set"] == 1 and table[f"{space} score"]["training set"] < 0.01
        others = copies.drop("training set").dropna()
        assert (others <= 0.1).all(), (space, others)
    assert np.isnan(table["crop copies"]["untouched Normal"])


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, small_sdi: Path) -> None:
    with pytest.raises(DatasetError, match="expected 'synthetic-sdi'"):
        AnchorSet(load_dataset(write_judged_dataset(tmp_path)), 32, 4)
    with pytest.raises(ValueError, match="count is 0"):
        AnchorSet(load_dataset(small_sdi), 64, 0)


def test_one_product_keeps_its_fresh_images(small_sdi: Path) -> None:
    every = AnchorSet(load_dataset(small_sdi), 32, 2)
    own = every.only("B")
    assert own.cells == [("B", "Scratches"), ("B", "Spots")]
    of_b = (cells_of(every.fresh(1))["product"] == "B").tolist()
    assert torch.equal(own.fresh(1).x, every.fresh(1).x[torch.tensor(of_b)])
    assert own.normals().cells == [cell for cell in own.cells for _ in range(2)]
    with pytest.raises(ValueError, match="expected one of A, B, C"):
        every.only("D")
