from __future__ import annotations

from pathlib import Path

import pytest

from dtgan_core.config import make_config
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.data import load_dataset
from dtgan_lab.measure.cells import Cell, fresh_cells, held_out_cells, model_looks, polarity_error
from dtgan_lab.measure.real import RealSide
from tests.core_fixtures import SIZE, tiny_store
from tests.evaluation_fixtures import write_judged_dataset

PRODUCTS, DEFECTS = ("A", "B", "C"), ("Scratches", "Spots")


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str], Cell]:
    return fresh_cells(PRODUCTS, DEFECTS, count=6, image_size=32)


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    out: Path = tmp_path_factory.mktemp("model")
    config = make_config("tiny", "f", train={"precision": "fp32", "iterations": 3})
    trainer = Trainer(config, tiny_store(), out=out, data={"name": "tiny"})
    trainer.run(progress=False)
    return Synthesizer.load(trainer.export(out / "export"))


def test_fresh_cells_know_what_their_defects_changed(
    cells: dict[tuple[str, str], Cell],
) -> None:
    assert list(cells) == [(product, defect) for product in PRODUCTS for defect in DEFECTS]
    for cell in cells.values():
        assert cell.parts.shape == cell.images.shape == (6, 1, 32, 32)
        assert abs(cell.change[cell.masks]).mean() > 5 * abs(cell.change[~cell.masks]).mean()


def test_a_model_is_measured_beside_real_defects(
    synth: Synthesizer, cells: dict[tuple[str, str], Cell]
) -> None:
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
def test_cells_of_a_data_set_know_what_its_defects_changed(twins: bool, tmp_path: Path) -> None:
    """Bright bars by 50 to 70 levels, dark squares likewise; by twins and by masks alike."""
    dataset = load_dataset(write_judged_dataset(tmp_path, twins=twins))
    cells = held_out_cells(RealSide(dataset, SIZE, 1))
    assert list(cells) == [(product, defect) for product in PRODUCTS for defect in DEFECTS]
    for (_, defect), cell in cells.items():
        assert len(cell.parts) == len(cell.images) == 5  # of val and test
        inside = cell.change[cell.masks]
        assert 40 < (inside if defect == "Scratches" else -inside).mean() < 80
        assert abs(cell.change[~cell.masks]).max() == 0


def test_a_data_set_without_masks_has_no_cells(tmp_path: Path) -> None:
    dataset = load_dataset(write_judged_dataset(tmp_path, masks=False))
    assert held_out_cells(RealSide(dataset, SIZE, 1)) == {}
