"""What `python -m dtgan_core judge`, `domain-features` and `evaluate` do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch

from dtgan_core.checkpoints import step_folders
from dtgan_core.files import sha256_of, write_json_atomic
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.cli.commands import export_run
from dtgan_lab.cli.main import COMMANDS
from dtgan_lab.data import Dataset, ImageStore, load_dataset
from dtgan_lab.data.folder import ImageFiles
from dtgan_lab.files import make_place
from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.measure.cells import held_out_looks, looks_table, polarity_error
from dtgan_lab.measure.distances import Distances, compare
from dtgan_lab.measure.domain import DomainConfig, DomainFeatures, train_domain_features
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.folders import folder_points, read_folder
from dtgan_lab.measure.judge import WEIGHTS_NAME, Judge, JudgeConfig, accuracy, train_judge
from dtgan_lab.measure.quality import Assessment, assess, check_fit, warn_of_other_data
from dtgan_lab.measure.real import RealSide
from dtgan_lab.measure.results import append_result, records
from dtgan_lab.stats import with_spread

SHARES = (
    ("recognised", "recognised %"),
    ("product_kept", "product kept %"),
    ("diversity", "diversity of real %"),
    ("relative_diversity", "relative %"),
    ("core_diversity", "core %"),
    ("copies", "copies %"),
)


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """What an observer's options say of its training."""
    given = {"seed": options.seed, "iterations": options.iterations}
    return {name: value for name, value in given.items() if value is not None}


def run_judge(options: argparse.Namespace) -> None:
    """`judge`: train, store, tell the accuracy on held-out images."""
    dataset = load_dataset(options.data)
    config = JudgeConfig.of(dataset, options.image_size, **_fields(options))
    judge = train_judge(dataset, config, options.device)
    judge.save(options.out)
    print(f"accuracy on the split test, share and 95 % Wilson interval ({judge.card['seconds']} s)")
    print(pd.DataFrame(judge.card["accuracy"]["test"]).to_string(index=False))
    print(f"done: {options.out}")


def run_domain_features(options: argparse.Namespace) -> None:
    """`domain-features`: train, store, tell what they know of held-out images."""
    dataset = load_dataset(options.data)
    config = DomainConfig.of(dataset, options.image_size or 64, **_fields(options))
    found = train_domain_features(dataset, config, options.device)
    found.save(options.out)
    print(f"of the split test ({found.card['seconds']} s): {json.dumps(found.card['test'])}")
    print(f"done: {options.out}")


def load_model(checkpoint: Path, device: torch.device) -> Synthesizer:
    """A model of an export, of a finished run, or of the newest checkpoint of a run."""
    cards = [folder / "card.json" for folder in (checkpoint, checkpoint / "export")]
    if any(map(Path.is_file, cards)) or not step_folders(checkpoint):
        return Synthesizer.load(checkpoint, device)
    with TemporaryDirectory() as folder:
        export_run(checkpoint, Path(folder))
        return Synthesizer.load(folder, device)


class Evaluation(NamedTuple):
    """What was found of a model, how far the judge is to be trusted, and what both rest on."""

    dataset: Dataset
    judge: Judge
    real: RealSide
    found: Assessment
    trust: pd.DataFrame
    looks: pd.DataFrame

    def origin(self, options: argparse.Namespace) -> dict[str, str]:
        """The hashes of judge and data that a row or card says."""
        return {
            "judge_sha256": sha256_of(options.judge / WEIGHTS_NAME),
            "manifest_sha256": self.dataset.manifest_hash,
        }


def evaluation(synth: Synthesizer, options: argparse.Namespace, seeds: int) -> Evaluation:
    """Evaluate a model by `--data` and `--judge`; ValueError where they do not fit together."""
    dataset, judge = load_dataset(options.data), Judge.load(options.judge, options.device)
    check_fit(synth, dataset, judge)
    warn_of_other_data(synth.card, dataset, f"{options.checkpoint}")
    warn_of_other_data(judge.card, dataset, f"{options.judge}")
    model = synth.config.model
    test = ImageStore.load(dataset, "test", model.image_size, model.channels, progress=False)
    trust = accuracy(judge, test)
    real = RealSide(dataset, model.image_size, model.channels)
    found = assess(synth, dataset, judge, tuple(range(seeds)), real)
    return Evaluation(dataset, judge, real, found, trust, held_out_looks(synth, real))


