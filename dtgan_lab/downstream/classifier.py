"""The downstream classifier: backbones, a domain head behind a gradient reversal layer, losses.

    network = ClassifierNetwork(config, defects=3)
    defect, domain = network(x, strength)      # logits (N, 3) and (N,)

The paper hangs a real/synthetic classifier on the backbone through gradient reversal, so that
features cannot rely on what gives synthetic images away.  There is a trap in it: Normal images are
all real and defects mostly synthetic, so over all images "synthetic" nearly says "defect", and
reversal erases the very thing to be learned.  Our reading, the default: the domain loss looks at
defect images alone, and within every class and product that holds both kinds, real and synthetic
ones weigh the same (`domain_weights`).  "all" is the naive loss over all images, as a second arm.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.files import sha256_of
from dtgan_lab.measure.observers import ObserverConfig, conv

Reversal = Literal["off", "defects", "all"]
IMAGENET = {"resnet50": "ResNet50_Weights", "efficientnet_b4": "EfficientNet_B4_Weights"}
BACKBONES = ("small", *IMAGENET)
DOMAIN_HIDDEN = 128  # our reading; Ganin et al. take 100 for small networks, 1024 for large ones


@dataclass(frozen=True)
class ClassifierConfig(ObserverConfig):
    """Sizes and training of a downstream classifier. Everything but the backbones is our reading.

    `width` and `max_width` are those of "small"; grey is repeated for backbones that take colour.
    """

    max_width: int = 64
    iterations: int = 600
    batch_size: int = 45
    backbone: str = "small"  # from scratch; "resnet50" or "efficientnet_b4" are torchvision's
    weights: str = "scratch"  # or "imagenet" (torchvision downloads it), or the path of that file
    dropout: float = 0.2  # share of pooled features dropped while training
    check_every: int = 50  # steps between two looks at the split `val`; the best weights are kept
    gamma: float = 10.0  # steepness of the reversal's schedule (Ganin et al. 2016)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"backbone is {self.backbone!r}; expected one of {', '.join(BACKBONES)}"
            )
        if self.backbone == "small" and self.weights != "scratch":
            raise ValueError(
                f"weights is {self.weights!r}; the backbone small has none but 'scratch'"
            )


_PRESETS = {
    "tiny": ClassifierConfig(
        image_size=32, width=8, max_width=32, iterations=60, batch_size=18, lr=1e-2, check_every=20
    ),
    "laptop": ClassifierConfig(),
    "paper": ClassifierConfig(
        backbone="resnet50",
        weights="imagenet",
        image_size=128,
        iterations=6000,
        batch_size=64,
        lr=3e-4,
        check_every=250,
    ),
}
CLASSIFIER_PRESETS = tuple(_PRESETS)


def classifier_config(preset: str = "laptop", **fields: Any) -> ClassifierConfig:
    """A preset with fields of `ClassifierConfig` replaced; unknown names raise."""
    if preset not in _PRESETS:
        raise ValueError(
            f"unknown preset {preset!r}; expected one of {', '.join(CLASSIFIER_PRESETS)}"
        )
    return dataclasses.replace(_PRESETS[preset], **fields)


# --- gradient reversal ---------------------------------------------------------------------------


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        """Hand x on as it is."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Turn what comes back."""
        return -ctx.strength * gradients[0], None


