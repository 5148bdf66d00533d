"""The export itself: blocks are drawn and judged; when all are there, they are put together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from dtgan_core.files import (
    read_json,
    sha256_of,
    sync_folder,
    typed,
    write_atomic,
    write_json_atomic,
)
from dtgan_core.hardware import Workers
from dtgan_core.images import decoded, to_png
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.export.datasets import Coco, Layout
from dtgan_lab.export.drawing import Drawn, Order, Row, Shuffle, export_columns
from dtgan_lab.export.formats import (
    MANIFEST_NAME,
    ORDER_NAME,
    REJECTS_NAME,
    WORK_NAME,
    Folder,
    ImageFolder,
    Shards,
    drawn_file,
    write_table,
    write_tar,
)
from dtgan_lab.export.gate import TRIES, Gate
from dtgan_lab.files import locked

VERSION = 1
CLASSES: dict[str, type[Folder]] = {
    "folder": Folder,
    "imagefolder": ImageFolder,
    "layout": Layout,
    "coco": Coco,
    "tar": Shards,
}
REJECT_COLUMNS = ("path", "background", "defect", "reference", "seed", "index")
COPY = "a copy: the same bytes as an image before it; give more backgrounds"


class Painter:
    """Draws the images of an order."""

    def __init__(self, synth: Synthesizer, order: Order) -> None:
        self.synth, self.order = synth, order
        self._of_background = Shuffle(len(order.backgrounds), order.seed, "backgrounds")
        self._of_reference = {
            defect: Shuffle(len(paths), order.seed, "references")
            for defect, paths in (order.references or {}).items()
        }

    def __call__(self, indices: Sequence[int]) -> Drawn:
        """Draw some indices together."""
        synth, order = self.synth, self.order
        rows = [self.row(index) for index in indices]
        defects = [row["defect"] for row in rows]
        x = synth.images([row["background"] for row in rows])
        if order.references is None:
            guide = synth.latent_guides(defects, order.seed, indices)
        else:
            guide = synth.reference_guides(
                synth.images([row["reference"] for row in rows]), defects
            )
        background = synth.background(x)
        made, m = synth.painted(background, guide)
        images = to_uint8(made)
        # Against the model's own Normal: what it fails to reconstruct of a part is no defect.
        masks = synth.masks(to_uint8(synth.without_defect(background)), images)
        soft = None if m is None else m[:, 0].mul(255).round().byte().cpu().numpy()
        return Drawn(rows, images, masks, x, soft)

    def row(self, index: int) -> Row:
        """What the manifest says of an image, without paths."""
        order = self.order
        kinds = len(order.defects)
        defect = order.defects[index % kinds]
        reference = ""
        if order.references is not None:
            number = self._of_reference[defect][index // kinds]
            reference = str(order.references[defect][number])
        return {
            "background": str(order.backgrounds[self._of_background[index]]),
            "defect": defect,
            "guidance": "latent" if order.references is None else "reference",
            "reference": reference,
            "seed": order.seed,
            "index": index,
            "checkpoint_sha256": self.synth.checkpoint_hash,
        }


class NothingPassedError(ValueError):
    """The gate refused every image; they lie in OUT/rejects/ with their reasons."""


def generate(
    synth: Synthesizer,
    order: Order,
    out: Path,
    gate: Gate | None = None,
    *,
    workers: Workers | None = None,
    resume: bool = False,
    watch: Callable[[Drawn], None] | None = None,
) -> pd.DataFrame:
    """Put defects onto backgrounds and write images, masks and a manifest.

    The image of an index depends on the checkpoint, the seed, the backgrounds and the references.
    On one machine it is the same to the byte however often the export was stopped and however many
    processes share it; another batch size may change a pixel by one level.

    `out` is new or empty, or with `resume` an unfinished export of the same order. `workers` is
    this process among those that share `out`, at once or one after the other: each takes every
    `world`-th block and goes on with what is there. A `gate` refuses images, until `order.count`
    have passed or `order.tries` were made. `watch` is shown every block that is drawn.

    Returns:
        The manifest, with the columns of `export_columns` and those of the gate; of the format
        "layout" the manifest of the data set. Without a row while other processes are at it.

    Raises:
        ValueError: `out` holds something else, or the order cannot be made.
        NothingPassedError: the gate refused every image.
        ImageError: a background or reference cannot be read.
        OSError: the disk is full; what was written is whole, and `resume` goes on from it.
    """
    export = _Export(synth, order, out, gate, workers or Workers(), watch)
    export.check(resume)
    try:
        if not export.finished():
            export.make()
    except BaseException as error:
        if export.workers.world == 1:
            export.abandon()
        if not isinstance(error, FileNotFoundError) or not export.finished():
            raise  # else another machine has put it together, and cleared away
    if not export.finished():
        return pd.DataFrame(columns=list(export_columns(synth.mask_kind)))
    export.clear()
    return pd.read_csv(out / MANIFEST_NAME, keep_default_na=False)


class _Export:
    """One export and its state on disk; in `work` lies what is no part of the finished one."""

    def __init__(
        self,
        synth: Synthesizer,
        order: Order,
        out: Path,
        gate: Gate | None,
        workers: Workers,
        watch: Callable[[Drawn], None] | None,
    ) -> None:
        self.order, self.out, self.work = order, out, out / WORK_NAME
        self.gate, self.workers, self.watch = gate, workers, watch
        self.format = CLASSES[order.format](synth, order)
        tries = order.tries or TRIES * order.count
        self.limit = order.count if gate is None else tries
        self.painter = Painter(synth, order)
        # an image that may be dropped has no final name before all are drawn
        self.staged = gate is not None or self.format.unique or self.format.packs
        self._new = not out.exists()
        self._passed: dict[int, int] = {}  # by block, of those that are drawn
        self._ordered: dict[str, Any] = {}  # what export.json says

    def check(self, resume: bool) -> None:
        """Refuse (ValueError) what cannot be made, and a folder of something else."""
        self.format.check()
        if self.gate is not None and self.limit < self.order.count:
            raise ValueError(f"--tries {self.limit}: expected at least --count, {self.order.count}")
        self._ordered = {
            "version": VERSION,
            "checkpoint_sha256": self.format.synth.checkpoint_hash,
            **self.order.to_json(),
            "gate": self.gate.to_json() if self.gate is not None else None,
        }
        found = sorted(path.name for path in self.out.iterdir()) if self.out.exists() else []
        if all(name[0] == "." and name.endswith(".tmp") for name in found):
            return
        path = self.out / ORDER_NAME
        if not path.is_file():
            raise ValueError(f"{self.out}: is not empty; choose another --out, or remove it first")
        if not resume and self.workers.world == 1:
            state = "a finished export" if self.finished() else "an export that was stopped"
            raise ValueError(
                f"{self.out}: is not empty, it holds {state}; go on with it by the same command "
                "and --resume, choose another --out, or remove it first"
            )
        _compare(path, self._ordered)

    def finished(self) -> bool:
        """Whether every image is there."""
        return (self.out / MANIFEST_NAME).is_file() and (self.out / ORDER_NAME).is_file()

    def make(self) -> None:
        """Draw this process's share; whoever finds all of it drawn puts the export together."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / ORDER_NAME).is_file():  # first of all: it says whose folder this is
            write_json_atomic(self.out / ORDER_NAME, self._ordered)
            sync_folder(self.out)
        self.work.mkdir(exist_ok=True)
        self._draw()
        with locked(self.out):  # processes of one machine may come here at once
            fates = None if self.finished() else self._fates()
            if fates is not None:
                self._finish(fates)

    def clear(self) -> None:
        """Remove from a finished export what it was made with, and what kills left half-written."""
        shutil.rmtree(self.work, ignore_errors=True)
        for left in self.out.rglob(".*.tmp"):
            left.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove an export that has made no image yet, as if it had not been started."""
        if not self.out.is_dir():
            return
        order = self.out / ORDER_NAME
        if any(path.is_file() and path != order for path in self.out.rglob("*")):
            return
        order.unlink(missing_ok=True)
        for folder in list(self.out.iterdir()):
            shutil.rmtree(folder)  # without a file in it
        if self._new:
            self.out.rmdir()

    # --- drawing ---------------------------------------------------------------------------------

    @property
    def _blocks(self) -> range:
        return range(-(-self.limit // self.order.batch_size))

    def _draw(self) -> None:
        """Every `world`-th block from `rank` on, without those that are there or not needed."""
        rank, world, count = self.workers.rank, self.workers.world, self.order.count
        quiet = None if self.workers.writes else True  # None: unless on a terminal
        with tqdm(total=count, desc="generate", unit="image", disable=quiet) as bar:
            for number in self._blocks[rank::world]:
                if self.gate and sum(self._passes(n) or 0 for n in range(number)) >= count:
                    return  # whatever the others find in between, enough pass before this block
                if self._passes(number) is None:
                    self._draw_block(number)
                bar.update(min((self._passes(number) or 0) * world, count - bar.n))

    def _passes(self, number: int) -> int | None:
        """How many images of a block have passed; None while it is not all there."""
        if number not in self._passed:
            rows = self._rows(number)
            if rows is None:
                return None
            self._passed[number] = sum(not row["reason"] for row in rows)
        return self._passed[number]

    def _indices(self, number: int) -> range:
        size = self.order.batch_size
        return range(number * size, min((number + 1) * size, self.limit))

    def _rows(self, number: int) -> list[Row] | None:
        """The rows of a block, with their final paths; None while it is not all there."""
        rows = [self.painter.row(index) for index in self._indices(number)]
        found = self._findings(number) if self.gate is not None else [{"reason": ""}] * len(rows)
        if len(found) != len(rows) or not all("reason" in more for more in found):
            return None
        for row, more in zip(rows, found, strict=True):
            row |= more
            row |= self.format.place_reject(row) if row["reason"] else self.format.place(row)
        columns = self.format.files
        files = (self._lies(row, column) for row in rows for column in columns if row[column])
        return rows if all(file.is_file() for file in files) else None

    def _findings(self, number: int) -> list[Row]:
        """What the gate found in a block; nothing while it is missing, or where it is damaged."""
        try:
            found: list[Row] = typed(read_json(self._findings_file(number)), list[dict[str, Any]])
        except (FileNotFoundError, ValueError):
            return []
        return found

    def _findings_file(self, number: int) -> Path:
        return self.work / f"block-{number:06d}"

    def _lies(self, row: Row, column: str) -> Path:
        """Where an image or a mask lies now."""
        final = self.out / row[column]
        return final if final.is_file() else drawn_file(self.out, row["index"], column)

    def _draw_block(self, number: int) -> None:
        """Write a block; with a gate it is all there only where its findings are, too."""
        drawn = self.painter(self._indices(number))
        if self.watch is not None:
            self.watch(drawn)
        if self.gate is not None:
            found = self.gate(drawn, self.order.parts)
            write_atomic(self._findings_file(number), json.dumps(found).encode())
        folders = set()
        made = (drawn.images, drawn.masks, () if drawn.soft is None else drawn.soft)
        for column, pictures in zip(self.format.files, made, strict=False):
            for row, picture in zip(drawn.rows, pictures, strict=True):
                path = self.out / self.format.place(row)[column]
                if self.staged:
                    path = drawn_file(self.out, row["index"], column)
                if path != self.out:  # a format without masks
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, to_png(picture))
                    folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    # --- the end ---------------------------------------------------------------------------------

    def _fates(self) -> list[Row] | None:
        """Every image until enough have passed, kept or not; None while others are at a block."""
        fates, passed, seen = list[Row](), 0, set[str]()
        for number in self._blocks:
            rows = self._rows(number)
            if rows is None:
                return None
            for row in rows:
                if not row["reason"]:
                    passed += 1
                    if self.format.unique:
                        self._look_at(row, seen)
                fates.append(row)
                if passed == self.order.count:
                    return fates
        return fates

    def _look_at(self, row: Row, seen: set[str]) -> None:
        """Refuse a copy, and leave out a mask that holds nothing."""
        row["sha256"] = sha256_of(self._lies(row, "path"))
        if row["sha256"] in seen:
            row |= {"reason": COPY} | self.format.alone("")
            return
        seen.add(row["sha256"])
        with decoded(self._lies(row, self.format.mask)) as mask:
            if mask.getbbox() is None:
                row[self.format.mask] = ""

    def _finish(self, fates: list[Row]) -> None:
        """Give images their final names, list what was refused, let the format do the rest."""
        kept = [row for row in fates if not row["reason"]]
        refused = [row for row in fates if row["reason"]]
        if self.staged:
            self._give_names(fates)
        columns = self.gate.columns if self.gate is not None else ()
        if self.gate is not None or refused:
            if self.format.packs_rejects:
                rejects = ((row["path"], self._lies(row, "path")) for row in refused if row["path"])
                members = ((Path(name).name, path.read_bytes()) for name, path in rejects)
                write_tar(self.out / "rejects.tar", members)
            write_table(self.out / REJECTS_NAME, (*REJECT_COLUMNS, *columns, "reason"), refused)
        if not kept:
            raise NothingPassedError(
                f"{self.out}: the gate refused all of {self.limit} images, expected "
                f"{self.order.count} to pass; {self.out / REJECTS_NAME} says why. Lower the "
                "thresholds, or train longer"
            )
        self.format.finish(self.out, kept, columns)
        sync_folder(self.out)

    def _give_names(self, fates: list[Row]) -> None:
        """Move what does not go into an archive; a call that was stopped may have done some."""
        folders = set()
        for row in fates:
            packed = self.format.packs_rejects if row["reason"] else self.format.packs
            for column in self.format.files:
                if row[column] and not packed:
                    source, final = self._lies(row, column), self.out / row[column]
                    final.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(source, final)
                    folders.add(final.parent)
        for folder in folders:
            sync_folder(folder)


def _compare(path: Path, order: dict[str, Any]) -> None:
    """Refuse an export.json that asks for something else."""
    try:
        found = typed(read_json(path), dict[str, Any])
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as the order of an export ({error}); remove {path.parent} "
            "and start anew"
        ) from error
    wanted = json.loads(json.dumps(order))
    for key in dict.fromkeys([*wanted, *found]):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{path}: found {key} = {found.get(key)!r}, expected {wanted.get(key)!r}; give "
                "the same arguments with --resume, or choose another --out"
            )
