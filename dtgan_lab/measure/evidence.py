"""The numbers of the evidence notebooks: distances by product, and what comes too near.

    anchors = AnchorSet(dataset, image_size=64, count=80)
    sets = {seed: evidence_sets(anchors.seeded(seed), synth) for seed in (0, 1, 2)}
    rows = distance_study(anchors, sets, extract)      # Table 1's place
    summary = distance_summary(rows, extract)

    found = search(sets[0][LATENT])                    # App. E.5, see `neighbours`
    rows = nearest_rows(LATENT, 0, sets[0][LATENT], found)

One model, one set of parts and draws is one seed; every number has its spread over seeds
and, for distances, its spread over subsamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dtgan_core.batches import step_generator
from dtgan_core.synthesis import Synthesizer
from dtgan_lab import stats
from dtgan_lab.baselines.paste import shift
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.domain import DISTORTIONS, distorted
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.measures import scaled
from dtgan_lab.measure.neighbours import SLIDE, Gallery, Nearest
from dtgan_lab.measure.observers import wilson
from dtgan_lab.measure.results import read_results
from dtgan_lab.measure.sets import COPY, FLOOR, LATENT, NORMAL, PASTE, REFERENCE
from dtgan_lab.measure.sets import JITTERED as JITTERED
from dtgan_lab.measure.sets import MIRRORED as MIRRORED
from dtgan_lab.measure.yardsticks import POOLED as POOLED
from dtgan_lab.measure.yardsticks import REFERENCE_SEED, AnchorSet
from dtgan_lab.measure.yardsticks import cells_of as cells_of
from dtgan_lab.measure.yardsticks import column_masks as column_masks
from dtgan_lab.stats import with_spread

ALL = "All"
MEASURES = ("FD", "KID", "precision", "recall", "density", "coverage")
SHADE, GRAIN = 0.06, 0.02  # of [-1, 1]: brightness and noise of a looked-up image

# Table 1 of the paper, FID; * with DiffAugment or ADA
PAPER_COLUMNS = ("A", "B", "C", "CARPET", "LEATHER", "TILE", "WOOD", "MTD", ALL)
PAPER_FID = {
    "Mokady et al.": (68.69, 66.9, 36.21, 41.87, 60.26, 275.12, 81.71, 68.30, 87.38),
    "StarGAN v2": (96.85, 58.28, 50.95, 354.31, 336.63, 434.77, 411.37, 84.49, 228.46),
    "StyleGAN2": (90.1, 52.95, 138.09, 51.37, 51.6, 225.96, 140.01, 51.39, 100.18),
    "BigGAN*": (218.74, 134.41, 270.89, 34.47, 101.7, 391.54, 113.32, 67.91, 166.62),
    "DT-GAN": (65.62, 53.62, 37.94, 27.33, 78.01, 352.15, 77.11, 78.41, 96.27),
}


def evidence_sets(anchors: AnchorSet, synth: Synthesizer) -> dict[str, Gallery]:
    """The four anchors and both ways of guidance, all with the same cells, in this order."""
    return {
        FLOOR: anchors.floor(),
        COPY: anchors.copies(),
        PASTE: anchors.pasted(),
        NORMAL: anchors.normals(),
        LATENT: anchors.translated(synth, "latent"),
        REFERENCE: anchors.translated(synth, "reference"),
    }


# --- distances -----------------------------------------------------------------------------------


def distance_study(
    anchors: AnchorSet, sets: Mapping[int, Mapping[str, Gallery]], extractor: Extractor
) -> pd.DataFrame:
    """All distances of all sets to fresh real images, in every column.

    Args:
        anchors: draws the real images, which no set contains.
        sets: seed -> name -> images, with the cells of `anchors`.
        extractor: the space.

    Returns:
        A row for each set, column and seed: "set", "column", and `Distances.to_dict`.
    """
    reference = anchors.fresh(REFERENCE_SEED)
    real, masks = extractor(reference.x), column_masks(reference)
    rows = []
    for seed, named in sets.items():
        for name, gallery in named.items():
            made = extractor(gallery.x)
            for column, mask in masks.items():
                found = compare(real[mask], made[mask], extractor, seed)
                rows.append({"set": name, "column": column} | found.to_dict())
    return pd.DataFrame(rows)


def distance_summary(rows: pd.DataFrame, extractor: Extractor) -> pd.DataFrame:
    """Means over seeds and two spreads; "All" is the mean of the products, as in Table 1.

    Args:
        rows: from `distance_study`.
        extractor: the space they are of.

    Returns:
        A row for each set and column, in their order: "n" (made images of a seed), "seeds",
        "first" ("FD" or "KID"), "reason", and for each measure, under its full name, the mean,
        "... seeds" (standard deviation over seeds) and "... spread" (over subsamples).
    """
    labels = [extractor.label(measure) for measure in MEASURES]
    spreads = [f"{label} spread" for label in labels[:2]]
    columns = list(rows["column"].unique())
    products = [c for c in columns if any(other.startswith(f"{c} ") for other in columns)]
    rows = pd.concat([rows, _mean_of_columns(rows, products, labels, spreads)], ignore_index=True)
    table = []
    for (name, column), part in rows.groupby(["set", "column"], sort=False):
        row: dict[str, Any] = {"set": name, "column": column, "n": int(part["n_fake"].iloc[0])}
        row |= {"seeds": len(part), "first": part["first"].iloc[0]}
        row["reason"] = part["reason"].iloc[0]
        for label in labels:
            values = part[label].astype(float)
            row |= {label: values.mean(), f"{label} seeds": values.std(ddof=1)}
        for spread in spreads:
            row[spread] = part[spread].astype(float).mean()
        table.append(row)
    return pd.DataFrame(table)


def _mean_of_columns(
    rows: pd.DataFrame, products: Sequence[str], labels: Sequence[str], spreads: Sequence[str]
) -> pd.DataFrame:
    """The column "All" of every set and seed."""
    chosen = rows[rows["column"].isin(products)]
    found = []
    for (name, seed), part in chosen.groupby(["set", "seed"], sort=False):
        row = {"set": name, "seed": seed, "column": ALL, "n_fake": part["n_fake"].sum()}
        row |= {"first": part["first"].max(), "reason": part["reason"].iloc[0]}  # KID if any is
        row |= {label: part[label].astype(float).mean() for label in labels}
        squares = part[list(spreads)].astype(float) ** 2
        row |= dict(np.sqrt(squares.sum(skipna=False)) / len(part))  # columns are independent
        found.append(row)
    return pd.DataFrame(found)


def quoted(summary: pd.DataFrame, columns: Sequence[str]) -> str:
    """FD where there are images enough for it in all of these columns, else KID."""
    chosen = summary[summary["column"].isin(columns)]
    return str(chosen["first"].max())  # the later letter: KID if any is


def number_table(summary: pd.DataFrame, label: str, columns: Sequence[str]) -> pd.DataFrame:
    """A number with its spread over seeds, sets by columns, as text.

    Args:
        summary: from `distance_summary`.
        label: full name of a measure.
        columns: in this order.
    """
    chosen = summary[summary["column"].isin(columns)]
    pairs = zip(chosen[label], chosen[f"{label} seeds"], strict=True)
    texts = [with_spread(*pair, digits=".2f", none="nan") for pair in pairs]
    return stats.number_table(chosen, texts, "set", "column").reindex(columns=list(columns))


def versus(summary: pd.DataFrame, label: str, column: str, name: str, other: str) -> str:
    """How one set stands against another, in words.

    Args:
        summary: from `distance_summary`.
        label: full name of a measure with a spread.
        column: where.
        name: the set in question.
        other: what it is held against.

    Returns:
        "nearer than", "farther than", or "not told apart from" where the difference is under twice
        the root of all squared spreads, over seeds and over subsamples, of both sets: more cautious
        than its standard error, since neither is divided by how often it was drawn.
    """
    both = summary[summary["column"] == column].set_index("set").loc[[name, other]]
    spreads = both[[f"{label} spread", f"{label} seeds"]].astype(float).fillna(0)
    error = float(np.sqrt((spreads**2).to_numpy().sum()))
    change = float(both[label].iloc[0] - both[label].iloc[1])
    return stats.verdict(change, 2 * error, "nearer than", "farther than", "not told apart from")


def distortion_study(
    real: NDArray[np.float32],
    gallery: Gallery,
    extractor: Extractor,
    kinds: Sequence[str],
    strengths: Sequence[float],
    seed: int = 0,
) -> pd.DataFrame:
    """The distance of real images that are damaged more and more.

    Args:
        real: (N, D), points of other real images.
        gallery: what is damaged.
        extractor: the space.
        kinds: of `domain.DISTORTIONS`.
        strengths: 0 (untouched) to 1.
        seed: of noise and subsets.

    Returns:
        A row for each kind and strength: "kind", "strength", and `Distances.to_dict`.
    """
    rows = []
    for kind in kinds:
        for strength in strengths:
            wish = torch.zeros(len(gallery.x), len(DISTORTIONS))
            wish[:, list(DISTORTIONS).index(kind)] = strength
            x = distorted(gallery.x, wish, step_generator(f"{seed}/distortion", 0))
            found = compare(real, extractor(x), extractor, seed).to_dict()
            rows.append({"kind": kind, "strength": strength} | found)
    return pd.DataFrame(rows)


def paper_table() -> pd.DataFrame:
    """Table 1 of the paper: FID of Inception on the paper's data."""
    return pd.DataFrame.from_dict(PAPER_FID, orient="index", columns=list(PAPER_COLUMNS))