def reversal_strength(progress: float, gamma: float = 10.0) -> float:
    """Lambda at a point of the training, p from 0 to 1 (Ganin et al. 2016, 5.2.2).

    2 / (1 + exp(-gamma p)) - 1: 0 at the start, near 1 at the end.
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1


# --- networks ------------------------------------------------------------------------------------


class SmallBackbone(nn.Module):
    """Plain convolutions down to about 8 x 8, pooled by mean and maximum: features (N, dim)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        wide, side = config.width, config.image_size
        layers = [*conv(config.channels, wide)]
        while side > 8:
            narrow, wide, side = wide, min(2 * wide, config.max_width), -(-side // 2)
            layers += [*conv(narrow, wide, stride=2), *conv(wide, wide)]
        self.layers, self.dim = nn.Sequential(*layers), 2 * wide

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ch, H, W) in [-1, 1] -> (N, dim)."""
        h = self.layers(x).float()  # (N, width, about 8, about 8)
        # a defect of a few pixels would drown in the mean alone
        return torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)


class ImageNetBackbone(nn.Module):
    """A torchvision network without its last layer: features (N, dim)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        import torchvision.models

        self.network = torchvision.models.get_model(config.backbone, weights=None)
        if config.weights != "scratch":
            self.network.load_state_dict(imagenet_weights(config.backbone, config.weights))
        if config.backbone == "resnet50":
            self.dim = self.network.fc.in_features
            self.network.fc = nn.Identity()
        else:
            self.dim = self.network.classifier[-1].in_features
            self.network.classifier = nn.Identity()
        # the mean and spread, in [0, 1], of the images that torchvision's weights were learned on
        wanted = getattr(torchvision.models, IMAGENET[config.backbone]).IMAGENET1K_V1.transforms()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(wanted.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(wanted.std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 1 or 3, H, W) in [-1, 1] -> (N, dim)."""
        x = ((x + 1) / 2 - self.mean) / self.std  # grey becomes three channels
        features: Tensor = self.network(x).float()
        return features


def imagenet_weights(backbone: str, source: str) -> dict[str, Tensor]:
    """ImageNet weights of a torchvision network: version IMAGENET1K_V1 (our reading).

    `source` is "imagenet", to let torchvision download and keep them, or the path of that file.
    CheckpointError: they cannot be downloaded, or the file is not that one.
    """
    import torchvision.models

    chosen = getattr(torchvision.models, IMAGENET[backbone]).IMAGENET1K_V1
    remedy = f"download {chosen.url} elsewhere and name the file with --weights FILE"
    if source == "imagenet":
        try:
            downloaded: dict[str, Tensor] = chosen.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{chosen.url}: cannot be downloaded ({error}), expected the ImageNet weights of "
                f"{backbone}; {remedy}"
            ) from error
        return downloaded
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected ImageNet weights; {remedy}")
    pinned = re.findall(r"-([0-9a-f]{8,})\.pth$", chosen.url)[0]  # torchvision's first digits
    found = sha256_of(path)
    if not found.startswith(pinned):
        raise CheckpointError(
            f"{path}: its sha256 begins with {found[: len(pinned)]}, expected {pinned}; {remedy}"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Answer(NamedTuple):
    """Logits of N images: (N, defects), and (N,) above 0 for "synthetic"."""

    defect: Tensor
    domain: Tensor


class ClassifierNetwork(nn.Module):
    """A backbone, a linear head for the defect and a domain head behind the reversal layer."""

    def __init__(self, config: ClassifierConfig, defects: int) -> None:
        super().__init__()
        small = config.backbone == "small"
        self.backbone = SmallBackbone(config) if small else ImageNetBackbone(config)
        self.dropout = nn.Dropout(config.dropout)
        self.defect = nn.Linear(self.backbone.dim, defects)
        self.domain = nn.Sequential(
            nn.Linear(self.backbone.dim, DOMAIN_HIDDEN), nn.ReLU(), nn.Linear(DOMAIN_HIDDEN, 1)
        )

    def forward(self, x: Tensor, strength: float = 0.0) -> Answer:
        """Both heads' logits; at `strength` 0 the backbone does not hear the domain head."""
        h = self.dropout(self.backbone(x))  # (N, dim)
        turned = GradientReversal.apply(h, strength)  # Ganin et al., JMLR 17, 2016, Section 4.2
        return Answer(self.defect(h), self.domain(turned)[:, 0])


# --- losses --------------------------------------------------------------------------------------


def defect_loss(logits: Tensor, targets: Tensor, known: Tensor, anchor: int) -> Tensor:
    """Cross-entropy; of an image with some defect, nobody knows which, -log(1 - P(anchor)).

    `logits` and `targets` are (N, defects), targets not read where `known`, bool (N,), is false.
    """
    log_chance = logits.float().log_softmax(dim=1)
    plain = -(targets * log_chance).sum(dim=1)
    others = [y for y in range(logits.shape[1]) if y != anchor]
    some_defect = -log_chance[:, others].logsumexp(dim=1)
    return torch.where(known, plain, some_defect).mean()


def domain_weights(
    is_synthetic: Tensor, defects: Tensor, products: Tensor, anchor: int, reversal: Reversal
) -> Tensor:
    """How much each training image counts in the domain loss, (N,) (our reading, see the module).

    With `reversal` "all" every image counts once. Otherwise Normal images count nothing, nor does a
    product x defect that is all real or all synthetic; in the others real and synthetic images have
    the same total, and their mean weight is 1.
    """
    if reversal == "all":
        return torch.ones(len(is_synthetic))
    weights = torch.zeros(len(is_synthetic))
    cells = products * (int(defects.max()) + 1) + defects
    for cell in cells[defects != anchor].unique():
        synthetic = (cells == cell) & is_synthetic
        real = (cells == cell) & ~is_synthetic
        if synthetic.any() and real.any():
            both = int(synthetic.sum() + real.sum())
            weights[synthetic] = both / (2 * int(synthetic.sum()))
            weights[real] = both / (2 * int(real.sum()))
    return weights


def domain_loss(logits: Tensor, is_synthetic: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy of "synthetic", the mean over images that count; else 0."""
    each = F.binary_cross_entropy_with_logits(
        logits.float(), is_synthetic.float(), reduction="none"
    )
    return (weights * each).sum() / (weights > 0).sum().clamp_min(1)
