"""Subsets: fewer training images of the cells named, everything else byte for byte."""

from dataclasses import replace
from pathlib import Path

import pytest

import subset as script
from dtgan_lab.data import Dataset, DatasetError, DatasetInfo, load_dataset, write_dataset
from dtgan_lab.data.subset import Cell, make_subset
from tests.data.conftest import counts_of, write_small_set


@pytest.fixture
def whole(tmp_path: Path, info: DatasetInfo) -> Dataset:
    own = replace(info, name="parts", products=("A", "B"), flips={})
    write_small_set(tmp_path / "parts", counts_of("AB", own.defects, train=9, val=3), own)
    return load_dataset(tmp_path / "parts")


def paths(dataset: Dataset, cell: Cell) -> set[str]:
    rows = dataset.manifest
    same = (rows["product"] == cell[0]) & (rows["defect"] == cell[1]) & (rows["split"] == "train")
    return set(rows.loc[same, "path"])


def test_only_the_cells_named_shrink_and_grow_by_adding(whole, tmp_path):
    cell, other = ("A", whole.info.defects[1]), ("B", whole.info.defects[1])
    made = {n: make_subset(whole, {cell: n}, tmp_path / f"few-{n}") for n in (0, 2, 5)}
    assert [len(paths(few, cell)) for few in made.values()] == [0, 2, 5]
    assert paths(made[2], cell) < paths(made[5], cell) < paths(whole, cell)
    for few in made.values():
        assert paths(few, other) == paths(whole, other)
        held = few.manifest["split"] == "val"
        assert held.sum() == (whole.manifest["split"] == "val").sum()
        assert few.manifest_hash != whole.manifest_hash
        for path in few.manifest["path"]:
            assert (few.root / path).read_bytes() == (whole.root / path).read_bytes()
    files = {str(p.relative_to(made[0].root)) for p in made[0].root.rglob("*.png")}
    rows = made[0].manifest
    assert files == set(rows["path"]) | (set(rows["mask"]) - {""})
    other_choice = make_subset(whole, {cell: 5}, tmp_path / "seed-1", seed=1)
    assert paths(other_choice, cell) != paths(made[5], cell)


def test_groups_are_kept_whole(whole, tmp_path):
    cell = ("A", whole.info.defects[1])
    rows = whole.manifest.copy()
    same = rows["path"].isin(paths(whole, cell))
    rows.loc[same, "group"] = [f"tile-{n // 3}" for n in range(9)]
    write_dataset(whole.root, rows, whole.info)
    few = make_subset(load_dataset(whole.root), {cell: 5}, tmp_path / "few")
    left = few.manifest[few.manifest["path"].isin(paths(few, cell))]
    assert len(left) == 3 and left["group"].nunique() == 1  # a second tile would make six


A, B, Z = (("A", "Scratches"), ("B", "Scratches"), ("Z", "Scratches"))


@pytest.mark.parametrize(
    ("keep", "products", "words"),
    [
        ({}, (), "nothing named"),
        ({Z: 1}, (), "Z/Scratches: no such cell, expected one of A, B"),
        ({A: 10}, (), "A/Scratches: 10 to be kept, expected 0 to 9"),
        ({A: 0, B: 0}, (), "0 training images of Scratches"),
        ({}, ["Z"], "Z: no such product, expected some of A, B"),
        ({A: 3}, ["B"], "A is not kept; leave one of the two out"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep, products, words, whole, tmp_path):
    with pytest.raises(DatasetError, match=words):
        make_subset(whole, keep, tmp_path / "few", products=products)
    assert not (tmp_path / "few").exists()
    with pytest.raises(DatasetError, match="shares its folder with the input"):
        make_subset(whole, {A: 1}, whole.root)


def test_one_product_alone_keeps_its_held_out_images(whole, tmp_path):
    defect = whole.info.defects[1]
    alone = make_subset(whole, {("B", defect): 4}, tmp_path / "alone", products=["B"])
    assert alone.info.products == ("B",) and alone.info.defects == whole.info.defects
    assert set(alone.info.flips) <= {"B"} and set(alone.manifest["product"]) == {"B"}
    same = whole.manifest["product"] == "B"
    held = whole.manifest.loc[same & (whole.manifest["split"] == "val"), "path"]
    assert set(held) == set(alone.manifest.loc[alone.manifest["split"] == "val", "path"])
    assert len(paths(alone, ("B", defect))) == 4
    assert "--product B" in alone.info.command
    assert not (alone.root / "train" / "A").exists()


def test_the_script_tells_what_is_left(whole, tmp_path, capsys):
    words = ["--data", str(whole.root), "--out", str(tmp_path / "few")]
    assert script.main([*words, "--keep", "A/Scratches=2"]) == 0
    assert "7 left out" in capsys.readouterr().out
    few = load_dataset(tmp_path / "few")
    assert few.info.name == "parts-subset" and "--keep A/Scratches=2" in few.info.command
    assert script.main([*words, "--keep", "A/Scratches=99"]) == 1
    assert "99 to be kept" in capsys.readouterr().err
    assert script.main([*words, "--product", "B", "--name", "b"]) == 1  # holds "parts-subset"
    words[-1] = str(tmp_path / "alone")
    assert script.main([*words, "--product", "B"]) == 0
    with pytest.raises(SystemExit):
        script.main([*words, "--keep", "A-Scratches"])
