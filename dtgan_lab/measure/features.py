"""Feature extractors: images in, points of a space in which distributions are compared out.

Whatever an extractor is, it has a name that every number bears, a dimension, and the hash of its
weights:

    extract = load_extractor("domain")   # of `extractors`
    points = extract(x)                  # x: (N, ch, H, W) in [-1, 1] -> float32 (N, D)
    extract.label("FD")                  # "FD (domain)"; "FID" is said of Inception alone

`domain` is ours, small and committed; `squeezenet` is torchvision's and `inception` clean-fid's,
both with weights that are downloaded on first use or named by a path
(`dtgan_lab.measure.pretrained`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VERSION = 1  # raised when any extractor prepares its images in another way: cached points are old

Points = NDArray[np.float32]


class Extractor(ABC):
    """One space of features."""

    name: str  # "domain", "squeezenet", "inception", or what weights of unknown origin are called
    dimension: int  # D, length of a feature vector
    sha256: str  # hex hash of the weights
    image_size: int | None = None  # side in pixels of the only images it takes; None: any
    channels: int | None = None  # of the only images it takes; None: 1 and 3

    def label(self, measure: str) -> str:
        """The name of a measure, such as "FD" or "recall", in this space: "KID (domain)", "FID"."""
        return "FID" if (measure, self.name) == ("FD", "inception") else f"{measure} ({self.name})"

    @property
    def key(self) -> str:
        """What names its space in a cache: name, weights and how images are prepared."""
        return f"{self.name}/{self.sha256}/{VERSION}"

    def __call__(self, x: Tensor, batch_size: int = 64) -> Points:
        """Features (N, D), float32 and finite, of images (N, ch, H, W) in [-1, 1].

        ValueError: images of a shape that this extractor does not take, or not finite.
        """
        self.check_images(*x.shape[1:])
        if not bool(x.isfinite().all()):
            raise ValueError(
                f"{int((~x.isfinite()).sum())} pixels are not finite, expected values in [-1, 1]; "
                "look at the generator that made these images"
            )
        parts = [torch.empty(0, self.dimension)]
        with torch.inference_mode():
            parts += [self.features(part).float().cpu() for part in x.split(batch_size) if len(x)]
        return torch.cat(parts).numpy()

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Refuse (ValueError) images that the extractor does not take."""
        allowed = (1, 3) if self.channels is None else (self.channels,)
        side = self.image_size
        if channels not in allowed or (side is not None and (height, width) != (side, side)):
            size = "any size" if side is None else f"{side} x {side} pixels"
            raise ValueError(
                f"the images have {channels} channels and {height} x {width} pixels, the features "
                f"{self.name!r} take {' or '.join(map(str, allowed))} channels and {size}; bring "
                "them to that size, or train features of your own: "
                "python -m dtgan_core domain-features --data DATA --out DIR"
            )

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features of one batch: (n, ch, H, W) in [-1, 1] -> (n, D)."""


def hash_of_tensors(tensors: dict[str, Tensor]) -> str:
    """Hex sha256 of names, types, shapes and values, whatever the file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
