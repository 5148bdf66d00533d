"""Tables of the downstream comparison: one row an arm and seed, arms held against one another.

    frame = per_seed(read_results(Path("results/downstream-synthetic-sdi.jsonl")))
    base = best_without_generator(frame)
    against(frame, base)              # difference, relative change, paired test

Arms of one seed share their Normal images, the initial weights and the order of the data, so two
arms are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution
from scipy.stats import ttest_rel

from dtgan_core.dataset import Dataset
from dtgan_lab import stats
from dtgan_lab.stats import with_spread

# what takes no trained generator: the ways that are open to everybody, cheap ones first
WITHOUT_GENERATOR = (
    "none",
    "traditional",
    "cutmix",
    "cutpaste",
    "perlin",
    "copy-paste",
    "copy-paste-all",
)


def per_seed(
    rows: Sequence[Mapping[str, Any]], systems: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Lines of a results file as a table, the latest line of each arm and seed.

    Args:
        rows: of `comparison.read_results`, of one data set.
        systems: sha256 of a checkpoint -> a word put before the names of its arms, for models
            other than DT-GAN that have the same arms, such as configuration (a).

    Returns:
        A row a line: "arm", "seed", "images_per_class", "error" and "error P" of each product,
        "recall Y" of each defect, "recall P Y" of each product and defect (lines written since the
        kit records it), "defect_recall" (at 1 % false rejects), "domain" (accuracy of
        the domain head; NaN where there is none), all in per cent; "n" (test images), "synthetic"
        (images), "seconds".
    """
    found = [_flat(row, systems or {}) for row in rows]
    if not found:
        return pd.DataFrame(columns=["arm", "seed", "images_per_class", "error"])
    keys = ["arm", "seed", "images_per_class"]
    return pd.DataFrame(found).drop_duplicates(keys, keep="last").reset_index(drop=True)


def _flat(row: Mapping[str, Any], systems: Mapping[str, str]) -> dict[str, Any]:
    before = systems.get(row["checkpoint_sha256"] or "", "")
    return {
        "arm": f"{before} {row['arm'].removeprefix('dtgan-')}" if before else row["arm"],
        "seed": row["seed"],
        "images_per_class": row["images_per_class"],
        **in_per_cent(row),
        **{f"error {p}": 100 * share for p, share in row["test"]["error_by_product"].items()},
        **{f"recall {c}": 100 * x for c, x in row["test"].get("recall_by_cell", {}).items()},
        "n": row["test"]["n"],
        "synthetic": sum(count["synthetic"] for count in row["counts"].values()),
        "seconds": row["seconds"],
    }


def in_per_cent(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of a results file, by the names of `results_table`'s columns."""
    test, domain = row["test"], row["domain_accuracy"]
    return {
        "error": 100 * test["error"],
        **{f"recall {y}": 100 * share for y, share in test["recall"].items()},
        "defect_recall": 100 * test["defect_recall"],
        "domain": float("nan") if domain is None else 100 * domain,
    }


def of_data(rows: Sequence[Mapping[str, Any]], dataset: Dataset) -> list[Mapping[str, Any]]:
    """The lines that were made of this data set, by the hash of its manifest."""
    return [row for row in rows if row["manifest_sha256"] == dataset.manifest_hash]


def by_data(
    rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any], column: str
) -> pd.DataFrame:
    """`per_seed` of several data sets under one another, such as subsets of different size.

    Args:
        rows: of `comparison.read_results`.
        values: name of a data set -> what stands for it; lines of others are left out.
        column: where that stands.

    Raises:
        ValueError: a name stands for two data sets, of different manifests.
    """
    frames = []
    for name, value in values.items():
        chosen = [row for row in rows if row["data"] == name]
        hashes = sorted({str(row["manifest_sha256"])[:12] for row in chosen})
        if len(hashes) > 1:
            raise ValueError(
                f"the name {name} stands for {len(hashes)} data sets ({', '.join(hashes)}...), "
                "expected one; leave out the lines of the others with of_data"
            )
        frames.append(per_seed(chosen).assign(**{column: value}))
    return pd.concat(frames, ignore_index=True)


