"""`study`: a plan of many runs, or what is left of it, here or on a Ray cluster."""

from __future__ import annotations

import argparse

from dtgan_core.training import NonFiniteLossError
from dtgan_lab.options import device as device_of
from dtgan_lab.study import load_study


def run_study(options: argparse.Namespace, device: str) -> None:
    """`study`: do a plan, or what is left of it."""
    study = load_study(options, device_of(device))
    if options.ray is None:
        finished = study.execute(options.limit)
    else:
        from dtgan_lab.study_ray import execute_on_ray  # an optional package

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
