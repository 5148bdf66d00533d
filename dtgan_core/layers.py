"""The building blocks: instance norm, AdaIN, residual block, pixel noise.

Every map is (N, C, H, W); convolutions are fastest on a CPU when maps lie in channels_last memory,
where the sum over a map's pixels is a product with a vector of ones.  `instance_norm` uses that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SLOPE = 0.2  # of every leaky ReLU


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with the slope used throughout."""
    return F.leaky_relu(x, SLOPE)


def _pixel_mean(x: Tensor) -> Tensor:
    """Mean over H and W of x (N, C, H, W) as (N, C, 1, 1), by one batched matrix product."""
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)  # a view in channels_last memory
    weights = x.new_full((1, 1, h * w), 1.0 / (h * w)).expand(n, 1, h * w)
    return torch.bmm(weights, pixels).reshape(n, c, 1, 1)


class _InstanceNorm(torch.autograd.Function):
    """scale * (x - mean) / std + shift with two reductions forward and two backward.

    The mean is taken off before squaring: E[x^2] - E[x]^2 would cancel in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = scale.to(x.dtype), shift.to(x.dtype)
            centred = x - _pixel_mean(x)
            inverse_std = torch.rsqrt(_pixel_mean(centred * centred) + eps)
            ctx.save_for_backward(centred, inverse_std, scale)
            return torch.addcmul(shift, centred, scale * inverse_std)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, inverse_std, scale = ctx.saved_tensors
        n, c, h, w = centred.shape
        with torch.autocast(centred.device.type, enabled=False):
            grad = grads[0].contiguous(memory_format=torch.channels_last)
            mean_grad = _pixel_mean(grad)
            mean_product = _pixel_mean(grad * centred)
            gain = scale * inverse_std
            # d/dx = gain * (g - mean(g) - centred / var * mean(g * centred))
            slope = -gain * inverse_std.square() * mean_product
            grad_x = torch.addcmul(-gain * mean_grad, centred, slope).addcmul_(grad, gain)
            grad_scale = mean_product * inverse_std * (h * w)
            grad_shift = mean_grad * (h * w)
        # A scale shared by the batch (affine instance norm) receives the batch's sum.
        return grad_x, _sum_to(grad_scale, scale), _sum_to(grad_shift, scale), None


def _sum_to(grad: Tensor, like: Tensor) -> Tensor:
    return grad if like.shape[0] == grad.shape[0] else grad.sum(0, keepdim=True)


def instance_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every map of x over its pixels, then scale and shift it.

    Args:
        x: (N, C, H, W).
        scale: (N, C, 1, 1), or (1, C, 1, 1) shared by the batch.
        shift: as scale.
        eps: added to the variance.

    Returns:
        (N, C, H, W) in x's dtype; differentiable once.
    """
    if _plain:
        return _plain_norm(x, scale, shift, eps)
    return _InstanceNorm.apply(x, scale, shift, eps)


_plain = False  # turned on by `plain_norms` alone


@contextmanager
def plain_norms() -> Iterator[None]:
    """Within, `instance_norm` is PyTorch's own: the reference path of tests and benchmark."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def _plain_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    if scale.shape[0] == 1:  # shared by the batch, as in nn.InstanceNorm2d(affine=True)
        return F.instance_norm(x, weight=scale.flatten(), bias=shift.flatten(), eps=eps)
    return F.instance_norm(x, eps=eps) * scale + shift


class InstanceNorm(nn.Module):
    """Instance norm with a learned scale and shift a channel (`nn.InstanceNorm2d(affine=True)`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: (N, C, H, W) -> the same shape; s is not looked at."""
        return instance_norm(x, self.scale, self.shift)


class AdaIN(nn.Module):
    """Adaptive instance norm: the style gives every channel's scale and shift (section 3.1)."""

    def __init__(self, style_dim: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)

    def initialise(self) -> None:
        """Begin gently, scale 1 and shift 0 give or take a quarter of a unit-variance style."""
        nn.init.normal_(self.affine.weight, std=0.25 / math.sqrt(self.affine.in_features))
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x: (N, C, H, W), s: (N, S) -> (N, C, H, W)."""
        scale, shift = self.affine(s)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1) each
        return instance_norm(x, 1 + scale, shift)


class NoNorm(nn.Module):
    """Leaves maps as they are (D and E)."""

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: any shape -> x."""
        return x


def _norm(kind: str, channels: int, style_dim: int) -> nn.Module:
    if kind == "style":
        return AdaIN(style_dim, channels)
    return InstanceNorm(channels) if kind == "instance" else NoNorm()


class ResBlock(nn.Module):
    """Pre-activation residual block of all four networks, at unit variance (sum / sqrt 2).

    Args:
        dim_in, dim_out: channels in and out.
        norm: "none" (D, E), "instance" (G's encoder and background decoder) or "style"
            (AdaIN, wherever a style acts).
        resample: "none", "down" (average pooling by 2), "up" (nearest by 2, as StarGAN v2) or
            "shuffle" (by 2 through `pixel_shuffle`: every cell says what its four pixels are, which
            brings textures back sooner in short runs).
        style_dim: length of s; needed for norm "style".
    """

    def __init__(
        self, dim_in: int, dim_out: int, norm: str, resample: str = "none", style_dim: int = 0
    ) -> None:
        super().__init__()
        self.resample = resample
        # StarGAN v2 widens in the second convolution where it encodes, in the first where a style
        # decodes; both orders keep the expensive layer at the smaller resolution or width.
        middle = dim_out if resample in ("up", "shuffle") or norm == "style" else dim_in
        cells = 4 if resample == "shuffle" else 1
        self.conv1 = nn.Conv2d(dim_in, cells * middle, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, dim_out, 3, padding=1)
        self.norm1, self.norm2 = (_norm(norm, width, style_dim) for width in (dim_in, middle))
        self.skip = (
            nn.Conv2d(dim_in, cells * dim_out, 1, bias=False) if dim_in != cells * dim_out else None
        )

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x: (N, dim_in, H, W), s: (N, S) for norm "style" -> (N, dim_out, H', W')."""
        h = activate(self.norm1(x, s))
        if self.resample == "up":
            h = F.interpolate(h, scale_factor=2, mode="nearest")
        h = self.conv1(h)
        if self.resample == "down":
            h = F.avg_pool2d(h, 2)
        elif self.resample == "shuffle":
            h = F.pixel_shuffle(h, 2)
        h = self.conv2(activate(self.norm2(h, s)))
        # A 1 x 1 convolution commutes with pooling and with nearest up-sampling: do it where the
        # map is small.
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        if self.skip is not None:
            x = self.skip(x)
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        elif self.resample == "shuffle":
            x = F.pixel_shuffle(x, 2)
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
    """He initialisation of convolutions and linear layers, biases zero; AdaIN begins gently."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, AdaIN):
            layer.initialise()
