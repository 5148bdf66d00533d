"""Mask-based content transfer: a defect is drawn as a layer with a mask, and laid over an image.

Mokady, Benaim, Wolf, Bermano, "Mask Based Unsupervised Content Transfer", ICLR 2020.

Domain A holds Normal images a of a product, domain B images b of it with a defect; a model knows
one such pair.  The common encoder E_c sees what both have, the separate encoder E_s what b has
more.  D_B decodes both into an image z and a mask m, and the defect of b on a is

    ab = m * z + (1 - m) * a,    z, m = D_B(E_c(a), E_s(b)).

The paper's equations were not at hand; the terms follow its description and the authors' published
implementation (MIT), read and written anew.  Ours: group norm instead of batch norm, so that an
image depends on itself alone; smaller networks; no clipping of gradients; averaged weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core.config import TrainConfig
from dtgan_core.hardware import autocast
from dtgan_core.layers import activate, frozen, initialise
from dtgan_core.loop import Loop, adam, channels_last, seeded
from dtgan_core.losses import l1
from dtgan_lab.baselines.config import (
    TINY_TRAINING,
    BaselineConfig,
    BaselineSizes,
    Terms,
    picture_of,
    short_training,
    weighted,
)

SAMPLE_ROWS = 4


@dataclass(frozen=True)
class MokadySizes(BaselineSizes):
    """Sizes of encoders and decoders; `max_width` is also the number of common channels."""

    defects: int = 2
    width: int = 32
    max_width: int = 96
    separate: int = 24  # channels of E_s; few, so that little but the defect fits (authors: 25)
    hidden: int = 128  # width of the discriminator of common codes
    code: int = 2  # side of both codes; 2 in the authors' networks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in (2, 4, 8):
            raise ValueError(f"code is {self.code}; expected a side of 2, 4 or 8")
        if self.defects != 2:
            raise ValueError(f"defects is {self.defects}; expected 2, the pair Normal and a defect")


@dataclass(frozen=True)
class MokadyWeights:
    """Weights of the terms: the authors' defaults."""

    recon1: float = 5.0  # of both plain reconstructions
    recon2: float = 1.0  # of both reconstructions onto the image itself
    cycle_common: float = 1.0  # of what the encoders find again in ab, as the next
    cycle_separate: float = 1.0
    confusion: float = 0.005  # of domain confusion


@dataclass(frozen=True)
class MokadyConfig(BaselineConfig):
    """A whole experiment with mask-based content transfer."""

    model: MokadySizes = field(default_factory=MokadySizes)
    weights: MokadyWeights = field(default_factory=MokadyWeights)
    train: TrainConfig = field(default_factory=lambda: _training(iterations=4000, batch_size=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.batch_size % 2:
            raise ValueError(
                f"batch_size is {self.train.batch_size}; expected an even number, half of it Normal"
            )


def _training(**fields: float) -> TrainConfig:
    return short_training(**{"lr": 2e-4, "beta1": 0.5, "beta2": 0.999, **fields})


PRESETS = {
    "tiny": MokadyConfig(
        preset="tiny",
        model=MokadySizes(image_size=32, width=8, max_width=16, separate=8, hidden=16),
        train=_training(**TINY_TRAINING),
    ),
    # Of nine trials on two pairs none found the defect (docs/baselines.md).  A cycle of E_s makes
    # it the same for all images while ab is still a, so it is off; code and rate are larger.
    "laptop": MokadyConfig(
        model=MokadySizes(code=4),
        weights=MokadyWeights(cycle_separate=0.0),
        train=_training(iterations=3000, batch_size=16, lr=1e-3),
    ),
}


# --- networks ------------------------------------------------------------------------------------


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(8, channels), channels)


class Encoder(nn.Module):
    """E_c or E_s: halves an image down to a code of side c."""

    def __init__(self, config: MokadySizes, dim_out: int) -> None:
        super().__init__()
        widths = [config.channels, *config.widths(config.code)[:-2], dim_out]
        self.convs = nn.ModuleList(
            nn.Conv2d(wide, deeper, 4, stride=2, padding=1)
            for wide, deeper in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(_norm(width) for width in widths[1:])
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ch, H, W) -> (N, dim_out, c, c)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = activate(norm(conv(x)))
        return x


class Decoder(nn.Module):
    """D_A or D_B: doubles codes up to maps of the image's size."""

    def __init__(self, config: MokadySizes, dim_out: int) -> None:
        super().__init__()
        backwards = config.widths(config.code)[:-2][::-1]  # the widths of the encoders
        widths = [config.max_width + config.separate, *backwards, dim_out]
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)
            for wide, narrow in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList(_norm(width) for width in widths[1:-1])
        initialise(self)

    def forward(self, common: Tensor, separate: Tensor) -> Tensor:
        """common: (N, C, c, c), separate: (N, S, c, c) -> (N, dim_out, H, W)."""
        h = torch.cat([common, separate.to(common.dtype)], dim=1)  # (N, C + S, c, c)
        for conv, norm in zip(self.convs, self.norms, strict=False):
            h = activate(norm(conv(h)))
        return self.convs[-1](h)


