"""What the configurations of the trained baselines share, and what each is trained on.

DT-GAN learns all products together; a baseline one product, `mokady` one defect of it beside
Normal, as their papers and the DT-GAN paper's comparison have it.  A configuration is a frozen
dataclass of groups, as DT-GAN's is: `model` (sizes and labels), `weights` (of its losses) and
`train`, the `TrainConfig` of all systems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dtgan_core.batches import ImageStore
from dtgan_core.config import Experiment, Sizes, TrainConfig, check_fields
from dtgan_lab.baselines.zoo import ZOO, baseline
from dtgan_lab.data.dataset import Dataset

Terms = dict[str, tuple[float, Tensor]]  # name -> weight and value
DTGAN_ALONE = (
    "lr_mapping",
    "guidance",
    "reference_steps_encoder",
    "detach_targets",
    "detach_drawn",
    "noise_per",
)


@dataclass(frozen=True)
class BaselineSizes(Sizes):
    """Labels and widths of a baseline's networks."""

    image_size: int = 64  # side of the square images in pixels; a power of two, at least 32
    channels: int = 1  # 1 for grey data, 3 for colour
    defects: int = 3  # number of defects it tells apart, the anchor included
    products: int = 1  # as baselines are trained a product
    anchor: int = 0  # index of the defect-free domain ("Normal")
    width: int = 16  # channels at full resolution; they double at every halving ...
    max_width: int = 128  # ... up to this many

    def __post_init__(self) -> None:
        self.check_sizes()
        if self.products != 1:
            raise ValueError(f"products is {self.products}; expected 1, a baseline a product")


@dataclass(frozen=True)
class AugmentConfig:
    """What D's images go through (`augment.Augmenter`): Zhao et al. 2020, or Karras et al. 2020."""

    kind: Literal["none", "diffaugment", "ada"] = "none"
    target: float = 0.6  # of ADA's heuristic r_t
    # Real images over which ADA's p may go from 0 to 1. The paper's 500,000 are 2 % of its runs;
    # here half of a laptop run, which is as much of an answer as a short run can give.
    ramp: int = 20_000


@dataclass(frozen=True)
class BaselineConfig(Experiment):
    """A whole experiment with a baseline; every baseline adds its groups."""

    preset: str = "laptop"
    model: BaselineSizes = field(default_factory=BaselineSizes)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.name != "preset":
                check_fields(getattr(self, item.name), f"{item.name}.")
        usual = TrainConfig()
        for name in DTGAN_ALONE:
            if getattr(self.train, name) != getattr(usual, name):
                raise ValueError(f"train.{name} is DT-GAN's alone; leave it out for a baseline")
        if self.train.kernels == "compiled":
            raise ValueError("train.kernels is compiled, which DT-GAN's norms alone can be")


def short_training(**fields: Any) -> TrainConfig:
    """The baselines' `TrainConfig`: no weight decay, lazy R1 every 16 steps, fields replaced."""
    return TrainConfig(**{"weight_decay": 0.0, "r1_every": 16, **fields})


TINY_TRAINING: dict[str, Any] = {"iterations": 20, "batch_size": 4, "log_every": 1}
TINY_TRAINING |= {"sample_every": 10, "checkpoint_every": 10}


def picture_of(images: Tensor, columns: int) -> np.ndarray:
    """Images (N, ch, H, W) in [-1, 1], row after row, as uint8 (height, width, 3)."""
    from torchvision.utils import make_grid  # slow to load

    grid = make_grid(images.add(1).div(2).cpu(), nrow=columns, padding=2, pad_value=1.0)
    return grid.mul(255).round().byte().permute(1, 2, 0).numpy()


def weighted(terms: Terms) -> Tensor:
    """The sum of all terms by their weights."""
    return torch.stack([weight * value for weight, value in terms.values()]).sum()


# --- what a baseline learns from -----------------------------------------------------------------


def its_defects(method: str, dataset: Dataset, defect: str | None) -> tuple[str, ...]:
    """The domains that a baseline learns of a data set, Normal among them, or ValueError."""
    info = dataset.info
    others = [name for name in info.defects if name != info.anchor]
    if not ZOO[method].pairs:
        if defect is not None:
            raise ValueError(f"--defect {defect}: {method} learns all defects in one model")
        return info.defects
    if defect not in others:
        given = "is not given" if defect is None else f"is {defect!r}"
        raise ValueError(
            f"--defect {given}: {method} learns {info.anchor} and one defect in one model; "
            f"expected one of {', '.join(others)}"
        )
    return (info.anchor, defect)


def baseline_config(
    method: str,
    dataset: Dataset,
    defects: Sequence[str],
    preset: str = "laptop",
    groups: dict[str, dict[str, Any]] | None = None,
) -> BaselineConfig:
    """A baseline's configuration whose labels and channels are the data set's.

    `defects` are those of `its_defects`, the preset is "tiny" or "laptop", `groups` replace fields
    by group and name; ValueError for unknown names and values that do not fit.
    """
    presets: dict[str, BaselineConfig] = baseline(method).presets
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(presets)}")
    base, groups = presets[preset], dict(groups or {})
    labels = {
        "channels": dataset.info.channels,
        "defects": len(defects),
        "anchor": list(defects).index(dataset.info.anchor),
    }
    groups["model"] = labels | groups.get("model", {})
    return dataclasses.replace(
        base,
        **{
            name: dataclasses.replace(getattr(base, name), **fields)
            for name, fields in groups.items()
            if fields
        },
    )


def its_images(
    store: ImageStore, method: str, product: str | None, defects: Sequence[str]
) -> ImageStore:
    """The training images that one model learns from; ValueError for a product not in the data."""
    if product not in store.product_names:
        given = "is not given" if product is None else f"is {product!r}"
        raise ValueError(
            f"--product {given}: {method} is trained a product; expected one of "
            f"{', '.join(store.product_names)}"
        )
    return only(store, product, defects)


def only(store: ImageStore, product: str, defects: Sequence[str] | None = None) -> ImageStore:
    """The images of one product, and of some of its defects (default: all); labels count anew.

    ValueError: no such product or defect.
    """
    names = tuple(defects) if defects is not None else store.defect_names
    for kind, wanted, known in (
        ("product", (product,), store.product_names),
        ("defect", names, store.defect_names),
    ):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(f"unknown {kind} {unknown[0]!r}; expected one of {known}")
    numbers = [store.defect_names.index(name) for name in names]
    wanted_defects = torch.tensor(numbers).to(store.device)
    of_defect = (store.defects[:, None] == wanted_defects).long()  # (N, k)
    of_product = store.products == store.product_names.index(product)
    index = (of_product & of_defect.any(dim=1)).nonzero().flatten()
    return dataclasses.replace(
        store,
        images=store.images[index],
        products=torch.zeros_like(index),
        defects=of_defect[index].argmax(dim=1),
        paths=[store.paths[i] for i in index.tolist()],
        product_names=(product,),
        defect_names=names,
        anchor=names.index(store.defect_names[store.anchor]),
        flips=store.flips[index],
        mask_paths=[store.mask_paths[i] for i in index.tolist()],
        _masks=[masks[index] for masks in store._masks],
    )
