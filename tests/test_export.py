from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_core.synthesis import approximate_masks, find_images, to_uint8
from dtgan_lab.export import Shuffle, export_columns, generate, running
from tests.core_fixtures import SIZE, picture, save_picture


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good parts and two references."""
    root = tmp_path_factory.mktemp("parts")
    for product in range(3):
        save_picture(root / f"good/{product}.png", picture(product, 0, 9))
    for number in range(2):
        save_picture(root / f"scratched/{number}.png", picture(number, 1, 9))
    return root


def backgrounds(parts: Path) -> list[Path]:
    return find_images(parts / "good")


def references(parts: Path) -> list[Path]:
    return find_images(parts / "scratched")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("guided", ["latent", "reference"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_same_images_whatever_the_batch_size(size, guided, synth, parts, tmp_path):
    refs = references(parts) if guided == "reference" else None
    small, large = (
        generate(synth, backgrounds(parts), "Scratches", 7, 3, tmp_path / str(n), refs, n, False)
        for n in (size, 8)
    )
    pd.testing.assert_frame_equal(small, large)
    for path in small["path"]:
        first, second = (pixels(tmp_path / str(n) / path) for n in (size, 8))
        assert np.abs(first - second).max() <= 1


def test_what_is_written(synth, parts, tmp_path):
    out = tmp_path / "new" / "out"
    returned = generate(synth, backgrounds(parts), "Spots", 5, 4, out, batch_size=2)
    manifest = pd.read_csv(out / "manifest.csv", keep_default_na=False)
    assert tuple(manifest.columns) == export_columns("approximate")
    assert len(manifest) == len(returned) == 5
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == sorted(
        [*manifest["path"], *manifest["approximate_mask"]]
    )
    assert list(manifest["path"]) == [f"images/{n:06d}.png" for n in range(5)]
    assert list(manifest["approximate_mask"]) == [
        f"approximate_masks/{n:06d}.png" for n in range(5)
    ]
    assert set(manifest["defect"]) == {"Spots"}
    assert set(manifest["guidance"]) == {"latent"}
    assert set(manifest["reference"]) == {""}
    assert set(manifest["seed"]) == {4}
    assert list(manifest["index"]) == list(range(5))
    assert set(manifest["checkpoint_sha256"]) == {synth.checkpoint_hash}
    assert set(manifest["background"]) <= {str(path) for path in backgrounds(parts)}


def test_a_row_says_how_to_make_its_image_again(synth, parts, tmp_path):
    table = generate(synth, backgrounds(parts), "Scratches", 5, 8, tmp_path, progress=False)
    for row in table.to_dict("records"):
        x = synth.images(row["background"])
        fake = to_uint8(synth.latent_guided(x, row["defect"], seed=row["seed"], first=row["index"]))
        found = pixels(tmp_path / row["path"])
        assert np.abs(found - fake[0, :, :, 0].astype(int)).max() <= 1
        mask = pixels(tmp_path / row["approximate_mask"])
        assert mask.shape == (SIZE, SIZE)
        plain = to_uint8(synth.without_defect(synth.background(x)))
        expected = approximate_masks(plain, found[None, :, :, None].astype(np.uint8))
        assert np.array_equal(mask, expected[0])


def test_reference_guided_rows_name_their_reference(synth, parts, tmp_path):
    refs = references(parts)
    table = generate(synth, backgrounds(parts), "Scratches", 6, 0, tmp_path, refs, progress=False)
    assert set(table["guidance"]) == {"reference"}
    # each in every round, in an order of its own
    order = Shuffle(2, 0, "references")
    assert list(table["reference"]) == [str(refs[order[n]]) for n in range(6)]
    assert list(table["reference"]) != [str(refs[n % 2]) for n in range(6)]
    for row in table.to_dict("records"):
        x, x_ref = synth.images(row["background"]), synth.images(row["reference"])
        fake = to_uint8(synth.reference_guided(x, x_ref, "Scratches"))
        found = pixels(tmp_path / row["path"])
        assert np.abs(found - fake[0, :, :, 0].astype(int)).max() <= 1


def test_every_background_comes_as_often(synth, parts, tmp_path):
    table = generate(synth, backgrounds(parts), "Spots", 7, 0, tmp_path, progress=False)
    counts = table["background"].value_counts()
    assert sorted(counts) == [2, 2, 3]
    assert table["background"][:3].nunique() == table["background"][3:6].nunique() == 3


def test_another_seed_makes_other_images(synth, parts, tmp_path):
    good = backgrounds(parts)[:1]
    for seed in (0, 1):
        generate(synth, good, "Spots", 1, seed, tmp_path / str(seed), progress=False)
    first, second = (pixels(tmp_path / f"{seed}/images/000000.png") for seed in (0, 1))
    assert np.abs(first - second).max() > 4


def test_more_images_begin_with_the_same_ones(synth, parts, tmp_path):
    for count in (2, 5):
        out = tmp_path / str(count)
        generate(synth, backgrounds(parts), "Spots", count, 0, out, progress=False)
    for n in range(2):
        few, many = (pixels(tmp_path / f"{count}/images/{n:06d}.png") for count in (2, 5))
        assert np.abs(few - many).max() <= 1


def test_a_folder_that_holds_something_is_refused(synth, parts, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"is not empty; choose another --out"):
        generate(synth, backgrounds(parts), "Spots", 1, 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(synth, parts, tmp_path):
    generate(synth, backgrounds(parts), "Spots", 1, 0, tmp_path, progress=False)
    assert (tmp_path / "manifest.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0; expected at least 1"),
        ({"count": -2}, "count is -2"),
        ({"defect": "Dents"}, "unknown defect 'Dents'"),
        ({"batch_size": 0}, "batch.* 0"),
        ({"batch_size": -4}, "batch.* -4"),
        ({"backgrounds": []}, "background"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    options, message, synth, parts, tmp_path
):
    out = tmp_path / "out"
    arguments = {"backgrounds": backgrounds(parts), "defect": "Spots", "count": 2, "seed": 0}
    with pytest.raises(ValueError, match=message):
        generate(synth, out=out, **{**arguments, **options})
    assert not out.exists()


def test_the_manifest_is_written_last(synth, parts, tmp_path, monkeypatch):
    write_atomic = running.write_atomic

    def failing(path: Path, data: bytes) -> None:
        if path.name == "000002.png":
            raise OSError("No space left on device")
        write_atomic(path, data)

    monkeypatch.setattr(running, "write_atomic", failing)
    with pytest.raises(OSError, match="No space left"):
        generate(synth, backgrounds(parts), "Spots", 4, 0, tmp_path, progress=False)
    assert not (tmp_path / "manifest.csv").exists()


def test_shuffle_takes_each_once_a_round_and_workers_agree():
    first, second = Shuffle(5, 3, "backgrounds"), Shuffle(5, 3, "backgrounds")
    drawn = [first[n] for n in range(20)]
    for k in range(0, 20, 5):
        assert sorted(drawn[k : k + 5]) == [0, 1, 2, 3, 4]
    assert drawn == [second[n] for n in reversed(range(20))][::-1]
    assert drawn[:5] != drawn[5:10] or drawn[5:10] != drawn[10:15]
    assert drawn != [Shuffle(5, 4, "backgrounds")[n] for n in range(20)]
    assert drawn != [Shuffle(5, 3, "references")[n] for n in range(20)]
