"""How fast this machine trains and generates, and how far that is from its own convolutions.

`python -m dtgan_core benchmark` measures everything in one run on made-up data, so that its ratios
hold although machines, and one machine's hours, differ.  What each number means stands in
`python -m dtgan_core benchmark --help`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dtgan_core.batches import ImageStore
from dtgan_core.config import Config
from dtgan_core.files import write_atomic
from dtgan_core.hardware import describe
from dtgan_core.images import to_png
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Synthesizer, find_images, to_uint8
from dtgan_core.training import Trainer
from dtgan_lab.export.running import generate
from dtgan_lab.floor import Floor, Recorder, convolution_gflops, seconds_of
from dtgan_lab.plain import PlainTrainer

TIME_LIMIT_S = 180.0  # for the repeats of training; at least one is made
GENERATE_BATCH = 32  # the default of `generate`


def measure(
    config: Config,
    device: torch.device,
    repeats: int = 5,
    time_limit_s: float = TIME_LIMIT_S,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        config: sizes, terms, batch and precision of the training; made-up data, fresh weights.
        device: where.
        repeats: of an iteration, fewer when the limit is reached first.
        time_limit_s: for these repeats.

    Returns:
        The report, ready for JSON; `--help` of the command explains its keys.

    Raises:
        ValueError: `repeats` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"--repeats is {repeats}; expected at least 1")
    trainer = Trainer(config, made_up_store(config), device=device)
    training = _measure_training(trainer, repeats, time_limit_s)
    with TemporaryDirectory() as folder:
        generation = _measure_generation(trainer, Path(folder))
    hardware = describe(device, trainer.precision)
    dtype = hardware.pop("precision")
    return {
        "hardware": hardware,
        "preset": config.preset,
        "ablation": config.ablation,
        "image_size": config.model.image_size,
        "batch": config.train.batch_size,
        "dtype": dtype,
        **training,
        **generation,
    }


def table(report: dict[str, Any]) -> str:
    """The report as lines of text, three significant figures."""
    hardware, repeats = report["hardware"], report["repeats"]
    lines = [
        "{preset} ({ablation}), {image_size} px, batch {batch}, {dtype}".format(**report),
        "{device}, {threads} thread(s), torch {torch}".format(**hardware),
        f"medians of {repeats} repeat(s); --help says what each number means",
        "",
    ]
    skip = ("hardware", "preset", "ablation", "image_size", "batch", "dtype", "repeats")
    for name, value in report.items():
        if name in skip:
            continue
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {_figure(part)}" for key, part in value.items())
        else:
            shown = _figure(value)
        lines.append(f"{name:<24} {shown}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


# --- training ------------------------------------------------------------------------------------


class Steps(Protocol):
    """What the fast and the plain trainer have in common."""

    step_count: int

    def step(self) -> dict[str, Tensor]:
        """One iteration."""


class Phase(NamedTuple):
    """One kind of iteration: way of guidance, with or without R1.

    Attributes:
        step: a step of this kind.
        share: how many of all iterations are of this kind, 0 to 1.
    """

    step: int
    share: float


def phases(trainer: Trainer) -> list[Phase]:
    """The kinds of iterations that a run goes through, in the order they come."""
    r1_every = trainer.config.train.r1_every
    period = math.lcm(2, r1_every)
    kinds: dict[tuple[object, bool], list[int]] = {}
    for step in range(period):
        kind = (trainer.guidances(step), step % r1_every == 0)
        kinds.setdefault(kind, []).append(step)
    return [Phase(steps[0], len(steps) / period) for steps in kinds.values()]


def _measure_training(trainer: Trainer, repeats: int, time_limit_s: float) -> dict[str, Any]:
    """Everything about an iteration; the fast and plain path and the floor take turns."""
    device, kinds = trainer.device, phases(trainer)
    recorder = record(trainer, kinds)
    peak = peak_memory_mib(device)  # before anything else allocates
    rates = {
        "fp32": convolution_gflops(torch.float32, device),
        "bf16": convolution_gflops(torch.bfloat16, device),
    }
    plain = PlainTrainer(trainer)
    for phase in kinds:  # a first time for all that is set up once
        for path in (trainer, plain):
            _iterate(path, phase.step, device)
    floor = Floor(recorder, device)
    fast_s: list[float] = []
    plain_s: list[float] = []
    begin = time.perf_counter()
    for repeat in tqdm(range(repeats), desc="benchmark", unit="repeat", disable=None):
        fast_s.append(_average_iteration(trainer, kinds, device))
        floor.improve()
        plain_s.append(_average_iteration(plain, kinds, device))
        spent = time.perf_counter() - begin
        if spent * (repeat + 2) / (repeat + 1) > time_limit_s:
            break
    iteration_s, plain_iteration_s = median(fast_s), median(plain_s)
    return {
        "repeats": len(fast_s),
        "convolution_gflops": rates,
        "iteration_gflop": recorder.flops / 1e9,
        "iteration_gflops": recorder.flops / 1e9 / iteration_s,
        "floor_s": floor.seconds(),
        "iteration_s": iteration_s,
        "overhead_factor": iteration_s / floor.seconds(),
        "plain_iteration_s": plain_iteration_s,
        "speedup_vs_plain": plain_iteration_s / iteration_s,
        "peak_memory_mib": peak,
    }


def _average_iteration(path: Steps, kinds: list[Phase], device: torch.device) -> float:
    """Seconds of an iteration, averaged over a run's kinds, after one that is not counted.

    In a run an iteration follows its like; here the other path and the floor's lone products came
    in between and left the caches and the memory to themselves.
    """
    _iterate(path, kinds[-1].step, device)
    return sum(phase.share * _iterate(path, phase.step, device) for phase in kinds)


def _iterate(path: Steps, step: int, device: torch.device) -> float:
    """Seconds of iteration `step`."""
    path.step_count = step
    return seconds_of(path.step, device)


def peak_memory_mib(device: torch.device) -> float | None:
    """The most memory this process has held so far, MiB; on CUDA the device's; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def record(trainer: Trainer, kinds: list[Phase]) -> Recorder:
    """Run an iteration of each kind, uncompiled, and note the products of an average iteration.

    Whatever is first compiled under a recorder stays uncompiled for the rest of the process.
    """
    recorder, chosen = Recorder(), trainer.kernels
    trainer.kernels = "eager"
    try:
        with recorder:
            for phase in kinds:
                recorder.share = phase.share
                _iterate(trainer, phase.step, trainer.device)
    finally:
        trainer.kernels = chosen
    return recorder


