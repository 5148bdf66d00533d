"""The machine: its processor, the precision to train in, and several processes on one batch.

Every process draws the same global batch and latents, works on its own slice, and the gradients are
averaged before each optimiser step.  So the number of processes changes the speed and not the
experiment.  They are averaged here, flattened, and not by `DistributedDataParallel`: its reducer
wants one forward a backward, while a step here shares the fakes' graph between both players.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@cache
def _processor() -> dict[str, str]:
    """What Linux says of its first processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    return _processor().get("model name") or platform.processor() or platform.machine()


def native_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 natively (elsewhere bf16 is slower than fp32)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool({"avx512_bf16", "amx_bf16"} & {*_processor().get("flags", "").split()})


def resolve_precision(wanted: str, device: torch.device | str = "cpu") -> str:
    """Either "bf16" or "fp32", for a wish of `TrainConfig.precision`."""
    return wanted if wanted != "auto" else "bf16" if native_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """Autocast to bfloat16, or nothing for "fp32"."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def describe(device: torch.device | str, precision: str) -> dict[str, Any]:
    """Hardware and software of a run, for its card."""
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "type": device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "torch": torch.__version__,
    }


def require_memory(needed: int, device: torch.device | str, what: str, lower: str) -> None:
    """Refuse `what` takes so many bytes that no such device has them: ValueError."""
    if torch.device(device).type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"{what} would take {needed / 2**30:.1f} GiB of memory or more, found "
            f"{there / 2**30:.1f} GiB on {device}; lower {lower}"
        )


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back to the system.

    A training step frees and asks for the same gigabyte again and again; by default each round
    costs some 6,000 page faults (12 ms of a laptop iteration). Other C libraries have no switch.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


@dataclass(frozen=True)
class Workers:
    """This process is number `rank`, 0 for the one that writes files, of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes logs, samples and checkpoints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the group of processes."""
        if self.world > 1:
            dist.destroy_process_group()

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Average tensors over all processes, in place, in one exchange."""
        present = [tensor for tensor in tensors if tensor is not None]
        if self.world == 1 or not present:
            return
        flat = torch.cat([tensor.detach().float().reshape(-1) for tensor in present])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, values in zip(present, flat.split([t.numel() for t in present]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def shard_pairs(values: Tensor, workers: Workers) -> Tensor:
    """This process's share of (2 B, ...) values that hold first draws, then second draws."""
    first, second = values.chunk(2)
    return torch.cat([half[workers.rank :: workers.world] for half in (first, second)])
