"""BigGAN, conditioned on the defect, with DiffAugment or ADA as a switch (`augment.kind`).

Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
ICLR 2019, whose sections and figures are meant below.

Written from the paper.  Ours or left out, for short runs on a processor: a smaller network and
batch, one step size for G and D, no truncation of z.  Norms at sampling use standing statistics
(section 4 and appendix B), taken from the weights when a model gets ready to make images: so an
export holds weights alone, and float16 costs no statistic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dtgan_core.batches import step_generator
from dtgan_core.config import TrainConfig
from dtgan_lab.baselines.conditional import (
    ClassGenerator,
    ClassNetworks,
    ConditionalConfig,
    ConditionalGan,
    Draws,
    Logits,
    on_device,
)
from dtgan_lab.baselines.config import TINY_TRAINING, BaselineSizes, Terms, short_training

SMALLEST = 4  # side of G's first map and of D's last
STANDING_BATCHES, STANDING_SIZE = 16, 48  # images that standing statistics are taken from


@dataclass(frozen=True)
class BigGANSizes(BaselineSizes):
    """Sizes of G and D."""

    chunk: int = 16  # length of the part of z that each block gets (20 in the paper)
    class_dim: int = 32  # of the class embedding that all blocks share (128 in the paper)
    # Side of the maps that look at themselves, in G and D; 0 for none (half the image's side in
    # the paper).
    attention_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = [0, *(SMALLEST << number for number in range(1, self.blocks))]
        if self.attention_size not in sides:
            raise ValueError(f"attention_size is {self.attention_size}; expected of {sides}")

    @property
    def blocks(self) -> int:
        """Blocks that double or halve a map."""
        return self.image_size.bit_length() - SMALLEST.bit_length()

    @property
    def latent_dim(self) -> int:
        """Length of z: a part for the first map and one a block."""
        return self.chunk * (1 + self.blocks)


@dataclass(frozen=True)
class BigGANWeights:
    """Beta of G's orthogonal regularisation (1e-4, section 3.1), and D's steps for one of G."""

    orthogonal: float = 1e-4
    d_steps: int = 2


@dataclass(frozen=True)
class BigGANConfig(ConditionalConfig):
    """A whole experiment with BigGAN."""

    model: BigGANSizes = field(default_factory=BigGANSizes)
    weights: BigGANWeights = field(default_factory=BigGANWeights)
    train: TrainConfig = field(
        default_factory=lambda: short_training(iterations=6600, lr=2e-4, beta2=0.999)
    )


PRESETS = {
    "tiny": BigGANConfig(
        preset="tiny",
        model=BigGANSizes(
            image_size=32, width=8, max_width=16, chunk=8, class_dim=8, attention_size=16
        ),
        train=short_training(lr=2e-4, beta2=0.999, **TINY_TRAINING),
    ),
    "laptop": BigGANConfig(),
}


# --- layers --------------------------------------------------------------------------------------


def conv(dim_in: int, dim_out: int, side: int, bias: bool = True) -> nn.Module:
    """A spectrally normalised convolution of the same size, orthogonal at the start."""
    layer = nn.Conv2d(dim_in, dim_out, side, padding=side // 2, bias=bias)
    return _normalised(layer)


def linear(dim_in: int, dim_out: int, bias: bool = True) -> nn.Module:
    """The same of a fully connected layer."""
    return _normalised(nn.Linear(dim_in, dim_out, bias=bias))


def _normalised(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


class ClassNorm(nn.Module):
    """Batch norm whose gains and biases come from class and z (Fig. 15b), or are learned.

    In training by the batch, otherwise by standing statistics, which `take_statistics` gathers.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.affine: nn.Module | None = None
        if condition:
            self.affine = linear(condition, 2 * channels, bias=False)
        else:
            self.scale_shift = nn.Parameter(torch.zeros(1, 2 * channels))
        self.gathered: list[tuple[Tensor, Tensor]] | None = None
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("variance", torch.ones(channels), persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (N, C, H, W), condition: (N, D) -> (N, C, H, W)."""
        affine = self.affine(condition) if self.affine is not None else self.scale_shift
        scale, shift = affine.to(x.dtype)[:, :, None, None].chunk(2, dim=1)  # (N or 1, C, 1, 1)
        if self.gathered is not None:
            pixels = x.float().permute(0, 2, 3, 1).flatten(0, 2)  # torch.var_mean takes three times
            mean = pixels.mean(dim=0)
            self.gathered.append((mean, (pixels - mean).square().mean(dim=0)))
        by_batch = self.training or self.gathered is not None
        h = F.batch_norm(
            x, None if by_batch else self.mean, None if by_batch else self.variance, None, None,
            by_batch,
        )  # fmt: skip
        return torch.addcmul(shift, h, 1 + scale)


class Attention(nn.Module):
    """Self-attention with a gate that opens from 0 (Zhang et al. 2019, as BigGAN takes it)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (conv(channels, channels // 8, 1, bias=False) for _ in range(2))
        self.value = conv(channels, channels // 2, 1, bias=False)
        self.out = conv(channels // 2, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        query = self.query(x).flatten(2)  # (N, C / 8, H W)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (N, C / 8, H W / 4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (N, C / 2, H W / 4)
        share = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (N, H W, H W / 4)
        seen = (value @ share.transpose(1, 2)).unflatten(2, x.shape[2:])  # (N, C / 2, H, W)
        return x + self.gate.to(x.dtype) * self.out(seen)


class UpBlock(nn.Module):
    """G's residual block (Fig. 15b): norms by class and z, doubling in the first convolution."""

    def __init__(self, dim_in: int, dim_out: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ClassNorm(dim_in, condition), ClassNorm(dim_out, condition)
        self.conv1, self.conv2 = conv(dim_in, dim_out, 3), conv(dim_out, dim_out, 3)
        self.skip = conv(dim_in, dim_out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (N, dim_in, H, W), condition: (N, D) -> (N, dim_out, 2 H, 2 W)."""
        h = F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2, mode="nearest")
        h = self.conv2(F.relu(self.norm2(self.conv1(h), condition)))
        return h + F.interpolate(self.skip(x), scale_factor=2, mode="nearest")


class DownBlock(nn.Module):
    """D's residual block (Fig. 15c); the first of D takes the image as it is."""

    def __init__(self, dim_in: int, dim_out: int, first: bool, down: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(dim_in, dim_out, 3), conv(dim_out, dim_out, 3)
        self.skip = conv(dim_in, dim_out, 1)
        self.first, self.down = first, down

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, dim_in, H, W) -> (N, dim_out, H', W')."""
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        if not self.down:
            return h + self.skip(x)
        return F.avg_pool2d(h, 2) + self.skip(F.avg_pool2d(x, 2))


# --- networks ------------------------------------------------------------------------------------


class Generator(ClassGenerator):
    """G: z in parts, one a block, each beside the shared class embedding (Fig. 15a)."""

    def __init__(self, config: BigGANSizes) -> None:
        super().__init__()
        self.config = config
        widths = config.widths(SMALLEST)[::-1]  # smallest map first
        condition = config.chunk + config.class_dim
        self.embed = nn.Parameter(torch.randn(config.defects, config.class_dim))
        self.begin = linear(config.chunk, widths[0] * SMALLEST**2)
        self.blocks = nn.ModuleList(
            UpBlock(wide, narrow, condition)
            for wide, narrow in zip(widths[:-1], widths[1:], strict=True)
        )
        sides = [SMALLEST << number for number in range(1, len(widths))]
        self.attention = nn.ModuleDict(
            {
                str(block): Attention(widths[block + 1])
                for block, side in enumerate(sides)
                if side == config.attention_size
            }
        )
        self.norm = ClassNorm(widths[-1], 0)
        self.to_image = conv(widths[-1], config.channels, 3)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw z alone."""
        return Draws(torch.randn(count, self.config.latent_dim, generator=generator), [])

    def forward(self, draws: Draws, y: Tensor) -> Tensor:
        """What N images are made from, y: (N,) classes -> (N, ch, H, W) in [-1, 1]."""
        first, *parts = draws.z.split(self.config.chunk, dim=1)
        shared = self.embed.index_select(0, y)  # (N, class_dim)
        h = self.begin(first).view(len(first), SMALLEST, SMALLEST, -1).permute(0, 3, 1, 2)
        for number, (block, part) in enumerate(zip(self.blocks, parts, strict=True)):
            h = block(h, torch.cat([shared, part], dim=1))  # (N, C', 2 H, 2 W)
            if str(number) in self.attention:
                h = self.attention[str(number)](h)
        return torch.tanh(self.to_image(F.relu(self.norm(h, shared))))

    def settle(self) -> None:
        """Take standing statistics of the weights as they are, then sample by them."""
        self.eval()
        take_statistics(self)


class Discriminator(nn.Module):
    """D: residual network and the projection of its features on the class (Miyato, Koyama 2018)."""

    def __init__(self, config: BigGANSizes) -> None:
        super().__init__()
        widths = [config.channels, *config.widths(SMALLEST)[:-1]]
        halved = [
            DownBlock(wide, deeper, first=number == 0, down=True)
            for number, (wide, deeper) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        layers: list[nn.Module] = []
        for number, block in enumerate(halved, start=1):
            layers.append(block)
            if config.image_size >> number == config.attention_size:
                layers.append(Attention(widths[number]))
        deep = widths[-1]
        self.trunk = nn.Sequential(*layers, DownBlock(deep, deep, first=False, down=False))
        self.out = linear(deep, 1)
        self.embed = linear(config.defects, deep, bias=False)  # of the class as a unit vector

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ch, H, W) in [-1, 1], y: (N,) classes -> (N,) logits."""
        h = F.relu(self.trunk(x)).sum(dim=(2, 3))  # (N, C)
        vectors = F.one_hot(y, self.embed.in_features).to(h.dtype)  # type: ignore[arg-type]
        return self.out(h).float().flatten() + (self.embed(vectors).float() * h.float()).sum(dim=1)


@torch.no_grad()
def take_statistics(G: Generator) -> None:
    """Standing statistics: means over many batches of balanced classes, by the weights as they are.

    The same weights give the same statistics; the power iteration of the spectral norm rests.
    """
    norms = [module for module in G.modules() if isinstance(module, ClassNorm)]
    for norm in norms:
        norm.gathered = []
    device = G.embed.device
    y = (torch.arange(STANDING_SIZE) % G.config.defects).to(device)
    for number in range(STANDING_BATCHES):
        draws = G.draw(STANDING_SIZE, step_generator("standing statistics", number))
        G(on_device(draws, device), y)
    for norm in norms:
        assert norm.gathered is not None
        means, variances = zip(*norm.gathered, strict=True)
        norm.mean.copy_(torch.stack(means).mean(dim=0))
        norm.variance.copy_(torch.stack(variances).mean(dim=0))
        norm.gathered = None


# --- losses --------------------------------------------------------------------------------------


def hinge_d(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """D's hinge loss: E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]; (N,) logits each."""
    return F.relu(1 - real_logit).mean() + F.relu(1 + fake_logit).mean()


def hinge_g(fake_logit: Tensor) -> Tensor:
    """G's side of it: -E[D(G(z))]."""
    return -fake_logit.mean()


def orthogonality(G: nn.Module) -> Tensor:
    """Equation (3): sum over weights of |W^T W * (1 - I)|_F^2, a filter or unit a column of W.

    The diagonal of W^T W holds the columns' squared lengths; all of it has the norm of W W^T, of
    which the smaller of the two is computed.
    """
    terms = []
    for name, weight in G.named_parameters():
        if name.endswith("weight.original"):  # of a normalised layer; embeddings are left out
            columns = weight.flatten(1)  # W^T: (out, in * k * k)
            tall = len(columns) > columns.shape[1]
            gram = columns.T @ columns if tall else columns @ columns.T
            lengths = columns.square().sum(dim=1)
            terms.append(gram.square().sum() - lengths.square().sum())
    return torch.stack(terms).sum()


class BigGAN(ConditionalGan[BigGANConfig]):
    """BigGAN of one product, in the loop."""

    method, presets = "biggan", PRESETS
    generator, discriminator = Generator, Discriminator

    def build(self) -> ClassNetworks:
        """G and D, which learns more often."""
        self.d_steps = self.config.weights.d_steps
        return super().build()

    def verdicts(self, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Logits:
        """D's logits by one call: an image's does not depend on the others."""
        logits = self.nets.D(torch.cat([real, fake]), torch.cat([y, y_fake]))
        return logits[: len(y)], logits[len(y) :]

    def d_terms(self, step: int, logits: Logits, x: Tensor, y: Tensor) -> Terms:
        """The hinge loss."""
        return {"d_adv": (1.0, hinge_d(*logits))}

    def g_terms(self, step: int, logits: Tensor, y: Tensor) -> Terms:
        """The hinge loss and orthogonal regularisation."""
        terms: Terms = {"g_adv": (1.0, hinge_g(logits))}
        if self.config.weights.orthogonal:
            terms["orthogonal"] = (self.config.weights.orthogonal, orthogonality(self.nets.G))
        return terms
