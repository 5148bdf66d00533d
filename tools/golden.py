"""Hashes of what the kit computes, so that code can be moved and nothing else changes.

    python tools/golden.py --write     compute all, write tools/golden.json
    python tools/golden.py --check     compute all, compare, name every entry that differs

Everything is eager, fp32, on the CPU with one thread. Files of data are the same everywhere; hashes
of floating-point results belong to one processor and one build of PyTorch, so write them at the
commit you begin from, on the machine you work on, and compare there. The file says where it was
made. The crop of the real Magnetic Tile Defects is computed when DTGAN_MTD_SOURCE names its zip and
left out of the comparison otherwise. About 45 seconds on one core, half of them for it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without an installation

# Every import of the kit stands here, so that a move touches this block alone.
from dtgan_core import hardware
from dtgan_core.config import make_config
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.baselines.config import only
from dtgan_lab.baselines.zoo import BASELINES, ZOO, Wish, baseline, load_system
from dtgan_lab.cli.main import main as command_line
from dtgan_lab.data import Dataset, ImageStore, load_dataset
from dtgan_lab.data.join import Part, join_datasets
from dtgan_lab.data.mtd import Options, make_mtd
from dtgan_lab.data.mtd_source import read_source
from dtgan_lab.data.subset import make_subset
from dtgan_lab.data.synthetic.sdi import make_synthetic_sdi
from dtgan_lab.downstream.arms import arm_named
from dtgan_lab.downstream.classifier import ClassifierConfig
from dtgan_lab.downstream.training import train_classifier
from dtgan_lab.downstream.training_set import Materials
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.domain import DomainConfig, train_domain_features
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.judge import Judge, JudgeConfig, train_judge

GOLDEN = Path(__file__).with_suffix(".json")
CHECKPOINTS = Path(__file__).resolve().parents[1] / "notebooks" / "checkpoints"
MODEL = CHECKPOINTS / "synthetic-sdi-laptop"
STEPS, LEARNED = 10, 20  # iterations of a GAN, of a classifier
TRAIN: dict[str, Any] = {"iterations": STEPS, "precision": "fp32", "kernels": "eager"}
TRAIN |= {"log_every": 1}
SKIPPED = "skipped"
Entries = Iterator[tuple[str, str]]


def digest(value: Any) -> str:
    """Hex sha256 of tensors, arrays, bytes, text and numbers, in any nesting of dicts and lists."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            item = item.detach().cpu().contiguous().numpy()
        if isinstance(item, np.ndarray):
            found.update(f"{item.dtype} {item.shape}\n".encode() + item.tobytes())
        elif isinstance(item, dict):
            for key in sorted(item):
                found.update(f"{key}\n".encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        else:
            found.update(item if isinstance(item, bytes) else f"{item!r}\n".encode())

    add(value)
    return found.hexdigest()


class Material:
    """The small synthetic SDI in a temporary folder, and what is read from it."""

    def __init__(self, work: Path) -> None:
        self.work, self.root = work, work / "sdi"
        make_synthetic_sdi(self.root, seed=5, scale=0.02, workers=1, progress=False)
        self.dataset: Dataset = load_dataset(self.root, check="full")

    def store(self, split: str = "train", size: int = 32) -> ImageStore:
        """A split in memory, grey."""
        return ImageStore.load(self.dataset, split, size, 1, progress=False)


# --- data ----------------------------------------------------------------------------------------


def of_data(material: Material) -> Entries:
    """Manifests: they hold the hash of every image."""
    work, dataset = material.work, material.dataset
    yield "synthetic SDI", dataset.manifest_hash
    subset = make_subset(dataset, {("A", "Scratches"): 2}, work / "subset", seed=1)
    yield "subset", subset.manifest_hash
    other = make_synthetic_sdi(work / "other", seed=6, scale=0.01, workers=1, progress=False)
    renamed = Part(other, {"A": "D", "B": "E", "C": "F"})
    joined = join_datasets([Part(dataset), renamed], work / "joined", size=48, progress=False)
    yield "join", joined.manifest_hash
    source = os.environ.get("DTGAN_MTD_SOURCE", "")
    if not source:
        yield "MTD crop", SKIPPED
        return
    options = Options(size=64, crop=128, seed=0)
    make_mtd(read_source(Path(source)), options, work / "mtd", progress=False)
    yield "MTD crop", load_dataset(work / "mtd", check="full").manifest_hash


# --- training ------------------------------------------------------------------------------------


def state_of(loop: Any) -> str:
    """Hash of the networks, their averages and the optimisers' state."""
    states = {name: optimiser.state_dict()["state"] for name, optimiser in loop.optimisers.items()}
    optimisers = {f"{name}/{n}": s for name, state in states.items() for n, s in state.items()}
    return digest([loop.nets.state_dict(), loop.ema.state_dict(), optimisers])


def log_of(loop: Any) -> str:
    """Hash of the log without its times."""
    lines = map(json.loads, (loop.out / "log.jsonl").read_text().splitlines())
    return digest([{k: v for k, v in line.items() if k != "seconds"} for line in lines])


def trainer_of(material: Material, out: Path, ablation: str, guidance: str) -> Trainer:
    """A DT-GAN at preset `tiny`, not yet trained."""
    own = {"guidance": guidance, "batch_size": 6, "checkpoint_every": 4, "sample_every": STEPS}
    config = make_config("tiny", ablation, train={**TRAIN, **own})
    return Trainer(config, material.store(), out, data={"name": "golden"})


def of_training(material: Material) -> Entries:
    """(a) to (e), latent- and reference-guided in turn and both in an iteration."""
    for ablation in "abcde":
        for guidance in ("alternate", "both"):
            trainer = trainer_of(material, material.work / ablation / guidance, ablation, guidance)
            trainer.run(progress=False)
            yield f"train ({ablation}) {guidance}", state_of(trainer)
            yield f"log ({ablation}) {guidance}", log_of(trainer)
    yield "train samples", digest(trainer.sample_picture())
    exported = trainer.export(material.work / "export")
    yield "train export", digest((exported / "ema.safetensors").read_bytes())


def _killed(material: Material, out: Path) -> None:
    """A child process: trains, and is killed between the two players of iteration 7."""
    trainer = trainer_of(material, out, "e", "alternate")
    learn: Callable[..., None] = trainer._learn

    def learn_or_die(names: tuple[str, ...], loss: Tensor) -> None:
        if trainer.step_count == 6 and names != ("D",):
            os.kill(os.getpid(), signal.SIGKILL)
        learn(names, loss)

    trainer._learn = learn_or_die  # type: ignore[method-assign]
    trainer.run(progress=False)


def of_resume(material: Material) -> Entries:
    """A run that was killed and went on; its entry equals that of the whole run."""
    out = material.work / "killed"
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(material, out))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended with {process.exitcode}, expected to be killed")
    trainer = trainer_of(material, out, "e", "alternate")
    trainer.resume()
    trainer.run(progress=False)
    yield "train (e) alternate, killed and resumed", state_of(trainer)


