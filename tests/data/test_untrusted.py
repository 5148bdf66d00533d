"""Pictures that nobody vouches for: one function opens them, in bounded memory, with a reason."""

import os
import re
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_folder
from dtgan_core import images
from dtgan_core.checkpoints import CheckpointError, labels_of
from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_core.images import decoded, image_to_array, open_image
from dtgan_lab.data import ImageError, ImageStore, load_dataset
from dtgan_lab.data.archives import require_source
from dtgan_lab.data.join import Part, join_datasets
from dtgan_lab.data.layout import write_dataset
from dtgan_lab.data.subset import make_subset
from dtgan_lab.files import cell
from tests.data.folder_fixtures import folder_words, left_out, picture, png, two_folders, write_tree
from tests.data.hostile_fixtures import HARMLESS, PER_KIND, encoded, hostile_files
from tests.data.test_validation import FIRST, edit_info, set_cell

ROOT = Path(__file__).parents[2]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n"


# ----- two hundred damaged or hostile files: each is told, the rest is taken, nothing leaves
def test_two_hundred_hostile_files_are_told_and_the_rest_is_taken(tmp_path, capsys, monkeypatch):
    source = write_tree(tmp_path / "src", {f"good/sound{n}.png": png(n) for n in range(4)})
    expected = hostile_files(source, monkeypatch)
    assert len(HARMLESS) * PER_KIND + len(expected) >= 200
    before = sorted(path.name for path in tmp_path.iterdir())

    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    told = left_out(tmp_path / "out")
    assert set(told) == set(expected), "each by name, and no sound one"
    wrong = {name: told[name] for name, text in expected.items() if text not in told[name]}
    assert not wrong
    dataset = load_dataset(tmp_path / "out", check="full")
    assert len(dataset.manifest) == 4 + len(HARMLESS) * PER_KIND
    assert dataset.manifest["source"].map(str.isprintable).all()
    assert dataset.manifest["path"].map(str.isascii).all()
    printed = capsys.readouterr().out
    assert "note: 10 pictures have several frames or pages, the first is taken: bad/anim" in printed
    assert "left out, empty file: 10" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])


def test_cielab_is_read_and_what_cannot_be_converted_has_its_reason(monkeypatch):
    lab = Image.frombytes("LAB", (16, 16), np.full((16, 16, 3), 128, np.uint8).tobytes())
    data = encoded(lab, "TIFF")
    assert image_to_array(data, 1, 8).shape == (8, 8, 1)
    assert image_to_array(data, 3, 8).shape == (8, 8, 3)

    def convert(self: object, mode: str) -> None:
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(ImageError, match="a.tif: cannot be decoded .conversion not supported"):
        open_image(data, "L", "a.tif")


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    ghost = tmp_path / "bin/gs"
    ghost.parent.mkdir()
    ghost.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghost.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghost.parent}:{os.environ['PATH']}")
    for name in ("a.png", "b.eps"):
        (tmp_path / name).write_bytes(POSTSCRIPT)
        with pytest.raises(ImageError, match=f"{name}: cannot be decoded .no picture of the kinds"):
            image_to_array(tmp_path / name, 1, 8)
    assert not (tmp_path / "started").exists()


def test_pictures_are_opened_in_one_place():
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("dtgan_core", "dtgan_lab", "data_scripts", "notebooks", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"Image\.open\(|imread\(|read_image\(", line)
    ]
    assert [line.split(":")[0] for line in found] == ["dtgan_core/images.py"], found
    assert "formats=FORMATS" in found[0]


# ----- memory
def test_the_pixel_limit_holds_for_all_threads_together(monkeypatch):
    monkeypatch.setattr(images, "LARGEST_PIXELS", 2 * 32 * 32 + 5)
    most, lock, now = [0], threading.Lock(), [0]

    def work() -> None:
        with decoded(png(1), "L"):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.02)
            with lock:
                now[0] -= 1

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work) for _ in range(8)]:
            done.result()
    assert most == [2]
    with pytest.raises(ImageError, match="100 x 100 pixels, a decompression bomb"):
        open_image(png(1, (100, 100)), "L")
    with pytest.raises(ZeroDivisionError), decoded(png(1), "L"):
        _ = 1 / 0
    assert images._under_way == [0]


