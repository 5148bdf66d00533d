"""Points of folders and data sets, their cache, and `evaluate --real --fake`."""

import json
from pathlib import Path

import numpy as np
import pytest

from dtgan_lab.cli.main import main
from dtgan_lab.data import ImageError
from dtgan_lab.measure.features import Points
from dtgan_lab.measure.folders import cached, folder_points, read_folder
from dtgan_lab.measure.results import read_results
from tests.core_fixtures import SIZE, failure, save_picture
from tests.distance_fixtures import Space, untrained_domain, write_inception_stand_in
from tests.evaluation_fixtures import drawing


def write_images(folder: Path, defect: int, first: int, count: int = 12) -> Path:
    """Drawn images of product 0."""
    for number in range(first, first + count):
        save_picture(folder / "deep" / f"{number:03d}.png", drawing(0, defect, number)[0])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domain")
    untrained_domain(SIZE, dimension=4).save(folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_images(tmp_path / "real", 1, 0), write_images(tmp_path / "fake", 2, 50)


# --- folders -------------------------------------------------------------------------------------
def test_folder_is_named_by_names_and_bytes(tmp_path):
    one = read_folder(write_images(tmp_path / "one", 1, 0))
    same = read_folder(write_images(tmp_path / "two", 1, 0))
    assert one.sha256 == same.sha256 and one.size == (SIZE, SIZE) and len(one.paths) == 12
    (tmp_path / "two" / "deep" / "000.png").rename(tmp_path / "two" / "deep" / "100.png")
    assert read_folder(tmp_path / "two").sha256 != one.sha256
    save_picture(tmp_path / "one" / "small.png", drawing(0, 1, 0)[0][:16])
    assert read_folder(tmp_path / "one").size is None


def test_masks_never_count_as_images_and_damaged_ones_are_told(data, tmp_path):
    with pytest.raises(ValueError, match=f"masks would count as images.*{data}/test"):
        read_folder(data)
    made = tmp_path / "made"
    write_images(made / "images", 1, 0)
    (made / "manifest.csv").write_text("path\n")
    with pytest.raises(ValueError, match=f"such as {made}/images"):
        read_folder(made)
    assert len(read_folder(data / "test").paths) == 27
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="broken.png"):
        read_folder(tmp_path / "broken")


# --- the cache -----------------------------------------------------------------------------------
def test_points_are_computed_once(data, tmp_path):
    extract, size = untrained_domain(SIZE), (SIZE, SIZE)
    val, test = (read_folder(data / split) for split in ("val", "test"))
    first = folder_points(val, extract, size, cache=tmp_path / "kept")
    assert first.std() > 0

    def never(x: object) -> None:
        raise AssertionError("computed again")

    extract.features = never  # type: ignore[method-assign, assignment]
    assert np.array_equal(first, folder_points(val, extract, size, cache=tmp_path / "kept"))
    with pytest.raises(AssertionError, match="computed again"):  # other images
        folder_points(test, extract, size, cache=tmp_path / "kept")


def test_other_weights_and_sizes_have_points_of_their_own(tmp_path):
    spaces = [Space("domain", 4), Space("domain", 4), Space("squeezenet", 4)]
    spaces[1].sha256 = "1" * 64
    for number, space in enumerate(spaces):
        for size in (8, 16):

            def compute(value: float = number + size) -> Points:
                return np.full((3, 4), value, dtype=np.float32)

            found = cached(tmp_path, {"files": "x", "size": size}, space, compute)
            assert (found == number + size).all()
    assert len(list(tmp_path.iterdir())) == 6


