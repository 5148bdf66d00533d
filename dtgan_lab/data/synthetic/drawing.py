"""One image of the synthetic SDI from one seed, with its defect-free twin and its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dtgan_lab.data.synthetic import defects
from dtgan_lab.data.synthetic.textures import SIZE, SURFACES, Field, Surface

DefectPainter = Callable[[np.random.Generator, Surface], Field]

# Painters of every product and defect with how often each is used.
PAINTERS: dict[tuple[str, str], tuple[tuple[DefectPainter, float], ...]] = {
    ("A", "Scratches"): (
        (defects.a_strokes, 0.32),
        (defects.a_bundle, 0.24),
        (defects.a_wedge, 0.16),
        (defects.a_ledge, 0.12),
        (defects.a_hook, 0.16),
    ),
    ("A", "Spots"): (
        (defects.a_cluster, 0.3),
        (defects.a_letters, 0.2),
        (defects.a_chain, 0.15),
        (defects.a_abrasion, 0.2),
        (defects.a_dots, 0.15),
    ),
    ("B", "Scratches"): (
        (defects.b_wide, 0.42),
        (defects.b_vertical, 0.2),
        (defects.b_pair, 0.2),
        (defects.b_dotted, 0.1),
        (defects.b_drop, 0.08),
    ),
    ("B", "Spots"): (
        (defects.b_dot, 0.3),
        (defects.b_dark, 0.2),
        (defects.b_cluster, 0.16),
        (defects.b_comet, 0.1),
        (defects.b_haze, 0.12),
        (defects.b_rough, 0.12),
    ),
    ("C", "Scratches"): (
        (defects.c_hair, 0.56),
        (defects.c_tick, 0.28),
        (defects.c_wave, 0.16),
    ),
    ("C", "Spots"): ((defects.c_speck, 0.42), (defects.c_clump, 0.34), (defects.c_flake, 0.24)),
}


def paint_defect(rng: np.random.Generator, surface: Surface, product: str, defect: str) -> Field:
    """Paint one random defect of a class; float32 (128, 128), not clipped."""
    painters = PAINTERS[product, defect]
    chances = np.cumsum([weight for _, weight in painters])
    pick = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
    return painters[min(pick, len(painters) - 1)][0](rng, surface).astype(np.float32)


NAME = "synthetic-sdi"  # of the data set
PRODUCTS = ("A", "B", "C")
DEFECTS = ("Normal", "Scratches", "Spots")

#: Raised whenever a change to the drawing changes any image.
DRAWING_VERSION = 1

# A seed is data-set seed, split and index side by side in one number, so two images of one class
# share a seed only if they agree in all three. Split 0 is for seeds that users make up.
_SPLIT_CODES = {"train": 1, "val": 2, "test": 3, "pool": 4, "fresh": 5}
_INDEX_BITS, _SPLIT_BITS = 32, 4
MAX_SEED = 2**26

_VISIBLE = {"A": 9.0, "B": 8.0, "C": 9.0}  # grey levels that a person sees on that surface
_LEAST_PEAK = {"A": 55.0, "B": 30.0, "C": 32.0}  # a defect fainter than this is drawn again
_LEAST_AREA = 10  # px
_MAX_TRIES = 20


class Drawing(NamedTuple):
    """One synthetic image with its ground truth, each uint8 (128, 128).

    Attributes:
        image: the image, grey levels.
        twin: the same surface without the defect; equal to `image` where the defect is Normal.
        mask: 255 where the defect visibly changed the surface, else 0.
    """

    image: NDArray[np.uint8]
    twin: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def image_seed(seed: int, split: str, index: int) -> int:
    """The seed of image `index` of a split, unlike that of any other split, index or data set.

    ValueError: `seed` is not in 0 <= seed < 2**26, or another value lies outside its range.
    """
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"data set seed {seed}: expected 0 <= seed < {MAX_SEED}")
    if split not in _SPLIT_CODES:
        raise ValueError(f"split {split!r}: expected one of {', '.join(_SPLIT_CODES)}")
    if not 0 <= index < 2**_INDEX_BITS:
        raise ValueError(f"image index {index}: expected 0 <= index < {2**_INDEX_BITS}")
    return (((seed << _SPLIT_BITS) | _SPLIT_CODES[split]) << _INDEX_BITS) | index


def draw(product: str, defect: str, seed: int) -> Drawing:
    """Draw one image from its seed (the `seed` column of the manifest, or any number).

    Args:
        product: "A", "B" or "C".
        defect: "Normal", "Scratches" or "Spots".
        seed: any integer >= 0; seeds below 2**32 belong to no data set.

    Returns:
        Image, twin and mask. Outside the mask, widened by two pixels, image and twin are equal.

    Raises:
        ValueError: unknown product or defect, or a negative seed.
    """
    check_class(product, defect)
    if seed < 0:
        raise ValueError(f"seed {seed}: expected an integer >= 0")
    entropy = [PRODUCTS.index(product), DEFECTS.index(defect), seed]
    surface_seed, defect_seed = np.random.SeedSequence(entropy).spawn(2)
    surface = SURFACES[product](np.random.default_rng(surface_seed))
    twin = _to_grey(surface.image)
    if defect == DEFECTS[0]:
        return Drawing(twin.copy(), twin, np.zeros_like(twin))
    rng = np.random.default_rng(defect_seed)
    for _ in range(_MAX_TRIES):
        change = paint_defect(rng, surface, product, defect) - surface.image
        visible = _visible(change, _VISIBLE[product])
        peak = float(np.abs(ndimage.uniform_filter(change, 3)).max())
        if visible.sum() >= _LEAST_AREA and peak >= _LEAST_PEAK[product]:
            near = ndimage.binary_dilation(visible, iterations=2)
            image = np.where(near, _to_grey(surface.image + change), twin)
            return Drawing(image, twin, visible.astype(np.uint8) * np.uint8(255))
    raise RuntimeError(
        f"product {product}, defect {defect}, seed {seed}: no visible defect in {_MAX_TRIES} tries"
    )


def fresh_images(product: str, defect: str, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (count, 128, 128) that are in no split of any data set, for reference statistics.

    They are those that `make_synthetic_sdi(..., seed=seed, fresh=count)` writes.
    """
    check_class(product, defect)
    images = np.empty((count, SIZE, SIZE), dtype=np.uint8)
    for index in range(count):
        images[index] = draw(product, defect, image_seed(seed, "fresh", index)).image
    return images


def check_class(product: str, defect: str) -> None:
    """Raise ValueError for a product or defect that the synthetic SDI does not have."""
    if product not in PRODUCTS:
        raise ValueError(f"product {product!r}: expected one of {', '.join(PRODUCTS)}")
    if defect not in DEFECTS:
        raise ValueError(f"defect {defect!r}: expected one of {', '.join(DEFECTS)}")


def _to_grey(field: Field) -> NDArray[np.uint8]:
    return np.clip(np.rint(field), 0, 255).astype(np.uint8)


def _visible(change: Field, level: float) -> NDArray[np.bool_]:
    """Pixels that changed by at least `level`, with the gaps between crumbs closed."""
    strong = np.abs(change) >= level
    closed = ndimage.binary_closing(np.pad(strong, 2), iterations=1)[2:-2, 2:-2]
    return strong | closed
