"""What each format writes, read back by what it is meant for."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from torchvision.datasets import ImageFolder

from dtgan_core.config import make_config
from dtgan_core.synthesis import Synthesizer, find_images
from dtgan_lab.data import load_dataset
from dtgan_lab.export import FORMATS
from dtgan_lab.export.datasets import run_lengths, spots
from dtgan_lab.export.drawing import Part, export_columns
from dtgan_lab.export.formats import write_tar
from tests.core_fixtures import DEFECTS, SIZE, picture, save_picture, write_tiny_export
from tests.export.export_fixtures import BOTH, export


def pixels(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def plain(synth: Synthesizer, good: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same order in the default format, which the others are compared with."""
    out = tmp_path_factory.mktemp("plain") / "out"
    export(synth, good, out)
    return out


# --- ImageFolder ---------------------------------------------------------------------------------
def test_torchvision_reads_an_imagefolder(plain, synth, good, tmp_path):
    table = export(synth, good, tmp_path / "out", format="imagefolder")
    read = ImageFolder(str(tmp_path / "out"))
    assert read.classes == list(BOTH)
    assert len(read) == 10
    found = {Path(path).name: read.classes[label] for path, label in read.samples}
    assert found == {Path(r["path"]).name: r["defect"] for r in table.to_dict("records")}
    for row in table.to_dict("records"):
        same = plain / f"images/{row['index']:06d}.png"
        assert (tmp_path / "out" / row["path"]).read_bytes() == same.read_bytes()


def test_an_imagefolder_a_product(synth, good, labels, tmp_path):
    out = tmp_path / "out"
    table = export(synth, good, out, format="imagefolder", by_product=True, parts=labels)
    assert ImageFolder(str(out)).classes == ["A", "B"]
    for product in "AB":
        assert ImageFolder(str(out / product)).classes == list(BOTH)
    for row in table.to_dict("records"):
        assert row["path"].split("/")[0] == labels[row["background"]].product


@pytest.mark.parametrize("kind", ["imagefolder", "layout"])
def test_backgrounds_of_an_unknown_product_are_named(kind, synth, good, labels, tmp_path):
    known = {path: part for path, part in labels.items() if path != str(good[2])}
    more = {"format": kind, "by_product": kind == "imagefolder"}
    with pytest.raises(ValueError, match=r"2\.png: found no product.*--product NAME"):
        export(synth, good, tmp_path / "out", parts=known, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("product", ["../up", "/etc", "..", ".hidden", "a\\b", " "])
def test_a_product_cannot_lead_out_of_the_folder(product, synth, good, tmp_path):
    known = {str(path): Part(product) for path in good}
    for kind in FORMATS:
        with pytest.raises(ValueError, match="cannot be a folder's name"):
            export(synth, good, tmp_path / "out", format=kind, parts=known)
    assert list(tmp_path.iterdir()) == []


# --- the kit's own layout ------------------------------------------------------------------------
def test_the_layout_is_a_data_set_that_says_what_is_synthetic(plain, synth, good, labels, tmp_path):
    out = tmp_path / "out"
    export(synth, good, out, format="layout", parts=labels)
    dataset = load_dataset(out, check="full")
    assert dataset.info.products == ("A", "B")
    assert dataset.info.defects == DEFECTS
    assert "approximate" in dataset.info.source
    table = dataset.manifest
    synthetic = table["source"].str.startswith("synthetic: DT-GAN")
    assert synthetic.sum() == 10
    assert set(table[synthetic]["defect"]) == set(BOTH)
    real = table[~synthetic]
    assert list(real["source"]) == [f"real: {path}" for path in (good[0], good[2], *good[1::2])]
    assert set(real["defect"]) == {"Normal"}
    for row in table[synthetic].to_dict("records"):
        number = int(Path(row["path"]).stem.removeprefix("synthetic-"))
        made = plain / f"images/{number:06d}.png"
        assert (out / row["path"]).read_bytes() == made.read_bytes()
        assert row["mask"] == "" or (out / row["mask"]).is_file()
        background = next(path for path in good if f"background {path}" in row["source"])
        assert row["product"] == labels[str(background)].product
        twin = real[real["source"] == f"real: {background}"]
        assert row["group"] == twin["group"].item()
    assert table["mask"].astype(bool).any()
    listed = pd.read_csv(out / "synthetic.csv", keep_default_na=False)
    assert tuple(listed.columns) == export_columns("approximate")
    assert set(listed["path"]) == set(table[synthetic]["path"])


def test_the_layout_leaves_images_out_that_are_copies_of_each_other(
    synth, good, parts, labels, tmp_path
):
    references = {name: find_images(parts / "bad" / name)[:1] for name in BOTH}
    out = tmp_path / "out"
    more = {"parts": labels, "references": references, "count": 12, "batch_size": 12}
    export(synth, good[:2], out, format="layout", **more)
    made = load_dataset(out, check="full").manifest["path"].str.contains("synthetic")
    assert made.sum() == 4  # two backgrounds and one reference of each of two defects
    rejects = pd.read_csv(out / "rejects.csv", keep_default_na=False)
    assert len(rejects) == 8
    assert rejects["reason"].str.startswith("a copy: the same bytes").all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"count": 3}, "at least 2 and 4"),
        ({"defects": ("Normal", "Spots")}, "--defect Normal"),
        ({"defects": ("Spots", "Spots")}, "expected each once"),
    ],
)
def test_a_layout_that_could_not_be_trained_on_is_refused(
    more, message, synth, good, labels, tmp_path
):
    with pytest.raises(ValueError, match=message):
        export(synth, good, tmp_path / "out", format="layout", parts=labels, **more)
    assert not (tmp_path / "out").exists()


