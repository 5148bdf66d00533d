"""Which photographs show the same part: grouping by image similarity, and splitting by group.

Magnetic Tile Defects shows every tile about six times, under six exposures, each time cut out by
hand a little differently, and some tiles come back later in the recording, two of them turned by
180 degrees. A split by image would put the same scratch into training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import fft, ndimage, sparse
from scipy.sparse import csgraph

from dtgan_lab.data.dataset import in_threads

#: Photographs are compared at a sixth of their size: grinding marks of 6 px and more remain.
REDUCTION = 6
#: Similarity from which two photographs show the same tile. Measured on all 1,344 images: pairs
#: that a person calls different reach 0.237 (upright, turned or mirrored), while the weakest link
#: that holds a tile's photographs together is 0.299.
SAME_TILE = 0.26
#: Photographs of one tile are cut differently by hand, but not that differently (0.68 occurs).
SMALLEST_SIZE_RATIO = 0.6

_BLOCK = 8  # pairs per Fourier transform call: they stay in the processor's cache


def texture(image: Image.Image) -> np.ndarray:
    """The fine texture of a grey image, freed from exposure, lighting and streaks.

    Logarithm (exposure becomes an offset), high-pass (lighting), local averages along columns and
    rows taken out (every tile of a machine has the same vertical streaks, so they say nothing about
    which tile it is), then unit local contrast, clipped: float32 (H / 6, W / 6) in [-3, 3].
    """
    width, height = (max(1, round(side / REDUCTION)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BOX)
    level = np.log(np.asarray(small, dtype=np.float32) + 4)
    fine = level - ndimage.gaussian_filter(level, 2.0, mode="nearest")
    fine -= ndimage.gaussian_filter1d(fine, 5.0, axis=0, mode="nearest")
    fine -= ndimage.gaussian_filter1d(fine, 5.0, axis=1, mode="nearest")
    contrast = np.sqrt(ndimage.gaussian_filter(fine * fine, 4.0, mode="nearest"))
    return np.clip(fine / (contrast + 1e-3), -3, 3).astype(np.float32)


def similar_pairs(
    textures: Sequence[np.ndarray], threshold: float = SAME_TILE, progress: bool = True
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) of photographs of one part, turned by 180 degrees, shifted at will.

    The similarity is the highest value of the cross-correlation over all shifts, divided by the
    energy of the weaker texture; a photograph compared with a cut-out of itself has 1. Pairs whose
    widths or heights differ by more than `SMALLEST_SIZE_RATIO` are not compared.
    """
    count = len(textures)
    if count < 2:
        return []
    sizes = np.array([item.shape for item in textures])  # (N, 2)
    energy = np.array([float((item * item).sum()) for item in textures]) + 1e-6
    # Correlation by Fourier transform is periodic; a tenth of margin keeps large shifts apart.
    shape = [fft.next_fast_len(int(side * 1.1), real=True) for side in sizes.max(axis=0)]
    spectra = np.stack([fft.rfft2(item, shape) for item in textures]).astype(np.complex64)

    def compare(i: int) -> list[tuple[int, int, float]]:
        ratio = np.minimum(sizes[i], sizes[i + 1 :]) / np.maximum(sizes[i], sizes[i + 1 :])
        others = i + 1 + np.flatnonzero((ratio >= SMALLEST_SIZE_RATIO).all(axis=1))
        found = []
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            best = np.zeros(len(block), dtype=np.float32)
            # The conjugate spectrum correlates; without it the other image is turned by 180 deg.
            for spectrum in (spectra[block].conj(), spectra[block]):
                surface = fft.irfft2(spectra[i] * spectrum, shape)
                best = np.maximum(best, surface.max(axis=(1, 2)))
            similarity = best / np.minimum(energy[i], energy[block])
            found += [
                (i, int(block[k]), float(similarity[k]))
                for k in np.flatnonzero(similarity >= threshold)
            ]
        return found

    rows = in_threads(compare, range(count), title="comparing tiles", progress=progress)
    return [pair for row in rows for pair in row]


def connected_groups(count: int, pairs: Sequence[tuple[int, int, float]]) -> list[int]:
    """The group of each item, numbered in the order of their first items; pairs join groups."""
    first, second = [i for i, _, _ in pairs], [j for _, j, _ in pairs]
    joined = sparse.coo_array((np.ones(len(pairs)), (first, second)), shape=(count, count))
    _, labels = csgraph.connected_components(joined, directed=False)
    number: dict[int, int] = {}
    return [number.setdefault(label, len(number)) for label in labels.tolist()]


def split_groups(
    classes: Mapping[str, Sequence[str]], seed: int, shares: Mapping[str, float]
) -> dict[str, str]:
    """Deal whole groups (group -> classes of its images) to the splits, class by class.

    A group that holds several classes counts for its rarest one. Within a class, every split but
    the first gets its share of the groups, rounded, and at least one where the class has enough
    groups; the first split, that of training, gets the rest, and always at least one.
    """
    groups_of: dict[str, int] = {}
    for names in classes.values():
        for name in set(names):
            groups_of[name] = groups_of.get(name, 0) + 1
    members: dict[str, list[str]] = {}
    for group in sorted(classes):
        rarest = min(set(classes[group]), key=lambda name: (groups_of[name], name))
        members.setdefault(rarest, []).append(group)
    first, *others = shares
    generator = np.random.default_rng(seed)
    result: dict[str, str] = {}
    for name in sorted(members):
        order = [members[name][k] for k in generator.permutation(len(members[name]))]
        total = len(order)
        # The largest share first: with two groups it is the test split that gets the second one.
        for split in sorted(others, key=lambda other: -shares[other]):
            wanted = max(1, round(shares[split] * total))
            for _ in range(min(wanted, len(order) - 1)):
                result[order.pop()] = split
        result |= {group: first for group in order}
    return result


# --- windows -------------------------------------------------------------------------------------


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Random numbers of a picture, whatever other pictures there are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def window_corner(defect: np.ndarray, side: int, generator: np.random.Generator) -> tuple[int, int]:
    """(top, left) of a window that shows a defect, bool (H, W); negative where it must be padded.

    Along each axis: a defect that fits lies in the window whole, at a random place, with a margin
    of a twelfth of the window; of a longer one, a random pixel lies in the window's middle half.
    The window stays inside the image where the image is large enough (at the image's rim the margin
    gives way); otherwise the image lies in the middle of the window.
    """
    rows, columns = np.nonzero(defect)
    chosen = int(generator.integers(len(rows)))
    corner = []
    for axis, places in enumerate((rows, columns)):
        length = defect.shape[axis]
        if length <= side:
            corner.append(-((side - length) // 2))
            continue
        low, high = int(places.min()) - side // 12, int(places.max()) + side // 12
        if high - low + 1 > side:
            place = int(places[chosen])
            low, high = place - side // 4, place + side // 4
        # Corners from which the window covers low..high, as far as the image allows.
        first, last = (min(max(c, 0), length - side) for c in (high - side + 1, low))
        corner.append(int(generator.integers(first, last + 1)))
    return corner[0], corner[1]


def cut_window(pixels: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Cut (side, side) of (H, W) or (H, W, 3) at a corner; beyond the rim it is reflected."""
    height, width = pixels.shape[:2]
    before = (max(0, -top), max(0, -left))
    after = (max(0, top + side - height), max(0, left + side - width))
    margins = [*zip(before, after, strict=True), (0, 0)][: pixels.ndim]
    padded = np.pad(pixels, margins, mode="reflect")
    top, left = top + before[0], left + before[1]
    return padded[top : top + side, left : left + side]
