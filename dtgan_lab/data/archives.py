"""The files of a folder, a zip or a tar archive, read by name and never taken on trust.

Nothing of an archive is written under a name of its own: zip members are read in place, tar members
are unpacked under numbers. So no path in an archive can lead anywhere. What cannot be an image is
left out, and told with its reason.

    with opened_tree([Path("carpet.tar.xz")], work) as tree:
        data = tree.readers["carpet/test/cut/000.png"]()
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import sha256_of
from dtgan_core.images import IMAGE_SUFFIXES, ImageError

#: Bytes of one file; an uncompressed picture of 100 megapixels in 16-bit grey has 200 million.
LARGEST_FILE = 256 * 2**20
#: Bytes of all files of one source together.
LARGEST_TREE = 64 * 2**30
#: Files and folders of one source.
MOST_ENTRIES = 1_000_000
#: Unpacked to packed bytes: images stay far below; zeros reach 1,000 in a zip, 7,000 in xz.
LARGEST_RATIO = 200

_SMALL = 2**20  # bytes up to which a high ratio does no harm
_LONGEST_NAME = 1024
_DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # wrong or missing password
    NotImplementedError,  # unknown compression
)
_DAMAGED_TAR = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


class LeftOut(NamedTuple):
    """A file of the source that does not become an image.

    Attributes:
        name: where it lies in the source, printable.
        kind: the reason in a few words; files of one kind are listed together.
        reason: what was found, and what was expected.
    """

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
    """

    readers: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    hidden: bool = False

    def refuse(self, name: str, kind: str, reason: str) -> None:
        """Note a file that is left out."""
        self.left_out.append(LeftOut(shown(name), kind, reason))

    def accepts(self, name: str, size: int) -> bool:
        """Whether name and size may be those of an image; if not, that is noted."""
        path = PurePosixPath(name)
        dotted = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        if dotted and not self.hidden:
            self.refuse(name, "hidden file", "its name, or a folder's, starts with a dot")
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
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


def shown(name: str) -> str:
    """A name as it can be printed and stored as UTF-8: odd characters become escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in name
    )


@contextmanager
def opened_tree(sources: list[Path], work: Path) -> Iterator[Tree]:
    """Open folders, zips and tar archives as one tree; it can be read until the block ends.

    Args:
        sources: each a folder, a zip, or a tar with any compression.
        work: an empty folder for the unpacked members of tar archives; the caller removes it.

    Raises:
        DatasetError: a source is missing, no archive, damaged as a whole, or too large.
        OSError: `work` cannot be written to.
    """
    tree = Tree()
    with ExitStack() as stack:
        for source in sources:
            if source.is_dir():
                walk_folder(source, tree)
            elif not source.is_file():
                raise DatasetError(
                    f"{source}: not found, expected a folder, a zip or a tar archive; correct "
                    "--source"
                )
            elif zipfile.is_zipfile(source):
                archive = _opened_zip(source)
                stack.callback(archive.close)
                _read_zip(archive, source, tree)
            else:
                _unpack_tar(source, tree, work)
        yield tree


def source_digest(sources: list[Path], progress: bool = True) -> str:
    """Hex sha256 that names the content of sources, whatever they are called.

    Archives count with their bytes, folders with the names and bytes of the files that `Tree`
    takes in; a file that cannot be read counts as such.

    Raises:
        DatasetError: a source is missing.
    """
    whole = hashlib.sha256()
    for source in sources:
        if source.is_file():
            whole.update(f"{sha256_of(source)}\n".encode())
            continue
        tree = Tree()
        if not source.is_dir():
            raise DatasetError(f"{source}: not found, expected a folder or an archive")
        walk_folder(source, tree)
        names = sorted(tree.readers)
        for name in tqdm(names, desc="reading", unit="file", disable=None if progress else True):
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
        tree.refuse(name, "no plain file", "a pipe, socket or device, expected an image file")
        return
    if tree.accepts(name, found.st_size):
        tree.readers[name] = path.read_bytes


def _check_count(count: int, source: Path) -> None:
    if count > MOST_ENTRIES:
        raise DatasetError(
            f"{source}: more than {MOST_ENTRIES:,} files, expected a data set; correct --source"
        )


# ----- archives


def _name_problem(name: str) -> str:
    """Why a member's name is not one of a plain file below the archive's top; '' if it is."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in path.parts:
        return "its path leads out of the archive"
    if not path.parts or len(name) > _LONGEST_NAME:
        return f"its name has {len(name)} characters, expected 1 to {_LONGEST_NAME}"
    return ""


def _opened_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except _DAMAGED_ZIP as error:
        raise DatasetError(
            f"{source}: cannot be read as a zip ({error}); download or copy it again"
        ) from error


def _read_zip(archive: zipfile.ZipFile, source: Path, tree: Tree) -> None:
    members = archive.infolist()
    _check_count(len(members), source)
    _check_total(sum(member.file_size for member in members), source)
    for member in members:
        if member.is_dir():
            continue
        mode = member.external_attr >> 16
        ratio = member.file_size / max(1, member.compress_size)
        if problem := _name_problem(member.filename):
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
            tree.readers[member.filename] = partial(_zip_member, archive, member)


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except _DAMAGED_ZIP as error:
        raise ImageError(f"damaged in the archive ({error})") from error


def _unpack_tar(source: Path, tree: Tree, work: Path) -> None:
    """Write the members that may be images to `work`, each under a number."""
    with tqdm(desc=f"unpacking {source.name}", unit="file", disable=None) as bar:
        for name, data in _tar_members(source, tree):
            target = work / f"{len(tree.readers)}.member"
            target.write_bytes(data)
            tree.readers[name] = target.read_bytes
            bar.update()


def _tar_members(source: Path, tree: Tree) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the members that `tree` accepts.

    Raises:
        DatasetError: no tar archive, or damaged: what comes after the damage is lost.
    """
    total = 0
    largest = max(_SMALL, LARGEST_RATIO * source.stat().st_size)
    try:
        with tarfile.open(source) as archive:
            for count, member in enumerate(archive, 1):
                total += member.size
                _check_count(count, source)
                _check_total(total, source, largest)
                if member.isdir():
                    continue
                if problem := _name_problem(member.name):
                    tree.refuse(member.name, "unsafe path", problem)
                elif not member.isreg() or member.issparse():
                    tree.refuse(member.name, "no plain file", "a link or device in the archive")
                elif tree.accepts(member.name, member.size):
                    opened = archive.extractfile(member)
                    assert opened is not None  # regular members have bytes
                    yield member.name, opened.read()
    except _DAMAGED_TAR as error:
        raise DatasetError(
            f"{source}: cannot be read as a zip or tar archive ({error}); download or copy it again"
        ) from error


def _check_total(total: int, source: Path, largest: int = LARGEST_TREE) -> None:
    if total > min(largest, LARGEST_TREE):
        raise DatasetError(
            f"{source}: a decompression bomb, it unpacks to {total:,} bytes and more, expected at "
            f"most {min(largest, LARGEST_TREE):,}; do not use this file"
        )
