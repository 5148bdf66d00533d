"""What judge, domain features and classifier share: their batches, how they learn, their folders.

All three are small networks that learn from real training images, every product x defect as often
as any other, by AdamW with one cycle of the learning rate.  What differs, a network, its loss and
how it distorts images, stands in `judge`, `domain` and `downstream.classifier`.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dtgan_core.batches import ImageStore, flipped, step_generator, stratified
from dtgan_core.checkpoints import (
    CheckpointError,
    fields_of,
    fitted,
    read_json,
    read_weights,
    write_tensors,
)
from dtgan_core.config import check_fields
from dtgan_core.dataset import data_facts
from dtgan_core.files import sync_folder, write_json_atomic
from dtgan_core.hardware import autocast, describe, resolve_precision
from dtgan_core.loop import NonFiniteLossError
from dtgan_lab.data.dataset import Dataset

CARD_NAME, FORMAT = "card.json", 1
SHIFT = 1 / 16  # of the side, at most, to every side
SMOOTHING = 0.02  # of the labels
RARE = 4.0  # weight of a place with a defect among clean ones
AVERAGED = 0.04  # share of the steps over which weights are averaged; the mean is scored and kept
WARM_UP = 0.15  # share of the steps on which the learning rate goes up


@dataclass(frozen=True)
class ObserverConfig:
    """Sizes and training of an observer."""

    image_size: int = 64  # side of the square images, pixels
    channels: int = 1  # 1 (grey) or 3 (RGB)
    width: int = 16  # channels at full resolution; they double at every halving ...
    max_width: int = 96  # ... up to this many
    iterations: int = 1500  # training steps
    batch_size: int = 48  # images a step, every product x defect as often as any other
    lr: float = 3e-3  # highest learning rate of AdamW; one cycle up and down
    weight_decay: float = 0.05  # of AdamW

    def __post_init__(self) -> None:
        check_fields(self)
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 1 (grey) or 3 (colour)")

    @classmethod
    def of(cls, dataset: Dataset, image_size: int | None = None, **fields: Any) -> Self:
        """With the data set's channels, and its side in pixels unless another is given."""
        return cls(image_size or max(dataset.info.image_size), dataset.info.channels, **fields)


def conv(dim_in: int, dim_out: int, stride: int = 1, slope: float = 0.0) -> nn.Sequential:
    """3 x 3 convolution, batch norm and ReLU, leaky where `slope` is above 0."""
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
    )


# --- batches -------------------------------------------------------------------------------------


def cells_of(products: Tensor, defects: Tensor, kinds: int) -> list[list[int]]:
    """Numbers of the images of each product x defect that there is, of `kinds` defects."""
    cells = products * kinds + defects
    return [(cells == cell).nonzero().flatten().tolist() for cell in cells.unique()]


def balanced_index(
    cells: Sequence[Sequence[int]], count: int, generator: torch.Generator
) -> list[int]:
    """`count` images, every cell as often as any other give or take one, uniform inside a cell."""
    kinds = stratified(len(cells), count, generator)
    chances = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return [
        cells[kind][int(chance * len(cells[kind]))]
        for kind, chance in zip(kinds, chances, strict=True)
    ]


