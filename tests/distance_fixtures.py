"""What the tests of features and distances share: quick domain features, stand-in networks."""

from collections import OrderedDict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from dtgan_lab.data import load_dataset
from dtgan_lab.measure.domain import (
    DISTORTIONS,
    DomainConfig,
    DomainFeatures,
    DomainNetwork,
    train_domain_features,
)
from dtgan_lab.measure.features import Extractor
from tests.core_fixtures import SIZE
from tests.evaluation_fixtures import write_judged_dataset

QUICK_DOMAIN: dict[str, Any] = {
    "image_size": SIZE,
    "width": 8,
    "dimension": 16,
    "iterations": 40,
    "batch_size": 18,
    "lr": 1e-2,
}


@cache
def quick_domain() -> DomainFeatures:
    """Domain features trained for a second on the drawn data."""
    with TemporaryDirectory() as folder:
        dataset = load_dataset(write_judged_dataset(Path(folder)))
        config = DomainConfig.of(dataset, **QUICK_DOMAIN)
        return train_domain_features(dataset, config, progress=False)


def untrained_domain(image_size: int = 64, dimension: int = 16) -> DomainFeatures:
    """Domain features with random weights, for what needs no knowledge."""
    config = DomainConfig(image_size, width=4, max_width=8, dimension=dimension)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = DomainNetwork(config, 9, len(DISTORTIONS))
    card = {"distortions": list(DISTORTIONS), "data": {"name": "nothing"}, "test": {}}
    return DomainFeatures(network, config, ("A", "B", "C"), ("Normal", "Scratches", "Spots"), card)


class Space(Extractor):
    """A named space without a network."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name, self.dimension, self.sha256 = name, dimension, "0" * 64

    def features(self, x: Tensor) -> Tensor:
        """The first pixels."""
        return x.flatten(1)[:, : self.dimension]


def write_inception_stand_in(path: Path) -> Path:
    """A TorchScript file with the interface of clean-fid's Inception: averages of mixed pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(32), nn.Flatten())
        network = nn.Sequential(OrderedDict(layers=layers)).eval()  # (n, 2 * 32 * 32)
        torch.jit.script(network).save(str(path))
    return path


def squeezenet_tensors() -> dict[str, Tensor]:
    """Random weights in torchvision's layout, classifier and all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: value.clone() for name, value in squeezenet1_1().state_dict().items()}
