"""`generate`: from options to an export, and what to say about it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from dtgan_core import hardware
from dtgan_core.dataset import Dataset
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.zoo import DTGAN, method_of
from dtgan_lab.cli.generate_baseline import run_generate_baseline
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.usable import tell_left_out, usable_images
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.export.drawing import Part
from dtgan_lab.export.formats import ExportOptions, write_table
from dtgan_lab.export.gate import HELD_OUT, Gate, Rules
from dtgan_lab.export.records import MANIFEST_NAME, ORDER_NAME, REJECTS_NAME
from dtgan_lab.export.running import generate

LEFT_OUT_NAME = "left_out.csv"


def run_generate(options: argparse.Namespace) -> None:
    """Load a checkpoint, check what is there, export."""
    if method_of(options.checkpoint) != DTGAN:
        run_generate_baseline(options)
        return
    if options.backgrounds is None:
        raise ValueError("--backgrounds is not given; expected defect-free images")
    layout = ExportOptions(options.format, options.by_product, options.shard_size, options.tries)
    _check_gate(options)
    workers = hardware.share(options.device)
    synth = Synthesizer.load(options.checkpoint, options.device)
    backgrounds, left_out = usable_images(options.backgrounds)
    references, more = _references(options.references, options.defect)
    dataset = load_dataset(options.data) if options.data else None
    gate = None
    if options.gate:
        confidence = 0.5 if options.min_confidence is None else options.min_confidence
        rules = Rules(confidence, options.keep_product, options.min_copy_distance)
        gate = Gate.load(rules, synth, options.judge, dataset)
    parts = _parts(synth, backgrounds, dataset, options.product)
    if workers.writes:
        tell_left_out(left_out + more, f", see {LEFT_OUT_NAME} in --out")
        _warn_of_held_out(parts)
    manifest = generate(
        synth,
        backgrounds,
        options.defect,
        options.count,
        options.seed,
        options.out,
        references,
        options.batch,
        workers=workers,
        options=layout,
        gate=gate,
        parts=parts,
        resume=options.resume,
    )
    if workers.writes and (left_out or more):
        rows = (item._asdict() for item in left_out + more)
        write_table(options.out / LEFT_OUT_NAME, LeftOut._fields, rows)
    if manifest.empty:
        print(
            f"done: share {workers.rank} of {workers.world}; the process that ends last writes "
            f"{options.out}/{MANIFEST_NAME}. If one was lost, run that one again"
        )
    else:
        _tell(options, synth, manifest)


def what_is_kept(out: Path) -> str:
    """What an export that was interrupted has left."""
    if (out / MANIFEST_NAME).is_file():
        return f"; {out} is complete"
    if (out / ORDER_NAME).is_file():
        return f"; what is done is kept in {out}, go on with the same command and --resume"
    return " before the first image: nothing is kept"


def _check_gate(options: argparse.Namespace) -> None:
    """Options of the gate mean nothing without it.

    Raises:
        ValueError: naming the first of them.
    """
    if options.gate:
        return
    for name in ("judge", "min_confidence", "keep_product", "min_copy_distance", "tries"):
        value = getattr(options, name)
        if value is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')}: goes with --gate; add it")


def _references(
    source: Path | None, defects: list[str]
) -> tuple[dict[str, list[Path]] | None, list[LeftOut]]:
    """Usable references of each defect, and what is left out."""
    if source is None:
        return None, []
    if len(defects) == 1:
        found, left_out = usable_images(source)
        return {defects[0]: found}, left_out
    references, left_out = {}, []
    for defect in defects:
        if not (source / defect).is_dir():
            raise ValueError(
                f"{source / defect}: no such folder; for several defects --references expects a "
                f"folder for each: {', '.join(defects)}"
            )
        references[defect], more = usable_images(source / defect)
        left_out += [item._replace(name=f"{defect}/{item.name}") for item in more]
    return references, left_out


def _parts(
    synth: Synthesizer, backgrounds: list[Path], dataset: Dataset | None, product: str | None
) -> dict[str, Part]:
    """What is known of backgrounds: told, found in the data, or the model's only product."""
    known: dict[str, Part] = {}
    if dataset is not None:
        rows = dataset.manifest[["path", "product", "group", "split"]].to_numpy().tolist()
        known = {path: Part(*rest) for path, *rest in rows}
    only = synth.products[0] if len(synth.products) == 1 else ""
    parts = {}
    for path in backgrounds:
        part = Part()
        if dataset is not None and path.resolve().is_relative_to(dataset.root.resolve()):
            inside = path.resolve().relative_to(dataset.root.resolve()).as_posix()
            part = known.get(inside, part)
        part = part._replace(product=product or part.product or only)
        if any(part):
            parts[str(path)] = part
    return parts


def _warn_of_held_out(parts: dict[str, Part]) -> None:
    count = sum(part.split in HELD_OUT for part in parts.values())
    if count:
        print(
            f"warning: {count} backgrounds are held-out images (val or test): a classifier that "
            "learns from this export must not be tested on them",
            file=sys.stderr,
        )


def _tell(options: argparse.Namespace, synth: Synthesizer, manifest: pd.DataFrame) -> None:
    """Say what was made, and what is odd about it."""
    model, out = synth.config.model, options.out
    size = f"{model.image_size} x {model.image_size}"
    print(f"note: images become {size} {'grey' if model.channels == 1 else 'colour'}")
    if synth.anchor in options.defect:
        print(f"note: {synth.anchor} is the defect-free domain; no defect will be added")
    if options.format == "layout":
        made = int(manifest["source"].str.startswith("synthetic").sum())
    else:
        made = len(manifest)
        pairs = ["background", "reference", "defect"]
        copies = int(manifest.duplicated(pairs).sum()) if options.references else 0
        if copies:
            print(
                f"warning: {copies} images repeat a pair of background and reference and are "
                "copies; give more references or backgrounds, or a smaller --count"
            )
    rejects = out / REJECTS_NAME
    if rejects.is_file():
        refused = len(pd.read_csv(rejects, usecols=["index"]))
        print(f"note: {refused} images were refused, {rejects} says why")
    if made < options.count:
        print(
            f"warning: {made} images passed, expected {options.count}; lower the thresholds, raise "
            "--tries, or train longer",
            file=sys.stderr,
        )
    where = f"{out}/images" if options.format in ("folder", "coco") else out
    print(f"done: {made} images in {where}, listed in {out}/{MANIFEST_NAME}")
