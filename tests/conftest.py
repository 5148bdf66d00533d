"""What all tests share: few threads, no window for figures, the real MTD where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere; kernels that run notebooks inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def mtd_source() -> Path:
    """The published zip of the Magnetic Tile Defects, or its unpacked folder."""
    name = os.environ.get("DTGAN_MTD_SOURCE", "")
    if not name:
        pytest.skip("DTGAN_MTD_SOURCE does not name the zip of the Magnetic Tile Defects")
    path = Path(name)
    assert path.exists(), f"DTGAN_MTD_SOURCE names {path}, which does not exist"
    return path.resolve()


@pytest.fixture(scope="session")
def small_sdi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic SDI of a fiftieth of the images; to be read, not changed."""
    # here, since most tests do without
    from dtgan_lab.data.synthetic.sdi import make_synthetic_sdi

    folder = tmp_path_factory.mktemp("sdi")
    make_synthetic_sdi(folder, seed=5, scale=0.02, workers=1, progress=False)
    return folder
