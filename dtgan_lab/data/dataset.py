"""The one layout in which every data set of this kit lies on disk, and its images in memory.

::

    DATA/dataset.json                                 what the set is (`DatasetInfo`)
    DATA/manifest.csv                                 one row per image (`MANIFEST_COLUMNS`)
    DATA/<split>/<product>/<defect>/<name>.png        the images, 8-bit grey or RGB
    DATA/masks/<split>/<product>/<defect>/<name>.png  ground-truth masks, 0 or 255 (optional)
    DATA/twins/<split>/<product>/<defect>/<name>.png  defect-free twins (optional)
    DATA/SHA256SUMS                                   hashes of masks and twins (older sets: none)

Whatever writes a data set uses `dtgan_lab.data.layout`; whatever reads one uses `load_dataset` of
`dtgan_lab.data.validation`, which checks it first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import AfterValidator, PositiveInt
from tqdm.contrib.concurrent import thread_map

from dtgan_core.dataset import FLIPS, DatasetError
from dtgan_core.files import Names, problems, read_plain, typed
from dtgan_core.images import ImageSource, as_height_width, decoded, image_to_array

if TYPE_CHECKING:
    import torch

    from dtgan_core.batches import ImageStore

FORMAT = 1
INFO_NAME = "dataset.json"
MANIFEST_NAME = "manifest.csv"
SUMS_NAME = "SHA256SUMS"
_HEADER = "path,product,defect,split,group,mask,twin,seed,sha256,source"
MANIFEST_COLUMNS = tuple(_HEADER.split(","))
#: train, val, test; `pool`: extra Normal images for a classifier; `fresh`: further draws.
SPLITS: tuple[str, ...] = ("train", "val", "test", "pool", "fresh")
#: Splits that nothing learns from.
HELD_OUT = ("val", "test")
MASKS_FOLDER = "masks"
TWINS_FOLDER = "twins"


#: A resized mask pixel counts as defect from this covered share on. Nearest-neighbour sampling
#: cuts a crack narrower than the step into dots; "any coverage" would thicken every defect.
MASK_COVERAGE = 0.25


def _among(*allowed: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"found {value!r}, expected {' or '.join(map(repr, allowed))}")
        return value

    return AfterValidator(check)


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says.

    Attributes:
        name: short name of the data set.
        anchor: the one defect that means "nothing there"; always the first of `defects`.
        products: product names; their order gives the labels p.
        defects: defect names; their order gives the labels y, so the anchor is y = 0.
        image_size: (height, width) of every image, in pixels.
        channels: 1 (grey) or 3 (RGB).
        flips: for each product the flips that leave it plausible.
        licence: terms of use of the images.
        citation: what to cite.
        source: where the images came from.
        command: the command line that makes this data set again.
    """

    name: str
    anchor: str
    products: Names
    defects: Names
    image_size: tuple[PositiveInt, PositiveInt]
    channels: Annotated[int, _among(1, 3)]
    flips: dict[str, tuple[Annotated[str, _among(*FLIPS)], ...]]
    licence: str
    citation: str
    source: str
    command: str

    def to_json(self) -> dict[str, Any]:
        """The dictionary that dataset.json holds."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetInfo:
        """Read the dictionary of dataset.json, other keys passed over, or DatasetError."""
        found = info_problems(value)
        if found:
            raise DatasetError("dataset.json is not usable:", {INFO_NAME: found})
        info: DatasetInfo = typed(_known(value), cls)
        return info


def _known(value: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(DatasetInfo)}
    return {name: part for name, part in value.items() if name in names}


def info_problems(value: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the content of a dataset.json, one line each."""
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        return [f'"format" is {value.get("format")!r}, this version of the kit reads {FORMAT}']
    found = problems(_known(value), DatasetInfo)
    if found:
        return found
    products, defects, anchor = value["products"], value["defects"], value["anchor"]
    found = [f"flips: {name!r} is none of the products" for name in {*value["flips"]} - {*products}]
    if defects[0] != anchor:
        found.append(f"the anchor {anchor!r} must be the first of the defects, found {defects}")
    return found


