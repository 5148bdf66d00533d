"""Backgrounds and references as they come: what can be used is used, the rest is told."""

import pytest

from dtgan_lab.cli.main import main
from dtgan_lab.data.folder import usable_images
from dtgan_lab.measure.folders import read_folder
from tests.data.folder_fixtures import left_out, png, write_tree
from tests.data.hostile_fixtures import HARMLESS, PER_KIND, hostile_files

SOUND = 3


def test_hostile_files_are_told_and_the_rest_is_taken(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "in", {f"sound{n}.png": png(n) for n in range(SOUND)})
    expected = hostile_files(root, monkeypatch)
    usable, told = usable_images(root)
    assert len(usable) == SOUND + PER_KIND * len(HARMLESS) and usable == sorted(usable)
    seen = {name: reason for name, reason in expected.items() if "/." not in name}
    found = {item.name: item.reason for item in told}
    assert set(found) == set(seen) and len(seen) > 100
    assert all(text in found[name] for name, text in seen.items())


def test_an_export_and_a_measurement_go_on_without_what_is_unusable(export, tmp_path, capsys):
    source = write_tree(tmp_path / "in", {"a.png": png(1), "=half.png": png(2)[:90]})
    words = ["generate", "--checkpoint", export, "--backgrounds", source]
    words += ["--defect", "Spots", "--count", 1, "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    assert "left out: 1 files" in capsys.readouterr().err
    assert list(left_out(tmp_path / "out")) == ["'=half.png"]
    assert read_folder(source).paths == [source / "a.png"]
    assert "left out: 1 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no image that can be used, expected files ending in"),
        ({"a.png": b"", "b.txt": b"x"}, "a.png: 0 bytes.*b.txt: expected a name ending in"),
        ({"half.png": png(1)[:90]}, "half.png: cannot be decoded"),
    ],
)
def test_a_folder_of_nothing_usable_says_why(files, message, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        usable_images(write_tree(tmp_path / "in", files))
    assert "\n" not in str(caught.value)


def test_a_single_file_is_taken_whatever_it_is_called(tmp_path):
    write_tree(tmp_path, {".odd name": png(1)})
    assert usable_images(tmp_path / ".odd name") == ([tmp_path / ".odd name"], [])
    with pytest.raises(ValueError, match="gone.png: no such file or folder"):
        usable_images(tmp_path / "gone.png")