def run_evaluate(options: argparse.Namespace) -> None:
    """`evaluate`: print the tables, and write them as JSON where asked."""
    if wants_folders(options):
        run_distances(options)
        return
    seeds = 3 if options.seeds is None else options.seeds
    begin = time.perf_counter()
    synth = load_model(options.checkpoint, options.device)
    seen = evaluation(synth, options, seeds)
    seconds = time.perf_counter() - begin
    tables = seen.found, seen.trust, seen.looks
    print(report(*tables))
    print(f"{options.checkpoint}, {synth.card['iterations']} iterations; {seconds:.0f} s")
    if options.json:
        make_place(options.json)
        write_json_atomic(options.json, as_json(*tables, synth, seeds))
    if options.results:
        row = {
            "command": "evaluate",
            "checkpoint": str(options.checkpoint),
            "checkpoint_sha256": synth.checkpoint_hash,
            **seen.origin(options),
            "config": synth.config.to_json(),
            "iterations": synth.card["iterations"],
            "seeds": seeds,
            **seen.found.overall,
            **{f"{way}/polarity_error": off for way, off in polarity_error(seen.looks).items()},
        }
        append_result(options.results, row)


def wants_folders(options: argparse.Namespace) -> bool:
    """Whether `evaluate` compares two folders, else a checkpoint; not both (ValueError)."""
    either = "--checkpoint, --data and --judge (a checkpoint), or --real and --fake (two folders)"
    model, pair = (
        [f"--{n.replace('_', '-')}" for n in texts if getattr(options, n) is not None]
        for texts in COMMANDS["evaluate"].groups.values()
    )
    if model and pair:
        raise ValueError(
            f"found {', '.join(model)} and {', '.join(pair)}, expected either {either}"
        )
    needed = ["--real", "--fake"] if pair else ["--checkpoint", "--data", "--judge"]
    missing = [name for name in needed if name not in model + pair]
    if missing:
        raise ValueError(f"evaluate needs {', '.join(missing)}; give {either}")
    return bool(pair)


def as_json(
    found: Assessment, trust: pd.DataFrame, looks: pd.DataFrame, synth: Synthesizer, seeds: int
) -> Any:
    """Everything as plain JSON; what is not defined is null."""
    return {
        "checkpoint_sha256": synth.checkpoint_hash,
        "iterations": synth.card["iterations"],
        "seeds": seeds,
        "looks": records(looks),
        "judge": records(trust),
        "overall": {name: v if v == v else None for name, v in found.overall.items()},
        "summary": records(found.summary),
        "translations": records(found.translations),
    }


# --- two folders ---------------------------------------------------------------------------------


Pair = tuple[ImageFiles, ImageFiles]  # real and made


def run_distances(options: argparse.Namespace) -> None:
    """`evaluate --real DIR --fake DIR`: all distances of two folders of images."""
    name, trusted = options.features or "domain", bool(options.trust_weights)
    if trusted and not (name == "inception" and options.weights):
        raise ValueError("--trust-weights: goes with --features inception and --weights FILE alone")
    extractor = load_extractor(name, options.weights, options.device, trusted)
    seed = options.seed or 0
    folders = read_folder(options.real), read_folder(options.fake)
    size = _common_size(extractor, folders, options)
    real, fake = (folder_points(folder, extractor, size, options.cache) for folder in folders)
    found = compare(real, fake, extractor, seed)
    row = {
        "real": str(options.real),
        "fake": str(options.fake),
        "real_sha256": folders[0].sha256,
        "fake_sha256": folders[1].sha256,
        "image_size": list(size),
        **found.to_dict(),
    }
    for text in _cautions(extractor, found, folders):
        print(f"warning: {text}", file=sys.stderr)
    print(_distances(found))
    if options.json:
        make_place(options.json)
        write_json_atomic(options.json, row)
    if options.results:
        append_result(options.results, {"command": "evaluate", **row})


def _common_size(
    extractor: Extractor, folders: Pair, options: argparse.Namespace
) -> tuple[int, int]:
    """(height, width) that both folders are brought to: the extractor's, the wish, or their own."""
    side, wish = extractor.image_size, options.image_size
    if side is not None:
        if wish not in (None, side):
            raise ValueError(
                f"--image-size {wish}: the features {extractor.name!r} take {side} pixels; leave "
                "it out, or train some: python -m dtgan_core domain-features --image-size N"
            )
        return side, side
    if wish is not None:
        return wish, wish
    sizes = [folder.size for folder in folders]
    if sizes[0] is None or sizes[0] != sizes[1]:
        found = [f"{s[1]} x {s[0]}" if s else "of several sizes" for s in sizes]
        raise ValueError(
            f"{options.real}: images {found[0]}, {options.fake}: {found[1]}, expected one size, "
            "since blur alone would tell them apart; bring both to that of the smaller: "
            "--image-size N"
        )
    return sizes[0]


