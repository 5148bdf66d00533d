"""Checkpoints that survive a kill, and the small exports that travel with the notebooks.

    RUN/config.json                       the experiment and its data
    RUN/checkpoints/step-00001000/        networks, ema, optimisers (safetensors) and state.json,
                                          which holds the sha256 of them all
    RUN/checkpoints/latest                name of the newest whole folder, for people and scripts
    EXPORT/ema.safetensors, card.json     what `Synthesizer.load` needs

A folder gets its name only when everything in it is on disk; the last two are kept.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from typing_extensions import TypedDict

from dtgan_core import files
from dtgan_core.files import remove, sha256_of, sync_folder, write_atomic, write_json_atomic

KEPT = 2  # step folders
RESTORE = "restore the file from where it came, or make its folder again"
STEMS = ("networks", "ema", "optimisers")  # the tensors of a step folder
STEP_NAME = re.compile("step-([0-9]{8})")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class DataFacts(TypedDict, total=False):
    """What a card says of the data (`dataset.data_facts`); a model of a script may say less."""

    name: str
    licence: str
    citation: str
    manifest_sha256: str
    started_from: str  # sha256 of the weights that a training began with, where it had some


class CardData(DataFacts):
    """The same with the labels."""

    products: list[str]
    defects: list[str]


class Hardware(TypedDict):
    """What a card says of the machine."""

    device: str
    threads: int


class Facts(TypedDict):
    """config.json of a run."""

    method: NotRequired[str]
    config: dict[str, Any]
    data: CardData
    hardware: Hardware


class Card(Facts):
    """card.json of an export: the same, with what was trained until then."""

    iterations: int
    seconds: float


class State(TypedDict):
    """state.json of a step folder; what a system keeps of its own stands beside these."""

    step: int
    seconds: float
    log: NotRequired[dict[str, float]]
    sha256: NotRequired[dict[str, str]]


class Step(NamedTuple):
    """A whole checkpoint."""

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or belongs to something else."""


def damaged(path: Path, told: str) -> CheckpointError:
    """The error for what is not as it was written."""
    return CheckpointError(f"{path}: {told}; {RESTORE}")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as safetensors, contiguous and on the CPU; returns the file's hex sha256."""
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; CheckpointError: missing, damaged, or numbers not finite."""
    try:
        files.open_plain(path).close()  # safetensors would wait for ever at a pipe
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected a safetensors file") from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        told = f"found a damaged file ({files.shown(str(error))}); expected safetensors"
        raise damaged(path, told) from error
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise damaged(path, f"found numbers in {name!r} that are not finite, expected weights")
    return tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """The same with floating point numbers as float32, whatever half they were stored in."""
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_tensors(path).items()
    }


def read_json(path: Path, kind: Any = Any, remedy: str = RESTORE) -> Any:
    """Read a JSON file as the types of `kind` (see `files.typed`), or CheckpointError."""
    try:
        value = files.read_json(path)
    except FileNotFoundError as error:
        made = "a folder written by `python -m dtgan_core train`"
        raise CheckpointError(f"{path}: no such file; expected {made}") from error
    except ValueError as error:
        raise CheckpointError(f"{error}; {RESTORE}") from error
    return fields_of(value, kind, path, remedy=remedy)


def fields_of(value: Any, kind: Any, path: Path, name: str = "", remedy: str = RESTORE) -> Any:
    """What was read from a file, as a type, or CheckpointError; `name` is of its field."""
    try:
        return value if kind is Any else files.typed(value, kind, name)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; {remedy}") from error


def labels_of(
    data: CardData, products: int, defects: int, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of products and defects, as many as the networks tell apart, or a CheckpointError."""
    sides = ("products", data["products"], products), ("defects", data["defects"], defects)
    for part, names, count in sides:
        if len(names) != count or files.problems(names, files.Names):
            told = f"found data.{part} = {names!r:.80}, expected {count} different names"
            raise damaged(path, f"{told}, each a folder's, as config.model.{part} says")
    return tuple(data["products"]), tuple(data["defects"])


