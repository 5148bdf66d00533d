"""The report on a data set: everything that is wrong, in one error, each with path and remedy."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_lab.data import DatasetError, load_dataset

FIRST = "train/A/Scratches/000.png"


def edit_manifest(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    table = pd.read_csv(root / "manifest.csv", dtype=str, keep_default_na=False)
    changed = change(table)
    (table if changed is None else changed).to_csv(root / "manifest.csv", index=False)


def set_cell(root: Path, path: str, column: str, value: str) -> None:
    def change(table: pd.DataFrame) -> None:
        assert (table["path"] == path).any()
        table.loc[table["path"] == path, column] = value

    edit_manifest(root, change)


def edit_info(root: Path, **values: object) -> None:
    found = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(found | values))


def rehash(root: Path, path: str) -> None:
    set_cell(root, path, "sha256", hashlib.sha256((root / path).read_bytes()).hexdigest())


Breaker = Callable[[Path], object]


def _duplicate(root: Path) -> None:
    (root / "train/A/Spots/001.png").write_bytes((root / FIRST).read_bytes())
    rehash(root, "train/A/Spots/001.png")


def _same_row_twice(root: Path) -> None:
    edit_manifest(root, lambda table: pd.concat([table, table[table["path"] == FIRST]]))


def _stray_folder(root: Path) -> None:
    (root / "old").mkdir()
    (root / "old/readme.txt").write_text("")


def _group_in_two_splits(root: Path) -> None:
    set_cell(root, FIRST, "group", "tile-7")
    set_cell(root, "val/B/Spots/001.png", "group", "tile-7")


def _rows_too_long(root: Path) -> None:
    lines = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join([lines[0], *(f"{x},y" for x in lines[1:])]))


QUICK: dict[str, tuple[Breaker, list[str]]] = {
    "missing image": (lambda r: (r / FIRST).unlink(), [FIRST, "missing", "copy it back"]),
    "missing mask": (
        lambda r: (r / "masks" / FIRST).unlink(),
        [f"masks/{FIRST}", "missing", "python make_small.py"],
    ),
    "stray image": (
        lambda r: (r / "train/A/Normal/more.png").write_bytes(b""),
        ["train/A/Normal/more.png", "not in manifest.csv", "move it out"],
    ),
    "stray image at the top": (
        lambda r: (r / "grid.jpg").write_bytes(b""),
        ["grid.jpg", "not in manifest.csv"],
    ),
    "stray folder": (_stray_folder, ["old/readme.txt", "not in manifest.csv"]),
    "unknown product": (
        lambda r: set_cell(r, FIRST, "product", "Z"),
        [FIRST, "product 'Z'", "['A', 'B']", "correct manifest.csv"],
    ),
    "unknown defect": (
        lambda r: set_cell(r, FIRST, "defect", "Dent"),
        [FIRST, "defect 'Dent'", "'Scratches'"],
    ),
    "unknown split": (
        lambda r: set_cell(r, FIRST, "split", "training"),
        [FIRST, "split 'training'", "'train'"],
    ),
    "labels that contradict the folders": (
        lambda r: set_cell(r, FIRST, "defect", "Spots"),
        [FIRST, "expected train/A/Spots/<name>.png", "move the file"],
    ),
    "path out of the folder": (
        lambda r: set_cell(r, FIRST, "path", "train/A/Scratches/../../../../etc/passwd"),
        ["etc/passwd", "expected train/A/Scratches/<name>.png"],
    ),
    "absolute path": (
        lambda r: set_cell(r, FIRST, "path", "/etc/passwd"),
        ["'/etc/passwd'", "expected train/A/Scratches/<name>.png"],
    ),
    "backslashes": (
        lambda r: set_cell(r, FIRST, "path", FIRST.replace("/", "\\")),
        ["forward slashes"],
    ),
    "mask of another place": (
        lambda r: set_cell(r, FIRST, "mask", FIRST),
        ["mask", "expected masks/train/A/Scratches/<name>.png"],
    ),
    "no group": (lambda r: set_cell(r, FIRST, "group", " "), [FIRST, "no group", "give"]),
    "group across splits": (
        _group_in_two_splits,
        ["'tile-7'", "train, val", FIRST, "val/B/Spots/001.png", "into one split"],
    ),
    "duplicate image": (_duplicate, [FIRST, "the same bytes as train/A/Spots/001.png", "keep one"]),
    "row twice": (_same_row_twice, [FIRST, "2 rows", "delete the others"]),
    "no hash": (lambda r: set_cell(r, FIRST, "sha256", "abc"), [FIRST, "'abc'", "64 hexadecimal"]),
    "column missing": (
        lambda r: edit_manifest(r, lambda t: t.drop(columns="twin")),
        ["manifest.csv: columns", "'twin'", "make the data set again"],
    ),
    "rows too long": (_rows_too_long, ["manifest.csv: rows longer than the header"]),
    "empty manifest": (
        lambda r: edit_manifest(r, lambda t: t.iloc[:0]),
        ["manifest.csv: no rows", "python make_small.py"],
    ),
    "no manifest": (
        lambda r: (r / "manifest.csv").unlink(),
        ["manifest.csv: missing", "interrupted", "python make_small.py"],
    ),
    "binary manifest": (
        lambda r: (r / "manifest.csv").write_bytes(b"\xff\xfe\x00"),
        ["manifest.csv: unreadable", "expected CSV"],
    ),
    "no dataset.json": (
        lambda r: (r / "dataset.json").unlink(),
        ["dataset.json: missing", "data_scripts"],
    ),
    "broken dataset.json": (
        lambda r: (r / "dataset.json").write_text("{"),
        ["dataset.json: unreadable", "expected JSON"],
    ),
    "dataset.json of another kind": (
        lambda r: (r / "dataset.json").write_text("[]"),
        ["dataset.json: found list"],
    ),
    "later format": (lambda r: edit_info(r, format=2), ['"format" is 2', "reads 1"]),
    "anchor not first": (
        lambda r: edit_info(r, anchor="Spots"),
        ["anchor 'Spots' must be the first", "correct it there"],
    ),
    "anchor twice": (
        lambda r: edit_info(r, defects=["Normal", "Scratches", "Normal", "Spots"]),
        ["'Normal' 2 times"],
    ),
    "no products": (lambda r: edit_info(r, products=[]), ["products = []", "at least 1 item"]),
    "product with a slash": (
        lambda r: edit_info(r, products=["A", "B", "C/D"]),
        ["'C/D'", "folder name"],
    ),
    "two channels": (lambda r: edit_info(r, channels=2), ["channels: found 2", "1 or 3"]),
    "odd size": (lambda r: edit_info(r, image_size=[16]), ["found no image_size[1]"]),
    "odd flips": (lambda r: edit_info(r, flips={"A": ["diagonal"]}), ["'diagonal'", "'vertical'"]),
    "flips of nobody": (lambda r: edit_info(r, flips={"Q": []}), ["'Q'", "none of the products"]),
}


@pytest.mark.parametrize("name", QUICK)
def test_quick_check_finds(name, small):
    breaker, expected = QUICK[name]
    breaker(small)
    with pytest.raises(DatasetError) as caught:
        load_dataset(small)
    for part in expected:
        assert part in str(caught.value)
    assert str(small) in str(caught.value)


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


FULL: dict[str, tuple[Breaker, list[str]]] = {
    "truncated": (_truncate, [FIRST, "cannot be decoded", "python make_small.py"]),
    "no image at all": (lambda r: (r / FIRST).write_text("hello"), [FIRST, "cannot be decoded"]),
    "empty file": (lambda r: (r / FIRST).write_bytes(b""), [FIRST, "cannot be decoded"]),
    "wrong mode": (_as_rgb, [FIRST, "mode RGB, expected L", "convert it"]),
    "wrong size": (_larger, [FIRST, "16x20 pixels, expected 16x16", "resize it"]),
    "changed": (lambda r: Image.new("L", (16, 16)).save(r / FIRST), [FIRST, "its bytes changed"]),
    "grey mask": (_grey_mask, [f"masks/{FIRST}", "0 and 255 alone"]),
    "damaged mask": (
        lambda r: (r / "masks" / FIRST).write_bytes(b"\x89PNG"),
        [f"masks/{FIRST}", "cannot be decoded"],
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_full_check_finds_what_the_quick_one_cannot(name, small):
    breaker, expected = FULL[name]
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


def test_a_defect_with_one_training_image_is_a_problem(make_set):
    root = make_set(
        {("train", "A", "Normal"): 3, ("train", "A", "Scratches"): 1, ("train", "B", "Spots"): 2}
    )
    with pytest.raises(DatasetError, match="1 training images of Scratches, expected at least 2"):
        load_dataset(root)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder.*data_scripts"):
        load_dataset(tmp_path / "nowhere")
