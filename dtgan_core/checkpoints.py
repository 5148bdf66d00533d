"""Checkpoints that survive a kill, and the small exports that travel with the notebooks.

    RUN/config.json                       the experiment and its data
    RUN/checkpoints/step-00001000/        networks, ema, optimisers (safetensors) and state.json
    RUN/checkpoints/latest                name of the newest whole folder, by os.replace
    EXPORT/ema.safetensors, card.json     what `Synthesizer.load` needs

A folder gets its name only when everything in it is on disk; the last two are kept.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dtgan_core.files import sync_folder, write_atomic, write_json_atomic

KEPT = 2
STEP_NAME = re.compile(r"step-(\d{8})$")


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or belongs to something else."""


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, contiguous and on the CPU, whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(plain))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: missing, truncated or not safetensors.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected a safetensors file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: found a damaged file ({error}); expected safetensors. "
            "Restore it from where it came, or train again"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; expected a folder written by `python -m dtgan_core train`"
        ) from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error


# --- optimisers ----------------------------------------------------------------------------------


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Adam's moments and step counts, named by prefix, parameter number and moment."""
    tensors = {}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{prefix}.{number}.{name}"] = value
    return tensors


def load_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Put moments back, each in the memory format of its parameter.

    Adam(fused=True) walks parameter, gradient and moments in memory order; moments that come
    contiguous from a file beside channels_last parameters would be silently mixed up.

    Raises:
        CheckpointError: a moment is missing or has another shape.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        names = [f"{prefix}.{number}.{name}" for name in ("step", "exp_avg", "exp_avg_sq")]
        if not any(name in tensors for name in names):
            continue  # this parameter has never been stepped
        for name, shape in zip(names, (torch.Size(), *2 * [parameter.shape]), strict=True):
            if name not in tensors or tensors[name].shape != shape:
                found = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise CheckpointError(
                    f"moments do not fit these networks: found {found} for {name}, "
                    f"expected {tuple(shape)}"
                )
        step, *moments = (tensors[name] for name in names)
        device = parameter.device if optimiser.defaults.get("fused") else "cpu"
        exp_avg, exp_avg_sq = (torch.empty_like(parameter).copy_(value) for value in moments)
        optimiser.state[parameter] = {
            "step": step.clone().to(device),
            "exp_avg": exp_avg,
            "exp_avg_sq": exp_avg_sq,
        }


def load_module(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a module's own memory (its format is kept).

    Raises:
        CheckpointError: names or shapes do not fit, with the first of them.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()  # below "Error(s) in loading state_dict"
        raise CheckpointError(f"{path}: weights do not fit these networks: {first}") from error


# --- step folders --------------------------------------------------------------------------------


def save_step(
    run: Path, step: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write RUN/checkpoints/step-NNNNNNNN, point `latest` at it, drop all but the last two.

    Args:
        run: folder of the run.
        step: iterations done.
        files: file stem -> tensors.
        state: what else must come back; stored as state.json.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}"
    working = folder / f".{name}.tmp"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    try:
        for stem, tensors in files.items():
            write_tensors(working / f"{stem}.safetensors", tensors)
        write_json_atomic(working / "state.json", {"step": step, **state})
        sync_folder(working)
    except OSError:  # half a checkpoint would only keep a full disk full
        shutil.rmtree(working, ignore_errors=True)
        raise
    if (folder / name).exists():
        shutil.rmtree(folder / name)  # only reached when a run writes a step anew after a resume
    os.rename(working, folder / name)
    write_atomic(folder / "latest", (name + "\n").encode())
    sync_folder(folder)
    for old in step_folders(run)[:-KEPT]:
        shutil.rmtree(old)
    return folder / name


def step_folders(run: Path) -> list[Path]:
    """Whole step folders of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if STEP_NAME.fullmatch(path.name))


def latest_step(run: Path) -> Path:
    """The newest whole step folder of a run.

    Raises:
        CheckpointError: the run has none.
    """
    pointer = run / "checkpoints" / "latest"
    if pointer.is_file():
        target = pointer.parent / pointer.read_text(encoding="utf-8").strip()
        if STEP_NAME.fullmatch(target.name) and (target / "state.json").is_file():
            return target
    folders = step_folders(run)  # the pointer was lost between a rename and its own write
    if not folders:
        raise CheckpointError(
            f"{run}: found no checkpoint to resume; expected {run}/checkpoints/latest. "
            "Start it without --resume"
        )
    return folders[-1]


# --- exports -------------------------------------------------------------------------------------

EXPORTED = ("G", "M", "E")


def make_card(facts: dict[str, Any], step: int, seconds: float) -> dict[str, Any]:
    """The card of an export: what config.json says, and how long the training was."""
    return {"format": 1, **facts, "iterations": step, "seconds": round(seconds, 1)}


def export_run(run: Path, folder: Path) -> None:
    """Export the newest checkpoint of a run, finished or not; the card says its iterations.

    Raises:
        CheckpointError: the run has no whole checkpoint.
    """
    step = latest_step(run)
    facts, state = read_json(run / "config.json"), read_json(step / "state.json")
    card = make_card(facts, int(state["step"]), float(state["seconds"]))
    write_export(folder, read_tensors(step / "ema.safetensors"), card)


def write_export(folder: Path, ema: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write the averaged G, M and E (as float16, half the size) and their card.

    The card is written last, so a folder with a card is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half() for name, value in ema.items()}
    write_tensors(folder / "ema.safetensors", half)
    write_json_atomic(folder / "card.json", card)
    sync_folder(folder)
