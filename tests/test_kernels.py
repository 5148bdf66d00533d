from typing import Any

import pytest
import torch
from torch import Tensor

from dtgan_core import kernels
from dtgan_core.kernels import Kernels
from dtgan_core.training import Trainer
from dtgan_lab.cli.commands import kernel_hints
from tests.core_fixtures import drawn, tiny_config, tiny_store

# As text it is asked when such a test begins: importing this file compiles nothing.
needs_compiler = pytest.mark.skipif("kernels.why_not_compiled()", reason="nothing compiles here")


def problem(
    shape: tuple[int, ...] = (5, 6, 8, 8), shared: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = (2 * drawn(*shape) + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    of_channels = (1 if shared else shape[0], shape[1], 1, 1)
    scale, shift = 1 + 0.5 * drawn(*of_channels, seed=1), drawn(*of_channels, seed=2)
    return x, scale, shift, drawn(*shape, seed=3).to(dtype)


def worked(how: Kernels, slope: float, x: Tensor, *others: Tensor) -> list[Tensor]:
    scale, shift, grad = others
    leaves = [t.clone().requires_grad_() for t in (x, scale, shift)]
    with kernels.use(how):
        y = kernels.norm_activate(leaves[0], leaves[1], leaves[2], slope)
        y.backward(grad)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=needs_compiler)])
@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("shared", [True, False], ids=["a shared scale", "a scale an image"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 8, 16, 16), (3, 5, 4, 8)])
def test_every_kernel_is_torchs_norm(how, shape, layout, shared, slope):
    x, *others = problem(shape, shared)
    x = x.contiguous(memory_format=layout)
    found, expected = worked(how, slope, x, *others), worked("plain", slope, x, *others)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.parametrize(
    ("how", "tolerance"), [("eager", 2**-4), pytest.param("compiled", 2**-6, marks=needs_compiler)]
)
def test_in_bf16_kernels_stay_within_its_rounding(how, tolerance):
    """Compiled kernels add up in float32, so they come closer than bf16's own operators."""
    arguments = problem(dtype=torch.bfloat16)
    exact = worked("plain", 0.2, *(t.double() for t in arguments))
    for ours, theirs in zip(worked(how, 0.2, *arguments), exact, strict=True):
        assert float((ours.double() - theirs).norm()) <= tolerance * float(theirs.norm())


@needs_compiler
def test_compiled_kernels_give_the_same_bytes_every_time():
    arguments = problem(dtype=torch.bfloat16)
    first, again = (worked("compiled", 0.2, *arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_short_runs_are_not_compiled():
    cpu = torch.device("cpu")
    assert kernels.resolve("auto", kernels.WORTH_COMPILING - 1, cpu) == "eager"
    assert kernels.resolve("eager", 10**6, cpu) == "eager"


def test_without_a_compiler_auto_falls_back_and_compiled_says_what_helps(monkeypatch):
    def none_found(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nmore lines")

    kernels.why_not_compiled.cache_clear()
    monkeypatch.setattr(kernels, "compiled", none_found)
    try:
        cpu = torch.device("cpu")
        assert kernels.resolve("auto", 10**6, cpu) == "eager"
        with pytest.raises(ValueError, match=r"RuntimeError: No working C\+\+ compiler.*g\+\+"):
            kernels.resolve("compiled", 10**6, cpu)
    finally:
        kernels.why_not_compiled.cache_clear()


def test_a_long_run_without_kernels_says_why(monkeypatch):
    monkeypatch.setattr(kernels, "why_not_compiled", lambda device="cpu": "no C++ compiler")
    short, long = (
        Trainer(tiny_config(iterations=n), tiny_store()) for n in (10, kernels.WORTH_COMPILING)
    )
    assert (short.kernels, long.kernels) == ("eager", "eager")
    assert kernel_hints(short) == []
    assert "no C++ compiler" in kernel_hints(long)[0]
