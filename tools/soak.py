"""Long work, watched: does memory, the number of open files or the time of a step grow?

    make soak                                             the whole of it
    python tools/soak.py --gestures 2000 --images 2000 --iterations 200     a taste

Three parts, each in a process of its own: random gestures in the explorer's model (no widgets), an
export that is thrown away, and a `tiny` training that is killed (-9) and resumed every 50
iterations.  A table tells of each quarter; the exit status is 1 where something is not flat.  Time
is the processor's, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from dtgan_core.checkpoints import step_folders
from dtgan_core.dataset import config_for
from dtgan_core.synthesis import Synthesizer, find_images
from dtgan_core.training import Trainer
from dtgan_lab.data import ImageStore, load_dataset
from dtgan_lab.data.synthetic.sdi import make_synthetic_sdi
from dtgan_lab.explorer.gallery import Gallery
from dtgan_lab.explorer.model import ExplorerModel
from dtgan_lab.export.drawing import Drawn, Order
from dtgan_lab.export.running import generate

MODEL = Path(__file__).resolve().parents[1] / "notebooks/checkpoints/synthetic-sdi-laptop"
KILL_EVERY, BATCH, SCALE = 50, 32, 0.02
WARM = 0.1  # share of a part that fills caches and is not looked at
GROWTH_MIB = 16.0  # more memory from the first to the last quarter than allocators wander
SLOWER = 1.5  # more than a busy machine makes of the median processor time of a step

Sample = tuple[float, float, int]  # processor seconds of a step, resident MiB, open files


def resident() -> float:
    """Memory of this process that is in RAM, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def note(notes: Path, seconds: float) -> None:
    """Write down what this process is like after a step."""
    sample = (seconds, resident(), len(os.listdir("/proc/self/fd")))
    with open(notes, "a", encoding="utf-8") as file:
        file.write(json.dumps(sample) + "\n")


# --- the three parts -----------------------------------------------------------------------------


def gesture(model: ExplorerModel, chance: random.Random) -> None:
    """What a visitor may do at any moment; a third of it is a mistake or a look at the panel."""
    count = chance.randrange(9)
    changes: dict[str, Any] = {
        "product": chance.choice([*model.products, "no such product"]),
        "part": chance.randrange(12),
        "defect": chance.choice(model.defects),
        "map_source": chance.choice(model.map_sources),
        "map_number": chance.randrange(100),
        "x": chance.uniform(-5, 105),
        "y": chance.uniform(0, 100),
        "degrees": chance.uniform(-180, 180),
        "size": chance.uniform(0.25, 4),
        "mirror": chance.random() < 0.5,
        "alone": chance.random() < 0.5,
        "style_source": chance.choice(["as the defect", "random", "picture"]),
        "style_number": chance.randrange(100),
        "blend": chance.random(),
        "overlay": chance.random() < 0.5,
    }
    names = chance.sample(list(changes), 1 + count % 3)
    model.set(**{name: changes[name] for name in names})
    if count == 8:
        part = np.full((40, 50), chance.randrange(256), np.uint8)
        model.upload(chance.choice(["part", "reference"]), "part.pgm", pgm(part))
    model.pictures()


def pgm(grey: np.ndarray) -> bytes:
    """A picture as the bytes of a file."""
    return f"P5 {grey.shape[1]} {grey.shape[0]} 255\n".encode() + grey.tobytes()


