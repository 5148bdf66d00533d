"""Every generator of the kit in one table: a new one is one line of `ZOO`.

    systems = load_systems({"DT-GAN": "notebooks/checkpoints/synthetic-sdi-laptop",
                            "StyleGAN2": "notebooks/checkpoints/stylegan2-laptop",
                            "diffusion": "my_images"})     # FOLDER/PRODUCT/DEFECT/*.png
    for system in systems.values():
        for way in system.ways:
            made = system.images_of(Wish("A", "Scratches", x, x_ref), way)

Whatever makes images is a `System`, a folder of anybody's images as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # a command line that is wrong says so without PyTorch
    import torch
    from torch import Tensor

CARD = "card.json"


class Wish(NamedTuple):
    """Images of a product with a defect that are asked for."""

    product: str
    defect: str
    x: Tensor  # (N, ch, H, W) in [-1, 1], good parts: N images of this size are made
    x_ref: Tensor | None = None  # (N, ch, H, W), pictures with the defect, for "reference"
    seed: int = 0  # of everything drawn
    first: int = 0  # number of the first image under this seed
    before: int = 0  # images that come before it in other cells, where `first` begins anew in each


class Made(NamedTuple):
    """What a system made."""

    images: Tensor  # float32 (N, ch, H, W) in [-1, 1], on the CPU
    masks: Tensor | None = None  # bool (N, 1, H, W), where the defect is, if the system says so


class System(ABC):
    """Something that makes images of a product with a defect."""

    method: str  # what it is, a name of `ZOO`
    #: "latent" where it draws defects, "reference" where it takes them from a picture
    ways: tuple[str, ...] = ("latent",)
    onto_parts = False  # whether it lays a defect over the part that it is given
    own_references = False  # whether references must show the part's own product
    image_size: int | None = None  # of the only images it makes; None: what is asked for
    channels: int | None = None
    anchor = ""  # its defect-free domain, if it knows one
    cards: Sequence[Mapping[str, Any]] = ()  # of its trained models, one each
    weights = 0  # bytes of all models
    checkpoint_hash: str  # sha256 of its weights, or of its images

    @abstractmethod
    def check(self, product: str, defect: str, count: int = 1) -> None:
        """Refuse (ValueError) a product or defect that it does not make, or not so often."""

    @abstractmethod
    def images_of(self, wish: Wish, way: str) -> Made:
        """Make images by one of its ways; ValueError where they cannot be made."""

    def facts(self) -> dict[str, Any]:
        """What a table of systems says of it."""
        if not self.cards:
            return {"models": 0}
        card = self.cards[0]
        return {
            "models": len(self.cards),
            "iterations each": card["iterations"],
            "seconds, all": round(sum(card["seconds"] for card in self.cards)),
            "augmentation": card["config"].get("augment", {}).get("kind", ""),
            "weights, MB": round(self.weights / 1e6, 1),
        }


class Kind(NamedTuple):
    """One line of the table; classes are named as "module:Class" and loaded when asked for."""

    title: str  # what tables call it
    system: str  # the `System`, whose `load(folder, device)` reads it
    loop: str = ""  # what `train --method` runs; '' where that is no baseline
    pairs: bool = False  # whether a model learns Normal and one defect


DTGAN, FOLDER = "dtgan", "folder"
ZOO: dict[str, Kind] = {
    DTGAN: Kind("DT-GAN", "generators:DtGan"),
    "stylegan2": Kind("StyleGAN2 (Karras et al. 2020)", "generators:Makers", "stylegan2:StyleGAN2"),
    "biggan": Kind("BigGAN (Brock et al. 2019)", "generators:Makers", "biggan:BigGAN"),
    "mokady": Kind(
        "content transfer (Mokady et al. 2020)", "generators:Transfers", "mokady:Mokady", pairs=True
    ),
    FOLDER: Kind("images of a folder", "generators:ImageFolder"),
}
BASELINES = tuple(name for name, kind in ZOO.items() if kind.loop)
METHODS = (DTGAN, *BASELINES)  # what `train` trains


def class_of(name: str) -> Any:
    """A class named as "module:Class", of a module of `dtgan_lab.baselines` or by its full name."""
    module, _, attribute = name.partition(":")
    where = module if "." in module else f"dtgan_lab.baselines.{module}"
    return getattr(import_module(where), attribute)


def baseline(name: str) -> Any:
    """The loop that trains a baseline, with its `presets`; ValueError for another name."""
    if name not in BASELINES:
        raise ValueError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")
    return class_of(ZOO[name].loop)


# --- loading -------------------------------------------------------------------------------------


def find_exports(folder: Path) -> list[Path]:
    """Export folders of a run, or of every run in a folder, sorted; empty where there is none."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidates in ([folder], [folder / "export"], [*below, *(p / "export" for p in below)]):
        found = [path for path in candidates if (path / CARD).is_file()]
        if found:
            return sorted(found)
    return []


def method_of(folder: str | Path) -> str:
    """The name in `ZOO` of what a folder holds; a card without a name is DT-GAN's.

    Raises:
        CheckpointError: no export and no images, or an export of an unknown system.
    """
    from dtgan_core.checkpoints import CheckpointError, read_json

    folder = Path(folder)
    exports = find_exports(folder)
    if not exports:
        if class_of(ZOO[FOLDER].system).is_one(folder):
            return FOLDER
        below = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise CheckpointError(
            f"{folder}: found {below or 'nothing'}, expected {CARD} of an export, there or in "
            "folders below (`python -m dtgan_core train` writes RUN/export when it is done), or "
            "images as PRODUCT/DEFECT/*.png"
        )
    path = exports[0] / CARD
    card = read_json(path)
    name = card.get("method", DTGAN) if isinstance(card, dict) else "another kind"
    if name not in METHODS:
        raise CheckpointError(
            f"{path}: found a model of {name!r}, expected one of {', '.join(METHODS)}"
        )
    return str(name)


def load_system(folder: str | Path, device: torch.device | str = "cpu") -> System:
    """Load an export, a finished run, a folder of a baseline's, or anybody's images.

    CheckpointError: none there, damaged, or exports that do not belong together. ValueError: images
    that do not say what they show, see `generators.ImageFolder`.
    """
    found: System = class_of(ZOO[method_of(folder)].system).load(Path(folder), device)
    return found


def load_systems(folders: Mapping[str, str | Path]) -> dict[str, System]:
    """Load systems by the names that tables shall call them; see `load_system`."""
    return {name: load_system(folder) for name, folder in folders.items()}
