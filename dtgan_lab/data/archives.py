"""The files of a folder, a zip or a tar archive, read by name and never taken on trust.

Archives are unpacked by Python's own modules into a folder of their own, whole or not at all: one
that is damaged, too large, or has a path that leads elsewhere is refused.  Of what is there, files
that cannot be images are left out, each with its reason.

    tree = read_tree([Path("carpet.tar.xz")], work)
    data = tree.readers["carpet/test/cut/000.png"]()
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import LARGEST_FILE, NO_PLAIN_FILE, read_plain, sha256_of, shown
from dtgan_core.images import IMAGE_SUFFIXES
from dtgan_lab.files import disk_is_full

#: Bytes of all files of one source together.
LARGEST_TREE = 64 * 2**30
#: Files and folders of one source.
MOST_ENTRIES = 1_000_000
#: Unpacked to packed bytes: images stay far below; zeros reach 1,000 in a zip, 7,000 in xz.
LARGEST_RATIO = 200

_SMALL = 2**20  # bytes up to which a high ratio does no harm
_LONGEST_NAME = 1024


class LeftOut(NamedTuple):
    """A file of the source that does not become an image; those of one kind are listed together."""

    name: str
    kind: str
    reason: str


@dataclass
class Tree:
    """The readable files of a source.

    Attributes:
        readers: name, with forward slashes -> a function that gives the file's bytes; it raises
            `ImageError` or `OSError`.
        left_out: what is no image by name, size or kind.
        hidden: whether files whose path has a part with a dot in front are taken.
        also: suffixes that are taken besides those of images, such as ".csv".
    """

    readers: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    hidden: bool = False
    also: Collection[str] = ()

    def refuse(self, name: str, kind: str, reason: str) -> None:
        """Note a file that is left out."""
        self.left_out.append(LeftOut(shown(name[: 2 * _LONGEST_NAME]), kind, reason))

    def add(self, path: Path, name: str) -> None:
        """Take a file in under a name, or note why it is no image."""
        place = PurePosixPath(name)
        dotted = any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
        try:
            found = path.stat()  # of a link: of what it leads to
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            if os.path.islink(path):
                self.refuse(name, "broken link", f"leads nowhere or in a circle ({reason})")
            else:
                self.refuse(name, "unreadable", f"{reason}, expected a readable file")
            return
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            self.refuse(name, "no plain file", NO_PLAIN_FILE)
        elif dotted and not self.hidden:
            self.refuse(name, "hidden file", "its name, or a folder's, starts with a dot")
        elif place.suffix.lower() not in {*IMAGE_SUFFIXES, *self.also}:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            self.refuse(name, "no image", f"expected a name ending in {suffixes}")
        elif found.st_size == 0:
            self.refuse(name, "empty file", "0 bytes, expected an image; copy it again")
        elif found.st_size > LARGEST_FILE:
            most = f"expected at most {LARGEST_FILE:,}; shrink it"
            self.refuse(name, "too large", f"{found.st_size:,} bytes, {most}")
        elif name in self.readers:
            self.refuse(name, "named twice", "another file has this name, the first is kept")
        else:
            self.readers[name] = partial(read_plain, path)

    def digest_lines(self) -> bytes:
        """Names and hex sha256 of the readable files; one that cannot be read counts as such."""
        lines = []
        for name in tqdm(sorted(self.readers), desc="reading", unit="file", disable=None):
            try:
                digest = hashlib.sha256(self.readers[name]()).hexdigest()
            except OSError as error:
                digest = f"unreadable: {error.strerror}"
            lines.append(f"{shown(name)} {digest}\n")
        return "".join(lines).encode()


def read_tree(sources: Sequence[Path], work: Path, also: Collection[str] = ()) -> Tree:
    """Folders, zips and tar archives as one tree, to be read while `work` is there.

    Archives are unpacked to the empty folder `work`, which the caller removes; `also` are suffixes
    that are taken besides those of images. DatasetError: a source is missing, no archive, damaged,
    hostile, or too large.
    """
    tree = Tree(also=also)
    for number, source in enumerate(sources):
        require_source(source)
        walk_folder(source if source.is_dir() else unpacked(source, work / str(number)), tree)
    return tree


def require_source(source: Path, option: str = "--source") -> None:
    """Refuse (DatasetError) what is neither a folder nor a file."""
    if not source.is_dir() and not source.is_file():
        found = "a pipe, socket or device" if source.exists() else "not found"
        raise DatasetError(
            f"{source}: {found}, expected a folder, a zip or a tar archive; correct {option}"
        )


def source_digest(sources: Sequence[Path], also: Collection[str] = ()) -> str:
    """Hex sha256 that names the content of sources, whatever they are called.

    Archives count with their bytes, folders with the names and bytes of the files that `Tree` takes
    in; a file that cannot be read counts as such.
    """
    whole = hashlib.sha256()
    for source in sources:
        require_source(source)
        if source.is_file():
            whole.update(f"{sha256_of(source)}\n".encode())
            continue
        tree = Tree(also=also)
        walk_folder(source, tree)
        whole.update(tree.digest_lines())
    return whole.hexdigest()


# ----- folders


def walk_folder(root: Path, tree: Tree) -> None:
    """Add the files below a folder; links to folders are not followed, so no circle is walked."""

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        tree.refuse(name, "unreadable folder", f"{error.strerror}; mend its permissions")

    count = 0
    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        prefix = Path(folder).relative_to(root)
        for name in sorted(subfolders):
            place = (prefix / name).as_posix()
            if (Path(folder) / name).is_symlink():
                tree.refuse(place, "link to a folder", "not followed; copy the folder here")
            elif name.startswith("."):
                tree.refuse(place, "hidden folder", "its name starts with a dot")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            tree.add(Path(folder) / name, (prefix / name).as_posix())
        count += len(names) + len(subfolders)
        if count > MOST_ENTRIES:
            raise DatasetError(
                f"{root}: more than {MOST_ENTRIES:,} files, expected a data set; correct --source"
            )


# ----- archives


def unpacked(source: Path, folder: Path) -> Path:
    """Unpack a zip or a tar archive into a new folder, whole.

    DatasetError: no archive, damaged, over the limits above, or a name that is no plain file's.
    OSError: the disk is full.
    """
    folder.mkdir()
    try:
        members = _unzipped if zipfile.is_zipfile(source) else _untarred
        total, names = 0, set[str]()
        most = min(LARGEST_TREE, max(_SMALL, LARGEST_RATIO * source.stat().st_size))
        bar = tqdm(members(source, folder, most), f"unpacking {source.name}", disable=None)
        for name, size in bar:
            total += size
            if len(names) > MOST_ENTRIES:
                raise ValueError(f"more than {MOST_ENTRIES:,} files")
            if total > most:
                raise ValueError(f"a decompression bomb, it unpacks to more than {most:,} bytes")
            path = PurePosixPath(name)
            problem = "it comes twice" if name in names else ""
            if len(name) > _LONGEST_NAME or not path.parts:
                problem = f"its name has {len(name)} characters, expected 1 to {_LONGEST_NAME}"
            if path.is_absolute() or "\\" in name or name[1:2] == ":" or ".." in path.parts:
                problem = "its path leads out of the archive"
            if problem:
                raise ValueError(f"{shown(name[:_LONGEST_NAME])}: {problem}")
            names.add(name)
    except Exception as error:  # damage makes zipfile and tarfile raise whatever they like
        if disk_is_full(error):
            raise
        raise DatasetError(
            f"{source}: cannot be read as a zip or tar archive ({error}); download or copy it again"
        ) from error
    return folder


def _unzipped(source: Path, folder: Path, most: int) -> Iterator[tuple[str, int]]:
    """Name and bytes of each member; it is unpacked when the next is asked for."""
    with open(source, "rb") as file, zipfile.ZipFile(file) as archive:
        listed = zipfile._EndRecData(file)[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
        if listed != len(archive.infolist()):  # else a damaged list would end early, in silence
            raise zipfile.BadZipFile(
                f"{len(archive.infolist())} members can be read, the end of it lists {listed}"
            )
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Python unpacks the others without a limit
                raise zipfile.BadZipFile("packed neither stored nor deflated; pack it again")
            yield member.filename, member.file_size
            archive.extract(member, folder)  # its checksum is compared


def _untarred(source: Path, folder: Path, most: int) -> Iterator[tuple[str, int]]:
    """The same of a tar archive; what is no plain file or folder is refused."""
    with open(source, "rb") as file:
        magic = file.read(2)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with openers.get(magic, open)(source, "rb") as stream:
        archive = tarfile.TarFile(fileobj=_Sips(stream))  # type: ignore[arg-type]
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg() or member.size < 0:
                raise tarfile.ReadError(f"{member.name}: no plain file, or of a size below 0")
            yield member.name, member.size
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            data: Any = archive.extractfile(member)
            with target.open("xb") as out:
                shutil.copyfileobj(data, out)
        # Python takes a damaged header for the end; behind the true end there are zeros alone
        ending = 0
        while piece := stream.read(_SMALL):
            ending += len(piece)
            if piece.strip(b"\0") or ending > most:
                raise tarfile.ReadError("more after its end")
        if not ending:
            raise tarfile.ReadError("its end is missing, expected two blocks of zeros")


class _Sips:
    """A stream that gives little at once: tarfile would read a header of any length whole."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.tell, self.seek = stream, stream.tell, stream.seek

    def read(self, size: int) -> bytes:
        if size > _SMALL:
            raise tarfile.ReadError(f"a header of {size:,} bytes, expected at most {_SMALL:,}")
        return bytes(self.stream.read(size))
