"""The judge: a small classifier of defect and product that says what a synthetic image shows.

It learns from real training images alone and shares no weights with any network of DT-GAN and with
no metric, so a generator has never seen it.  How well it knows real images it was not trained on
stands in its card, and belongs beside every number it gives.

    judge = Judge.load("notebooks/checkpoints/judge-synthetic-sdi")
    prediction = judge(fakes)                      # fakes: (N, ch, H, W) in [-1, 1]
    share = (prediction.defect == wanted).float().mean()
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from dtgan_core.checkpoints import (
    CheckpointError,
    DataFacts,
    fields_of,
    fitted,
    read_json,
    read_weights,
    write_tensors,
)
from dtgan_core.config import check_fields
from dtgan_core.files import sync_folder, write_json_atomic
from dtgan_core.hardware import autocast, resolve_precision

WEIGHTS_NAME, CARD_NAME = "judge.safetensors", "card.json"
FORMAT = 1
TRAIN_COMMAND = "python -m dtgan_core judge --data DATA --out JUDGE --image-size {size}"


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes and training of a judge.

    Args:
        image_size: side of the square images, pixels.
        channels: 1 (grey) or 3 (RGB).
        width: channels at full resolution; they double at every halving ...
        max_width: ... up to this many.
        iterations: training steps.
        batch_size: images a step, every product x defect as often as any other.
        lr: highest learning rate of AdamW; one cycle up and down.
        weight_decay: of AdamW.
        dropout: share of pooled features dropped while training.
        seed: of initialisation, order of images and augmentation.
        check_every: steps between two looks at the split `val`; the best weights are kept.
    """

    image_size: int = 64
    channels: int = 1
    width: int = 16
    max_width: int = 96
    iterations: int = 1500
    batch_size: int = 48
    lr: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    seed: int = 0
    check_every: int = 100

    def __post_init__(self) -> None:
        check_fields(self)
        if self.image_size < 16:
            raise ValueError(f"image_size is {self.image_size}; expected at least 16 pixels")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 1 (grey) or 3 (colour)")


class JudgeCard(TypedDict):
    """What a judge's card must say."""

    products: list[str]
    defects: list[str]
    config: dict[str, Any]
    data: NotRequired[DataFacts]


def _conv(dim_in: int, dim_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.ReLU(inplace=True),
    )


class JudgeLogits(NamedTuple):
    """Logits of N images.

    Attributes:
        defect: (N, defects).
        product: (N, products), or None where there is but one product.
        dense: (N, defects, H / 4, W / 4), where each defect is.
    """

    defect: Tensor
    product: Tensor | None
    dense: Tensor


