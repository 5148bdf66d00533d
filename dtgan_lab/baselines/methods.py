"""The systems of the kit by name, and what each is trained on.

DT-GAN learns all products together; a baseline one product, `mokady` one defect of it beside
Normal, as their papers and the DT-GAN paper's comparison have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from dtgan_core.batches import ImageStore
from dtgan_core.config import METHODS
from dtgan_core.dataset import Dataset
from dtgan_core.loop import Loop
from dtgan_lab.baselines.config import BaselineConfig

DTGAN = METHODS[0]
BASELINES = {"stylegan2": "StyleGAN2", "biggan": "BigGAN", "mokady": "Mokady"}  # name -> its loop
PAIRS = ("mokady",)  # that learn Normal and one defect
MAKERS = ("stylegan2", "biggan")  # that make images from nothing


class Baseline(NamedTuple):
    """A baseline's classes, all of one module of `baselines`."""

    loop: type[Loop[Any, Any]]
    presets: dict[str, BaselineConfig]
    module: Any


def baseline(name: str) -> Baseline:
    """A baseline by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")
    module = import_module(f"dtgan_lab.baselines.{name}")
    return Baseline(getattr(module, BASELINES[name]), module.PRESETS, module)


def its_defects(method: str, dataset: Dataset, defect: str | None) -> tuple[str, ...]:
    """The domains that a method learns of a data set, Normal among them.

    Args:
        method: name of a baseline.
        dataset: what it is trained on.
        defect: the one defect of a method that learns a pair; None for the others.

    Raises:
        ValueError: a defect is wanted and not given, or the other way, or not one of the data's.
    """
    info = dataset.info
    others = [name for name in info.defects if name != info.anchor]
    if method not in PAIRS:
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

    Args:
        method: name of a baseline.
        dataset: what it is trained on.
        defects: of `its_defects`.
        preset: "tiny", "laptop", "workstation" or "paper".
        groups: fields to replace, by group and name.

    Raises:
        ValueError: unknown names, or values that do not fit.
    """
    presets = baseline(method).presets
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
    """The images that one model of a baseline learns from.

    Args:
        store: the training split.
        method: name of a baseline.
        product: name of the product.
        defects: of `its_defects`.

    Raises:
        ValueError: no product, or none of the data's.
    """
    if product not in store.product_names:
        given = "is not given" if product is None else f"is {product!r}"
        raise ValueError(
            f"--product {given}: {method} is trained a product; expected one of "
            f"{', '.join(store.product_names)}"
        )
    return store.only(product, defects)
