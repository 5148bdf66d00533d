"""From a data set and settings to a configuration that fits it."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, Protocol

from dtgan_core.config import Config, TrainConfig, make_config
from dtgan_core.dataset import Dataset


class Sizes(Protocol):
    """What the networks of any system take and tell apart."""

    @property
    def image_size(self) -> int:
        """Side in pixels."""

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""

    @property
    def defects(self) -> int:
        """Number of defects, the anchor included."""

    @property
    def products(self) -> int:
        """Number of products."""

    @property
    def anchor(self) -> int:
        """Index of the defect-free domain."""


class Experiment(Protocol):
    """The configuration of any system: DT-GAN's `Config`, or that of a baseline."""

    @property
    def preset(self) -> str:
        """Name of the sizes it began with."""

    @property
    def model(self) -> Sizes:
        """Sizes of the networks."""

    @property
    def train(self) -> TrainConfig:
        """How they are trained."""

    def ema_decay_at(self, step: int) -> float:
        """Decay of the averaged weights at a step."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Experiment:
        """Inverse of `to_json`."""


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


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What a card says of the data: name, hash, licence, citation, how it was made."""
    info = dataset.info
    return {
        "name": info.name,
        "manifest_sha256": dataset.manifest_hash,
        "licence": info.licence,
        "citation": info.citation,
        "command": info.command,
    }


def parse_overrides(settings: list[str], known: Any = None) -> dict[str, dict[str, Any]]:
    """Turn "weights.cyc=2" and its like into {"weights": {"cyc": 2}}.

    Args:
        settings: GROUP.FIELD=VALUE each.
        known: a configuration of the kind they are for; default: DT-GAN's.

    Raises:
        ValueError: a setting is not GROUP.FIELD=VALUE with a known group and field.
    """
    known = Config() if known is None else known
    groups: dict[str, dict[str, Any]] = {
        item.name: {}
        for item in dataclasses.fields(known)
        if dataclasses.is_dataclass(getattr(known, item.name))
    }
    for setting in settings:
        name, equals, text = setting.partition("=")
        group, dot, key = name.partition(".")
        fields = dataclasses.asdict(getattr(known, group)) if group in groups else {}
        if not (equals and dot) or key not in fields:
            raise ValueError(
                f"--set {setting}: expected GROUP.FIELD=VALUE with GROUP one of "
                f"{', '.join(groups)} and a field of the configuration, such as train.lr=2e-4"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: too deep
            value = text
        kind = type(fields[key])
        if kind is float and type(value) is int and abs(value) < 10**300:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(
                f"--set {setting}: found {text[:80]!r}, expected {kind.__name__} for {key}"
            )
        if key in groups[group]:
            raise ValueError(f"--set {setting}: found {name} twice, expected once")
        groups[group][key] = value
    return groups
