"""A data set is replaced as a whole or stays: full disks, links, and rights that are missing."""

import errno
import os
from pathlib import Path

import pytest

import join_datasets
import make_synthetic_sdi
import prepare_folder
import subset
from dtgan_lab.data import layout, load_dataset
from tests.core_fixtures import write_tiny_dataset
from tests.data.folder_fixtures import folder_words, tree_bytes, two_folders, write_tree
from tests.test_full_disk import full_after, largest_file

FOLDER = ["--anchor", "good", "--size", "16"]


@pytest.mark.parametrize(
    ("script", "words", "other", "way"),
    [
        (make_synthetic_sdi, ["--scale", "0.003"], ["--fresh", "1"], "a picture"),
        (prepare_folder, ["--source", "parts", *FOLDER], ["--seed", "3", "--force"], "a picture"),
        (subset, ["--data", "tiny", "--product", "A"], ["--keep", "A/Spots=2"], "the manifest"),
        (join_datasets, ["--data", "tiny"], ["--size", "24"], "a picture"),
    ],
)
def test_a_full_disk_is_told_and_what_stood_stays(
    script, words, other, way, tmp_path, capsys, monkeypatch
):
    write_tiny_dataset(tmp_path / "tiny", a_cell=4)
    write_tree(tmp_path / "parts", two_folders(4, 4))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    for stood in (False, True):
        if stood:
            assert script.main([*words, "--out", str(out)]) == 0
        before = tree_bytes(out)
        capsys.readouterr()
        with largest_file(200) if way == "a picture" else full_after(1):
            assert script.main([*words, *other, "--out", str(out)]) in (1, 2)
        told = capsys.readouterr().err
        assert f"{script.__name__}: the disk is full ([Errno" in told
        assert str(out) in told.splitlines()[0]
        assert f"What stood in {out} before is still there" in told and "Traceback" not in told
        assert tree_bytes(out) == before
        assert out.exists() == stood
    load_dataset(out, check="full")


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, list[str]]:
    source, out = write_tree(tmp_path / "parts", two_folders(4, 4)), tmp_path / "out"
    return out, folder_words(source, out)


@pytest.mark.parametrize("linked", [".", "train"])
def test_a_folder_that_is_a_link_can_be_replaced(linked, prepared, tmp_path):
    out, words = prepared
    assert prepare_folder.main(words) == 0
    (out / linked).rename(tmp_path / "elsewhere")
    (out / linked).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert prepare_folder.main([*words, "--seed", "3", "--force"]) == 0
    assert load_dataset(out, check="full").info.command.endswith("--seed 3")
    if linked == "train":
        assert len(list((tmp_path / "elsewhere").rglob("*.png"))) == 4, "what it led to stays"


def test_a_kill_after_the_swap_loses_no_list(prepared, tmp_path, monkeypatch):
    out, words = prepared
    (tmp_path / "parts/note.txt").write_text("no picture")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dtgan_lab.data.preparing.load_dataset", killed)
        assert prepare_folder.main(words) == 130
    before = tree_bytes(out)
    assert b"note.txt" in before["left_out.csv"]
    assert prepare_folder.main(words) == 0
    assert tree_bytes(out) == before


@pytest.mark.parametrize("fails", range(1, 12))
def test_a_swap_that_fails_puts_back_what_stood(fails, prepared, monkeypatch):
    out, words = prepared
    assert prepare_folder.main(words) == 0
    before, move, count = tree_bytes(out), layout._move, [0]

    def failing(source: Path, target: Path) -> None:
        count[0] += 1
        if count[0] == fails:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source))
        move(source, target)

    monkeypatch.setattr(layout, "_move", failing)
    assert prepare_folder.main([*words, "--seed", "3", "--force"]) == 1
    assert tree_bytes(out) == before
