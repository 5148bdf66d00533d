"""The report on a data set: everything that is wrong, in one error, each with path and remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_core.files import sha256_of
from dtgan_lab.data import DatasetError, load_dataset
from tests.data.conftest import read_rows

FIRST = "train/A/Scratches/000.png"


def edit_manifest(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(read_rows(root)).to_csv(root / "manifest.csv", index=False)


def set_cell(root: Path, path: str, column: str, value: str) -> None:
    table = read_rows(root)
    assert (table["path"] == path).any()
    table.loc[table["path"] == path, column] = value
    table.to_csv(root / "manifest.csv", index=False)


def edit_info(root: Path, **values: object) -> None:
    found = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(found | values))


def rehash(root: Path, path: str) -> None:
    set_cell(root, path, "sha256", sha256_of(root / path))


Breaker = Callable[[Path], object]


def cell(column: str, value: str) -> Breaker:
    return lambda root: set_cell(root, FIRST, column, value)


def field(**values: object) -> Breaker:
    return lambda root: edit_info(root, **values)


def gone(name: str) -> Breaker:
    return lambda root: (root / name).unlink()


def written(name: str, data: bytes) -> Breaker:
    def write(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)

    return write


def rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Breaker:
    return lambda root: edit_manifest(root, change)


def _duplicate(root: Path) -> None:
    (root / "train/A/Spots/001.png").write_bytes((root / FIRST).read_bytes())
    rehash(root, "train/A/Spots/001.png")


def _group_in_two_splits(root: Path) -> None:
    set_cell(root, FIRST, "group", "tile-7")
    set_cell(root, "val/B/Spots/001.png", "group", "tile-7")


def _rows_too_long(root: Path) -> None:
    lines = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join([lines[0], *(f"{x},y" for x in lines[1:])]))


OUT = "train/A/Scratches/../../../../etc/passwd"
HERE = "expected train/A/Scratches/<name>.png"
MAKE = "python make_small.py"
DOUBLE = ["Normal", "Scratches", "Normal", "Spots"]
QUICK: list[tuple[Breaker, list[str]]] = [
    (gone(FIRST), [FIRST, "missing", "copy it back"]),
    (gone(f"masks/{FIRST}"), [f"masks/{FIRST}", "missing", MAKE]),
    (
        written("train/A/Normal/more.png", b""),
        ["train/A/Normal/more.png", "not in manifest.csv", "move it out"],
    ),
    (written("grid.jpg", b""), ["grid.jpg", "not in manifest.csv"]),
    (written("old/readme.txt", b""), ["old/readme.txt", "not in manifest.csv"]),
    (cell("product", "Z"), [FIRST, "product 'Z'", "['A', 'B']", "correct manifest.csv"]),
    (cell("defect", "Dent"), [FIRST, "defect 'Dent'", "'Scratches'"]),
    (cell("split", "training"), [FIRST, "split 'training'", "'train'"]),
    (cell("defect", "Spots"), [FIRST, "expected train/A/Spots/<name>.png", "move the file"]),
    (cell("path", OUT), ["etc/passwd", HERE]),
    (cell("path", "/etc/passwd"), ["'/etc/passwd'", HERE]),
    (cell("path", "train/A/Scratches/\x1b[31m.png"), ["\\x1b[31m.png'", HERE]),
    (cell("path", FIRST.replace("/", "\\")), ["forward slashes"]),
    (cell("mask", FIRST), ["mask", "expected masks/train/A/Scratches/<name>.png"]),
    (cell("group", " "), [FIRST, "no group", "give"]),
    (
        _group_in_two_splits,
        ["'tile-7'", "train, val", FIRST, "val/B/Spots/001.png", "into one split"],
    ),
    (_duplicate, [FIRST, "the same bytes as train/A/Spots/001.png", "keep one"]),
    (
        rows(lambda table: pd.concat([table, table[table["path"] == FIRST]])),
        [FIRST, "2 rows", "delete the others"],
    ),
    (cell("sha256", "abc"), [FIRST, "'abc'", "64 hexadecimal"]),
    (
        rows(lambda table: table.drop(columns="twin")),
        ["manifest.csv: columns", "'twin'", "make the data set again"],
    ),
    (_rows_too_long, ["manifest.csv: rows longer than the header"]),
    (rows(lambda table: table.iloc[:0]), ["manifest.csv: no rows", MAKE]),
    (gone("manifest.csv"), ["manifest.csv: missing", "interrupted", MAKE]),
    (written("manifest.csv", b"\xff\xfe\x00"), ["manifest.csv: unreadable", "expected CSV"]),
    (gone("dataset.json"), ["dataset.json: missing", "data_scripts"]),
    (written("dataset.json", b"{"), ["dataset.json: unreadable", "expected JSON"]),
    (written("dataset.json", b"[]"), ["dataset.json: found list"]),
    (field(format=2), ['"format" is 2', "reads 1"]),
    (field(anchor="Spots"), ["anchor 'Spots' must be the first", "correct it there"]),
    (field(defects=DOUBLE), ["'Normal' 2 times"]),
    (field(products=[]), ["products = []", "at least 1 item"]),
    (field(products=["A", "B", "C/D"]), ["'C/D'", "folder name"]),
    (field(channels=2), ["channels: found 2", "1 or 3"]),
    (field(image_size=[16]), ["found no image_size[1]"]),
    (field(flips={"A": ["diagonal"]}), ["'diagonal'", "'vertical'"]),
    (field(flips={"Q": []}), ["'Q'", "none of the products"]),
]


@pytest.mark.parametrize(("breaker", "expected"), QUICK)
def test_quick_check_finds(breaker, expected, small):
    breaker(small)
    with pytest.raises(DatasetError) as caught:
        load_dataset(small)
    for part in [*expected, str(small)]:
        assert part in str(caught.value)


def _truncate(root: Path) -> None:
    (root / FIRST).write_bytes((root / FIRST).read_bytes()[:-30])


def _as_rgb(root: Path) -> None:
    Image.open(root / FIRST).convert("RGB").save(root / FIRST)
    rehash(root, FIRST)


def _larger(root: Path) -> None:
    Image.open(root / FIRST).resize((20, 16)).save(root / FIRST)
    rehash(root, FIRST)


def _grey_mask(root: Path) -> None:
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(root / "masks" / FIRST)


FULL: list[tuple[Breaker, list[str]]] = [
    (_truncate, [FIRST, "cannot be decoded", MAKE]),
    (written(FIRST, b"hello"), [FIRST, "cannot be decoded"]),
    (written(FIRST, b""), [FIRST, "cannot be decoded"]),
    (_as_rgb, [FIRST, "mode RGB, expected L", "convert it"]),
    (_larger, [FIRST, "16x20 pixels, expected 16x16", "resize it"]),
    (lambda r: Image.new("L", (16, 16)).save(r / FIRST), [FIRST, "its bytes changed"]),
    (_grey_mask, [f"masks/{FIRST}", "0 and 255 alone"]),
    (written(f"masks/{FIRST}", b"\x89PNG"), [f"masks/{FIRST}", "cannot be decoded"]),
]


@pytest.mark.parametrize(("breaker", "expected"), FULL)
def test_full_check_finds_what_the_quick_one_cannot(breaker, expected, small):
    breaker(small)
    load_dataset(small, check="quick")
    with pytest.raises(DatasetError) as caught:
        load_dataset(small, check="full")
    for part in expected:
        assert part in str(caught.value)


def test_all_problems_come_in_one_report(small):
    _truncate(small)
    (small / "train/B/Spots/000.png").unlink()
    (small / "train/B/extra.png").write_bytes(b"")
    set_cell(small, "val/A/Normal/000.png", "defect", "Dent")
    set_cell(small, "val/A/Normal/001.png", "group", "train-A-Normal-0")
    edit_info(small, flips={"Q": []})
    with pytest.raises(DatasetError) as caught:
        load_dataset(small, check="full")
    text = str(caught.value)
    for part in ("'Q'", "Dent", "train-A-Normal-0", "B/Spots/000.png: missing", "B/extra.png"):
        assert part in text
    assert "its bytes changed" in text and "cannot be decoded" in text
    assert "7 problems" in text and len(caught.value.problems) == 7


def test_a_long_report_is_shortened_but_kept_whole(make_set):
    root = make_set({("train", "A", d): 30 for d in ("Normal", "Scratches", "Spots")})
    for path in (root / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    assert len(caught.value.problems) == 90
    assert "90 problems" in str(caught.value) and "and 70 more of this kind" in str(caught.value)


def test_a_defect_with_one_training_image_and_a_missing_folder_are_problems(make_set, tmp_path):
    root = make_set(
        {("train", "A", "Normal"): 3, ("train", "A", "Scratches"): 1, ("train", "B", "Spots"): 2}
    )
    with pytest.raises(DatasetError, match="1 training images of Scratches, expected at least 2"):
        load_dataset(root)
    with pytest.raises(DatasetError, match=r"nowhere: no such folder.*data_scripts"):
        load_dataset(tmp_path / "nowhere")
