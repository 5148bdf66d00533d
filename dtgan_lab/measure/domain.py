"""Features of our own: a small network that knows the surfaces and defects it is to compare.

Networks that learned from photographs see little of a faint scratch on a grey plate, and their
weights have to be downloaded.  This one learns from the clean training images of a data set (see
`domain_training`), shares neither weights nor seed with the judge, and lies beside the notebooks.

    extract = DomainFeatures.load("notebooks/checkpoints/domain-synthetic-sdi")
    points = extract(x)  # (N, 64)

It is a measure for that data set alone: say nothing of magnetic tiles with features of SDI.  It has
seen the split `train`, so compare what was made with other real images: `test`, or fresh ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from dtgan_core.checkpoints import (
    CheckpointError,
    DataFacts,
    fields_of,
    fitted,
    read_json,
    read_weights,
    write_tensors,
)
from dtgan_core.config import check_fields
from dtgan_core.files import sync_folder, write_json_atomic
from dtgan_lab.measure.features import Extractor, hash_of_tensors

WEIGHTS_NAME, CARD_NAME = "domain.safetensors", "card.json"
FORMAT = 1
KIND = "domain features"
TRAIN_COMMAND = "python -m dtgan_core domain-features --data DATA --out DIR"
THUMB = 8  # side of the small pictures that the features must be able to redraw


@dataclass(frozen=True)
class DomainConfig:
    """Sizes and training of domain features.

    Args:
        image_size: side of the square images, pixels; a multiple of 16.
        channels: 1 (grey) or 3 (RGB).
        width: channels at full resolution; they double at every halving ...
        max_width: ... up to this many.
        dimension: D, length of a feature vector.
        iterations: training steps.
        batch_size: images a step, every product x defect as often as any other.
        lr: highest learning rate of AdamW; one cycle up and down.
        weight_decay: of AdamW.
        seed: of initialisation, order of images and their distortion; not the judge's (0).
    """

    image_size: int = 64
    channels: int = 1
    width: int = 16
    max_width: int = 96
    dimension: int = 64
    iterations: int = 1500
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.02
    seed: int = 2302

    def __post_init__(self) -> None:
        check_fields(self)
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 16 pixels")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 1 (grey) or 3 (colour)")


class DomainCard(TypedDict):
    """What the card of domain features must say."""

    products: list[str]
    defects: list[str]
    distortions: list[str]
    config: dict[str, Any]
    data: DataFacts
    features_sha256: str


class Answers(NamedTuple):
    """What is read off the features of N images, by one linear layer each.

    Attributes:
        features: (N, D), of zero mean and unit variance over training images.
        cell: (N, products * defects), logits of product x defect.
        distortion: (N, kinds), how strongly the image was distorted, 0 for not.
        thumb: (N, ch * 8 * 8), the image averaged down to 8 x 8.
        place: (N, 8 * 8), logits of where the defect is.
    """

    features: Tensor
    cell: Tensor
    distortion: Tensor
    thumb: Tensor
    place: Tensor


def _conv(dim_in: int, dim_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


class DomainNetwork(nn.Module):
    """Convolutions down to about 8 x 8, pooled from two depths, then D features and four heads.

    The shallow depth (half the resolution) tells texture, blur and grids, the deep one what and
    where the defect is.  A last norm without weights gives every feature unit variance, so that no
    direction of the space rules the distances.
    """

    def __init__(self, config: DomainConfig, cells: int, distortions: int) -> None:
        super().__init__()
        wide, side = config.width, config.image_size
        stages: list[nn.Module] = []
        stem = [_conv(config.channels, wide)]
        while side > 8:
            narrow, wide, side = wide, min(2 * wide, config.max_width), -(-side // 2)
            stage = [_conv(narrow, wide, stride=2), _conv(wide, wide)]
            if not stages:
                shallow = wide
            stages.append(nn.Sequential(*stage))
        self.shallow = nn.Sequential(*stem, stages[0])
        self.deep = nn.Sequential(*stages[1:])
        self.map = nn.Conv2d(wide, 8, 1)  # keeps where things are, which pooling forgets
        pooled = 2 * shallow + 2 * wide + 8 * side * side
        self.embed = nn.Linear(pooled, config.dimension)
        self.norm = nn.BatchNorm1d(config.dimension, affine=False)
        self.cell = nn.Linear(config.dimension, cells)
        self.distortion = nn.Linear(config.dimension, distortions)
        self.thumb = nn.Linear(config.dimension, config.channels * THUMB * THUMB)
        self.place = nn.Linear(config.dimension, THUMB * THUMB)

    def features(self, x: Tensor) -> Tensor:
        """x: (N, ch, H, W) in [-1, 1] -> (N, D)."""
        shallow = self.shallow(x)  # (N, ..., H / 2, W / 2)
        deep = self.deep(shallow).float()  # (N, ..., about 8, about 8)
        shallow = shallow.float()
        around = [pool(h) for h in (shallow, deep) for pool in (_mean, _spread)]
        h = torch.cat([*around, self.map(deep).float().flatten(1)], dim=1)
        return self.norm(self.embed(h).float())

    def forward(self, x: Tensor) -> Answers:
        """x: (N, ch, H, W) in [-1, 1] -> the features and what the heads read off them."""
        h = self.features(x)
        return Answers(h, self.cell(h), self.distortion(h), self.thumb(h), self.place(h))


def _mean(h: Tensor) -> Tensor:
    return h.mean(dim=(2, 3))


def _spread(h: Tensor) -> Tensor:
    return h.var(dim=(2, 3), correction=0).add(1e-5).sqrt()


class DomainFeatures(Extractor):
    """Trained domain features.

    Attributes:
        network: its `DomainNetwork`, in evaluation mode.
        config: sizes and training.
        products, defects: names of the data it learned from.
        card: what is known of it: data, training, what held-out images tell.
    """

    name = "domain"

    def __init__(
        self,
        network: DomainNetwork,
        config: DomainConfig,
        products: tuple[str, ...],
        defects: tuple[str, ...],
        card: dict[str, Any],
    ) -> None:
        self.network, self.config, self.card = network, config, card
        self.products, self.defects = products, defects
        self.dimension, self.channels = config.dimension, config.channels
        self.image_size = config.image_size
        self.device = next(network.parameters()).device
        network.eval()
        network.requires_grad_(False)
        self.sha256 = hash_of_tensors(self._half())

    def features(self, x: Tensor) -> Tensor:
        """(n, ch, H, W) in [-1, 1] -> (n, D); in float32, so that machines agree."""
        return self.network.features(x.to(self.device, torch.float32))

    # --- files -----------------------------------------------------------------------------------

    def _half(self) -> dict[str, Tensor]:
        state = self.network.state_dict()
        return {name: v.half() if v.is_floating_point() else v for name, v in state.items()}

    def save(self, folder: str | Path) -> None:
        """Write domain.safetensors (float16) and card.json; the card is last, so it means whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS_NAME, self._half())
        facts = {
            "format": FORMAT,
            "kind": KIND,
            "products": list(self.products),
            "defects": list(self.defects),
            "config": asdict(self.config),
            "features_sha256": self.sha256,
        }
        write_json_atomic(folder / CARD_NAME, facts | self.card)
        sync_folder(folder)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> DomainFeatures:
        """Load what `save` wrote.

        Args:
            folder: holds domain.safetensors and card.json.
            device: where to compute.

        Raises:
            CheckpointError: the folder holds no domain features, or damaged ones.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_NAME
        if not (folder / CARD_NAME).is_file() or not weights.is_file():
            found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "nothing"
            raise CheckpointError(
                f"{folder}: found {found}, expected {CARD_NAME} and {WEIGHTS_NAME} of domain "
                f"features; train some: {TRAIN_COMMAND}"
            )
        path, remedy = folder / CARD_NAME, f"train them again: {TRAIN_COMMAND}"
        card = read_json(path, DomainCard, remedy)
        config: DomainConfig = fields_of(card["config"], DomainConfig, path, "config", remedy)
        products, defects = tuple(card["products"]), tuple(card["defects"])
        cells, distortions = len(products) * len(defects), len(card["distortions"])
        plain = read_weights(weights)
        network = fitted(lambda: DomainNetwork(config, cells, distortions), plain, weights)
        network.to(device)
        loaded = cls(network, config, products, defects, card)
        expected = card["features_sha256"]
        if loaded.sha256 != expected:
            raise CheckpointError(
                f"{weights}: found weights with the hash {loaded.sha256[:12]}, the card says "
                f"{expected[:12]}; restore the folder from where it came, or train again: "
                f"{TRAIN_COMMAND}"
            )
        return loaded
