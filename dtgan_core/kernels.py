"""Instance norm with its leaky ReLU: one kernel forward and one backward, compiled where possible.

Written with PyTorch's own operators a norm passes over its maps about ten times; compiled into one
loop each way it is some ten times as fast (`tests/test_kernels.py` holds the two equal).
Convolutions stay what they are, so little is compiled: some 25 s the first time, then kept on disk.

`use` chooses between "compiled", "eager" (the same formula, operator by operator) and "plain"
(`F.instance_norm`, the reference path of tests and benchmark).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Kernels = Literal["compiled", "eager", "plain"]

EPS = 1e-5  # added to every variance
WORTH_COMPILING = 1000  # iterations; at `laptop` they take minutes, compiling half of one

_in_use: Kernels = "eager"  # changed by `use` alone


@contextmanager
def use(kernels: Kernels) -> Iterator[None]:
    """Within, `norm_activate` works by these kernels."""
    global _in_use
    before, _in_use = _in_use, kernels
    try:
        yield
    finally:
        _in_use = before


def norm_activate(x: Tensor, scale: Tensor, shift: Tensor, slope: float = 1.0) -> Tensor:
    """Leaky ReLU of scale * (x - mean) / std + shift, mean and std over each map's pixels.

    x is (N, C, H, W), scale and shift (N, C, 1, 1), or (1, C, 1, 1) shared by the batch; a slope of
    1 leaves values as they are. The result has x's dtype and is differentiable once unless plain.
    """
    if _in_use == "plain":
        return _plain(x, scale, shift, slope)
    norm = _CompiledNorm if _in_use == "compiled" else _EagerNorm
    with torch.autocast(x.device.type, enabled=False):
        return norm.apply(x, scale, shift, slope)


def _plain(x: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    if scale.shape[0] == 1:  # shared by the batch, as in nn.InstanceNorm2d(affine=True)
        y = F.instance_norm(x, weight=scale.flatten(), bias=shift.flatten(), eps=EPS)
    else:
        y = F.instance_norm(x, eps=EPS) * scale + shift
    return y if slope == 1 else F.leaky_relu(y, slope)


def _sum_to(grad: Tensor, like: Tensor) -> Tensor:
    """A scale shared by the batch receives the batch's sum."""
    grad = grad if like.shape[0] == grad.shape[0] else grad.sum(0, keepdim=True)
    return grad.reshape(like.shape).to(like.dtype)


def _pixel_mean(x: Tensor) -> Tensor:
    """Mean over H and W of x (N, C, H, W) as (N, C, 1, 1): a product with a row of ones."""
    n, c, h, w = x.shape
    weights = x.new_full((1, 1, h * w), 1.0 / (h * w)).expand(n, 1, h * w)
    return torch.bmm(weights, _as_pixels(x)).reshape(n, c, 1, 1)


class _EagerNorm(torch.autograd.Function):
    """Two reductions forward and two backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
        scale, shift = scale.to(x.dtype), shift.to(x.dtype)
        centred = x - _pixel_mean(x)  # before squaring: E[x^2] - E[x]^2 would cancel in bfloat16
        inverse_std = torch.rsqrt(_pixel_mean(centred * centred) + EPS)
        y = torch.addcmul(shift, centred, scale * inverse_std)
        if slope != 1:
            F.leaky_relu_(y, slope)
        ctx.save_for_backward(centred, inverse_std, scale, y)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centred, inverse_std, scale, y = ctx.saved_tensors
        n, c, h, w = centred.shape
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        if ctx.slope != 1:
            grad = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        mean_grad = _pixel_mean(grad)
        mean_product = _pixel_mean(grad * centred)
        gain = scale * inverse_std
        # d/dx = gain * (g - mean(g) - centred / var * mean(g * centred))
        pull = -gain * inverse_std.square() * mean_product
        grad_x = torch.addcmul(-gain * mean_grad, centred, pull).addcmul_(grad, gain)
        grad_scale = mean_product * inverse_std * (h * w)
        grad_shift = mean_grad * (h * w)
        return grad_x, _sum_to(grad_scale, scale), _sum_to(grad_shift, scale), None


def forward_kernel(
    x: Tensor, scale: Tensor, shift: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm over pixels x (N, H W, C), statistics in float32; -> y, mean, 1 / std."""
    pixels = x.float()
    mean = pixels.mean(1, keepdim=True)  # (N, 1, C)
    inverse_std = torch.rsqrt((pixels - mean).square().mean(1, keepdim=True) + EPS)
    y = (pixels - mean) * (inverse_std * scale) + shift
    return torch.where(y > 0, y, slope * y).to(x.dtype), mean, inverse_std


