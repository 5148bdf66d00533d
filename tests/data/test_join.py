"""Joining data sets: what is carried over, what must agree, and what is left alone on failure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import join_datasets as script
from dtgan_core.files import sha256_of
from dtgan_lab.data import DatasetError, DatasetInfo, load_dataset, write_dataset
from dtgan_lab.data.join import Part, join_datasets, joined_info
from tests.data.conftest import counts_of, read_rows, write_small_set
from tests.data.folder_fixtures import tree_bytes

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, info: DatasetInfo) -> Make:
    """Write a set of noise: folder's name, products, and other fields of dataset.json."""

    def build(folder: str, products: tuple[str, ...], shift: int = 0, **fields: object) -> Path:
        fields = {"name": folder, "flips": {p: ("horizontal",) for p in products}, **fields}
        own = replace(info, products=products, **fields)  # type: ignore[arg-type]
        counts = counts_of(products, own.defects, train=4 + shift, val=2 + shift)
        write_small_set(tmp_path / folder, counts, own)
        return tmp_path / folder

    return build


def salt(root: Path, seed: int) -> Path:
    """Other noise in every image: `write_small_set` draws the same for every set."""
    rows, generator = read_rows(root), np.random.default_rng(seed)
    for path in rows["path"]:
        shape = np.asarray(Image.open(root / path)).shape
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(root / path)
    hashes = [sha256_of(root / path) for path in rows["path"]]
    write_dataset(root, rows.assign(sha256=hashes), load_dataset(root).info)
    return root


def give_twins(root: Path) -> None:
    """All defective images of a folder share one defect-free twin."""
    rows, info = read_rows(root), load_dataset(root).info
    for index, row in rows[rows["defect"] != info.anchor].iterrows():
        twin = root / f"twins/{row['split']}/{row['product']}/{row['defect']}/t.png"
        twin.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", info.image_size[::-1], 77).save(twin)
        rows.loc[index, "twin"] = twin.relative_to(root).as_posix()
    write_dataset(root, rows, info)


def parts(*roots: Path) -> list[Part]:
    return [Part(load_dataset(root)) for root in roots]


@pytest.fixture
def two(make: Make) -> tuple[Path, Path]:
    """A set of two products at 16 px with twins, one of a single product at 32 px."""
    first = make("first", ("A", "B"), licence="free", citation="one")
    give_twins(first)
    both = {"Tile": ("horizontal", "vertical")}
    words = {"licence": "ask", "citation": "two"}
    return first, salt(make("second", ("Tile",), 1, image_size=(32, 32), flips=both, **words), 1)


# ---------------------------------------------------------------------------- what is carried over
def test_products_stand_side_by_side(tmp_path, two):
    joint = join_datasets(parts(*two), tmp_path / "joint", progress=False)
    info = joint.info
    assert info.products == ("A", "B", "Tile")
    assert info.defects == ("Normal", "Scratches", "Spots") and info.anchor == "Normal"
    assert info.image_size == (16, 16), "the smallest of the inputs"
    one, both = ("horizontal",), ("horizontal", "vertical")
    assert info.flips == {"A": one, "B": one, "Tile": both}
    assert info.licence == "A, B: free | Tile: ask"
    assert info.citation == "A, B: one | Tile: two"
    for root in two:
        assert load_dataset(root).manifest_hash in info.source
        assert load_dataset(root).info.command in info.source
    assert str(tmp_path) not in (joint.root / "dataset.json").read_text()
    counts = joint.counts()
    for root in two:
        own = load_dataset(root).counts()
        pd.testing.assert_frame_equal(counts[counts.index.isin(own.index)], own)
    # rows keep splits, sources, seeds and files
    kept = ["path", "product", "defect", "split", "mask", "twin", "seed", "source"]
    before = pd.concat([load_dataset(root).manifest for root in two]).sort_values("path")
    found, expected = (rows[kept].reset_index(drop=True) for rows in (joint.manifest, before))
    pd.testing.assert_frame_equal(found, expected)
    groups = {f"{root.name}/{group}" for root in two for group in read_rows(root)["group"]}
    assert set(joint.manifest["group"]) == groups
    twins = set(joint.manifest["twin"]) - {""}
    assert len(twins) == 8, "a twin that images share is one file"
    assert all((joint.root / twin).is_file() for twin in twins)