def test_damaged_points_are_computed_again_and_told(tmp_path, capsys):
    space = Space("domain", 4)
    points = np.arange(12, dtype=np.float32).reshape(3, 4)
    cached(tmp_path, {"files": "x"}, space, lambda: points)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    for damaged in (sound[:-4] + b"\0\0\0\1", sound[: len(sound) // 2], b""):
        path.write_bytes(damaged)
        found = cached(tmp_path, {"files": "x"}, space, lambda: points)
        assert np.array_equal(found, points) and path.read_bytes() == sound
        assert "computed again" in capsys.readouterr().err
    assert np.array_equal(cached(tmp_path, {"files": "x"}, space, lambda: points), points)
    assert capsys.readouterr().err == ""


# --- the command line ----------------------------------------------------------------------------
def test_command_compares_two_folders(pair, weights, tmp_path, capsys):
    arguments = ["evaluate", "--real", pair[0], "--fake", pair[1], "--weights", weights]
    kept = ["--json", tmp_path / "a" / "out.json", "--results", tmp_path / "b" / "rows.jsonl"]
    words = [str(word) for word in [*arguments, *kept, "--cache", tmp_path / "kept"]]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "12 real and 12 made images, 4 features" in captured.out
    assert "FD (domain)" in captured.out and "FID" not in captured.out
    assert "learned from nothing alone" in captured.err
    row = json.loads((tmp_path / "a" / "out.json").read_text())
    assert row["KID (domain)"] > 0 and row["image_size"] == [SIZE, SIZE]
    assert row["real_sha256"] == read_folder(pair[0]).sha256
    assert main([*words, "--seed", "1"]) == 0
    table = read_results(tmp_path / "b" / "rows.jsonl")
    assert list(table["seed"]) == [0, 1] and table["FD (domain)"].nunique() == 1
    assert set(table["command"]) == {"evaluate"}
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_command_says_what_few_images_and_copies_are_worth(pair, tmp_path, capsys):
    untrained_domain(SIZE, dimension=16).save(tmp_path / "wide")
    words = ["--weights", str(tmp_path / "wide")]
    assert main(["evaluate", "--real", str(pair[0]), "--fake", str(pair[0]), *words]) == 0
    captured = capsys.readouterr()
    assert "quote KID (domain): 12 images cannot fill" in captured.err
    assert "the same images" in captured.err
    assert captured.out.splitlines()[1].startswith("KID (domain)")


def test_command_takes_inception_by_a_path_when_it_is_trusted(pair, tmp_path, capsys):
    # a Frechet distance of 2048 dimensions takes a minute: the extractor and its name are enough
    stand_in = write_inception_stand_in(tmp_path / "net.pt")
    words = ["evaluate", "--real", pair[0], "--fake", tmp_path / "none", "--features", "inception"]
    assert "none" in failure(capsys, *words, "--weights", stand_in, "--trust-weights")
    assert "no such file" in failure(capsys, *words, "--weights", tmp_path / "gone.pt")
    save_picture(tmp_path / "small" / "a.png", drawing(0, 1, 0)[0][:16, :16])
    words = ["evaluate", "--real", pair[0], "--fake", tmp_path / "small"]
    words += ["--features", "inception", "--weights", stand_in, "--trust-weights"]
    message = failure(capsys, *words)
    assert "images 32 x 32" in message and "16 x 16" in message and "--image-size N" in message
    assert "--image-size: found '0'" in failure(capsys, *words, "--image-size", "0")
    words = ["evaluate", "--real", pair[0], "--fake", pair[1]]
    for rest in (["--features", "inception"], ["--weights", stand_in, "--features", "domain"]):
        message = failure(capsys, *words, *rest, "--trust-weights")
        assert "--trust-weights: goes with --features inception and --weights" in message


def test_command_refuses_what_does_not_go_together(pair, weights, tmp_path, capsys):
    both = ["--real", pair[0], "--fake", pair[1], "--weights", weights]
    message = failure(capsys, "evaluate", *both, "--checkpoint", tmp_path)
    assert "--checkpoint and --real, --fake, --weights, expected either" in message
    assert "--seeds" in failure(capsys, "evaluate", *both, "--seeds", "2")
    assert "needs --fake" in failure(capsys, "evaluate", "--real", pair[0])
    assert "needs --checkpoint, --data, --judge" in failure(capsys, "evaluate")
    assert "needs --judge" in failure(
        capsys, "evaluate", "--checkpoint", tmp_path, "--data", tmp_path
    )
    assert "take 32 pixels" in failure(capsys, "evaluate", *both, "--image-size", "64")
    write_images(tmp_path / "few", 1, 0, count=3)
    few = ["--real", pair[0], "--fake", tmp_path / "few", "--weights", weights]
    assert "fake: found 3 images" in failure(capsys, "evaluate", *few)


def test_command_trains_features_and_uses_them(data, tmp_path, capsys):
    out = tmp_path / "domain"
    words = ["domain-features", "--data", str(data), "--out", str(out), "--image-size", "32"]
    assert main([*words, "--iterations", "1"]) == 0
    assert "done" in capsys.readouterr().out
    sides = ["--real", str(data / "train"), "--fake", str(data / "test")]
    assert main(["evaluate", *sides, "--weights", str(out)]) == 0
    assert "learned from judged alone" in capsys.readouterr().err
    assert "multiple of 16" in failure(capsys, *words[:-1], "40")
