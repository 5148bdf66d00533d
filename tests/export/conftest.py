"""A few parts, shared by the tests of the export."""

from pathlib import Path

import pytest

from dtgan_core.synthesis import find_images
from dtgan_lab.export.drawing import Part
from tests.core_fixtures import picture, save_picture


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good parts of two products, and two references of each defect."""
    root = tmp_path_factory.mktemp("parts")
    for number in range(4):
        save_picture(root / f"good/{number}.png", picture(number % 2, 0, number))
    for defect, name in ((1, "Scratches"), (2, "Spots")):
        for number in range(2):
            save_picture(root / f"bad/{name}/{number}.png", picture(number, defect, 9))
    return root


@pytest.fixture(scope="session")
def good(parts: Path) -> list[Path]:
    return find_images(parts / "good")


@pytest.fixture(scope="session")
def labels(good: list[Path]) -> dict[str, Part]:
    """The products of the parts: A, B, A, B."""
    return {str(path): Part("AB"[n % 2]) for n, path in enumerate(good)}
