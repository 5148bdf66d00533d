"""What all tests share: few threads, no window for figures, the real MTD where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dtgan_core.synthesis import Synthesizer
    from dtgan_lab.data import Dataset
    from dtgan_lab.measure.judge import Judge

# Before torch is imported anywhere; kernels that run notebooks inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files stay together, but each run of a notebook goes to whichever process is free."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "test_runs_at_smoke" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


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
    from dtgan_lab.data.synthetic.sdi import make_synthetic_sdi

    folder = tmp_path_factory.mktemp("sdi")
    make_synthetic_sdi(folder, seed=5, scale=0.02, workers=1, progress=False)
    return folder


# Below, imports stand in the fixtures, since most tests do without. What they write is only read.


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set: training images alone."""
    from tests.core_fixtures import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn data set with held-out images, masks and twins."""
    from tests.evaluation_fixtures import write_judged_dataset

    return write_judged_dataset(tmp_path_factory.mktemp("judged") / "data")


@pytest.fixture(scope="session")
def dataset(data: Path) -> Dataset:
    """The same, checked."""
    from dtgan_lab.data import load_dataset

    return load_dataset(data)


@pytest.fixture(scope="session")
def judge(dataset: Dataset) -> Judge:
    """A judge that has learned the drawn data set."""
    from dtgan_lab.measure.judge import JudgeConfig, train_judge
    from tests.evaluation_fixtures import QUICK

    return train_judge(dataset, JudgeConfig.of(dataset, **QUICK), progress=False)


@pytest.fixture(scope="session")
def judge_folder(judge: Judge, data: Path) -> Path:
    """The same on disk, beside its data."""
    judge.save(data.parent / "judge")
    return data.parent / "judge"


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DT-GAN as `train` exports it."""
    from tests.core_fixtures import write_tiny_export

    return write_tiny_export(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="session")
def synth(export: Path) -> Synthesizer:
    """The same, loaded."""
    from dtgan_core.synthesis import Synthesizer

    return Synthesizer.load(export)


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end as bad input does; gives its message."""
    from tests.core_fixtures import failure

    return lambda *arguments: failure(capsys, *arguments)