def of_baselines(material: Material) -> Entries:
    """Every baseline at preset `tiny`."""
    for name in BASELINES:
        found = baseline(name)
        base = found.presets["tiny"]
        config = dataclasses.replace(base, train=dataclasses.replace(base.train, **TRAIN))
        names = material.dataset.info.defects[:2] if ZOO[name].pairs else None
        store = only(material.store(size=config.model.image_size), "A", names)
        loop = found(config, store, material.work / name, data={"name": "golden"})
        loop.run(progress=False)
        yield f"baseline {name}", state_of(loop)
        yield f"log {name}", log_of(loop)


def of_classifiers(material: Material) -> Entries:
    """Judge, domain features and downstream classifier."""
    dataset = material.dataset
    sizes: dict[str, Any] = {"image_size": 32, "width": 8, "iterations": LEARNED}
    judge = train_judge(dataset, JudgeConfig(check_every=10, **sizes), progress=False)
    yield "judge", digest([judge.network.state_dict(), judge.card["chosen"]])
    domain = train_domain_features(dataset, DomainConfig(dimension=16, **sizes), progress=False)
    yield "domain features", digest([domain.network.state_dict(), domain.card["test"]])
    materials = Materials(material.store(size=64), Synthesizer.load(MODEL))
    config = ClassifierConfig(**sizes | {"image_size": 64}, check_every=10)
    val = material.store("val", 64)
    for name in ("traditional", "copy-paste", "dtgan-both+reversal"):
        arm = arm_named(name)
        taught = arm.training_set(materials, 45, seed=0)
        trained = train_classifier(taught, val, arm, config, 0, progress=False)
        yield f"classifier {name}", digest([taught.images, trained.network.state_dict()])


