"""Reading the published Magnetic Tile Defect data set: its zip, or the unpacked folder."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dtgan_core.dataset import DatasetError
from dtgan_lab.data.archives import read_tree

PAGE = "https://github.com/abin24/Magnetic-tile-defect-datasets."
ARCHIVE_URL = f"{PAGE}/archive/refs/heads/master.zip"
#: sha256 of the zip as GitHub packed it (commit cc4eb530b57b9cb7225bf76023873043ffd50655).
ARCHIVE_SHA256 = "3cd250ca3f272b1dbc08196edf0733e3500490ce102c3c0b99c79387ec438bb0"
#: `content_digest` of the same: it survives a repacking of the zip.
CONTENT_SHA256 = "b559fdd321b1b19a23ba82642f9c61f33019e2da0706c69f223f37d32119f0aa"

CLASSES: tuple[str, ...] = ("Free", "Blowhole", "Break", "Crack", "Fray", "Uneven")

_MEMBER = re.compile(r"MT_(?P<class>[^/]+)/Imgs/(?P<stem>[^/]+)\.(?P<suffix>jpg|png)")


@dataclass(frozen=True)
class Photograph:
    """One image of the published set, still encoded; b'' for a mask that there is not.

    `member` is `MT_<class>/Imgs/<stem>.jpg`, the same for a zip and a folder; the stem names
    exposure and frame, such as exp1_num_3191.
    """

    member: str
    class_name: str
    stem: str
    image: bytes
    mask: bytes


def read_source(source: Path) -> list[Photograph]:
    """Read every photograph with its mask, sorted by member name.

    `source` is the published zip, or a folder with `MT_Free`, `MT_Crack`, ... in it or one level
    deeper. DatasetError: it is missing, damaged, unsafe, or not this data set.
    """
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="mtd-") as work:
        for name, read in read_tree([source], Path(work)).readers.items():
            parts = PurePosixPath(name).parts
            member = "/".join(parts[-3:])
            if len(parts) > 4 or not _MEMBER.fullmatch(member):
                continue
            if member in files:
                raise DatasetError(
                    f"{source}: holds {member} twice, expected one copy of the data set; give the "
                    "folder of one copy as --source"
                )
            files[member] = read()
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