def other_rows(path: Path, facts: Mapping[str, Any], known: Sequence[str]) -> pd.DataFrame:
    """Rows of a results file that may stand in the same table: other sets, same data and space.

    Args:
        path: `.jsonl`; a file that is not there holds none.
        facts: columns that must have these values, such as hashes of manifest and features.
        known: sets that are computed anew and not read.

    Returns:
        The latest row of each set and column; without rows where there is none.
    """
    if not path.is_file():
        return pd.DataFrame()
    rows = read_results(path)
    for name, value in facts.items():
        rows = rows[rows[name] == value]
    rows = rows[~rows["set"].isin(known)]
    return rows.drop_duplicates(["set", "column"], keep="last").reset_index(drop=True)


# --- nearest neighbours --------------------------------------------------------------------------


def looked_up(copies: Gallery, mirrored: bool, seed: int = 0) -> Gallery:
    """What a generator makes that looks training images up and hides it a little.

    Each is shifted by up to 2 pixels at 64, a little lighter or darker, with a little grain.

    Args:
        copies: training images.
        mirrored: also flip each, where its product allows that.
        seed: of shifts, brightness and grain.
    """
    reach = scaled(SLIDE, copies.x.shape[-1])
    masks = copies.masks
    images, moved_masks = [], []
    for n, image in enumerate(copies.x):
        generator = step_generator(f"{seed}/looked up", n)
        down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).split(1)
        shade = SHADE * (2 * torch.rand(1, generator=generator) - 1)
        grain = GRAIN * torch.randn(image.shape, generator=generator)
        flips = torch.zeros(2) if copies.flips is None or not mirrored else copies.flips[n]
        dims = [dim for dim, on in zip((2, 1), flips.tolist(), strict=True) if on]
        images.append(shift(image.flip(dims)[None], down, right)[0] + shade + grain)
        if masks is not None:
            moved_masks.append(shift(masks[n].flip(dims)[None], down, right)[0])
    x = torch.stack(images).clamp(-1, 1)
    return Gallery(x, torch.stack(moved_masks) if moved_masks else None, copies.cells)


