"""Own pictures: folders and tables, copies, groups, splits, few images, second runs, full disks."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare_folder
from dtgan_core.dataset import config_for
from dtgan_lab.data import ImageStore, load_dataset
from dtgan_lab.data.adopt import FITS
from dtgan_lab.data.layout import STAGING_NAME
from tests.data.folder_fixtures import (
    as_zip,
    folder_words,
    left_out,
    mask_png,
    picture,
    png,
    tree_bytes,
    two_folders,
    write_tree,
)


def run(source: Path, out: Path, *words: str | int, anchor: str = "good") -> int:
    return prepare_folder.main(folder_words(source, out, *words, anchor=anchor))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "parts", two_folders())


# ----- layouts
def test_two_folders_become_a_data_set_that_trains(tmp_path, parts):
    out = tmp_path / "out"
    assert run(parts, out) == 0
    dataset = load_dataset(out, check="full")
    assert dataset.info.products == ("parts",) and dataset.info.defects == ("good", "scratched")
    assert dataset.info.name == "parts" and str(tmp_path) not in (out / "dataset.json").read_text()
    counts = dataset.manifest.groupby(["defect", "split"]).size().unstack()
    assert counts[["train", "val", "test"]].to_numpy().tolist() == [[9, 1, 2], [7, 1, 2]]
    assert counts.index.tolist() == ["good", "scratched"] and counts.shape == (2, 3)
    config = config_for(dataset, "tiny")
    store = ImageStore.load(dataset, "train", config.model.image_size, config.model.channels)
    assert len(store) == 16
    row = dataset.manifest.iloc[0]
    source = Image.open(parts / row["source"]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(Image.open(out / row["path"])), np.asarray(source))


def test_product_folders_and_deeper_ones(tmp_path):
    files = {f"{p}/{d}/batch{i % 2}/{i}.png": png(hash_of(p, d, i))
             for p in ("lid", "cup") for d in ("ok", "dent") for i in range(4)}  # fmt: skip
    source = write_tree(tmp_path / "src", files | {"lid/alone.png": png(1)})
    assert run(source, tmp_path / "out", anchor="ok") == 0
    dataset = load_dataset(tmp_path / "out")
    assert dataset.info.products == ("cup", "lid") and dataset.info.defects == ("ok", "dent")
    assert len(dataset.manifest) == 16
    assert list(left_out(tmp_path / "out")) == ["lid/alone.png"]


def hash_of(*words: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "little")


@pytest.mark.parametrize(
    ("files", "words", "expected"),
    [
        ({"Good/1.png": png(1)}, [], "write --anchor Good"),
        ({"fine/1.png": png(1)}, [], "found the folders: fine; name the folder of good parts"),
        ({"good/1.png": png(1), "a/good/2.png": png(2)}, [], "in good/ and in */good/"),
        ({"a/good/2.png": png(2)}, ["--product", "x"], "--product x names none"),
        ({"good/1.png": png(1), "good/2.png": png(2)}, [], "2 of good; expected at least 2 of"),
        ({"good/1.png": png(1), "bad/2.png": png(2)}, [], "1 of good, 1 of bad; expected"),
        (
            two_folders(2, 0) | {"Bad/1.png": b"x", "bad/2.png": b"x"},
            [],
            "'Bad', 'bad', 'good', ex",
        ),
    ],
)
def test_unfit_folders_are_explained(tmp_path, capsys, files, words, expected):
    source = write_tree(tmp_path / "src", files)
    assert run(source, tmp_path / "out", *words) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ----- tables
def table(root: Path, rows: list[dict[str, str]], separator: str = ",", bom: bool = False) -> Path:
    path = root / "list.csv"
    text = pd.DataFrame(rows).to_csv(index=False, sep=separator)
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return path


def rows_of(files: dict[str, bytes], **more: str) -> list[dict[str, str]]:
    return [{"path": name, "product": "lid", "defect": name.split("/")[0]} | more for name in files]


def test_a_table_with_groups_masks_and_splits(tmp_path):
    files = two_folders(6, 6)
    write_tree(tmp_path, files | {"m/s.png": mask_png(), "m/bad.png": mask_png((8, 9))})
    rows = rows_of(files)
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "val")[number % 3]
        row["group"] = f"part {number // 6}-{number % 3}"
        row["mask"] = "m/s.png" if row["defect"] != "good" else ""
    rows[-1]["mask"] = "m\\bad.png"
    assert run(table(tmp_path, rows, ";", bom=True), tmp_path / "out") == 0
    dataset = load_dataset(tmp_path / "out", check="full")
    assert set(dataset.manifest["split"]) == {"train", "val"}
    by_source = dataset.manifest.set_index("source")
    assert by_source.loc["scratched/s00.png", "group"] == "part 1-0"
    assert by_source.loc["scratched/s00.png", "mask"] != ""
    assert (by_source["mask"] != "").sum() == 5
    reasons = list(left_out(tmp_path / "out").values())
    assert reasons == ["8x9 pixels, expected 32x32 as its image"]


def test_rows_that_cannot_be_used_are_told(tmp_path):
    files = two_folders(6, 6)
    write_tree(tmp_path, files)
    more = (("none.png", "good"), ("good/g00.png", "scratched"), ("nul\0.png", "good"))
    rows = rows_of(files) + [{"path": p, "product": "lid", "defect": d} for p, d in more]
    assert run(table(tmp_path, rows), tmp_path / "out") == 0
    reasons = left_out(tmp_path / "out")
    assert "No such file" in reasons["none.png"]
    assert "2 different rows" in reasons["good/g00.png"]
    assert len(reasons) == 3


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("path,defect\na.png,good\n", [], "no column product, found ['path', 'defect']"),
        ("path;product;defect\na.png;;good\n", [], "row 2: product is empty"),
        ("path,product,defect,split\na,b,c,\nd,e,f,train\n", [], "filled in some rows only"),
        ("path,product,defect,split\na,b,c,dev\n", [], "split dev: expected one of train"),
        ("path,product,defect\n", [], "no rows"),
        ("path,product,defect\na,b,c,d\n", [], "rows longer than the header"),
        ('path,product,defect\n"a,b,c\n', [], "unreadable"),
        ("path,product,defect\na,b,c\n", ["--group-pattern", "(a)"], "--group-pattern is for"),
    ],
)
def test_unfit_tables_are_explained(tmp_path, capsys, text, words, expected):
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert run(path, tmp_path / "out", *words) == 1
    assert expected in capsys.readouterr().err


def test_torn_groups_and_untrained_defects_are_explained(tmp_path, capsys):
    files = two_folders(4, 4)
    write_tree(tmp_path, files)
    rows = rows_of(files, split="train")
    for row in rows[:2]:
        row["group"] = "one"
    rows[0]["split"] = "test"
    assert run(table(tmp_path, rows), tmp_path / "out") == 1
    assert "group 'one' lies in the splits test, train" in capsys.readouterr().err
    rows = rows_of(files, split="train")
    for row in rows[4:7]:
        row["split"] = "test"
    for words in ([], ["--dry-run"]):
        assert run(table(tmp_path, rows), tmp_path / "out", *words) == 1
        assert "1 training images of scratched, expected at least 2" in capsys.readouterr().err


# ----- copies and groups
def test_copies_are_kept_once_and_pull_their_groups_together(tmp_path):
    files = two_folders()
    picture(3).save(tmp_path / "again.bmp")
    files["scratched/copy.png"] = files["scratched/s00.png"]
    files["good/again.bmp"] = (tmp_path / "again.bmp").read_bytes()
    files["good/wrong.png"] = files["scratched/s05.png"]
    source = write_tree(tmp_path / "src", files)
    assert run(source, tmp_path / "out") == 0
    wrong = "the same picture stands under src/good, src/scratched; delete the wrong ones"
    assert left_out(tmp_path / "out") == {
        "good/g03.png": "the same pixels as good/again.bmp",
        "scratched/s00.png": "the same bytes as scratched/copy.png",
        **dict.fromkeys(("good/wrong.png", "scratched/s05.png"), wrong),
    }


def test_a_pattern_names_groups(tmp_path, capsys):
    files = {f"{d}/part{i // 3:02d}_{i % 3}.png": png(hash_of(d, i))
             for d in ("good", "bad") for i in range(30)}  # fmt: skip
    files["bad/part00_0.png"] = files["bad/part01_0.png"]  # two parts with one picture
    source = write_tree(tmp_path / "src", files | {"good/other.png": png(5)})
    assert run(source, tmp_path / "out", "--group-pattern", r"part(\d+)") == 0
    assert "finds nothing in 1 of 61 paths" in capsys.readouterr().out
    manifest = load_dataset(tmp_path / "out").manifest
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    number = manifest["source"].str.extract(r"part(\d+)")[0]
    number = number.replace("00", "01")
    assert (manifest.groupby(number)["split"].nunique() == 1).all(), "good and bad of one part"
    assert (manifest.groupby(number)["group"].nunique() == 1).all(), "copies join parts 0 and 1"
    with pytest.raises(SystemExit):
        run(source, tmp_path / "out", "--group-pattern", "part")


# ----- too little
def test_small_classes_are_told_and_all_train(tmp_path, capsys):
    source = write_tree(tmp_path / "src", two_folders(5, 2))
    assert run(source, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "2 training images, fewer than 8; expect little variety" in printed
    manifest = load_dataset(tmp_path / "out").manifest
    assert set(manifest.loc[manifest["defect"] == "scratched", "split"]) == {"train"}


def test_one_image_is_refused_or_left_out(tmp_path, capsys):
    files = two_folders(5, 5) | {"dent/1.png": png(50), "dent/2.png": png(50)}
    source = write_tree(tmp_path / "src", files)
    assert run(source, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "1 of dent, " in error and "--allow-few" in error
    assert run(source, tmp_path / "out", "--allow-few") == 0
    assert load_dataset(tmp_path / "out").info.defects == ("good", "scratched")
    assert "only 1 of dent" in capsys.readouterr().out


# ----- again, force, dry run, atomic
def test_a_second_run_does_nothing_and_a_changed_source_is_refused(tmp_path, parts, capsys):
    out = tmp_path / "out"
    (out / STAGING_NAME / "train").mkdir(parents=True)  # what a killed run leaves
    assert run(parts, out) == 0
    before = tree_bytes(out)
    (out / STAGING_NAME).mkdir()
    assert run(parts, out) == 0
    assert "is there already" in capsys.readouterr().out and tree_bytes(out) == before
    assert not (out / STAGING_NAME).exists()
    assert run(parts, out, "--seed", 1) == 1
    assert "- command: found" in capsys.readouterr().err
    write_tree(parts, {"good/new.png": png(77)})
    assert run(parts, out) == 1
    assert "--force" in capsys.readouterr().err and tree_bytes(out) == before
    assert run(parts, out, "--force") == 0
    assert len(load_dataset(out).manifest) == 23
    Path(out / load_dataset(out).manifest["path"][0]).unlink()
    assert run(parts, out) == 0, "a damaged set is made again"
    assert len(load_dataset(out, check="full").manifest) == 23


def test_the_same_source_gives_the_same_bytes_from_a_zip_too(tmp_path, parts):
    assert run(parts, tmp_path / "one") == 0
    assert run(as_zip(tmp_path / "parts.zip", tree_bytes(parts)), tmp_path / "zip") == 0
    assert load_dataset(tmp_path / "zip").info.products == ("parts",)
    moved = parts.rename(tmp_path / "elsewhere")  # another place, written in another order
    again = write_tree(tmp_path / "again" / "parts", dict(reversed(tree_bytes(moved).items())))
    assert run(again, tmp_path / "two") == 0
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_a_dry_run_counts_and_writes_nothing(tmp_path, parts, capsys):
    write_tree(parts, {f"good/broken{i}.png": b"no" for i in range(25)})
    assert run(parts, tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "scratched     10     10      10      7    1     2" in printed
    assert all(f"good/broken{i}.png: cannot be decoded" in printed for i in range(25))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fit", "word"), FITS.items())
def test_a_dry_run_tells_what_becomes_of_the_sides(tmp_path, parts, capsys, fit, word):
    write_tree(parts, {"good/wide.png": png(99, (48, 20)), "good/small.png": png(98, (16, 16))})
    assert run(parts, tmp_path / "out", "--dry-run", "--fit", fit) == 0
    printed = capsys.readouterr().out
    assert "note: 22 pictures become 16 pixels square: good/g00.png (32 x 32), " in printed
    uneven = f"note: 1 pictures are not square: {word} (see --fit), they become 16 pixels square"
    assert f"{uneven}: good/wide.png (48 x 20)\n" in printed


def test_fit_and_channels_reach_the_files(tmp_path):
    files = {f"{d}/{i}.png": png(hash_of(d, i), (48, 24), "RGB")
             for d in ("good", "bad") for i in range(4)}  # fmt: skip
    source, images = write_tree(tmp_path / "src", files), []
    for fit in ("squash", "crop", "letterbox"):
        out = tmp_path / fit
        assert run(source, out, "--fit", fit, "--channels", 3, "--flips", "both") == 0
        dataset = load_dataset(out, check="full")
        assert dataset.info.channels == 3
        assert dataset.info.flips == {"src": ("horizontal", "vertical")}
        path = dataset.manifest.set_index("source").loc["good/0.png", "path"]
        images.append(np.asarray(Image.open(out / str(path))))
    assert all(image.shape == (16, 16, 3) for image in images)
    assert not np.array_equal(images[0], images[1])
    assert (images[2][:4] == images[2][4]).all(), "borders repeat the outermost row"


def test_the_table_counts_what_was_found_and_taken_and_masks_are_pointed_out(tmp_path, capsys):
    files = two_folders(6, 5) | {"scratched/x.png": b"broken", "scratched/y.png": png(1000)}
    files["scratched/s00_mask.png"] = mask_png()
    assert run(write_tree(tmp_path / "src", files), tmp_path / "out") == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert " ".join(lines[0].split()) == "product defect found taken groups train val test"
    assert lines[2].split() == ["src", "scratched", "8", "6", "6", "4", "1", "1"]
    assert "note: 1 pictures are nothing but black and white, as masks are" in printed
    assert "scratched/s00_mask.png" in printed
