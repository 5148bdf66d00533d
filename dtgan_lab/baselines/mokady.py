"""Mask-based content transfer: a defect is drawn as a layer with a mask, and laid over an image.

Mokady, Benaim, Wolf, Bermano, "Mask Based Unsupervised Content Transfer", ICLR 2020.

Domain A holds Normal images a of a product, domain B images b of it with a defect; a model knows
one such pair.  The common encoder E_c sees what both have, the separate encoder E_s what b has
more.  D_B decodes both into an image z with a mask m, and the defect of b on a is

    ab = m * z + (1 - m) * a,    z = D_B(E_c(a), E_s(b)),    m = D_m(E_s(b)).

The paper's equations were not at hand; the terms follow its description and the authors' published
implementation (MIT), read and written anew.  With its codes of 2 x 2 pixels no mask found a defect
of these data; what does (docs/baselines.md), ours: both codes have a quarter of the image's side,
errors are squared, z rebuilds b by itself, too, D_A learns from a alone, a start as plain
auto-encoders, a price on the mask that comes in slowly, and a mask that reads the separate code
alone, D_m (the paper's D_B draws it from both codes).  Group norm instead of batch norm, so that an
image depends on itself alone; no clipping of gradients; averaged weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core.config import TrainConfig
from dtgan_core.hardware import autocast
from dtgan_core.layers import SLOPE, activate, frozen
from dtgan_core.loop import Loop, adam, channels_last, seeded
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
    """Sizes of encoders and decoders; `width` is that of their blocks, at a quarter of the side."""

    defects: int = 2
    width: int = 64
    max_width: int = 64  # no block is wider
    common: int = 12  # channels of E_c: of the 16 pixels that a place stands for, not all
    separate: int = 6  # channels of E_s; few, so that little but the defect fits
    blocks: int = 2  # residual blocks of each encoder and decoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.defects != 2:
            raise ValueError(f"defects is {self.defects}; expected 2, the pair Normal and a defect")


@dataclass(frozen=True)
class MokadyWeights:
    """Weights of the terms, for squared errors."""

    recon1: float = 15.0  # of both plain reconstructions
    recon2: float = 9.0  # of both reconstructions onto the image itself, at the end
    own: float = 15.0  # of z, which is to be b by itself (ours)
    area: float = 0.1  # of what masks cover, at the end (ours)
    cycle_common: float = 1.0  # of what the encoders find again in ab, as the next
    cycle_separate: float = 0.2
    confusion: float = 0.05  # of domain confusion


@dataclass(frozen=True)
class MokadyConfig(BaselineConfig):
    """A whole experiment with mask-based content transfer."""

    model: MokadySizes = field(default_factory=MokadySizes)
    weights: MokadyWeights = field(default_factory=MokadyWeights)
    train: TrainConfig = field(default_factory=lambda: _training(iterations=4800, batch_size=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.batch_size % 2:
            raise ValueError(
                f"batch_size is {self.train.batch_size}; expected an even number, half of it Normal"
            )

    def weights_at(self, step: int) -> MokadyWeights | None:
        """The weights at a step; None in the first eighth of the run, that of auto-encoders.

        `recon2` rises from 3/16 of the run to its half: before z is good, the mask that meets it
        best is none.  `area` rises from the half to three quarters: all at once, it shuts masks of
        small defects for good, behind a sigmoid that has no slope left.
        """
        share = step / self.train.iterations
        if share < 1 / 8:
            return None
        risen = min(1.0, max(0.0, (share - 3 / 16) / (1 / 2 - 3 / 16)))
        priced = min(1.0, max(0.0, (share - 1 / 2) * 4))
        w = self.weights
        return replace(w, recon2=w.recon2 * risen, area=w.area * priced)

    def rate_at(self, step: int) -> float:
        """The step size at a step: it falls from five eighths of the run on, to a twentieth."""
        left = 1 - (step / self.train.iterations - 5 / 8) / (3 / 8)
        return self.train.lr * min(1.0, max(1 / 20, left))


def _training(**fields: float) -> TrainConfig:
    usual = {"lr": 1e-3, "beta1": 0.5, "beta2": 0.999, "ema_decay": 0.995}
    return short_training(**{**usual, **fields})


PRESETS = {
    "tiny": MokadyConfig(
        preset="tiny",
        model=MokadySizes(image_size=32, width=16, common=8, blocks=1),
        train=_training(**TINY_TRAINING),
    ),
    "laptop": MokadyConfig(),
}


# --- networks ------------------------------------------------------------------------------------

FOLD = 4  # pixels a side that become channels at the door


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Residual(nn.Module):
    """Two convolutions beside the identity, each behind a norm and a leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_norm(width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, h, w) -> the same shape."""
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(activate(norm(h)))
        return x + h


def _blocks(width: int, count: int, dim_in: int, dim_out: int) -> nn.Sequential:
    """Residual blocks between two convolutions."""
    return nn.Sequential(
        nn.Conv2d(dim_in, width, 3, padding=1),
        *(Residual(width) for _ in range(count)),
        _norm(width),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(width, dim_out, 3, padding=1),
    )


class Blocks(nn.Module):
    """Residual blocks, beside a linear map from channels to channels."""

    def __init__(self, config: MokadySizes, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.blocks = _blocks(config.width, config.blocks, dim_in, dim_out)
        self.linear = nn.Conv2d(dim_in, dim_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, dim_in, h, w) -> (N, dim_out, h, w)."""
        return self.blocks(x) + self.linear(x)