class Layer(NamedTuple):
    """What D_B draws: an image and where it goes."""

    z: Tensor  # (N, ch, H, W) in [-1, 1]
    m: Tensor  # (N, 1, H, W) in [0, 1]

    def over(self, x: Tensor) -> Tensor:
        """Lay it over x: m * z + (1 - m) * x, in float32."""
        z, m = self.z.float(), self.m.float()
        return m * z + (1 - m) * x.float()


class Transfer(nn.Module):
    """The two encoders and the two decoders."""

    def __init__(self, config: MokadySizes) -> None:
        super().__init__()
        self.separate = config.separate
        self.E_c = Encoder(config, config.max_width)
        self.E_s = Encoder(config, config.separate)
        self.D_A = Decoder(config, config.channels)
        self.D_B = Decoder(config, config.channels + 1)

    def plain(self, common: Tensor) -> Tensor:
        """D_A(E_c(x), 0), the image without a defect: (N, ch, H, W) in [-1, 1]."""
        nothing = common.new_zeros(len(common), self.separate, *common.shape[2:])
        return torch.tanh(self.D_A(common, nothing))

    def layer(self, common: Tensor, separate: Tensor) -> Layer:
        """D_B(E_c(x), E_s(b))."""
        maps = self.D_B(common, separate)  # (N, ch + 1, H, W)
        return Layer(torch.tanh(maps[:, 1:]), torch.sigmoid(maps[:, :1]))

    def forward(self, x: Tensor, x_ref: Tensor) -> Layer:
        """The defect of x_ref as it goes onto x; both (N, ch, H, W) in [-1, 1]."""
        return self.layer(self.E_c(x), self.E_s(x_ref))

    def removed(self, b: Tensor) -> Tensor:
        """Take the defect off b: what D_A makes of b, where the mask says."""
        common = self.E_c(b)
        _, m = self.layer(common, self.E_s(b))
        return Layer(self.plain(common), m).over(b)


class Confusion(nn.Module):
    """d: tells from a common code whether its image had a defect."""

    def __init__(self, config: MokadySizes) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(config.max_width * config.code**2, config.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(config.hidden, 1),
        )
        initialise(self)

    def forward(self, common: Tensor) -> Tensor:
        """common: (N, C, c, c) -> (N,) logits that the image is of A."""
        return self.layers(common).flatten()


class MokadyNetworks(nn.Module):
    """All networks of one pair of domains."""

    def __init__(self, config: MokadySizes) -> None:
        super().__init__()
        self.transfer = Transfer(config)
        self.confusion = Confusion(config)


# --- losses --------------------------------------------------------------------------------------


