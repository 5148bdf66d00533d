"""`kill -9` at random moments of training, export and evaluation: nothing is lost or half-written.

Six kills run in `make test`, seventy-five in `make test-slow`.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dtgan_core.checkpoints import read_json, read_tensors, step_folders
from dtgan_lab.measure.results import read_results
from tests import kill_fixtures
from tests.core_fixtures import latest_step, log_without_time, picture, save_picture
from tests.data.folder_fixtures import tree_bytes
from tests.kill_fixtures import STEPS, kill

SEED = 2302
MANY = pytest.param(25, marks=pytest.mark.slow)
CHECKPOINT_FILES = ("networks", "ema", "optimisers")


def result_of_training(run: Path) -> dict[str, bytes]:
    """Every file that a finished run must have in the same bytes: weights, moments, samples."""
    names = [f"checkpoints/step-{STEPS:08d}/{stem}.safetensors" for stem in CHECKPOINT_FILES]
    names += ["export/ema.safetensors"]
    names += [f"samples/{path.name}" for path in sorted((run / "samples").glob("*.png"))]
    return {name: (run / name).read_bytes() for name in names}


def timed(work: Callable[..., None], *arguments: Any) -> float:
    """Seconds that the whole work takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def check_run(run: Path, least: int) -> int:
    """Whatever has a final name is whole; the newest step, which must not be below `least`."""
    for folder in step_folders(run):
        state = read_json(folder / "state.json")
        assert folder.name == f"step-{state['step']:08d}"
        for stem in CHECKPOINT_FILES:
            assert read_tensors(folder / f"{stem}.safetensors")
    for path in run.glob("samples/[!.]*"):
        with Image.open(path) as image:
            image.load()
    if (run / "export/card.json").exists():
        assert read_json(run / "export/card.json")["iterations"] == STEPS
        assert read_tensors(run / "export/ema.safetensors")
    if not step_folders(run):
        assert least == 0
        return 0
    step = int(latest_step(run).name.removeprefix("step-"))
    assert step >= least, "a checkpoint was lost"
    return step


@pytest.mark.parametrize("kills", [2, MANY])
def test_training_outlives_kills(kills, tmp_path):
    chance, seconds = random.Random(SEED), timed(kill_fixtures.train, tmp_path / "whole")
    expected = result_of_training(tmp_path / "whole")
    assert len(expected) == 4 + STEPS // 4
    done = rounds = 0
    while done < kills or rounds == 0:
        run = tmp_path / f"killed-{rounds}"
        step = 0
        while done < kills and kill(kill_fixtures.train, (run,), chance, seconds):
            done += 1
            step = check_run(run, step)
        kill_fixtures.train(run)  # goes on to the end, or finds it there
        assert result_of_training(run) == expected
        assert log_without_time(run) == log_without_time(tmp_path / "whole")
        assert not list(run.rglob(".*")), "a temporary file stayed"
        shutil.rmtree(run)
        rounds += 1


def damage(run: Path, chance: random.Random) -> None:
    """Spoil a file of the newest checkpoint: cut off, a bit turned, gone, or that of another."""
    folder = step_folders(run)[-1]
    file = chance.choice(sorted(folder.iterdir()))
    data = bytearray(file.read_bytes())
    way = chance.randrange(4)
    if way == 0:
        file.write_bytes(data[: chance.randrange(len(data))])
    elif way == 1:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    elif way == 2:
        file.unlink()
    else:
        shutil.copy(step_folders(run)[0] / file.name, file)


@pytest.mark.slow
def test_training_outlives_kills_that_damage_the_newest_checkpoint(tmp_path):
    chance, seconds = random.Random(SEED + 2), timed(kill_fixtures.train, tmp_path / "whole")
    expected = result_of_training(tmp_path / "whole")
    for done in range(10):
        run = tmp_path / f"damaged-{done}"
        while kill(kill_fixtures.train, (run,), chance, seconds) and len(step_folders(run)) < 2:
            pass
        damage(run, chance)
        with pytest.warns(UserWarning, match="Goes on from step-"):
            kill_fixtures.train(run)
        assert result_of_training(run) == expected
        assert log_without_time(run) == log_without_time(tmp_path / "whole")
        shutil.rmtree(run)


# --- export --------------------------------------------------------------------------------------
def check_export(out: Path, whole: dict[str, bytes], least: int) -> int:
    """Whatever has a final name is whole; how many images there are, not below `least`."""
    found = tree_bytes(out) if out.exists() else {}
    visible = {
        name: data
        for name, data in found.items()
        if not name.startswith(".work/") and not name.rpartition("/")[2].startswith(".")
    }
    for name, data in visible.items():
        assert data == whole[name], name
    if "manifest.csv" in visible:
        assert visible.keys() == whole.keys()
        return 10**6
    stems = {Path(name).stem.removeprefix("synthetic-") for name in found if name.endswith(".png")}
    images = [stem for stem in stems if stem.isdecimal()]
    assert len(images) >= least, "an image was lost"
    return len(images)


@pytest.mark.parametrize("kills", [2, MANY])
def test_an_export_outlives_kills(kills, export, tmp_path):
    for number in range(3):
        save_picture(tmp_path / f"parts/{number}.png", picture(0, 0, number))
    material = (export, tmp_path / "parts")
    kinds = ["folder"] if kills == 2 else ["folder", "tar", "layout"]
    chance, seconds = random.Random(SEED + 1), dict[str, float]()
    done = rounds = 0
    while done < kills or rounds < len(kinds):
        kind = kinds[rounds % len(kinds)]
        whole = tmp_path / f"whole-{kind}"
        if not whole.exists():
            seconds[kind] = timed(kill_fixtures.export, *material, kind, whole)
        expected = tree_bytes(whole)
        out, images = tmp_path / f"killed-{rounds}", 0
        work = (*material, kind, out)
        while done < kills and kill(kill_fixtures.export, work, chance, seconds[kind]):
            done += 1
            images = check_export(out, expected, images)
        kill_fixtures.export(*work)
        assert tree_bytes(out) == expected
        shutil.rmtree(out)
        rounds += 1


# --- evaluation ----------------------------------------------------------------------------------
@pytest.mark.parametrize("kills", [2, MANY])
def test_an_evaluation_outlives_kills(kills, export, data, judge_folder, tmp_path):
    """Whatever has a final name is whole, and no row is lost."""
    inputs = (export, data, judge_folder)
    chance, out = random.Random(SEED + 3), tmp_path / "out"
    seconds, rows = timed(kill_fixtures.evaluate, *inputs, out), 1
    numbers = (out / "numbers.json").read_bytes()
    for _ in range(kills):
        (out / "numbers.json").unlink(missing_ok=True)
        ended = not kill(kill_fixtures.evaluate, (*inputs, out), chance, seconds)
        assert not ended or (out / "numbers.json").is_file()
        assert not (out / "numbers.json").exists() or read_json(out / "numbers.json")
        found = len(read_results(out / "rows.jsonl"))
        assert found - rows in ((1,) if ended else (0, 1)), "a row was lost"
        rows = found
    kill_fixtures.evaluate(*inputs, out)
    assert (out / "numbers.json").read_bytes() == numbers
    assert len(read_results(out / "rows.jsonl")) == rows + 1
    assert not list(out.glob(".*.tmp*")), "a temporary file stayed"
