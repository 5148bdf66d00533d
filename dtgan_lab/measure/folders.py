"""Points of folders, computed once and kept.

    folder = read_folder(Path("my_images"))
    points = folder_points(folder, extract, (64, 64), cache=Path("build/features"))

A cache file is named by the hash of the images (their names and bytes), how they were read, and the
extractor's name and weights; a file with one damaged bit or more is computed anew, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dtgan_core.checkpoints import CheckpointError, read_tensors, write_tensors
from dtgan_core.synthesis import find_images, read_images
from dtgan_lab.data.dataset import MANIFEST_NAME
from dtgan_lab.data.folder import ImageFiles, image_files
from dtgan_lab.measure.features import Extractor, Points

BATCH = 64


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
        part = paths[start : start + BATCH]
        points.append(extractor(read_images(part, extractor.channels or 3, size)))
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
    if path.is_file():
        try:
            for digest, kept in read_tensors(path).items():  # one, named by its hash
                if digest == hashlib.sha256(kept.numpy().tobytes()).hexdigest():
                    return kept.numpy()
            raise CheckpointError(f"{path}: its numbers do not have the hash that names them")
        except CheckpointError as error:
            print(f"warning: {error}; computed again", file=sys.stderr)
    points = compute()
    cache.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {hashlib.sha256(points.tobytes()).hexdigest(): torch.from_numpy(points)})
    return points
