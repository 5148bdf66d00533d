"""What `python -m dtgan_core evaluate --real DIR --fake DIR` does."""

from __future__ import annotations

import argparse
import sys

from dtgan_core.files import write_json_atomic
from dtgan_lab.data.folder import ImageFiles
from dtgan_lab.files import make_place
from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.measure.distances import Distances, compare
from dtgan_lab.measure.domain import DomainFeatures
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.features import Extractor
from dtgan_lab.measure.folders import folder_points, read_folder
from dtgan_lab.measure.results import append_result

Pair = tuple[ImageFiles, ImageFiles]  # real and made


def run_distances(options: argparse.Namespace) -> None:
    """`evaluate --real DIR --fake DIR`: all distances of two folders of images."""
    name, trusted = options.features or "domain", bool(options.trust_weights)
    if trusted and not (name == "inception" and options.weights):
        raise ValueError("--trust-weights: goes with --features inception and --weights FILE alone")
    extractor = load_extractor(name, options.weights, options.device, trusted)
    seed = options.seed or 0
    folders = read_folder(options.real), read_folder(options.fake)
    size = common_size(extractor, folders, options)
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
    for text in warnings(extractor, found, folders):
        print(f"warning: {text}", file=sys.stderr)
    print(report(found))
    if options.json:
        make_place(options.json)
        write_json_atomic(options.json, row)
    if options.results:
        append_result(options.results, {"command": "evaluate", **row})


def common_size(
    extractor: Extractor, folders: Pair, options: argparse.Namespace
) -> tuple[int, int]:
    """(height, width) that both folders are brought to: the extractor's, the wish, or their own.

    ValueError: a wish against the extractor's own size, or files of different sizes and no wish:
    what is enlarged alone would be told apart by its blur.
    """
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


def warnings(extractor: Extractor, found: Distances, folders: Pair) -> list[str]:
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


def report(found: Distances) -> str:
    """The numbers as text, the first one first."""
    frechet, kid, manifold = found.frechet, found.kid, found.manifold
    told = f"{found.space.label('FD')} {frechet.value:.4g}"
    if frechet.spread == frechet.spread:  # not NaN
        told += f" ± {frechet.spread:.3g}, without the bias of few images about "
        told += f"{frechet.extrapolated:.4g}"
    lines = [
        told,
        f"{found.space.label('KID')} {kid.value:.4g} ± {kid.spread:.2g} "
        f"({kid.subsets} subsets of {kid.subset})",
    ]
    shares = ("precision", "recall", "density", "coverage")
    told = ", ".join(f"{found.space.label(name)} {getattr(manifold, name):.3f}" for name in shares)
    return "\n".join(
        [
            f"{found.n_real} real and {found.n_fake} made images, {found.space.dimension} features "
            f"(sha256 {found.space.sha256[:12]}), seed {found.seed}",
            *(lines if found.first == "FD" else reversed(lines)),
            f"{told} (n {manifold.n})",
        ]
    )
