"""What the tests of the downstream comparison share: data with a pool, tiny baselines, a gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.zoo import BASELINES, ZOO, System, load_system
from dtgan_lab.data import Dataset, load_dataset, write_dataset
from dtgan_lab.data.layout import put_image
from dtgan_lab.downstream.classifier import ClassifierConfig, classifier_config
from dtgan_lab.export.gate import CopySearch, Gate, Rules
from tests.baselines.baseline_fixtures import write_export
from tests.core_fixtures import DEFECTS, PRODUCTS
from tests.evaluation_fixtures import drawing, write_judged_dataset
from tests.export.export_fixtures import StubJudge

PER_CLASS = 36  # 12 a product, of which 6 are real
PASS, REFUSE = [0.0, 0.5, 0.5], [0.6, 0.2, 0.2]  # of every defect, in a judge's eyes


def quick(**fields: Any) -> ClassifierConfig:
    """A classifier that learns for one step."""
    return classifier_config("tiny", **{"iterations": 1, **fields})


def write_pooled_dataset(root: Path) -> Path:
    """The judged set, and a pool: eight Normal images a product and, wrongly, a defect."""
    dataset = load_dataset(write_judged_dataset(root))
    rows = []
    for p, product in enumerate(dataset.info.products):
        for number, y in enumerate([0] * 8 + [1]):
            defect = dataset.info.defects[y]
            name = f"pool/{product}/{defect}/{number:02d}.png"
            image = drawing(p, y, 9000 + number)[0]
            rows.append(put_image(root, name, image, group=name, source="made"))
    write_dataset(root, pd.concat([dataset.manifest, pd.DataFrame(rows)]), dataset.info)
    return root


def write_baselines(root: Path) -> dict[str, Path]:
    """Folders of tiny baselines for every product (and defect), by their names."""
    for name in BASELINES:
        for product in PRODUCTS:
            for defect in DEFECTS[1:] if ZOO[name].pairs else DEFECTS[1:2]:
                write_export(name, root / name / f"{product}-{defect}", product, defect)
    return {name: root / name for name in BASELINES}


def load_baselines(folders: dict[str, Path]) -> dict[str, System]:
    """What `write_baselines` wrote."""
    return {name: load_system(folder) for name, folder in folders.items()}


def gate_of(
    dataset: Dataset,
    synth: Synthesizer,
    prediction: Callable[[float], tuple[list[float], int]],
    keep_product: bool = False,
) -> Gate:
    """A gate with a judge that goes by an image's mean, and the search for copies."""
    copies = CopySearch(dataset, synth, ("val",))
    return Gate(Rules(0.5, keep_product), StubJudge(prediction), copies, "hash of the judge")


def some(mean: float) -> tuple[list[float], int]:
    """Believes about every second image, by a digit of its mean; always product A."""
    return (PASS if int(abs(mean) * 1e4) % 2 else REFUSE), 0