def nearest_rows(
    name: str, seed: int, gallery: Gallery, found: Mapping[str, Nearest]
) -> pd.DataFrame:
    """What a search found, a row for each image and space.

    Args:
        name: of the set.
        seed: of the set.
        gallery: what was searched for, with cells (product, defect).
        found: space -> what `neighbours.Search` found.

    Returns:
        "set", "seed", "product", "defect", "number", "space", "score", "copy".
    """
    cells = cells_of(gallery)
    parts = [
        cells.assign(
            set=name,
            seed=seed,
            number=range(len(cells)),
            space=space,
            score=nearest.score.numpy(),
            copy=nearest.copies.numpy(),
        )
        for space, nearest in found.items()
    ]
    return pd.concat(parts, ignore_index=True)


def copies_summary(rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Median score and share of copies, with spread over seeds and a 95 % interval.

    Args:
        rows: from `nearest_rows`, of any sets and seeds.
        by: further columns to tell apart, such as "product" and "defect".

    Returns:
        A row for each set, space and value of `by`: "n" (over all seeds), "seeds", "score"
        (median), "copies", "copies seeds" (standard deviation of the share over seeds), and the
        Wilson interval "low", "high"; shares are 0 to 1.
    """
    keys = ["set", "space", *by]
    table = []
    for key, part in rows.groupby(keys, sort=False):
        shares = part.groupby("seed")["copy"].mean()
        interval = wilson(int(part["copy"].sum()), len(part))
        row = dict(zip(keys, key, strict=True)) | {"n": len(part), "seeds": len(shares)}
        row |= {"score": part["score"].median(), "copies": part["copy"].mean()}
        row |= {
            "copies seeds": shares.std(ddof=1),
            "low": interval["low"],
            "high": interval["high"],
        }
        table.append(row)
    return pd.DataFrame(table)


def nearest_of_cells(gallery: Gallery, nearest: Nearest) -> dict[tuple[str, str], int]:
    """The image of each cell that came nearest to a training image: the most suspicious one."""
    cells = cells_of(gallery)
    found = {}
    for product, defect in cells.drop_duplicates().itertuples(index=False):
        same = ((cells["product"] == product) & (cells["defect"] == defect)).to_numpy()
        numbers = np.flatnonzero(same)
        found[product, defect] = int(numbers[nearest.score.numpy()[numbers].argmin()])
    return found
