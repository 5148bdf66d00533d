"""Magnetic Tile Defects: reading, grouping by tile, splitting, cropping, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import prepare_mtd
from dtgan_lab.data import DatasetError, load_dataset
from dtgan_lab.data.adopt import Listing
from dtgan_lab.data.mtd import Options, label_tiles, make_mtd, render
from dtgan_lab.data.mtd_source import CONTENT_SHA256, Photograph, content_digest, read_source
from tests.data.folder_fixtures import mask_png, tree_bytes


@pytest.fixture(scope="module")
def rows(photographs: list[Photograph], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("mtd") / "out"
    make_mtd(photographs, Options(size=32), out, progress=False)
    return load_dataset(out, check="full").manifest


def labelled(photographs: list[Photograph], **options: Any) -> Listing:
    return label_tiles(photographs, Options(**options), progress=False)


def tile_of(member: str) -> int:
    number = int(member.rsplit("_", 1)[1].removesuffix(".jpg")) // 1000
    return 21 if number == 22 else number


def run(*arguments: str | int | Path) -> None:
    """Call the command line; an error that it reported fails the test."""
    assert prepare_mtd.main([str(word) for word in arguments]) == 0


# -------------------------------------------------------------------------------------- grouping
def test_tiles_are_found_under_exposures_shifts_and_turns(rows):
    by_tile = rows.groupby(rows["source"].map(tile_of))["group"].nunique()
    assert (by_tile == 1).all(), "photographs of one tile share a group"
    by_group = rows.groupby("group")["source"].agg(lambda s: len(set(map(tile_of, s))))
    assert (by_group == 1).all(), "photographs of different tiles do not"
    assert (rows.groupby("group")["split"].nunique() == 1).all(), "no group straddles splits"
    assert set(rows["split"]) == {"train", "val", "test"}
    for _, part in rows.groupby("defect"):
        assert (part["split"] == "train").any() and (part["split"] == "test").any()


def test_files_that_are_broken_unfit_or_without_a_mask_to_crop_by_are_left_out(photographs):
    first, second, *others = photographs
    broken = replace(first, image=first.image[:500])
    unfit = replace(second, mask=mask_png((7, 7)))
    listing = labelled([broken, unfit, *others])
    told = {item.name: item.reason for item in listing.left_out}
    assert "cannot be decoded" in told[first.member] and "mask of (7, 7)" in told[second.member]
    assert not {first.member, second.member} & {c.name for c in listing.candidates}
    # without a mask there is no window
    crack = next(p for p in photographs if p.class_name == "Crack")
    others = [p for p in photographs if p is not crack]
    blind = [replace(crack, mask=b""), *others]
    told = {item.name: item.reason for item in labelled(blind, crop=64).left_out}
    assert told[crack.member] == "no mask to lay the window around"
    kept = next(c for c in labelled(blind).candidates if c.name == crack.member)
    assert kept.read_mask is None


# --------------------------------------------------------------------------------------- mapping
def test_default_mapping_leaves_out_and_reports(photographs, rows):
    listing = labelled(photographs)
    reasons = {(item.kind, item.reason) for item in listing.left_out}
    unknown = ("Break", "Uneven")
    assert reasons == {("not mapped", f"{name} is not in the mapping") for name in unknown}
    counts = {"Normal": 31, "Scratches": 12, "Spots": 14}
    assert rows["defect"].value_counts().to_dict() == counts
    for told in ("differs from the published", "not in the mapping: Break, 3 images"):
        assert any(told in remark for remark in listing.remarks)


def test_a_mapping_file_changes_classes(tmp_path, archive, capsys):
    path = tmp_path / "map.toml"
    path.write_text(
        'anchor = "ok"\n[classes]\nBlowhole = "hole"\nFree = "ok"\nCrack = "line"\nBreak = "line"\n'
    )
    out = tmp_path / "out"
    run("--source", archive, "--mapping", path, "--size", 32, "--out", out)
    printed = capsys.readouterr().out
    assert "Uneven, 3 images" in printed and "Break" not in printed
    dataset = load_dataset(out, check="full")
    assert dataset.info.defects == ("ok", "hole", "line") and dataset.info.anchor == "ok"
    assert (dataset.manifest["defect"] == "line").sum() == 15
    assert "--mapping FILE.toml" in dataset.info.command
    assert str(tmp_path) not in (out / "dataset.json").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anchor = ", ["cannot be read as a mapping"]),
        ("x = " + "[" * 5000, ["cannot be read as a mapping"]),
        ("[classes]\nFree = 'n'\nCrack = 's'", ["found anchor = None, expected a text"]),
        ("anchor = 'n'", ["found classes = None, expected an object"]),
        ("anchor = 'n'\n[classes]\nFree = 1", ["found classes.Free = 1, expected a text"]),
        (
            "anchor = 'n'\n[classes]\nFree = 'm'\nDent = 's'",
            ["'Dent', expected one of Free", "no class becomes the anchor"],
        ),
        ("anchor = 'n'\nsize = 3\n[classes]\nFree = 'n'", ["unknown field size, expected of"]),
        ("anchor = 'n'\n[classes]\nFree = 'n'", ["every class becomes the anchor"]),
    ],
)
def test_bad_mappings_are_explained(tmp_path, text, expected):
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        prepare_mtd.read_mapping(path)
    for part in [str(path), *expected]:
        assert part in str(caught.value)


@pytest.mark.parametrize("crop", [None, 64])
def test_identical_pictures_are_dropped(crop, photographs, tmp_path):
    """Also where their windows lie elsewhere."""
    crack = next(p for p in photographs if p.class_name == "Crack")
    spot = next(p for p in photographs if p.class_name == "Blowhole")
    extra = [
        Photograph(f"MT_Crack/Imgs/z{n}.jpg", "Crack", f"z{n}", photo.image, photo.mask)
        for n, photo in enumerate((crack, spot))
    ]
    options = Options(size=32, crop=crop)
    plan = make_mtd([*photographs, *extra], options, tmp_path / "out", progress=False)
    told = {(item.name, item.kind) for item in plan.left_out}
    assert ("MT_Crack/Imgs/z0.jpg", "copy") in told and (crack.member, "copy") not in told
    assert {(spot.member, "contradiction"), ("MT_Crack/Imgs/z1.jpg", "contradiction")} <= told


# --------------------------------------------------------------------------------------- writing
def test_prepared_set_is_whole_and_the_same_each_time(tmp_path, archive, capsys):
    out = tmp_path / "mtd"
    run("--source", archive, "--out", out)
    printed = capsys.readouterr().out
    for part in ("Scratches", "mapping: Break, 3 images", "licence: No licence file", "cite: "):
        assert part in printed
    dataset = load_dataset(out, check="full")
    assert dataset.info.image_size == (128, 128) and dataset.info.channels == 1
    assert dataset.info.flips == {"MTD": ("horizontal", "vertical")}
    assert dataset.info.products == ("MTD",)
    assert len(dataset.manifest) == 57
    masked = set(dataset.manifest.loc[dataset.manifest["mask"] != "", "path"])
    defective = set(dataset.manifest.loc[dataset.manifest["defect"] != "Normal", "path"])
    assert masked == defective
    before = tree_bytes(out)
    run("--source", archive, "--out", out)
    assert tree_bytes(out) == before
    run("--source", archive, "--out", tmp_path / "other", "--seed", 1)
    assert (tmp_path / "other/manifest.csv").read_bytes() != before["manifest.csv"]


# -------------------------------------------------------------------------------------- cropping
def test_cropped_images_show_their_masks_where_they_lie(tmp_path, photographs, rows):
    options = Options(crop=64, size=64)
    for photo in photographs:
        if photo.class_name not in ("Crack", "Blowhole"):
            continue
        image, mask = render(photo, options)
        assert image.size == mask.size == (64, 64)
        inside = np.asarray(mask) > 0
        assert inside.sum() >= 100
        values = np.asarray(image).astype(float)
        dark = values[ndimage.binary_erosion(inside)].mean()
        assert dark < values[~ndimage.binary_dilation(inside, iterations=3)].mean() - 20
        again, _ = render(photo, options)
        assert again.tobytes() == image.tobytes()
    make_mtd(photographs, options, tmp_path / "crop", progress=False)
    dataset = load_dataset(tmp_path / "crop", check="full")
    assert dataset.info.image_size == (64, 64) and set(dataset.manifest["seed"]) == {"0"}
    columns = ["path", "split", "group"]
    pd.testing.assert_frame_equal(rows[columns], dataset.manifest[columns])


# ------------------------------------------------------------------------------------ the real one
def grouped(manifest: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Photographs and tiles of every defect; photographs of one tile were taken close together."""
    # Frame numbers run on within a recording, so one tile's six exposures lie close together:
    # a check of the grouping by something that it does not look at.
    frames = manifest["source"].str.extract(r"num_(\d+)")[0].astype(int)
    near = manifest.assign(frame=frames).groupby("group")["frame"]
    assert (near.apply(lambda f: (f.max() - f.min()) < 600)).mean() > 0.9
    defects = manifest.groupby("defect")["group"]
    return {str(name): (len(groups), groups.nunique()) for name, groups in defects}


def test_the_published_defects(mtd_source):
    photographs = read_source(mtd_source)
    assert content_digest(photographs) == CONTENT_SHA256
    defects = [photo for photo in photographs if photo.class_name in ("Crack", "Blowhole")]
    found = [(c.name, c.defect, c.group, c.mask_name) for c in labelled(defects).candidates]
    table = pd.DataFrame(found, columns=["source", "defect", "group", "mask"])
    assert grouped(table) == {"Scratches": (57, 9), "Spots": (115, 20)}
    assert (table["mask"] != "").all()


@pytest.mark.slow  # compares 1,344 photographs with one another
def test_the_published_set(mtd_source, tmp_path, capsys):
    run("--source", mtd_source, "--out", tmp_path / "mtd")
    assert "differs from the published" not in capsys.readouterr().out
    manifest = load_dataset(tmp_path / "mtd", check="full").manifest
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    assert grouped(manifest) == {"Normal": (952, 154), "Scratches": (57, 9), "Spots": (115, 20)}
    assert (manifest.loc[manifest["defect"] != "Normal", "mask"] != "").all()
