"""The export itself: blocks are drawn, judged and written; then what is kept is put together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from dtgan_core.distributed import Workers, gather, wait
from dtgan_core.files import sync_folder, write_atomic
from dtgan_core.images import to_png
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.export.coco import Coco
from dtgan_lab.export.drawing import Drawn, Order, Part, Row, Shuffle
from dtgan_lab.export.formats import ExportOptions, Folder, ImageFolder, Places, write_table
from dtgan_lab.export.gate import TRIES, Gate
from dtgan_lab.export.layout import Layout
from dtgan_lab.export.records import MANIFEST_NAME, REJECTS_NAME, Records
from dtgan_lab.export.shards import Shards, write_tar

CLASSES: dict[str, type[Folder]] = {
    "folder": Folder,
    "imagefolder": ImageFolder,
    "layout": Layout,
    "coco": Coco,
    "tar": Shards,
}
REJECT_COLUMNS = ("path", "background", "defect", "reference", "seed", "index")


def check_order(order: Order, synth: Synthesizer) -> None:
    """Refuse what cannot be made.

    Raises:
        ValueError: nothing is asked for, or something that the model does not know.
    """
    if order.count < 1:
        raise ValueError(f"count is {order.count}; expected at least 1")
    if order.batch_size < 1:
        raise ValueError(f"batch size is {order.batch_size}; expected at least 1")
    if not order.backgrounds:
        raise ValueError("found no background; expected at least one image file")
    if not order.defects or len(set(order.defects)) < len(order.defects):
        raise ValueError(f"defects are {', '.join(order.defects)}; expected each once")
    for defect in order.defects:
        synth.label(defect, 1)
        if order.references is not None and not order.references.get(defect):
            raise ValueError(f"found no reference of {defect}; expected at least one image")


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
        """Draw some indices together.

        Raises:
            ImageError: a background or reference cannot be read.
        """
        synth, order = self.synth, self.order
        rows = [self._row(index) for index in indices]
        defects = [row["defect"] for row in rows]
        x = synth.images([row["background"] for row in rows])
        if order.references is None:
            guide = synth.latent_guides(defects, order.seed, indices)
        else:
            guide = synth.reference_guides(
                synth.images([row["reference"] for row in rows]), defects
            )
        background = synth.background(x)
        images = to_uint8(synth.paint(background, guide))
        # Against the model's own Normal: what it fails to reconstruct of a part is no defect.
        masks = synth.masks(to_uint8(synth.without_defect(background)), images)
        return Drawn(rows, images, masks, x)

    def _row(self, index: int) -> Row:
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
    backgrounds: Sequence[Path],
    defect: str | Sequence[str],
    count: int,
    seed: int,
    out: Path,
    references: Sequence[Path] | Mapping[str, Sequence[Path]] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    workers: Workers | None = None,
    *,
    options: ExportOptions | None = None,
    gate: Gate | None = None,
    parts: Mapping[str, Part] | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Put `count` defects onto backgrounds and write images, approximate masks and a manifest.

    The image of an index depends on the checkpoint, the seed, the backgrounds and the references.
    On one machine it is the same to the byte however often the export was stopped and however many
    processes share it; another batch size may change a pixel by one level.

    Args:
        synth: the model.
        backgrounds: defect-free images, each used in turn in a random order.
        defect: what to put onto them; several take turns.
        count: images to keep.
        seed: of latents and of the order of backgrounds and references.
        out: folder to write; new, empty, or with `resume` an unfinished export of the same order.
        references: images to take the defect and its style from, a list for each defect where
            there are several; None draws latents.
        batch_size: images computed together.
        progress: show a bar.
        workers: this process among those that torchrun started; each takes every `world`-th block.
        options: how images are laid out on disk.
        gate: refuses images, until `count` have passed or `options.tries` were made.
        parts: background, as text -> product and group, where they are known.
        resume: go on with an export that was stopped.

    Returns:
        The manifest, with the columns `EXPORT_COLUMNS` and those of the gate; of the format
        "layout" the manifest of the data set.

    Raises:
        ValueError: `out` holds something else, or the order cannot be made.
        NothingPassedError: the gate refused every image.
        ImageError: a background or reference cannot be read.
        OSError: the disk is full; what was written is whole, and `resume` goes on from it.
    """
    defects = (defect,) if isinstance(defect, str) else tuple(defect)
    if references is not None and not isinstance(references, Mapping):
        if len(defects) > 1:
            raise ValueError("references: expected images for each defect, found one list for all")
        references = {defects[0]: references}
    order = Order(
        tuple(backgrounds), defects, count, seed, references, batch_size, dict(parts or {})
    )
    options = options or ExportOptions()
    export = _Export(synth, order, options, gate, Records(out), workers or Workers())
    export.check(resume)
    if not export.records.finished():
        try:
            export.make(progress)
        except BaseException:
            if export.workers.world == 1:
                export.records.abandon()
            raise
    if export.workers.writes:
        export.records.clear()
    return pd.read_csv(out / MANIFEST_NAME, keep_default_na=False)


