"""An export streams: it takes no more memory at its end than at its beginning."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.export.drawing import Drawn
from tests.export.export_fixtures import export

STATM = Path("/proc/self/statm")
MIB = 2**20


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope_of_memory(
    measure: Callable[[], int], synth: Synthesizer, good: list[Path], out: Path, count: int
) -> float:
    """Bytes that an image adds, fitted over the blocks after the first fifth."""
    taken: list[tuple[int, int]] = []

    def watch(drawn: Drawn) -> None:
        taken.append((drawn.rows[0]["index"], measure()))

    export(synth, good, out, count=count, batch_size=16, watch=watch)
    steady = np.array(taken[len(taken) // 5 :], dtype=np.float64)
    slope = float(np.polyfit(steady[:, 0], steady[:, 1], 1)[0])
    shown = steady[:: max(1, len(steady) // 8), 1] / MIB
    print(f"{count} images: {slope:.1f} bytes an image; MiB in turn: {shown.round(1).tolist()}")
    return slope


def test_what_python_holds_does_not_grow(synth, good, tmp_path):
    """Keeping nothing but the rows would add some 800 bytes an image."""
    tracemalloc.start()
    try:
        held = lambda: tracemalloc.get_traced_memory()[0]  # noqa: E731
        slopes = [slope_of_memory(held, synth, good, tmp_path / name, 240) for name in "ab"]
    finally:
        tracemalloc.stop()
    assert min(slopes) < 600  # what is filled once, by whomever, is filled in the first


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="memory is read from /proc")
def test_memory_stays_over_twenty_thousand_images(synth, good, tmp_path):
    slope = slope_of_memory(resident_bytes, synth, good, tmp_path / "out", 20_000)
    assert slope < 600  # rows alone would add 800; what is left are steps of the allocator
