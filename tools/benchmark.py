"""How fast this machine trains and generates, measured in one run on made-up data.

    .venv/bin/python tools/benchmark.py --preset laptop                 # a table
    .venv/bin/python tools/benchmark.py --preset laptop --against e     # and the ratio to (e)
    OMP_NUM_THREADS=1 .venv/bin/python tools/benchmark.py --json        # one core, for programs

Machines differ, and hours of one machine differ: compare numbers of one run alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dtgan_core.batches import ImageStore  # noqa: E402
from dtgan_core.config import ABLATIONS, PRESETS, Config, make_config  # noqa: E402
from dtgan_core.hardware import describe  # noqa: E402
from dtgan_core.networks import Guide  # noqa: E402
from dtgan_core.synthesis import Synthesizer, to_uint8  # noqa: E402
from dtgan_core.training import Trainer  # noqa: E402

MEANING = {
    "iteration_s": "seconds of an average iteration, median of the rounds",
    "batch": "pictures an iteration",
    "train_images_per_s": "batch / iteration_s",
    "iteration_gflop": "10^9 operations of convolutions and products in an iteration without R1",
    "convolution_gflops": "best rate of a large 3 x 3 convolution here, both directions, per s",
    "best_rate_share": "iteration_gflop / iteration_s / convolution_gflops",
    "launches": "kernels that an iteration starts; on a GPU alone",
    "images_per_s": "pictures with a drawn defect, 32 at a time",
    "style_to_image_ms": "from another style to the picture, one picture; median",
    "speedup": "train_images_per_s over that of --against",
}


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, waiting for a GPU to be done."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def convolution_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """Best rate of a large 3 x 3 convolution, forward and backward: 10^9 operations a second."""
    best = 0.0
    for count, channels, side in ((2, 64, 64), (8, 64, 64), (8, 128, 64), (8, 256, 32)):
        x = torch.randn(count, channels, side, side, device=device, dtype=dtype)
        w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        x, w = (t.contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, w))

        def both(x: Tensor = x, w: Tensor = w) -> None:
            F.conv2d(x, w, padding=1).sum().backward()

        flop = 3 * 2 * x.numel() * w.numel() / channels
        fastest = min(seconds_of(both, device) for _ in range(5))
        best = max(best, flop / 1e9 / fastest)
    return best


def made_up_store(config: Config) -> ImageStore:
    """Two random images of every product and defect, of the sizes that a configuration wants."""
    model = config.model
    cells = [(p, y) for p in range(model.products) for y in range(model.defects)] * 2
    size = (len(cells), model.channels, model.image_size, model.image_size)
    generator = torch.Generator().manual_seed(0)
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


def iteration_seconds(trainer: Trainer) -> float:
    """Seconds of an iteration, averaged over both guidances and R1 in their shares."""
    train = trainer.config.train
    period = math.lcm(2, train.r1_every)
    trainer.step_count = train.d_first - train.d_first % period + period  # G learns from here on
    whole = seconds_of(lambda: [trainer.step() for _ in range(period)], trainer.device)
    return whole / period


def training_figures(trainer: Trainer, rounds: int, other: Trainer | None) -> dict[str, Any]:
    """Everything about an iteration; what it is compared with takes turns with it."""
    iteration_seconds(trainer)
    seconds, others = [], []
    for _ in range(rounds):
        seconds.append(iteration_seconds(trainer))
        if other is not None:
            others.append(iteration_seconds(other))
    config = trainer.config
    no_r1 = replace(config.train, r1_every=10**9)  # the counter stops at its double backward
    trainer.config, trainer.step_count = replace(config, train=no_r1), config.train.d_first + 1
    with FlopCounterMode(display=False) as counter:
        trainer.step()
        trainer.step()
    trainer.config = config
    dtype = {"bf16": torch.bfloat16}.get(trainer.precision, torch.float32)
    iteration_s, batch = median(seconds), trainer.config.train.batch_size
    gflop = counter.get_total_flops() / 2e9
    best = convolution_gflops(dtype, trainer.device)
    figures = {
        "iteration_s": iteration_s,
        "batch": batch,
        "train_images_per_s": batch / iteration_s,
        "iteration_gflop": gflop,
        "convolution_gflops": best,
        "best_rate_share": gflop / iteration_s / best,
    }
    if trainer.device.type == "cuda":
        with torch.profiler.profile() as profile:
            trainer.step()
        figures["launches"] = sum(e.key == "cudaLaunchKernel" for e in profile.events())
    if other is not None:
        rate = other.config.train.batch_size / median(others)
        figures["speedup"] = figures["train_images_per_s"] / rate
    return figures


def generation_figures(trainer: Trainer, rounds: int) -> dict[str, Any]:
    """Drawn defects, and one style after another on one part and defect."""
    device = trainer.device
    with TemporaryDirectory() as folder:
        synth = Synthesizer.load(trainer.export(Path(folder)), device)
    defect = next(name for name in synth.defects if name != synth.anchor)
    x = trainer.store.to_float(torch.arange(32) % len(trainer.store))
    synth.latent_guided(x, defect)
    each = [seconds_of(lambda: to_uint8(synth.latent_guided(x, defect)), device) for _ in range(5)]
    background, c = synth.background(x[:1]), synth.latent_guides(defect, 0, [0]).c
    styles = synth.latent_guides(defect, 1, range(20 * rounds)).s.unsqueeze(1)

    def shown(s: Tensor) -> float:
        return seconds_of(lambda: to_uint8(synth.paint(background, Guide(c, s))), device)

    return {
        "images_per_s": len(x) / median(each),
        "style_to_image_ms": 1e3 * median([shown(s) for s in styles]),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="laptop")
    parser.add_argument("--ablation", choices=sorted(ABLATIONS), help="default: the preset's own")
    parser.add_argument("--against", choices=sorted(ABLATIONS), help="another one, in the same run")
    parser.add_argument("--rounds", type=int, default=3, help="of all kinds of iterations")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected at least 1")

    def trainer_of(ablation: str | None) -> Trainer:
        config = make_config(options.preset, ablation)
        return Trainer(config, made_up_store(config), device=options.device)

    trainer = trainer_of(options.ablation)
    other = trainer_of(options.against) if options.against else None
    figures = training_figures(trainer, options.rounds, other)
    figures |= generation_figures(trainer, options.rounds)
    told = {"preset": options.preset, "ablation": trainer.config.ablation}
    report = {**told, "hardware": describe(trainer.device, trainer.precision), **figures}
    if options.json:
        print(json.dumps(report))
        return 0
    print(
        "{preset} ({ablation}) on {device}, {threads} thread(s)".format(
            **told, **report["hardware"]
        )
    )
    for name, value in figures.items():
        print(f"{name:<20} {value:>9.3g}  {MEANING[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
