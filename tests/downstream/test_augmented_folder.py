"""Real and exported images in one ImageFolder: nothing lost, nothing held out, bytes kept."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torchvision.datasets import ImageFolder

from dtgan_lab.cli.main import main
from dtgan_lab.data import Dataset, DatasetError, load_dataset
from dtgan_lab.data.dataset import MANIFEST_NAME
from dtgan_lab.downstream.augmented_folder import MANIFEST, assemble, read_training_set
from tests.core_fixtures import (
    DEFECTS,
    picture,
    save_picture,
    write_tiny_dataset,
    write_tiny_export,
)

GOOD, SCRATCHED = DEFECTS[0], DEFECTS[1]


@pytest.fixture()
def dataset(tmp_path: Path) -> Dataset:
    """A tiny data set in which one good part and one defect of product A are held out."""
    root = write_tiny_dataset(tmp_path / "data")
    table = pd.read_csv(root / MANIFEST_NAME, keep_default_na=False, dtype=str)
    for defect in (GOOD, SCRATCHED):
        old, new = f"train/A/{defect}/02.png", f"test/A/{defect}/02.png"
        (root / new).parent.mkdir(parents=True)
        (root / old).rename(root / new)
        table.loc[table["path"] == old, ["path", "split"]] = new, "test"
    table.to_csv(root / MANIFEST_NAME, index=False)
    return load_dataset(root)


def export(dataset: Dataset, out: Path, backgrounds: str, *more: object) -> Path:
    """Four images, by the command line."""
    checkpoint = out.parent / "checkpoint"
    if not checkpoint.is_dir():
        write_tiny_export(checkpoint)
    words = ["generate", "--checkpoint", checkpoint, "--backgrounds", dataset.root / backgrounds]
    words += ["--defect", SCRATCHED, "--count", 4, "--format", "imagefolder", "--out", out, *more]
    assert main([str(word) for word in words]) == 0
    return out


@pytest.fixture()
def drawn(dataset: Dataset, tmp_path: Path) -> Path:
    """An export of random draws on one training image."""
    return export(dataset, tmp_path / "drawn", f"train/A/{GOOD}/00.png")


def test_real_and_exported_images_stand_side_by_side_and_are_read_back(dataset, drawn, tmp_path):
    table = assemble(tmp_path / "all", dataset, [drawn])
    real = table[~table["is_synthetic"]]
    train = dataset.manifest[dataset.manifest["split"] == "train"]
    assert list(real["background"]) == list(train["path"])
    assert len(table) == len(train) + 4
    made = table[table["is_synthetic"]]
    assert set(made["background"]) == {f"train/A/{GOOD}/00.png"}
    assert set(made["product"]) == {"A"}
    for path in map(str, made["path"]):
        source = drawn / SCRATCHED / path.split("drawn_")[1]
        assert (tmp_path / "all" / path).read_bytes() == source.read_bytes()
    seen = ImageFolder(str(tmp_path / "all"))
    assert sorted(seen.classes) == sorted(DEFECTS)
    assert len(seen) == len(table)
    # read back as a training set
    taught = read_training_set(tmp_path / "all", dataset)
    assert len(taught) == len(table)
    assert taught.is_synthetic.tolist() == table["is_synthetic"].tolist()
    names = [dataset.info.defects[y] for y in taught.defects.tolist()]
    assert names == table["defect"].tolist()
    assert taught.images.dtype == torch.uint8
    assert taught.flips.tolist() == [[True, False]] * len(table)
    assert taught.sources[0] == (table["background"][0],)
    synthetic = taught.chosen(taught.is_synthetic)
    assert len(synthetic) == len(synthetic.images) == 4
    assert synthetic.sources == taught.sources[-4:]
    manifest = tmp_path / "all" / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace(f"train/A/{GOOD}/00.png", f"test/A/{GOOD}/02.png"))
    with pytest.raises(DatasetError, match="held-out split"):
        read_training_set(tmp_path / "all", dataset)
    manifest.write_text(text)
    save_picture(tmp_path / "all" / table["path"][0], picture(0, 1, 77))  # another one in its place
    with pytest.raises(DatasetError, match="not what was prepared"):
        read_training_set(tmp_path / "all", dataset)


def test_references_are_remembered(dataset, tmp_path):
    references = dataset.root / f"train/B/{SCRATCHED}"
    folder = export(
        dataset, tmp_path / "moved", f"train/A/{GOOD}/00.png", "--references", references
    )
    assemble(tmp_path / "all", dataset, [folder])
    taught = read_training_set(tmp_path / "all", dataset)
    pairs = [s for s, made in zip(taught.sources, taught.is_synthetic, strict=True) if made]
    assert all(len(pair) == 2 and pair[1].startswith(f"train/B/{SCRATCHED}/") for pair in pairs)


def test_a_held_out_background_is_refused_and_nothing_is_written(dataset, tmp_path):
    folder = export(dataset, tmp_path / "leak", f"test/A/{GOOD}/02.png")
    with pytest.raises(DatasetError, match=r"02\.png: held-out split"):
        assemble(tmp_path / "all", dataset, [folder])
    assert not (tmp_path / "all").exists()


def test_a_background_from_elsewhere_is_refused(dataset, tmp_path):
    other = write_tiny_dataset(tmp_path / "other")
    folder = export(dataset, tmp_path / "drawn", "train")  # every picture of it is a background
    table = pd.read_csv(folder / MANIFEST, keep_default_na=False, dtype=str)
    table["background"] = str(other / f"train/A/{GOOD}/00.png")
    table.to_csv(folder / MANIFEST, index=False)
    with pytest.raises(DatasetError, match="--backgrounds"):
        assemble(tmp_path / "all", dataset, [folder])


def test_an_exchanged_picture_is_not_taken(tmp_path):
    root = write_tiny_dataset(tmp_path / "data")
    dataset = load_dataset(root)
    first, second = (root / f"train/A/{GOOD}/{number}.png" for number in ("00", "01"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DatasetError, match=r"00\.png: sha256 .*not what was prepared"):
        assemble(tmp_path / "all", dataset, [])
    assert not (tmp_path / "all" / MANIFEST).exists()


def test_what_is_missing_or_in_the_way_is_named(dataset, drawn, tmp_path):
    with pytest.raises(ValueError, match="is not empty"):
        assemble(drawn, dataset, [])
    with pytest.raises(ValueError, match="names that differ"):
        assemble(tmp_path / "all", dataset, [drawn, tmp_path / drawn.name.upper()])
    with pytest.raises(ValueError, match="holds no manifest"):
        read_training_set(tmp_path / "all", dataset)
    (drawn / MANIFEST).unlink()
    with pytest.raises(ValueError, match="--resume"):
        assemble(tmp_path / "all", dataset, [drawn])
