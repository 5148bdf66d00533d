"""The building blocks: norms, residual block, pixel noise, and what networks hand each other.

Every map is (N, C, H, W); convolutions are fastest on a CPU when maps lie in channels_last memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core import kernels

SLOPE = 0.2  # of every leaky ReLU


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with the slope used throughout."""
    return F.leaky_relu(x, SLOPE)


class InstanceNorm(nn.Module):
    """Instance norm with a learned scale and shift a channel (`nn.InstanceNorm2d(affine=True)`).

    `slope` is that of the leaky ReLU after it; 1 for none.
    """

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: (N, C, H, W) -> the same shape; s is not looked at."""
        return kernels.norm_activate(x, self.scale, self.shift, slope=self.slope)


class AdaIN(nn.Module):
    """Adaptive instance norm: the style gives every channel's scale and shift (section 3.1).

    `slope` is that of the leaky ReLU after it; 1 for none.
    """

    def __init__(self, style_dim: int, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.affine = nn.Linear(style_dim, 2 * channels)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x: (N, C, H, W), s: (N, S) -> (N, C, H, W)."""
        scale, shift = self.affine(s)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1) each
        return kernels.norm_activate(x, 1 + scale, shift, slope=self.slope)


class NoNorm(nn.Module):
    """No norm, the leaky ReLU alone (D, E, and G's background decoder)."""

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: any shape -> the same shape."""
        return activate(x)


def _norm(kind: str, channels: int, style_dim: int) -> nn.Module:
    """A norm with its leaky ReLU, which a fused kernel computes together."""
    if kind == "style":
        return AdaIN(style_dim, channels, SLOPE)
    return InstanceNorm(channels, SLOPE) if kind == "instance" else NoNorm()


def fold(x: Tensor) -> Tensor:
    """Put the pixels of every 2 x 2 cell side by side: (N, C, 2 H, 2 W) -> (N, 4 C, H, W).

    Channels of a pixel stay together (row, column, channel), so in channels_last memory this copies
    runs of 2 C numbers, where `F.pixel_unshuffle` copies single ones.
    """
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2 * c)
    return rows.transpose(2, 3).reshape(n, h // 2, w // 2, 4 * c).permute(0, 3, 1, 2)


def unfold(x: Tensor) -> Tensor:
    """Inverse of `fold`: (N, 4 C, H, W) -> (N, C, 2 H, 2 W)."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h, w, 2, c // 2).transpose(2, 3)
    return rows.reshape(n, 2 * h, 2 * w, c // 4).permute(0, 3, 1, 2)


def fold_by(x: Tensor, times: int) -> Tensor:
    """`fold` until a cell of `times` x `times` pixels lies in the channels (a power of 2)."""
    while times > 1:
        x, times = fold(x), times // 2
    return x


def unfold_by(x: Tensor, times: int) -> Tensor:
    """Inverse of `fold_by`."""
    while times > 1:
        x, times = unfold(x), times // 2
    return x


UP = {"up": "nearest", "smooth": "bilinear"}  # resample -> mode of interpolation
UP_SKIP = {**UP, "late": "bilinear"}


class ResBlock(nn.Module):
    """Pre-activation residual block of all four networks, at unit variance (sum / sqrt 2).

    Args:
        dim_in, dim_out: channels in and out.
        norm: "none" (D, E), "instance" (G's encoder and background decoder) or "style"
            (AdaIN, wherever a style acts).
        resample: "none"; "down" and "up" by 2, average pooling and nearest as in StarGAN v2;
            "smooth", bilinear up-sampling by 2; "late", the same after the first convolution, which
            then costs a quarter; or "fold" and "unfold" by 2, where the skip keeps
            all four pixels of a cell as channels and gives them back, so that fine texture has a
            way through.
        style_dim: length of s; needed for norm "style".
    """

    def __init__(
        self, dim_in: int, dim_out: int, norm: str, resample: str = "none", style_dim: int = 0
    ) -> None:
        super().__init__()
        self.resample = resample
        # StarGAN v2 widens in the second convolution where it encodes, in the first where a style
        # decodes; both orders keep the expensive layer at the smaller resolution or width.
        decodes = resample in (*UP_SKIP, "unfold") or norm == "style"
        middle = dim_out if decodes else dim_in
        conv1_out = 4 * middle if resample == "unfold" else middle
        skip_in = 4 * dim_in if resample == "fold" else dim_in
        skip_out = 4 * dim_out if resample == "unfold" else dim_out
        self.conv1 = nn.Conv2d(dim_in, conv1_out, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, dim_out, 3, padding=1)
        self.norm1, self.norm2 = (_norm(norm, width, style_dim) for width in (dim_in, middle))
        self.skip = nn.Conv2d(skip_in, skip_out, 1, bias=False) if skip_in != skip_out else None

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: (N, dim_in, H, W), s: (N, S) for norm "style" -> (N, dim_out, H', W')."""
        h = self.norm1(x, s)  # norm and leaky ReLU
        if self.resample in UP:
            h = F.interpolate(h, scale_factor=2, mode=UP[self.resample])
        h = self.conv1(h)
        if self.resample in ("down", "fold"):
            h = F.avg_pool2d(h, 2)
        elif self.resample == "unfold":
            h = unfold(h)
        elif self.resample == "late":
            h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = self.conv2(self.norm2(h, s))
        # A 1 x 1 convolution commutes with pooling and up-sampling: do it where the map is small.
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "fold":
            x = fold(x)
        if self.skip is not None:
            x = self.skip(x)
        if self.resample in UP_SKIP:
            x = F.interpolate(x, scale_factor=2, mode=UP_SKIP[self.resample])
        elif self.resample == "unfold":
            x = unfold(x)
        return (x + h) * math.sqrt(0.5)


class PixelNoise(nn.Module):
    """Adds a given noise map, scaled by a learned weight a channel (section 3.1; StyleGAN's)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Not zero as in StyleGAN: runs are short, and noise that starts silent stays silent.
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x: (N, C, H, W), noise: (N, 1, H, W) -> (N, C, H, W)."""
        return x + self.weight.to(x.dtype) * noise.to(x.dtype)


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions and linear layers, biases zero; AdaIN begins gently.

    Its scale is 1 and its shift 0, give or take a quarter of a unit-variance style.
    """
    for layer in module.modules():  # not of a sketch on `meta`: drawing it would load a compiler
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, AdaIN) and not layer.affine.weight.is_meta:
            nn.init.normal_(layer.affine.weight, std=0.25 / math.sqrt(layer.affine.in_features))


def begin_quietly(module: nn.Module, *outputs: nn.Conv2d | nn.Linear) -> None:
    """Quiet the residual branches of a fresh network, and its outputs."""
    branches = [block.conv2 for block in module.modules() if isinstance(block, ResBlock)]
    for weight in [layer.weight for layer in branches] + [layer.weight for layer in outputs]:
        weight.data.mul_(0.3)


class Features(NamedTuple):
    """What G's encoder sees: BG_G(x) (N, B, h, w) and FG_G(x) (N, C, h, w); C = 0 in (a)."""

    background: Tensor
    defect: Tensor


class Painted(NamedTuple):
    """An image that G made, (N, ch, H, W), about [-1, 1], not clipped; and its mask.

    The mask (N, 1, H, W) in [0, 1] is how far each pixel is the defect's; None where the blend has
    no masks.
    """

    image: Tensor
    mask: Tensor | None


class Guide(NamedTuple):
    """What a background gets: a defect map c (N, C, h, w), C = 0 in (a), and a style s (N, S)."""

    c: Tensor
    s: Tensor


def pick_domain(branches: Tensor, y: Tensor) -> Tensor:
    """Take branch y[n] of image n.  branches: (N, domains, ...), y: (N,) -> (N, ...)."""
    return branches[torch.arange(y.shape[0], device=y.device), y]


def pool(h: Tensor) -> Tensor:
    """Mean and maximum over the pixels of a map: (N, C, H, W) -> (N, 2 C)."""
    return torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)


