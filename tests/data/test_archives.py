"""Archives that lie about their size or are damaged: refused within a limit, or read to the end."""

import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dtgan_lab.data import DatasetError, ImageError, archives, mtd, mtd_source
from dtgan_lab.data.archives import opened_tree
from dtgan_lab.data.mtd_source import read_source
from tests.data.folder_fixtures import png

MIB = 2**20


def opened(path: Path, work: Path) -> tuple[int, list[str], list[str]]:
    """Members that can be read, why others cannot, and the names of those left out."""
    work.mkdir(exist_ok=True)
    for left in work.iterdir():
        left.unlink()
    sound, problems = 0, []
    with opened_tree([path], work) as tree:
        for read in tree.readers.values():
            try:
                sound += bool(read())
            except ImageError as error:
                problems.append(str(error))
        return sound, problems, [item.name for item in tree.left_out]


# ----- zips
def lying_zip(path: Path, kind: int, claimed: int, name: str = "good/a.png") -> Path:
    """A zip whose one member unpacks to 40 MiB of zeros and claims to have fewer."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(name, bytes(40 * MIB))
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
def test_a_member_larger_than_it_says_takes_no_memory(kind, message, tmp_path):
    path = lying_zip(tmp_path / "a.zip", kind, 1000)
    tracemalloc.start()
    sound, problems, _ = opened(path, tmp_path / "work")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sound == 0 and message in problems[0]
    assert peak < 4 * MIB


def test_no_entry_of_a_zip_is_lost_in_silence(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(12):
            archive.writestr(f"good/{n}.png", png(n))
    whole = path.read_bytes()
    directory, chance = whole.index(b"PK\1\2"), random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[chance.randrange(directory, len(data))] = chance.choice((0, 1, 127, 255))
        path.write_bytes(data)
        try:
            sound, problems, left_out = opened(path, tmp_path / "work")
        except DatasetError:
            refused += 1
            continue
        assert sound + len(problems) + len(left_out) >= 12
    assert 0 < refused < 150


def test_a_zip_with_too_long_a_directory_or_no_utf8_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good/ü.png", png(1))
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xfe"))
    with pytest.raises(DatasetError, match="cannot be read as a zip .*utf-8"):
        opened(path, tmp_path / "work")
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(100):
            archive.writestr(f"good/{n}.png", png(n, (8, 8)))
    monkeypatch.setattr(archives._Directory, "largest", 3000)
    with pytest.raises(DatasetError, match="a directory of .* bytes"):
        opened(path, tmp_path / "work")


def test_tiles_that_would_fill_the_memory_are_refused(archive, tmp_path, monkeypatch):
    tile = "MT_Free/Imgs/exp1_num_1.jpg"
    path = lying_zip(tmp_path / "a.zip", zipfile.ZIP_LZMA, 1000, tile)
    with pytest.raises(DatasetError, match=f"cannot be read .{tile}: .* stored nor deflated"):
        read_source(path)
    monkeypatch.setattr(mtd, "MOST_PIXELS", 100_000)
    with pytest.raises(DatasetError, match="more than 100,000 pixels in the first 3 images"):
        mtd.label_tiles(read_source(archive), mtd.Options(), progress=False)
    monkeypatch.setattr(mtd_source, "_LARGEST_SET", 100_000)
    with pytest.raises(DatasetError, match="more than 100,000 bytes of images"):
        read_source(archive)


# ----- tars
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
    "long name": (
        lambda: header("L", 3000 * MIB, b"L") + b"a" * 30 * MIB,
        "a header of 3,145,728,000 bytes",
    ),
    "long pax": (lambda: header("x", 90 * MIB, b"x") + b"a" * 90 * MIB, "a header of 94,371,840"),
    "chain": (lambda: (header("p", 512, b"L") + b"a" * 512) * 3000, "recursion"),
    "bomb": (lambda: header("a.txt", 90 * MIB, b"0") + bytes(90 * MIB), "decompression bomb"),
    "backwards": (lambda: pax(size="-1024"), "ends before it begins|negative|invalid"),
    "huge": (lambda: pax(size="9" * 20), "decompression bomb"),
    "sparse": (lambda: pax(GNU__sparse__map="a,b"), "invalid literal"),
    "sparse 1.0": (lambda: pax(GNU__sparse__major="1", GNU__sparse__minor="0"), "invalid literal"),
    "second": (lambda: pax() + pax(), "more after its end"),
    "one block": (lambda: pax()[:-512], "its end is missing"),
    "no end": (lambda: pax()[:-1024], "empty header"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tar_is_refused_with_its_reason(kind, tmp_path):
    make, reason = HOSTILE[kind]
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(make(), preset=0))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=f"cannot be read as a zip or tar.*({reason})"):
        opened(tmp_path / "a.tar.xz", tmp_path / "work")
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ":gz", ":bz2", ":xz"])
def test_a_damaged_tar_loses_nothing_in_silence(suffix, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w{suffix}") as archive:  # type: ignore[call-overload]
        for n in range(12):
            member, picture = tarfile.TarInfo(f"good/{n}.png"), png(n)
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    assert opened(path, tmp_path / "work") == (12, [], [])
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    for number in range(60):
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
            sound, problems, left_out = opened(path, tmp_path / "work")
        except DatasetError:
            refused += 1
            continue
        assert sound + len(problems) + len(left_out) == 12
    assert refused > 20
