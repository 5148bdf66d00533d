"""What StyleGAN2 and BigGAN share: an iteration of a GAN that makes images of a class from nothing.

A class is a defect, Normal among them; a model knows one product. D learns first, from real images
and fakes of balanced classes, then G; both see augmented images alone, where augmentation is on
(Karras et al. 2020, Fig. 2; Zhao et al. 2020, equations (4) and (5)).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dtgan_core.batches import Batch, step_generator
from dtgan_core.hardware import autocast
from dtgan_core.layers import frozen
from dtgan_core.loop import Loop, adam, channels_last, seeded
from dtgan_lab.baselines.augment import Augmenter
from dtgan_lab.baselines.config import AugmentConfig, BaselineConfig, Terms, picture_of, weighted

SAMPLE_BATCH = 32
REAL_COLUMNS, FAKE_COLUMNS = 2, 6  # of the picture of samples


class Draws(NamedTuple):
    """What G makes images from."""

    z: Tensor  # (N, Z)
    noise: list[Tensor]  # (N, 1, side, side) each; none in BigGAN


class ClassGenerator(nn.Module):
    """G of a conditional GAN."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw what `count` images are made from, on the CPU."""

    @abstractmethod
    def forward(self, draws: Draws, y: Tensor) -> Tensor:
        """Draws of N images, y: (N,) classes -> (N, ch, H, W), about [-1, 1]."""

    def settle(self) -> None:
        """Get ready to make images, by the weights as they are."""
        self.eval()


class ClassNetworks(nn.Module):
    """G and D of a conditional GAN; D takes images and classes and returns (N,) logits."""

    def __init__(self, generator: ClassGenerator, discriminator: nn.Module) -> None:
        super().__init__()
        self.G = generator
        self.D = discriminator


@dataclass(frozen=True)
class ConditionalConfig(BaselineConfig):
    """Configuration of a conditional GAN."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)


ConfigT = TypeVar("ConfigT", bound=ConditionalConfig)
Logits = tuple[Tensor, Tensor]  # D's of real images and of fakes, (N,) each


class ConditionalGan(Loop[ConfigT, ClassNetworks]):
    """The iteration; a GAN adds its networks, losses and penalties."""

    exported = ("G",)
    generator: ClassVar[type[ClassGenerator]]  # of the model's sizes, as `discriminator`
    discriminator: ClassVar[type[nn.Module]]
    d_steps = 1  # of D for one of G

    def __init__(self, config: ConfigT, *arguments: Any, **named: Any) -> None:
        augment = config.augment
        self.augmenter = Augmenter(augment.kind, augment.target, augment.ramp)
        super().__init__(config, *arguments, **named)

    def build(self) -> ClassNetworks:
        """G and D."""
        model, (G, D) = self.config.model, (self.generator, self.discriminator)
        return seeded(
            lambda: ClassNetworks(G(model), D(model)), self.config.train.seed, self.device
        )

    def verdicts(self, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Logits:
        """D's logits of real images and of fakes, each by a call of its own."""
        return self.nets.D(real, y), self.nets.D(fake, y_fake)

    @abstractmethod
    def d_terms(self, step: int, logits: Logits, x: Tensor, y: Tensor) -> Terms:
        """D's losses of turn `step`, each with its weight.

        `logits` are those of `verdicts`; x (N, ch, H, W) the real images as D saw them, y (N,)
        their classes.
        """

    @abstractmethod
    def g_terms(self, step: int, logits: Tensor, y: Tensor) -> Terms:
        """G's losses, each with its weight: of D's logits (N,) of G's images of classes y (N,)."""

    def build_optimisers(self) -> dict[str, torch.optim.Adam]:
        """Adam for G and for D."""
        return {name: adam(getattr(self.nets, name), self.config.train) for name in ("G", "D")}

    # --- one iteration ---------------------------------------------------------------------------

    def step(self) -> dict[str, Tensor]:
        """D learns `d_steps` times, then G once."""
        terms: Terms = {}
        for turn in range(self.d_steps):
            terms |= self._teach_d(self.d_steps * self.step_count + turn)
        terms |= self._teach_g(self.step_count)
        self._advance()
        log = {name: value.detach() for name, (_, value) in terms.items()}
        if self.config.augment.kind == "ada":
            log["ada_p"] = torch.tensor(self.augmenter.p)
        return log

    def _teach_d(self, number: int) -> Terms:
        batch, random = self._draw(number, "d")
        with torch.no_grad(), autocast(self.precision, self.device):
            x_fake = self.nets.G(self._latents(random), batch.y_trg)
        real = self.augmenter(batch.x, random)
        fake = self.augmenter(x_fake.float(), random)
        with autocast(self.precision, self.device):
            logits = self.verdicts(real, batch.y, fake, batch.y_trg)
        terms = self.d_terms(number, logits, real, batch.y)
        self._learn(("D",), weighted(terms))
        self.augmenter.observe(logits[0])
        return terms

    def _teach_g(self, step: int) -> Terms:
        batch, random = self._draw(step, "g")
        with frozen(self.nets.D):
            with autocast(self.precision, self.device):
                x_fake = self.nets.G(self._latents(random), batch.y_trg)
            fake = self.augmenter(x_fake.float(), random)
            with autocast(self.precision, self.device):
                logits = self.nets.D(fake, batch.y_trg)
            terms = self.g_terms(step, logits, batch.y_trg)
            self._learn(("G",), weighted(terms))
        return terms

    def _draw(self, number: int, player: str) -> tuple[Batch, torch.Generator]:
        """Images and classes of a player's turn, and all its other chance."""
        batch = channels_last(self.sampler.draw(number))
        return batch, step_generator(f"{self.config.train.seed}/{player}", number)

    def _latents(self, random: torch.Generator) -> Draws:
        return on_device(self.nets.G.draw(self.config.train.batch_size, random), self.device)

    # --- the run ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """ADA's p and what it was about to be moved by."""
        return self.augmenter.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.augmenter.restore(state)

    def sample_picture(self) -> np.ndarray:
        """A row a defect: two real images, then what the averaged G makes."""
        G, store, tiles = self.ema.G, self.store, list[Tensor]()
        assert isinstance(G, ClassGenerator)
        G.settle()
        for y in range(len(store.defect_names)):
            found = (store.defects == y).nonzero().flatten()
            tiles.append(store.to_float(found[torch.arange(REAL_COLUMNS) % len(found)]))
            classes = torch.full((FAKE_COLUMNS,), y, device=store.device)
            tiles.append(sample(G, classes, self.config.train.seed, range(FAKE_COLUMNS)))
        return picture_of(torch.cat(tiles), REAL_COLUMNS + FAKE_COLUMNS)


def on_device(draws: Draws, device: torch.device) -> Draws:
    """The same draws on a device."""
    return Draws(draws.z.to(device), [level.to(device) for level in draws.noise])


def sample(G: ClassGenerator, y: Tensor, seed: int | str, indices: Iterable[int]) -> Tensor:
    """Images (N, ch, H, W) in [-1, 1] of the classes y; each a function of (seed, index) alone.

    G is settled (`ClassGenerator.settle`); `seed` may be the name of a stream.
    """
    draws = [G.draw(1, step_generator(f"{seed}/make", index)) for index in indices]
    z = torch.cat([z for z, _ in draws])
    noise = [torch.cat(level) for level in zip(*(n for _, n in draws), strict=True)]
    with torch.inference_mode():
        images = G(on_device(Draws(z, noise), y.device), y)  # (N, ch, H, W)
    return images.float().clamp(-1, 1).clone()
