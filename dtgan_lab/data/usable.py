"""Pictures of a folder that can be used as they are; the others are told by name and reason."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from dtgan_core.images import IMAGE_SUFFIXES, ImageError, open_image
from dtgan_lab.data.adopt import has_frames
from dtgan_lab.data.archives import LeftOut, Tree, shown, walk_folder

_CHUNK = 64  # pictures decoded before the next are begun: bounds memory


def usable_images(source: Path) -> tuple[list[Path], list[LeftOut]]:
    """Image files of a folder (or the one file), each decoded once to see that it can be.

    Links to folders are not followed, pipes are not opened, hidden files and folders are passed
    over.

    Args:
        source: a folder, or a file.

    Returns:
        Usable files, sorted; and every other file with the reason.

    Raises:
        ValueError: `source` is missing, or holds no usable image; the reasons are told.
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
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `has_frames` decides
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            for path, problem in zip(
                chunk, pool.map(partial(_problem, folder), chunk), strict=True
            ):
                if problem is None:
                    usable.append(path)
                else:
                    left_out.append(problem)
    if not usable:
        told = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:20])
        raise ValueError(
            f"{source}: found no image that can be used, expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}{f' ({told})' if told else ''}"
        )
    return usable, left_out


def _problem(folder: Path, path: Path) -> LeftOut | None:
    """Why a file cannot be used; None when it can."""
    name = shown(path.relative_to(folder).as_posix())
    try:
        data = path.read_bytes()
        has_frames(data, name)
        file = io.BytesIO(data)
        file.name = name
        open_image(file, "RGB")
    except OSError as error:
        return LeftOut(name, "unreadable", f"{error.strerror or error}, expected a readable file")
    except ImageError as error:
        reason = " ".join(str(error).removeprefix(f"{name}: ").split())
        return LeftOut(name, "not usable", shown(reason))
    return None
