"""Archives that are damaged or lie: refused as a whole, nothing is lost in silence."""

import lzma
import random
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import prepare_folder
from dtgan_lab.data import DatasetError, archives
from dtgan_lab.data.archives import read_tree
from tests.data.folder_fixtures import as_tar, as_zip, folder_words, left_out, pack, png, tree_bytes

MIB = 2**20
SOUND = {f"good/{n}.png": png(n) for n in range(12)}


def opened(path: Path) -> dict[str, bytes]:
    """What can be read of an archive, by name; nothing is written beside `path` but in work/."""
    work = path.parent / "work"
    work.mkdir()
    try:
        return {name: read() for name, read in read_tree([path], work).readers.items()}
    finally:
        assert {entry.name for entry in path.parent.iterdir()} == {path.name, "work"}
        shutil.rmtree(work)


SUFFIXES = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_archive_loses_nothing_in_silence(suffix, tmp_path):
    path = pack(tmp_path / f"a.{suffix}", SOUND)
    assert opened(path) == SOUND
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    for number in range(48):
        data, place = bytearray(whole), chance.randrange(len(whole))
        if number % 4 == 0:
            del data[place:]
        elif number % 4 == 1:
            data[place // 512 * 512 : place // 512 * 512 + 512] = bytes(512)
        elif number % 4 == 2:
            data[place] ^= 1 << chance.randrange(8)
        else:
            del data[place : place + chance.randrange(1, 2000)]
        path.write_bytes(data)
        try:
            assert len(opened(path)) == 12
        except DatasetError:
            refused += 1
    assert refused > 16


def test_no_entry_of_a_zip_is_lost_in_silence(tmp_path):
    path = as_zip(tmp_path / "a.zip", SOUND)
    whole = path.read_bytes()
    directory, chance = whole.index(b"PK\1\2"), random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[chance.randrange(directory, len(data))] = chance.choice((0, 1, 127, 255))
        path.write_bytes(data)
        try:
            with tempfile.TemporaryDirectory() as work:
                tree = read_tree([path], Path(work))
                assert len(tree.readers) + len(tree.left_out) >= 12
        except DatasetError:
            refused += 1
    assert 0 < refused < 150


NAMES = ("../up.png", "/etc/root.png", "a/../../up.png", "..\\up.png", "C:\\up.png")


@pytest.mark.parametrize("name", [*NAMES, "x" * 2000 + ".png"])
@pytest.mark.parametrize("suffix", ["zip", "tar.xz"])
def test_a_name_that_leads_out_refuses_the_archive(name, suffix, tmp_path):
    path = pack(tmp_path / f"a.{suffix}", SOUND | {name: png(20)})
    with pytest.raises(DatasetError, match="leads out of the archive|2004 characters"):
        opened(path)


@pytest.mark.parametrize("kind", ["SYMTYPE", "FIFOTYPE", "CHRTYPE"])
def test_links_out_and_devices_of_a_tar_refuse_it(kind, tmp_path):
    path = as_tar(tmp_path / "a.tar", {"bad/a.png": b""}, getattr(tarfile, kind))
    with pytest.raises(DatasetError, match="no plain file"):
        opened(path)


def test_a_link_in_a_zip_is_a_file_of_its_text_and_a_name_that_comes_twice_refuses_it(tmp_path):
    link = zipfile.ZipInfo("bad/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert opened(tmp_path / "a.zip") == {"bad/link.png": b"/etc/passwd"}
    # a name that comes twice refuses it
    path = as_zip(tmp_path / "a.zip", SOUND)
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("good/1.png", png(300))
    with pytest.raises(DatasetError, match=r"good/1\.png: it comes twice"):
        opened(path)


# ----- sizes


def lying_zip(path: Path, kind: int, claimed: int, name: str = "good/a.png") -> Path:
    """A zip whose one member unpacks to 40 MiB of zeros and claims to have fewer."""
    as_zip(path, {name: bytes(40 * MIB)}, kind)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, claimed)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (zipfile.ZIP_DEFLATED, "CRC"),
        (zipfile.ZIP_BZIP2, "neither stored nor deflated"),
        (zipfile.ZIP_LZMA, "neither stored nor deflated"),
    ],
)
def test_a_member_larger_than_it_says_is_not_unpacked(kind, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        opened(lying_zip(tmp_path / "a.zip", kind, 1000))


def header(name: str, size: int, kind: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(**fields: str) -> bytes:
    """An extended header before a sound picture, and the end of the archive."""
    text = b""
    for key, value in fields.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        text += f"{length}".encode() + record
    data = png(1)
    parts = [header("p", len(text), b"x"), text, header("good/a.png", len(data), b"0"), data]
    return b"".join(part.ljust(-(-len(part) // 512) * 512, b"\0") for part in parts) + bytes(1024)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "chain": (lambda: (header("p", 512, b"L") + b"a" * 512) * 3000, "recursion"),
    "name": (lambda: header("p", 3 * MIB, b"L") + b"a" * 3 * MIB, "a header of 3,145,728 bytes"),
    "bomb": (lambda: header("a.txt", 90 * MIB, b"0") + bytes(90 * MIB), "decompression bomb"),
    "zeros": (lambda: pax() + bytes(90 * MIB), "more after its end"),
    "backwards": (lambda: pax(size="-1024"), "a size below 0"),
    "huge": (lambda: pax(size="9" * 20), "decompression bomb"),
    "sparse": (lambda: pax(GNU__sparse__map="a,b"), "invalid literal"),
    "second": (lambda: pax() + pax(), "more after its end"),
    "no end": (lambda: pax()[:-1024], "its end is missing"),
    "text": (lambda: b"no archive", "truncated header"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tar_is_refused_with_its_reason(kind, tmp_path):
    make, reason = HOSTILE[kind]
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(make(), preset=0))
    with pytest.raises(DatasetError, match=f"cannot be read as a zip or tar.*({reason})"):
        opened(tmp_path / "a.tar.xz")


def test_too_many_files_and_a_missing_archive_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match="not found"):
        read_tree([tmp_path / "no"], tmp_path)
    monkeypatch.setattr(archives, "MOST_ENTRIES", 5)
    with pytest.raises(DatasetError, match="more than 5 files"):
        opened(as_tar(tmp_path / "a.tar", SOUND))


def test_sound_pictures_of_an_archive_are_taken_and_others_told(tmp_path):
    more = {f"bad/{n}.png": png(100 + n) for n in range(5)}
    odd = {"bad/inner.zip": b"PK", "bad/empty.png": b"", "__MACOSX/bad/._1.png": b"x"}
    (tmp_path / "in").mkdir()
    source = as_zip(tmp_path / "in/parts.zip", SOUND | more | odd)
    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    assert set(left_out(tmp_path / "out")) == set(odd)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert {key.split("/")[0] for key in tree_bytes(tmp_path / "out")} == {
        *("train", "val", "test", "dataset.json", "manifest.csv", "left_out.csv")
    }
