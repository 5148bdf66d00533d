"""What a command line takes: one parser for all commands, types of options that know their range.

Everything wrong is told in one line (what was found, what is expected) before anything is loaded.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dtgan_core.config import RANGES, Config

if TYPE_CHECKING:
    import torch

    from dtgan_core.hardware import Workers

LONGEST_SHOWN = 80  # characters of a wrong value that a message repeats


class _Once(argparse.Action):
    """Stores a value of the type that `TYPES` has for its name; a second one is refused."""

    given = False

    def __init__(self, option_strings: Sequence[str], dest: str, **named: Any) -> None:
        named["type"] = named.get("type") or TYPES.get(dest, words)
        super().__init__(option_strings, dest, **named)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if self.given:
            raise argparse.ArgumentError(self, "found twice, expected once")
        self.given = True
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Reads one command line: no abbreviated options, none twice, errors of one line, status 2."""

    def __init__(self, **named: Any) -> None:
        """Take what `argparse.ArgumentParser` takes."""
        super().__init__(allow_abbrev=False, **named)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def error(self, message: str) -> NoReturn:
        """End the program."""
        told = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        self.exit(2, f"error: {told} ({self.prog} --help tells more)\n")


def _wrong(text: str, expected: str) -> argparse.ArgumentTypeError:
    found = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return argparse.ArgumentTypeError(f"found {found!r}, expected {expected}")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in ASCII digits, from `low` to `high`."""

    def convert(text: str) -> int:
        if not re.fullmatch("[+-]?[0-9]{1,30}", text) or not low <= int(text) <= high:
            raise _wrong(text, f"a whole number from {low} to {high}")
        return int(text)

    return convert


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`; not NaN."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or not re.fullmatch("[0-9.eE+-]+", text):
            raise _wrong(text, f"a number from {low:g} to {high:g}")
        return value

    return convert


def field(name: str) -> Callable[[str], int]:
    """A whole number in the range of the configurations' field `name`."""
    return whole(*map(int, RANGES[name]))


def words(text: str) -> str:
    """Text in one line that is not empty."""
    if not text.strip() or not text.isprintable():
        raise _wrong(text, "one line of text")
    return text


def path(text: str) -> Path:
    """A file or a folder, there already or not; never a device or a pipe, whose end may not come.

    An empty text, which Python takes for the folder that one is in, is refused.
    """
    try:
        text.encode()
        mode = os.stat(text).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # it may be made
    except (OSError, ValueError) as error:  # too long, not allowed, links in a circle; no text
        why = getattr(error, "strerror", None) or "no name of a file"
        raise _wrong(text, f"a path that can be used ({why})") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not text.strip():
        raise _wrong(text, "a file or a folder")
    return Path(text)


def file(text: str) -> Path:
    """A path that is no folder."""
    found = path(text)
    if found.is_dir():
        raise _wrong(text, "a file; it is a folder")
    return found


def folder(text: str) -> Path:
    """A path that is no file."""
    found = path(text)
    if found.is_file():
        raise _wrong(text, "a folder; it is a file")
    return found


def device_name(text: str) -> str:
    """What `device` takes, as it is written: for a machine that finds out what it has."""
    device(text)
    return text


def device(text: str) -> torch.device:
    """What "auto", "cpu", "cuda" or "cuda:N" stands for, if it is there."""
    import torch  # would slow the start of what asks for no device

    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", text):
        raise _wrong(text, "auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        text = "cuda" if there else "cpu"
    chosen = torch.device(text)
    if chosen.type == "cuda" and (chosen.index or 0) >= there:
        found = f"{there} CUDA devices, counted from 0" if there else "no CUDA device"
        raise argparse.ArgumentTypeError(f"{text}: found {found}; use --device cpu")
    return chosen


def share(device: torch.device) -> Workers:
    """This process among those that share the work, by RANK and WORLD_SIZE; they need not meet.

    On "cuda" it takes the GPU of LOCAL_RANK where there is one. ValueError: no such numbers.
    """
    import torch

    from dtgan_core.hardware import Workers

    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if world in ("", "1"):
        return Workers()
    if not rank.isdecimal() or not world.isdecimal() or int(rank) >= int(world):
        raise ValueError(
            f"found RANK={rank} and WORLD_SIZE={world} in the environment, expected the number of "
            "this process, from 0 on, and how many there are; set both, or neither"
        )
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Workers(int(rank), int(world))


def join(device: torch.device) -> Workers:
    """Join the processes that torchrun started, through NCCL on "cuda" and Gloo on "cpu"."""
    import torch.distributed as dist

    workers = share(device)
    if workers.world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return workers


#: Name of an option -> its type, in every command; that of others is `words`.
TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("data", "test", "checkpoint", "start_from"), folder),
    **dict.fromkeys(("judge", "run", "real", "fake", "cache", "out"), folder),
    **dict.fromkeys(("backgrounds", "references", "source"), path),
    **dict.fromkeys(("plan", "results", "mapping", "archive"), file),
    "batch": field("batch_size"),
    "image_size": field("image_size"),
    "iterations": field("iterations"),
    "seed": field("seed"),
    "device": device,
    **dict.fromkeys(("threads", "cpus_per_run"), whole(1, 1024)),
    "gpus_per_run": number(0, 1024),
    "seeds": whole(1, 1000),
    **dict.fromkeys(("count", "limit", "shard_size"), whole(1, 10**6)),
    "tries": whole(1, 10**7),
    "images_per_class": whole(1, 100_000),
    "rows": whole(1, 64),
    "repeats": whole(1, 1000),
    "min_confidence": number(0, 1),
    "min_copy_distance": number(0, 1000),
    **dict.fromkeys(("size", "crop", "crop_around_mask"), whole(1, 4096)),  # pixels
    "workers": whole(1, max(8, os.cpu_count() or 1)),  # each loads PyTorch
}


def parse_overrides(settings: list[str], known: Any = None) -> dict[str, dict[str, Any]]:
    """Turn "weights.cyc=2" and its like into {"weights": {"cyc": 2}}.

    `known` is a configuration of the kind they are for, by default DT-GAN's. ValueError: a setting
    is not GROUP.FIELD=VALUE with a known group and field.
    """
    known = Config() if known is None else known
    groups: dict[str, dict[str, Any]] = {
        item.name: {}
        for item in dataclasses.fields(known)
        if dataclasses.is_dataclass(getattr(known, item.name))
    }
    for setting in settings:
        name, equals, text = setting.partition("=")
        group, dot, key = name.partition(".")
        fields = dataclasses.asdict(getattr(known, group)) if group in groups else {}
        if not (equals and dot) or key not in fields:
            raise ValueError(
                f"--set {setting}: expected GROUP.FIELD=VALUE with GROUP one of "
                f"{', '.join(groups)} and a field of the configuration, such as train.lr=2e-4"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: too deep
            value = text
        kind = type(fields[key])
        if kind is float and type(value) is int and abs(value) < 10**300:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(
                f"--set {setting}: found {text[:80]!r}, expected {kind.__name__} for {key}"
            )
        if key in groups[group]:
            raise ValueError(f"--set {setting}: found {name} twice, expected once")
        groups[group][key] = value
    return groups
