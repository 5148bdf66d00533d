"""What this machine can do: processor, native bfloat16, precision to train in."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the processor; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def native_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 natively (elsewhere bf16 is slower than fp32)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def resolve_precision(wanted: str, device: torch.device | str = "cpu") -> str:
    """Either "bf16" or "fp32", for a wish of "auto", "bf16" or "fp32".

    Raises:
        ValueError: any other wish.
    """
    if wanted not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision is {wanted!r}; expected auto, bf16 or fp32")
    if wanted == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return wanted


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


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory instead of handing it back to the system.

    A training step frees and asks for the same gigabyte again and again; with glibc's defaults each
    round costs some 6,000 page faults (12 ms of a laptop iteration).

    Returns:
        Whether the C library has the switch (glibc); elsewhere nothing changes.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    huge = 2**31 - 1
    return bool(libc.mallopt(mmap_threshold, 2**30)) and bool(libc.mallopt(trim_threshold, huge))