class JudgeNetwork(nn.Module):
    """Plain convolutions down to about 8 x 8, pooled by mean and maximum, a linear head a question.

    A second, dense head says at a quarter of the resolution where each defect is; it learns from
    the masks of the training images where there are any.  Its maxima go into the verdict, since a
    defect of a few pixels would drown in a mean over the image.
    """

    DENSE_STRIDE = 4

    def __init__(self, config: JudgeConfig, defects: int, products: int) -> None:
        super().__init__()
        wide, side = config.width, config.image_size
        early = [_conv(config.channels, wide), _conv(wide, wide)]
        late: list[nn.Module] = []
        while side > 8:
            narrow, wide, side = wide, min(2 * wide, config.max_width), -(-side // 2)
            stage = [_conv(narrow, wide, stride=2), _conv(wide, wide)]
            if side * self.DENSE_STRIDE >= config.image_size:
                early, seen = early + stage, wide
            else:
                late += stage
        self.early, self.late = nn.Sequential(*early), nn.Sequential(*late)
        self.dense = nn.Conv2d(seen, defects, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.defect = nn.Linear(2 * wide + defects, defects)
        self.product = nn.Linear(2 * wide, products) if products > 1 else None

    def forward(self, x: Tensor) -> JudgeLogits:
        """x: (N, ch, H, W) in [-1, 1] -> logits of the three heads."""
        h = self.early(x)  # (N, ..., H / 4, W / 4)
        dense = self.dense(h).float()
        h = self.late(h).float()  # (N, width, about 8, about 8)
        h = self.dropout(torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1))
        defect = self.defect(torch.cat([h, dense.amax(dim=(2, 3))], dim=1))
        return JudgeLogits(defect, self.product(h) if self.product is not None else None, dense)


class Prediction(NamedTuple):
    """What the judge sees in N images.

    Attributes:
        defect: int64 (N,), labels y.
        product: int64 (N,), labels p; None where there is but one product.
        defect_probability: float32 (N, defects), rows sum to 1.
    """

    defect: Tensor
    product: Tensor | None
    defect_probability: Tensor


class Judge:
    """A trained judge with the names of its labels.

    Attributes:
        network: its `JudgeNetwork`, in evaluation mode.
        config: sizes and training.
        products, defects: names, in the order of the labels p and y.
        card: what is known of it: data, training, accuracy on held-out images.
    """

    def __init__(
        self,
        network: JudgeNetwork,
        config: JudgeConfig,
        products: tuple[str, ...],
        defects: tuple[str, ...],
        card: dict[str, Any],
    ) -> None:
        self.network, self.config, self.card = network, config, card
        self.products, self.defects = products, defects
        self.device = next(network.parameters()).device
        self.precision = resolve_precision("auto", self.device)
        network.eval()
        network.requires_grad_(False)

    def __call__(self, x: Tensor, batch_size: int = 128) -> Prediction:
        """Judge images.

        Args:
            x: (N, ch, H, W) in [-1, 1], of the judge's size and channels.
            batch_size: images computed together.

        Raises:
            ValueError: other size or channels.
        """
        self.check_images(*x.shape[1:])
        defects, products = [], []
        with torch.inference_mode(), autocast(self.precision, self.device):
            for part in x.split(batch_size):
                part = part.to(self.device).contiguous(memory_format=torch.channels_last)
                verdict = self.network(part)
                defects.append(verdict.defect.float())
                if verdict.product is not None:
                    products.append(verdict.product.float())
        chances = torch.cat(defects).softmax(dim=1).cpu()
        found = torch.cat(products).argmax(dim=1).cpu() if products else None
        return Prediction(chances.argmax(dim=1), found, chances)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Refuse images of another shape than the judge's.

        Raises:
            ValueError: they differ.
        """
        size = self.config.image_size
        expected = (self.config.channels, size, size)
        if (channels, height, width) != expected:
            raise ValueError(
                f"the images are {(channels, height, width)}, this judge takes {expected} "
                "(channels, height, width); train one of that size: "
                f"{TRAIN_COMMAND.format(size=width)}"
            )

    def check_names(self, products: tuple[str, ...], defects: tuple[str, ...], what: str) -> None:
        """Refuse labels that are not the judge's, in the same order.

        Args:
            products: names of the other side.
            defects: likewise.
            what: who the other side is, for the message.

        Raises:
            ValueError: they differ.
        """
        if (products, defects) != (self.products, self.defects):
            size = self.config.image_size
            raise ValueError(
                f"{what}: has the products {', '.join(products)} and the defects "
                f"{', '.join(defects)}, this judge knows {', '.join(self.products)} and "
                f"{', '.join(self.defects)}; train one on that data: "
                f"{TRAIN_COMMAND.format(size=size)}"
            )

    # --- files -----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write judge.safetensors (float16) and card.json; the card is last, so it means whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        half = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        write_tensors(folder / WEIGHTS_NAME, half)
        facts = {
            "format": FORMAT,
            "products": list(self.products),
            "defects": list(self.defects),
            "config": asdict(self.config),
        }
        write_json_atomic(folder / CARD_NAME, facts | self.card)
        sync_folder(folder)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Judge:
        """Load what `save` wrote.

        Args:
            folder: holds judge.safetensors and card.json.
            device: where to compute.

        Raises:
            CheckpointError: the folder holds no judge, or a damaged one.
        """
        folder = Path(folder)
        weights = folder / WEIGHTS_NAME
        if not (folder / CARD_NAME).is_file() or not weights.is_file():
            found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "nothing"
            raise CheckpointError(
                f"{folder}: found {found}, expected {CARD_NAME} and {WEIGHTS_NAME} of a judge; "
                f"train one: {TRAIN_COMMAND.format(size='N')}"
            )
        path, remedy = folder / CARD_NAME, f"train it again: {TRAIN_COMMAND.format(size='N')}"
        card = read_json(path, JudgeCard, remedy)
        config: JudgeConfig = fields_of(card["config"], JudgeConfig, path, "config", remedy)
        products, defects = tuple(card["products"]), tuple(card["defects"])
        plain = read_weights(weights)
        network = fitted(lambda: JudgeNetwork(config, len(defects), len(products)), plain, weights)
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, config, products, defects, card)
