"""The feature extractors by their names (see `features`)."""

from __future__ import annotations

from pathlib import Path

import torch

from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.measure.domain import DomainFeatures
from dtgan_lab.measure.features import Extractor

DOMAIN_WEIGHTS = Path(__file__).parents[2] / "notebooks" / "checkpoints" / "domain-synthetic-sdi"


def load_extractor(
    name: str,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    trusted: bool = False,
) -> Extractor:
    """An extractor by its name: "domain", "squeezenet" or "inception".

    Weights are a folder written by `domain-features`; for squeezenet a safetensors file in
    torchvision's layout; for inception clean-fid's TorchScript file, which `trusted` runs though
    its hash is not the published one's. Default: the committed folder, or a download on first use.
    ValueError: unknown name. CheckpointError: the weights are missing, damaged, or cannot be
    downloaded.
    """
    if name == "domain":
        return DomainFeatures.load(weights or DOMAIN_WEIGHTS, device)
    from dtgan_lab.measure import pretrained  # torchvision's and clean-fid's models load slowly

    if name == "squeezenet":
        return pretrained.SqueezeNetFeatures(weights, device)
    if name == "inception":
        return pretrained.InceptionFeatures(weights, device, trusted)
    raise ValueError(f"features {name!r}: expected one of {', '.join(EXTRACTORS)}")
