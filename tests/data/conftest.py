"""A small data set that the tests of this folder break, load and draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dtgan_core.data import MANIFEST_COLUMNS, DatasetInfo, write_dataset

Counts = dict[tuple[str, str, str], int]


def write_small_set(
    root: Path, counts: Counts, info: DatasetInfo, masks: bool = True
) -> pd.DataFrame:
    """Write noise images, each unique, with a mask for every defective one; returns the rows."""
    rows = []
    generator = np.random.default_rng(0)
    shape = info.image_size if info.channels == 1 else (*info.image_size, 3)
    for (split, product, defect), count in counts.items():
        for number in range(count):
            tail = f"{split}/{product}/{defect}/{number:03d}.png"
            path = root / tail
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
            mask = ""
            if masks and defect != info.anchor:
                mask = f"masks/{tail}"
                (root / mask).parent.mkdir(parents=True, exist_ok=True)
                spot = np.zeros(info.image_size, dtype=np.uint8)
                spot[2:5, 2:5] = 255
                Image.fromarray(spot).save(root / mask)
            rows.append(
                {
                    "path": tail,
                    "product": product,
                    "defect": defect,
                    "split": split,
                    "group": f"{split}-{product}-{defect}-{number}",
                    "mask": mask,
                    "twin": "",
                    "seed": number,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "source": "noise",
                }
            )
    table = pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))
    write_dataset(root, table, info)
    return table


@pytest.fixture
def info() -> DatasetInfo:
    """Two products, three defects, 16 x 16 grey; A may be flipped left-right, B both ways."""
    return DatasetInfo(
        name="small",
        anchor="Normal",
        products=("A", "B"),
        defects=("Normal", "Scratches", "Spots"),
        image_size=(16, 16),
        channels=1,
        flips={"A": ("horizontal",), "B": ("horizontal", "vertical")},
        licence="none",
        citation="nobody",
        source="noise",
        command="python make_small.py --out DIR",
    )


@pytest.fixture
def counts() -> Counts:
    """Images per (split, product, defect)."""
    return {
        (split, product, defect): {"train": 4, "val": 2}[split]
        for split in ("train", "val")
        for product in ("A", "B")
        for defect in ("Normal", "Scratches", "Spots")
    }


@pytest.fixture
def small(tmp_path: Path, info: DatasetInfo, counts: Counts) -> Path:
    """A sound data set."""
    root = tmp_path / "small"
    write_small_set(root, counts, info)
    return root


@pytest.fixture
def make_set(tmp_path: Path, info: DatasetInfo) -> Callable[[Counts, DatasetInfo | None], Path]:
    """Write a data set with other counts, or another dataset.json."""

    def make(counts: Counts, other: DatasetInfo | None = None) -> Path:
        root = tmp_path / "made"
        write_small_set(root, counts, other or info)
        return root

    return make
