"""The judge: a small classifier of defect and product that says what a synthetic image shows.

It learns from real training images alone and shares no weights with any network of DT-GAN and with
no metric, so a generator has never seen it.  How well it knows real images it was not trained on
stands in its card, and belongs beside every number it gives.

    judge = Judge.load("notebooks/checkpoints/judge-synthetic-sdi")
    prediction = judge(fakes)                      # fakes: (N, ch, H, W) in [-1, 1]
    share = (prediction.defect == wanted).float().mean()
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from dtgan_core.batches import ImageStore
from dtgan_core.checkpoints import DataFacts
from dtgan_lab.data.dataset import Dataset
from dtgan_lab.measure.observers import (
    RARE,
    SHIFT,
    SMOOTHING,
    BalancedDraws,
    Observer,
    ObserverConfig,
    Score,
    answers_of,
    balanced_score,
    card_of,
    conv,
    fit,
    seeded,
    wilson,
)

WEIGHTS_NAME = "judge.safetensors"
TRAIN_COMMAND = "python -m dtgan_core judge --data DATA --out JUDGE --image-size {size}"
TURN, SCALE = 12.0, 1.18  # degrees and factor, at most, either way
CONTRAST, BRIGHTNESS = 0.15, 0.1  # factor 1 +- 0.15 about the image's mean; +- 0.1 of [-1, 1]
DENSE_WEIGHT = 4.0  # of the dense head's loss


@dataclass(frozen=True)
class JudgeConfig(ObserverConfig):
    """Sizes and training of a judge (see `ObserverConfig`)."""

    dropout: float = 0.2  # share of pooled features dropped while training
    seed: int = 0  # of initialisation, order of images and augmentation
    check_every: int = 100  # steps between two looks at the split `val`; the best weights are kept

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 16:
            raise ValueError(f"image_size is {self.image_size}; expected at least 16 pixels")


class JudgeCard(TypedDict):
    """What a judge's card must say."""

    products: list[str]
    defects: list[str]
    config: dict[str, Any]
    data: NotRequired[DataFacts]