def encoder(config: MokadySizes, dim_out: int) -> nn.Module:
    """E_c or E_s: from an image (N, ch, H, W) to a code (N, dim_out, H / 4, W / 4)."""
    blocks = Blocks(config, config.channels * FOLD**2, dim_out)
    return nn.Sequential(nn.PixelUnshuffle(FOLD), blocks)


def decoder(config: MokadySizes) -> nn.Module:
    """D_A or D_B: from both codes (N, C + S, H / 4, W / 4) to an image (N, ch, H, W)."""
    blocks = Blocks(config, config.common + config.separate, config.channels * FOLD**2)
    return nn.Sequential(blocks, nn.PixelShuffle(FOLD))


class Layer(NamedTuple):
    """What D_B draws: an image and where it goes."""

    z: Tensor  # (N, ch, H, W) in [-1, 1]
    m: Tensor  # (N, 1, H, W) in [0, 1]

    def over(self, x: Tensor) -> Tensor:
        """Lay it over x: m * z + (1 - m) * x, in float32."""
        z, m = self.z.float(), self.m.float()
        return m * z + (1 - m) * x.float()


class Transfer(nn.Module):
    """The two encoders, the two decoders, and a third one for the mask (ours)."""

    def __init__(self, config: MokadySizes) -> None:
        super().__init__()
        self.E_c = encoder(config, config.common)
        self.E_s = encoder(config, config.separate)
        self.D_A, self.D_B = decoder(config), decoder(config)
        blocks = _blocks(3 * config.width // 4, 1, config.separate, FOLD**2)
        self.D_m = nn.Sequential(blocks, nn.PixelShuffle(FOLD))
        self.separate = config.separate

    def plain(self, common: Tensor) -> Tensor:
        """D_A(E_c(x), 0), the image without a defect: (N, ch, H, W) in [-1, 1]."""
        nothing = common.new_zeros(len(common), self.separate, *common.shape[2:])
        return torch.tanh(self.D_A(torch.cat([common, nothing], dim=1)))

    def layer(self, common: Tensor, separate: Tensor) -> Layer:
        """Both codes make z, D_B(E_c(x), E_s(b)), the separate one alone m, D_m(E_s(b)).

        A mask of both codes (the paper's) fades where b's defect is laid over another image.
        """
        z = self.D_B(torch.cat([common, separate.to(common.dtype)], dim=1))
        logits = F.avg_pool2d(self.D_m(separate), 3, 1, 1, count_include_pad=False)  # no grid
        return Layer(torch.tanh(z), torch.sigmoid(logits.float()))

    def forward(self, x: Tensor, x_ref: Tensor) -> Layer:
        """The defect of x_ref as it goes onto x; both (N, ch, H, W) in [-1, 1]."""
        return self.layer(self.E_c(x), self.E_s(x_ref))

    def removed(self, b: Tensor) -> Tensor:
        """Take the defect off b: what D_A makes of b, where the mask says."""
        common = self.E_c(b)
        _, m = self.layer(common, self.E_s(b))
        return Layer(self.plain(common), m).over(b)


class Confusion(nn.Module):
    """d: tells from a common code whether its image had a defect, anywhere."""

    def __init__(self, config: MokadySizes) -> None:
        super().__init__()
        wide, slope = 96, nn.LeakyReLU(SLOPE)
        first = nn.Conv2d(config.common, wide, 3, padding=1)
        second = nn.Conv2d(wide, wide, 3, padding=1)
        third = nn.Conv2d(wide, wide, 4, stride=2, padding=1)
        self.places = nn.Sequential(
            first, slope, second, _norm(wide), slope, third, _norm(wide), slope
        )
        self.out = nn.Linear(2 * wide, 1)

    def forward(self, common: Tensor) -> Tensor:
        """common: (N, C, h, w) -> (N,) logits that the image is of A."""
        found = self.places(common)
        return self.out(torch.cat([found.mean((2, 3)), found.amax((2, 3))], dim=1)).flatten()


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
    common = T.E_c(torch.cat([a, b]))  # (2 N, C, h, w)
    common_a, common_b = common[:n], common[n:]
    separate = T.E_s(b)  # (N, S, h, w)
    plain = T.plain(common)
    z, m = T.layer(  # of (a, b), (b, b) and (a, 0)
        torch.cat([common_a, common_b, common_a]),
        torch.cat([separate, separate, torch.zeros_like(separate)]),
    )
    of_ab, of_bb, of_a0 = (Layer(*parts) for parts in zip(z.chunk(3), m.chunk(3), strict=True))
    ab = of_ab.over(a)
    return {
        # L_Recon1: D_A rebuilds a; D_B lays the defect of b over what D_A makes of b. D_A is not to
        # learn defects from that (ours).
        "recon1_a": (weights.recon1, _mse(plain[:n], a)),
        "recon1_b": (weights.recon1, _mse(of_bb.over(plain[n:].detach()), b)),
        # L_Recon2: over the image itself, so that m is small wherever z adds nothing
        "recon2_a": (weights.recon2, _mse(of_a0.over(a), a)),
        "recon2_b": (weights.recon2, _mse(of_bb.over(b), b)),
        # Ours: where m is small z hears nothing of the four above, and m stays small.
        "own": (weights.own, _mse(of_bb.z, b)),
        # Ours: a z as good as the image itself meets L_Recon2 with any mask.
        "area": (weights.area, of_bb.m.mean()),
        # L_Cycle: ab has what a and b have in common with it
        "cycle_common": (weights.cycle_common, _mse(T.E_c(ab), common_a)),
        "cycle_separate": (weights.cycle_separate, _mse(T.E_s(ab), separate)),
        # L_DC: common codes of both domains look like those of A
        "confusion": (weights.confusion, 2 * F.softplus(-nets.confusion(common).float()).mean()),
    }


def first_terms(
    nets: MokadyNetworks, a: Tensor, b: Tensor, weights: MokadyWeights
) -> dict[str, tuple[float, Tensor]]:
    """The start (ours): D_A rebuilds a and z is b, two plain auto-encoders."""
    T = nets.transfer
    return {
        "recon1_a": (weights.recon1, _mse(T.plain(T.E_c(a)), a)),
        "own": (weights.own, _mse(T(b, b).z, b)),
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
        for optimiser in self.optimisers.values():
            optimiser.param_groups[0]["lr"] = self.config.rate_at(self.step_count)
        nets, batch = self.nets, channels_last(self.sampler.draw(self.step_count))
        normal = batch.y == self.config.model.anchor  # half of them: cells come evenly
        a, b = batch.x[normal], batch.x[~normal]
        with frozen(nets.confusion), autocast(self.precision, self.device):
            weights = self.config.weights_at(self.step_count)
            if weights is None:
                terms: Terms = first_terms(nets, a, b, self.config.weights)
            else:
                terms = transfer_terms(nets, a, b, weights)
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
