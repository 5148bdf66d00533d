"""SDI from small archives of plausible layouts: labels, counts, splits, download."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import prepare_sdi
from dtgan_lab.data import load_dataset
from dtgan_lab.data.sdi_source import PRODUCTS, SHEET, deal_sdi, label_of
from dtgan_lab.data.synthetic.sdi import COUNTS
from tests.data.folder_fixtures import png, write_tree
from tests.data.test_download import Behaviour, served

PER_CELL = 5
LAYOUTS = {
    "product folders": "SDI_DATASET_v1/product_{product}/{defect}/{number:04d}.png",
    "defect folders": "SDI/{defect}/{product}/img_{number}.png",
    "split folders": "data/{split}/{product}/{defect}/{number}.bmp.png",
    "file names": "SDI_DATASET_v1/{product}_{defect}_{number}.png",
    "camel case": "Product{product}/{defect}/{product}{number}.png",
    "lower case": "{defect}/product{product}-{number}.png",
}


def members(layout: str, start: int = 0) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for product in PRODUCTS:
        for defect in COUNTS["train"]:
            for number in range(PER_CELL):
                told = defect
                if layout == "lower case":
                    told = {"Normal": "good", "Scratches": "scratch"}.get(defect, "spots")
                name = LAYOUTS[layout].format(
                    product=product, defect=told, number=number, split=("train", "test")[number % 2]
                )
                files[name] = png(start + len(files))
    return files | {"SDI_DATASET_v1/LICENSE.txt": b"CC BY-SA 4.0"}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def run(*words: object) -> int:
    return prepare_sdi.main([str(word) for word in ("--size", 16, *words)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_labels(tmp_path: Path, layout: str) -> None:
    source = write_zip(tmp_path / "sdi.zip", members(layout))
    assert run("--source", source, "--out", tmp_path / "out", "--any-counts") == 0
    dataset = load_dataset(tmp_path / "out", check="full")
    assert dataset.info.defects == ("Normal", "Scratches", "Spots")
    assert dataset.info.products == PRODUCTS and "BY-SA" in dataset.info.licence
    cells = Counter(zip(dataset.manifest["product"], dataset.manifest["defect"], strict=True))
    assert cells == dict.fromkeys(SHEET, PER_CELL)
    for _, row in dataset.manifest.iterrows():
        assert label_of(row["source"]) == ([row["product"]], [row["defect"]])


def test_an_unpacked_folder_will_do(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "sdi", members("defect folders"))
    assert run("--source", source, "--out", tmp_path / "out", "--any-counts") == 0
    assert len(load_dataset(tmp_path / "out").manifest) == 9 * PER_CELL


def test_names_that_say_too_little_or_too_much() -> None:
    assert label_of("x/0001.png") == ([], [])
    assert label_of("A/Scratches/3b7a-c.png") == (["A"], ["Scratches"])
    assert label_of("A_B/Scratches/1.png") == (["A", "B"], ["Scratches"])
    assert label_of("abc/normality/1.png") == ([], [])


def test_other_counts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = members("file names") | {"SDI_DATASET_v1/overview.png": png(9999)}
    source = write_zip(tmp_path / "sdi.zip", files)
    assert run("--source", source, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "A Normal: found 5, expected 6,250" in error and "--any-counts" in error
    assert "overview.png: names no product and no defect" in error
    assert not (tmp_path / "out").exists()
    assert run("--source", source, "--out", tmp_path / "out", "--any-counts", "--dry-run") == 0
    assert "other counts than the data sheet's: A Normal" in capsys.readouterr().out


def test_the_splits_are_those_of_the_sheet() -> None:
    assert sum(SHEET.values()) == 20_414
    cells = {
        f"{product}-{defect}-{number}": [f"{product}/{defect}"]
        for (product, defect), count in SHEET.items()
        for number in range(count)
    }
    splits = deal_sdi(cells, seed=0)
    found = Counter((split, cells[group][0]) for group, split in splits.items())
    for split, per_defect in COUNTS.items():
        for defect, counts in per_defect.items():
            for product, count in zip(PRODUCTS, counts, strict=True):
                assert found.pop((split, f"{product}/{defect}")) == count
    assert found == {("pool", f"{product}/Normal"): 5500 for product in PRODUCTS}
    assert splits == deal_sdi(dict(reversed(cells.items())), seed=0)
    assert splits != deal_sdi(cells, seed=1)


def test_a_pointer_of_git_lfs_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pointer = tmp_path / "SDI_DATASET_v1.zip"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:d33e\nsize 1\n")
    assert run("--source", pointer, "--out", tmp_path / "out") == 1
    assert "git lfs pull" in capsys.readouterr().err


def test_a_download_is_kept_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_zip(tmp_path / "sdi.zip", members("product folders")).read_bytes()
    monkeypatch.setattr(prepare_sdi, "ARCHIVE_SIZE", len(data))
    monkeypatch.setattr(prepare_sdi, "ARCHIVE_SHA256", hashlib.sha256(data).hexdigest())
    behaviour = Behaviour(data, cuts=[1000])
    out = tmp_path / "new" / "out"
    with served(behaviour) as url:
        monkeypatch.setattr(prepare_sdi, "ARCHIVE_URL", url)
        assert run("--out", out, "--any-counts", "--dry-run") == 0
        assert "would download" in capsys.readouterr().out and not behaviour.asked
        assert run("--out", out, "--any-counts") == 0
        assert run("--out", out, "--any-counts") == 0
    assert behaviour.asked == ["bytes=0-", "bytes=1000-"]
    assert "is there already" in capsys.readouterr().out
    assert (tmp_path / "new" / "SDI_DATASET_v1.zip").read_bytes() == data
    assert len(load_dataset(out).manifest) == 9 * PER_CELL
