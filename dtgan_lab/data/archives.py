"""The files of a folder, a zip or a tar archive, read by name and never taken on trust.

Nothing of an archive is written under a name of its own: zip members are read in place, tar members
are unpacked under numbers. So no path in an archive can lead anywhere. What cannot be an image is
left out, with its reason.

    with opened_tree([Path("carpet.tar.xz")], work) as tree:
        data = tree.readers["carpet/test/cut/000.png"]()
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import LARGEST_FILE, NO_PLAIN_FILE, sha256_of, shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError
from dtgan_lab.data.tars import tar_members

#: Bytes of all files of one source together.
LARGEST_TREE = 64 * 2**30
#: Bytes of an archive's names, its members' sizes and dates among them.
LARGEST_NAMES = 32 * 2**20
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

    def accepts(self, name: str, size: int) -> bool:
        """Whether name and size may be those of an image; if not, that is noted."""
        path = PurePosixPath(name)
        dotted = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        if dotted and not self.hidden:
            self.refuse(name, "hidden file", "its name, or a folder's, starts with a dot")
        elif path.suffix.lower() not in {*IMAGE_SUFFIXES, *self.also}:
            self.refuse(
                name, "no image", f"expected a name ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        elif size == 0:
            self.refuse(name, "empty file", "0 bytes, expected an image; copy it again")
        elif size > LARGEST_FILE:
            self.refuse(
                name, "too large", f"{size:,} bytes, expected at most {LARGEST_FILE:,}; shrink it"
            )
        elif name in self.readers:
            self.refuse(name, "named twice", "another file has this name, the first is kept")
        else:
            return True
        return False


@contextmanager
def opened_tree(sources: list[Path], work: Path, also: Collection[str] = ()) -> Iterator[Tree]:
    """Open folders, zips and tar archives as one tree; it can be read until the block ends.

    Members of tar archives are unpacked to the empty folder `work`, which the caller removes;
    `also` are suffixes that are taken besides those of images. DatasetError: a source is missing,
    no archive, damaged as a whole, or too large.
    """
    tree = Tree(also=also)
    with ExitStack() as stack:
        for source in sources:
            require_source(source)
            if source.is_dir():
                walk_folder(source, tree)
            elif zipfile.is_zipfile(source):
                _read_zip(stack.enter_context(opened_zip(source)), tree)
            else:
                _unpack_tar(source, tree, work)
        yield tree


def require_source(source: Path) -> None:
    """Refuse (DatasetError) what is neither a folder nor a file."""
    if not source.is_dir() and not source.is_file():
        found = "a pipe, socket or device" if source.exists() else "not found"
        raise DatasetError(
            f"{source}: {found}, expected a folder, a zip or a tar archive; correct --source"
        )


def source_digest(sources: list[Path], also: Collection[str] = ()) -> str:
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
        names = sorted(tree.readers)
        for name in tqdm(names, desc="reading", unit="file", disable=None):
            whole.update(f"{shown(name)} {digest_of(tree.readers[name])}\n".encode())
    return whole.hexdigest()


def digest_of(read: Callable[[], bytes]) -> str:
    """Hex sha256 of the bytes that `read` gives; an unreadable file counts as such."""
    try:
        return hashlib.sha256(read()).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


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
            add_file(Path(folder) / name, (prefix / name).as_posix(), tree)
        count += len(names) + len(subfolders)
        _check_count(count, root)


def add_file(path: Path, name: str, tree: Tree) -> None:
    """Add one file under a name, or tell why it is no image."""
    try:
        found = path.stat()  # of a link: of what it leads to
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        if os.path.islink(path):
            tree.refuse(name, "broken link", f"leads nowhere or in a circle ({reason})")
        else:
            tree.refuse(name, "unreadable", f"{reason}, expected a readable file")
        return
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        tree.refuse(name, "no plain file", NO_PLAIN_FILE)
        return
    if tree.accepts(name, found.st_size):
        tree.readers[name] = path.read_bytes


def _check_count(count: int, source: Path) -> None:
    if count > MOST_ENTRIES:
        raise DatasetError(
            f"{source}: more than {MOST_ENTRIES:,} files, expected a data set; correct --source"
        )


# ----- archives


def name_problem(name: str) -> str:
    """Why a member's name is not one of a plain file below the archive's top; '' if it is."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in path.parts:
        return "its path leads out of the archive"
    if not path.parts or len(name) > _LONGEST_NAME:
        return f"its name has {len(name)} characters, expected 1 to {_LONGEST_NAME}"
    return ""


class _Directory(io.FileIO):
    """A zip's bytes; its directory is read in one piece, of no more than `LARGEST_NAMES`."""

    largest = LARGEST_NAMES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.largest:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes, expected {self.largest:,}")
        return super().read(-1 if size is None else size)


