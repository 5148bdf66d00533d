"""SDI from small archives of the published layout: labels, counts, splits, download."""

import hashlib
from collections import Counter

import prepare_sdi
from dtgan_lab.data import load_dataset
from dtgan_lab.data.synthetic.sdi import COUNTS, PRODUCTS
from prepare_sdi import PUBLISHED
from tests.data.folder_fixtures import as_zip, png, write_tree
from tests.data.test_download import Behaviour, served

PER_CELL = 6
SPLITS = ("train", "train", "train", "val", "test", "test")


def members() -> dict[str, bytes]:
    """Six pictures a cell; of A, one lies under both defects; a licence."""
    files: dict[str, bytes] = {}
    for product in PRODUCTS:
        for number, split in enumerate(SPLITS):
            files[f"SDI_DATASET_v1/{product}_ok/{product}_ok_{number:05d}.jpg"] = png(len(files))
            for defect in ("scratches", "spots"):
                name = f"{product}_{defect[:2]}_{split}_{number:05d}.jpg"
                place = f"SDI_DATASET_v1/{product}_nok/{split}/{defect}/{name}"
                files[place] = png(len(files), (30, 30) if product == "A" else (24, 24), "RGB")
    twice = files["SDI_DATASET_v1/A_nok/train/scratches/A_sc_train_00000.jpg"]
    files["SDI_DATASET_v1/A_nok/val/spots/A_sp_val_00003.jpg"] = twice
    return files | {"SDI_DATASET_v1/LICENSE.txt": b"CC BY-SA 4.0"}


def run(*words: object) -> int:
    return prepare_sdi.main([str(word) for word in ("--size", 16, *words)])


def test_the_archive_becomes_a_data_set(tmp_path, capsys):
    source = as_zip(tmp_path / "sdi.zip", members())
    assert run("--source", source, "--out", tmp_path / "out", "--any-counts") == 0
    printed = capsys.readouterr().out
    assert "left out, contradiction: 2" in printed and "A_nok/val/spots/A_sp_val_00003" in printed
    dataset = load_dataset(tmp_path / "out", check="full")
    assert dataset.info.defects == ("Normal", "Scratches", "Spots")
    assert dataset.info.products == PRODUCTS and "BY-SA" in dataset.info.licence
    cells = Counter(zip(dataset.manifest["product"], dataset.manifest["defect"], strict=True))
    assert cells == dict.fromkeys(PUBLISHED, PER_CELL) | {
        ("A", "Scratches"): PER_CELL - 1,
        ("A", "Spots"): PER_CELL - 1,
    }
    for _, row in dataset.manifest.iterrows():
        if row["defect"] != "Normal":
            assert f"/{row['split']}/{row['defect'].lower()}/" in row["source"]
    normal = dataset.manifest[dataset.manifest["defect"] == "Normal"]
    assert set(normal["split"]) == {"train", "val", "test"}, "dealt, as the archive has no split"


def test_other_counts_are_refused(tmp_path, capsys):
    files = members() | {"SDI_DATASET_v1/overview.png": png(9999)}
    source = write_tree(tmp_path / "sdi", files)
    assert run("--source", source, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "A Normal: found 6, expected 6,184" in error and "--any-counts" in error
    assert "overview.png: expected" in error
    assert not (tmp_path / "out").exists()
    assert run("--source", source, "--out", tmp_path / "out", "--any-counts", "--dry-run") == 0
    assert "other counts than the archive's: A Normal" in capsys.readouterr().out


def test_normal_images_are_dealt_as_in_the_data_sheet():
    assert sum(PUBLISHED.values()) == 18_807
    cells = {
        f"{product}-{number}": [f"{product}/Normal"]
        for product in PRODUCTS
        for number in range(PUBLISHED[product, "Normal"])
    }
    splits = prepare_sdi.deal_normal(cells, seed=0)
    found = Counter((split, cells[group][0]) for group, split in splits.items())
    for number, product in enumerate(PRODUCTS):
        held = [COUNTS[split]["Normal"][number] for split in ("val", "test", "train")]
        expected = [*held, PUBLISHED[product, "Normal"] - sum(held)]
        names = ("val", "test", "train", "pool")
        assert [found[split, f"{product}/Normal"] for split in names] == expected
    assert splits == prepare_sdi.deal_normal(dict(reversed(cells.items())), seed=0)
    assert splits != prepare_sdi.deal_normal(cells, seed=1)


def test_a_pointer_of_git_lfs_is_explained(tmp_path, capsys):
    pointer = tmp_path / "SDI_DATASET_v1.zip"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:d33e\nsize 1\n")
    assert run("--source", pointer, "--out", tmp_path / "out") == 1
    assert "git lfs pull" in capsys.readouterr().err


def test_a_download_is_kept_and_used_again(tmp_path, monkeypatch, capsys):
    data = as_zip(tmp_path / "sdi.zip", members()).read_bytes()
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
    assert len(load_dataset(out).manifest) == 9 * PER_CELL - 2
