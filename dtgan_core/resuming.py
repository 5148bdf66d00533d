"""What a run that goes on must have in common with what is there, and what becomes of its log."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dtgan_core.checkpoints import CheckpointError, read_json
from dtgan_core.files import typed, write_atomic

FOOTING = ("type", "threads", "precision", "kernels", "torch")  # what decides the last bits
SAME_DATA = ("manifest_sha256", "products", "defects")  # what a resumed run insists on


def require_same(path: Path, mine: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> None:
    """Refuse a run of another system, configuration or data; warn of other arithmetic.

    Args:
        path: its config.json.
        mine: what this run would write there (`Loop.describe`).
        read: makes a configuration of its JSON (`Experiment.from_json`).

    Raises:
        CheckpointError: naming the first field that differs.
    """
    saved = read_json(path)
    method = saved.get("method", "dtgan") if isinstance(saved, dict) else mine["method"]
    if method != mine["method"]:
        raise CheckpointError(
            f"{path}: found a run of {method}, expected {mine['method']}; resume with --method "
            f"{method} or choose another --out"
        )
    for part, keys in (("config", list(mine["config"])), ("data", SAME_DATA)):
        if not isinstance(saved, dict) or not isinstance(saved.get(part), dict):
            raise CheckpointError(
                f"{path}: found no {part}, expected that of a run; restore it from where it came, "
                "or choose another --out"
            )
        known = _as_now(saved[part], read) if part == "config" else saved[part]
        for key in keys:
            expected = json.loads(json.dumps(mine[part].get(key)))
            name, found, expected = _first_difference(f"{part}.{key}", known.get(key), expected)
            if found != expected:
                raise CheckpointError(
                    f"{path}: found {name} = {found!r:.200}, expected {expected!r:.200}; resume "
                    "with the same arguments or choose another --out"
                )
    _warn_of_other_footing(path.parent, saved.get("hardware"), mine["hardware"])


def _as_now(saved: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """A saved configuration with the fields that the kit has got since, at their defaults."""
    try:
        now: dict[str, Any] = read(saved).to_json()
    except ValueError:  # another version's: told field by field
        return saved
    return now


def _first_difference(name: str, found: Any, expected: Any) -> tuple[str, Any, Any]:
    """Name and values of the first field that differs, however deep it lies."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in dict.fromkeys([*expected, *found]):
            if found.get(key) != expected.get(key):
                return _first_difference(f"{name}.{key}", found.get(key), expected.get(key))
    return name, found, expected


def _warn_of_other_footing(run: Path, before: Any, now: dict[str, Any]) -> None:
    """Say when the run goes on in other arithmetic, and so not in the same bytes."""
    changed = [
        f"{name} was {before[name]} and is {now[name]}"
        for name in FOOTING
        if isinstance(before, dict) and name in before and before[name] != now[name]
    ]
    if changed:
        warnings.warn(
            f"{run}: the run goes on, but not in the same bytes: {', '.join(changed)}",
            stacklevel=4,
        )


def cut_log(path: Path, step_count: int) -> None:
    """Drop log lines that were written after a checkpoint, and what is no whole line.

    Args:
        path: log.jsonl of a run; it may be missing.
        step_count: iterations done at the checkpoint.
    """
    if not path.is_file():
        return
    *lines, _ = path.read_bytes().split(b"\n")  # the last one is empty, or cut off by a kill
    steps = [_step_of(line) for line in lines]
    if None in steps:
        warnings.warn(
            f"{path}: {steps.count(None)} damaged lines are left out; the training goes on",
            stacklevel=3,
        )
    kept = [
        line + b"\n"
        for line, step in zip(lines, steps, strict=True)
        if step is not None and step <= step_count
    ]
    write_atomic(path, b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The iteration of a line of the log; None where it is damaged."""
    try:
        return int(typed(json.loads(line), dict[str, float])["step"])
    except (ValueError, KeyError, RecursionError):
        return None
