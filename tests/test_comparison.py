"""Systems side by side: the same cells, parts and references for each, and what a judge is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.dataset import config_for
from dtgan_core.training import Trainer
from dtgan_lab.baselines.config import AugmentConfig
from dtgan_lab.baselines.methods import MAKERS, baseline
from dtgan_lab.data import load_dataset
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.judge import Prediction
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.systems import System, augmentations, judged, load_systems, made_by
from dtgan_lab.measure.yardsticks import AnchorSet, cells_of
from tests.core_fixtures import jumbled

COUNT = 3
PRODUCTS, DEFECTS = ("A", "B", "C"), ("Normal", "Scratches", "Spots")


@pytest.fixture(scope="module")
def anchors(small_sdi: Path) -> AnchorSet:
    return AnchorSet(load_dataset(small_sdi), 32, COUNT)


@pytest.fixture(scope="module")
def systems(
    small_sdi: Path, anchors: AnchorSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, System]:
    """A DT-GAN and two baselines with jumbled weights, read back from their exports."""
    folder, dataset = tmp_path_factory.mktemp("systems"), load_dataset(small_sdi)
    trainer = Trainer(config_for(dataset, "tiny"), anchors.train, data={"name": "synthetic-sdi"})
    jumbled(trainer.ema, scale=0.15)
    trainer.export(folder / "dtgan")
    for method in ("stylegan2", "mokady"):
        found = baseline(method)
        pairs = [None] if method in MAKERS else [("Normal", "Scratches"), ("Normal", "Spots")]
        for product in PRODUCTS:
            for pair in pairs:
                store = anchors.train.only(product, pair)
                loop = found.loop(found.presets["tiny"], store, data={"name": "synthetic-sdi"})
                jumbled(loop.ema, seed=ord(product), scale=0.1)
                loop.export(folder / method / f"{product}-{pair[1] if pair else 'all'}")
    return load_systems(
        {"DT-GAN": folder / "dtgan", "G": folder / "stylegan2", "M": folder / "mokady"}
    )


def test_every_system_makes_the_same_cells(anchors: AnchorSet, systems: dict[str, System]) -> None:
    sets = made_by(anchors, systems)
    assert list(sets) == ["DT-GAN, latent", "DT-GAN, reference", "G", "M"]
    for gallery in sets.values():
        assert gallery.cells == anchors.normals().cells
        assert gallery.x.shape == anchors.normals().x.shape


def test_augmentations_are_compared_on_one_product(small_sdi: Path, tmp_path: Path) -> None:
    anchors = AnchorSet(load_dataset(small_sdi), 64, 8)  # 64 pixels, as the features take
    found, store = baseline("stylegan2"), anchors.train.only("A", None)
    for number, kind in enumerate(("none", "ada")):
        tiny: Any = found.presets["tiny"]
        sizes = replace(tiny.model, image_size=64)
        config = replace(tiny, model=sizes, augment=AugmentConfig(kind))
        loop = found.loop(config, store, data={"name": "synthetic-sdi"})
        jumbled(loop.ema, seed=number, scale=0.1)
        loop.export(tmp_path / kind)
    extract = load_extractor("domain")
    folders = {kind: tmp_path / kind for kind in ("none", "ada")}
    table = augmentations(anchors, folders, "A", extract, seeds=2)
    assert table["augmentation"].tolist() == ["none", "ada"]
    assert (table["seeds"] == 2).all() and (table["n"] == 16).all()  # two cells of A
    assert table["checkpoint_sha256"].nunique() == 2
    with pytest.raises(CheckpointError, match="of stylegan2 with ada, expected .* --augment none"):
        augmentations(anchors, {"none": tmp_path / "ada"}, "A", extract, seeds=1)


def test_a_transfer_has_no_augmentation(systems: dict[str, System], anchors: AnchorSet) -> None:
    transfer: Any = systems["M"]
    with pytest.raises(CheckpointError, match="of mokady with no such choice, expected"):
        augmentations(
            anchors, {"none": transfer.exports[0].folder}, "A", load_extractor("domain"), 1
        )


def test_the_judge_is_told_cell_by_cell() -> None:
    def judge(x: Tensor) -> Prediction:
        """Sees scratches everywhere, on product A where the image is dark, else on B."""
        defect = torch.ones(len(x), dtype=torch.int64)
        return Prediction(defect, (x.mean(dim=(1, 2, 3)) > 0).long(), torch.zeros(len(x), 3))

    x = torch.cat([-torch.ones(3, 1, 4, 4), torch.ones(1, 1, 4, 4)])
    cells = [("A", "Scratches"), ("A", "Spots"), ("B", "Scratches"), ("B", "Scratches")]
    told = judged({"set": Gallery(x, None, cells)}, judge, PRODUCTS, DEFECTS)  # type: ignore[arg-type]
    told = told.set_index(["product", "defect"])
    assert told["recognised"].to_dict() == {
        ("A", "Scratches"): 1.0,
        ("A", "Spots"): 0.0,
        ("B", "Scratches"): 1.0,
    }
    assert told["kept"].tolist() == [1.0, 1.0, 0.5]
    assert told["n"].tolist() == [1, 1, 2]
    assert cells_of(Gallery(x, None, cells))["product"].tolist() == ["A", "A", "B", "B"]
