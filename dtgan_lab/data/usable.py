"""Pictures of a folder that can be used as they are; the others are named with the reason."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dtgan_core.files import shown
from dtgan_core.images import IMAGE_SUFFIXES, ImageError, decoded
from dtgan_lab.data.adopt import failure, require_sides
from dtgan_lab.data.archives import LeftOut, Tree, walk_folder

SHOWN = 20


def usable_images(source: Path) -> tuple[list[Path], list[LeftOut]]:
    """Image files of a folder (or the one file), each decoded once to see that it can be.

    Links to folders are not followed, pipes are not opened, hidden files and folders are passed
    over.

    Args:
        source: a folder, or a file.

    Returns:
        Usable files, sorted; and every other file with the reason.

    Raises:
        ValueError: `source` is missing, or holds no usable image, with the reasons.
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
