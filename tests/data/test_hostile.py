"""Two hundred damaged or hostile files: each is told, the rest is taken, nothing leaves the folder.

The kinds stand in `hostile_fixtures`.
"""

import io
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

import prepare_folder
from dtgan_lab.data import DatasetError, archives, load_dataset
from dtgan_lab.data.archives import opened_tree
from tests.data.folder_fixtures import folder_words, left_out, png, tree_bytes, write_tree
from tests.data.hostile_fixtures import HARMFUL, HARMLESS, LINKS, PER_KIND, hostile_files


def test_each_is_told_and_the_rest_is_taken(tmp_path, capsys, monkeypatch):
    source = write_tree(tmp_path / "src", {f"good/sound{n}.png": png(n) for n in range(4)})
    expected = hostile_files(source, [*HARMLESS, *HARMFUL, *LINKS], monkeypatch)
    assert len(HARMLESS) * PER_KIND + len(expected) >= 200
    before = sorted(path.name for path in tmp_path.iterdir())

    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    told = left_out(tmp_path / "out")
    assert set(told) == set(expected), "each by name, and no sound one"
    wrong = {name: told[name] for name, text in expected.items() if text not in told[name]}
    assert not wrong
    dataset = load_dataset(tmp_path / "out", check="full")
    assert len(dataset.manifest) == 4 + len(HARMLESS) * PER_KIND
    assert dataset.manifest["source"].map(str.isprintable).all()
    assert dataset.manifest["path"].map(str.isascii).all()
    printed = capsys.readouterr().out
    assert "note: 10 pictures have several frames or pages, the first is taken: bad/anim" in printed
    assert "left out, empty file: 10" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])


# ----- archives
OUT = ("../up.png", "/etc/root.png", "a/../../up.png")


def hostile_zip(path: Path) -> dict[str, str]:
    """Write a zip of ten sound members and of hostile ones; name -> reason."""
    expected = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(5):
            archive.writestr(f"good/{n}.png", png(n))
            archive.writestr(f"bad/{n}.png", png(100 + n))
        for name in (*OUT, "..\\up.png", "C:\\up.png"):
            archive.writestr(name, png(200))
            expected[name] = "leads out"
        link = zipfile.ZipInfo("bad/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        expected["bad/link.png"] = "a link or device"
        archive.writestr("bad/bomb.png", bytes(40 * 2**20))
        expected["bad/bomb.png"] = "times its size"
        archive.writestr("bad/inner.zip", b"PK")
        expected["bad/inner.zip"] = "expected a name ending in"
        archive.writestr("__MACOSX/bad/._1.png", b"x")
        expected["__MACOSX/bad/._1.png"] = "starts with a dot"
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("bad/1.png", png(300))
        expected["bad/1.png"] = "another file has this name"
        archive.writestr("bad/" + "x" * 2000 + ".png", png(301))
        expected["bad/" + "x" * 2000 + ".png"] = "2008 characters"
    return expected


def hostile_tar(path: Path) -> dict[str, str]:
    """The same as a tar.xz."""
    expected = {}
    with tarfile.open(path, "w:xz") as archive:

        def add(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, link
            archive.addfile(member, io.BytesIO(data))

        for n in range(5):
            add(f"good/{n}.png", png(n))
            add(f"bad/{n}.png", png(100 + n))
        for name in OUT:
            add(name, png(200))
            expected[name] = "leads out"
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
        for name, kind in zip(("soft", "hard", "pipe", "device"), kinds, strict=True):
            add(f"bad/{name}.png", b"", kind, "/etc/passwd")
            expected[f"bad/{name}.png"] = "a link or device"
        add("bad/empty.png", b"")
        expected["bad/empty.png"] = "0 bytes"
    return expected


@pytest.mark.parametrize(
    ("name", "make"), [("parts.zip", hostile_zip), ("parts.tar.xz", hostile_tar)]
)
def test_hostile_archives_give_their_sound_members(tmp_path, name, make):
    source = tmp_path / "in" / name
    source.parent.mkdir()
    expected = make(source)
    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    told = left_out(tmp_path / "out")
    assert set(told) == set(expected)
    assert all(text in told[key] for key, text in expected.items())
    assert len(load_dataset(tmp_path / "out", check="full").manifest) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert {key.split("/")[0] for key in tree_bytes(tmp_path / "out")} == {
        *("train", "val", "test", "dataset.json", "manifest.csv", "left_out.csv")
    }


def test_a_member_that_lies_about_itself_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good/1.png", png(1))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    lies = pytest.raises(ValueError, match="CRC")
    with opened_tree([tmp_path / "a.zip"], tmp_path) as tree, lies:
        tree.readers["good/1.png"]()


def test_archives_damaged_or_exploding_as_a_whole_are_refused(tmp_path, monkeypatch):
    hostile_tar(tmp_path / "a.tar.xz")
    whole = (tmp_path / "a.tar.xz").read_bytes()
    (tmp_path / "half.tar.xz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar.xz").write_text("no archive")
    with tarfile.open(tmp_path / "bomb.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo("readme.txt")
        member.size = 12 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "zeros.tar.xz").write_bytes(lzma.compress(bytes(12 * 2**20)))
    for name, reason in (
        ("zeros.tar.xz", "a decompression bomb"),
        ("half.tar.xz", "cannot be read as a zip or tar"),
        ("text.tar.xz", "cannot be read as a zip or tar"),
        ("bomb.tar.xz", "a decompression bomb"),
        ("none.tar.xz", "not found"),
    ):
        work = tmp_path / f"work {name}"
        work.mkdir()
        with pytest.raises(DatasetError, match=reason), opened_tree([tmp_path / name], work):
            pytest.fail("it must not open")
    monkeypatch.setattr(archives, "MOST_ENTRIES", 5)
    with pytest.raises(DatasetError, match="more than 5 files"):
        opened_tree([tmp_path / "a.tar.xz"], tmp_path / "work none.tar.xz").__enter__()