def test_files_of_the_right_size_are_copied_and_others_resized(tmp_path, two):
    first, second = two
    joint = join_datasets(parts(first, second), tmp_path / "joint", progress=False)
    old, new = tree_bytes(first), tree_bytes(joint.root)
    same = {name for name, data in new.items() if old.get(name) == data}
    assert same == {name for name in old if name.endswith(".png")}
    for tail in ("train/Tile/Spots/000.png", "val/Tile/Scratches/001.png"):
        with Image.open(second / tail) as big, Image.open(joint.root / tail) as small:
            expected = np.asarray(big.resize((16, 16), Image.Resampling.BICUBIC))
            assert np.array_equal(np.asarray(small), expected), "antialiased"
        with Image.open(joint.root / "masks" / tail) as mask:
            values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255} and mask.mode == "L"
        rows, columns = np.nonzero(values)
        assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (1, 2), (
            "a mask over 2 to 5 of 32 pixels lies over 1 to 2.5 of 16"
        )


def test_colour_and_oblong_images_can_be_joined(tmp_path, make):
    first = make("first", ("A",), channels=3, image_size=(12, 20))
    second = salt(make("second", ("B",), channels=3, image_size=(30, 40)), 1)
    joint = join_datasets(parts(first, second), tmp_path / "joint", progress=False)
    assert joint.info.image_size == (12, 20) and joint.info.channels == 3
    assert joint.info.command.endswith("--size 12x20")
    with Image.open(joint.root / "train/B/Normal/000.png") as image:
        assert image.mode == "RGB" and image.size == (20, 12)


def test_the_same_inputs_give_the_same_bytes_and_others_replace_them(tmp_path, two):
    join_datasets(parts(*two), tmp_path / "joint", progress=False)
    before = tree_bytes(tmp_path / "joint")
    join_datasets(parts(*two), tmp_path / "joint", progress=False)
    assert tree_bytes(tmp_path / "joint") == before
    join_datasets(parts(two[0]), tmp_path / "joint", size=8, progress=False)
    assert load_dataset(tmp_path / "joint", check="full").info.products == ("A", "B"), "replaced"


# --------------------------------------------------------------------------------- what must agree
def test_a_product_clash_is_told_with_the_remedy_and_a_new_name_mends_it(tmp_path, make):
    first = make("first", ("A", "B"))
    second = salt(make("second", ("a", "C")), 1)
    with pytest.raises(DatasetError) as caught:
        join_datasets(parts(first, second), tmp_path / "joint", progress=False)
    message = str(caught.value)
    assert f"{second}: product 'a' is also one of {first}" in message
    assert f"--rename a=NEW behind --data {second}" in message
    assert not (tmp_path / "joint").exists()
    mended = [Part(load_dataset(first)), Part(load_dataset(second), {"a": "A new"})]
    joint = join_datasets(mended, tmp_path / "joint", progress=False)
    assert joint.info.products == ("A", "B", "A new", "C")
    assert joint.info.flips["A new"] == ("horizontal",)
    assert (joint.root / "masks/train/A new/Spots/000.png").is_file()
    assert "--rename 'a=A new'" in joint.info.command


def test_sets_of_one_name_keep_their_groups_apart_and_defects_are_the_union(tmp_path, make):
    roots = [make("one", ("A",), name="tiles"), salt(make("two", ("B",), name="tiles"), 1)]
    third = salt(make("three", ("C",), name="tiles-2"), 2)
    joint = join_datasets(parts(*roots, third), tmp_path / "joint", progress=False)
    prefixes = joint.manifest.assign(prefix=joint.manifest["group"].str.split("/").str[0])
    found = prefixes.groupby("product")["prefix"].unique().map(list).to_dict()
    assert found == {"A": ["tiles"], "B": ["tiles-3"], "C": ["tiles-2"]}
    first = make("first", ("A",), defects=("Normal", "Spots"))
    second = salt(make("second", ("B",), defects=("Normal", "Scratches")), 1)
    joint = join_datasets(parts(first, second), tmp_path / "joint", progress=False)
    assert joint.info.defects == ("Normal", "Spots", "Scratches")
    assert joint.counts().loc[("train", "A"), "Scratches"] == 0