# --- generation ----------------------------------------------------------------------------------


def _measure_generation(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Latent-guided images, and one style after another on one background and defect."""
    model, device = trainer.config.model, trainer.device
    synth = Synthesizer.load(trainer.export(folder / "export"), device)
    defect = synth.defects[model.anchor - 1]  # any but the anchor
    images = torch.arange(GENERATE_BATCH) % len(trainer.store)
    x = trainer.store.to_float(images)
    each_s = _times(lambda: to_uint8(synth.latent_guided(x, defect)), device, most=10)
    images_per_s = len(x) / median(each_s)

    (folder / "good").mkdir()
    for number, image in enumerate(to_uint8(x)):
        write_atomic(folder / "good" / f"{number:02d}.png", to_png(image))
    count = max(4, min(8 * GENERATE_BATCH, round(3 * images_per_s)))
    good = find_images(folder / "good")
    with_png_s = seconds_of(
        lambda: generate(synth, good, defect, count, 0, folder / "out", progress=False),
        device,
    )

    background, c = synth.background(x[:1]), synth.latent_guides(defect, 0, [0]).c
    styles = iter(synth.latent_guides(defect, 1, range(256)).s.unsqueeze(1))
    style_s = _times(
        lambda: to_uint8(synth.paint(background, Guide(c, next(styles)))), device, most=200
    )
    return {
        "images_per_s": images_per_s,
        "images_per_s_with_png": count / with_png_s,
        "style_to_image_ms": {
            "median": 1e3 * median(style_s),
            "p95": 1e3 * float(np.percentile(style_s, 95)),
        },
    }


def _times(work: Callable[[], object], device: torch.device, most: int) -> list[float]:
    """Seconds of up to `most` calls, as many as fit into five seconds, after three for warmth."""
    for _ in range(3):
        warm_s = seconds_of(work, device)
        if warm_s > 5:
            break
    times: list[float] = []
    while not times or (len(times) < most and sum(times) < 5):
        times.append(seconds_of(work, device))
    return times


def made_up_store(config: Config) -> ImageStore:
    """Two random images of every product and defect, of the sizes that a configuration wants."""
    model = config.model
    cells = [(p, y) for p in range(model.products) for y in range(model.defects)] * 2
    generator = torch.Generator().manual_seed(0)
    size = (len(cells), model.channels, model.image_size, model.image_size)
    return ImageStore(
        images=torch.randint(256, size, dtype=torch.uint8, generator=generator),
        products=torch.tensor([p for p, _ in cells]),
        defects=torch.tensor([y for _, y in cells]),
        paths=[f"made-up-{number}.png" for number in range(len(cells))],
        product_names=tuple(f"product {p}" for p in range(model.products)),
        defect_names=tuple(f"defect {y}" for y in range(model.defects)),
        anchor=model.anchor,
        flips=torch.ones(len(cells), 2, dtype=torch.bool),
        split="train",
        root=Path(),
        mask_paths=[""] * len(cells),
    )
