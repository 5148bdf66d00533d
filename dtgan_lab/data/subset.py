"""A data set with fewer training images of some cells, or fewer products: what if that were all?

    few = make_subset(load_dataset("build/data/synthetic-sdi"), {("A", "Scratches"): 5}, Path(OUT))
    alone = make_subset(load_dataset("build/data/synthetic-sdi"), {}, Path(OUT), products=["A"])

Everything else stays, held-out images above all, so that models of a data set and of its subsets
can be judged side by side.  With 0 a cell is withheld: its product and its defect are still seen,
but never together.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from dtgan_core.batches import step_generator
from dtgan_core.dataset import DatasetError
from dtgan_lab.data.dataset import Dataset, DatasetInfo
from dtgan_lab.data.layout import keep_apart, staged_dataset, write_dataset
from dtgan_lab.data.validation import load_dataset

Cell = tuple[str, str]  # product, defect


def make_subset(
    dataset: Dataset,
    keep: Mapping[Cell, int],
    out: Path,
    *,
    products: Sequence[str] = (),
    name: str = "",
    seed: int = 0,
) -> Dataset:
    """Write a data set that keeps so many training images of the cells named, and all others.

    Whole groups are kept or left out, as far as they fit, in a random order: a tile that was
    photographed six times gives six images or none.

    Args:
        dataset: a checked data set.
        keep: (product, defect) -> training images to keep, 0 to withhold the cell.
        out: folder to write to; missing, empty, or holding an older data set of that name.
        products: keep these alone, with their held-out images; default: all.
        name: short name of the subset; default: the data set's with "-subset".
        seed: of the choice; a larger number keeps the images of a smaller one and adds to them.

    Returns:
        The subset, checked.

    Raises:
        DatasetError: an unknown cell or product, fewer images than asked for, a defect with fewer
            than two training images left, or `out` is the input or holds something else. `out` is
            left as it was.
    """
    _refuse(dataset, keep, products, out)
    products = tuple(p for p in dataset.info.products if not products or p in products)
    dropped = {
        path for cell, count in keep.items() for path in _dropped(dataset, cell, count, seed)
    }
    rows = dataset.manifest[~dataset.manifest["path"].isin(dropped)]
    rows = rows[rows["product"].isin(products)].reset_index(drop=True)
    name = name or f"{dataset.info.name}-subset"
    with staged_dataset(out, name) as staging:
        columns = (rows[name] for name in ("path", "mask", "twin"))
        for path in dict.fromkeys(path for column in columns for path in column if path):
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(dataset.read(path))
        write_dataset(staging, rows, _info(dataset, keep, products, name, seed))
    return load_dataset(out)


def _refuse(dataset: Dataset, keep: Mapping[Cell, int], products: Sequence[str], out: Path) -> None:
    known = dataset.info.products
    problems = [
        f"{product}: no such product, expected some of {', '.join(known)}"
        for product in products
        if product not in known
    ]
    for cell, count in keep.items():
        found = len(_train_rows(dataset, cell))
        product, defect = cell
        if product not in dataset.info.products or defect not in dataset.info.defects:
            problems.append(
                f"{product}/{defect}: no such cell, expected one of "
                f"{', '.join(dataset.info.products)} / {', '.join(dataset.info.defects)}"
            )
        elif not 0 <= count <= found:
            problems.append(f"{product}/{defect}: {count} to be kept, expected 0 to {found}")
        elif products and product not in products:
            problems.append(f"{product}/{defect}: {product} is not kept; leave one of the two out")
    if not keep and not products:
        problems.append("nothing named; add --keep PRODUCT/DEFECT=N or --product PRODUCT")
    if problems:
        raise DatasetError(f"{dataset.root}: no such subset:", {"keep": problems})
    keep_apart(out, [dataset.root])


def _train_rows(dataset: Dataset, cell: Cell) -> pd.DataFrame:
    rows = dataset.manifest
    product, defect = cell
    same = (rows["product"] == product) & (rows["defect"] == defect) & (rows["split"] == "train")
    return rows[same]


def _dropped(dataset: Dataset, cell: Cell, count: int, seed: int) -> list[str]:
    """Paths of the training images of a cell that go."""
    rows = _train_rows(dataset, cell)
    groups = [part for _, part in rows.groupby("group", sort=True)]
    generator = step_generator(f"{seed}/subset/{cell[0]}", dataset.info.defects.index(cell[1]))
    dropped: list[str] = []
    kept = 0
    for number in torch.randperm(len(groups), generator=generator).tolist():
        part = list(groups[number]["path"])
        if kept + len(part) <= count:
            kept += len(part)
        else:
            dropped += part
    return dropped


def _info(
    dataset: Dataset, keep: Mapping[Cell, int], products: tuple[str, ...], name: str, seed: int
) -> DatasetInfo:
    words = ["python", "data_scripts/subset.py", "--data", f"DIR_OF_{dataset.info.name}"]
    words += [w for (p, d), count in keep.items() for w in ("--keep", f"{p}/{d}={count}")]
    if products != dataset.info.products:
        words += [word for product in products for word in ("--product", product)]
    words += ["--seed", str(seed), "--name", name, "--out", "DIR"]
    flips = {product: ways for product, ways in dataset.info.flips.items() if product in products}
    info = replace(dataset.info, name=name, products=products, flips=flips)
    return replace(info, source=dataset.origin, command=shlex.join(words))
