"""A withheld cell: nothing of it reaches what stands beside the model, and what was kept does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_core.training import Trainer
from dtgan_lab.data import Dataset, DatasetError, load_dataset
from dtgan_lab.data.subset import make_subset
from dtgan_lab.measure import evidence as ev
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.sets import COPY, FLOOR, NORMAL, PASTE
from dtgan_lab.measure.transfer import OWN_PASTE, WithheldCell, transfer_sets
from dtgan_lab.measure.yardsticks import fresh_gallery
from tests.core_fixtures import jumbled

CELL = ("A", "Scratches")
COUNT = 8


@pytest.fixture(scope="module")
def whole(small_sdi: Path) -> Dataset:
    return load_dataset(small_sdi)


@pytest.fixture(scope="module")
def subsets(whole: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Dataset]:
    root = tmp_path_factory.mktemp("subsets")
    return {n: make_subset(whole, {CELL: n}, root / f"{n}") for n in (0, 2)}


@pytest.fixture(scope="module")
def withheld(whole: Dataset, subsets: dict[int, Dataset]) -> WithheldCell:
    return WithheldCell(whole, subsets[0], CELL, 64, COUNT)


@pytest.fixture(scope="module")
def synth(withheld: WithheldCell, tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    whole = load_dataset(withheld.train.root)
    config = config_for(whole, "tiny", model={"image_size": 64}, train={"precision": "fp32"})
    trainer = Trainer(config, withheld.train, data={"name": "synthetic-sdi", "licence": "CC0"})
    jumbled(trainer.ema, scale=0.15)
    folder = tmp_path_factory.mktemp("export")
    trainer.export(folder)
    return Synthesizer.load(folder)


def donors(cell: WithheldCell) -> set[tuple[str, str]]:
    """Product and path of the images that defects are pasted from."""
    numbers = cell._donors(cell.numbers[0][1]).tolist()
    names = cell.train.product_names
    return {(names[int(cell.train.products[n])], cell.train.paths[n]) for n in numbers}


def test_a_withheld_cell_pastes_from_the_other_products_alone(
    whole: Dataset, subsets: dict[int, Dataset], withheld: WithheldCell
) -> None:
    assert withheld.kept == 0
    assert {product for product, _ in donors(withheld)} == {"B", "C"}
    some = WithheldCell(whole, subsets[2], CELL, 64, COUNT)
    assert some.kept == 2
    own = {path for product, path in donors(some) if product == "A"}
    rows = subsets[2].manifest
    same = (rows["product"] == "A") & (rows["defect"] == "Scratches") & (rows["split"] == "train")
    assert own == set(rows.loc[same, "path"])
    assert donors(WithheldCell(whole, whole, CELL, 64, COUNT)) > donors(some) > donors(withheld)


def test_what_was_kept_can_be_pasted_alone(
    whole: Dataset, subsets: dict[int, Dataset], withheld: WithheldCell
) -> None:
    some = WithheldCell(whole, subsets[2], CELL, 64, COUNT)
    assert donors(some.pasting_its_own()) == {d for d in donors(some) if d[0] == "A"}
    assert OWN_PASTE in transfer_sets(some, {}) and OWN_PASTE not in transfer_sets(withheld, {})
    with pytest.raises(ValueError, match="A Scratches: no image was kept, expected some"):
        withheld.pasting_its_own()


def test_references_show_the_defect_on_other_products(withheld: WithheldCell) -> None:
    guides = withheld._guides(withheld.numbers[0][1])
    b, c = (fresh_gallery([(p, "Scratches")], COUNT, 4, 64).x for p in "BC")
    assert torch.equal(guides[0::2], b[0::2]) and torch.equal(guides[1::2], c[1::2])


def test_all_sets_are_of_the_cell(withheld: WithheldCell, synth: Synthesizer) -> None:
    sets = transfer_sets(withheld, {"DT-GAN": synth})
    assert list(sets) == [FLOOR, COPY, PASTE, NORMAL, "DT-GAN, latent", "DT-GAN, reference"]
    for gallery in sets.values():
        assert gallery.x.shape == (COUNT, 1, 64, 64)
        assert gallery.cells == [CELL] * COUNT
    known = {image.tobytes() for image in to_uint8(withheld.taught.x)}
    assert all(image.tobytes() in known for image in to_uint8(sets[COPY].x))
    changed = (sets["DT-GAN, latent"].x - sets[NORMAL].x).abs().flatten(1).amax(dim=1)
    assert (changed > 0).all()


def test_distances_are_to_fresh_images_of_the_cell(
    withheld: WithheldCell, synth: Synthesizer
) -> None:
    sets = {seed: transfer_sets(withheld.seeded(seed), {"DT-GAN": synth}) for seed in (0, 1)}
    assert not torch.equal(sets[0][FLOOR].x, sets[1][FLOOR].x)
    extract = load_extractor("domain")
    summary = ev.distance_summary(ev.distance_study(withheld, sets, extract), extract)
    rows = summary[summary["column"] == "A Scratches"].set_index("set")
    assert set(rows.index) == set(sets[0])
    kid = rows[extract.label("KID")].astype(float)
    assert np.isfinite(kid).all() and kid[NORMAL] > kid[FLOOR]


def test_what_does_not_fit_is_refused(
    whole: Dataset, subsets: dict[int, Dataset], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="has no cell A Dents, expected one of A Scratches"):
        WithheldCell(whole, subsets[0], ("A", "Dents"), 64, COUNT)
    with pytest.raises(DatasetError, match=r"expected a subset of it, made by .*subset.py"):
        WithheldCell(_without_first(whole, tmp_path), whole, CELL, 64, COUNT)


def _without_first(whole: Dataset, tmp_path: Path) -> Dataset:
    """The data set with a Scratches image of A less, under its own name."""
    rows = whole.manifest
    own = (rows["product"] == "A") & (rows["defect"] == "Scratches") & (rows["split"] == "train")
    return make_subset(whole, {CELL: int(own.sum()) - 1}, tmp_path / "less", name=whole.info.name)
