"""The ablation of Fig. 3 from the rows of a study: means with two spreads, and what a step did.

    runs = read_runs(Path("results/ablation.jsonl"), manifest_hash)
    table = spreads(runs, MEASURES)          # a row a configuration and measure
    steps(table, ["a", "b", "c", "d", "e"])  # what each step of the ladder changed

Two spreads are kept apart: `seeds`, over models trained from other seeds, and `sampling`, over the
parts, references and latents that one model was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dtgan_core.synthesis import Synthesizer
from dtgan_lab import stats
from dtgan_lab.measure.real import RealSide
from dtgan_lab.measure.results import read_results
from dtgan_lab.stats import with_spread

LADDER = ("a", "b", "c", "d", "e")
STEPS = {
    "a": "StarGAN v2",
    "b": "+ style and defect apart",
    "c": "+ defect and product classifiers",
    "d": "+ separate decoders",
    "e": "+ anchor, noise in M",
}


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Attributes:
        key: its name among the columns of `read_runs`.
        label: its name in tables and figures, with its unit.
        scale: what it is multiplied by, 100 for shares in per cent.
        better: 1 where more is better, -1 where less is.
    """

    key: str
    label: str
    scale: float = 1.0
    better: int = 1


def measures_of(guidance: str) -> list[Measure]:
    """What the ablation measures, for one way of guidance, in the order of the paper's argument.

    The overlap is that of the change with the reference's mask, so draws have none.
    """
    found = [
        Measure(f"{guidance}/identity_shift", "identity shift (%)", 100, -1),
        Measure(f"{guidance}/background_psnr", "background (dB)"),
        Measure(f"{guidance}/recognised", "recognised as target (%)", 100),
        Measure(f"{guidance}/overlap", "change inside the reference's mask (%)", 100),
        Measure(f"{guidance}/relative_diversity", "diversity against real"),
        Measure(f"{guidance}/FD (domain)", "FD (domain)", better=-1),
        Measure(f"{guidance}/KID (domain)", "KID (domain)", better=-1),
    ]
    return [m for m in found if guidance == "reference" or "overlap" not in m.key]


def read_runs(path: Path, manifest_hash: str | None = None) -> pd.DataFrame:
    """The runs of a study, the latest row of each.

    Args:
        path: `.jsonl` that `study` wrote.
        manifest_hash: of the data set; rows of another one are left out.

    Returns:
        A row a run: "run", "name" (without its seed), "seed", "ablation", "iterations", "seconds",
        hashes, and for every measure "latent/..." and "reference/..." with its sampling spread
        under "... sampling".  Distances are those of all images pooled.
    """
    rows = read_results(path)
    if manifest_hash is not None:
        rows = rows[rows["manifest_sha256"] == manifest_hash]
    rows = rows.drop_duplicates("run", keep="last")
    flat = [_flat({str(k): v for k, v in row.items()}) for row in rows.to_dict(orient="records")]
    return pd.DataFrame(flat)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    keep = ("run", "seed", "ablation", "iterations", "seconds", "checkpoint_sha256")
    found: dict[str, Any] = {name: row[name] for name in keep}
    found["name"] = row["run"].rsplit("-", 1)[0]
    cells = pd.DataFrame(row["cells"])
    for guidance, part in cells.groupby("guidance", sort=False):
        for name in (
            "recognised",
            "product_kept",
            "background_psnr",
            "overlap",
            "relative_diversity",
        ):
            found[f"{guidance}/{name}"] = part[name].astype(float).mean()
            # cells are drawn apart, so their squares add up
            squares = part[f"{name}_std"].astype(float) ** 2
            found[f"{guidance}/{name} sampling"] = float(np.sqrt(squares.sum()) / len(part))
        kept, spread = found[f"{guidance}/product_kept"], found[f"{guidance}/product_kept sampling"]
        found |= {f"{guidance}/identity_shift": 1 - kept}
        found |= {f"{guidance}/identity_shift sampling": spread}
    distances = pd.DataFrame(row["distances"] if isinstance(row.get("distances"), list) else [])
    if len(distances):
        pooled = distances[distances["column"] == "pooled"]
        for guidance, part in pooled.groupby("guidance", sort=False):
            for name in ("FD (domain)", "KID (domain)", "recall (domain)"):
                found[f"{guidance}/{name}"] = part[name].astype(float).mean()
                found[f"{guidance}/{name} sampling"] = part[name].astype(float).std()
    return found