# --- COCO ----------------------------------------------------------------------------------------
def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """COCO's uncompressed run lengths as a bool (H, W) mask."""
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2
    flat = np.repeat(values, segmentation["counts"])
    return flat.reshape(width, height).T.astype(bool)


def test_coco_boxes_and_masks_are_those_of_the_difference(plain, synth, good, tmp_path):
    out = tmp_path / "out"
    table = export(synth, good, out, format="coco")
    found = json.loads((out / "annotations.json").read_text())
    assert "approximate" in found["info"]["description"]
    assert {c["id"]: c["name"] for c in found["categories"]} == {1: "Scratches", 2: "Spots"}
    assert [image["id"] for image in found["images"]] == list(range(10))
    assert len({a["id"] for a in found["annotations"]}) == len(found["annotations"]) > 0
    for image, row in zip(found["images"], table.to_dict("records"), strict=True):
        assert image["file_name"] == row["path"]
        assert (image["width"], image["height"]) == (SIZE, SIZE)
        assert image["synthetic"] is True
        mine = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        mask = pixels(out / row["approximate_mask"]) > 0
        union = np.zeros_like(mask)
        for annotation in mine:
            assert annotation["approximate"] is True
            assert annotation["mask_kind"] == "approximate"
            assert annotation["category_id"] == 1 + BOTH.index(row["defect"])
            spot = decoded(annotation["segmentation"])
            rows, columns = np.nonzero(spot)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert annotation["area"] == spot.sum() >= 4
            assert not (union & spot).any()
            union |= spot
        assert not (union & ~mask).any()
        missing, count = ndimage.label(mask & ~union, structure=np.ones((3, 3)))
        assert all((missing == n + 1).sum() < 4 for n in range(count)), "small spots alone"
    same = [(out / p).read_bytes() == (plain / p).read_bytes() for p in table["path"]]
    assert all(same)


def test_spots_leaves_noise_out_and_joins_corners():
    mask = np.zeros((6, 8), dtype=bool)
    mask[0, 0] = True  # one pixel
    mask[1:3, 2:4] = mask[3:5, 4:6] = True  # they touch at a corner
    (spot,) = spots(mask)
    assert spot["bbox"] == [2, 1, 4, 4]
    assert spot["area"] == 8
    expected = mask.copy()
    expected[0, 0] = False
    assert np.array_equal(decoded(spot["segmentation"]), expected)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([[1, 0], [1, 1]], [0, 2, 1, 1]), ([[0, 0], [0, 1]], [3, 1]), ([[0, 0], [0, 0]], [4])],
)
def test_run_lengths_go_down_the_columns(mask, expected):
    assert run_lengths(np.array(mask, dtype=bool)) == expected


# --- shards --------------------------------------------------------------------------------------
def samples(paths: list[Path]) -> list[dict[str, bytes]]:
    """Samples as WebDataset reads them: neighbouring members that agree up to the first dot."""
    found: list[dict[str, bytes]] = []
    for path in paths:
        last = None
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                if key != last:
                    found.append({"__key__": key.encode()})
                last = key
                file = archive.extractfile(member)
                assert file is not None
                assert kind not in found[-1], "a kind twice"
                found[-1][kind] = file.read()
    return found


