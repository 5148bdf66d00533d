"""The numbers of the evidence notebooks: distances by product, and what comes too near.

    yardsticks = Yardsticks(dataset, image_size=64, count=80)
    sets = {seed: evidence_sets(yardsticks.seeded(seed), synth) for seed in (0, 1, 2)}
    rows = distance_study(yardsticks, sets, extract)      # Table 1's place
    summary = distance_summary(rows, extract)

    found = search(sets[0][LATENT])                    # App. E.5, see `neighbours`
    rows = nearest_rows(LATENT, 0, sets[0][LATENT], found)

One model, one set of parts and draws is one seed; every number has its spread over seeds
and, for distances, its spread over subsamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dtgan_core.synthesis import Synthesizer
from dtgan_lab import stats
from dtgan_lab.baselines.generators import DtGan
from dtgan_lab.measure.distances import compare
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.judge import Judge
from dtgan_lab.measure.neighbours import Gallery, Nearest
from dtgan_lab.measure.observers import wilson
from dtgan_lab.measure.sets import COPY, FLOOR, LATENT, NORMAL, PASTE, REFERENCE
from dtgan_lab.measure.yardsticks import POOLED as POOLED
from dtgan_lab.measure.yardsticks import REFERENCE_SEED, Yardsticks
from dtgan_lab.measure.yardsticks import cells_of as cells_of
from dtgan_lab.measure.yardsticks import column_masks as column_masks
from dtgan_lab.stats import with_spread

ALL = "All"
MEASURES = ("FD", "KID", "precision", "recall", "density", "coverage")


def evidence_sets(yardsticks: Yardsticks, synth: Synthesizer) -> dict[str, Gallery]:
    """The four yardsticks and both ways of guidance, all with the same cells, in this order."""
    system = DtGan(synth)
    return {
        FLOOR: yardsticks.floor(),
        COPY: yardsticks.copies(),
        PASTE: yardsticks.pasted(),
        NORMAL: yardsticks.normals(),
        LATENT: yardsticks.made(system, "latent"),
        REFERENCE: yardsticks.made(system, "reference"),
    }


def judged(sets: Mapping[str, Gallery], judge: Judge) -> pd.DataFrame:
    """What a judge sees in each set (name -> images): a row for each set and cell.

    "set", "product", "defect", "recognised" (share judged as the defect that was asked for) and
    "kept" (as the product; NaN with one product).
    """
    rows = []
    for name, gallery in sets.items():
        found, seen = cells_of(gallery).assign(set=name), judge(gallery.x)
        found["recognised"] = found["defect"] == np.array(judge.defects)[seen.defect]
        found["kept"] = np.nan
        if seen.product is not None:
            found["kept"] = found["product"] == np.array(judge.products)[seen.product]
        rows.append(found)
    cells = pd.concat(rows).groupby(["set", "product", "defect"], sort=False)
    return cells[["recognised", "kept"]].mean().reset_index()


# --- distances -----------------------------------------------------------------------------------


def distance_study(
    yardsticks: Yardsticks, sets: Mapping[int, Mapping[str, Gallery]], extractor: Extractor
) -> pd.DataFrame:
    """All distances of all sets (seed -> name -> images) to fresh real images, in every column.

    A row for each set, column and seed: "set", "column", and `Distances.to_dict`.
    """
    reference = yardsticks.fresh(REFERENCE_SEED)
    real, masks = extractor(reference.x), column_masks(reference)
    rows = []
    for seed, named in sets.items():
        for name, gallery in named.items():
            made, known = extractor(gallery.x), dict[bytes, dict[str, Any]]()
            for column, mask in masks.items():
                if (key := mask.tobytes()) not in known:  # one cell: all columns are the same
                    known[key] = compare(real[mask], made[mask], extractor, seed).to_dict()
                rows.append({"set": name, "column": column} | known[key])
    return pd.DataFrame(rows)


def distance_summary(rows: pd.DataFrame, extractor: Extractor) -> pd.DataFrame:
    """Means over seeds and two spreads; "All" is the mean of the products, as in Table 1.

    Of the rows of `distance_study` in the extractor's space, a row for each set and column, in
    their order: "n" (made images of a seed), "seeds", "first" ("FD" or "KID"), "reason", and for
    each measure, under its full name, the mean, "... seeds" (standard deviation over seeds) and
    "... spread" (over subsamples).
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
    """A measure's means with their spread over seeds: sets by columns, as text."""
    chosen = summary[summary["column"].isin(columns)]
    pairs = zip(chosen[label], chosen[f"{label} seeds"], strict=True)
    texts = [with_spread(*pair, digits=".2f", none="nan") for pair in pairs]
    return stats.number_table(chosen, texts, "set", "column").reindex(columns=list(columns))


def versus(summary: pd.DataFrame, label: str, column: str, name: str, other: str) -> str:
    """How the set `name` stands against `other` in a column, by a measure's full name, in words.

    "nearer than", "farther than", or "not told apart from" where the difference is under twice the
    root of all squared spreads, over seeds and over subsamples, of both sets: more cautious than
    its standard error, since neither is divided by how often it was drawn.
    """
    both = summary[summary["column"] == column].set_index("set").loc[[name, other]]
    spreads = both[[f"{label} spread", f"{label} seeds"]].astype(float).fillna(0)
    error = float(np.sqrt((spreads**2).to_numpy().sum()))
    change = float(both[label].iloc[0] - both[label].iloc[1])
    return stats.verdict(change, 2 * error, "nearer than", "farther than", "not told apart from")


# --- nearest neighbours --------------------------------------------------------------------------


def nearest_rows(
    name: str, seed: int, gallery: Gallery, found: Mapping[str, Nearest]
) -> pd.DataFrame:
    """What a search found, a row for each image and space.

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

    Of the rows of `nearest_rows`, of any sets and seeds, a row for each set, space and value of
    `by`, further columns such as "product": "n" (over all seeds), "seeds", "score" (median),
    "copies", "copies seeds" (standard deviation of the share over seeds), and the Wilson interval
    "low", "high"; shares are 0 to 1.
    """
    keys = ["set", "space", *by]
    table = []
    for key, part in rows.groupby(keys, sort=False):
        shares = part.groupby("seed")["copy"].mean()
        interval = wilson(int(part["copy"].sum()), len(part))
        row = dict(zip(keys, key, strict=True)) | {"n": len(part), "seeds": len(shares)}
        row |= {"score": part["score"].median(), "copies": part["copy"].mean()}
        row |= {"copies seeds": shares.std(ddof=1)}
        table.append(row | {name: interval[name] for name in ("low", "high")})
    return pd.DataFrame(table)
