"""The gate: what a judge and the training images say of an image before it is exported.

An image passes when the judge is sure enough of the wanted defect, sees the product that the
background has, and when nothing in the training set comes too near.  Everything else is refused,
with every reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dtgan_core.dataset import DatasetError
from dtgan_core.files import sha256_of
from dtgan_lab.data.dataset import HELD_OUT, Dataset
from dtgan_lab.data.validation import require_labels
from dtgan_lab.export.drawing import Drawn, Part, Row
from dtgan_lab.measure.neighbours import Gallery, Search

if TYPE_CHECKING:
    from dtgan_core.synthesis import Synthesizer
    from dtgan_lab.measure.judge import Judge

JUDGE_COLUMNS = ("confidence", "judged_defect", "judged_product")
COPY_COLUMNS = ("copy_distance", "nearest")
TRIES = 10  # times count, unless told otherwise
Answer = tuple[Row, list[str]]  # columns of an image, and why it must not pass


@dataclass(frozen=True)
class Rules:
    """What an image must meet."""

    min_confidence: float = 0.5  # probability of the wanted defect, in the judge's eyes
    keep_product: bool = False  # whether the judge must see the product of the background
    # To the nearest training image with a defect, where 1 is what held-out real images have in the
    # median; None: the limit below which `neighbours.Search` speaks of a copy.
    min_copy_distance: float | None = None


class Gate:
    """Looks at images, and says why one must not pass; `columns` go into the manifest."""

    def __init__(
        self,
        rules: Rules,
        judge: Judge | None = None,
        copies: CopySearch | None = None,
        judge_sha256: str = "",
    ) -> None:
        """Put a gate together; ValueError: nobody to ask, or a rule that nobody can answer."""
        if judge is None and copies is None:
            raise ValueError("--gate: expected --judge FOLDER, or --data with training images")
        if rules.keep_product and judge is None:
            raise ValueError("--keep-product: expected --judge FOLDER, who knows the products")
        if rules.min_copy_distance is not None and copies is None:
            raise ValueError("--min-copy-distance: expected --data with the training images")
        self.rules, self.judge, self.copies = rules, judge, copies
        self.judge_sha256 = judge_sha256
        self.columns = (*(JUDGE_COLUMNS if judge else ()), *(COPY_COLUMNS if copies else ()))

    @classmethod
    def load(
        cls,
        rules: Rules,
        synth: Synthesizer,
        judge: Path | None = None,
        dataset: Dataset | None = None,
        held_out: tuple[str, ...] = HELD_OUT,
    ) -> Gate:
        """Load a judge and training images, and check that they fit the model.

        CheckpointError: no judge in the folder. ValueError: judge or data have other labels or
        another size than the model. DatasetError: the data has no image with a defect in train, or
        in `held_out`, the splits that say what is usual.
        """
        loaded, digest = None, ""
        if judge is not None:
            from dtgan_lab.measure.judge import WEIGHTS_NAME, Judge  # no need of it without one

            loaded = Judge.load(judge, synth.device)
            model = synth.config.model
            loaded.check_names(synth.products, synth.defects, "the model")
            loaded.check_images(model.channels, model.image_size, model.image_size)
            digest = sha256_of(judge / WEIGHTS_NAME)
        copies = CopySearch(dataset, synth, held_out) if dataset is not None else None
        return cls(rules, loaded, copies, digest)

    def to_json(self) -> dict[str, Any]:
        """What export.json says of it."""
        return {
            **asdict(self.rules),
            "judge_sha256": self.judge_sha256,
            "data_manifest_sha256": self.copies.manifest_hash if self.copies else "",
        }

    def __call__(self, drawn: Drawn, parts: Mapping[str, Part]) -> list[Row]:
        """What it finds in each image: its columns, and "reason", '' for an image that passes.

        `parts` tells the product of a background, as text, where it is known.
        """
        fakes = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        asked: list[Iterator[Answer]] = []
        if self.judge is not None:
            asked.append(self._ask_judge(self.judge, fakes, drawn, parts))
        if self.copies is not None:
            asked.append(self._ask_copies(self.copies, fakes, drawn))
        found: list[Row] = []
        for answers in zip(*asked, strict=True):
            row = {name: value for columns, _ in answers for name, value in columns.items()}
            found.append(
                row | {"reason": "; ".join(why for _, reasons in answers for why in reasons)}
            )
        return found

    @staticmethod
    def _products(judge: Judge, drawn: Drawn, parts: Mapping[str, Part]) -> list[str]:
        """The product of each background, as given, or else as the judge sees it."""
        given = [parts.get(row["background"], Part()).product for row in drawn.rows]
        if all(given):
            return given
        seen = judge(drawn.sources).product
        names = [judge.products[0 if seen is None else int(seen[n])] for n in range(len(given))]
        return [known or name for known, name in zip(given, names, strict=True)]

    def _ask_judge(
        self, judge: Judge, fakes: Tensor, drawn: Drawn, parts: Mapping[str, Part]
    ) -> Iterator[Answer]:
        products, prediction, rules = self._products(judge, drawn, parts), judge(fakes), self.rules
        for n, row in enumerate(drawn.rows):
            reasons: list[str] = []
            label = judge.defects.index(row["defect"])
            confidence = round(float(prediction.defect_probability[n, label]), 4)
            seen = judge.defects[int(prediction.defect[n])]
            which = 0 if prediction.product is None else int(prediction.product[n])
            product = judge.products[which]
            if confidence < rules.min_confidence:
                reasons.append(
                    f"confidence {confidence:.2f} in {row['defect']}, expected at least "
                    f"{rules.min_confidence:g} (the judge sees {seen})"
                )
            if rules.keep_product and product != products[n]:
                reasons.append(f"the judge sees product {product}, expected {products[n]}")
            yield dict(zip(JUDGE_COLUMNS, (confidence, seen, product), strict=True)), reasons

    def _ask_copies(self, copies: CopySearch, fakes: Tensor, drawn: Drawn) -> Iterator[Answer]:
        limit = self.rules.min_copy_distance
        for distance, name, copied in copies(fakes, drawn.masks):
            reasons: list[str] = []
            if copied if limit is None else distance < limit:
                expected = "that of a real image" if limit is None else f"at least {limit:g}"
                reasons.append(f"copy distance {distance:.2f} to {name}, expected {expected}")
            yield dict(zip(COPY_COLUMNS, (round(distance, 4), name), strict=True)), reasons


class CopySearch:
    """How near images come to the training images with a defect.

    Good parts are left out: an image is meant to look like its background.
    """

    def __init__(
        self, dataset: Dataset, synth: Synthesizer, held_out: tuple[str, ...] = HELD_OUT
    ) -> None:
        """Read the images of a data set that have a defect; see `Gate.load` for what is refused."""
        info, manifest = dataset.info, dataset.manifest
        require_labels(dataset, synth.products, synth.defects)
        self.manifest_hash = dataset.manifest_hash
        model = synth.config.model
        faulty = manifest[manifest["defect"] != info.anchor]

        def gallery(splits: tuple[str, ...]) -> tuple[Gallery, list[str]]:
            rows = faulty[faulty["split"].isin(splits)]
            if rows.empty:
                raise DatasetError(
                    f"{dataset.root}: found no image with a defect in {' and '.join(splits)}, "
                    "expected some, to tell copies by; leave --data out of `generate`, or make "
                    f"the data set again: {info.command}"
                )
            store = dataset.store_of(rows, model.image_size, model.channels)
            return Gallery.of(store, torch.arange(len(store))), store.paths

        taught, self._names = gallery(("train",))
        self._search = Search(taught, gallery(held_out)[0])

    def __call__(self, fakes: Tensor, masks: np.ndarray) -> list[tuple[float, str, bool]]:
        """Distance, nearest training image and whether that is a copy, of each image (N, ch, H, W).

        The smaller of two distances counts: of the whole image, and (where the data has masks) of
        the surroundings of the defect; 1 is the median of held-out real images.
        """
        where = torch.from_numpy(masks)[:, None] > 0  # (N, 1, H, W)
        where |= ~where.flatten(1).any(dim=1)[:, None, None, None]  # nothing to see: the middle
        found = self._search(Gallery(fakes, where), count=1).values()
        scores = torch.stack([space.score for space in found])  # (spaces, N)
        copied = torch.stack([space.copies for space in found]).any(dim=0)
        index = torch.stack([space.index[:, 0] for space in found])
        lowest, space = scores.min(dim=0)
        return [
            (float(lowest[n]), self._names[int(index[space[n], n])], bool(copied[n]))
            for n in range(len(fakes))
        ]
