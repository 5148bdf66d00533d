"""How good synthetic defects are, by numbers that no network of DT-GAN was trained on.

    found = assess(synth, dataset, Judge.load(folder))
    found.summary        # a product x defect x guidance
    found.translations   # every defect into every other, to Normal included
    found.overall        # one flat dictionary, for tables of trials

Sources and references are held-out images (val and test): the model has seen none of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dtgan_core.synthesis import Synthesizer
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.data.validation import require_labels
from dtgan_lab.measure.judge import Judge
from dtgan_lab.measure.measures import (
    MASK_REACH,
    dilated,
    diversity,
    most_changed,
    psnr_outside,
    scaled,
    share_inside,
)
from dtgan_lab.measure.neighbours import Gallery
from dtgan_lab.measure.real import RealSide

LATENT, REFERENCE, NOBODY = "latent", "reference", "none"
MEASURES = ("recognised", "product_kept", "background_psnr", "overlap", "copies")
DIVERSITIES = ("diversity", "relative_diversity", "core_diversity")
BATCH = 32  # images painted together


@dataclass(frozen=True)
class Assessment:
    """What `assess` found.  Shares are between 0 and 1; `_std` is over the sampling seeds."""

    # a row a product, defect and guidance, of Normal sources: n (images a seed), seeds;
    # recognised (share that the judge takes for the target), product_kept (share whose
    # product the judge still finds; NaN with one product), background_psnr (dB), overlap
    # (`measures.share_inside` of the reference's mask; NaN for draws), diversity,
    # relative_diversity and core_diversity (`measures.diversity` as a share of what real
    # training images have), copies (share), each with its `_std`; and copies_real, the share
    # of copies among held-out real images
    summary: pd.DataFrame
    # a row a product, source defect, target and guidance: n, seeds, recognised, product_kept,
    # clean_psnr (dB, to Normal alone: against the defect-free twin, or the source itself
    # where it is Normal).  Guidance is "none" where c = 0 leaves nothing to guide; such
    # images are made once.
    translations: pd.DataFrame
    images: pd.DataFrame  # a row an image: where it came from, what the judge saw, its own measures
    overall: dict[str, float]  # means over all products and defects, by guidance


def assess(
    synth: Synthesizer,
    dataset: Dataset,
    judge: Judge,
    seeds: tuple[int, ...] = (0, 1, 2),
    real: RealSide | None = None,
) -> Assessment:
    """Translate every held-out image into every domain, both ways, and measure the results.

    `seeds` are of latents and of the choice of references; `real` is the real side, if it has been
    read before. ValueError: no seed, or judge, data set and model do not fit together.
    DatasetError: the data set has no held-out images.
    """
    if not seeds:
        raise ValueError("seeds is empty; expected at least one")
    check_fit(synth, dataset, judge)
    model = synth.config.model
    real = real or RealSide(dataset, model.image_size, model.channels)
    rows: list[dict[str, Any]] = []
    spreads: list[dict[str, Any]] = []
    for product in range(len(synth.products)):
        run = _Product(synth, judge, real, product)
        for target in range(len(synth.defects)):
            for guidance, seed in run.ways(target, seeds):
                fakes, chosen = run.translate(target, guidance, seed)
                rows += run.rows(fakes, chosen, target, guidance, seed)
                if target != real.anchor:
                    spreads.append(run.spread(fakes, target, guidance, seed))
    images = pd.DataFrame(rows)
    summary = _summary(images, pd.DataFrame(spreads), _real_copies(real), synth.anchor)
    keys = ["product", "source", "target", "guidance"]
    translations = _over_seeds(images, keys, ("recognised", "product_kept", "clean_psnr"))
    translations = translations.reset_index()
    return Assessment(summary, translations, images, _overall(summary, translations, synth.anchor))


def check_fit(synth: Synthesizer, dataset: Dataset, judge: Judge) -> None:
    """Refuse (ValueError) a data set or a judge that is not the model's."""
    model = synth.config.model
    require_labels(dataset, synth.products, synth.defects)
    judge.check_names(synth.products, synth.defects, "the model")
    judge.check_images(model.channels, model.image_size, model.image_size)


def warn_of_other_data(card: dict[str, Any], dataset: Dataset, what: str) -> None:
    """Say when a model or a judge, `what`, learned from another version of the data."""
    learned_from = card.get("data", {}).get("manifest_sha256")  # a script's models may not say
    if learned_from is not None and learned_from != dataset.manifest_hash:
        print(
            f"warning: {what} was trained on another version of {dataset.info.name!r}; it may have "
            "seen images that are held out here. Train it again on this one",
            file=sys.stderr,
        )


