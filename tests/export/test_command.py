"""`generate` on the command line: formats, gate, resume, and what is said."""

import re
from pathlib import Path

import pandas as pd
import pytest
from torchvision.datasets import ImageFolder

from dtgan_lab.cli.main import main
from dtgan_lab.data import load_dataset
from dtgan_lab.export import running
from tests.data.folder_fixtures import tree_bytes
from tests.export.export_fixtures import write_judge


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained judge, unsure of everything."""
    return write_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def command(export: Path, data: Path) -> list[str]:
    words = ["generate", "--checkpoint", export]
    words += ["--backgrounds", data / "train/B/Normal", "--defect", "Scratches", "Spots"]
    return [str(word) for word in [*words, "--count", 8, "--batch", 3]]


def test_a_layout_knows_the_products_of_its_data(command, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*command, "--format", "layout", "--data", str(data), "--out", str(out)]) == 0
    assert f"done: 8 images in {out}, listed in {out}/manifest.csv" in capsys.readouterr().out
    made = load_dataset(out, check="full")
    assert made.info.products == ("B",)
    groups = set(load_dataset(data).manifest["group"])
    assert set(made.manifest["group"]) <= groups, "the groups of the data are kept"


def test_an_imagefolder_a_product_that_is_told_and_references_in_a_folder_each(
    command, data, tmp_path
):
    out = tmp_path / "out"
    words = ["--format", "imagefolder", "--by-product", "--product", "B", "--out", str(out)]
    assert main([*command, *words, "--references", str(data / "train/A")]) == 0
    assert ImageFolder(str(out / "B")).classes == ["Scratches", "Spots"]
    manifest = pd.read_csv(out / "manifest.csv")
    assert [Path(path).parent.name for path in manifest["reference"]] == list(manifest["defect"])


def test_the_gate_asks_judge_and_training_images(command, data, judge, tmp_path, capsys):
    """An untrained judge gives every defect about a third."""
    out = tmp_path / "out"
    gate = ["--gate", "--judge", str(judge), "--data", str(data), "--out", str(out)]
    assert main([*command, *gate, "--min-confidence", "0.2", "--min-copy-distance", "0"]) == 0
    manifest = pd.read_csv(out / "manifest.csv", keep_default_na=False)
    assert list(manifest.columns[-5:]) == [
        *("confidence", "judged_defect", "judged_product"),
        *("copy_distance", "nearest"),
    ]
    assert len(manifest) == 8
    assert (manifest["confidence"] >= 0.2).all()
    assert "images were refused" in capsys.readouterr().out


def test_a_gate_that_lets_nothing_through_says_where_to_look(command, judge, tmp_path, failing):
    out = tmp_path / "out"
    gate = ["--gate", "--judge", judge, "--min-confidence", "0.99", "--tries", "9"]
    message = failing(*command, *gate, "--out", out)
    assert f"refused all of 9 images, expected 8 to pass; {out}/rejects.csv says why" in message
    assert len(pd.read_csv(out / "rejects.csv")) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "JUDGE"], "--judge: goes with --gate"),
        (["--gate"], "--gate: expected --judge FOLDER"),
        (["--gate", "--judge", "nowhere"], "nowhere: found nothing, expected card.json"),
        (["--gate", "--judge", "JUDGE", "--tries", "3"], "--tries 3: expected at least --count"),
        (["--by-product"], "--by-product: goes with --format imagefolder"),
        (["--format", "layout"], "found no product for this background"),
        (["--format", "layout", "--product", "../B"], "cannot be a folder's name"),
        (["--references", "DATA/train/A"], "for several defects --references expects a folder"),
    ],
)
def test_options_that_do_not_go_together(words, message, command, data, judge, tmp_path, failing):
    named = {"JUDGE": str(judge)}
    words = [named.get(word, word.replace("DATA", str(data))) for word in words]
    if "references" in message:
        (tmp_path / "references").mkdir()
        words[-1] = str(tmp_path / "references")
    out = tmp_path / "out"
    assert message in failing(*command, *words, "--out", out)
    assert not out.exists()


def test_held_out_backgrounds_are_warned_of(command, data, tmp_path, capsys):
    command[command.index("--backgrounds") + 1] = str(data / "test/B/Normal")
    assert main([*command, "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert re.search(r"warning: 3 backgrounds are held-out images", capsys.readouterr().err)


def test_a_share_says_that_others_are_to_come(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        told = capsys.readouterr().out
        if rank == 0:
            assert "done: share 0 of 2; the process that ends last writes" in told
    assert "done: 8 images in" in told


# --- stopped -------------------------------------------------------------------------------------
def interrupted_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come while image `number` is written."""
    write, done = running.write_atomic, 0

    def stopping(path: Path, content: bytes) -> None:
        nonlocal done
        done += 1
        if done > 2 * number:
            raise KeyboardInterrupt
        write(path, content)

    patch.setattr(running, "write_atomic", stopping)


def test_a_stop_says_what_is_kept_and_resume_goes_on(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(4, patch)
        assert main([*command, "--out", str(out)]) == 130
    told = capsys.readouterr().err
    assert f"stopped; what is done is kept in {out}, go on with the same command" in told
    assert main([*command, "--out", str(out)]) == 2
    assert "it holds an export that was stopped; go on with it" in capsys.readouterr().err
    for _ in range(2):  # the second time there is nothing left to do
        assert main([*command, "--out", str(out), "--resume"]) == 0
        assert tree_bytes(out) == tree_bytes(tmp_path / "whole")