class JudgeLogits(NamedTuple):
    """Logits of N images."""

    defect: Tensor  # (N, defects)
    product: Tensor | None  # (N, products), or None where there is but one product
    dense: Tensor  # (N, defects, H / 4, W / 4), where each defect is


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
        early = [conv(config.channels, wide), conv(wide, wide)]
        late: list[nn.Module] = []
        while side > 8:
            narrow, wide, side = wide, min(2 * wide, config.max_width), -(-side // 2)
            stage = [conv(narrow, wide, stride=2), conv(wide, wide)]
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
    """What the judge sees in N images."""

    defect: Tensor  # int64 (N,), labels y
    product: Tensor | None  # int64 (N,), labels p; None where there is but one product
    defect_probability: Tensor  # float32 (N, defects), rows sum to 1


class Judge(Observer):
    """A trained judge."""

    what, weights_name, command = "a judge", WEIGHTS_NAME, TRAIN_COMMAND.format(size="N")
    card_type, config_type, memory_format = JudgeCard, JudgeConfig, torch.channels_last

    @staticmethod
    def build(config: JudgeConfig, card: dict[str, Any]) -> JudgeNetwork:
        """The network that a card speaks of, untrained."""
        return JudgeNetwork(config, len(card["defects"]), len(card["products"]))

    def __call__(self, x: Tensor, batch_size: int = 128) -> Prediction:
        """Judge images (N, ch, H, W) in [-1, 1]; a ValueError refuses another size or channels."""
        self.check_images(*x.shape[1:])
        defects, products = [], []
        with torch.inference_mode():
            for part in x.split(batch_size):
                logits = answers_of(self.network, part.to(self.device))
                defects.append(logits.defect.float())
                if logits.product is not None:
                    products.append(logits.product.float())
        chances = torch.cat(defects).softmax(dim=1).cpu()
        found = torch.cat(products).argmax(dim=1).cpu() if products else None
        return Prediction(chances.argmax(dim=1), found, chances)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Refuse images of another shape than the judge's by a ValueError."""
        size = self.config.image_size
        expected = (self.config.channels, size, size)
        if (channels, height, width) != expected:
            raise ValueError(
                f"the images are {(channels, height, width)}, this judge takes {expected} "
                "(channels, height, width); train one of that size: "
                f"{TRAIN_COMMAND.format(size=width)}"
            )

    def check_names(self, products: tuple[str, ...], defects: tuple[str, ...], what: str) -> None:
        """Refuse other labels than the judge's by a ValueError; `what` names whose they are."""
        if (products, defects) != (self.products, self.defects):
            size = self.config.image_size
            raise ValueError(
                f"{what}: has the products {', '.join(products)} and the defects "
                f"{', '.join(defects)}, this judge knows {', '.join(self.products)} and "
                f"{', '.join(self.defects)}; train one on that data: "
                f"{TRAIN_COMMAND.format(size=size)}"
            )


# --- training ------------------------------------------------------------------------------------


class JudgeBatch(NamedTuple):
    """x (B, ch, H, W) in [-1, 1], labels y and p (B,), masks (B, 1, H, W) of 0 and 1 or None."""

    x: Tensor
    y: Tensor
    p: Tensor
    masks: Tensor | None


def judge_batch(draws: BalancedDraws, step: int) -> JudgeBatch:
    """The batch of a step: flipped, shifted, turned, scaled and lit differently."""
    store, (both, index, generator) = draws.store, draws.draw(step)
    x, masks = draws.split(moved(both, store.flips[index], generator))
    return JudgeBatch(relit(x, generator), store.defects[index], store.products[index], masks)


def moved(x: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images where allowed and shift them; two thirds are also turned and scaled a little.

    What comes in from outside is mirrored. A third is shifted by whole pixels only, which keeps it
    as sharp as the images to be judged. `flips` is bool (N, 2), horizontally, vertically.
    """
    n, _, height, width = x.shape
    coins = torch.rand((n, 2), generator=generator) < 0.5
    signs = 1 - 2.0 * (coins & flips.cpu())  # (N, 2): -1 where flipped
    chance = 2 * torch.rand((n, 5), generator=generator) - 1
    turned = (chance[:, 4] > -1 / 3).float()
    angle = turned * chance[:, 0] * math.radians(TURN)
    scale = torch.exp(turned * chance[:, 1] * math.log(SCALE))
    reach = torch.tensor([width, height]) * SHIFT
    # grid_sample's unit is half the image's side: a pixel is 2 / side
    shift = (chance[:, 2:4] * reach).round() * 2 / torch.tensor([width, height])
    turn = torch.stack(
        [angle.cos() / scale, -angle.sin() / scale, angle.sin() / scale, angle.cos() / scale], 1
    ).view(n, 2, 2)
    matrix = torch.cat([turn * signs[:, None, :], shift[:, :, None]], dim=2)  # (N, 2, 3)
    grid = F.affine_grid(matrix.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def relit(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change contrast and brightness of images in [-1, 1] a little; clipped to that range."""
    chance = torch.rand((2, len(x), 1, 1, 1), generator=generator).to(x.device) * 2 - 1
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    changed = (x - mean) * (1 + CONTRAST * chance[0]) + mean + BRIGHTNESS * chance[1]
    return changed.clamp(-1, 1)


def judge_loss(answers: JudgeLogits, batch: JudgeBatch, anchor: int) -> Tensor:
    """Cross-entropy of both heads, and of the dense head (but the anchor) where there are masks."""
    loss = F.cross_entropy(answers.defect.float(), batch.y, label_smoothing=SMOOTHING)
    if answers.product is not None:
        loss = loss + F.cross_entropy(answers.product.float(), batch.p, label_smoothing=SMOOTHING)
    if batch.masks is not None:
        there = F.adaptive_max_pool2d(batch.masks, answers.dense.shape[2:])  # (N, 1, h, w)
        wanted = F.one_hot(batch.y, answers.defect.shape[1])[:, :, None, None] * there
        wanted[:, anchor] = 0
        rare = torch.tensor(RARE, device=there.device)
        dense = F.binary_cross_entropy_with_logits(answers.dense, wanted, pos_weight=rare)
        loss = loss + DENSE_WEIGHT * dense
    return loss


def train_judge(
    dataset: Dataset, config: JudgeConfig, device: torch.device | str = "cpu", progress: bool = True
) -> Judge:
    """Train a judge on the split `train`; `val` chooses among its states, `test` is only reported.

    It comes rounded to the float16 it is stored in, its card filled.
    """
    begin = time.perf_counter()
    size, channels = config.image_size, config.channels
    train, val, test = (
        ImageStore.load(dataset, split, size, channels, progress).to(device)
        for split in ("train", "val", "test")
    )
    names = dataset.info.products, dataset.info.defects
    with seeded(config.seed):
        network = JudgeNetwork(config, len(names[1]), len(names[0]))
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    draws = BalancedDraws(train, config.batch_size, config.seed, "judge")

    def loss_of(step: int) -> Tensor:
        batch = judge_batch(draws, step)
        return judge_loss(answers_of(network, batch.x), batch, train.anchor)

    with seeded(config.seed):  # dropout
        found = fit(
            network,
            config,
            loss_of,
            lambda state: _score(state, val),
            config.check_every,
            title="judge",
            progress=progress,
        )
    judge = Judge(network, config, *names, card={})
    chosen = {"iteration": found.iteration, "val_balanced_accuracy": round(found.right, 4)}
    accuracies = {
        name: accuracy(judge, store).to_dict(orient="records")
        for name, store in (("test", test), ("val", val))
    }
    judge.card = card_of(dataset, config, begin, device) | {
        "chosen": chosen,
        "accuracy": accuracies,
    }
    return judge


@torch.no_grad()
def _score(network: nn.Module, store: ImageStore) -> Score:
    """Accuracy on defects, and cross-entropy; the product's counts too, to choose among equals."""
    network.eval()
    rights, costs = [], []
    for index in torch.arange(len(store), device=store.device).split(128):
        defect, product, _ = answers_of(network, store.to_float(index))
        cost = F.cross_entropy(defect.float(), store.defects[index], reduction="none")
        if product is not None:
            p = store.products[index]
            cost = cost + F.cross_entropy(product.float(), p, reduction="none")
        rights.append(defect.argmax(dim=1) == store.defects[index])
        costs.append(cost)
    return balanced_score(torch.cat(rights), torch.cat(costs), store)


def accuracy(judge: Judge, store: ImageStore) -> pd.DataFrame:
    """How often the judge is right on real images it was not trained on.

    One row a question ("defect", "product"), product and defect ("all" where pooled): n, share
    right, and the 95 % Wilson interval (low, high).
    """
    prediction = judge(store.to_float(torch.arange(len(store))))
    names = [store.product_names[p] for p in store.products.tolist()]
    table = pd.DataFrame({"product": names})
    table["defect"] = [store.defect_names[y] for y in store.defects.tolist()]
    answers = {"defect": (prediction.defect, store.defects)}
    if prediction.product is not None:
        answers["product"] = (prediction.product, store.products)
    rows: list[dict[str, Any]] = []
    for question, (found, labels) in answers.items():
        table["right"] = (found == labels.cpu()).numpy()
        groups: list[tuple[Any, pd.DataFrame]] = [(("all", "all"), table)]
        groups += [(("all", y), part) for y, part in table.groupby("defect", sort=False)]
        if len(store.product_names) > 1:
            groups += list(table.groupby(["product", "defect"], sort=False))
        for (product, defect), part in groups:
            rows.append({"question": question, "product": product, "defect": defect})
            rows[-1] |= wilson(int(part["right"].sum()), len(part))
    return pd.DataFrame(rows)
