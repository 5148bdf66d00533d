"""Work that is killed (-9) at a random moment, in a forked child that has torch imported already.

killed = kill(train, (out,), random.Random(0), 1.0)  # False: it was done before
"""

import functools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dtgan_core.checkpoints import step_folders
from dtgan_core.synthesis import Synthesizer, find_images
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import main
from dtgan_lab.export.drawing import Order, Part
from dtgan_lab.export.running import generate
from tests.core_fixtures import tiny_config, tiny_store

STEPS, EVERY = 8, 2  # of the training that is killed
IMAGES, BATCH = 40, 4  # of the export that is killed
# about as many as the whole work makes
FILE_OPERATIONS = {"train": 150, "export": 300, "evaluate": 12}
OPERATIONS = ("fsync", "replace", "rename", "mkdir", "unlink", "open")


def train(out: Path) -> None:
    """Train into a folder, from its newest checkpoint where there is one."""
    config = tiny_config(
        iterations=STEPS, checkpoint_every=EVERY, sample_every=4, kernels="eager", batch_size=2
    )
    trainer = Trainer(config, tiny_store(), out)
    if step_folders(out):
        trainer.resume()
    trainer.run(progress=False)
    trainer.export(out / "export")


def export(checkpoint: Path, parts: Path, kind: str, out: Path) -> None:
    """Export into a folder, going on with what is there."""
    backgrounds = find_images(parts)
    order = Order(
        tuple(backgrounds),
        ("Scratches", "Spots"),
        IMAGES,
        seed=5,
        batch_size=BATCH,
        parts={str(path): Part("A") for path in backgrounds},
        format=kind,
        shard_size=10,
    )
    generate(Synthesizer.load(checkpoint), order, out, resume=True)


def evaluate(model: Path, data: Path, judge: Path, out: Path) -> None:
    """Measure a model: out/numbers.json, and one row more in out/rows.jsonl."""
    inputs = ["--checkpoint", str(model), "--data", str(data), "--judge", str(judge)]
    outputs = ["--json", str(out / "numbers.json"), "--results", str(out / "rows.jsonl")]
    assert main(["evaluate", *inputs, *outputs, "--seeds", "1"]) == 0


def kill(
    work: Callable[..., None], arguments: tuple[Any, ...], chance: random.Random, seconds: float
) -> bool:
    """Run `train`, `export` or `evaluate` in a child and kill it; False when it was done before.

    Half of the time at a moment of the `seconds` that all of it takes, half at a file operation.
    """
    operation = chance.randint(1, FILE_OPERATIONS[work.__name__]) if chance.random() < 0.5 else 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kill_fixtures"])
    begun = context.Event()
    process = context.Process(
        target=_child, args=(work, arguments, torch.get_num_threads(), operation, begun)
    )
    process.start()
    assert begun.wait(600)
    if not operation:
        process.join(chance.uniform(0, seconds))
        process.kill()
    process.join(600)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _child(
    work: Callable[..., None], arguments: tuple[Any, ...], threads: int, at: int, begun: Any
) -> None:
    torch.set_num_threads(threads)
    tiny_store()
    if at:
        _die_at_operation(at)
    begun.set()
    work(*arguments)


def _die_at_operation(at: int) -> None:
    """Make file operation number `at` of this process its last, before or after it is done."""
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at and at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in OPERATIONS:
        setattr(os, name, dying(getattr(os, name)))
