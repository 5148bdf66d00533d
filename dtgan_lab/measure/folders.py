"""Points of folders, computed once and kept.

    folder = read_folder(Path("my_images"))
    points = folder_points(folder, extract, (64, 64), cache=Path("build/features"))

A cache file is named by the hash of the images (their names and bytes), how they were read, and the
extractor's name and weights.  What is read back is checked
against its own hash; a damaged file is computed anew, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from dtgan_core.files import write_atomic
from dtgan_core.images import image_to_array
from dtgan_core.synthesis import find_images
from dtgan_lab.data.dataset import MANIFEST_NAME
from dtgan_lab.data.folder import ImageFiles, image_files
from dtgan_lab.measure.features import Extractor, Points

BATCH = 64
TENSOR, HASH = "points", "sha256"


def read_folder(source: Path) -> ImageFiles:
    """Images of a folder, at any depth, or the one file.

    ValueError: none there; or it is a whole data set or a `generate` folder, whose masks would be
    taken for images. ImageError: there are images, but none that can be decoded.
    """
    if (source / MANIFEST_NAME).is_file():
        inside = sorted(path.name for path in source.iterdir() if path.is_dir())
        raise ValueError(
            f"{source}: holds a {MANIFEST_NAME}, so its masks would count as images (found "
            f"{', '.join(inside) or 'no folder'}); name a folder of images alone, such as "
            f"{source}/{'images' if 'images' in inside else 'test'}"
        )
    return image_files(find_images(source), source if source.is_dir() else source.parent)


def _points_of(paths: list[Path], extractor: Extractor, size: tuple[int, int]) -> Points:
    """Points of image files, squashed to `size`, a batch at a time."""
    points = []
    for start in tqdm(range(0, len(paths), BATCH), "features", disable=None):
        arrays = [
            image_to_array(path, extractor.channels or 3, size)
            for path in paths[start : start + BATCH]
        ]
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        points.append(extractor(images.float() / 127.5 - 1))
    return np.concatenate(points)


def folder_points(
    folder: ImageFiles, extractor: Extractor, size: tuple[int, int], cache: Path | None = None
) -> Points:
    """Points (N, D) of a folder's images, brought to `size` (height, width) first."""
    what = {"files": folder.sha256, "size": list(size)}
    return cached(cache, what, extractor, lambda: _points_of(folder.paths, extractor, size))


# --- the cache -----------------------------------------------------------------------------------


def cached(
    cache: Path | None,
    what: Mapping[str, object],
    extractor: Extractor,
    compute: Callable[[], Points],
) -> Points:
    """Points that were computed before, or computed now and kept in `cache`; None keeps nothing.

    `what` names the images: hashes, split, size.
    """
    if cache is None:
        return compute()
    name = hashlib.sha256(json.dumps({**what, "extractor": extractor.key}).encode()).hexdigest()
    path = cache / f"{extractor.name}-{name[:32]}.safetensors"
    if path.is_file() and (kept := _read_points(path)) is not None:
        return kept
    points = compute()
    cache.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256(points.tobytes()).hexdigest()
    write_atomic(path, save({TENSOR: points}, {HASH: found}))
    return points


def _read_points(path: Path) -> Points | None:
    """Points that were kept; None, and a warning, where the file is damaged."""
    try:
        with safe_open(path, "np") as file:
            points: Points = file.get_tensor(TENSOR)
            expected = (file.metadata() or {}).get(HASH)
    except (SafetensorError, OSError) as error:
        print(f"warning: {path}: is damaged ({error}); computed again", file=sys.stderr)
        return None
    if (found := hashlib.sha256(points.tobytes()).hexdigest()) == expected:
        return points
    told = f"found the hash {found[:12]}, expected {str(expected)[:12]}"
    print(f"warning: {path}: {told}; computed again", file=sys.stderr)
    return None