def take(maps: Tensor, rows: Tensor) -> Tensor:
    """maps[rows], (N, C, H, W) by (K,), that stays in channels_last memory, forward and backward.

    By `index_select`: the gradient of a row that is taken twice is added up in order, where that of
    maps[rows] depends on which thread comes first, and so would the last bits of every weight.
    """
    return maps.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def take_each(maps: Tensor, count: int) -> Tensor:
    """Every map as often as `count` rows need it, image after image: (N, ...) -> (count, ...)."""
    copies = count // len(maps)
    if copies <= 1:
        return maps
    return take(maps, torch.arange(len(maps), device=maps.device).repeat_interleave(copies))


def waits(values: Tensor) -> bool:
    """Whether the host would have to wait for these values, as it would for those on a GPU.

    There shapes may not depend on them: all rows are computed, and those that do not count are
    weighed with 0.
    """
    return values.is_cuda


def rows_where(chosen: Tensor) -> Tensor:
    """Indices of the rows chosen, (N,) bool; of all rows where the host would have to wait."""
    if waits(chosen):
        return torch.arange(len(chosen), device=chosen.device)
    return chosen.nonzero().flatten()


def rows_with_defect(c: Tensor) -> Tensor:
    """Those of the maps that are not zero, at least one (so that weights always get a gradient)."""
    rows = rows_where((c != 0).flatten(1).any(dim=1))
    return rows if len(rows) else rows.new_zeros(1)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within, gradients flow through these modules but not into their weights, which learn else."""
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)
