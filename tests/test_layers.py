import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core.kernels import norm_activate as instance_norm
from dtgan_core.layers import (
    SLOPE,
    AdaIN,
    InstanceNorm,
    PixelNoise,
    ResBlock,
    activate,
    fold,
    initialise,
    unfold,
)
from tests.core_fixtures import drawn


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0, 1000.0])
def test_instance_norm_in_bf16_does_not_cancel(mean):
    x = (drawn(2, 8, 16, 16) + mean).bfloat16()
    ones, zeros = torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    exact = F.instance_norm(x.double())
    error = (instance_norm(x, ones, zeros).double() - exact).abs().max()
    # The mean can be held to half a step of bf16, 2^-9 of it, in units of the map's own deviation
    # (1, or more where bf16 rounds the pixels themselves); the values to 2^-8 of about 4.
    deviation = float(x.double().std(dim=(2, 3)).min())
    assert error < 2**-9 * mean / deviation * 1.1 + 4 * 2**-7
    if mean >= 100:  # the shorter formula, E[x^2] - E[x]^2, in the same precision
        variance = (x * x).mean((2, 3), keepdim=True) - x.mean((2, 3), keepdim=True) ** 2
        naive = (x - x.mean((2, 3), keepdim=True)) * (variance.clamp(min=0) + 1e-5).rsqrt()
        assert (naive.double() - exact).abs().max() > 10 * error


def test_instance_norm_under_autocast_keeps_types():
    layer = InstanceNorm(4)
    conv = nn.Conv2d(2, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(conv(drawn(2, 2, 8, 8)))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    for weight in (layer.scale, layer.shift, conv.weight):
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()


def test_a_flat_map_becomes_the_shift_and_has_no_gradient():
    x = torch.full((1, 2, 4, 4), 5.0, requires_grad=True)
    shift = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1)
    y = instance_norm(x, torch.full((1, 2, 1, 1), 3.0), shift)
    assert torch.equal(y, shift.expand(1, 2, 4, 4))
    y.sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) < 1e-3