def _cautions(extractor: Extractor, found: Distances, folders: Pair) -> list[str]:
    """What a reader of the numbers should know."""
    lines = []
    if isinstance(extractor, DomainFeatures):
        data = extractor.card["data"].get("name", "unnamed data")
        lines.append(
            f"these features learned from {data} alone; of other images they tell little. See "
            "`python -m dtgan_core domain-features`"
        )
    if extractor.name not in EXTRACTORS:
        lines.append(
            f"these weights (sha256 {extractor.sha256[:12]}) are not those of the published "
            "Inception; their distance is not FID"
        )
    if found.first != "FD":
        lines.append(f"quote {found.space.label('KID')}: {found.reason}")
    if folders[0].sha256 == folders[1].sha256:
        lines.append("both folders hold the same images")
    return lines


def _distances(found: Distances) -> str:
    """The numbers as text, the first one first."""
    frechet, kid, manifold = found.frechet, found.kid, found.manifold
    told = f"{found.space.label('FD')} {frechet['value']:.4g}"
    if frechet["spread"] == frechet["spread"]:  # not NaN
        told += f" ± {frechet['spread']:.3g}, without the bias of few images about "
        told += f"{frechet['extrapolated']:.4g}"
    lines = [
        told,
        f"{found.space.label('KID')} {kid['value']:.4g} ± {kid['spread']:.2g} "
        f"({kid['subsets']} subsets of {kid['subset']})",
    ]
    shares = ("precision", "recall", "density", "coverage")
    told = ", ".join(f"{found.space.label(name)} {manifold[name]:.3f}" for name in shares)
    return "\n".join(
        [
            f"{found.n_real} real and {found.n_fake} made images, {found.space.dimension} features "
            f"(sha256 {found.space.sha256[:12]}), seed {found.seed}",
            *(lines if found.first == "FD" else reversed(lines)),
            f"{told} (n {manifold['n']})",
        ]
    )


# --- as text -------------------------------------------------------------------------------------


def report(found: Assessment, trust: pd.DataFrame, looks: pd.DataFrame) -> str:
    """The tables as text: how defects look first, then the judge and what it says of them.

    `looks` is empty where the data has no masks.
    """
    pooled = trust[trust["product"] == "all"].drop(columns="product")
    defects, nothing = _without_empty(summary_table(found.summary))
    seen = (
        "not told: no masks in this data"
        if looks.empty
        else looks_table(looks).to_string(index=False)
    )
    pieces = [
        "how defects look, made (real): dark share of the change, contrast in grey levels, width, "
        "area, pieces;",
        "overlap with the reference's mask; a judge and a distance pass over most of this",
        seen,
        "",
        "the judge on real images of the split test (share right, 95 % Wilson interval)",
        pooled.to_string(index=False),
        "",
        "defects on held-out Normal images: mean ± spread over sampling seeds",
        defects.to_string(index=False),
        *([f"not told of this data (one product, or no masks): {nothing}"] if nothing else []),
        "",
        "all translations, pooled over products",
        _without_empty(translation_table(found.translations))[0].to_string(index=False),
        "",
        "overall: " + ", ".join(f"{name} {value:.3g}" for name, value in found.overall.items()),
    ]
    return "\n".join(pieces)


def _per_cent(mean: float, spread: float = float("nan")) -> str:
    return with_spread(100 * mean, 100 * spread, ".0f", none="n/a")


def _decibels(mean: float, spread: float = float("nan")) -> str:
    return with_spread(mean, spread, none="n/a")


def _without_empty(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A table without the columns that say n/a in every row, and the names of these."""
    empty = [name for name in table.columns if (table[name] == "n/a").all()]
    return table.drop(columns=empty), ", ".join(empty)


def summary_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary for people: shares in percent, mean ± spread."""
    table = summary[["product", "defect", "guidance", "n"]].copy()
    for name, title in SHARES:
        pairs = zip(summary[name], summary[f"{name}_std"], strict=True)
        table[title] = [_per_cent(*pair) for pair in pairs]
    table["copies in real %"] = [_per_cent(share) for share in summary["copies_real"]]
    pairs = zip(summary["background_psnr"], summary["background_psnr_std"], strict=True)
    table.insert(6, "background dB", [_decibels(*pair) for pair in pairs])
    return table


def translation_table(translations: pd.DataFrame) -> pd.DataFrame:
    """Source x target, pooled over products (each the same weight), for people."""
    rows = []
    keys = ["source", "target", "guidance"]
    for (source, target, guidance), part in translations.groupby(keys, sort=False):
        mean = part[["recognised", "product_kept", "clean_psnr"]].mean()
        rows.append(
            {
                "source": source,
                "target": target,
                "guidance": guidance,
                "n": int(part["n"].sum()),
                "recognised %": _per_cent(mean["recognised"]),
                "worst product %": _per_cent(float(part["recognised"].min())),
                "product kept %": _per_cent(mean["product_kept"]),
                "to clean twin dB": _decibels(mean["clean_psnr"]),
            }
        )
    return pd.DataFrame(rows)
