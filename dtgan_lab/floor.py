"""The least time an iteration could take: its own convolutions and matrix products, each alone.

`Recorder` notes them while an iteration runs, `Floor` times every distinct one by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution, aten._convolution, aten.convolution_backward)
PRODUCTS = (*CONVOLUTIONS, aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, waiting for a GPU to be done."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def best_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Best time of a call, tried once unmeasured, then for about `seconds`, at least twice."""
    seconds_of(work, device)
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        times.append(seconds_of(work, device))
    return min(times)


def convolution_gflops(dtype: torch.dtype, device: torch.device, seconds: float = 4.0) -> float:
    """Best rate of a large 3x3 convolution, forward and backward, channels_last.

    Args:
        dtype: float32 or bfloat16.
        device: where.
        seconds: larger convolutions are tried while time is left.

    Returns:
        10^9 floating point operations a second.
    """
    best, begin = 0.0, time.perf_counter()
    for count, channels, side in ((2, 64, 64), (8, 64, 64), (8, 128, 64), (8, 256, 32)):
        if best and time.perf_counter() - begin > seconds:
            break
        x = torch.randn(count, channels, side, side, device=device, dtype=dtype)
        w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        where = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)

        def both(x: Tensor = x, w: Tensor = w, where: Any = where) -> None:
            out = aten.convolution(x, w, None, *where)
            aten.convolution_backward(out, x, w, None, *where, [True, True, False])

        flops = 3 * 2 * x.numel() * w.numel() / channels
        best = max(best, flops / 1e9 / best_seconds(both, device, seconds / 8))
    return best


@dataclass(frozen=True)
class Shape:
    """A tensor without its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def fill(self, device: torch.device) -> Tensor:
        """Random values in this shape; expanded dimensions are expanded again."""
        spans = zip(self.size, self.stride, strict=True)
        base = [1 if step == 0 else size for size, step in spans]
        values = torch.empty_strided(base, self.stride, dtype=self.dtype, device=device)
        return values.normal_().expand(self.size)

    def channels_last(self) -> Shape:
        """The same map in channels_last memory."""
        if len(self.size) != 4:
            return self
        _, c, h, w = self.size
        return Shape(self.size, (c * h * w, 1, w * c, c), self.dtype)


class Call(NamedTuple):
    """A call of an operator, its tensors by shape; lists as tuples, so that it can be a key."""

    operator: Any
    arguments: tuple[Any, ...]

    def bind(self, device: torch.device) -> Callable[[], object]:
        """The call on random tensors, ready to be timed."""
        arguments = [
            value.fill(device) if isinstance(value, Shape) else value for value in self.arguments
        ]
        return lambda: self.operator(*arguments)

    def layouts(self) -> Iterator[Call]:
        """This call and, for a convolution, the same in channels_last memory, if that differs."""
        yield self
        if self.operator.overloadpacket in CONVOLUTIONS:
            moved = [v.channels_last() if isinstance(v, Shape) else v for v in self.arguments]
            other = Call(self.operator, tuple(moved))
            if other != self:
                yield other


def is_pixel_sum(operator: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a product is `kernels.norm_activate`'s way to add up pixels: one row times maps."""
    return operator.overloadpacket is aten.bmm and arguments[0].shape[1] == 1


class Recorder(TorchDispatchMode):
    """Within, convolutions and matrix products are counted, the sums over pixels left out.

    Forward, backward and double backward, at the dtype that autocast chose.  PyTorch's own
    FlopCounterMode stops at the double backward of R1; its formulas are used here.

    Attributes:
        share: how much a call counts; to be set while recording.
        calls: how often each ran.
        flops: floating point operations of them all, as `torch.utils.flop_counter` counts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.share = 1.0
        self.calls: dict[Call, float] = {}
        self.flops = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in PRODUCTS and not is_pixel_sum(func, args):
            call = Call(func, tuple(map(_shape_of, args)))
            self.calls[call] = self.calls.get(call, 0.0) + self.share
            self.flops += self.share * flop_registry[func.overloadpacket](*args, out_val=out)
        return out


def _shape_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Shape(tuple(value.shape), value.stride(), value.dtype)
    return tuple(value) if isinstance(value, list) else value


class Floor:
    """The least time that the recorded products need, each one alone.

    Args:
        recorder: what an iteration calls.
        device: where to time it.
    """

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self.calls, self.device = recorder.calls, device
        self.best: dict[Call, float] = {}

    def improve(self) -> None:
        """Time every call again and keep the best."""
        for call in self.calls:
            for layout in call.layouts():
                with torch.no_grad():
                    seconds = best_seconds(layout.bind(self.device), self.device, 0.01)
                self.best[call] = min(seconds, self.best.get(call, math.inf))

    def seconds(self) -> float:
        """Best time of each distinct call, times how often an iteration makes it."""
        return sum(count * self.best[call] for call, count in self.calls.items())
