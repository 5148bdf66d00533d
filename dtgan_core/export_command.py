"""`generate`: from options to an export, and what to say about it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

from dtgan_core import distributed, export
from dtgan_core.baselines.generating import run_generate_baseline
from dtgan_core.baselines.generators import method_of
from dtgan_core.data.archives import LeftOut
from dtgan_core.data.layout import Dataset, load_dataset
from dtgan_core.data.usable import usable_images
from dtgan_core.export.drawing import Part
from dtgan_core.export.formats import write_table
from dtgan_core.export.gate import HELD_OUT
from dtgan_core.export.records import MANIFEST_NAME, ORDER_NAME, REJECTS_NAME
from dtgan_core.methods import DTGAN
from dtgan_core.synthesis import Synthesizer

LEFT_OUT_NAME = "left_out.csv"
SHOWN = 20


def run_generate(options: argparse.Namespace, device: torch.device) -> None:
    """Load a checkpoint, check what is there, export."""
    if method_of(options.checkpoint) != DTGAN:
        run_generate_baseline(options, device)
        return
    if options.backgrounds is None:
        raise ValueError("--backgrounds is not given; expected defect-free images")
    layout = export.ExportOptions(
        options.format, options.by_product, options.shard_size, options.tries
    )
    _check_gate(options)
    workers = distributed.share(device)
    synth = Synthesizer.load(options.checkpoint, device)
    backgrounds, left_out = usable_images(options.backgrounds)
    references, more = _references(options.references, options.defect)
    dataset = load_dataset(options.data) if options.data else None
    gate = None
    if options.gate:
        confidence = 0.5 if options.min_confidence is None else options.min_confidence
        rules = export.Rules(confidence, options.keep_product, options.min_copy_distance)
        gate = export.Gate.load(rules, synth, options.judge, dataset)
    parts = _parts(synth, backgrounds, dataset, options.product)
    if workers.writes:
        _tell_left_out(left_out + more)
        _warn_of_held_out(parts)
    manifest = export.generate(
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


def _tell_left_out(left_out: list[LeftOut]) -> None:
    if left_out:
        print(f"left out: {len(left_out)} files that are no usable image", file=sys.stderr)
    for item in left_out[:SHOWN]:
        print(f"- {item.name}: {item.reason}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"- ... and more, see {LEFT_OUT_NAME} in --out", file=sys.stderr)


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
