"""What the tests of this folder break, load and draw from: a small set, a small MTD archive."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from dtgan_lab.data import DatasetInfo, write_dataset
from dtgan_lab.data.layout import put_image
from dtgan_lab.data.mtd_source import Photograph, read_source
from tests.data.folder_fixtures import as_zip

Counts = dict[tuple[str, str, str], int]


def counts_of(products: Iterable[str], defects: Iterable[str], **splits: int) -> Counts:
    """As many images of every product and defect as a split is said to have."""
    return {(s, p, d): n for s, n in splits.items() for p in products for d in defects}


def read_rows(root: Path) -> pd.DataFrame:
    """The manifest of a data set, as text."""
    return pd.read_csv(root / "manifest.csv", dtype=str, keep_default_na=False)


def write_small_set(
    root: Path, counts: Counts, info: DatasetInfo, masks: bool = True
) -> pd.DataFrame:
    """Write noise images, each unique, with a mask for every defective one; returns the rows."""
    rows = []
    generator = np.random.default_rng(0)
    shape = info.image_size if info.channels == 1 else (*info.image_size, 3)
    spot = np.zeros(info.image_size, dtype=np.uint8)
    spot[2:5, 2:5] = 255
    for (split, product, defect), count in counts.items():
        for number in range(count):
            mask = spot if masks and defect != info.anchor else None
            group = f"{split}-{product}-{defect}-{number}"
            place = f"{split}/{product}/{defect}/{number:03d}.png"
            noise = generator.integers(0, 256, shape, dtype=np.uint8)
            rows.append(
                put_image(root, place, noise, mask, group=group, seed=number, source="noise")
            )
    table = pd.DataFrame(rows)
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
    return counts_of("AB", ("Normal", "Scratches", "Spots"), train=4, val=2)


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


# ----- a made archive in the layout of the Magnetic Tile Defects

SHAPE = (240, 150)
EXPOSURES = 3

# The tiles of the made archive: number -> published class of each exposure. Tile 20 is Free in
# one photograph and has a blowhole in the others; tile 21 comes back as 22, turned around.
TILES = {
    **{number: ["Free"] * EXPOSURES for number in range(8)},
    **{number: ["Crack"] * EXPOSURES for number in range(8, 12)},
    **{number: ["Blowhole"] * EXPOSURES for number in range(12, 16)},
    16: ["Break"] * EXPOSURES,
    17: ["Uneven"] * EXPOSURES,
    20: ["Free", "Blowhole", "Blowhole"],
    21: ["Free"] * EXPOSURES,
    22: ["Free"] * EXPOSURES,
}


def surface(number: int) -> np.ndarray:
    """A tile: texture of its own, under vertical streaks that all tiles share; (H, W) in [0, 1]."""
    turned = number == 22
    noise = np.random.default_rng(21 if turned else number).standard_normal((300, 210))
    own = ndimage.gaussian_filter(noise, 4) * 18
    shared = np.random.default_rng(99).standard_normal(210)
    streaks = ndimage.gaussian_filter1d(shared, 2)[None, :] * 1.6
    light = np.linspace(-0.4, 0.4, 300)[:, None]
    level = (own[::-1, ::-1] if turned else own) + streaks + light
    return 0.45 + 0.12 * level


def photograph(number: int, exposure: int, defect: str) -> tuple[Image.Image, Image.Image]:
    """One exposure of a tile: brighter each time, cut out a little elsewhere; image and mask."""
    image, mask = surface(number), np.zeros((300, 210), dtype=np.uint8)
    if defect in ("Crack", "Break"):
        place = 50 + 31 * number % 90
        mask[80:180, place : place + 4] = 255
    elif defect in ("Blowhole", "Fray"):
        place = 50 + 31 * number % 90
        mask[place + 60 : place + 72, place : place + 12] = 255
    image = np.where(mask > 0, 0.05, image)
    top, left = 20 + 4 * exposure, 30 - 5 * exposure
    height, width = SHAPE[0] + 3 * exposure, SHAPE[1] - 2 * exposure
    cut = (slice(top, top + height), slice(left, left + width))
    bright = np.clip(image[cut] * (0.5 + 0.3 * exposure), 0, 1) * 255
    return Image.fromarray(bright.astype(np.uint8)), Image.fromarray(mask[cut])


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """Members of the made archive, in the published layout."""
    members = {"README.md": b"It is welcomed to use our dataset."}
    for number, classes in TILES.items():
        for exposure, name in enumerate(classes):
            image, mask = photograph(number, exposure, name)
            stem = f"MT_{name}/Imgs/exp{exposure + 1}_num_{1000 * number + exposure}"
            for suffix, picture, options in (("jpg", image, {"quality": 92}), ("png", mask, {})):
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG" if suffix == "jpg" else "PNG", **options)
                members[f"{stem}.{suffix}"] = buffer.getvalue()
    return members


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    members = {f"Magnetic-tile-master/{name}": data for name, data in files.items()}
    return as_zip(tmp_path_factory.mktemp("mtd") / "mtd.zip", members)


@pytest.fixture(scope="session")
def photographs(archive: Path) -> list[Photograph]:
    return read_source(archive)