def backward_kernel(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    scale: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (N, H W, C), and of scale and shift (N, 1, C), from that of y."""
    g = grad.float()
    g = torch.where(y > 0, g, slope * g)
    normal = (x.float() - mean) * inverse_std
    mean_grad, mean_product = g.mean(1, keepdim=True), (g * normal).mean(1, keepdim=True)
    grad_x = (scale * inverse_std) * (g - mean_grad - normal * mean_product)
    count = x.shape[1]
    return grad_x.to(x.dtype), mean_product * count, mean_grad * count


@cache
def compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Both kernels through `torch.compile`, for any shape."""
    return torch.compile(forward_kernel, dynamic=True), torch.compile(backward_kernel, dynamic=True)


def _as_pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C); a view in channels_last memory."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h * w, c)


def _as_maps(pixels: Tensor, like: Tensor) -> Tensor:
    n, c, h, w = like.shape
    return pixels.view(n, h, w, c).permute(0, 3, 1, 2)


class _CompiledNorm(torch.autograd.Function):
    """`_EagerNorm` by the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
        n, c = x.shape[:2]
        pixels = _as_pixels(x)
        # One layout for both kinds of scale, so that one kernel serves them.
        wide, offset = (
            t.float().reshape(-1, 1, c).repeat(n // len(t), 1, 1) for t in (scale, shift)
        )
        y, mean, inverse_std = compiled()[0](pixels, wide, offset, slope)
        ctx.save_for_backward(pixels, y, mean, inverse_std, wide, scale)
        ctx.slope = slope
        return _as_maps(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pixels, y, mean, inverse_std, wide, scale = ctx.saved_tensors
        grad_x, grad_scale, grad_shift = compiled()[1](
            _as_pixels(grads[0]), pixels, y, mean, inverse_std, wide, ctx.slope
        )
        found = _sum_to(grad_scale, scale), _sum_to(grad_shift, scale)
        return (_as_maps(grad_x, grads[0]), *found, None)


def resolve(wanted: str, iterations: int, device: torch.device) -> Kernels:
    """The kernels of a training run; "auto" compiles long runs where it can be done.

    ValueError: "compiled" was asked for and cannot be had; says why and what helps.
    """
    if wanted == "eager" or (wanted == "auto" and iterations < WORTH_COMPILING):
        return "eager"
    problem = why_not_compiled(device.type)
    if problem is None:
        return "compiled"
    if wanted == "compiled":
        raise ValueError(
            f"train.kernels is compiled, but torch.compile does not work here ({problem}); install "
            "a C++ compiler and Python's headers (Debian: g++ and python3-dev), or use eager"
        )
    return "eager"


@cache
def why_not_compiled(device: str = "cpu") -> str | None:
    """Try the compiled kernels on a small map: None if they work, else the reason in a line.

    On "cpu" they need a C++ compiler and Python's headers, on "cuda" Triton.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a GPU aloud
    x = torch.ones(2, 3, 4, 4, device=device, requires_grad=True)
    scale = torch.ones(2, 3, 1, 1, device=device)
    try:
        with use("compiled"):
            norm_activate(x, scale, scale, slope=0.2).sum().backward()
    except Exception as error:  # a missing compiler, header or library: each raises its own kind
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return None