class _Product:
    """Held-out images of one product, their backgrounds decoded once."""

    def __init__(self, synth: Synthesizer, judge: Judge, real: RealSide, product: int) -> None:
        self.synth, self.judge, self.real, self.product = synth, judge, real, product
        store = real.held_out
        self.index = (store.products == product).nonzero().flatten().tolist()
        self.x = store.to_float(torch.tensor(self.index, dtype=torch.long))
        self.y = store.defects[self.index]
        self.normal = self.y == real.anchor  # sources of the summary
        self.clean = real.clean(self.index)
        pieces = (tensor.split(BATCH) for tensor in (self.x, self.normal))
        self.backgrounds = [synth.background(*piece) for piece in zip(*pieces, strict=True)]
        # the model's own defect-free rendering, or the source where the model has no anchor
        plain = (synth.without_defect(part).cpu() for part in self.backgrounds)
        self.plain = torch.cat(list(plain)) if self.index else self.x

    def ways(self, target: int, seeds: tuple[int, ...]) -> list[tuple[str, int]]:
        """(guidance, seed) of a target; one way only where c = 0 leaves nothing to guide."""
        if not self.index:
            return []
        if target == self.real.anchor and self.synth.config.model.anchor_zero:
            return [(NOBODY, seeds[0])]
        if target not in self.real.held_out.defects:
            return [(LATENT, seed) for seed in seeds]
        return [(guidance, seed) for guidance in (REFERENCE, LATENT) for seed in seeds]

    def translate(self, target: int, guidance: str, seed: int) -> tuple[Tensor, list[int]]:
        """All held-out images of the product, (N, ch, H, W) on the CPU, and their references."""
        name, made, chosen = self.synth.defects[target], [], list[int]()
        if guidance == REFERENCE:
            chosen = self.real.references(self.index, target, seed)
        for number, background in enumerate(self.backgrounds):
            part = slice(number * BATCH, (number + 1) * BATCH)
            if chosen:
                x_ref = self.real.held_out.to_float(torch.tensor(chosen[part]))
                guide = self.synth.reference_guides(x_ref, name)
            else:
                guide = self.synth.latent_guides(name, seed, self.index[part])
            made.append(self.synth.paint(background, guide).cpu())
        return torch.cat(made), chosen

    # --- measures --------------------------------------------------------------------------------

    def rows(
        self, fakes: Tensor, chosen: list[int], target: int, guidance: str, seed: int
    ) -> list[dict[str, Any]]:
        """One row an image."""
        prediction = self.judge(fakes)
        store, count = self.real.held_out, len(self.index)
        kept: list[Any] = [float("nan")] * count
        if prediction.product is not None:
            kept = (prediction.product == self.product).float().tolist()
        clean = torch.full((count,), float("nan"))
        if target == self.real.anchor:
            nothing = torch.zeros_like(fakes[:, :1], dtype=torch.bool)
            clean = psnr_outside(self.clean, fakes, nothing)
        psnr, overlap, distance, copied = self._measures(fakes, target, chosen)
        return [
            {
                "product": self.synth.products[self.product],
                "source": self.synth.defects[int(self.y[n])],
                "target": self.synth.defects[target],
                "guidance": guidance,
                "seed": seed,
                "path": store.paths[i],
                "reference": store.paths[chosen[n]] if chosen else "",
                "reference_product": (
                    store.product_names[int(store.products[chosen[n]])] if chosen else ""
                ),
                "judged": self.synth.defects[int(prediction.defect[n])],
                "recognised": float(prediction.defect[n] == target),
                "product_kept": kept[n],
                "background_psnr": float(psnr[n]),
                "overlap": float(overlap[n]),
                "clean_psnr": float(clean[n]),
                "copy_distance": float(distance[n]),
                "copies": float(copied[n]),
            }
            for n, i in enumerate(self.index)
        ]

    def _measures(self, fakes: Tensor, target: int, chosen: list[int]) -> tuple[Tensor, ...]:
        """Background PSNR, overlap, score of the nearest training crop, whether it is a copy."""
        # NaN where a source has a defect of its own, which is a wanted change as well
        psnr, overlap, distance, copied = torch.full((4, len(self.index)), float("nan"))
        area = self.real.areas.get((self.product, target))
        if target == self.real.anchor or area is None or self.real.masks is None:
            return psnr, overlap, distance, copied
        own = self.normal
        x, made = self.x[own], fakes[own]
        if chosen:
            masks = self.real.masks[[i for i, yes in zip(chosen, own, strict=True) if yes]]
            wanted = dilated(masks, scaled(MASK_REACH, x.shape[-1]))
            overlap[own] = share_inside(made - self.plain[own], masks, wanted)
        else:
            wanted = most_changed(made - x, area)
        psnr[own] = psnr_outside(x, made, wanted)
        # The crop lies where the defect was laid, not where the background was rendered badly.
        where = most_changed(made - self.plain[own], area)
        if self.real.copies is not None and len(made):
            cell = (self.synth.products[self.product], self.synth.defects[target])
            near = self.real.copies(Gallery(made, where, [cell] * len(made)), count=1)["crop"]
            distance[own], copied[own] = near.score.float(), near.copies.float()
        return psnr, overlap, distance, copied

    def spread(self, fakes: Tensor, target: int, guidance: str, seed: int) -> dict[str, Any]:
        """Diversity of one seed's defect layers, as a share of the real ones'."""
        layers = (fakes - self.plain)[self.normal]
        real = self.real.layers(self.product, target, len(layers), seed)
        if len(real):  # as many as there are real ones
            layers = layers[: len(real)]
        area = self.real.areas.get((self.product, target))
        made, given = diversity(layers, area), diversity(real, area)
        return {
            "product": self.synth.products[self.product],
            "target": self.synth.defects[target],
            "guidance": guidance,
            "seed": seed,
            **{name: made[name] / (given[name] or float("nan")) for name in DIVERSITIES},
        }


