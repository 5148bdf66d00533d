"""The one layout in which every data set of this kit lies on disk, and a configuration for it.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from pydantic import AfterValidator, PositiveInt

from dtgan_core.files import Names, problems, read_plain, shown, typed

if TYPE_CHECKING:
    from dtgan_core.config import Config

FORMAT = 1
INFO_NAME = "dataset.json"
MANIFEST_NAME = "manifest.csv"
SUMS_NAME = "SHA256SUMS"
_HEADER = "path,product,defect,split,group,mask,twin,seed,sha256,source"
MANIFEST_COLUMNS = tuple(_HEADER.split(","))
#: train, val, test; `pool`: extra Normal images for a classifier; `fresh`: further draws.
SPLITS: tuple[str, ...] = ("train", "val", "test", "pool", "fresh")
MASKS_FOLDER = "masks"
TWINS_FOLDER = "twins"
FLIPS: tuple[str, ...] = ("horizontal", "vertical")
_SHOWN_PER_KIND = 20


class DatasetError(ValueError):
    """A data set cannot be used as it is.

    Attributes:
        problems: every problem found, in order; the message shows the first few of each kind.
    """

    def __init__(self, headline: str, problems: Mapping[str, list[str]] | None = None) -> None:
        """Build the message from problems sorted by kind (kind -> lines)."""
        kinds = {kind: [shown(line) for line in lines] for kind, lines in (problems or {}).items()}
        self.problems: list[str] = [line for lines in kinds.values() for line in lines]
        told = [shown(line) for line in headline.split("\n")]
        for kind, lines in kinds.items():
            told += [f"- {line}" for line in lines[:_SHOWN_PER_KIND]]
            if len(lines) > _SHOWN_PER_KIND:
                told.append(f"- ... and {len(lines) - _SHOWN_PER_KIND} more of this kind ({kind})")
        super().__init__("\n".join(told))


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
        """Read the dictionary of dataset.json; keys beside its own are passed over.

        Raises:
            DatasetError: keys are missing, of the wrong kind, or contradict each other.
        """
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

    def counts(self) -> pd.DataFrame:
        """Images per class: index (split, product), one column per defect, zeros kept."""
        splits = [split for split in SPLITS if (self.manifest["split"] == split).any()]
        index = pd.MultiIndex.from_product([splits, self.info.products], names=["split", "product"])
        table = self.manifest.groupby(["split", "product", "defect"]).size().unstack("defect")
        table = table.reindex(index=index, columns=list(self.info.defects))
        return table.fillna(0).astype(int)


def read_known(path: Path, sha256: str | None, command: str) -> bytes:
    """The bytes of a file of a data set, of this hex hash (None: nobody noted it).

    Raises:
        DatasetError: it cannot be read or is another one; `command` makes the data set again.
    """
    try:
        data = read_plain(path)
    except OSError as error:
        told = f"cannot be read ({error.strerror or error})"
    else:
        found = hashlib.sha256(data).hexdigest()
        if sha256 in (None, found):
            return data
        told = f"sha256 {found}, expected {sha256}: not what was prepared"
    raise DatasetError(f"{path}: {told}; copy it back or make the data set again: {command}")


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What a card says of the data: name, hash, licence, citation, how it was made."""
    info = dataset.info
    facts = {name: getattr(info, name) for name in ("licence", "citation", "command")}
    return {"name": info.name, "manifest_sha256": dataset.manifest_hash, **facts}


def config_for(
    dataset: Dataset,
    preset: str = "laptop",
    ablation: str = "e",
    *,
    model: dict[str, Any] | None = None,
    weights: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> Config:
    """A configuration whose labels and channels are the data set's (see `config.make_config`).

    With one product there is nothing for D_BG to tell apart: L_BG is off (our reading 10).
    """
    from dtgan_core.config import make_config  # who writes a data set needs none

    info = dataset.info
    fields: dict[str, Any] = {
        "channels": info.channels,
        "defects": len(info.defects),
        "products": len(info.products),
        "anchor": info.defects.index(info.anchor),
        **(model or {}),
    }
    if len(info.products) == 1:
        fields["bg_classifier"] = False
    return make_config(preset, ablation, model=fields, weights=weights, train=train)
