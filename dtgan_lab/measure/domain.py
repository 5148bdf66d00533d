"""Features of our own: a small network that knows the surfaces and defects it is to compare.

Networks that learned from photographs see little of a faint scratch on a grey plate, and their
weights have to be downloaded.  This one learns from the clean training images of a data set, shares
neither weights nor seed with the judge, and lies beside the notebooks.

    extract = DomainFeatures.load("notebooks/checkpoints/domain-synthetic-sdi")
    points = extract(x)  # (N, 64)

It is a measure for that data set alone: say nothing of magnetic tiles with features of SDI.  It has
seen the split `train`, so compare what was made with other real images: `test`, or fresh ones.

A classifier alone would forget whatever does not tell its classes apart, and a distance in its
features would not see blur, grids or a lost texture.  So four questions are asked of the same D
features: which product and defect, how the image was distorted (half of them are), what it looks
like at 8 x 8, and where the defect is.  A penalty on correlations spreads the answers over all D.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from dtgan_core.batches import ImageStore, step_generator
from dtgan_core.checkpoints import CheckpointError, DataFacts
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.measure.features import Extractor, hash_of_tensors
from dtgan_lab.measure.observers import (
    RARE,
    SHIFT,
    SMOOTHING,
    BalancedDraws,
    Observer,
    ObserverConfig,
    answers_of,
    card_of,
    coin_flips,
    conv,
    fit,
    halves,
    seeded,
    wilson,
)

WEIGHTS_NAME = "domain.safetensors"
TRAIN_COMMAND = "python -m dtgan_core domain-features --data DATA --out DIR"
THUMB = 8  # side of the small pictures that the features must be able to redraw
BLUR = 1.5  # pixels, standard deviation
NOISE = 0.15  # of [-1, 1], standard deviation
BRIGHTNESS = 0.35  # of [-1, 1], either way
CONTRAST = math.log(1.5)  # log of the factor, either way
GRID = 0.15  # of [-1, 1], amplitude
DISTORTED = 0.5  # share of images that are distorted
WEIGHTS = {"cell": 1.0, "distortion": 1.0, "thumb": 4.0, "place": 1.0, "correlation": 0.02}


@dataclass(frozen=True)
class DomainConfig(ObserverConfig):
    """Sizes and training of domain features; image_size is a multiple of 16."""

    batch_size: int = 64
    weight_decay: float = 0.02
    dimension: int = 64  # D, length of a feature vector
    seed: int = 2302  # of initialisation, order of images and their distortion; not the judge's (0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of 16 pixels")


class DomainCard(TypedDict):
    """What the card of domain features must say."""

    products: list[str]
    defects: list[str]
    distortions: list[str]
    config: dict[str, Any]
    data: DataFacts
    features_sha256: str


class Answers(NamedTuple):
    """What is read off the features of N images, by one linear layer each."""

    features: Tensor  # (N, D), of zero mean and unit variance over training images
    cell: Tensor  # (N, products * defects), logits of product x defect
    distortion: Tensor  # (N, kinds), how strongly the image was distorted, 0 for not
    thumb: Tensor  # (N, ch * 8 * 8), the image averaged down to 8 x 8
    place: Tensor  # (N, 8 * 8), logits of where the defect is


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
        stem = [conv(config.channels, wide, slope=0.2)]
        while side > 8:
            narrow, wide, side = wide, min(2 * wide, config.max_width), -(-side // 2)
            stage = [conv(narrow, wide, stride=2, slope=0.2), conv(wide, wide, slope=0.2)]
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
        around = []
        for h in (shallow, deep):
            around += [h.mean(dim=(2, 3)), h.var(dim=(2, 3), correction=0).add(1e-5).sqrt()]
        h = torch.cat([*around, self.map(deep).float().flatten(1)], dim=1)
        return self.norm(self.embed(h).float())

    def forward(self, x: Tensor) -> Answers:
        """x: (N, ch, H, W) in [-1, 1] -> the features and what the heads read off them."""
        h = self.features(x)
        return Answers(h, self.cell(h), self.distortion(h), self.thumb(h), self.place(h))


class DomainFeatures(Observer, Extractor):
    """Trained domain features."""

    what, weights_name, command = "domain features", WEIGHTS_NAME, TRAIN_COMMAND
    card_type, config_type, name = DomainCard, DomainConfig, "domain"

    def __init__(self, network: DomainNetwork, config: DomainConfig, *named: Any, **more: Any):
        super().__init__(network, config, *named, **more)
        self.dimension, self.channels = config.dimension, config.channels
        self.image_size = config.image_size
        self.sha256 = hash_of_tensors(halves(network.state_dict()))
        self.card = {"kind": self.what, "features_sha256": self.sha256} | self.card

    @staticmethod
    def build(config: DomainConfig, card: dict[str, Any]) -> DomainNetwork:
        """The network that a card speaks of, untrained."""
        cells = len(card["products"]) * len(card["defects"])
        return DomainNetwork(config, cells, len(card["distortions"]))

    def features(self, x: Tensor) -> Tensor:
        """(n, ch, H, W) in [-1, 1] -> (n, D); in float32, so that machines agree."""
        return self.network.features(x.to(self.device, torch.float32))

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Self:
        """Load what `save` wrote; a CheckpointError names what is missing or damaged."""
        found = super().load(folder, device)
        expected = found.card["features_sha256"]
        if found.sha256 != expected:
            raise CheckpointError(
                f"{Path(folder) / WEIGHTS_NAME}: found weights with the hash {found.sha256[:12]}, "
                f"the card says {expected[:12]}; restore the folder from where it came, or train "
                f"again: {TRAIN_COMMAND}"
            )
        return found


# --- distortions ---------------------------------------------------------------------------------


def blurred(x: Tensor, strength: Tensor) -> Tensor:
    """Gaussian blur of each image by its own strength, as a share of `BLUR` pixels at 64."""
    sigma = (strength.abs() * BLUR * x.shape[-1] / 64).clamp(min=1e-3)
    reach = max(1, math.ceil(2.5 * BLUR * x.shape[-1] / 64))
    offsets = torch.arange(-reach, reach + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())  # (N, 2 * reach + 1)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    n, ch, height, width = x.shape
    taps = kernel.repeat_interleave(ch, dim=0)  # (N * ch, taps)
    flat = F.pad(x.reshape(1, n * ch, height, width), [reach] * 4, mode="replicate")
    flat = F.conv2d(flat, taps[:, None, :, None], groups=n * ch)
    return F.conv2d(flat, taps[:, None, None, :], groups=n * ch).view(n, ch, height, width)


def gridded(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """A faint grid of 2 to 8 pixels, as upsampling leaves, of amplitude strength * `GRID`."""
    n, _, height, width = x.shape
    period = 2 + 6 * torch.rand(n, generator=generator)
    phase = 2 * math.pi * torch.rand((2, n), generator=generator)
    waves = [
        torch.cos(2 * math.pi * torch.arange(side) / period[:, None] + start[:, None])
        for side, start in ((height, phase[0]), (width, phase[1]))
    ]
    grid = (waves[0][:, :, None] + waves[1][:, None, :]) / 2  # (N, H, W)
    return x + GRID * (strength.abs()[:, None, None] * grid.to(x.device))[:, None]


def _a_number(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


# kind -> function of (N, ch, H, W), strengths (N,) and a generator; the order of the answers and of
# application
DISTORTIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "blur": lambda x, strength, _: blurred(x, strength),
    "contrast": lambda x, strength, _: (  # about the image's mean
        (mean := x.mean(dim=(1, 2, 3), keepdim=True))
        + (x - mean) * _a_number(torch.exp(CONTRAST * strength))
    ),
    "brightness": lambda x, strength, _: x + BRIGHTNESS * _a_number(strength),
    "grid": gridded,
    "noise": lambda x, strength, generator: (
        x
        + NOISE * _a_number(strength.abs()) * torch.randn(x.shape, generator=generator).to(x.device)
    ),
}
SIGNED = ("contrast", "brightness")  # the others have a strength of 0 to 1


def distorted(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Distort images (N, ch, H, W) by strengths (N, kinds), in `DISTORTIONS`'s order; 0 is nothing.

    Clipped to [-1, 1].
    """
    for number, distort in enumerate(DISTORTIONS.values()):
        x = distort(x, strength[:, number], generator)
    return x.clamp(-1, 1)