# --- tables --------------------------------------------------------------------------------------


def _real_copies(real: RealSide) -> pd.Series:
    """By product and defect, the share of held-out real images that count as copies."""
    faulty = Gallery.of(real.held_out, (real.held_out.defects != real.anchor).nonzero().flatten())
    table = pd.DataFrame(list(faulty.cells or []), columns=["product", "defect"])
    table["copies_real"] = float("nan")
    if real.copies is not None:
        table["copies_real"] = real.copies(faulty, count=1)["crop"].copies.numpy()
    return table.groupby(["product", "defect"])["copies_real"].mean()


def _over_seeds(images: pd.DataFrame, keys: list[str], columns: tuple[str, ...]) -> pd.DataFrame:
    """Means within each seed, then mean and spread over seeds, with `n` images a seed."""
    by_seed = images.groupby([*keys, "seed"], sort=False)[list(columns)].mean()
    cells = by_seed.groupby(level=keys, sort=False)
    table = images.groupby([*keys, "seed"], sort=False).size().groupby(level=keys, sort=False)
    result = pd.DataFrame({"n": table.first(), "seeds": table.size()})
    for column in columns:
        result[column] = cells[column].mean()
        result[f"{column}_std"] = cells[column].std()
    return result


def _summary(
    images: pd.DataFrame, spreads: pd.DataFrame, copies_real: pd.Series, anchor: str
) -> pd.DataFrame:
    keys = ["product", "target", "guidance"]
    chosen = images[(images["source"] == anchor) & (images["target"] != anchor)]
    table = _over_seeds(chosen, keys, MEASURES)
    table = table.join(_over_seeds(spreads, keys, DIVERSITIES).drop(columns=["n", "seeds"]))
    table = table.reset_index().rename(columns={"target": "defect"})
    return table.join(copies_real, on=["product", "defect"])


def _overall(summary: pd.DataFrame, translations: pd.DataFrame, anchor: str) -> dict[str, float]:
    """Means over cells, each cell the same weight; `recognised_worst` is the lowest cell."""
    flat: dict[str, float] = {}
    for guidance, part in summary.groupby("guidance", sort=False):
        for column in (*MEASURES, *DIVERSITIES):
            flat[f"{guidance}/{column}"] = float(part[column].mean())
        flat[f"{guidance}/recognised_worst"] = float(part["recognised"].min())
    flat["real/copies"] = float(
        summary.drop_duplicates(["product", "defect"])["copies_real"].mean()
    )
    flat["all_translations/recognised"] = float(translations["recognised"].mean())
    flat["all_translations/product_kept"] = float(translations["product_kept"].mean())
    cured = translations[(translations["target"] == anchor) & (translations["source"] != anchor)]
    flat["to_normal/recognised"] = float(cured["recognised"].mean())
    flat["to_normal/clean_psnr"] = float(cured["clean_psnr"].mean())
    return flat
