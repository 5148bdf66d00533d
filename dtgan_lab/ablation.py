"""The ablation of Fig. 3 from the rows of a study: means with two spreads.

    runs = read_runs(Path("results/ablation.jsonl"), manifest_hash)
    table = spreads(runs, MEASURES)          # a row a configuration and measure

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

from dtgan_lab.measure.results import read_results

COLUMNS = ("recognised", "product_kept", "background_psnr", "overlap", "relative_diversity")


@dataclass(frozen=True)
class Measure:
    """A number of a run: its column in `read_runs`, its title with the unit, and its scale.

    More is better where `better` is 1, less where it is -1.
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
    """The runs in a `.jsonl` that `study` wrote, the latest row of each, of one data set if named.

    A row a run: "run", "name" (without its seed), "seed", "ablation", "iterations", "seconds",
    hash, and for every measure "latent/..." and "reference/..." with its sampling spread under
    "... sampling".  Distances are those of all images pooled.
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
        for name in COLUMNS:
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

    A row a configuration (of `names`, in this order, or all) and measure: "name", "measure"
    (label), "runs" (training seeds), "mean", "seeds" (standard deviation over training seeds; NaN
    with one), "sampling" (mean over runs of the standard deviation over sampling seeds), "better".
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