# --- optimisers ----------------------------------------------------------------------------------


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Adam's moments and step counts, named by prefix, parameter number and moment."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {
        f"{prefix}.{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Put moments back, each in the memory format of its parameter, if they fit.

    Adam(fused=True) walks parameter, gradient and moments in memory order; moments that come
    contiguous from a file beside channels_last parameters would be silently mixed up.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        like = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        like = {f"{prefix}.{number}.{name}": value for name, value in like.items()}
        found = {name: tensors[name] for name in like if name in tensors}
        if not found:
            continue  # this parameter has never been stepped
        _require_fit(like, found, "moments do not fit these networks")
        step, *moments = found.values()
        device = parameter.device if optimiser.defaults.get("fused") else "cpu"
        exp_avg, exp_avg_sq = (torch.empty_like(parameter).copy_(value) for value in moments)
        step = step.clone().to(device)
        optimiser.state[parameter] = dict(step=step, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)


def load_module(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a module's own memory (its format is kept), or CheckpointError."""
    _require_fit(module.state_dict(), tensors, f"{path}: weights do not fit these networks")
    module.load_state_dict(tensors)


def _require_fit(wanted: dict[str, Tensor], tensors: dict[str, Tensor], problem: str) -> None:
    for name in dict.fromkeys([*wanted, *tensors]):
        found, expected = _told(tensors.get(name)), _told(wanted.get(name))
        if found != expected:
            raise CheckpointError(f"{problem}: found {found} for {name!r}, expected {expected}")


def _told(value: Tensor | None) -> str:
    """Shape and kind of a tensor; float16 will do where float32 is expected."""
    if value is None:
        return "nothing"
    kind = "numbers" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{kind} of shape {tuple(value.shape)}"


def fitted(build: Callable[[], ModuleT], tensors: dict[str, Tensor], path: Path) -> ModuleT:
    """A network with these weights; it takes no memory before its sizes are seen to be theirs.

    CheckpointError: no network of its card's sizes can be, or names, shapes or types do not fit.
    """
    try:
        with torch.device("meta"):
            module = build()
    except (RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        told = f"its card tells of networks that cannot be ({error})"
        raise damaged(path.parent, told) from error
    _require_fit(module.state_dict(), tensors, f"{path}: weights do not fit these networks")
    module.to_empty(device="cpu")
    module.load_state_dict(tensors)
    return module


# --- step folders --------------------------------------------------------------------------------


def save_step(
    run: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write RUN/checkpoints/step-NNNNNNNN, point `latest` at it, drop all but the last two.

    Tensors are named by file stem; state.json holds `state` and the hashes of all files.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}"
    working = folder / f".{name}.tmp"
    files.clear_temporary(folder)  # of a kill
    working.mkdir()
    state = {"step": step, **state}
    hashes = {"state": _hash_of(state)}
    try:
        for stem, values in tensors.items():
            hashes[stem] = write_tensors(working / f"{stem}.safetensors", values)
        write_json_atomic(working / "state.json", {**state, "sha256": hashes})
        sync_folder(working)
    except OSError:  # half a checkpoint would only keep a full disk full
        shutil.rmtree(working, ignore_errors=True)
        raise
    remove(folder / name)  # there only when a run writes a step anew after a resume
    os.rename(working, folder / name)
    write_atomic(folder / "latest", (name + "\n").encode())
    sync_folder(folder)
    for old in step_folders(run)[:-KEPT]:
        shutil.rmtree(old.rename(folder / f".{old.name}.tmp"))  # a kill leaves no half of one
    return folder / name


def step_folders(run: Path) -> list[Path]:
    """Whole step folders of a run, oldest first."""
    folder = run / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    named = (path for path in found if STEP_NAME.fullmatch(path.name))
    return sorted(path for path in named if path.is_dir() and not path.is_symlink())


def newest_step(run: Path) -> Step:
    """The newest checkpoint of a run that is whole; those that are damaged are told and passed.

    The pointer `latest` is not asked: folders have their names only when they are whole.
    CheckpointError: the run has none, or none that is whole.
    """
    passed: list[str] = []
    for folder in reversed(step_folders(run)):
        try:
            found = read_step(folder)
        except CheckpointError as error:
            passed.append(str(error))
            continue
        for line in passed:
            warnings.warn(f"{line}. Goes on from {folder.name} instead", stacklevel=2)
        return found
    if passed:
        raise CheckpointError(
            f"{run}: found no whole checkpoint ({passed[0]}); remove {run}/checkpoints and start "
            "without --resume"
        )
    raise CheckpointError(
        f"{run}: found no checkpoint, expected {run}/checkpoints/step-...; start the training anew "
        "with the same command, without --resume"
    )


def read_step(folder: Path) -> Step:
    """Everything in a step folder, held against the hashes in its state.json (old ones have none).

    CheckpointError: something is missing, damaged, or of another checkpoint.
    """
    path = folder / "state.json"
    state = read_json(path, State)
    if folder.name != f"step-{state['step']:08d}":
        raise damaged(path, f"found step {state['step']}, expected that of {folder.name}")
    hashes = state.pop("sha256", None)
    if hashes is not None and hashes.pop("state", None) != _hash_of(state):
        raise damaged(path, "was changed since it was written")
    tensors = {}
    for stem in STEMS:
        file = folder / f"{stem}.safetensors"
        if hashes is not None and file.is_file() and sha256_of(file) != hashes.get(stem):
            raise damaged(file, "found a damaged file, its sha256 is not that in state.json")
        tensors[stem] = read_tensors(file)
    return Step(folder, state, tensors)


def _hash_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


# --- resuming ------------------------------------------------------------------------------------

FOOTING = ("type", "threads", "precision", "kernels", "torch")  # what decides the last bits
SAME_DATA = ("manifest_sha256", "products", "defects")  # what a resumed run insists on


def require_same(
    path: Path, mine: dict[str, Any], read: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Refuse a run of another system, configuration or data; warn of other arithmetic.

    `path` is its config.json, `mine` what this run would write there, `read` makes a configuration
    of its JSON. Returns what it says of its data. A CheckpointError names the first field that
    differs.
    """
    saved = read_json(path, Facts)
    with suppress(ValueError):  # with fields that the kit has got since, at their defaults
        saved["config"] = read(saved["config"]).to_json()
    runs = [
        {
            "method": facts.get("method", "dtgan"),
            "config": facts["config"],
            "data": {key: facts["data"].get(key) for key in SAME_DATA},
        }
        for facts in (saved, json.loads(json.dumps(mine)))
    ]
    name, found, expected = _first_difference("", *runs)
    if found != expected:
        raise CheckpointError(
            f"{path}: found {name} = {found!r:.200}, expected {expected!r:.200}; resume with the "
            "same arguments or choose another --out"
        )
    before, now = saved["hardware"], mine["hardware"]
    other = [name for name in FOOTING if name in before and before[name] != now[name]]
    if other:
        told = ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in other)
        told = f"{path.parent}: the run goes on, but not in the same bytes: {told}"
        warnings.warn(told, stacklevel=3)
    return dict(saved["data"])


def _first_difference(name: str, found: Any, expected: Any) -> tuple[str, Any, Any]:
    """Name and values of the first field that differs, however deep it lies."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in dict.fromkeys([*expected, *found]):
            if found.get(key) != expected.get(key):
                inner = f"{name}.{key}" if name else key
                return _first_difference(inner, found.get(key), expected.get(key))
    return name, found, expected


# --- exports -------------------------------------------------------------------------------------

EXPORTED = ("G", "M", "E")


def make_card(facts: dict[str, Any], step: int, seconds: float) -> dict[str, Any]:
    """The card of an export: what config.json says, and how long the training was."""
    return {"format": 1, **facts, "iterations": step, "seconds": round(seconds, 1)}


def write_export(folder: Path, ema: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write the averaged G, M and E (as float16, half the size) and their card.

    The card is written last, so a folder with a card is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half() for name, value in ema.items()}
    large = [name for name, value in half.items() if not bool(value.isfinite().all())]
    if large:
        raise CheckpointError(
            f"{folder}: found weights in {large[0]!r} beyond float16, expected some that an export "
            "can hold; the training has diverged, begin anew with a smaller step size"
        )
    write_tensors(folder / "ema.safetensors", half)
    write_json_atomic(folder / "card.json", card)
    sync_folder(folder)
