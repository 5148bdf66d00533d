"""The layout on disk: writing, reading back, and the report on everything that is wrong."""

import dataclasses
import json
from pathlib import Path

import pytest

from dtgan_core.files import sha256_of
from dtgan_lab.data import DatasetError, DatasetInfo, load_dataset, write_dataset
from dtgan_lab.data.dataset import MANIFEST_COLUMNS
from dtgan_lab.data.layout import staged_dataset
from tests.data.conftest import counts_of, read_rows, write_small_set
from tests.data.folder_fixtures import tree_bytes


# ------------------------------------------------------------------------------ sound data sets
def test_written_set_is_read_back_whatever_the_order_of_rows_and_lies_beside(small, info):
    dataset = load_dataset(small, check="full")
    assert dataset.info == info
    assert tuple(dataset.manifest.columns) == MANIFEST_COLUMNS
    assert list(dataset.manifest["path"]) == sorted(dataset.manifest["path"])
    assert all(isinstance(value, str) for value in dataset.manifest.to_numpy().ravel())
    assert dataset.manifest_hash == sha256_of(small / "manifest.csv")
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    before = (small / "manifest.csv").read_bytes()
    table = read_rows(small)
    write_dataset(small, table.iloc[::-1].loc[:, list(reversed(table.columns))], info)
    assert (small / "manifest.csv").read_bytes() == before
    assert b"\r" not in before
    (small / ".DS_Store").write_bytes(b"x")
    (small / "train/A/.hidden.png").write_bytes(b"x")
    folder = small / "train/A/Normal/.ipynb_checkpoints"
    folder.mkdir()
    (folder / "000-checkpoint.png").write_bytes(b"x")
    (small / "notes.txt").write_text("beside dataset.json a note does no harm")
    load_dataset(small, check="full")


def test_counts_keep_empty_classes(make_set):
    cells = {("train", "A", "Normal"): 9, ("train", "B", "Scratches"): 2}
    cells |= {("train", "A", "Spots"): 3, ("pool", "A", "Normal"): 5}
    counts = load_dataset(make_set(cells)).counts()
    assert list(counts.columns) == ["Normal", "Scratches", "Spots"]
    found = {key: list(row) for key, row in zip(counts.index, counts.to_numpy(), strict=True)}
    assert found["train", "A"] == [9, 0, 3]
    assert found["train", "B"] == [0, 2, 0]
    assert found["pool", "A"] == [5, 0, 0]
    assert "val" not in counts.index.get_level_values("split")


def test_other_columns_and_contradictory_info_are_refused_before_writing(small, info):
    table = read_rows(small)
    with pytest.raises(DatasetError, match="manifest.csv: rows have the columns"):
        write_dataset(small, table.drop(columns="group"), info)
    with pytest.raises(DatasetError, match="must be the first"):
        write_dataset(small, table, dataclasses.replace(info, anchor="Spots"))
    assert load_dataset(small).info == info


def test_small_classes_and_a_set_without_training_images_are_warnings(small, make_set):
    warnings = load_dataset(small).warnings
    assert len(warnings) == 6
    assert "4 training images" in warnings[0] and str(small / "train") in warnings[0]
    dataset = load_dataset(make_set({("fresh", "A", "Spots"): 2}))
    assert len(dataset.warnings) == 1 and "'train'" in dataset.warnings[0]


def test_any_names_will_do(make_set, info):
    products, defects = ("Zahnrad 7", "plaque é"), ("gut", "Riss", "Lunker, groß")
    other = dataclasses.replace(info, products=products, defects=defects, anchor="gut", flips={})
    dataset = load_dataset(make_set(counts_of(products, defects, train=2), other), check="full")
    assert dataset.counts().loc[("train", "plaque é"), "Lunker, groß"] == 2


# -------------------------------------------------------------------------------------- staging
def not_started(out: Path, name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message), staged_dataset(out, name):
        pytest.fail("must not start")


@pytest.fixture
def plain(info: DatasetInfo) -> DatasetInfo:
    return dataclasses.replace(info, products=("A",), defects=("Normal",), flips={})


def write(out: Path, info: DatasetInfo, count: int) -> None:
    with staged_dataset(out, "small") as staging:
        write_small_set(staging, {("train", "A", "Normal"): count}, info)


def test_staging_replaces_an_older_set_whole(tmp_path, plain):
    for count in (3, 2):
        write(tmp_path / "out", plain, count)
        assert len(load_dataset(tmp_path / "out", check="full").manifest) == count
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == ["dataset.json", "manifest.csv", "train"]


def test_interrupted_staging_leaves_the_older_set_and_a_killed_one_is_mended(tmp_path, plain):
    out = tmp_path / "out"
    write(out, plain, 3)
    before = tree_bytes(out)
    with pytest.raises(KeyboardInterrupt), staged_dataset(out, "small") as staging:
        (staging / "train").mkdir()
        raise KeyboardInterrupt
    assert tree_bytes(out) == before
    told = f"{out}/train: 1 training images of Normal, expected at least 2"
    with pytest.raises(DatasetError, match=told):
        write(out, plain, 1)
    assert tree_bytes(out) == before, "what does not pass the check takes no place"
    (out / "manifest.csv").unlink()  # the state between removing the old and placing the new one
    with pytest.raises(DatasetError, match="interrupted"):
        load_dataset(out)
    write(out, plain, 2)
    load_dataset(out, check="full")


def test_foreign_folders_other_data_sets_and_files_of_the_user_stay(tmp_path, small):
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"x")
    not_started(out, "small", r"holiday.jpg.*choose an empty folder")
    assert [p.name for p in out.iterdir()] == ["holiday.jpg"]
    # another data set and files of the user stay
    not_started(small, "MTD", "holds the data set 'small', expected 'MTD'")
    load_dataset(small)
    mine = small / "train/A/Normal/mine.png"
    mine.write_bytes(b"x")
    not_started(small, "small", r"mine\.png")
    assert mine.exists()
