"""Data with a pool, baselines and a judge: read by many tests, changed by none."""

from pathlib import Path
from typing import Any

import pytest

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.data import Dataset, load_dataset
from dtgan_lab.downstream.comparison import Comparison
from dtgan_lab.downstream.training_set import Materials, training_store
from tests.core_fixtures import SIZE
from tests.downstream_fixtures import load_baselines, write_baselines, write_pooled_dataset
from tests.export.export_fixtures import write_judge


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pooled_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def dataset(data: Path) -> Dataset:
    return load_dataset(data)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_baselines(tmp_path_factory.mktemp("baselines"))


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_judge(tmp_path_factory.mktemp("judge"), data={"manifest_sha256": "another"})


@pytest.fixture(scope="session")
def materials(dataset: Dataset, synth: Synthesizer, folders: dict[str, Path]) -> Materials:
    return Materials(training_store(dataset, SIZE, 1), synth, load_baselines(folders))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Arms and seeds that `Comparison` has run since it was last cleared."""
    runs: list[tuple[str, int]] = []
    plain = Comparison.run

    def counted(self: Comparison, name: str, seed: int, *rest: Any) -> dict[str, Any]:
        runs.append((name, seed))
        return plain(self, name, seed, *rest)

    monkeypatch.setattr(Comparison, "run", counted)
    return runs