@contextmanager
def opened_zip(source: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; DatasetError: damaged, too many members, or too large once unpacked."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_Directory(source))
            archive = stack.enter_context(zipfile.ZipFile(file))
            file.largest = LARGEST_FILE
            if (listed := _listed(file)) != len(archive.infolist()) % 0x10000:
                raise zipfile.BadZipFile(
                    f"{len(archive.infolist())} members can be read, the end of it lists {listed}"
                )
        except Exception as error:  # a damaged directory makes zipfile raise whatever it likes
            raise DatasetError(
                f"{source}: cannot be read as a zip ({error}); download or copy it again"
            ) from error
        _check_count(len(archive.infolist()), source)
        _check_total(sum(member.file_size for member in archive.infolist()), source)
        yield archive


def _listed(file: _Directory) -> int:
    """The number of members (modulo 65,536) that the last record of a zip tells."""
    file.seek(-min(file.seek(0, os.SEEK_END), 0x10000 + 22 + 76), os.SEEK_END)
    tail = file.read()
    last = tail.rfind(b"PK\5\6")
    listed = int.from_bytes(tail[last + 10 : last + 12], "little")
    large = tail.rfind(b"PK\6\6", 0, last)  # of zip64, which tells it where that is too small
    if listed == 0xFFFF and large >= 0:
        listed = int.from_bytes(tail[large + 32 : large + 34], "little")
    return listed


def _read_zip(archive: zipfile.ZipFile, tree: Tree) -> None:
    for member in archive.infolist():
        if member.filename.endswith("/"):
            continue
        mode = member.external_attr >> 16
        ratio = member.file_size / max(1, member.compress_size)
        if problem := name_problem(member.filename):
            tree.refuse(member.filename, "unsafe path", problem)
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            tree.refuse(member.filename, "no plain file", "a link or device in the archive")
        elif member.flag_bits & 1:
            tree.refuse(member.filename, "encrypted", "needs a password; unpack it yourself")
        elif member.file_size > _SMALL and ratio > LARGEST_RATIO:
            tree.refuse(
                member.filename,
                "decompression bomb",
                f"unpacks to {ratio:,.0f} times its size, expected at most {LARGEST_RATIO}",
            )
        elif tree.accepts(member.filename, member.file_size):
            tree.readers[member.filename] = partial(zip_member, archive, member)


def zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, no more than its directory says; ImageError where it is not sound."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Python unpacks the others without a limit
        raise ImageError("packed neither stored nor deflated; pack the zip again")
    try:
        with archive.open(member) as opened:
            return opened.read(member.file_size)  # to its end, so its checksum is compared
    except Exception as error:  # damage makes zipfile raise whatever it likes
        raise ImageError(f"damaged in the archive ({error})") from error


def _unpack_tar(source: Path, tree: Tree, work: Path) -> None:
    """Write the members that may be images to `work`, each under a number."""
    with tqdm(desc=f"unpacking {source.name}", unit="file", disable=None) as bar:
        for name, piece in _tar_pieces(source, tree):
            if name not in tree.readers:
                target = work / f"{len(tree.readers)}.member"
                tree.readers[name] = target.read_bytes
                bar.update()
            with open(target, "ab") as file:
                file.write(piece)


def _tar_pieces(source: Path, tree: Tree) -> Iterator[tuple[str, bytes]]:
    """The members that `tree` accepts, in pieces of their bytes with their names."""
    most = min(LARGEST_TREE, max(_SMALL, LARGEST_RATIO * source.stat().st_size))
    names = 0
    try:
        for count, (member, pieces) in enumerate(tar_members(source, most), 1):
            _check_count(count, source)
            names += len(member.name)
            if names > LARGEST_NAMES:
                raise tarfile.ReadError(f"more than {LARGEST_NAMES:,} letters of names")
            if member.isdir():
                continue
            if problem := name_problem(member.name):
                tree.refuse(member.name, "unsafe path", problem)
            elif not member.isreg() or member.issparse():
                tree.refuse(member.name, "no plain file", "a link or device in the archive")
            elif tree.accepts(member.name, member.size):
                yield from ((member.name, piece) for piece in pieces())
    except DatasetError:
        raise
    except Exception as error:  # damage makes tarfile raise whatever it likes
        raise DatasetError(
            f"{source}: cannot be read as a zip or tar archive ({error}); download or copy it again"
        ) from error


def _check_total(total: int, source: Path) -> None:
    if total > LARGEST_TREE:
        raise DatasetError(
            f"{source}: a decompression bomb, it unpacks to {total:,} bytes, expected at most "
            f"{LARGEST_TREE:,}; do not use this file"
        )