def number_table(
    frame: pd.DataFrame, columns: Sequence[str], arms: Sequence[str] | None = None
) -> pd.DataFrame:
    """Arms by columns as text, "mean ± standard deviation over seeds", with the seeds counted.

    Args:
        frame: of `per_seed`.
        columns: of it, such as "error".
        arms: in this order, those that are there; default: all.
    """
    rows = {}
    for arm in frame["arm"].unique() if arms is None else arms:
        part = frame[frame["arm"] == arm]
        if len(part):
            means = {c: (part[c].mean(), part[c].std()) for c in columns if c in part}
            cells = {c: with_spread(*pair) for c, pair in means.items()}
            rows[arm] = {"seeds": len(part), **cells}
    return pd.DataFrame(rows).T


def best_without_generator(frame: pd.DataFrame, column: str = "error") -> str:
    """The arm of the lowest mean among `WITHOUT_GENERATOR`: what a generator has to beat.

    It is chosen by the very numbers that are reported, which flatters it a little, and not us.

    Raises:
        ValueError: the table has none of these arms.
    """
    means = frame[frame["arm"].isin(WITHOUT_GENERATOR)].groupby("arm", sort=False)[column].mean()
    if means.empty:
        known = ", ".join(WITHOUT_GENERATOR)
        raise ValueError(f"no arm without a generator among the results; run one of {known}")
    return str(means.idxmin())


def against(frame: pd.DataFrame, base: str, column: str = "error") -> pd.DataFrame:
    """Every arm held against one, seed by seed.

    Args:
        frame: of `per_seed`, one number of images per class.
        base: an arm of it.
        column: what is compared, in per cent.

    Returns:
        A row an arm: "pairs" (seeds that both have), "difference" in points (arm minus base),
        "low" and "high" (95 % interval of it, from the t distribution; NaN with one pair),
        "relative" (the difference in per cent of the base's mean), "p" (paired t test, two sides;
        not corrected for the number of arms).

    Raises:
        ValueError: the base is not among the arms, or an arm has a seed twice.
    """
    if base not in set(frame["arm"]):
        raise ValueError(f"no results of {base}; the table has {', '.join(frame['arm'].unique())}")
    wide = frame.pivot(index="seed", columns="arm", values=column)
    rows = {}
    for arm in frame["arm"].unique():
        if arm == base:
            continue
        pairs = wide[[arm, base]].dropna()
        if pairs.empty:
            continue
        change = pairs[arm] - pairs[base]
        low, high = _interval(change)
        # equal pairs have no spread to test
        p = float(ttest_rel(pairs[arm], pairs[base]).pvalue) if change.std() > 0 else np.nan
        rows[arm] = {
            "pairs": len(pairs),
            "difference": change.mean(),
            "low": low,
            "high": high,
            "relative": 100 * change.mean() / pairs[base].mean(),
            "p": p,
        }
    return pd.DataFrame(rows).T


def _interval(change: pd.Series) -> tuple[float, float]:
    """95 % interval of a mean, from the t distribution."""
    if len(change) < 2:
        return np.nan, np.nan
    half = t_distribution.ppf(0.975, len(change) - 1) * change.std() / np.sqrt(len(change))
    return float(change.mean() - half), float(change.mean() + half)


def verdict(row: Mapping[Any, Any] | pd.Series) -> str:
    """What a row of `against` says of errors: "lower", "higher" or "not told apart"."""
    half = (row["high"] - row["low"]) / 2
    return stats.verdict(row["difference"], half, "lower", "higher")


def told_against(frame: pd.DataFrame, base: str, arms: Sequence[str]) -> list[str]:
    """Arms against one as text, such as "+2.6 (higher)": points of error and the verdict.

    Args:
        frame: of `per_seed`, one number of images per class.
        base: an arm of it.
        arms: one text each, empty for the base and where there is nothing to compare.
    """
    texts = {
        arm: f"{row['difference']:+.1f} ({verdict(row)})"
        for arm, row in against(frame, base).iterrows()
    }
    return [texts.get(arm, "") for arm in arms]
