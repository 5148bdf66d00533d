"""The synthetic SDI: a procedural look-alike of the surface defect images of the DT-GAN paper.

The real set is a download of 1.6 GB; this one imitates its overview figure, with the class sizes of
its data sheet. Every image is drawn from its own seed, so that any of them can be drawn again
alone, further ones never repeat an old one, and each defective image comes with the same surface
without the defect (its *twin*) and the mask of what the defect changed.

    more = fresh_images("C", "Spots", count=1000, seed=0)
    make_synthetic_sdi(Path("data/synthetic-sdi"))
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import open_plain, read_json
from dtgan_lab.data.dataset import INFO_NAME, MANIFEST_NAME, Dataset, DatasetInfo
from dtgan_lab.data.layout import put_image, staged_dataset, write_dataset
from dtgan_lab.data.synthetic.drawing import DEFECTS as DEFECTS
from dtgan_lab.data.synthetic.drawing import DRAWING_VERSION, NAME, check_class, draw, image_seed
from dtgan_lab.data.synthetic.drawing import MAX_SEED as MAX_SEED
from dtgan_lab.data.synthetic.drawing import PRODUCTS as PRODUCTS
from dtgan_lab.data.synthetic.drawing import fresh_images as fresh_images
from dtgan_lab.data.synthetic.textures import SIZE
from dtgan_lab.data.validation import load_dataset

MAX_POOL = 6200

#: Images per split and defect, for products A, B, C (data sheet of SDI: 3,464 for GAN training,
#: 450 held out).
COUNTS: dict[str, dict[str, tuple[int, int, int]]] = {
    "train": {"Normal": (700, 700, 700), "Scratches": (290, 117, 71), "Spots": (58, 620, 208)},
    "val": {"Normal": (12, 18, 15), "Scratches": (14, 16, 15), "Spots": (14, 16, 15)},
    "test": {"Normal": (38, 32, 35), "Scratches": (36, 34, 35), "Spots": (36, 34, 35)},
}

_LEAST = {"train": 4, "val": 2, "test": 2}


class _Job(NamedTuple):
    """One image to be written."""

    root: Path
    split: str
    product: str
    defect: str
    number: int
    seed: int

    @property
    def path(self) -> str:
        """Its place in the data set."""
        name = f"{self.product}-{self.defect}-{self.split}-{self.number:05d}.png"
        return f"{self.split}/{self.product}/{self.defect}/{name}"


@dataclass(frozen=True)
class _Plan:
    """What a data set shall hold; its `command` makes it again."""

    seed: int
    scale: float
    pool: int
    fresh: int
    products: tuple[str, ...]
    defects: tuple[str, ...]

    def info(self) -> DatasetInfo:
        """The content of dataset.json."""
        command = f"python data_scripts/make_synthetic_sdi.py --out DIR --seed {self.seed}"
        reduced = ""
        if self.scale != 1.0:
            command += f" --scale {self.scale:g}"
            reduced = f", reduced to {self.scale:g} of its size"
        if self.pool:
            command += f" --with-classifier-pool {self.pool}"
        if self.fresh:
            command += f" --fresh {self.fresh}"
            for option, names in (("product", self.products), ("defect", self.defects)):
                command += "".join(f" --{option} {name}" for name in names if len(names) < 3)
        return DatasetInfo(
            name=NAME,
            anchor=DEFECTS[0],
            products=PRODUCTS,
            defects=DEFECTS,
            image_size=(SIZE, SIZE),
            channels=1,
            # a vertical flip would put the ledge, the groove and the light on the wrong side
            flips={product: ("horizontal",) for product in PRODUCTS},
            licence="CC0-1.0",
            citation="Imitates the look, and has the class sizes, of SDI (Surface Defect "
            "Inspection), the data set of: Wang, Hoppe, Monari, Huber. Defect Transfer GAN: "
            "Diverse Defect Synthesis for Data Augmentation. BMVC 2022, arXiv 2302.08366.",
            source="drawn by dtgan_core.data.synthetic_sdi, drawing version "
            f"{DRAWING_VERSION}{reduced}",
            command=command,
        )

    def jobs(self, root: Path) -> list[_Job]:
        """Every image of the set, split by split."""
        sizes = {
            (split, product, defect): min(count, max(_LEAST[split], round(count * self.scale)))
            for split, per_defect in COUNTS.items()
            for defect, per_product in per_defect.items()
            for product, count in zip(PRODUCTS, per_product, strict=True)
        }
        sizes |= {("pool", product, DEFECTS[0]): self.pool for product in PRODUCTS}
        sizes |= {("fresh", p, d): self.fresh for p in self.products for d in self.defects}
        return [
            _Job(root, split, product, defect, index, image_seed(self.seed, split, index))
            for (split, product, defect), count in sizes.items()
            for index in range(count)
        ]


def make_synthetic_sdi(
    out: Path,
    seed: int = 0,
    scale: float = 1.0,
    *,
    pool: int = 0,
    fresh: int = 0,
    products: tuple[str, ...] = PRODUCTS,
    defects: tuple[str, ...] = DEFECTS,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Write the synthetic SDI, or keep what is there when it holds all of it, soundly.

    A pool or fresh images can be added to a set later; nothing is ever taken from it.

    Args:
        out: folder of the data set; missing, empty, or holding this data set.
        seed: 0 <= seed < 2**26; other seeds give other images throughout.
        scale: 0 < scale <= 1, part of each class to draw; at least 4 images per training class
            and 2 per validation and test class.
        pool: extra Normal images per product in the split `pool`, up to 6,200, for a classifier.
        fresh: images per class in the split `fresh`; `products` and `defects` choose the classes.
        products: products of the fresh images.
        defects: defects of the fresh images.
        workers: processes; the bytes do not depend on it. Default: one per core, 8 at most.
        progress: show a progress bar when there is a terminal.

    Returns:
        The data set, checked.

    Raises:
        ValueError: an argument lies outside its range.
        DatasetError: `out` holds something that is not this data set.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale {scale}: expected 0 < scale <= 1")
    if not 0 <= pool <= MAX_POOL:
        raise ValueError(f"pool {pool}: expected 0 to {MAX_POOL} images per product")
    if fresh < 0:
        raise ValueError(f"fresh {fresh}: expected a number of images >= 0")
    for product in products:
        for defect in defects:
            check_class(product, defect)
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers}: expected at least 1")
    image_seed(seed, "train", 0)  # complains about the seed before anything is written
    plan = _Plan(seed, scale, pool, fresh, tuple(products), tuple(defects))
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file, expected a folder; choose another --out")
    standing = _standing(out, plan)
    if standing is not None:
        return standing
    with staged_dataset(out, NAME) as staging:
        rows = _write_all(plan.jobs(staging), workers, progress)
        write_dataset(staging, pd.DataFrame(rows), plan.info())
    return load_dataset(out)


def _standing(out: Path, plan: _Plan) -> Dataset | None:
    """What is at `out` when it soundly holds all that is planned; None when it must be drawn."""
    try:
        info = read_json(out / INFO_NAME)
        with open_plain(out / MANIFEST_NAME) as file:
            rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        have = set(zip(rows["path"], rows["seed"], strict=True))
    except (FileNotFoundError, ValueError, KeyError):
        return None  # nothing, or nothing whole: `staged_dataset` decides whether it may go
    if not isinstance(info, dict) or info.get("name") != NAME:
        return None
    want = {(job.path, str(job.seed)) for job in plan.jobs(out)}
    extra = {path for path, _ in have - want}
    fixed = any(path.split("/")[0] in COUNTS for path in extra)
    if have >= want and not fixed and info.get("source") == plan.info().source:
        try:
            return load_dataset(out, check="full")
        except DatasetError:
            if extra:  # which could not be drawn again
                raise
            return None
    if extra:
        raise DatasetError(
            f"{out}: holds a synthetic SDI made by `{info.get('command')}`; these options would "
            f"remove {len(extra)} of its images (such as {min(extra)}); expected an empty folder "
            "or the same set: choose another --out, or delete that folder"
        )
    return None


def _write_all(jobs: list[_Job], workers: int | None, progress: bool) -> list[dict[str, Any]]:
    """Draw and write every image, in as many processes as asked for."""
    # a process takes seconds to start, in which another draws a hundred images
    count = workers or max(1, min(os.cpu_count() or 1, 8, len(jobs) // 200))
    with tqdm(total=len(jobs), unit="image", desc=NAME, disable=None if progress else True) as bar:
        rows = []
        if count <= 1:
            for job in jobs:
                rows.append(_write(job))
                bar.update()
            return rows
        # spawn: a fork could inherit a lock that another library's thread holds
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(count, mp_context=context) as executor:
                for row in executor.map(_write, jobs, chunksize=16):
                    rows.append(row)
                    bar.update()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{jobs[0].root}: the {count} drawing processes stopped after {len(rows)} of "
                f"{len(jobs)} images; a script must call this under `if __name__ == "
                '"__main__":`, or pass workers=1'
            ) from error
        return rows


def _write(job: _Job) -> dict[str, Any]:
    """Draw one image, write its files into the staging folder and return its manifest row."""
    image, twin, mask = draw(job.product, job.defect, job.seed)
    truth = {} if job.defect == DEFECTS[0] else {"mask": mask, "twin": twin}
    name = Path(job.path).stem
    return put_image(
        job.root, job.path, image, **truth, group=name, seed=job.seed, source="synthetic"
    )