# --- making and measuring ------------------------------------------------------------------------


def of_generated(material: Material) -> Entries:
    """16 images and their masks through the command line, and distances of fixed points."""
    out = material.work / "generated"
    words = f"generate --defect Scratches --count 16 --seed 3 --device cpu --checkpoint {MODEL}"
    folders = ["--backgrounds", str(material.root / "test/A/Normal"), "--out", str(out)]
    with contextlib.redirect_stdout(io.StringIO()):
        status = command_line([*words.split(), *folders])
    pictures = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}
    if status or len(pictures) != 32:
        raise RuntimeError(f"generate: status {status}, {len(pictures)} files, expected 0 and 32")
    yield "generate 16", digest(pictures)
    extractor, random = load_extractor("domain"), np.random.default_rng(0)
    real, fake = (random.normal(m, 1, (90, extractor.dimension)).astype("f4") for m in (0, 0.3))
    yield "distances", digest(json.dumps(compare(real, fake, extractor, seed=1).to_dict()))


def of_checkpoints(material: Material) -> Entries:
    """Every committed checkpoint: one image of each guidance, or its answers on an image."""
    for card in sorted(CHECKPOINTS.rglob("card.json")):
        folder, facts = card.parent, json.loads(card.read_text())
        name = f"checkpoint {folder.relative_to(CHECKPOINTS)}"
        sizes = facts["config"].get("model", facts["config"])
        test, channels = material.store("test", sizes["image_size"]), sizes["channels"]
        x, x_ref = (test.to_float(torch.tensor([i])).expand(-1, channels, -1, -1) for i in (0, -1))
        if (folder / "judge.safetensors").is_file():
            yield name, digest(list(Judge.load(folder)(x)))
        elif (folder / "domain.safetensors").is_file():
            yield name, digest(load_extractor("domain", folder)(x))
        else:
            system = load_system(folder)
            data = facts["data"]
            wish = Wish(data["products"][0], data["defects"][-1], x, x_ref)
            wish = wish._replace(seed=int(system.method == "dtgan"))  # as when hashes were made
            made = [system.images_of(wish, way).images for way in system.ways]
            yield name, digest(made if len(made) > 1 else made[0])


PARTS: tuple[Callable[[Material], Entries], ...] = (
    of_data, of_training, of_resume, of_baselines, of_classifiers, of_generated, of_checkpoints
)  # fmt: skip


def compute() -> dict[str, str]:
    """All entries by name, in order; each part's seconds go to standard error."""
    torch.set_num_threads(1)
    hardware.native_bf16 = lambda device="cpu": False  # "auto" means fp32 here
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        for part in PARTS:
            begin = time.perf_counter()
            found |= dict(part(material))
            print(f"{part.__name__}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    return found


def main() -> int:
    """Run the command line; the exit status is 1 when an entry differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help=f"write {GOLDEN.name}")
    what.add_argument("--check", action="store_true", help=f"compare with {GOLDEN.name}")
    options = parser.parse_args()
    found = compute()
    where = {"cpu": hardware.cpu_name(), "torch": torch.__version__}
    if options.write:
        GOLDEN.write_text(json.dumps({"where": where, "entries": found}, indent=1) + "\n")
        print(f"{GOLDEN}: {len(found)} entries")
        return 0
    stored = json.loads(GOLDEN.read_text())
    if stored["where"] != where:
        print(f"note: hashes were made on {stored['where']}, this is {where}")
    wanted, differ = stored["entries"], 0
    for name in dict.fromkeys([*wanted, *found]):
        before, now = wanted.get(name, "missing"), found.get(name, "missing")
        if SKIPPED in (before, now):
            print(f"{name}: {SKIPPED}, DTGAN_MTD_SOURCE does not name the zip")
        elif before != now:
            differ += 1
            print(f"{name}: DIFFERS, found {now[:12]}, expected {before[:12]}")
    print(f"{len(found)} entries, {differ} differ")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
