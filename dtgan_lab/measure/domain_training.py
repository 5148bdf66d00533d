"""Training domain features on the clean images of a split, and telling what they know.

A classifier alone would forget whatever does not tell its classes apart, and a distance in its
features would not see blur, grids or a lost texture.  So four questions are asked of the same D
features: which product and defect, how the image was distorted (half of them are), what it looks
like at 8 x 8, and where the defect is.  A penalty on correlations spreads the answers over all D.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dtgan_core.batches import ImageStore, balanced_index, step_generator
from dtgan_core.dataset import Dataset, data_facts
from dtgan_core.hardware import autocast, describe, resolve_precision
from dtgan_lab.measure.domain import THUMB, Answers, DomainConfig, DomainFeatures, DomainNetwork
from dtgan_lab.measure.judge_training import wilson

SHIFT = 1 / 16  # of the side, at most, to every side
BLUR = 1.5  # pixels, standard deviation
NOISE = 0.15  # of [-1, 1], standard deviation
BRIGHTNESS = 0.35  # of [-1, 1], either way
CONTRAST = math.log(1.5)  # log of the factor, either way
GRID = 0.15  # of [-1, 1], amplitude
DISTORTED = 0.5  # share of images that are distorted
WEIGHTS = {"cell": 1.0, "distortion": 1.0, "thumb": 4.0, "place": 1.0, "correlation": 0.02}
SMOOTHING, RARE = 0.02, 4.0  # of the labels; weight of defect places among clean ones
AVERAGED = 0.04  # share of the steps over which weights are averaged; the mean is kept


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


def noisy(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Grain of a standard deviation of strength * `NOISE`."""
    grain = torch.randn(x.shape, generator=generator).to(x.device)
    return x + NOISE * strength.abs()[:, None, None, None] * grain


def brighter(x: Tensor, strength: Tensor) -> Tensor:
    """Shifted by strength * `BRIGHTNESS`."""
    return x + BRIGHTNESS * strength[:, None, None, None]


