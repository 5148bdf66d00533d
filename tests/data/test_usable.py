"""Backgrounds and references as they come: what can be used is used, the rest is told."""

from pathlib import Path

import pandas as pd
import pytest

from dtgan_lab.cli.main import main
from dtgan_lab.data.folder import usable_images
from tests.data.folder_fixtures import png, tree_bytes, write_tree
from tests.data.hostile_fixtures import HARMFUL, HARMLESS, LINKS, PER_KIND, hostile_files

SOUND = 3


def hostile_folder(
    root: Path, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, str], int]:
    """Ten files of each kind among sound ones: name -> reason, and the number of sound ones."""
    write_tree(root, {f"sound{n}.png": png(n) for n in range(SOUND)})
    expected = hostile_files(root, kinds, monkeypatch)
    seen = {name: reason for name, reason in expected.items() if "/." not in name}
    return seen, SOUND + PER_KIND * len(HARMLESS.keys() & set(kinds))


@pytest.mark.parametrize("kind", [*HARMLESS, *HARMFUL, "circle"])
def test_a_kind_of_hostile_files_is_told_and_the_rest_is_taken(kind, tmp_path, monkeypatch):
    expected, sound = hostile_folder(tmp_path / "in", [kind], monkeypatch)
    usable, left_out = usable_images(tmp_path / "in")
    assert len(usable) == sound
    assert usable == sorted(usable)
    found = {item.name: item.reason for item in left_out}
    assert set(found) == set(expected)
    assert all(text in found[name] for name, text in expected.items())


def test_two_hundred_hostile_backgrounds_stop_no_export(export, tmp_path, capsys, monkeypatch):
    kinds = [*HARMLESS, *HARMFUL, *LINKS]
    expected, sound = hostile_folder(tmp_path / "in", kinds, monkeypatch)
    assert len(expected) + sound >= 200
    assert len(kinds) >= 10
    outside = {p.name for p in tmp_path.iterdir()}
    words = ["generate", "--checkpoint", export, "--backgrounds", tmp_path / "in"]
    words += ["--defect", "Spots", "--count", sound, "--out", tmp_path / "out"]
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    told = capsys.readouterr().err
    assert f"left out: {len(expected)} files" in told
    assert "Traceback" not in told
    table = pd.read_csv(tmp_path / "out/left_out.csv", keep_default_na=False)
    assert set(table["name"]) == set(expected)
    manifest = pd.read_csv(tmp_path / "out/manifest.csv", keep_default_na=False)
    assert manifest["background"].nunique() == sound
    assert {p.name for p in tmp_path.iterdir()} == outside | {"out"}
    allowed = ("images/", "approximate_masks/", "manifest.csv", "export.json", "left_out.csv")
    assert all(name.startswith(allowed) for name in tree_bytes(tmp_path / "out"))


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
    usable, left_out = usable_images(tmp_path / ".odd name")
    assert usable == [tmp_path / ".odd name"]
    assert left_out == []
    with pytest.raises(ValueError, match="gone.png: no such file or folder"):
        usable_images(tmp_path / "gone.png")
