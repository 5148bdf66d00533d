"""Systems side by side: every method's images of the same cells, and what is said of them.

    systems = load_systems({"DT-GAN": "notebooks/checkpoints/synthetic-sdi-laptop",
                            "StyleGAN2": "notebooks/checkpoints/stylegan2"})
    sets = made_by(anchors, systems)          # "DT-GAN, latent", "DT-GAN, reference", "StyleGAN2"
    table = judged(sets, judge, anchors)

DT-GAN and its configuration (a), StarGAN v2, make two sets, one a way of guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.conditional import ConditionalConfig
from dtgan_lab.baselines.generators import Makers, Transfers, load_generator, method_of
from dtgan_lab.baselines.methods import DTGAN
from dtgan_lab.measure.evidence import distance_study, distance_summary
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.judge import Judge
from dtgan_lab.measure.measures import most_changed
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.yardsticks import GUIDE_SEED, POOLED, AnchorSet, cells_of

System = Synthesizer | Makers | Transfers
WAYS = ("latent", "reference")


def load_systems(
    folders: Mapping[str, str | Path], device: torch.device | str = "cpu"
) -> dict[str, System]:
    """Load trained systems by name, whatever each is.

    Args:
        folders: name -> an export, a finished run or, of a baseline, a folder of them.
        device: where they compute.

    Raises:
        CheckpointError: none there, damaged, or exports that do not belong together.
    """
    return {
        name: Synthesizer.load(folder, device)
        if method_of(folder) == DTGAN
        else load_generator(folder, device)
        for name, folder in folders.items()
    }


def made_by(anchors: AnchorSet, systems: Mapping[str, System]) -> dict[str, Gallery]:
    """As many images of every cell by every system; see `AnchorSet.translated`."""
    sets = {}
    for name, system in systems.items():
        if isinstance(system, Synthesizer):
            for way in WAYS:
                sets[f"{name}, {way}"] = anchors.translated(system, way)
        else:
            sets[name] = by_baseline(anchors, system)
    return sets


def by_baseline(anchors: AnchorSet, baseline: Makers | Transfers) -> Gallery:
    """As many images of every cell by trained baselines.

    StyleGAN2 and BigGAN draw them, without masks.  Content transfer lays the defects of fresh
    images of the same product over the good parts of `normals`; masks as in
    `AnchorSet.translated`.

    Args:
        anchors: yardsticks of the data set.
        baseline: models of this data set and image size, for every product and defect.
    """
    count, normals = anchors.count, anchors.normals()
    if isinstance(baseline, Makers):
        images = [baseline.make(*cell, count, anchors.seed).cpu() for cell in anchors.cells]
        return Gallery(torch.cat(images), None, normals.cells)
    guides = anchors.fresh(GUIDE_SEED).x
    images, masks = [], []
    parts = zip(normals.x.split(count), guides.split(count), strict=True)
    for cell, numbers, (x, x_ref) in zip(anchors.cells, anchors.numbers, parts, strict=True):
        images.append(baseline.transfer(*cell, x, x_ref).cpu())
        masks.append(most_changed(images[-1] - x, anchors.area(*numbers)))
    return Gallery(torch.cat(images), torch.cat(masks), normals.cells)


def judged(
    sets: Mapping[str, Gallery], judge: Judge, products: tuple[str, ...], defects: tuple[str, ...]
) -> pd.DataFrame:
    """What a judge sees in each set.

    Args:
        sets: name -> images with cells (product, defect).
        judge: of the same data.
        products: names, in the order of the judge's labels.
        defects: likewise.

    Returns:
        A row for each set and cell: "set", "product", "defect", "n", "recognised" (share judged as
        the defect that was asked for) and "kept" (as the product; NaN with one product).
    """
    rows = []
    for name, gallery in sets.items():
        cells, prediction = cells_of(gallery), judge(gallery.x)
        wanted = torch.tensor([defects.index(defect) for defect in cells["defect"]])
        found = cells.assign(set=name, recognised=(prediction.defect == wanted).numpy())
        if prediction.product is None:
            found["kept"] = np.nan
        else:
            place = torch.tensor([products.index(product) for product in cells["product"]])
            found["kept"] = (prediction.product == place).numpy()
        rows.append(found)
    every = pd.concat(rows, ignore_index=True)
    every["n"] = 1
    how = {"n": "sum", "recognised": "mean", "kept": "mean"}
    return every.groupby(["set", "product", "defect"], sort=False).agg(how).reset_index()


def augmentations(
    anchors: AnchorSet, folders: Mapping[str, Path], product: str, extractor: Extractor, seeds: int
) -> pd.DataFrame:
    """How near real images a method comes by each augmentation, on one product (App. E.4).

    Args:
        anchors: draws the real images.
        folders: kind of augmentation -> a run or export trained with it, of equal lengths.
        product: the product they learned.
        extractor: the space.
        seeds: of latents; 0 to seeds - 1.

    Returns:
        A row a kind: the row "pooled" of `distance_summary`, with "method", "product",
        "augmentation", "iterations" and "seconds" of the training, "a_cell" and the hashes of
        weights and features.

    Raises:
        CheckpointError: none there, or one of another method or augmentation.
    """
    makers = {}
    for kind, folder in folders.items():
        made = load_generator(folder)
        config = made.exports[0].config
        found = config.augment.kind if isinstance(config, ConditionalConfig) else "no such choice"
        if not isinstance(made, Makers) or found != kind:
            raise CheckpointError(
                f"{folder}: found a model of {made.method} with {found}, expected one of stylegan2 "
                f"or biggan; train it: python -m dtgan_core train --method stylegan2 "
                f"--augment {kind} --product {product}"
            )
        makers[kind] = made
    own = anchors.only(product)
    sets = {seed: made_by(own.seeded(seed), makers) for seed in range(seeds)}
    summary = distance_summary(distance_study(own, sets, extractor), extractor)
    pooled = summary[summary["column"] == POOLED].set_index("set", drop=False)
    rows = []
    for kind, made in makers.items():
        card = made.exports[0].card
        rows.append(
            {
                "method": made.method,
                "product": product,
                "augmentation": kind,
                "iterations": card["iterations"],
                "seconds": card["seconds"],
                "a_cell": anchors.count,
                "checkpoint_sha256": made.checkpoint_hash,
                "features_sha256": extractor.sha256,
                **pooled.loc[kind].to_dict(),
            }
        )
    return pd.DataFrame(rows)