# ----- pipes
@pytest.mark.parametrize("place", [FIRST, "dataset.json", "manifest.csv"])
def test_a_pipe_in_a_data_set_is_refused(place, small):
    (small / place).unlink()
    os.mkfifo(small / place)
    with pytest.raises(DatasetError, match=f"{Path(place).name}.*a pipe, socket, device"):
        ImageStore.load(load_dataset(small), "train", 16, 1, progress=False)
    with pytest.raises(DatasetError, match="a pipe, socket, device"):
        load_dataset(small, check="full")


@pytest.mark.parametrize("name", ["parts", "parts.csv"])
def test_a_pipe_as_source_is_refused(name, tmp_path, capsys):
    os.mkfifo(tmp_path / name)
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(folder_words(tmp_path / name, tmp_path / "out"))
    assert "expected a file or a folder" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="a pipe, socket"):
        require_source(tmp_path / name)  # where no command line has looked
    with pytest.raises(ImageError, match="a pipe"):
        image_to_array(tmp_path / name, 1, 8)


# ----- names and warnings
def test_names_reach_the_terminal_and_tables_escaped(tmp_path):
    evil = "a\x1b]0;owned\x07\nb.png"
    (tmp_path / evil).write_bytes(b"no picture")
    with pytest.raises(ImageError) as caught:
        image_to_array(tmp_path / evil, 1, 8)
    error = DatasetError(f"{evil}:", {"": [evil]})
    for text in (str(caught.value), *str(error).split("\n"), shown(evil)):
        assert text.isprintable(), text
    assert [cell(text) for text in ("=1+1", "+1", "-1", "@x", "\t=1", "a=1", -1, None)] == [
        *("'=1+1", "'+1", "'-1", "'@x", "'\\t=1", "a=1", -1, None)
    ]


def test_what_was_left_out_runs_nothing_and_a_changed_picture_is_made_anew(tmp_path, capsys):
    files = two_folders(4, 4) | {"=cmd|'calc'!A1": b"x", "good/\x1b[31m\n.png": b"x"}
    source, out = write_tree(tmp_path / "parts", files), tmp_path / "out"
    assert prepare_folder.main(folder_words(source, out)) == 0
    assert sorted(left_out(out)) == ["'=cmd|'calc'!A1", "good/\\x1b[31m\\n.png"]
    victim = out / str(load_dataset(out).manifest["path"].iloc[0])
    whole = victim.read_bytes()
    victim.write_bytes(png(77, (16, 16)))
    capsys.readouterr()
    assert prepare_folder.main(folder_words(source, out)) == 0
    assert "is damaged and made again" in capsys.readouterr().out
    assert victim.read_bytes() == whole


def test_what_libtiff_finds_is_the_reason_and_not_printed(capfd):
    data = bytearray(encoded(picture(1, (64, 64)), "TIFF", compression="tiff_adobe_deflate"))
    data[200:400] = bytes(200)
    with pytest.raises(ImageError, match="ecoding error at scanline"):
        open_image(bytes(data), "L", "a.tif")
    assert capfd.readouterr().err == ""


# ----- exchanged pixels
def test_training_notices_exchanged_pictures(small):
    def refused(message: str) -> None:
        dataset = load_dataset(small)
        with pytest.raises(DatasetError, match=message) as caught:
            ImageStore.load(dataset, "train", 16, 1, progress=False)
        assert "make the data set again: python make_small.py --out DIR" in str(caught.value)
        with pytest.raises(DatasetError, match="its bytes changed"):
            load_dataset(small, check="full")

    one, two = small / FIRST, small / "train/A/Spots/000.png"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    refused(r"(Scratches|Spots)/000\.png: sha256 .* not what was prepared")
    two.write_bytes(second)
    one.write_bytes(png(7, (16, 16)))
    refused(r"Scratches/000\.png: sha256")
    one.write_bytes(first)
    ImageStore.load(load_dataset(small), "train", 16, 1, progress=False)
    set_cell(small, FIRST, "sha256", "0" * 64)
    refused(r"Scratches/000\.png: sha256 .*, expected 0000")


