"""Fused Adam against its plain self, where memory formats could mix its moments up."""

from pathlib import Path

import torch
from torch import nn

from dtgan_core import checkpoints
from dtgan_core.checkpoints import read_tensors
from dtgan_core.loop import match_formats


def small_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 3))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def set_gradients(net: nn.Module, seed: int, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        grad = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 4:
            grad = grad.contiguous(memory_format=memory_format)
        weight.grad = grad


def adam(net: nn.Module, fused: bool) -> torch.optim.Adam:
    # beta1 > 0, so that both moments have something to mix up
    return torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.99), fused=fused)


def steps(
    net: nn.Module,
    optimiser: torch.optim.Adam,
    seeds: range,
    grads: torch.memory_format = torch.channels_last,
) -> None:
    for seed in seeds:
        set_gradients(net, seed, grads)
        before = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
        match_formats(optimiser)
        for old, weight in zip(before, net.parameters(), strict=True):
            assert weight.grad is not None and torch.equal(old, weight.grad)
            assert weight.grad.stride() == weight.stride()
        optimiser.step()


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in pairs)


def reloaded(fused: bool, tmp_path: Path) -> tuple[nn.Module, torch.optim.Adam]:
    """A net and its Adam as a resumed run has them: three steps, saved, read back."""
    net = small_net()
    optimiser = adam(net, fused=False)
    steps(net, optimiser, range(3))
    path = tmp_path / "optimisers.safetensors"
    checkpoints.write_tensors(path, checkpoints.optimiser_tensors(optimiser, "G"))
    again = adam(net, fused)
    checkpoints.load_optimiser(again, read_tensors(path), "G")
    return net, again


def test_fused_adam_equals_unfused_after_a_reload(tmp_path):
    plain, plain_adam = reloaded(False, tmp_path)
    fused, fused_adam = reloaded(True, tmp_path)
    assert largest_difference(plain, fused) == 0.0
    steps(plain, plain_adam, range(3, 6))
    steps(fused, fused_adam, range(3, 6))
    assert largest_difference(plain, fused) < 1e-6
    # and neither the same as before nor the same as a run that lost its moments
    fresh, _ = reloaded(False, tmp_path)
    steps(fresh, adam(fresh, False), range(3, 6))
    assert largest_difference(plain, fresh) > 1e-3


def test_fused_adam_equals_unfused_with_contiguous_gradients():
    plain, fused = small_net(), small_net()
    steps(plain, adam(plain, False), range(3), grads=torch.contiguous_format)
    steps(fused, adam(fused, True), range(3), grads=torch.contiguous_format)
    assert largest_difference(plain, fused) < 1e-6
