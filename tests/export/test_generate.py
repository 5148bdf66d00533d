"""What `generate` writes, and what its seed, its count and an index decide."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_core.synthesis import approximate_masks, find_images, to_uint8
from dtgan_lab.export.drawing import Shuffle, export_columns
from tests.export.export_fixtures import BOTH, export


@pytest.fixture(scope="module")
def references(parts: Path) -> dict[str, list[Path]]:
    return {name: find_images(parts / "bad" / name) for name in BOTH}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("guided", ["latent", "reference"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_same_images_whatever_batch_size_and_count(
    size, guided, synth, good, references, tmp_path
):
    refs = references if guided == "reference" else None
    few, many = (
        export(synth, good, tmp_path / str(n), references=refs, batch_size=n, count=count)
        for n, count in ((size, 5), (8, 7))
    )
    pd.testing.assert_frame_equal(few, many[:5])
    for path in few["path"]:
        first, second = (pixels(tmp_path / str(n) / path) for n in (size, 8))
        assert np.abs(first - second).max() <= 1


def test_a_row_says_how_to_make_its_image_again(synth, good, tmp_path):
    out = tmp_path / "new" / "out"
    returned = export(synth, good, out, count=9, seed=4)
    manifest = pd.read_csv(out / "manifest.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(returned, manifest)
    assert tuple(manifest.columns) == export_columns("approximate")
    names = [f"{n:06d}.png" for n in range(9)]
    assert list(manifest["path"]) == [f"images/{name}" for name in names]
    assert list(manifest["approximate_mask"]) == [f"approximate_masks/{name}" for name in names]
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert files == {*manifest["path"], *manifest["approximate_mask"]}
    assert list(manifest["defect"]) == [*BOTH * 4, BOTH[0]]
    facts = manifest[["guidance", "reference", "seed", "checkpoint_sha256"]].drop_duplicates()
    assert facts.to_numpy().tolist() == [["latent", "", 4, synth.checkpoint_hash]]
    assert list(manifest["index"]) == list(range(9))
    assert set(manifest["background"]) == {str(path) for path in good}
    rounds = manifest["background"][:4], manifest["background"][4:8]
    assert [part.nunique() for part in rounds] == [4, 4]
    for row in manifest.to_dict("records"):
        x = synth.images(row["background"])
        fake = to_uint8(synth.latent_guided(x, row["defect"], seed=4, first=row["index"]))
        found = pixels(out / row["path"])
        assert np.abs(found - fake[0, :, :, 0]).max() <= 1
        bare = to_uint8(synth.without_defect(synth.background(x)))
        mask = approximate_masks(bare, found[None, :, :, None].astype(np.uint8))[0]
        assert np.array_equal(pixels(out / row["approximate_mask"]), mask)


def test_references_keep_to_their_defect_in_an_order_of_their_own(
    synth, good, references, tmp_path
):
    table = export(synth, good, tmp_path / "out", references=references)
    assert set(table["guidance"]) == {"reference"}
    order = Shuffle(2, 3, "references")
    expected = [str(references[BOTH[n % 2]][order[n // 2]]) for n in range(10)]
    assert list(table["reference"]) == expected
    assert expected != [str(references[BOTH[n % 2]][n // 2 % 2]) for n in range(10)]
    for row in table.to_dict("records"):
        x, x_ref = synth.images(row["background"]), synth.images(row["reference"])
        fake = to_uint8(synth.reference_guided(x, x_ref, row["defect"]))
        assert np.abs(pixels(tmp_path / "out" / row["path"]) - fake[0, :, :, 0]).max() <= 1


def test_another_seed_makes_others(synth, good, tmp_path):
    for seed in (0, 1):
        export(synth, good[:1], tmp_path / str(seed), count=1, seed=seed)
    first, second = (pixels(tmp_path / f"{seed}/images/000000.png") for seed in (0, 1))
    assert np.abs(first - second).max() > 4


def test_shuffle_takes_each_once_a_round_and_workers_agree():
    first, second = Shuffle(5, 3, "backgrounds"), Shuffle(5, 3, "backgrounds")
    drawn = [first[n] for n in range(20)]
    for k in range(0, 20, 5):
        assert sorted(drawn[k : k + 5]) == [0, 1, 2, 3, 4]
    assert drawn == [second[n] for n in reversed(range(20))][::-1]
    assert drawn[:5] != drawn[5:10] or drawn[5:10] != drawn[10:15]
    assert drawn != [Shuffle(5, 4, "backgrounds")[n] for n in range(20)]
    assert drawn != [Shuffle(5, 3, "references")[n] for n in range(20)]
