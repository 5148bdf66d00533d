"""Real training images and exported ones in one ImageFolder, and that folder as a training set.

    table = assemble(Path("augmented"), dataset, [Path("exported")])
    taught = read_training_set(Path("augmented"), dataset)

The folder is what `torchvision.datasets.ImageFolder` reads: AUGMENTED/<defect>/*.png.  Its
manifest.csv says of every image whether it is synthetic and which images it was made of, so that
nothing held out can slip in (`training_set.refuse_leaks`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dtgan_core.dataset import DatasetError
from dtgan_core.files import folded, read_plain, write_atomic
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.downstream.training_set import TrainingSet, refuse_leaks
from dtgan_lab.files import require_empty

COLUMNS = ["path", "product", "defect", "is_synthetic", "background", "reference"]
MANIFEST = "manifest.csv"


def assemble(out: Path, dataset: Dataset, exports: Sequence[Path]) -> pd.DataFrame:
    """Put the split `train` and some exports into one ImageFolder, new or empty.

    Writes OUT/<defect>/real_<name>.png, OUT/<defect>/<export>_<name>.png and, last,
    OUT/manifest.csv.  Images keep their bytes. Exports are folders that `generate --format
    imagefolder` wrote from training images of `dataset`; their names tell them apart.

    Returns the manifest: path, product, defect, is_synthetic, background and reference (paths of
    `dataset`, '' where there is none; of a real image the background is the image itself), sha256.
    ValueError: `out` holds something, an export is unfinished, two have one name, or a defect is
    unknown to the data set. DatasetError: an image was made of one that is held out, or not of this
    data set, or one of the data set is not what was prepared.
    """
    require_empty(out)
    names = [folded(export.name) for export in exports]
    if len(set(names)) < len(names):
        raise ValueError(f"exports named {', '.join(names)}: expected names that differ")
    real = dataset.manifest[dataset.manifest["split"] == "train"]
    rows, copies = [], []
    for path, product, defect in zip(real["path"], real["product"], real["defect"], strict=True):
        name = f"{defect}/real_{product}_{Path(path).name}"
        rows.append((name, product, defect, False, path, ""))
        copies.append((partial(dataset.read, path), name))
    product_of = dict(zip(dataset.manifest["path"], dataset.manifest["product"], strict=True))
    for export in exports:
        for row in _exported(export, dataset):
            background, reference = (_inside(row[key], dataset) for key in _MADE_OF)
            name = f"{row['defect']}/{export.name}_{Path(row['path']).name}"
            product = product_of.get(background, "")
            rows.append((name, product, row["defect"], True, background, reference))
            copies.append((partial(read_plain, export / row["path"]), name))
    table = pd.DataFrame(rows, columns=COLUMNS)
    refuse_leaks({path for key in _MADE_OF for path in table[key] if path}, dataset)
    hashes = []
    for read, name in copies:
        data = read()
        hashes.append(hashlib.sha256(data).hexdigest())
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out / name, data)
    table["sha256"] = hashes
    write_atomic(out / MANIFEST, table.to_csv(index=False).encode())
    return table


def read_training_set(folder: Path, dataset: Dataset) -> TrainingSet:
    """What `assemble` wrote, at the size and with the channels of the data set.

    ValueError: no manifest, or one without hashes. DatasetError: an image was made of one that is
    held out. ImageError: one cannot be decoded.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: holds no {MANIFEST}, expected a folder that `assemble` wrote")
    table = pd.read_csv(folder / MANIFEST, keep_default_na=False)
    if "sha256" not in table:
        raise ValueError(f"{folder / MANIFEST}: holds no sha256, expected one; assemble it again")
    sources = tuple(
        tuple(path for path in pair if path)
        for pair in zip(*(table[key] for key in _MADE_OF), strict=True)
    )
    refuse_leaks({path for pair in sources for path in pair}, dataset)
    info, whole = dataset.info, replace(dataset, root=folder)
    store = whole.store_of(table.assign(mask=""), info.image_size, info.channels)
    return TrainingSet(
        images=store.images,
        defects=store.defects,
        products=store.products,
        is_synthetic=torch.tensor(table["is_synthetic"].to_numpy(dtype=bool)),
        known=torch.ones(len(table), dtype=torch.bool),
        flips=store.flips,
        sources=sources,
    )


_MADE_OF = ("background", "reference")


def _exported(export: Path, dataset: Dataset) -> list[dict[Any, Any]]:
    """The lines of an export's manifest."""
    if not (export / MANIFEST).is_file():
        raise ValueError(
            f"{export}: holds no {MANIFEST}, so it is no finished export; end it with `generate "
            f"--format imagefolder --out {export} --resume`"
        )
    table = pd.read_csv(export / MANIFEST, keep_default_na=False, dtype=str)
    unknown = sorted(set(table["defect"]) - set(dataset.info.defects))
    if unknown:
        raise ValueError(
            f"{export / MANIFEST}: found {', '.join(unknown)}, expected defects of {dataset.root}: "
            f"{', '.join(dataset.info.defects)}"
        )
    return table.to_dict(orient="records")


def _inside(path: str, dataset: Dataset) -> str:
    """A path of an export's manifest as one of the data set's manifest, '' for ''."""
    if not path:
        return ""
    whole, root = Path(path).resolve(), dataset.root.resolve()
    if not whole.is_relative_to(root):
        raise DatasetError(
            f"{path}: an exported image was made of it, expected images of {dataset.root}, of "
            "which it is known what is held out; export with --backgrounds (and --references) "
            f"from {dataset.root / 'train'}"
        )
    return whole.relative_to(root).as_posix()