def explore(data: Path, count: int, out: Path, notes: Path) -> None:
    """Random gestures; a sample for every 10."""
    synth, chance = Synthesizer.load(MODEL), random.Random(0)
    model = ExplorerModel({"laptop": synth}, Gallery.of_dataset(load_dataset(data), synth))
    for _ in range(count // 10):
        start = time.process_time()
        for _ in range(10):
            gesture(model, chance)
        note(notes, time.process_time() - start)


def export(data: Path, count: int, out: Path, notes: Path) -> None:
    """One export; a sample for every batch of it."""
    parts, start = find_images(data / "test/A/Normal"), time.process_time()

    def watch(drawn: Drawn) -> None:
        nonlocal start
        now = time.process_time()
        note(notes, now - start)
        start = now

    order = Order(tuple(parts), ("Scratches", "Spots"), count, batch_size=BATCH)
    generate(Synthesizer.load(MODEL), order, out, watch=watch)


def train(data: Path, count: int, out: Path, notes: Path) -> None:
    """From the newest checkpoint on; kills itself KILL_EVERY iterations later, or ends."""
    dataset = load_dataset(data)
    fields = {"iterations": count, "checkpoint_every": 10, "sample_every": 50, "kernels": "eager"}
    config = config_for(dataset, "tiny", train=fields)
    model = config.model
    store = ImageStore.load(dataset, "train", model.image_size, model.channels, progress=False)
    trainer = Trainer(config, store, out)
    if step_folders(out):
        trainer.resume()
    end = min(count, trainer.step_count + KILL_EVERY)
    step, times = trainer.step, list[float]()

    def timed() -> dict[str, torch.Tensor]:
        start = time.process_time()
        log = step()
        times.append(time.process_time() - start)
        return log

    trainer.step = timed  # type: ignore[method-assign]
    trainer.run(end, progress=False)
    note(notes, median(times))
    if end < count:
        os.kill(os.getpid(), signal.SIGKILL)


# --- watching them -------------------------------------------------------------------------------


def samples_of(work: Callable[..., None], data: Path, count: int, out: Path) -> list[Sample]:
    """Run a part in a process of its own, anew as often as it is killed."""
    context = multiprocessing.get_context("forkserver")  # its children have torch imported already
    context.set_forkserver_preload(["dtgan_core.training", "dtgan_lab.export.running"])
    notes = out.with_suffix(".jsonl")
    killed = True
    while killed:
        process = context.Process(target=work, args=(data, count, out, notes))
        process.start()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
    if process.exitcode:
        raise SystemExit(f"{work.__name__}: ended with {process.exitcode}")
    return [tuple(json.loads(line)) for line in notes.read_text().splitlines()]


def quarters(part: str, samples: list[Sample]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a quarter, and what is not flat between the first and the last of them."""
    kept = samples[int(WARM * len(samples)) :]
    if len(kept) < 4:
        raise SystemExit(
            f"{part}: found {len(kept)} samples, expected 4 or more; ask for more of it"
        )
    pieces = [kept[k * len(kept) // 4 : (k + 1) * len(kept) // 4] for k in range(4)]
    rows: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces, 1):
        seconds, memory, files = (median(column) for column in zip(*piece, strict=True))
        row: dict[str, Any] = {"part": part, "quarter": number, "samples": len(piece)}
        rows.append(row | {"ms": 1000 * seconds, "MiB": memory, "open files": files})
    first, last = rows[0], rows[-1]
    limits = {"ms": SLOWER * first["ms"], "MiB": first["MiB"] + GROWTH_MIB}
    limits["open files"] = first["open files"]
    problems = [
        f"{part}: {name} {first[name]:.1f} in the first quarter, {last[name]:.1f} in the last"
        for name, limit in limits.items()
        if last[name] > limit
    ]
    return rows, problems


def main(arguments: list[str] | None = None) -> int:
    """Run all parts, print the table; 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--gestures", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--iterations", type=int, default=2000)
    options = parser.parse_args(arguments)
    rows, problems = list[dict[str, Any]](), list[str]()
    with TemporaryDirectory(prefix="dtgan-soak-") as folder:
        data = Path(folder) / "data"
        make_synthetic_sdi(data, scale=SCALE)
        for work, count in (
            (explore, options.gestures),
            (export, options.images),
            (train, options.iterations),
        ):
            begin = time.perf_counter()
            samples = samples_of(work, data, count, Path(folder) / work.__name__)
            print(f"{work.__name__}: {count} in {time.perf_counter() - begin:.0f} s", flush=True)
            more, grown = quarters(work.__name__, samples)
            rows, problems = rows + more, problems + grown
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    print("\n".join(problems) or "all of it is flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