def test_shards_hold_whole_samples_in_order(plain, synth, good, tmp_path):
    out = tmp_path / "out"
    table = export(synth, good, out, format="tar")
    shards = sorted(out.glob("shard-*.tar"))
    assert [path.name for path in shards] == [f"shard-{n:06d}.tar" for n in range(3)]
    read = samples(shards)
    assert [sample["__key__"] for sample in read] == [b"%06d" % n for n in range(10)]
    for sample, row in zip(read, table.to_dict("records"), strict=True):
        name = f"{row['index']:06d}.png"
        assert set(sample) == {"__key__", "png", "mask.png", "cls", "json"}
        assert sample["png"] == (plain / "images" / name).read_bytes()
        assert sample["mask.png"] == (plain / "approximate_masks" / name).read_bytes()
        assert DEFECTS[int(sample["cls"])] == row["defect"]
        told = json.loads(sample["json"])
        assert told["synthetic"] is True
        assert told["background"] == row["background"]
        archive, member = row["path"].split("/")
        with tarfile.open(out / archive) as opened:
            assert member in opened.getnames()
    assert sorted(p.name for p in out.iterdir()) == [
        "export.json",
        "manifest.csv",
        *(path.name for path in shards),
    ]


def test_webdataset_itself_reads_the_shards(synth, good, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    export(synth, good, tmp_path / "out", format="tar")
    paths = sorted(str(path) for path in (tmp_path / "out").glob("shard-*.tar"))
    read = list(webdataset.WebDataset(paths, shardshuffle=False).decode("l8"))
    assert [sample["__key__"] for sample in read] == [f"{n:06d}" for n in range(10)]
    assert read[0]["png"].shape == (SIZE, SIZE)


def test_the_same_members_are_the_same_bytes(tmp_path):
    for name in ("one.tar", "two.tar"):
        write_tar(tmp_path / name, [("a.png", b"x" * 700), ("a.json", b"{}")])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert {m.mtime for m in archive} == {0}
        assert {(m.uid, m.gid, m.uname, m.gname) for m in archive} == {(0, 0, "", "")}


def test_a_background_whose_name_is_no_text_is_exported_in_every_format(synth, tmp_path):
    odd = [tmp_path / "in" / (os.fsdecode(b"\xff ") + f"\n ü {n}.png") for n in range(2)]
    for n, path in enumerate(odd):
        save_picture(path, picture(n, 0, 1))
    known = {str(path): Part("A", "", "") for path in odd}
    for kind in FORMATS:
        table = export(synth, odd, tmp_path / kind, format=kind, count=4, parts=known)
        assert len(table) == (6 if kind == "layout" else 4)
    load_dataset(tmp_path / "layout", check="full")


# --- masks that the model makes ------------------------------------------------------------------
@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    config = make_config("tiny", "f", train={"precision": "fp32"})
    return Synthesizer.load(write_tiny_export(tmp_path_factory.mktemp("composed"), config))


def test_generated_masks_are_told_from_approximate_ones(composed, good, labels, tmp_path):
    """Columns, folders and texts name what the masks of configuration (f) are."""
    kinds = ("folder", "coco", "tar", "layout")
    tables = {
        kind: export(composed, good, tmp_path / kind, format=kind, parts=labels) for kind in kinds
    }
    assert tuple(tables["folder"].columns) == export_columns("generated")
    assert not list(tmp_path.rglob("*approximate*"))
    x = composed.images([tables["folder"]["background"][0]])
    guide = composed.latent_guides(tables["folder"]["defect"][0], 3, [0])
    painted = composed.painted(composed.background(x), guide)
    assert painted.mask is not None
    row = tables["folder"].iloc[0]
    soft = pixels(tmp_path / "folder" / row["soft_mask"])
    assert np.abs(soft - 255 * painted.mask[0, 0].numpy()).max() <= 1
    assert row["soft_mask"] == "soft_masks/000000.png" and len(np.unique(soft)) > 2
    binary = pixels(tmp_path / "folder" / row["generated_mask"])
    assert set(np.unique(binary)) <= {0, 255}
    assert row["generated_mask"] == "generated_masks/000000.png"
    told = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert "generated" in told["info"]["description"]
    assert {(a["approximate"], a["mask_kind"]) for a in told["annotations"]} == {
        (False, "generated")
    }
    sample = samples(sorted((tmp_path / "tar").glob("*.tar")))[0]
    assert sample["soft.png"] == (tmp_path / "folder/soft_masks/000000.png").read_bytes()
    assert sample["mask.png"] == (tmp_path / "folder/generated_masks/000000.png").read_bytes()
    with_mask = tables["layout"][tables["layout"]["mask"] != ""]
    assert len(with_mask) and with_mask["source"].str.endswith("; mask generated").all()
    assert load_dataset(tmp_path / "layout").info.source.endswith("masks are generated")