def spreads(
    runs: pd.DataFrame, measures: Sequence[Measure], names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Mean and both spreads of each measure, over the training seeds of each configuration.

    Args:
        runs: from `read_runs`.
        measures: what to tell.
        names: configurations, in this order; default: all.

    Returns:
        A row a configuration and measure: "name", "measure" (label), "runs" (training seeds),
        "mean", "seeds" (standard deviation over training seeds; NaN with one), "sampling" (mean
        over runs of the standard deviation over sampling seeds), "better".
    """
    rows = []
    for name in names or list(runs["name"].unique()):
        part = runs[runs["name"] == name]
        for measure in measures:
            if measure.key not in part or part.empty:
                continue
            values = measure.scale * part[measure.key].astype(float)
            sampling = measure.scale * part[f"{measure.key} sampling"].astype(float)
            rows.append(
                {
                    "name": name,
                    "measure": measure.label,
                    "runs": len(part),
                    "mean": values.mean(),
                    "seeds": values.std(ddof=1),
                    "sampling": sampling.mean(),
                    "better": measure.better,
                }
            )
    return pd.DataFrame(rows)


def number_table(table: pd.DataFrame) -> pd.DataFrame:
    """Configurations by measures as text, "mean ± seeds (sampling)"."""
    texts = []
    for row in table.to_dict(orient="records"):
        text = with_spread(row["mean"], row["seeds"], ".3g", ".2g", "n/a")
        texts.append(text if np.isnan(row["mean"]) else f"{text} ({row['sampling']:.1g})")
    return stats.number_table(table, texts, "name", "measure")


def steps(table: pd.DataFrame, ladder: Sequence[str]) -> pd.DataFrame:
    """What each step of a ladder changed, and whether that is more than chance.

    Args:
        table: from `spreads`.
        ladder: configurations, each a step beyond the one before it.

    Returns:
        A row a step and measure: "step", "measure", "before", "after", "change", "verdict":
        "better" or "worse" where the change exceeds twice its standard error, from the spread
        over training seeds of both sides; else "not told apart"; "one run a side" where there is
        no such spread.
    """
    rows = []
    by = table.set_index(["name", "measure"])
    for first, second in zip(ladder, ladder[1:], strict=False):
        for measure in table["measure"].unique():
            if (first, measure) not in by.index or (second, measure) not in by.index:
                continue
            before, after = by.loc[(first, measure)], by.loc[(second, measure)]
            change = float(after["mean"] - before["mean"])
            rows.append(
                {
                    "step": f"{first} -> {second}",
                    "measure": measure,
                    "before": float(before["mean"]),
                    "after": float(after["mean"]),
                    "change": change,
                    "verdict": _verdict(before, after, change),
                }
            )
    return pd.DataFrame(rows)


def _verdict(before: pd.Series, after: pd.Series, change: float) -> str:
    """By twice the standard error of the training seeds of both sides."""
    error = np.sqrt(sum(side["seeds"] ** 2 / side["runs"] for side in (before, after)))
    better = change * after["better"]
    return stats.verdict(better, 2 * float(error), "worse", "better", alone="one run a side")


# --- Fig. 3 --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cases:
    """The same sources and references for every configuration, a case a product and defect.

    Attributes:
        x: (N, ch, H, W) in [-1, 1], held-out Normal parts.
        x_ref: (N, ch, H, W) in [-1, 1], held-out references of another product.
        defects: N target defects, by name.
        products: N products of the parts.
        reference_products: N products of the references.
    """

    x: Tensor
    x_ref: Tensor
    defects: list[str]
    products: list[str]
    reference_products: list[str]

    def translated(self, synth: Synthesizer, guidance: str, seed: int = 0) -> Tensor:
        """What a model makes of them, (N, ch, H, W) in [-1, 1].

        Args:
            synth: a model.
            guidance: "latent" or "reference".
            seed: of the latents; case n takes draw n.
        """
        made = []
        for n, defect in enumerate(self.defects):
            x = self.x[n : n + 1]
            if guidance == "latent":
                made.append(synth.latent_guided(x, defect, seed, n))
            else:
                made.append(synth.reference_guided(x, self.x_ref[n : n + 1], defect))
        return torch.cat(made).cpu()


def fig3_cases(real: RealSide, number: int = 0) -> Cases:
    """A held-out part of each product for each defect, with a reference of the next product.

    Args:
        real: held-out images.
        number: which part and reference of each cell, from 0.
    """
    store = real.held_out
    count = len(store.product_names)
    defects = [y for y in range(len(store.defect_names)) if y != real.anchor]
    parts, references = [], []
    for y in defects:
        for p in range(count):
            donors = [(p + k) % count for k in range(1, count + 1) if real.cell((p + k) % count, y)]
            found = real.cell(donors[0], y)
            parts.append(_nth(real.cell(p, real.anchor), number + y))
            references.append(_nth(found, number))
    return Cases(
        x=store.to_float(torch.tensor(parts)).cpu(),
        x_ref=store.to_float(torch.tensor(references)).cpu(),
        defects=[store.defect_names[y] for y in defects for _ in range(count)],
        products=[store.product_names[int(store.products[i])] for i in parts],
        reference_products=[store.product_names[int(store.products[i])] for i in references],
    )


def _nth(numbers: list[int], n: int) -> int:
    return numbers[n % len(numbers)]
