"""What a downstream classifier is taught, and the watch over images that are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dtgan_core.batches import ImageStore, step_generator
from dtgan_core.dataset import DatasetError
from dtgan_core.files import sha256_of
from dtgan_lab.data.dataset import HELD_OUT, Dataset, numbers_of
from dtgan_lab.export.drawing import Shuffle

if TYPE_CHECKING:
    from dtgan_core.synthesis import Synthesizer
    from dtgan_lab.baselines.zoo import System
    from dtgan_lab.export.gate import Gate

TAUGHT = ("train", "pool")  # the splits a classifier may see
RETRY = 2**32  # between the seeds of two rounds of a task: far from those of other training sets
_TENSORS = ("images", "defects", "products", "is_synthetic", "known", "flips")


class GateCount(NamedTuple):
    """Images of a defect that were wanted, draws that did not pass, and wanted ones without any."""

    asked: int = 0
    refused: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class TrainingSet:
    """What a classifier is taught."""

    images: Tensor  # uint8 (N, ch, H, W), 0 to 255
    defects: Tensor  # int64 (N,), labels y
    products: Tensor  # int64 (N,), labels p
    is_synthetic: Tensor  # bool (N,)
    # bool (N,); false where only "some defect" is known, and y is where it stands in for
    known: Tensor
    flips: Tensor  # bool (N, 2), whether an image may be flipped (horizontally, vertically)
    # N tuples of manifest paths: the image itself, or background and reference; empty where a
    # model made an image from nothing
    sources: tuple[tuple[str, ...], ...]
    # defect y -> what a gate did, over all products; empty without one
    gate: Mapping[int, GateCount] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.sources)

    def chosen(self, mask: Tensor) -> TrainingSet:
        """Those for which `mask`, bool (N,), is true, without what a gate did."""
        tensors = {name: getattr(self, name)[mask] for name in _TENSORS}
        kept = zip(self.sources, mask.tolist(), strict=True)
        return TrainingSet(**tensors, sources=tuple(source for source, keep in kept if keep))

    def counts(self, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Real and synthetic images of each defect, by the defects' names."""
        return {
            name: {
                "real": int(((self.defects == y) & ~self.is_synthetic).sum()),
                "synthetic": int(((self.defects == y) & self.is_synthetic).sum()),
            }
            for y, name in enumerate(names)
        }

    def gate_counts(self, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Images asked, refused and left out of each defect, by the defects' names."""
        return {name: self.gate.get(y, GateCount())._asdict() for y, name in enumerate(names)}


class Need(NamedTuple):
    """Something that an arm cannot do without, and the option of `classify` that names it."""

    what: str
    option: str


MODEL = Need("a trained model", "--checkpoint DIR")
JUDGE = Need("a judge", "--judge DIR")


def baseline_need(name: str) -> Need:
    """The need of an arm for a trained baseline."""
    return Need(f"a trained {name}", f"--baseline {name}=DIR")


@dataclass(frozen=True)
class Materials:
    """What arms are made of: training images on the CPU, and what some arms need."""

    store: ImageStore
    synth: Synthesizer | None = None
    baselines: Mapping[str, System] = field(default_factory=dict)
    gate: Gate | None = None

    def given(self) -> dict[Need, Any]:
        """The needs that are met, each with what meets it."""
        parts: dict[Need, Any] = {MODEL: self.synth, JUDGE: self.gate}
        parts |= {baseline_need(name): system for name, system in self.baselines.items()}
        return {need: part for need, part in parts.items() if part is not None}

    def the(self, need: Need) -> Any:
        """What meets a need; ValueError where nothing does."""
        if need not in (given := self.given()):
            raise ValueError(f"this arm needs {need.what}; name one with {need.option}")
        return given[need]

    def donor(self, name: str | None) -> int | None:
        """Label of the product, one of the data's, that defects are to come from; None: any."""
        if name is None:
            return None
        if name not in self.store.product_names:
            known = ", ".join(self.store.product_names)
            raise ValueError(
                f"{self.store.root}: no product {name!r} to take defects from: {known}"
            )
        return self.store.product_names.index(name)

    def cell(self, product: int | None, defect: int) -> list[int]:
        """Numbers of the training images of a product (None: any) and defect."""
        return numbers_of(self.store, product, defect)


@dataclass(frozen=True)
class Task:
    """Some images to make for one product and defect."""

    product: int  # label p
    defect: int  # label y
    backgrounds: list[int]  # numbers of training images of Normal, one an image to make
    first: int  # number of the first of them, unique over all tasks of a seed
    seed: int  # of the whole training set

    def generator(self) -> torch.Generator:
        """A generator of this task's own."""
        return step_generator(f"{self.seed}/arm", self.first)

    def references(self, choices: list[int]) -> list[int]:
        """One of the choices for each image, every one as often as any other."""
        of_reference = Shuffle(len(choices), self.seed, f"references/{self.product}/{self.defect}")
        return [choices[of_reference[self.first + i]] for i in range(len(self.backgrounds))]

    def sources(self, references: list[int] | None = None) -> list[tuple[int, ...]]:
        """Background, and reference where there is one, of each image."""
        if references is None:
            return [(background,) for background in self.backgrounds]
        return list(zip(self.backgrounds, references, strict=True))

    def again(self, backgrounds: list[int]) -> Task:
        """A task for some of its backgrounds that draws everything else anew."""
        return replace(self, backgrounds=backgrounds, seed=self.seed + RETRY)


class Painted(NamedTuple):
    """Images of a task, (n, ch, H, W) in [-1, 1] on the CPU.

    `sources` are numbers of the training images that each was made of: background and reference,
    background alone, or none.
    """

    images: Tensor
    sources: list[tuple[int, ...]]


def joined(parts: list[TrainingSet]) -> TrainingSet:
    """Training sets one after the other, as one."""
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
    gate: dict[int, GateCount] = {}
    for y, count in (item for part in parts for item in part.gate.items()):
        before = gate.get(y, GateCount())
        gate[y] = GateCount(*(a + b for a, b in zip(before, count, strict=True)))
    return TrainingSet(
        **tensors, sources=tuple(s for part in parts for s in part.sources), gate=gate
    )


def training_store(dataset: Dataset, image_size: int, channels: int) -> ImageStore:
    """What may be learned from: the split `train`, and the extra Normal images of `pool`."""
    manifest, anchor = dataset.manifest, dataset.info.anchor
    extra = (manifest["split"] == "pool") & (manifest["defect"] == anchor)
    return dataset.store_of(manifest[(manifest["split"] == "train") | extra], image_size, channels)


# --- held-out images stay held out ---------------------------------------------------------------


def refuse_leaks(sources: set[str], dataset: Dataset) -> None:
    """Refuse a training set with a held-out image, its twin, or an image of its group.

    A DatasetError names every leak among `sources`, the manifest paths that a set was made of.
    """
    manifest = dataset.manifest
    held = manifest[manifest["split"].isin(HELD_OUT)]
    rows = manifest[manifest["path"].isin(sources)]
    twins = {sha256_of(dataset.root / twin) for twin in set(held["twin"]) if twin}
    leaks: dict[str, Iterable[str]] = {
        "not in the manifest": sources - set(rows["path"]),
        "held-out split": rows.loc[~rows["split"].isin(TAUGHT), "path"],
        "held-out group": rows.loc[rows["group"].isin(held["group"]), "path"],
        "held-out image": rows.loc[rows["sha256"].isin(held["sha256"]), "path"],
        "twin of a held-out image": rows.loc[rows["sha256"].isin(twins), "path"],
    }
    problems = {
        kind: [f"{dataset.root / path}: {kind}" for path in sorted(paths)]
        for kind, paths in leaks.items()
        if len(list(paths))
    }
    if problems:
        raise DatasetError(
            f"{dataset.root}: these images must not be learned from; expected images of "
            f"{' and '.join(TAUGHT)} alone, in groups of their own:",
            problems,
        )
