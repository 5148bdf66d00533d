"""`study`: the runs of a plan, here or on a Ray cluster (`--ray ADDRESS`, or `local`).

Every machine has the kit installed, and reads and writes the same folders under the same paths.
A run is a task: Ray starts it where there is room, and again where a machine is lost; it goes on
from its newest checkpoint.  Rows are written here alone, in the order of the plan.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from dtgan_core.loop import NonFiniteLossError
from dtgan_lab.options import device
from dtgan_lab.study import Run, Study, load_study

RETRIES = 10  # of a run whose machine or process is lost, each from its newest checkpoint


def run_study(options: argparse.Namespace) -> None:
    """`study`: do a plan, or what is left of it."""
    study = load_study(options, device(options.device))
    if options.ray is None:
        finished = study.execute(options.limit)
    else:
        finished = execute_on_ray(study, options)
    total = len(study.runs)
    print(
        f"done: {len(finished)} runs finished, {len(study.left())} of {total} left; "
        f"{options.results}"
    )
    if study.diverged:
        raise NonFiniteLossError(
            f"{options.plan}: diverged: {', '.join(study.diverged)}; change them in the plan"
        )


def execute_on_ray(study: Study, options: argparse.Namespace) -> list[str]:
    """Do what is left of a plan; see `Study.execute`.

    Args:
        study: the plan.
        options: of the command `study`.

    Raises:
        ValueError: Ray is missing, cannot be reached, or has no room for a run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local one reports to nobody
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"--ray {options.ray}: found no Ray; install it: pip install 'dtgan-kit[ray]'"
        ) from error
    if options.fresh is not None and options.cache is None:
        raise ValueError("--ray with --fresh: expected --cache, else every run draws them anew")
    runs = study.left()[: options.limit]
    if not runs:
        return []
    try:
        ray.init(options.ray, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ValueError(
            f"--ray {options.ray}: found no cluster ({error}); start one with `ray start --head` "
            "and give its address, or --ray local"
        ) from error
    lost = []
    try:
        cpus, gpus = _shares(options, ray.cluster_resources())
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_compute)
        whole_paths = argparse.Namespace(
            **{
                name: value.resolve() if isinstance(value, Path) else value
                for name, value in vars(options).items()
            }
        )
        tasks = {run.name: task.remote(whole_paths, run, options.threads or cpus) for run in runs}

        def row(run: Run) -> dict[str, Any] | None:
            try:
                return ray.get(tasks[run.name]) if run.name in tasks else None
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # what the run itself has raised
            except ray.exceptions.RayError as error:
                lost.append(run.name)
                print(f"{run.name}: lost: {error}", file=sys.stderr)
                return None

        finished = study.execute(compute=row)
    finally:
        ray.shutdown()
    if lost:
        raise ValueError(
            f"--ray {options.ray}: lost {RETRIES + 1} times: {', '.join(lost)}; expected machines "
            "that stay; the same command goes on with them"
        )
    return finished


def _compute(options: argparse.Namespace, run: Run, threads: int) -> dict[str, Any] | None:
    """One run, in a process of the cluster."""
    torch.set_num_threads(threads)
    return load_study(options, device(options.device)).compute(run)


def _shares(options: argparse.Namespace, found: dict[str, float]) -> tuple[int, float]:
    """CPUs and GPUs of a run.

    Raises:
        ValueError: there is no room for one run.
    """
    cpus, gpus = options.cpus_per_run or options.threads or 1, options.gpus_per_run
    if gpus is None:
        gpus = float(options.device != "cpu" and found.get("GPU", 0) >= 1)
    for name, option, wanted in (("CPU", "--cpus-per-run", cpus), ("GPU", "--gpus-per-run", gpus)):
        if wanted < 0 or wanted > found.get(name, 0):
            raise ValueError(
                f"{option} {wanted:g}: expected at most the {found.get(name, 0):g} {name}s that "
                f"--ray {options.ray} has"
            )
    return cpus, gpus
