"""The arms of the downstream comparison, as data: what each puts into a classifier's training set.

    materials = Materials(store, synth)
    taught = ARMS["copy-paste"].training_set(materials, images_per_class=1200, seed=0)

Every arm gets the same Normal images and all real training defects.  An arm with synthetic images
fills every product x defect up to the number of its Normal images (or to what passes its gate); the
others leave that to oversampling.  Backgrounds and references are training images alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from dtgan_core.batches import ImageStore, step_generator
from dtgan_core.dataset import DatasetError
from dtgan_lab.baselines.paste import cut_paste, cut_paste_scar, paste_defects, perlin_anomalies
from dtgan_lab.baselines.zoo import BASELINES, ZOO, Wish
from dtgan_lab.downstream.classifier import Reversal
from dtgan_lab.downstream.gate import Painter, paint_until_passed
from dtgan_lab.downstream.training_set import (
    JUDGE,
    MODEL,
    GateCount,
    Materials,
    Need,
    Painted,
    Task,
    TrainingSet,
    baseline_need,
    joined,
)
from dtgan_lab.export.drawing import Shuffle

CHUNK = 64  # images painted together; a part of what a seed means
TEXTURES = 256  # images that Perlin anomalies take their textures from, at most

# --- painters ------------------------------------------------------------------------------------


def paint_latent(materials: Materials, task: Task) -> Painted:
    """DT-GAN, a random defect on each background (latent-guided)."""
    synth, store = materials.the(MODEL), materials.store
    x = store.to_float(torch.tensor(task.backgrounds))
    name = store.defect_names[task.defect]
    return Painted(synth.latent_guided(x, name, task.seed, task.first).cpu(), task.sources())


def paint_reference(materials: Materials, task: Task, donor: str | None = None) -> Painted:
    """DT-GAN, the defect of a training image of any product, or of one (reference-guided)."""
    synth, store = materials.the(MODEL), materials.store
    references = task.references(materials.cell(materials.donor(donor), task.defect))
    x, x_ref = (store.to_float(torch.tensor(index)) for index in (task.backgrounds, references))
    made = synth.reference_guided(x, x_ref.to(synth.device), store.defect_names[task.defect])
    return Painted(made.cpu(), task.sources(references))


def paint_both(materials: Materials, task: Task) -> Painted:
    """DT-GAN, latent- and reference-guided in turn."""
    reference, latent = paint_reference(materials, task), paint_latent(materials, task)
    odd = torch.arange(task.first, task.first + len(task.backgrounds)) % 2 == 1
    mixed = torch.where(odd[:, None, None, None], latent.images, reference.images)
    ways = zip(odd.tolist(), latent.sources, reference.sources, strict=True)
    return Painted(mixed, [one if is_odd else other for is_odd, one, other in ways])


def paint_baseline(name: str, materials: Materials, task: Task) -> Painted:
    """A system other than DT-GAN, by its first way; references are training images."""
    system, store = materials.the(baseline_need(name)), materials.store
    cell = store.product_names[task.product], store.defect_names[task.defect]
    x, way = store.to_float(torch.tensor(task.backgrounds)), system.ways[0]
    references, x_ref = list[int](), None
    if way == "reference":
        product = task.product if system.own_references else None
        references = task.references(materials.cell(product, task.defect))
        x_ref = store.to_float(torch.tensor(references))
    made = system.images_of(Wish(*cell, x, x_ref, task.seed, task.first), way)
    onto = system.onto_parts
    return Painted(made.images, task.sources(references or None) if onto else [()] * len(x))


def paint_pasted(
    materials: Materials, task: Task, donor: str | None = None, own: bool = False
) -> Painted:
    """Copy-paste of real training defects of any product, of one, or of the part's own."""
    store, masks = materials.store, materials.store.masks()
    product = task.product if own else materials.donor(donor)
    with_mask = [
        i for i in materials.cell(product, task.defect) if masks is not None and masks[i].any()
    ]
    if masks is None or not with_mask:
        place = "" if product is None else f" of {store.product_names[product]}"
        raise DatasetError(
            f"{store.root}: no training image of {store.defect_names[task.defect]}{place} has a "
            "mask, expected some to cut defects out; leave the copy-paste arms out of --arms"
        )
    references = task.references(with_mask)
    index = torch.tensor(references)
    x = store.to_float(torch.tensor(task.backgrounds))
    flips = store.flips[torch.tensor(task.backgrounds)]
    made = paste_defects(x, store.to_float(index), masks[index], task.generator(), flips=flips)
    return Painted(made.images, task.sources(references))