@dataclass(frozen=True)
class Dataset:
    """A data set on disk that passed its checks.

    Attributes:
        root: its folder.
        info: the content of dataset.json.
        manifest: the rows of manifest.csv, every column as text ('' where there is nothing).
        warnings: remarks that do not prevent its use, such as very small classes.
        sums: path -> hex sha256 of masks and twins; empty where an older kit wrote the data set.
    """

    root: Path
    info: DatasetInfo
    manifest: pd.DataFrame
    warnings: tuple[str, ...] = field(default=())
    sums: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest_hash(self) -> str:
        """Hex sha256 of manifest.csv's bytes; it names the data, since rows hold image hashes."""
        return hashlib.sha256(read_plain(self.root / MANIFEST_NAME)).hexdigest()

    @property
    def origin(self) -> str:
        """What a data set made of this one says of its source."""
        info = self.info
        return f"{info.source} (made by `{info.command}`, manifest sha256 {self.manifest_hash})"

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Path -> hex sha256 of all images, and of masks and twins where they are known."""
        images = zip(self.manifest["path"], self.manifest["sha256"], strict=True)
        return {**self.sums, **dict(images)}

    def read(self, path: str) -> bytes:
        """The bytes of one of its files; DatasetError: it cannot be read, or is another one."""
        expected = self.hashes.get(path)
        try:
            data = read_plain(self.root / path)
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
        else:
            found = hashlib.sha256(data).hexdigest()
            if expected in (None, found):
                return data
            problem = f"sha256 {found}, expected {expected}: not what was prepared"
        raise DatasetError(
            f"{self.root / path}: {problem}; copy it back or make the data set again: "
            f"{self.info.command}"
        )

    def counts(self) -> pd.DataFrame:
        """Images per class: index (split, product), one column per defect, zeros kept."""
        splits = [split for split in SPLITS if (self.manifest["split"] == split).any()]
        index = pd.MultiIndex.from_product([splits, self.info.products], names=["split", "product"])
        table = self.manifest.groupby(["split", "product", "defect"]).size().unstack("defect")
        table = table.reindex(index=index, columns=list(self.info.defects))
        return table.fillna(0).astype(int)

    def store(
        self, split: str, image_size: int | tuple[int, int], channels: int, progress: bool = True
    ) -> ImageStore:
        """Decode a split (see `ImageStore.load`).

        Raises:
            DatasetError: the split is empty, or a file is gone or not the one that was prepared.
            ImageError: an image cannot be decoded.
        """
        import torch  # scripts that write data sets need none

        from dtgan_core.batches import ImageStore
        from dtgan_core.hardware import require_memory

        info = self.info
        rows = self.manifest[self.manifest["split"] == split]
        if rows.empty:
            raise DatasetError(
                f"{self.root}: no images in the split {split!r}, "
                f"found {sorted(set(self.manifest['split']))}; make the data set again: "
                f"{info.command}"
            )
        paths = list(rows["path"])
        height, width = as_height_width(image_size)
        shape = (len(paths), channels, height, width)
        require_memory(math.prod(shape), "cpu", f"{len(paths):,} images of {split}", "--image-size")
        images = torch.empty(shape, dtype=torch.uint8)

        def decode(index: int) -> None:
            name = str(self.root / paths[index])
            array = image_to_array(self.read(paths[index]), channels, (height, width), name)
            images[index] = torch.from_numpy(array).permute(2, 0, 1)

        in_threads(decode, range(len(paths)), title=f"decoding {split}", progress=progress)
        allowed = torch.tensor(
            [[flip in info.flips.get(product, ()) for flip in FLIPS] for product in info.products]
        )
        products = torch.tensor([info.products.index(name) for name in rows["product"]])
        return ImageStore(
            images=images,
            products=products,
            defects=torch.tensor([info.defects.index(name) for name in rows["defect"]]),
            paths=paths,
            product_names=info.products,
            defect_names=info.defects,
            anchor=info.defects.index(info.anchor),
            flips=allowed[products],
            split=split,
            root=self.root,
            mask_paths=list(rows["mask"]),
            read_masks=self.masks,
        )

    def store_of(
        self, rows: pd.DataFrame, image_size: int | tuple[int, int], channels: int
    ) -> ImageStore:
        """Decode some rows of the manifest, of whatever splits, as `store` does."""
        chosen = dataclasses.replace(self, manifest=rows.assign(split="chosen"))
        return chosen.store("chosen", image_size, channels, progress=False)

    def masks(self, paths: Sequence[str], size: tuple[int, int]) -> torch.Tensor:
        """Masks of a (height, width), all zero for a path '': uint8 (N, 1, H, W), 0 or 255."""
        import torch

        masks = torch.zeros((len(paths), 1, *size), dtype=torch.uint8)

        def decode(index: int) -> None:
            if path := paths[index]:
                array = mask_to_array(self.read(path), size, str(self.root / path))
                masks[index, 0] = torch.from_numpy(array[:, :, 0])

        in_threads(decode, range(len(paths)))
        return masks


def numbers_of(store: ImageStore, product: int | None, defect: int) -> list[int]:
    """Numbers of a store's images of a product (None: of any) and a defect, by their labels."""
    chosen = store.defects == defect
    if product is not None:
        chosen = chosen & (store.products == product)
    return chosen.nonzero().flatten().tolist()


def files_below(root: Path) -> list[str]:
    """Paths of all files under `root`, sorted, relative to it, with forward slashes.

    Dotfiles and everything in dot-folders (`.ipynb_checkpoints`) are left out.
    """
    found: list[str] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found)


def in_threads(
    work: Callable[..., Any], *items: Sequence[Any], title: str = "", progress: bool = False
) -> list[Any]:
    """What `work` gives for each item (of several sequences: for each row), in their order."""
    quiet = None if progress else True  # None: quiet unless standard error is a terminal
    threads = min(8, os.cpu_count() or 1)
    return list(thread_map(work, *items, max_workers=threads, desc=title, disable=quiet))


def mask_to_array(source: ImageSource, size: int | tuple[int, int], name: str = "") -> np.ndarray:
    """Decode one mask file: uint8 (H, W, 1), 0 or 255 (see `decoded`, `resized_mask`)."""
    with decoded(source, "L", name) as mask:
        return np.array(resized_mask(mask, size), dtype=np.uint8)[:, :, None]


def resized_mask(mask: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Squash a grey mask to `size` so that thin cracks survive; values 0 and 255.

    Pixels of 128 and more count as defect (JPEG-like grey rims do not). The result is defect where
    at least `MASK_COVERAGE` of the covered area is; a mask that would vanish altogether keeps its
    most covered pixels.
    """
    height, width = as_height_width(size)
    hard = mask.point([0] * 128 + [255] * 128)
    if mask.size == (width, height):
        return hard
    covered = np.asarray(hard.resize((width, height), Image.Resampling.BOX))
    highest = int(covered.max())
    threshold = min(round(255 * MASK_COVERAGE), highest) if highest else 256
    return Image.fromarray(np.where(covered >= threshold, 255, 0).astype(np.uint8))
