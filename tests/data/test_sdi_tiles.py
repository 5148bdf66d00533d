"""The real tiles of SDI: how they are cut, what is committed, and what the committed judge sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cut_sdi_tiles
from dtgan_core.batches import ImageStore
from dtgan_lab.data import load_dataset
from dtgan_lab.measure.judge import Judge

ROOT = Path(__file__).resolve().parents[2]
TILES = ROOT / "notebooks/data/sdi-tiles"


def overview(band: int = 6, tile: int = 40) -> np.ndarray:
    """A picture as the data sheet's: tile k of block b is grey 60 + 40 b + 3 k, lines are black."""
    step = tile + 1
    block = 3 * step + 1
    picture = np.zeros((block, 3 * block + 2 * band), dtype=np.uint8)
    for b in range(3):
        for k in range(9):
            y, x = 1 + step * (k // 3), 1 + b * (block + band) + step * (k % 3)
            picture[y : y + tile, x : x + tile] = 60 + 40 * b + 3 * k
    return picture


def run(*words: object) -> int:
    return cut_sdi_tiles.main([str(word) for word in words])


@pytest.mark.parametrize("band", [4, 6])
def test_the_overview_is_cut_along_its_lines(band):
    blocks = cut_sdi_tiles.cut_overview(Image.fromarray(overview(band)), 16)
    assert [block.shape for block in blocks] == [(9, 16, 16)] * 3
    for b, block in enumerate(blocks):
        for k, tile in enumerate(block):
            assert np.unique(tile).tolist() == [60 + 40 * b + 3 * k], "no line, no neighbour"


def test_three_files_become_a_data_set(tmp_path, capsys):
    source = tmp_path / "figure"
    source.mkdir()
    for number, name in enumerate(("normal", "scratches", "spots")):
        Image.fromarray(overview() + np.uint8(number)).convert("RGB").save(source / f"{name}.png")
    assert run("--source", source, "--out", tmp_path / "out", "--size", 16) == 0
    store = ImageStore.load(load_dataset(tmp_path / "out", check="full"), "test", 16, 1)
    row = store.paths.index("test/B/Scratches/2.png")
    assert store.images[row].unique().tolist() == [60 + 40 + 6 + 1] and len(store) == 81
    (source / "spots.png").unlink()
    assert run("--source", source, "--out", tmp_path / "out", "--size", 16) == 1
    assert "spots.png: not found" in capsys.readouterr().err
    Image.new("L", (90, 30), 128).save(source / "spots.png")
    assert run("--source", source, "--out", tmp_path / "out", "--size", 16) == 1
    assert "spots.png: 0 black bands in a picture of 90 x 30" in capsys.readouterr().err
    assert len(load_dataset(tmp_path / "out").manifest) == 81, "the older set stays"


def test_the_judge_of_synthetic_parts_reads_real_ones():
    dataset = load_dataset(TILES, check="full")
    assert "CC BY-SA 4.0" in dataset.info.licence and "CC BY-SA 4.0" in (
        TILES / "README.md"
    ).read_text(encoding="utf-8")
    assert (dataset.manifest.groupby(["product", "defect"]).size() == 9).all()
    judge = Judge.load(ROOT / "notebooks/checkpoints/judge-synthetic-sdi")
    tiles = ImageStore.load(dataset, "test", judge.config.image_size, 1)
    judge.check_names(tiles.product_names, tiles.defect_names, "tiles")
    seen = judge(tiles.to_float(torch.arange(len(tiles))))
    assert seen.product is not None and torch.equal(seen.product, tiles.products)
    right = seen.defect == tiles.defects
    # One tile of leeway: another processor rounds otherwise.
    assert abs(int(right.sum()) - 71) <= 1
    for product, expected in enumerate((24, 25, 22)):
        assert abs(int(right[tiles.products == product].sum()) - expected) <= 1
