"""StyleGAN2, conditioned on the defect, with ADA or DiffAugment as a switch (`augment.kind`).

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, whose sections
and equations are meant below; the class enters as in Karras et al., "Training Generative
Adversarial Networks with Limited Data", NeurIPS 2020.

Written from the papers.  Ours or left out, for short runs on a processor: bilinear doubling and
average pooling instead of one resampling filter (doubling is the same filter but for the border),
no style mixing, no truncation, a smaller network.  Eager throughout; R1 and path length in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core import losses
from dtgan_core.batches import step_generator
from dtgan_core.config import TrainConfig
from dtgan_core.files import typed
from dtgan_lab.baselines.conditional import (
    ClassGenerator,
    ConditionalConfig,
    ConditionalGan,
    Draws,
    Logits,
    on_device,
)
from dtgan_lab.baselines.config import TINY_TRAINING, BaselineSizes, Terms, short_training

SMALLEST = 4  # side of the constant that G begins with, and of D's last map
GAIN = math.sqrt(2)  # keeps unit variance behind a leaky ReLU
GROUP = 4  # images that D's standard deviation is taken over


@dataclass(frozen=True)
class StyleGAN2Sizes(BaselineSizes):
    """Sizes of G and D; in the paper z and w are 512 long, with 8 layers between them."""

    latent_dim: int = 64
    style_dim: int = 64
    mapping_layers: int = 4


@dataclass(frozen=True)
class StyleGAN2Weights:
    """Weights of the penalties."""

    r1: float = 0.1  # gamma; 2e-4 * pixels / batch ("Limited Data", appendix C) at 64 px and 8
    path: float = 2.0  # of the path length (2 in the authors' runs)
    path_every: int = 4  # iterations between them (section 3.1, lazy; 4 in the paper)
    path_memory: float = 0.01  # share of a new length in the running mean a (0.01 in the paper)


@dataclass(frozen=True)
class StyleGAN2Config(ConditionalConfig):
    """A whole experiment with StyleGAN2."""

    model: StyleGAN2Sizes = field(default_factory=StyleGAN2Sizes)
    weights: StyleGAN2Weights = field(default_factory=StyleGAN2Weights)
    train: TrainConfig = field(default_factory=lambda: short_training(iterations=6320, lr=2e-3))


PRESETS = {
    "tiny": StyleGAN2Config(
        preset="tiny",
        model=StyleGAN2Sizes(image_size=32, width=8, max_width=16, latent_dim=16, style_dim=16),
        train=short_training(lr=2e-3, **TINY_TRAINING),
    ),
    "laptop": StyleGAN2Config(),
}


# --- layers with an equalised learning rate ------------------------------------------------------


class Linear(nn.Module):
    """Weights drawn from N(0, 1) and scaled where they are used (StyleGAN's equalised rate).

    It learns by the factor `lr` less than the others; `bias` is where the bias begins.
    """

    def __init__(self, dim_in: int, dim_out: int, lr: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_out, dim_in) / lr)
        self.bias = nn.Parameter(torch.full((dim_out,), bias / lr))
        self.scale, self.lr = lr / math.sqrt(dim_in), lr

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, dim_in) -> (N, dim_out)."""
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


class Conv(nn.Module):
    """A convolution with an equalised learning rate; `side` 1 or 3."""

    def __init__(self, dim_in: int, dim_out: int, side: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_out, dim_in, side, side))
        self.bias = nn.Parameter(torch.zeros(dim_out)) if bias else None
        self.scale, self.padding = 1 / math.sqrt(dim_in * side**2), side // 2

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, dim_in, H, W) -> (N, dim_out, H, W)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU at unit variance."""
    return F.leaky_relu(x, 0.2) * GAIN


def unit(z: Tensor) -> Tensor:
    """Every row at unit mean square."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def doubled(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2 H, 2 W), by the paper's filter [1, 3, 3, 1]: bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ModulatedConv(nn.Module):
    """Convolution whose weights a style scales, equations (1) and (3) of section 2.2.

    Scaling a weight's inputs is scaling the input, and (3) divides by a number an output channel:
    so one ordinary convolution serves the whole batch, where weights a sample would be grouped ones
    (slow on a processor). Before the image (3), `demodulate`, is left out.
    """

    def __init__(
        self, dim_in: int, dim_out: int, side: int, style_dim: int, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.conv = Conv(dim_in, dim_out, side, bias=False)
        self.affine = Linear(style_dim, dim_in, bias=1.0)  # styles begin at 1
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: (N, dim_in, H, W), w: (N, style_dim) -> (N, dim_out, H, W)."""
        s = self.affine(w)  # (N, in)
        h = self.conv(x * s[:, :, None, None])  # w' = s_i w, equation (1): (N, out, H, W)
        if not self.demodulate:
            return h
        squares = (self.conv.weight * self.conv.scale).square().sum(dim=(2, 3))  # (out, in)
        power = (s.float().square()[:, None] * squares).sum(dim=2)  # sum of w'^2: (N, out)
        return h * torch.rsqrt(power + 1e-8).to(h.dtype)[:, :, None, None]  # equation (3)


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU (Fig. 2d)."""

    def __init__(self, dim_in: int, dim_out: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(dim_in, dim_out, 3, style_dim)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(1, dim_out, 1, 1))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x: (N, dim_in, H, W), w: (N, style_dim), noise: (N, 1, H, W) -> (N, dim_out, H, W)."""
        h = self.conv(x, w)
        return activate(h + (self.noise_strength * noise + self.bias).to(h.dtype))


# --- networks ------------------------------------------------------------------------------------


class Mapping(nn.Module):
    """z and class to w: both at unit length, side by side, then fully connected layers."""

    def __init__(self, config: StyleGAN2Sizes) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(config.defects, config.latent_dim))
        first, width = 2 * config.latent_dim, config.style_dim
        self.layers = nn.ModuleList(
            Linear(first if layer == 0 else width, width, lr=0.01)  # StyleGAN: 100 times slower
            for layer in range(config.mapping_layers)
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z: (N, Z), y: (N,) classes -> w (N, style_dim)."""
        w = torch.cat([unit(z), unit(self.embed.index_select(0, y))], dim=1)  # (N, 2 Z)
        for layer in self.layers:
            w = activate(layer(w))
        return w


class Generator(ClassGenerator):
    """G: a constant grows under styles, images of all sizes add up (skip output, section 4.1)."""

    def __init__(self, config: StyleGAN2Sizes) -> None:
        super().__init__()
        self.config = config
        widths = config.widths(SMALLEST)[::-1]  # smallest map first
        style = config.style_dim
        self.mapping = Mapping(config)
        self.constant = nn.Parameter(torch.randn(1, widths[0], SMALLEST, SMALLEST))
        self.layers = nn.ModuleList([StyledLayer(widths[0], widths[0], style)])
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            self.layers += [StyledLayer(wide, narrow, style), StyledLayer(narrow, narrow, style)]
        self.to_image = nn.ModuleList(
            ModulatedConv(width, config.channels, 1, style, demodulate=False) for width in widths
        )
        self.bias = nn.Parameter(torch.zeros(1, config.channels, 1, 1))

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Z and a noise map for every layer."""
        z = torch.randn(count, self.config.latent_dim, generator=generator)
        sides = [SMALLEST << (number + 1) // 2 for number in range(len(self.layers))]
        return Draws(z, [torch.randn(count, 1, s, s, generator=generator) for s in sides])

    def forward(self, draws: Draws, y: Tensor) -> Tensor:
        """Draws of N images, y: (N,) classes -> (N, ch, H, W), about [-1, 1]."""
        return self.synthesise(self.mapping(draws.z, y), draws.noise)

    def synthesise(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """w: (N, style_dim), noise: a map a layer -> (N, ch, H, W)."""
        h = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        h = self.layers[0](h, w, noise[0])  # (N, C, 4, 4)
        image = self.to_image[0](h, w)
        for block, to_image in enumerate(self.to_image[1:]):
            first, second = 2 * block + 1, 2 * block + 2
            h = self.layers[first](doubled(h), w, noise[first])  # (N, C', 2 H, 2 W)
            h = self.layers[second](h, w, noise[second])
            image = doubled(image) + to_image(h, w)
        return image + self.bias


class ResidualBlock(nn.Module):
    """Two convolutions and a halving beside a skip, at unit variance (section 4.1, Fig. 7c)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv1 = Conv(dim_in, dim_in, 3)
        self.conv2 = Conv(dim_in, dim_out, 3)
        self.skip = Conv(dim_in, dim_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, dim_in, H, W) -> (N, dim_out, H / 2, W / 2)."""
        h = activate(self.conv1(x))
        h = activate(self.conv2(F.avg_pool2d(h, 2)))
        return (h + self.skip(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


def with_deviation(x: Tensor) -> Tensor:
    """One more channel: the mean standard deviation over groups of images (Progressive GAN).

    x is (N, C, H, W), where N is a multiple of a group, or one group.
    """
    n, c, height, width = x.shape
    groups = n // GROUP if n % GROUP == 0 else 1
    apart = x.float().reshape(-1, groups, c, height, width)  # (group, groups, C, H, W)
    spread = (apart.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (groups,)
    channel = spread.repeat(n // groups).view(n, 1, 1, 1).expand(n, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """D: residual network; the class enters as a projection of its last features."""

    def __init__(self, config: StyleGAN2Sizes) -> None:
        super().__init__()
        widths = config.widths(SMALLEST)
        deep = widths[-1]
        self.from_image = Conv(config.channels, widths[0], 1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(wide, deeper) for wide, deeper in zip(widths, widths[1:], strict=False))
        )
        self.conv = Conv(deep + 1, deep, 3)
        self.squeeze = Linear(deep * SMALLEST**2, deep)
        self.out = Linear(deep, deep)
        self.embed = nn.Parameter(torch.randn(config.defects, deep))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ch, H, W) in [-1, 1], y: (N,) classes -> (N,) logits."""
        h = self.blocks(activate(self.from_image(x)))  # (N, C, 4, 4)
        h = activate(self.conv(with_deviation(h)))
        h = self.out(activate(self.squeeze(h.flatten(1)))).float()  # (N, C)
        return (h * unit(self.embed.index_select(0, y))).sum(dim=1) / math.sqrt(h.shape[1])


# --- losses --------------------------------------------------------------------------------------


def path_lengths(images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T n|_2 of section 3.2, (N,): how far G moves when w does, in a random direction n.

    `images` (N, ch, H, W) were made from w (N, style_dim), which requires grad; `noise` is N(0, 1)
    of the images' shape.
    """
    pixels = images.shape[2] * images.shape[3]
    (grad,) = torch.autograd.grad((images * noise).sum() / math.sqrt(pixels), w, create_graph=True)
    return grad.square().sum(dim=1).sqrt()


class StyleGAN2(ConditionalGan[StyleGAN2Config]):
    """StyleGAN2 of one product, in the loop."""

    method, presets = "stylegan2", PRESETS
    generator, discriminator = Generator, Discriminator
    mean_length = 0.0  # a of section 3.2

    def d_terms(self, step: int, logits: Logits, x: Tensor, y: Tensor) -> Terms:
        """The logistic loss and lazy R1, on the images as D sees them."""
        terms: Terms = {"d_adv": (1.0, losses.adversarial_d(*logits))}
        every = self.config.train.r1_every
        if step % every == 0:
            x = x.detach().requires_grad_()
            terms["r1"] = (every * self.config.weights.r1, losses.r1(self.nets.D(x, y), x))
        return terms

    def g_terms(self, step: int, logits: Tensor, y: Tensor) -> Terms:
        """The non-saturating loss and lazy path length."""
        terms: Terms = {"g_adv": (1.0, losses.adversarial_g(logits))}
        weights = self.config.weights
        if weights.path and step % weights.path_every == 0:
            terms["path"] = (weights.path_every * weights.path, self._path_length(step, y))
        return terms

    def _path_length(self, step: int, y: Tensor) -> Tensor:
        """Equation (4): E(|J_w^T n| - a)^2, of half a batch as in the authors' runs."""
        G, half = self.nets.G, max(1, len(y) // 2)
        assert isinstance(G, Generator)
        random = step_generator(f"{self.config.train.seed}/path", step)
        draws = on_device(G.draw(half, random), self.device)
        w = G.mapping(draws.z, y[:half])
        images = G.synthesise(w, draws.noise)
        noise = torch.randn(images.shape, generator=random).to(self.device)
        lengths = path_lengths(images, w, noise)
        share = self.config.weights.path_memory
        self.mean_length += share * (float(lengths.detach().mean()) - self.mean_length)
        return (lengths - self.mean_length).square().mean()

    def state(self) -> dict[str, Any]:
        """ADA's state and the mean path length."""
        return {**super().state(), "mean_length": self.mean_length}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        super().restore(state)
        self.mean_length = typed(state.get("mean_length"), float, "mean_length")
