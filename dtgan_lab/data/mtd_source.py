"""Reading the published Magnetic Tile Defect data set: zip, unpacked folder, or download."""

from __future__ import annotations

import hashlib
import re
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_plain, sha256_of
from dtgan_core.images import ImageError
from dtgan_lab.data.archives import name_problem, opened_zip, zip_member

PAGE = "https://github.com/abin24/Magnetic-tile-defect-datasets."
ARCHIVE_URL = f"{PAGE}/archive/refs/heads/master.zip"
#: sha256 of the zip as GitHub packed it (commit cc4eb530b57b9cb7225bf76023873043ffd50655).
ARCHIVE_SHA256 = "3cd250ca3f272b1dbc08196edf0733e3500490ce102c3c0b99c79387ec438bb0"
#: `content_digest` of the same: it survives a repacking of the zip.
CONTENT_SHA256 = "b559fdd321b1b19a23ba82642f9c61f33019e2da0706c69f223f37d32119f0aa"

CLASSES: tuple[str, ...] = ("Free", "Blowhole", "Break", "Crack", "Fray", "Uneven")

_MEMBER = re.compile(r"MT_(?P<class>[^/]+)/Imgs/(?P<stem>[^/]+)\.(?P<suffix>jpg|png)")
_LARGEST_MEMBER = 64 * 2**20  # bytes; the largest published image has 0.1 MiB
_LARGEST_SET = 512 * 2**20  # bytes of all images, and of the zip
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Photograph:
    """One image of the published set, still encoded.

    Attributes:
        member: `MT_<class>/Imgs/<stem>.jpg`, the same for a zip and a folder.
        class_name: Free, Blowhole, Break, Crack, Fray or Uneven.
        stem: file name without suffix, such as exp1_num_3191 (first exposure, frame 3191).
        image: bytes of the JPEG file.
        mask: bytes of the mask's PNG file, b'' where there is none.
    """

    member: str
    class_name: str
    stem: str
    image: bytes
    mask: bytes


def read_source(source: Path) -> list[Photograph]:
    """Read every photograph with its mask, sorted by member name.

    Args:
        source: the published zip, or a folder with `MT_Free`, `MT_Crack`, ... in it or one level
            deeper. Nothing is extracted: members are read from the zip one by one.

    Raises:
        DatasetError: the source is missing, damaged, unsafe, or not this data set.
    """
    if source.is_dir():
        files = _read_folder(source)
    elif source.is_file():
        files = _read_zip(source)
    else:
        raise DatasetError(
            f"{source}: not found, expected the zip or the unpacked folder of {PAGE}; correct "
            "--source"
        )
    photographs = []
    for member in sorted(files):
        match = _MEMBER.fullmatch(member)
        if match and match["suffix"] == "jpg":
            mask = files.get(member.removesuffix(".jpg") + ".png", b"")
            name, stem = match["class"], match["stem"]
            photographs.append(Photograph(member, name, stem, files[member], mask))
    if not photographs:
        raise DatasetError(
            f"{source}: no MT_<class>/Imgs/*.jpg in it or one level deeper, expected the files of "
            f"{PAGE}; correct --source"
        )
    return photographs


def content_digest(photographs: list[Photograph]) -> str:
    """Hex sha256 over the names and bytes of all images and masks."""
    whole = hashlib.sha256()
    for item in photographs:
        image, mask = (hashlib.sha256(data).hexdigest() for data in (item.image, item.mask))
        whole.update(f"{item.member} {image} {mask}\n".encode())
    return whole.hexdigest()


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Files of the layout directly in `folder`, or in one of its subfolders."""
    files: dict[str, bytes] = {}
    for pattern in ("MT_*/Imgs/*", "*/MT_*/Imgs/*"):
        for path in sorted(folder.glob(pattern)):
            member = "/".join(path.parts[-3:])
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if _MEMBER.fullmatch(member) and not hidden:
                _add(files, member, read_plain(path, _LARGEST_MEMBER), folder)
    return files


def _read_zip(archive: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with opened_zip(archive) as opened:
        for info in opened.infolist():
            member = _safe_member(info, archive)
            if member:
                try:
                    _add(files, member, zip_member(opened, info), archive)
                except ImageError as error:
                    raise DatasetError(
                        f"{archive}: cannot be read ({info.filename}: {error}), expected sha256 "
                        f"{ARCHIVE_SHA256}; download it again from {ARCHIVE_URL}"
                    ) from error
    return files


def _safe_member(info: zipfile.ZipInfo, archive: Path) -> str:
    """The member's path from MT_ on, '' for what is not part of the set.

    Raises:
        DatasetError: a path that leads out of the archive, or an image too large to be one.
    """
    path = PurePosixPath(info.filename)
    if problem := name_problem(info.filename):
        raise DatasetError(
            f"{archive}: holds the path {info.filename[:200]!r}: {problem}; do not use this file, "
            f"download it again from {ARCHIVE_URL}"
        )
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    member = "/".join(path.parts[-3:])
    if hidden or len(path.parts) > 4 or not _MEMBER.fullmatch(member):
        return ""
    if info.file_size > _LARGEST_MEMBER:
        raise DatasetError(
            f"{archive}: {info.filename} unpacks to {info.file_size} bytes, expected at most "
            f"{_LARGEST_MEMBER}; do not use this file, download it again from {ARCHIVE_URL}"
        )
    return member


def _add(files: dict[str, bytes], member: str, data: bytes, source: Path) -> None:
    if member in files:
        raise DatasetError(
            f"{source}: holds {member} twice, expected one copy of the data set; give the folder "
            "of one copy as --source"
        )
    files[member] = data
    if sum(map(len, files.values())) > _LARGEST_SET:
        raise DatasetError(
            f"{source}: more than {_LARGEST_SET:,} bytes of images, expected the 53 MB of {PAGE}"
        )


@contextmanager
def downloaded_archive(url: str = ARCHIVE_URL) -> Iterator[Path]:
    """Download the archive to a temporary folder; it is gone afterwards.

    Raises:
        DatasetError: no network, or the bytes are not those of the published set.
    """
    by_hand = f"download {url} with a browser and name the file with --source"
    with tempfile.TemporaryDirectory(prefix="mtd-") as folder:
        archive = Path(folder) / "mtd.zip"
        try:
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT) as answer,
                open(archive, "wb") as file,
            ):
                while piece := answer.read(2**20):
                    file.write(piece)
                    if file.tell() > _LARGEST_SET:
                        raise OSError(f"more than {_LARGEST_SET:,} bytes, expected 53 MB")
        except (urllib.error.URLError, OSError) as error:
            raise DatasetError(f"{url}: the download failed ({error}); {by_hand}") from error
        found = sha256_of(archive)
        # GitHub packs archives on demand, so the same files may come in a zip with other bytes.
        if found != ARCHIVE_SHA256 and content_digest(read_source(archive)) != CONTENT_SHA256:
            raise DatasetError(
                f"{url}: sha256 {found}, expected {ARCHIVE_SHA256}, and the images in it are not "
                f"the published ones; try again, or {by_hand}"
            )
        yield archive