def test_all_that_does_not_fit_is_told_at_once(make):
    first = make("first", ("A",))
    second = make("second", ("A",), anchor="ok", defects=("ok", "scratches"), channels=3)
    with pytest.raises(DatasetError) as caught:
        joined_info([Part(load_dataset(first)), Part(load_dataset(second), {"Z": "Y"})])
    for part in (
        "--rename Z=Y, but its products are A",
        "product 'A' is also one of",
        "its anchor (no defect) is 'ok', expected 'Normal'",
        "its defect is 'scratches', expected 'Scratches'",
        "its number of channels is 3, expected 1",
        "python make_small.py",
    ):
        assert part in str(caught.value)
    assert len(caught.value.problems) == 5


def test_a_new_name_must_be_a_folders_name(tmp_path, make):
    part = Part(load_dataset(make("first", ("A",))), {"A": "../A"})
    with pytest.raises(DatasetError, match=r"products.*cannot be a folder name"):
        join_datasets([part], tmp_path / "joint", progress=False)
    with pytest.raises(DatasetError, match="add --data DIR"):
        joined_info([])


# ----------------------------------------------------------------- what is left alone on a failure
@pytest.mark.parametrize("place", ["first", "first/inside", "."])
def test_an_input_is_never_written_over(tmp_path, make, place):
    root = make("first", ("A",), name="joint")
    before = tree_bytes(tmp_path)
    with pytest.raises(DatasetError, match="shares its folder with the input"):
        join_datasets(parts(root), tmp_path / place, progress=False)
    assert tree_bytes(tmp_path) == before


def test_a_picture_twice_leaves_the_older_set(tmp_path, make, two):
    join_datasets(parts(*two), tmp_path / "joint", progress=False)
    before = tree_bytes(tmp_path / "joint")
    copy = make("copy", ("Z",))  # the same noise as in `first`
    twice = "train/A/Normal/000.png: the same bytes as train/Z/Normal/000.png"
    with pytest.raises(DatasetError, match=twice):
        join_datasets(parts(two[0], copy), tmp_path / "joint", progress=False)
    assert tree_bytes(tmp_path / "joint") == before


# ---------------------------------------------------------------------------------- command line
def test_the_command_line_joins_and_reports(tmp_path, make, capsys):
    first, second = make("first", ("A",)), salt(make("second", ("A",)), 1)
    out = tmp_path / "joint"
    words = ["--data", first, "--data", second, "--rename", "A=A2", "--out", out, "--size", "8"]
    assert script.main([str(word) for word in [*words, "--name", "all"]]) == 0
    printed = capsys.readouterr().out
    assert "36 images of 8 x 8 pixels" in printed and "A2" in printed
    assert "licence: A: none | A2: none" in printed
    info = load_dataset(out, check="full").info
    assert info.name == "all" and info.products == ("A", "A2")
    assert info.command == (
        "python data_scripts/join_datasets.py --data DIR_OF_first --data DIR_OF_second "
        "--rename A=A2 --out DIR --name all --size 8"
    )
    assert script.main(["--data", str(first), "--data", "nowhere", "--out", str(out)]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("join_datasets: nowhere: no such folder")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rename", "A=B", "--data", "x"], "stands before every --data"),
        (["--data", "x", "--rename", "A"], "'A' is not OLD=NEW"),
        (["--data", "x", "--size", "0"], "found '0', expected a whole number from 1 to 4096"),
        (["--data", "x", "--size", "8x"], "found '', expected a whole number from 1"),
        ([], "required: --data"),
    ],
)
def test_bad_words_are_explained(words, expected, capsys):
    with pytest.raises(SystemExit):
        script.main([*words, "--out", "joint"])
    assert expected in capsys.readouterr().err