class BalancedDraws:
    """Draws in which every product x defect comes as often as any other.

    A draw is a function of (seed, step); rare cells are thereby oversampled.
    """

    def __init__(self, store: ImageStore, batch_size: int, seed: int, stream: str) -> None:
        self.store, self.batch_size, self.stream = store, batch_size, f"{seed}/{stream}"
        self.cells = cells_of(store.products, store.defects, len(store.defect_names))
        self.masks = store.masks()

    def draw(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Images of a step, their numbers in the store, and what draws all else of that step.

        Where the data has masks, the mask (0 or 1) is the last channel, to move with its image.
        """
        generator = step_generator(self.stream, step)
        chosen = balanced_index(self.cells, self.batch_size, generator)
        index = torch.tensor(chosen, device=self.store.device)
        x = self.store.to_float(index)
        if self.masks is not None:
            x = torch.cat([x, self.masks[index].float() / 255], dim=1)
        return x, index, generator

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images and masks of a draw (None where the data has none)."""
        return (x, None) if self.masks is None else (x[:, :-1], x[:, -1:])


def coin_flips(x: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images (N, ch, H, W) at random where allowed: bool (N, 2), horizontally, vertically."""
    coins = torch.rand((len(x), 2), generator=generator) < 0.5
    return flipped(x, coins.to(x.device) & allowed.to(x.device))


# --- learning ------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialisation and dropout from a seed; the global state is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def card_of(
    dataset: Dataset, config: Any, begin: float, device: torch.device | str
) -> dict[str, Any]:
    """What the card of an observer says of its training; `begin` is `time.perf_counter()` then."""
    return {
        "data": data_facts(dataset),
        "split": "train",
        "iterations": config.iterations,
        "seed": config.seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "hardware": describe(device, resolve_precision("auto", device)),
        "licence": "Apache-2.0 (weights); licence of the data above",
    }


def answers_of(network: nn.Module, x: Tensor, *more: Any) -> Any:
    """What a network says of images, in the precision of their device."""
    with autocast(resolve_precision("auto", x.device), x.device):
        return network(x.contiguous(memory_format=torch.channels_last), *more)


class Score(NamedTuple):
    """How good a state is on `val`: the share right, then the lower cost among equals."""

    right: float
    cost: float


def balanced_score(right: Tensor, cost: Tensor, store: ImageStore) -> Score:
    """The mean over products x defects of each one's own mean of N values."""
    kinds = cells_of(store.products.cpu(), store.defects.cpu(), len(store.defect_names))
    means = [
        torch.stack([values.float().cpu()[kind].mean() for kind in kinds]).mean()
        for values in (right, cost)
    ]
    return Score(*map(float, means))


class Fitted(NamedTuple):
    """What `fit` did: the state kept (of which step), its score, and the last loss."""

    iteration: int
    right: float
    last_loss: float


def fit(
    network: nn.Module,
    config: ObserverConfig,
    loss_of: Callable[[int], Tensor],
    score: Callable[[nn.Module], Score] | None = None,
    every: int = 0,
    averaged: bool = True,
    title: str = "observer",
    progress: bool = True,
) -> Fitted:
    """Train a network in place; it is left in evaluation mode, with the best state it had.

    `loss_of` gives the loss of a step, from 1 on. `score` looks at a state, after `every` so many
    steps; the best is kept, without it the last. `averaged` scores and keeps the running mean of
    the weights, as float16 holds it. NonFiniteLossError: the loss became NaN or infinite.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.iterations, pct_start=WARM_UP
    )
    decay = 1 - 1 / max(1.0, AVERAGED * config.iterations)
    ema = get_ema_multi_avg_fn(decay)
    mean = AveragedModel(network, multi_avg_fn=ema, use_buffers=True) if averaged else None
    shown: nn.Module = network if mean is None else mean.module
    best, found = (-1.0, 0.0), Fitted(0, -1.0, 0.0)
    kept: dict[str, Tensor] = {}
    bar = tqdm(range(1, config.iterations + 1), title, disable=None if progress else True)
    for step in bar:
        network.train()
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if mean is not None:
            mean.update_parameters(network)
        last = step == config.iterations
        if not last and (not every or step % every):
            continue
        if not math.isfinite(loss.item()):
            raise NonFiniteLossError(
                f"{title}: the loss of step {step} is {loss.item()}; lower the learning rate (now "
                f"{config.lr:g})"
            )
        right, cost = score(shown) if score is not None else (0.0, 0.0)
        bar.set_postfix(loss=f"{loss.item():.3f}", val=f"{right:.3f}")
        if (right, -cost) >= best:
            best, found = (right, -cost), Fitted(step, right, loss.item())
            kept = {name: v.detach().clone() for name, v in shown.state_dict().items()}
    network.load_state_dict(halves(kept) if averaged else kept)
    network.eval().requires_grad_(False)
    return found


def halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: numbers in float16."""
    return {name: v.half() if v.is_floating_point() else v for name, v in state.items()}


def wilson(right: int, count: int) -> dict[str, float]:
    """Share and its 95 % Wilson interval: keys n, right, low, high (shares, rounded to 1e-4)."""
    from scipy.stats import binomtest  # slow to load, and not every command needs it

    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    shares = {"right": right / count, "low": interval.low, "high": interval.high}
    return {"n": count} | {name: round(float(share), 4) for name, share in shares.items()}


# --- what was trained ----------------------------------------------------------------------------


class Observer:
    """A trained network in evaluation mode, the names of its labels, its card, and its folder."""

    what: ClassVar[str]
    weights_name: ClassVar[str]
    command: ClassVar[str]  # trains one
    card_type: ClassVar[Any]
    config_type: ClassVar[Any]
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    network: Any

    def __init__(
        self,
        network: Any,
        config: Any,
        products: tuple[str, ...],
        defects: tuple[str, ...],
        card: dict[str, Any],
    ) -> None:
        self.network, self.config, self.card = network, config, card
        self.products, self.defects = products, defects
        self.device = next(network.parameters()).device
        network.eval().requires_grad_(False)

    @staticmethod
    @abstractmethod
    def build(config: Any, card: dict[str, Any]) -> nn.Module:
        """The network that a card speaks of, untrained."""

    def save(self, folder: str | Path) -> None:
        """Write weights (float16), then card.json: a card means that all is there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / self.weights_name, halves(self.network.state_dict()))
        names = {"products": list(self.products), "defects": list(self.defects)}
        said = {"format": FORMAT, **names, "config": asdict(self.config)}
        write_json_atomic(folder / CARD_NAME, said | self.card)
        sync_folder(folder)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Self:
        """Load what `save` wrote; a CheckpointError names what is missing or damaged."""
        folder = Path(folder)
        path, weights = folder / CARD_NAME, folder / cls.weights_name
        if not path.is_file() or not weights.is_file():
            inside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
            raise CheckpointError(
                f"{folder}: found {inside or 'nothing'}, expected {CARD_NAME} and "
                f"{cls.weights_name} of {cls.what}; train one: {cls.command}"
            )
        remedy = f"train again: {cls.command}"
        card = read_json(path, cls.card_type, remedy)
        config = fields_of(card["config"], cls.config_type, path, "config", remedy)
        network = fitted(lambda: cls.build(config, card), read_weights(weights), weights)
        network.to(device=device, memory_format=cls.memory_format)  # type: ignore[call-overload]
        return cls(network, config, tuple(card["products"]), tuple(card["defects"]), card)
