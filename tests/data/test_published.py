"""MVTec AD, VisA and WFDD from small archives of their published layouts: labels and masks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_mvtec
import prepare_visa
import prepare_wfdd
from dtgan_lab.data import load_dataset
from published import read_published
from tests.data.folder_fixtures import mask_png, pack, png, write_tree

PUBLISHED = {
    "carpet": ["color", "cut", "hole", "metal_contamination", "thread"],
    "leather": ["color", "cut", "fold", "glue", "poke"],
    "tile": ["crack", "glue_strip", "gray_stroke", "oil", "rough"],
    "wood": ["color", "combined", "hole", "liquid", "scratch"],
}


def members(category: str) -> dict[str, bytes]:
    """Six good pictures for training, two for testing, three of each defect with masks."""
    start = 100 * list(PUBLISHED).index(category)
    files = {f"{category}/train/good/{i:03d}.png": png(start + i, mode="RGB") for i in range(6)}
    files |= {f"{category}/test/good/{i:03d}.png": png(start + 10 + i) for i in range(2)}
    for number, defect in enumerate(PUBLISHED[category]):
        for i in range(3):
            files[f"{category}/test/{defect}/{i:03d}.png"] = png(start + 20 + 3 * number + i)
            files[f"{category}/ground_truth/{defect}/{i:03d}_mask.png"] = mask_png()
    return files | {f"{category}/license.txt": b"CC BY-NC-SA 4.0", f"{category}/readme.txt": b"hi"}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for category in PUBLISHED:
        pack(folder / f"{category}.tar.xz", members(category))
    return folder


def run(*words: object) -> int:
    return prepare_mvtec.main([str(word) for word in ("--size", 16, *words)])


def test_the_archives_become_one_set_with_masks(tmp_path, archives, capsys):
    out = tmp_path / "out"
    assert run("--source", archives, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "tile/rough, 3 images" in printed and "wood/combined, 3 images" in printed
    assert "all its defects lie in its test split" in printed and "BY-NC-SA" in printed
    dataset = load_dataset(out, check="full")
    assert dataset.info.products == ("CARPET", "LEATHER", "TILE", "WOOD")
    assert dataset.info.defects == ("Normal", "Scratches", "Spots")
    assert "BY-NC-SA" in dataset.info.licence and "Bergmann" in dataset.info.citation
    table = dataset.manifest.groupby(["product", "defect"]).size().unstack()
    assert table.to_numpy().tolist() == [[8, 6, 9], [8, 6, 9], [8, 6, 6], [8, 3, 9]]
    defective = dataset.manifest["defect"] != "Normal"
    assert (dataset.manifest["mask"] != "").equals(defective)
    assert {"train", "val", "test"} == set(dataset.manifest.loc[defective, "split"])
    mask = np.asarray(Image.open(out / dataset.manifest.loc[defective, "mask"].iloc[0]))
    assert mask[2:6, 2:6].all() and mask.sum() == 16 * 255
    assert not any(path.name.startswith(".") for path in out.iterdir())
    assert run("--source", archives, "--out", out) == 0
    assert "is there already" in capsys.readouterr().out


def test_an_unpacked_folder_or_single_archives_will_do(tmp_path, archives, capsys):
    files = {f"mvtec/{k}": v for c in ("carpet", "wood", "tile") for k, v in members(c).items()}
    source = write_tree(tmp_path / "unpacked", files | {"mvtec/bottle/train/good/0.png": png(0)})
    del files["mvtec/carpet/ground_truth/cut/000_mask.png"]
    (source / "mvtec/carpet/ground_truth/cut/000_mask.png").unlink()
    assert run("--source", source, "--out", tmp_path / "one") == 0
    printed = capsys.readouterr().out
    assert "not in the source: leather" in printed and "1 defective images have no mask" in printed
    assert "bottle/train/good/0.png: expected" in printed
    pair = ["--source", archives / "carpet.tar.xz", "--source", archives / "wood.tar.xz"]
    assert run(*pair, "--out", tmp_path / "two", "--dry-run") == 0
    assert "CARPET" in (told := capsys.readouterr().out) and "TILE" not in told.split("left out")[0]


def test_another_mapping_is_another_set(tmp_path, archives, capsys):
    mapping = tmp_path / "own.toml"
    mapping.write_text(
        'anchor = "ok"\n[tile]\nproduct = "TILES"\ngood = "ok"\ncrack = "line"\nrough = "area"\n'
    )
    source = ["--source", archives / "tile.tar.xz", "--out", tmp_path / "out"]
    assert run(*source, "--mapping", mapping) == 0
    info = load_dataset(tmp_path / "out").info
    assert info.defects == ("ok", "area", "line") and "--mapping FILE.toml" in info.command
    mapping.write_text(mapping.read_text().replace("area", "patch"))
    assert run(*source, "--mapping", mapping) == 1
    assert "--force" in capsys.readouterr().err


def test_the_default_mapping_knows_every_published_defect():
    mapping = read_published(prepare_mvtec.MAPPING)
    named = {category: set(table) - {"good"} for category, table in mapping.defects.items()}
    unknown = {(category, d) for category, names in PUBLISHED.items() for d in names}
    unknown -= {(category, d) for category, names in named.items() for d in names}
    assert unknown == {("tile", "rough"), ("wood", "combined")}
    assert all(named[category] <= set(PUBLISHED[category]) for category in named)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anchor = ", ["cannot be read as a mapping"]),
        ("x = " + "[" * 5000, ["cannot be read as a mapping"]),
        ("", ["anchor is None", "no category"]),
        ("anchor = 'n'\nsize = 3", ["size is 3, expected lines such as"]),
        ("anchor = 'n'\n[tile]\ngood = 'n'", ["names no product"]),
        ("anchor = 'n'\n[tile]\nproduct = 'T'\ngood = 'm'", ["has no 'n', expected a folder of"]),
    ],
)
def test_bad_mappings_and_sources_are_explained(tmp_path, capsys, text, expected):
    path = tmp_path / "map.toml"
    path.write_text(text)
    source = write_tree(tmp_path / "src", {"train/good/1.png": png(1)})
    assert run("--source", source, "--out", tmp_path / "out", "--mapping", path) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in [str(path), *expected])
    assert run("--source", source, "--out", tmp_path / "out") == 1  # something else than MVTec AD
    error = capsys.readouterr().err
    assert "no picture in (?P<category>[^/]+)/(?:train|test)/" in error and "mvtec.com" in error


def visa(category: str, labels: list[str]) -> dict[str, bytes]:
    """Six good pictures and one of each label, masks with the number of a defect, the table."""
    start = 100 * len(category)
    good = [f"{category}/Data/Images/Normal/{i:04d}.JPG" for i in range(6)]
    bad = [f"{category}/Data/Images/Anomaly/{i:03d}.JPG" for i in range(len(labels))]
    files = {name: png(start + i, mode="RGB") for i, name in enumerate(good + bad)}
    masks = [name.replace("Images", "Masks").replace(".JPG", ".png") for name in bad]
    number = Image.open(io.BytesIO(mask_png())).point([0] * 128 + [3] * 128)
    number.save(buffer := io.BytesIO(), "PNG")
    files |= dict.fromkeys(masks, buffer.getvalue())
    rows = [f"{name},normal," for name in good]
    rows += [f'{name},"{y}",{mask}' for name, y, mask in zip(bad, labels, masks, strict=True)]
    files[f"{category}/image_anno.csv"] = "\n".join(["image,label,mask", *rows, ""]).encode()
    return files


def test_visa_names_its_defects_in_a_table(tmp_path, capsys):
    labels = ["burnt", "small scratches", "similar colour spot", "burnt,different colour spot"]
    labels += ["small scratches,small cracks", "middle breakage", "burnt,small scratches"]
    files = visa("fryum", labels) | visa("cashew", labels[:3]) | {"split_csv/1cls.csv": b"object"}
    source = pack(tmp_path / "VisA_20220922.tar", files)
    words = ["--size", "16", "--source", str(source), "--out", str(tmp_path / "out")]
    assert prepare_visa.main(words) == 0
    printed = capsys.readouterr().out
    assert "not in the mapping: fryum/middle breakage, 1 images" in printed
    assert "not in the mapping: fryum/burnt,small scratches, 1 images" in printed
    assert "CC BY 4.0" in printed and "2207.14315" in printed and "not in the source" in printed
    dataset = load_dataset(tmp_path / "out", check="full")
    table = dataset.manifest.groupby(["product", "defect"]).size().unstack()
    assert table.columns.tolist() == ["Normal", "Scratches", "Spots"]
    assert table.to_numpy().tolist() == [[6, 1, 2], [6, 2, 3]]
    defective = dataset.manifest["defect"] != "Normal"
    assert (dataset.manifest["mask"] != "").equals(defective), "numbers are masks, too"
    files["fryum/image_anno.csv"] = b"picture,kind\n"
    words = ["--source", str(write_tree(tmp_path / "tree", files)), "--out", f"{tmp_path}/other"]
    assert prepare_visa.main(words) == 1
    assert "fryum/image_anno.csv: has the columns ['picture', 'kind']" in capsys.readouterr().err


def test_wfdd_leaves_out_the_fabric_of_others(tmp_path, capsys):
    files: dict[str, bytes] = {}
    for cloth in ("grey_cloth", "grid_cloth", "yellow_cloth", "pink_flower"):
        start = len(files) * 10
        files |= {f"WFDD/{cloth}/train/good/{i:03d}.png": png(start + i) for i in range(4)}
        for number, defect in enumerate(("block_shape", "point-like", "line", "fold")):
            name = f"{defect}/{number:03d}.png"
            files[f"WFDD/{cloth}/test/{name}"] = png(start + 10 + number)
            files[f"WFDD/{cloth}/ground_truth/{name}"] = mask_png()
    source = str(pack(tmp_path / "WFDD.tar", files))
    assert prepare_wfdd.main(["--size", "16", "--source", source, "--out", f"{tmp_path}/o"]) == 0
    printed = capsys.readouterr().out
    assert "grey_cloth/fold, 1 images" in printed and "MIT" in printed
    assert "whose terms the licence of WFDD cannot change" in printed
    dataset = load_dataset(tmp_path / "o", check="full")
    assert dataset.info.products == ("GREY_CLOTH", "GRID_CLOTH", "YELLOW_CLOTH")
    table = dataset.manifest.groupby(["product", "defect"]).size().unstack()
    assert table.to_numpy().tolist() == [[4, 1, 2]] * 3
    assert ((dataset.manifest["mask"] != "") == (dataset.manifest["defect"] != "Normal")).all()