@dataclass
class _Export:
    synth: Synthesizer
    order: Order
    options: ExportOptions
    gate: Gate | None
    records: Records
    workers: Workers

    def __post_init__(self) -> None:
        self.format: Folder = CLASSES[self.options.format](self.synth, self.order, self.options)
        tries = self.options.tries or TRIES * self.order.count
        self.limit = self.order.count if self.gate is None else tries

    @property
    def out(self) -> Path:
        return self.records.out

    def check(self, resume: bool) -> None:
        """Refuse what cannot be made, before anything is written."""
        check_order(self.order, self.synth)
        self.format.check()
        if self.gate is not None and self.limit < self.order.count:
            raise ValueError(f"--tries {self.limit}: expected at least --count, {self.order.count}")
        self._told = {
            "checkpoint_sha256": self.synth.checkpoint_hash,
            **self.order.to_json(),
            **self.options.to_json(),
            "gate": self.gate.to_json() if self.gate is not None else None,
        }
        self.records.check(self._told, resume)
        wait(self.workers)  # everybody has looked at `out` before anybody writes

    def make(self, progress: bool) -> None:
        """Draw every block that is not on disk yet, then finish."""
        if self.workers.writes:
            self.records.start(self._told)
        wait(self.workers)
        self._draw(progress)
        wait(self.workers)  # every block is on disk
        if self.workers.writes:
            self._finish()
        wait(self.workers)

    # --- blocks ----------------------------------------------------------------------------------

    def _draw(self, progress: bool) -> None:
        size, world = self.order.batch_size, self.workers.world
        blocks = -(-self.limit // size)
        painter = Painter(self.synth, self.order)
        passed = 0
        quiet = None if progress and self.workers.writes else True  # None: unless on a terminal
        with tqdm(total=self.order.count, desc="generate", unit="image", disable=quiet) as bar:
            for first in range(0, blocks, world):
                number = first + self.workers.rank
                mine = 0
                if number < blocks:
                    rows = self.records.read(number)
                    if rows is None:
                        indices = range(number * size, min((number + 1) * size, self.limit))
                        rows = self._write_block(number, painter(indices))
                    mine = sum(not row["reason"] for row in rows)
                if self.gate is None:  # nobody needs to know how far the others are
                    bar.update(min(mine * world, self.order.count - bar.n))
                    continue
                everybody = gather([{"passed": mine}], self.workers)
                found = sum(int(str(row["passed"])) for row in everybody)
                passed += found
                bar.update(min(found, self.order.count - bar.n))
                if passed >= self.order.count:
                    return

    def _write_block(self, number: int, drawn: Drawn) -> list[Row]:
        """Judge a block, write its files, note it down."""
        nothing: list[Row] = [{"reason": ""} for _ in drawn.rows]
        found = nothing if self.gate is None else self.gate(drawn, self.order.parts)
        rows = [row | more for row, more in zip(drawn.rows, found, strict=True)]
        for row, image, mask in zip(rows, drawn.images, drawn.masks, strict=True):
            places = self._place(row, bool(mask.any()))
            data = to_png(image)
            self._write(places.file, data)
            if places.mask_file:
                self._write(places.mask_file, to_png(mask))
            row |= {
                "path": places.path,
                "approximate_mask": places.mask,
                "file": places.file,
                "mask_file": places.mask_file,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        self.records.write(number, rows)
        return rows

    def _place(self, row: Row, has_mask: bool) -> Places:
        if row["reason"]:
            return self.format.place_reject(row)
        return self.format.place(row, has_mask)

    def _write(self, name: str, data: bytes) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    # --- the end ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Drop what is too many, list what was refused, let the format write its manifest."""
        columns = self.gate.columns if self.gate is not None else ()
        kept = 0
        for row, fate in self._fates():
            kept += fate == "kept"
            if fate in ("repeated", "beyond"):
                for name in (row["file"], row["mask_file"]):
                    if name:
                        (self.out / name).unlink(missing_ok=True)
        refused = any(fate in ("refused", "repeated") for _, fate in self._fates())
        if refused or self.gate is not None:
            self._pack_rejects()
            table = (*REJECT_COLUMNS, *columns, "reason")
            write_table(self.out / REJECTS_NAME, table, self._rejects())
        if not kept:
            raise NothingPassedError(
                f"{self.out}: the gate refused all of {self.limit} images, expected "
                f"{self.order.count} to pass; {self.out / REJECTS_NAME} says why. Lower the "
                "thresholds, or train longer"
            )
        self.format.finish(self.out, self._kept, columns)
        sync_folder(self.out)

    def _fates(self) -> Iterator[tuple[Row, str]]:
        """Every row in the order of its index, and what becomes of it.

        "kept", "refused" by the gate, "repeated" where the format wants no two equal images, and
        "beyond" where processes went on after enough had passed.
        """
        passed, seen = 0, set()
        for row in self.records.rows():
            if passed == self.order.count:
                yield row, "beyond"
            elif row["reason"]:
                yield row, "refused"
            elif self.format.unique and row["sha256"] in seen:
                passed += 1
                yield row, "repeated"
            else:
                passed += 1
                if self.format.unique:
                    seen.add(row["sha256"])
                yield row, "kept"

    def _kept(self) -> Iterator[Row]:
        return (row for row, fate in self._fates() if fate == "kept")

    def _rejects(self) -> Iterator[Row]:
        for row, fate in self._fates():
            if fate == "refused":
                yield row
            elif fate == "repeated":
                reason = "a copy: the same bytes as an image before it; give more backgrounds"
                yield row | {"path": "", "reason": reason}

    def _pack_rejects(self) -> None:
        if self.format.packs_rejects:
            members = (
                (Path(row["file"]).name, (self.out / row["file"]).read_bytes())
                for row, fate in self._fates()
                if fate == "refused"
            )
            write_tar(self.out / "rejects.tar", members)