def contrasted(x: Tensor, strength: Tensor) -> Tensor:
    """Contrast about the image's mean, by a factor of exp(strength * `CONTRAST`)."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * torch.exp(CONTRAST * strength)[:, None, None, None]


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


# kind -> function; the order of the answers and of application
DISTORTIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "blur": lambda x, strength, generator: blurred(x, strength),
    "contrast": lambda x, strength, generator: contrasted(x, strength),
    "brightness": lambda x, strength, generator: brighter(x, strength),
    "grid": gridded,
    "noise": noisy,
}
SIGNED = ("contrast", "brightness")  # the others have a strength of 0 to 1


def distorted(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Apply all distortions, each by its strength; clipped to [-1, 1].

    Args:
        x: (N, ch, H, W) in [-1, 1].
        strength: (N, kinds) in the order of `DISTORTIONS`, 0 for untouched.
        generator: on the CPU.
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


class DomainBatches:
    """Batches in which every product x defect comes as often as any other.

    A batch is a function of (seed, step).
    """

    def __init__(self, store: ImageStore, batch_size: int, seed: int) -> None:
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.cells = store.products * len(store.defect_names) + store.defects
        kinds = self.cells.unique().tolist()
        self.members = [(self.cells == cell).nonzero().flatten().tolist() for cell in kinds]
        self.masks = store.masks()

    def draw(self, step: int) -> DomainBatch:
        """The batch of a step: flipped where allowed, shifted by whole pixels, half distorted."""
        generator = step_generator(f"{self.seed}/domain", step)
        chosen = balanced_index(self.members, self.batch_size, generator)
        index = torch.tensor(chosen, device=self.store.device)
        x = self.store.to_float(index)
        channels = x.shape[1]
        if self.masks is not None:  # they move with their images
            x = torch.cat([x, self.masks[index].float() / 255], dim=1)
        x = shifted(x, self.store.flips[index], generator)
        masks = x[:, channels:] if self.masks is not None else None
        strength = strengths(self.batch_size, generator).to(x.device)
        x = distorted(x[:, :channels], strength, generator)
        return DomainBatch(x, self.cells[index], strength, masks)


def shifted(x: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images where allowed and shift them by whole pixels, which leaves them sharp.

    What comes in from outside is mirrored.

    Args:
        x: (N, channels, H, W).
        flips: bool (N, 2), whether each may be flipped (horizontally, vertically).
        generator: on the CPU.
    """
    n, _, height, width = x.shape
    coins = (torch.rand((n, 2), generator=generator) < 0.5).to(x.device) & flips
    x = torch.where(coins[:, 0, None, None, None], x.flip(3), x)
    x = torch.where(coins[:, 1, None, None, None], x.flip(2), x)
    reach = max(1, round(SHIFT * height))
    padded = F.pad(x, [reach] * 4, mode="reflect")
    corners = torch.randint(0, 2 * reach + 1, (n, 2), generator=generator).tolist()
    return torch.stack(
        [padded[i, :, top : top + height, left : left + width] for i, (top, left) in
         enumerate(corners)]
    )  # fmt: skip


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
    """The weighted sum of what `WEIGHTS` names.

    Args:
        answers: of the batch.
        batch: the images and what is to be answered of them.
    """
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
    """Train domain features on the split `train`; `test` is only told.

    Args:
        dataset: a checked data set with train and test.
        config: sizes and training.
        device: where to compute.
        progress: show a bar when standard error is a terminal.

    Returns:
        The features, rounded to the float16 they are stored in, their card filled.

    Raises:
        DatasetError: a split is empty.
    """
    begin = time.perf_counter()
    size, channels = config.image_size, config.channels
    train, test = (
        ImageStore.load(dataset, split, size, channels, progress).to(device)
        for split in ("train", "test")
    )
    names = dataset.info.products, dataset.info.defects
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = DomainNetwork(config, len(names[0]) * len(names[1]), len(DISTORTIONS))
    network.to(device)
    last_loss = _learn(network, config, train, progress)
    found = DomainFeatures(network, config, *names, card={})
    found.card = {
        "distortions": list(DISTORTIONS),
        "data": data_facts(dataset),
        "split": "train",
        "iterations": config.iterations,
        "seed": config.seed,
        "last_loss": round(last_loss, 4),
        "seconds": round(time.perf_counter() - begin, 1),
        "hardware": describe(device, resolve_precision("auto", device)),
        "licence": "Apache-2.0 (weights); licence of the data above",
        "test": knowledge(found, test),
    }
    return found


def _learn(
    network: DomainNetwork, config: DomainConfig, train: ImageStore, progress: bool
) -> float:
    """Train; leaves the averaged weights as float16 holds them, and tells the last loss."""
    device = train.device
    precision = resolve_precision("auto", device)
    batches = DomainBatches(train, config.batch_size, config.seed)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.iterations, pct_start=0.15
    )
    decay = 1 - 1 / max(1.0, AVERAGED * config.iterations)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bar = tqdm(range(config.iterations), "domain features", disable=None if progress else True)
    for step in bar:
        batch = batches.draw(step)
        with autocast(precision, device):
            answers = network(batch.x.contiguous(memory_format=torch.channels_last))
        loss = domain_loss(answers, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        if step % 25 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    state = average.module.state_dict()
    network.load_state_dict(
        {name: v.half().float() if v.is_floating_point() else v for name, v in state.items()}
    )
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return float(loss.detach())


@torch.inference_mode()
def knowledge(found: DomainFeatures, store: ImageStore, seed: int = 0) -> dict[str, Any]:
    """What the features know of images that they did not learn from.

    Args:
        found: the features.
        store: the images.
        seed: of the distortions.

    Returns:
        cell: share of images whose product and defect are found, with its Wilson interval;
        distortion_r2: for each distortion the share of its variance that is explained.
    """
    x = store.to_float(torch.arange(len(store)))
    generator = step_generator(f"{seed}/knowledge", 0)
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


def default_domain_config(
    dataset: Dataset, image_size: int | None = None, **fields: Any
) -> DomainConfig:
    """A configuration with the data set's channels; 64 pixels unless another size is given."""
    config = DomainConfig(image_size or 64, dataset.info.channels)
    return dataclasses.replace(config, **fields)