def paint_cut_paste(materials: Materials, task: Task) -> Painted:
    """CutPaste: patches and scars in turn."""
    x, generator = materials.store.to_float(torch.tensor(task.backgrounds)), task.generator()
    patches, scars = cut_paste(x, generator).images, cut_paste_scar(x, generator).images
    odd = torch.arange(len(x)) % 2 == 1
    return Painted(torch.where(odd[:, None, None, None], scars, patches), task.sources())


def paint_perlin(materials: Materials, task: Task) -> Painted:
    """Anomalies shaped by Perlin noise, with the texture of Normal images of other products."""
    store, generator = materials.store, task.generator()
    others = (store.defects == store.anchor) & (store.products != task.product)
    if not others.any():
        others = store.defects == store.anchor
    choices = others.nonzero().flatten()
    choices = choices[torch.randperm(len(choices), generator=generator)[:TEXTURES]]
    x = store.to_float(torch.tensor(task.backgrounds))
    made = perlin_anomalies(x, store.to_float(choices), generator)
    return Painted(made.images, task.sources())


# --- the registry --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way to teach a classifier."""

    title: str  # what it is, for tables
    paint: Painter | None = None  # makes its synthetic images; None: real images alone
    # "none", "traditional" (flips where allowed, jitter, lighting) or "cutmix" (CutMix on top
    # of that)
    augment: Literal["none", "traditional", "cutmix"] = "traditional"
    reversal: Reversal = "off"  # which images the domain loss counts when it is reversed, or "off"
    known: bool = True  # whether synthetic images are of a known defect, or of "some defect"
    needs_model: bool = False  # whether `Materials.synth` is asked for
    baseline: str | None = None  # the one of `Materials.baselines` that is asked for, if any
    # whether images must pass `Materials.gate`; what still fails after some rounds is left
    # out, so a class may be smaller than the others
    gated: bool = False
    donor: str | None = None  # product that all synthetic defects come from; None: any

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it cannot do without."""
        baseline = () if self.baseline is None else (baseline_need(self.baseline),)
        return (*([MODEL] if self.needs_model else []), *baseline, *([JUDGE] if self.gated else []))

    def training_set(self, materials: Materials, images_per_class: int, seed: int) -> TrainingSet:
        """Training images of this arm; `seed` is that of the choice and of everything painted.

        `images_per_class` counts every defect, Normal included, over all products together: a
        product's share of Normal images is taken at random, all real defects are kept, and
        synthetic ones fill their product's share. ValueError: fewer images than products, or
        something is needed and missing. DatasetError: masks are needed and missing.
        """
        store = materials.store
        share = images_per_class // len(store.product_names)
        if share < 1:
            raise ValueError(
                f"images per class is {images_per_class}; expected at least one for each of "
                f"{len(store.product_names)} products"
            )
        self.check_amounts(materials, images_per_class)
        normal = {p: _chosen_normal(materials, p, share, seed) for p in _products(store)}
        real = [i for chosen in normal.values() for i in chosen]
        real += (store.defects != store.anchor).nonzero().flatten().tolist()
        parts = [_real_set(store, real)]
        if self.paint is not None:
            tasks = _tasks(materials, normal, share, seed)
            parts += [self._painted(self.paint, materials, task) for task in tasks]
        return joined(parts)

    def check_amounts(self, materials: Materials, images_per_class: int) -> None:
        """Refuse (ValueError) a system that has too few images to fill a training set with."""
        if self.baseline is None:
            return
        store, system = materials.store, materials.the(baseline_need(self.baseline))
        for p, y, count in _missing(materials, images_per_class // len(store.product_names)):
            system.check(store.product_names[p], store.defect_names[y], count)

    def _painted(self, paint: Painter, materials: Materials, task: Task) -> TrainingSet:
        gate: dict[int, GateCount] = {}
        if self.gated:
            painted, gate[task.defect] = paint_until_passed(materials, task, paint)
        else:
            painted = paint(materials, task)
        store, n = materials.store, len(painted.sources)
        return TrainingSet(
            images=painted.images.clamp(-1, 1).add(1).mul(127.5).round().byte(),
            defects=torch.full((n,), task.defect),
            products=torch.full((n,), task.product),
            is_synthetic=torch.ones(n, dtype=torch.bool),
            known=torch.full((n,), self.known),
            flips=store.flips[task.backgrounds[0]].expand(n, 2),  # a product's
            sources=tuple(tuple(store.paths[i] for i in source) for source in painted.sources),
            gate=gate,
        )


def _products(store: ImageStore) -> range:
    return range(len(store.product_names))


def _chosen_normal(materials: Materials, product: int, share: int, seed: int) -> list[int]:
    """Up to `share` Normal training images of a product, in a random order."""
    found = materials.cell(product, materials.store.anchor)
    if not found:
        store = materials.store
        raise DatasetError(
            f"{store.root}: no training image of {store.defect_names[store.anchor]} for "
            f"{store.product_names[product]}, expected some; add images or take the product out"
        )
    order = torch.randperm(len(found), generator=step_generator(f"{seed}/normal", product))
    return [found[i] for i in order[:share].tolist()]


def _missing(materials: Materials, share: int) -> Iterator[tuple[int, int, int]]:
    """Product, defect and how many images a cell with some real ones lacks up to `share`."""
    store = materials.store
    for p, y in itertools.product(_products(store), range(len(store.defect_names))):
        real = len(materials.cell(p, y))
        if y != store.anchor and 0 < real < share:
            yield p, y, share - real


def _tasks(
    materials: Materials, normal: dict[int, list[int]], share: int, seed: int
) -> Iterator[Task]:
    """What is to be painted so that every cell has `share` images."""
    for p, y, count in _missing(materials, share):
        shuffle = Shuffle(len(normal[p]), seed, f"backgrounds/{p}")
        first = (p * len(materials.store.defect_names) + y) * share
        for start in range(first, first + count, CHUNK):
            numbers = range(start, min(start + CHUNK, first + count))
            yield Task(p, y, [normal[p][shuffle[i]] for i in numbers], start, seed)


def _real_set(store: ImageStore, index: list[int]) -> TrainingSet:
    chosen, n = torch.tensor(index), len(index)
    return TrainingSet(
        images=store.images[chosen],
        defects=store.defects[chosen],
        products=store.products[chosen],
        is_synthetic=torch.zeros(n, dtype=torch.bool),
        known=torch.ones(n, dtype=torch.bool),
        flips=store.flips[chosen],
        sources=tuple((store.paths[i],) for i in index),
    )


def arm_of_system(name: str) -> Arm:
    """The arm of a system: of a baseline, or of images that somebody made elsewhere."""
    title = ZOO[name].title if name in ZOO else f"images of {name}"
    return Arm(title, partial(paint_baseline, name), baseline=name)


def _varied(arm: Arm, words: str, **fields: Any) -> Arm:
    return replace(arm, title=f"{arm.title}, {words}", **fields)


_DTGAN = {
    "dtgan-latent": Arm("DT-GAN, latent", paint_latent, needs_model=True),
    "dtgan-reference": Arm("DT-GAN, reference", paint_reference, needs_model=True),
    "dtgan-both": Arm("DT-GAN, both", paint_both, needs_model=True),
}
ARMS: dict[str, Arm] = {
    "none": Arm("real images as they are", augment="none"),
    "traditional": Arm("real images, flips, jitter, lighting"),
    "cutmix": Arm("CutMix (Yun et al. 2019)", augment="cutmix"),
    "copy-paste": Arm("copy-paste, same product", partial(paint_pasted, own=True)),
    "copy-paste-all": Arm("copy-paste, all products", paint_pasted),
    "cutpaste": Arm("CutPaste (Li et al. 2021)", paint_cut_paste, known=False),
    "perlin": Arm("Perlin anomalies (Zavrtanik et al. 2021)", paint_perlin, known=False),
    **{name: arm_of_system(name) for name in BASELINES},
}
for _name, _arm in _DTGAN.items():
    ARMS[_name] = _arm
    ARMS[f"{_name}+reversal"] = _varied(_arm, "reversal", reversal="defects")
    ARMS[f"{_name}+reversal-all"] = _varied(_arm, "reversal over all images", reversal="all")
for _name, _arm in _DTGAN.items():
    ARMS[f"{_name}+gate"] = _varied(_arm, "gate", gated=True)
_gated = ARMS["dtgan-both+gate"]
ARMS["dtgan-both+gate+reversal"] = _varied(_gated, "reversal", reversal="defects")

# these take NAME@PRODUCT, too
FROM_ANY_PRODUCT = {"copy-paste-all": paint_pasted, "dtgan-reference": paint_reference}


def arm_named(name: str, systems: Collection[str] = ()) -> Arm:
    """An arm by name: of `ARMS`, of a system, or of `FROM_ANY_PRODUCT` with defects of one product.

    In "dtgan-reference@A" every defect is that of a training image of product A (the paper's vA;
    "dtgan-reference" itself is its vABC). `systems` are names of further systems, such as folders
    of images.
    """
    if name in systems and name not in ARMS:
        return arm_of_system(name)
    base, at, donor = name.partition("@")
    if base not in ARMS or (at and (not donor or base not in FROM_ANY_PRODUCT)):
        donors = ", ".join(f"{arm}@PRODUCT" for arm in FROM_ANY_PRODUCT)
        raise ValueError(f"unknown arm {name!r}; expected one of {', '.join(ARMS)}, {donors}")
    if not at:
        return ARMS[base]
    paint = partial(FROM_ANY_PRODUCT[base], donor=donor)
    return _varied(ARMS[base], f"of {donor}", paint=paint, donor=donor)