# --- batches -------------------------------------------------------------------------------------


class DomainBatch(NamedTuple):
    """A batch: x (B, ch, H, W) in [-1, 1], cells (B,), strengths (B, kinds), masks (B, 1, H, W)."""

    x: Tensor
    cell: Tensor
    strength: Tensor
    masks: Tensor | None


def domain_batch(draws: BalancedDraws, step: int) -> DomainBatch:
    """The batch of a step: flipped where allowed, shifted by whole pixels, half distorted."""
    store, (both, index, generator) = draws.store, draws.draw(step)
    x, masks = draws.split(shifted(both, store.flips[index], generator))
    strength = strengths(len(x), generator).to(x.device)
    cell = (store.products * len(store.defect_names) + store.defects)[index]
    return DomainBatch(distorted(x, strength, generator), cell, strength, masks)


def shifted(x: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images where allowed and shift them by whole pixels, which leaves them sharp.

    What comes in from outside is mirrored; `flips` is bool (N, 2), horizontally, vertically.
    """
    n, _, height, width = x.shape
    x = coin_flips(x, flips, generator)
    reach = max(1, round(SHIFT * height))
    padded = F.pad(x, [reach] * 4, mode="reflect")
    corners = torch.randint(0, 2 * reach + 1, (n, 2), generator=generator).tolist()
    places = enumerate(corners)
    cuts = [padded[i, :, top : top + height, left : left + width] for i, (top, left) in places]
    return torch.stack(cuts)


def strengths(count: int, generator: torch.Generator) -> Tensor:
    """How strongly to distort each image, (count, kinds): a few kinds, or none for half of them."""
    shape = (count, len(DISTORTIONS))
    strength = torch.rand(shape, generator=generator)
    for number, kind in enumerate(DISTORTIONS):
        if kind in SIGNED:
            strength[:, number] = 2 * strength[:, number] - 1
    chosen = torch.rand(shape, generator=generator) < 0.4
    hit = torch.rand((count, 1), generator=generator) < DISTORTED
    return strength * (chosen & hit)


# --- learning ------------------------------------------------------------------------------------


def domain_loss(answers: Answers, batch: DomainBatch) -> Tensor:
    """The weighted sum of what `WEIGHTS` names."""
    terms = {
        "cell": F.cross_entropy(answers.cell.float(), batch.cell, label_smoothing=SMOOTHING),
        "distortion": F.mse_loss(answers.distortion.float(), batch.strength) * 10,
        "thumb": F.mse_loss(
            answers.thumb.float(), F.adaptive_avg_pool2d(batch.x, THUMB).flatten(1)
        ),
        "correlation": correlation(answers.features.float()),
    }
    if batch.masks is not None:
        there = F.adaptive_max_pool2d(batch.masks, THUMB).flatten(1)
        rare = torch.tensor(RARE, device=there.device)
        terms["place"] = F.binary_cross_entropy_with_logits(
            answers.place.float(), there, pos_weight=rare
        )
    return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def correlation(features: Tensor) -> Tensor:
    """Sum of squared covariances of different features, a feature; 0 where none are correlated."""
    centred = features - features.mean(dim=0)
    covariance = centred.T @ centred / max(1, len(features) - 1)
    off = covariance - torch.diag(covariance.diagonal())
    return off.square().sum() / features.shape[1]


def train_domain_features(
    dataset: Dataset,
    config: DomainConfig,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> DomainFeatures:
    """Train domain features on the split `train`; `test` is only reported.

    They come rounded to the float16 they are stored in, their card filled.
    """
    begin = time.perf_counter()
    size, channels = config.image_size, config.channels
    train, test = (
        ImageStore.load(dataset, split, size, channels, progress).to(device)
        for split in ("train", "test")
    )
    names = dataset.info.products, dataset.info.defects
    with seeded(config.seed):
        network = DomainNetwork(config, len(names[0]) * len(names[1]), len(DISTORTIONS))
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    draws = BalancedDraws(train, config.batch_size, config.seed, "domain")

    def loss_of(step: int) -> Tensor:
        batch = domain_batch(draws, step - 1)
        return domain_loss(answers_of(network, batch.x), batch)

    last_loss = fit(network, config, loss_of, title="domain features", progress=progress).last_loss
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    found = DomainFeatures(network, config, *names, card={})
    found.card |= {"distortions": list(DISTORTIONS), "last_loss": round(last_loss, 4)}
    found.card |= card_of(dataset, config, begin, device) | {"test": knowledge(found, test)}
    return found


@torch.inference_mode()
def knowledge(found: DomainFeatures, store: ImageStore) -> dict[str, Any]:
    """What the features know of images that they did not learn from.

    "cell": share of images whose product and defect are found, with its Wilson interval;
    "distortion_r2": for each distortion the share of its variance that is explained.
    """
    x = store.to_float(torch.arange(len(store)))
    generator = step_generator("0/knowledge", 0)
    strength = strengths(len(x), generator).to(x.device)
    ways = []
    for images in (x, distorted(x, strength, generator)):
        parts = [found.network(part) for part in images.split(64)]
        ways.append(Answers(*(torch.cat(values) for values in zip(*parts, strict=True))))
    clean, changed = ways
    right = clean.cell.argmax(dim=1) == store.products * len(store.defect_names) + store.defects
    left = (changed.distortion - strength).square().sum(dim=0)
    whole = (strength - strength.mean(dim=0)).square().sum(dim=0)
    explained = (1 - left / whole).tolist()
    return {
        "cell": wilson(int(right.sum()), len(right)),
        "distortion_r2": {
            kind: round(r2, 3) for kind, r2 in zip(DISTORTIONS, explained, strict=True)
        },
    }