def test_training_notices_exchanged_masks(small):
    def masks() -> object:
        return ImageStore.load(load_dataset(small), "train", 16, 1, progress=False).masks()

    assert masks() is not None
    Image.new("L", (16, 16), 255).save(small / "masks" / FIRST)
    with pytest.raises(DatasetError, match=r"masks/.*000\.png: sha256 .*not what was prepared"):
        masks()
    with pytest.raises(DatasetError, match=r"masks/.*its bytes changed"):
        load_dataset(small, check="full")
    (small / "SHA256SUMS").write_bytes(b"\xff\n")
    for read in (masks, lambda: load_dataset(small, check="full")):
        with pytest.raises(DatasetError, match="SHA256SUMS: unreadable"):
            read()
    (small / "SHA256SUMS").unlink()  # as an older kit wrote it
    assert masks() is not None and load_dataset(small, check="full")


@pytest.mark.parametrize("place", [FIRST, f"masks/{FIRST}"])
def test_what_is_joined_or_cut_down_is_what_was_prepared(place, small, tmp_path):
    dataset = load_dataset(small)
    (small / place).write_bytes(png(7, (16, 16)))
    with pytest.raises(DatasetError, match="not what was prepared"):
        join_datasets([Part(dataset)], tmp_path / "joint", progress=False)
    with pytest.raises(DatasetError, match="not what was prepared"):
        make_subset(dataset, {("B", "Spots"): 2}, tmp_path / "few")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


# ----- names on other disks and in spreadsheets
@pytest.mark.parametrize(
    "names", [("A", "a"), ("é", "e\u0301"), ("=A", "B"), ("-A", "@"), ("../A", "B")]
)
def test_a_label_is_a_folder_of_its_own_on_any_disk(names, small):
    with pytest.raises(CheckpointError, match=r"card\.json: found data\.products"):
        labels_of({"products": list(names), "defects": ["Normal"]}, 2, 1, Path("card.json"))
    edit_info(small, products=names, flips={})
    told = r"products.*(cannot be a folder name|times, expected once)"
    with pytest.raises(DatasetError, match=told):
        load_dataset(small)


def test_words_of_strangers_are_no_formulas_and_paths_differ_in_more_than_case(small):
    dataset = load_dataset(small)
    rows = dataset.manifest.copy()
    rows.loc[0, ["group", "source"]] = ["=1+1", "@x"]
    write_dataset(small, rows, dataset.info)
    first = load_dataset(small, check="full").manifest.iloc[0]
    assert [first["group"], first["source"]] == ["'=1+1", "'@x"]
    for number, name in (("000", "x.png"), ("001", "X.png")):
        old = f"train/A/Normal/{number}.png"
        (small / old).rename(small / f"train/A/Normal/{name}")
        set_cell(small, old, "path", f"train/A/Normal/{name}")
    with pytest.raises(DatasetError, match=r"X\.png: one file with .*x\.png on some disks"):
        load_dataset(small)


# ----- what Pillow warns of
def test_warnings_are_told_of_their_file(tmp_path, capsys, recwarn):
    data = bytearray(encoded(picture(1, (64, 64)), "TIFF", description="x" * 50))
    place = data.index(struct.pack("<HH", 270, 2))
    data[place + 4 : place + 8] = b"\xff\xff\xff\x7f"  # letters of its description
    with pytest.raises(ImageError, match="cannot be decoded .*; Tag data larger than file"):
        open_image(bytes(data[:-100]), "L", "a.tif")
    source = write_tree(tmp_path / "parts", two_folders(4, 4) | {"good/odd.tif": bytes(data)})
    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    told = "are damaged beside their pixels, which are whole: good/odd.tif (Tag data larger than"
    assert f"note: 1 pictures {told}" in capsys.readouterr().out
    data[place : place + 4] = struct.pack("<HH", 277, 3)  # samples of a pixel
    data[place + 4 : place + 12] = struct.pack("<IHH", 1, 122, 0)
    with pytest.raises(ImageError, match="; .*More samples per pixel than can be decoded: 122"):
        open_image(bytes(data), "L", "a.tif")
    assert capsys.readouterr().err == "" and not [w for w in recwarn if "PIL" in w.filename]
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b.png")
    with decoded(tmp_path / "b.png") as image:
        assert image.info["said"] == [], "each file has its own"