def test_instance_norm_is_torchs_as_a_layer_and_by_finite_differences():
    ours, theirs = InstanceNorm(6), nn.InstanceNorm2d(6, affine=True)
    with torch.no_grad():
        ours.scale.copy_(drawn(1, 6, 1, 1, seed=1))
        ours.shift.copy_(drawn(1, 6, 1, 1, seed=2))
        theirs.weight.copy_(ours.scale.flatten())
        theirs.bias.copy_(ours.shift.flatten())
    x = drawn(3, 6, 8, 8)
    assert relative_error(ours(x), theirs(x)) < 1e-5
    x = drawn(2, 3, 4, 4).double().requires_grad_()
    scale = drawn(2, 3, 1, 1, seed=1).double().requires_grad_()
    shift = drawn(2, 3, 1, 1, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(instance_norm, (x, scale, shift))


def test_adain_takes_scale_and_shift_from_the_style():
    layer = AdaIN(5, 4)
    initialise(layer)
    with torch.no_grad():
        layer.affine.bias.copy_(drawn(8, seed=9))
    x, s, weight = drawn(3, 4, 8, 8), drawn(3, 5, seed=1), drawn(3, 4, 8, 8, seed=2)

    def ours(x: Tensor, s: Tensor) -> Tensor:
        return layer(x, s)

    def theirs(x: Tensor, s: Tensor) -> Tensor:
        h = F.linear(s, layer.affine.weight, layer.affine.bias)
        scale, shift = h[:, :4, None, None], h[:, 4:, None, None]
        return F.instance_norm(x) * (1 + scale) + shift

    results = []
    for adain in (ours, theirs):
        leaves = [x.clone().requires_grad_(), s.clone().requires_grad_()]
        layer.zero_grad()
        y = adain(*leaves)
        (y * weight).sum().backward()
        found = [y, *(leaf.grad for leaf in (*leaves, layer.affine.weight, layer.affine.bias))]
        results.append([t.detach().clone() for t in found if t is not None])
    assert len(results[0]) == len(results[1]) == 5
    for found, expected in zip(*results, strict=True):
        assert relative_error(found, expected) < 1e-5


def test_adain_begins_gently_and_divides_the_scale_of_its_input_out():
    layer = AdaIN(400, 50)
    initialise(layer)
    assert float(layer.affine.weight.detach().std()) == pytest.approx(0.25 / 20, rel=0.05)
    assert float(layer.affine.bias.detach().abs().max()) == 0.0
    scale = layer.affine(drawn(64, 400)).detach()
    assert float(scale.std()) == pytest.approx(0.25, rel=0.1)
    # and divides the scale of its input out
    layer = AdaIN(3, 2)
    initialise(layer)
    x, s = drawn(2, 2, 16, 16), drawn(2, 3, seed=1)
    assert relative_error(layer(100 * x, s), layer(x, s)) < 1e-4


def pixel_order(channels: int) -> Tensor:
    """Where our channels (row, column, channel) stand among torch's (channel, row, column)."""
    return torch.arange(4 * channels).view(channels, 4).T.flatten()


def test_fold_and_unfold_are_torchs_pixel_shuffle_in_another_order():
    x = drawn(2, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    folded = fold(x)
    assert torch.equal(folded, F.pixel_unshuffle(x, 2)[:, pixel_order(3)])
    assert torch.equal(unfold(folded), x)
    assert unfold(folded).is_contiguous(memory_format=torch.channels_last)


def doubled(h: Tensor, mode: str) -> Tensor:
    return F.interpolate(h, scale_factor=2, mode=mode)


def halved(h: Tensor) -> Tensor:
    return F.avg_pool2d(h, 2)


RESAMPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "down": halved,
    "fold": halved,
    "up": lambda h: doubled(h, "nearest"),
    "smooth": lambda h: doubled(h, "bilinear"),
    "late": lambda h: doubled(h, "bilinear"),
    "unfold": lambda h: F.pixel_shuffle(h[:, pixel_order(5).argsort()], 2),  # a cell, four pixels
}


@pytest.mark.parametrize("resample", RESAMPLED)
def test_residual_block_is_the_plain_formula(resample):
    """(skip(x) + conv(lrelu(conv(lrelu(x))))) / sqrt 2, the skip convolved before resampling."""
    block, resampled = ResBlock(3, 5, "none", resample), RESAMPLED[resample]
    x = drawn(2, 3, 8, 8)
    assert block.skip is not None
    h, grows = F.leaky_relu(x, SLOPE), resample in ("up", "smooth")
    h = block.conv1(resampled(h)) if grows else resampled(block.conv1(h))
    if resample == "fold":  # the skip sees all four pixels of a cell, the other branch their mean
        straight = block.skip(F.pixel_unshuffle(x, 2)[:, pixel_order(3)])
    else:
        straight = resampled(block.skip(x))
    expected = (straight + block.conv2(F.leaky_relu(h, SLOPE))) / math.sqrt(2)
    assert relative_error(block(x), expected) < 1e-5


def test_residual_block_without_change_of_width_passes_its_input_on():
    block = ResBlock(4, 4, "none")
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
    x = drawn(1, 4, 8, 8)
    assert block.skip is None
    assert torch.allclose(block(x), x / math.sqrt(2))


def test_pixel_noise_by_hand():
    layer = PixelNoise(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0]).view(1, 2, 1, 1))
    x = torch.tensor([[[[1.0]], [[1.0]]], [[[0.0]], [[4.0]]]])  # two images, two channels
    noise = torch.tensor([[[[2.0]]], [[[-1.0]]]])
    # image 0: 1 + 0.5 * 2 = 2, 1 - 2 * 2 = -3; image 1: 0 + 0.5 * -1 = -0.5, 4 - 2 * -1 = 6
    assert layer(x, noise).flatten(1).tolist() == [[2.0, -3.0], [-0.5, 6.0]]
    assert float(PixelNoise(3).weight.detach().abs().min()) > 0, "it is heard from the start"


def test_initialise_is_he_with_zero_biases():
    conv, linear = nn.Conv2d(64, 64, 3), nn.Linear(500, 100)
    initialise(nn.Sequential(conv, linear))
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert float(linear.weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.05)
    assert conv.bias is not None
    assert conv.bias.count_nonzero() == linear.bias.count_nonzero() == 0
    assert activate(torch.tensor([-10.0, 10.0])).tolist() == [-2.0, 10.0]
