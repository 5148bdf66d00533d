"""Data with held-out images, masks and twins, drawn so simply that every number is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtgan_lab.data import write_dataset
from dtgan_lab.data.layout import put_image
from tests.core_fixtures import DEFECTS, SIZE, info_of

QUICK: dict[str, Any] = {
    "width": 8,
    "iterations": 60,
    "batch_size": 18,
    "check_every": 30,
    "lr": 1e-2,
}  # a judge for tests
LEVELS = (80, 120, 160)  # grey level of a product's flat background


def drawing(product: int, defect: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, defect-free twin and mask, uint8 (32, 32, 1): a bright bar, a dark square, or none."""
    random = np.random.default_rng([7, product, defect, number])
    grey = LEVELS[product] + random.integers(-3, 4, (SIZE, SIZE, 1))
    grey[:, :: 2 + product] += 10
    twin = grey.astype(np.uint8)
    image, mask = twin.copy(), np.zeros_like(twin)
    top, left = random.integers(1, SIZE - 13, 2)
    if defect:
        high, wide = ((12, 2), (5, 5))[defect - 1]
        place = np.s_[top : top + high, left : left + wide]
        strength = int(random.integers(50, 70))
        image[place] = image[place] + strength if defect == 1 else image[place] - strength
        mask[place] = 255
    return image, twin, mask


def write_judged_dataset(
    root: Path,
    *,
    products: tuple[str, ...] = ("A", "B", "C"),
    masks: bool = True,
    twins: bool = True,
    counts: tuple[tuple[str, int], ...] = (("train", 6), ("val", 2), ("test", 3)),
) -> Path:
    """Write a data set of so many images a split, product and defect; returns root."""
    rows = []
    for split, count in counts:
        for p, product in enumerate(products):
            for y, defect in enumerate(DEFECTS):
                for number in range(count):
                    place = f"{split}/{product}/{defect}/{number:02d}.png"
                    seed = number + 1000 * sorted(("train", "val", "test")).index(split)
                    image, twin, mask = drawing(p, y, seed)
                    truth = (mask if y and masks else None, twin if y and twins else None)
                    words = {"group": f"{split}-{product}-{defect}-{number}", "source": "made"}
                    rows.append(put_image(root, place, image, *truth) | words)
    write_dataset(root, pd.DataFrame(rows), info_of("judged", products))
    return root
