"""`generate`: from options to an export, and what to say about it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from dtgan_core.files import write_atomic
from dtgan_core.images import to_png
from dtgan_core.synthesis import Synthesizer, read_images, to_uint8
from dtgan_lab.baselines.generators import Makers, Transfers
from dtgan_lab.baselines.zoo import DTGAN, load_system, method_of
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.dataset import HELD_OUT, Dataset
from dtgan_lab.data.folder import tell_left_out, usable_images
from dtgan_lab.data.layout import LEFT_OUT_NAME
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.export.drawing import Drawn, Order, Part, Shuffle, export_columns
from dtgan_lab.export.formats import MANIFEST_NAME, ORDER_NAME, REJECTS_NAME, write_table
from dtgan_lab.export.gate import Gate, Rules
from dtgan_lab.export.running import generate
from dtgan_lab.files import require_empty
from dtgan_lab.options import share

TRIED = 16  # first images of a defect, by which it is told that the model has not learned it


def run_generate(options: argparse.Namespace) -> None:
    """Load a checkpoint, check what is there, export."""
    if method_of(options.checkpoint) != DTGAN:
        run_generate_baseline(options)
        return
    if options.backgrounds is None:
        raise ValueError("--backgrounds is not given; expected defect-free images")
    for name in () if options.gate else GATE_ALONE:
        if _given(options, name):
            raise ValueError(f"--{name.replace('_', '-')}: goes with --gate; add it")
    workers = share(options.device)
    synth = Synthesizer.load(options.checkpoint, options.device)
    backgrounds, left_out = usable_images(options.backgrounds)
    references, more = _references(options.references, options.defect)
    left_out += more
    dataset = load_dataset(options.data) if options.data else None
    gate = None
    if options.gate:
        confidence = 0.5 if options.min_confidence is None else options.min_confidence
        rules = Rules(confidence, options.keep_product, options.min_copy_distance)
        gate = Gate.load(rules, synth, options.judge, dataset)
    order = Order(
        backgrounds=tuple(backgrounds),
        defects=tuple(options.defect),
        count=options.count,
        seed=options.seed,
        references=references,
        batch_size=options.batch,
        parts=_parts(synth, backgrounds, dataset, options.product),
        format=options.format,
        by_product=options.by_product,
        shard_size=options.shard_size,
        tries=options.tries,
    )
    if workers.writes:
        tell_left_out(left_out, f", see {LEFT_OUT_NAME} in --out")
        _warn_of_held_out(order)
    seen = Seen(synth.anchor)
    manifest = generate(
        synth,
        order,
        options.out,
        gate,
        workers=workers,
        resume=options.resume,
        watch=seen if workers.writes else None,
    )
    seen.tell()
    if workers.writes and left_out:
        rows = (item._asdict() for item in left_out)
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


def _given(options: argparse.Namespace, name: str) -> bool:
    """Whether an option stands otherwise than without a word about it."""
    value = getattr(options, name)
    return value is not False and value not in (None, "folder")


def _references(
    source: Path | None, defects: list[str]
) -> tuple[dict[str, list[Path]] | None, list[LeftOut]]:
    """Usable references of each defect, and what is left out."""
    if source is None:
        return None, []
    references, left_out = {}, []
    for defect in defects:
        folder = source if len(defects) == 1 else source / defect
        if folder != source and not folder.is_dir():
            raise ValueError(
                f"{folder}: no such folder; for several defects --references expects a folder for "
                f"each: {', '.join(defects)}"
            )
        references[defect], more = usable_images(folder)
        name = "" if folder == source else f"{defect}/"
        left_out += [item._replace(name=name + item.name) for item in more]
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


def _warn_of_held_out(order: Order) -> None:
    count = sum(part.split in HELD_OUT for part in order.parts.values())
    if count:
        print(
            f"warning: {count} backgrounds are held-out images (val or test): a classifier that "
            "learns from this export must not be tested on them",
            file=sys.stderr,
        )


class Seen:
    """Counts what is drawn of each defect, and the images of it that show nothing."""

    def __init__(self, anchor: str) -> None:
        self.anchor = anchor
        self.drawn, self.empty = Counter[str](), dict[str, list[int]]()

    def __call__(self, drawn: Drawn) -> None:
        """Look at a block; say of a defect that most of its first images show nothing."""
        for row, mask in zip(drawn.rows, drawn.masks, strict=True):
            defect = row["defect"]
            empty = self.empty.setdefault(defect, [])
            self.drawn[defect] += 1
            if defect != self.anchor and not mask.any():
                empty.append(row["index"])
            if self.drawn[defect] == TRIED:
                self._warn(defect)

    def _warn(self, defect: str) -> None:
        drawn = self.drawn[defect]
        shown = drawn - len(self.empty[defect])
        if shown < drawn / 2:
            print(
                f"warning: {shown} of the first {drawn} images of {defect} change anything "
                "that can be seen: the model has hardly learned it. If you do not see it in the "
                "picture of `prepare_folder --dry-run`, cut closer (--crop); else train longer",
                file=sys.stderr,
            )

    def tell(self) -> None:
        """Say what is odd about all that was drawn."""
        for defect, drawn in self.drawn.items():
            if drawn < TRIED:
                self._warn(defect)
        if empty := sorted(sum(self.empty.values(), [])):
            print(f"note: {len(empty)} images show no change, their masks are empty: {empty[:5]}")


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


# --- baselines -----------------------------------------------------------------------------------


COLUMNS = (*export_columns("generated"), "product")
GATE_ALONE = ("judge", "min_confidence", "keep_product", "min_copy_distance", "tries")
DTGAN_ALONE = ("format", "by_product", "resume", "gate", "data", *GATE_ALONE)

Piece = tuple[dict[str, object], np.ndarray, np.ndarray | None]  # facts, image, its mask m


def run_generate_baseline(options: argparse.Namespace) -> None:
    """Load a baseline, check the options, write what was asked for."""
    made = load_system(options.checkpoint, options.device)
    if not isinstance(made, Makers | Transfers):
        raise ValueError(
            f"{options.checkpoint}: holds images, expected a trained model; `evaluate --fake` and "
            "`classify --baseline` take images"
        )
    for name in DTGAN_ALONE:
        if _given(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')}: goes with DT-GAN alone, not with {made.method}; "
                "leave it out"
            )
    for name in ("backgrounds", "references"):
        given = getattr(options, name) is not None
        if given and isinstance(made, Makers):
            raise ValueError(f"--{name}: {made.method} makes images from nothing; leave it out")
        if not given and isinstance(made, Transfers):
            raise ValueError(f"--{name} is not given: {made.method} lays a reference's defect over")
    require_empty(options.out)
    products = made.products if options.product is None else (options.product,)
    cells = [(product, defect) for defect in options.defect for product in products]
    for cell in cells:
        made.of(*cell)
    if isinstance(made, Makers):
        pieces = _from_nothing(made, cells, options)
    else:
        pieces = _onto_backgrounds(made, cells, options)
    _write(pieces, made, options)
    size, out = made.image_size, options.out
    print(f"note: images are {size} x {size} {'grey' if made.channels == 1 else 'colour'}")
    print(f"done: {options.count} images in {out}/images, listed in {out}/{MANIFEST_NAME}")


def _from_nothing(
    made: Makers, cells: list[tuple[str, str]], options: argparse.Namespace
) -> Iterator[Piece]:
    """Products take turns, and so do the defects of each."""
    for index in range(options.count):
        (product, defect), number = cells[index % len(cells)], index // len(cells)
        image = made.make(product, defect, 1, options.seed, number)
        facts: dict[str, object] = {"product": product, "defect": defect, "guidance": "none"}
        yield facts, to_uint8(image)[0], None


def _onto_backgrounds(
    made: Transfers, cells: list[tuple[str, str]], options: argparse.Namespace
) -> Iterator[Piece]:
    """Backgrounds and references in a random order, every one once a round."""
    if len(cells) != 1:
        raise ValueError(
            f"found {', '.join(map(' '.join, cells))}, expected one of each, product and defect: "
            f"{made.method} has a model for each; name them by --product and --defect"
        )
    (product, defect), model = cells[0], made.exports[0].config.model
    (backgrounds, left_out), (references, more) = map(
        usable_images, (options.backgrounds, options.references)
    )
    tell_left_out(left_out + more)
    of_background = Shuffle(len(backgrounds), options.seed, "backgrounds")
    of_reference = Shuffle(len(references), options.seed, "references")
    for index in range(options.count):
        a, b = backgrounds[of_background[index]], references[of_reference[index]]
        x, x_ref = read_images([a, b], model.channels, model.image_size).to(made.device).split(1)
        layer = made.layers(product, defect, x, x_ref)
        facts: dict[str, object] = {"product": product, "defect": defect, "guidance": "reference"}
        facts |= {"background": str(a), "reference": str(b)}
        yield facts, to_uint8(layer.over(x))[0], layer.m[0, 0].float().cpu().numpy()


def _write(pieces: Iterator[Piece], made: Makers | Transfers, options: argparse.Namespace) -> None:
    """Write images and masks as they come, then the manifest, '' for what is not there."""
    rows, out, count = [], options.out, options.count
    bar = tqdm(pieces, total=count, desc="generate", unit="image", disable=None)
    for index, (facts, image, mask) in enumerate(bar):
        export = made.of(str(facts["product"]), str(facts["defect"]))
        files = {"path": image}
        if mask is not None:
            for name, levels in (("generated_mask", mask > 0.5), ("soft_mask", mask)):
                files[name] = np.rint(255 * levels).astype(np.uint8)[:, :, None]
        row = dict.fromkeys(COLUMNS, "") | facts | {"seed": options.seed, "index": index}
        for name, picture in files.items():
            folder = "images" if name == "path" else f"{name}s"
            row[name] = f"{folder}/{index:06d}.png"
            (out / folder).mkdir(parents=True, exist_ok=True)
            write_atomic(out / folder / f"{index:06d}.png", to_png(picture))
        rows.append(row | {"checkpoint_sha256": export.checkpoint_hash})
    write_table(out / MANIFEST_NAME, COLUMNS, rows)
