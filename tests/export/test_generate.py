"""What `generate` writes, and what its seed, its count and an index decide."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_core.synthesis import find_images, to_uint8
from dtgan_lab.export import Shuffle, export_columns, generate


@pytest.fixture(scope="module")
def scratched(parts: Path) -> list[Path]:
    return find_images(parts / "bad/Scratches")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("guided", ["latent", "reference"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_same_images_whatever_the_batch_size(size, guided, synth, good, scratched, tmp_path):
    refs = scratched if guided == "reference" else None
    small, large = (
        generate(synth, good, "Scratches", 7, 3, tmp_path / str(n), refs, n, False)
        for n in (size, 8)
    )
    pd.testing.assert_frame_equal(small, large)
    for path in small["path"]:
        first, second = (pixels(tmp_path / str(n) / path) for n in (size, 8))
        assert np.abs(first - second).max() <= 1


def test_what_is_written_and_every_background_comes_as_often(synth, good, tmp_path):
    out = tmp_path / "new" / "out"
    returned = generate(synth, good, "Spots", 9, 4, out, batch_size=2)
    manifest = pd.read_csv(out / "manifest.csv", keep_default_na=False)
    assert tuple(manifest.columns) == export_columns("approximate")
    assert len(manifest) == len(returned) == 9
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == sorted(
        [*manifest["path"], *manifest["approximate_mask"]]
    )
    assert list(manifest["path"]) == [f"images/{n:06d}.png" for n in range(9)]
    assert list(manifest["approximate_mask"]) == [
        f"approximate_masks/{n:06d}.png" for n in range(9)
    ]
    assert set(manifest["defect"]) == {"Spots"}
    assert set(manifest["guidance"]) == {"latent"}
    assert set(manifest["reference"]) == {""}
    assert set(manifest["seed"]) == {4}
    assert list(manifest["index"]) == list(range(9))
    assert set(manifest["checkpoint_sha256"]) == {synth.checkpoint_hash}
    assert set(manifest["background"]) == {str(path) for path in good}
    assert sorted(manifest["background"].value_counts()) == [2, 2, 2, 3]
    rounds = manifest["background"][:4], manifest["background"][4:8]
    assert [part.nunique() for part in rounds] == [4, 4]


def test_reference_guided_rows_name_their_reference(synth, good, scratched, tmp_path):
    table = generate(synth, good, "Scratches", 6, 0, tmp_path, scratched, progress=False)
    assert set(table["guidance"]) == {"reference"}
    # each in every round, in an order of its own
    order = Shuffle(2, 0, "references")
    assert list(table["reference"]) == [str(scratched[order[n]]) for n in range(6)]
    assert list(table["reference"]) != [str(scratched[n % 2]) for n in range(6)]
    for row in table.to_dict("records"):
        x, x_ref = synth.images(row["background"]), synth.images(row["reference"])
        fake = to_uint8(synth.reference_guided(x, x_ref, "Scratches"))
        found = pixels(tmp_path / row["path"])
        assert np.abs(found - fake[0, :, :, 0].astype(int)).max() <= 1


def test_more_images_begin_with_the_same_ones_and_another_seed_makes_others(synth, good, tmp_path):
    for count in (2, 5):
        out = tmp_path / str(count)
        generate(synth, good, "Spots", count, 0, out, progress=False)
    for n in range(2):
        few, many = (pixels(tmp_path / f"{count}/images/{n:06d}.png") for count in (2, 5))
        assert np.abs(few - many).max() <= 1
    for seed in (0, 1):
        generate(synth, good[:1], "Spots", 1, seed, tmp_path / f"seed{seed}", progress=False)
    first, second = (pixels(tmp_path / f"seed{seed}/images/000000.png") for seed in (0, 1))
    assert np.abs(first - second).max() > 4


def test_a_folder_that_holds_something_is_refused(synth, good, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"is not empty; choose another --out"):
        generate(synth, good, "Spots", 1, 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0; expected at least 1"),
        ({"defect": "Dents"}, "unknown defect 'Dents'"),
        ({"batch_size": -4}, "batch.* -4"),
        ({"backgrounds": []}, "background"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    options, message, synth, good, tmp_path
):
    out = tmp_path / "out"
    arguments = {"backgrounds": good, "defect": "Spots", "count": 2, "seed": 0}
    with pytest.raises(ValueError, match=message):
        generate(synth, out=out, **{**arguments, **options})
    assert not out.exists()


def test_shuffle_takes_each_once_a_round_and_workers_agree():
    first, second = Shuffle(5, 3, "backgrounds"), Shuffle(5, 3, "backgrounds")
    drawn = [first[n] for n in range(20)]
    for k in range(0, 20, 5):
        assert sorted(drawn[k : k + 5]) == [0, 1, 2, 3, 4]
    assert drawn == [second[n] for n in reversed(range(20))][::-1]
    assert drawn[:5] != drawn[5:10] or drawn[5:10] != drawn[10:15]
    assert drawn != [Shuffle(5, 4, "backgrounds")[n] for n in range(20)]
    assert drawn != [Shuffle(5, 3, "references")[n] for n in range(20)]
