"""Pictures of a folder that can be used as they are; the others are named with the reason."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dtgan_core.files import read_plain, shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded, open_image
from dtgan_lab.data.adopt import failure, require_sides
from dtgan_lab.data.archives import LeftOut, Tree, walk_folder

SHOWN = 20


def usable_images(source: Path) -> tuple[list[Path], list[LeftOut]]:
    """Image files of a folder (or the one file), each decoded once; the others with a reason.

    Links to folders are not followed, pipes are not opened, hidden files and folders are passed
    over. ValueError: `source` is missing, or holds no usable image, with the reasons.
    """
    if source.is_file():
        tree = Tree({source.name: source.read_bytes}, hidden=True)
        folder = source.parent
    elif source.is_dir():
        tree, folder = Tree(), source
        walk_folder(source, tree)
    else:
        raise ValueError(f"{source}: no such file or folder; expected images")
    paths = sorted(folder / name for name in tree.readers)
    left_out = [item for item in tree.left_out if not item.kind.startswith("hidden")]
    usable: list[Path] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, problem in zip(paths, pool.map(partial(_problem, folder), paths), strict=True):
            if problem is None:
                usable.append(path)
            else:
                left_out.append(problem)
    if not usable:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:20])
        raise ValueError(
            f"{source}: found no image that can be used, expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}{f' ({reasons})' if reasons else ''}"
        )
    return usable, left_out


@dataclass(frozen=True)
class ImageFiles:
    """Image files that can be decoded, with their (height, width), in the order given.

    `sha256` is over their names below a folder and their bytes.
    """

    sizes: dict[Path, tuple[int, int]]
    sha256: str

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return list(self.sizes)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all of them, or None where they differ."""
        found = set(self.sizes.values())
        return found.pop() if len(found) == 1 else None


def image_files(paths: Sequence[Path], folder: Path) -> ImageFiles:
    """Decode files once and hash them, named below `folder`; unusable ones are told and left out.

    ImageError: none of them can be decoded.
    """
    digest, sizes = hashlib.sha256(), dict[Path, tuple[int, int]]()
    left_out = []
    for path in paths:
        try:
            data = read_plain(path)
            width, height = open_image(data, "L", str(path)).size
        except (ImageError, OSError) as error:
            left_out.append(failure(shown(str(path)), error))
            continue
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        line = f"{name} {hashlib.sha256(data).hexdigest()}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
        sizes[path] = (height, width)
    if not sizes:
        first = left_out[0]
        raise ImageError(
            f"{folder}: none of {len(left_out)} images can be used ({first.name}: {first.reason})"
        )
    tell_left_out(left_out)
    return ImageFiles(sizes, digest.hexdigest())


def tell_left_out(left_out: list[LeftOut], more: str = "") -> None:
    """Print what is left out, the first few by name; `more` says where the others stand."""
    if left_out:
        print(f"left out: {len(left_out)} files that are no usable image", file=sys.stderr)
    for item in left_out[:SHOWN]:
        print(f"- {item.name}: {item.reason}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"- ... and {len(left_out) - SHOWN} more{more}", file=sys.stderr)


def _problem(folder: Path, path: Path) -> LeftOut | None:
    """Why a file cannot be used; None when it can."""
    name = shown(path.relative_to(folder).as_posix())
    try:
        with decoded(path.read_bytes(), "RGB", name) as image:
            require_sides(image, name)
    except (ImageError, OSError) as error:
        return failure(name, error)
    return None