def transfer_terms(
    nets: MokadyNetworks, a: Tensor, b: Tensor, weights: MokadyWeights
) -> dict[str, tuple[float, Tensor]]:
    """Every weighted term that encoders and decoders minimise; a is Normal, b has the defect."""
    T, n = nets.transfer, len(a)
    common = T.E_c(torch.cat([a, b]))  # (2 N, C, c, c)
    common_a, common_b = common[:n], common[n:]
    separate = T.E_s(b)  # (N, S, c, c)
    plain = T.plain(common)
    z, m = T.layer(  # of (a, b), (b, b) and (a, 0)
        torch.cat([common_a, common_b, common_a]),
        torch.cat([separate, separate, torch.zeros_like(separate)]),
    )
    of_ab, of_bb, of_a0 = (Layer(*parts) for parts in zip(z.chunk(3), m.chunk(3), strict=True))
    ab = of_ab.over(a)
    return {
        # L_Recon1: D_A rebuilds a; D_B lays the defect of b over what D_A makes of b
        "recon1_a": (weights.recon1, l1(plain[:n], a)),
        "recon1_b": (weights.recon1, l1(of_bb.over(plain[n:]), b)),
        # L_Recon2: over the image itself, so that m is small wherever z adds nothing
        "recon2_a": (weights.recon2, l1(of_a0.over(a), a)),
        "recon2_b": (weights.recon2, l1(of_bb.over(b), b)),
        # L_Cycle: ab has what a and b have in common with it
        "cycle_common": (weights.cycle_common, _mse(T.E_c(ab), common_a)),
        "cycle_separate": (weights.cycle_separate, _mse(T.E_s(ab), separate)),
        # L_DC: common codes of both domains look like those of A
        "confusion": (weights.confusion, 2 * F.softplus(-nets.confusion(common).float()).mean()),
    }


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().mean()


def confusion_loss(d_a: Tensor, d_b: Tensor) -> Tensor:
    """What d minimises: -E[log d(E_c(a))] - E[log(1 - d(E_c(b)))]; (N,) logits each."""
    return F.softplus(-d_a.float()).mean() + F.softplus(d_b.float()).mean()


class Mokady(Loop[MokadyConfig, MokadyNetworks]):
    """Content transfer of one product and one defect, in the loop."""

    method, presets = "mokady", PRESETS
    exported = ("transfer",)
    generator = Transfer

    def build(self) -> MokadyNetworks:
        """Encoders, decoders and d."""
        return seeded(
            lambda: MokadyNetworks(self.config.model), self.config.train.seed, self.device
        )

    def build_optimisers(self) -> dict[str, torch.optim.Adam]:
        """Adam for all encoders and decoders together, and for d."""
        names = ("transfer", "confusion")
        return {name: adam(getattr(self.nets, name), self.config.train) for name in names}

    def step(self) -> dict[str, Tensor]:
        """Encoders and decoders learn, then d from their codes."""
        nets, batch = self.nets, channels_last(self.sampler.draw(self.step_count))
        normal = batch.y == self.config.model.anchor  # half of them: cells come evenly
        a, b = batch.x[normal], batch.x[~normal]
        with frozen(nets.confusion), autocast(self.precision, self.device):
            terms: Terms = transfer_terms(nets, a, b, self.config.weights)
        self._learn(("transfer",), weighted(terms))
        with autocast(self.precision, self.device):
            with torch.no_grad():
                common = nets.transfer.E_c(torch.cat([a, b]))
            d_loss = confusion_loss(*nets.confusion(common).chunk(2))
        self._learn(("confusion",), d_loss)
        self._advance()
        return {
            **{name: value.detach() for name, (_, value) in terms.items()},
            "d": d_loss.detach(),
        }

    @torch.no_grad()
    def sample_picture(self) -> np.ndarray:
        """A row a pair: a, b, the defect of b on a, its mask, b without it."""
        transfer, store, pair = self.ema.transfer, self.store, list[Tensor]()
        assert isinstance(transfer, Transfer)
        for wanted in (store.defects == store.anchor, store.defects != store.anchor):
            found = wanted.nonzero().flatten()
            pair.append(store.to_float(found[torch.arange(SAMPLE_ROWS) % len(found)]))
        a, b = pair
        layer = transfer(a, b)
        mask = (2 * layer.m - 1).expand(-1, a.shape[1], -1, -1)
        columns = torch.stack([a, b, layer.over(a), mask, transfer.removed(b)], dim=1)
        return picture_of(columns.flatten(0, 1).clamp(-1, 1), columns.shape[1])
