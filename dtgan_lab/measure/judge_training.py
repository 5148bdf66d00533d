"""Training a judge on the real images of the split `train`, and telling how far to trust it."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dtgan_core.batches import ImageStore, balanced_index, step_generator
from dtgan_core.dataset import Dataset, data_facts
from dtgan_core.hardware import autocast, describe, resolve_precision
from dtgan_lab.measure.judge import Judge, JudgeConfig, JudgeLogits, JudgeNetwork

SHIFT = 1 / 16  # of the side, at most, to every side
TURN, SCALE = 12.0, 1.18  # degrees and factor, at most, either way
SMOOTHING = 0.02
CONTRAST, BRIGHTNESS = 0.15, 0.1  # factor 1 +- 0.15 about the image's mean; +- 0.1 of [-1, 1]


AVERAGED = 0.04  # share of the steps over which weights are averaged; the mean is judged and kept
DENSE_WEIGHT, DENSE_RARE = 4.0, 4.0  # weight of the dense head's loss, and of defects within it


class Sampler:
    """Augmented batches in which every product x defect comes as often as any other.

    A batch is a function of (seed, step).
    """

    def __init__(self, store: ImageStore, batch_size: int, seed: int) -> None:
        self.store, self.batch_size, self.seed = store, batch_size, seed
        by_cell: dict[tuple[int, int], list[int]] = {}
        labels = zip(store.products.tolist(), store.defects.tolist(), strict=True)
        for index, cell in enumerate(labels):
            by_cell.setdefault(cell, []).append(index)
        self.cells = [by_cell[cell] for cell in sorted(by_cell)]
        self.masks = store.masks()

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The batch of a step.

        Returns:
            x (B, ch, H, W) in [-1, 1], labels y (B,) and p (B,), masks (B, 1, H, W) of 0 and 1 or
            None where the data has none.
        """
        generator = step_generator(f"{self.seed}/judge", step)
        chosen = balanced_index(self.cells, self.batch_size, generator)
        index = torch.tensor(chosen, device=self.store.device)
        x = self.store.to_float(index)
        channels = x.shape[1]
        if self.masks is not None:  # they move with their images
            x = torch.cat([x, self.masks[index].float() / 255], dim=1)
        x = moved(x, self.store.flips[index], generator)
        masks = x[:, channels:] if self.masks is not None else None
        x = relit(x[:, :channels], generator)
        return x, self.store.defects[index], self.store.products[index], masks


def moved(x: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Flip images where allowed and shift them; two thirds are also turned and scaled a little.

    What comes in from outside is mirrored.  A third is shifted by whole pixels only, which keeps
    it as sharp as the images to be judged.

    Args:
        x: (N, channels, H, W).
        flips: bool (N, 2), whether each may be flipped (horizontally, vertically).
        generator: on the CPU.
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


def judge_loss(
    verdict: JudgeLogits, y: Tensor, p: Tensor, masks: Tensor | None, anchor: int
) -> Tensor:
    """Cross-entropy of both heads, and of the dense head where there are masks.

    Args:
        verdict: of N images.
        y: (N,) defects.
        p: (N,) products.
        masks: (N, 1, H, W) of 0 and 1, where the defect is; or None.
        anchor: the defect that has no place.
    """
    loss = F.cross_entropy(verdict.defect.float(), y, label_smoothing=SMOOTHING)
    if verdict.product is not None:
        loss = loss + F.cross_entropy(verdict.product.float(), p, label_smoothing=SMOOTHING)
    if masks is not None:
        there = F.adaptive_max_pool2d(masks, verdict.dense.shape[2:])  # (N, 1, h, w)
        wanted = F.one_hot(y, verdict.defect.shape[1])[:, :, None, None] * there
        wanted[:, anchor] = 0
        rare = torch.tensor(DENSE_RARE, device=y.device)
        dense = F.binary_cross_entropy_with_logits(verdict.dense, wanted, pos_weight=rare)
        loss = loss + DENSE_WEIGHT * dense
    return loss


def train_judge(
    dataset: Dataset,
    config: JudgeConfig,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Judge:
    """Train a judge on the split `train`; `val` chooses among its states, `test` is only told.

    Args:
        dataset: a checked data set with train, val and test.
        config: sizes and training.
        device: where to compute.
        progress: show a bar when standard error is a terminal.

    Returns:
        The judge, rounded to the float16 it is stored in, its card filled.

    Raises:
        DatasetError: a split is empty.
    """
    begin = time.perf_counter()
    size, channels = config.image_size, config.channels
    train, val, test = (
        ImageStore.load(dataset, split, size, channels, progress).to(device)
        for split in ("train", "val", "test")
    )
    names = dataset.info.products, dataset.info.defects
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = JudgeNetwork(config, len(names[1]), len(names[0]))
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    chosen = _learn(network, config, train, val, progress)
    judge = Judge(network, config, *names, card={})
    judge.card = {
        "data": data_facts(dataset),
        "split": "train",
        "iterations": config.iterations,
        "chosen": chosen,
        "seed": config.seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "hardware": describe(device, judge.precision),
        "licence": "Apache-2.0 (weights); licence of the data above",
        "accuracy": {
            "test": accuracy(judge, test).to_dict(orient="records"),
            "val": accuracy(judge, val).to_dict(orient="records"),
        },
    }
    return judge


def _learn(
    network: JudgeNetwork, config: JudgeConfig, train: ImageStore, val: ImageStore, progress: bool
) -> dict[str, Any]:
    """Train; leaves the state that `val` liked best, as float16 would hold it."""
    device = train.device
    precision = resolve_precision("auto", device)
    sampler = Sampler(train, config.batch_size, config.seed)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.iterations, pct_start=0.15
    )
    decay = 1 - 1 / max(1.0, AVERAGED * config.iterations)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    best: tuple[float, float] = (-1.0, 0.0)
    chosen: dict[str, Any] = {}
    kept: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):  # dropout
        torch.manual_seed(config.seed)
        bar = tqdm(range(1, config.iterations + 1), "judge", disable=None if progress else True)
        for step in bar:
            network.train()
            x, y, p, masks = sampler.draw(step)
            with autocast(precision, device):
                verdict = network(x.contiguous(memory_format=torch.channels_last))
            loss = judge_loss(verdict, y, p, masks, train.anchor)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            if step % config.check_every and step != config.iterations:
                continue
            right, cost = _balanced(average.module, val, precision)
            bar.set_postfix(loss=f"{loss.item():.3f}", val=f"{right:.3f}")
            if (right, -cost) > best:
                best = (right, -cost)
                chosen = {"iteration": step, "val_balanced_accuracy": round(right, 4)}
                kept = {name: v.detach().clone() for name, v in average.module.state_dict().items()}
    network.load_state_dict(
        {name: v.half().float() if v.is_floating_point() else v for name, v in kept.items()}
    )
    return chosen


@torch.no_grad()
def _balanced(network: nn.Module, store: ImageStore, precision: str) -> tuple[float, float]:
    """Accuracy and cross-entropy on defects, the mean of each product x defect's own.

    The product's cross-entropy is added to the cost, so that it counts among equals.
    """
    network.eval()
    rights, costs = [], []
    for start in range(0, len(store), 128):
        index = torch.arange(start, min(start + 128, len(store)))
        x = store.to_float(index).contiguous(memory_format=torch.channels_last)
        with autocast(precision, store.device):
            defect, product, _ = network(x)
        y = store.defects[index.to(store.device)]
        cost = F.cross_entropy(defect.float(), y, reduction="none")
        if product is not None:
            p = store.products[index.to(store.device)]
            cost = cost + F.cross_entropy(product.float(), p, reduction="none")
        rights.append((defect.argmax(dim=1) == y).float())
        costs.append(cost)
    right, cost = torch.cat(rights), torch.cat(costs)
    cells = store.products * len(store.defect_names) + store.defects
    kinds = [cells == kind for kind in cells.unique()]
    return (
        float(torch.stack([right[kind].mean() for kind in kinds]).mean()),
        float(torch.stack([cost[kind].mean() for kind in kinds]).mean()),
    )


def accuracy(judge: Judge, store: ImageStore) -> pd.DataFrame:
    """How often the judge is right on real images, per product and defect and over all.

    Args:
        judge: of the store's size and names.
        store: images it was not trained on.

    Returns:
        One row a question ("defect", "product"), product and defect ("all" where pooled): n,
        share right, and the 95 % Wilson interval (low, high).
    """
    prediction = judge(store.to_float(torch.arange(len(store))))
    answers = {"defect": prediction.defect == store.defects.cpu()}
    if prediction.product is not None:
        answers["product"] = prediction.product == store.products.cpu()
    table = pd.DataFrame(
        {
            "product": [store.product_names[p] for p in store.products.tolist()],
            "defect": [store.defect_names[y] for y in store.defects.tolist()],
        }
    )
    rows = []
    for question, right in answers.items():
        table["right"] = right.numpy()
        groups = [("all", "all", table)]
        groups += [("all", str(y), part) for y, part in table.groupby("defect", sort=False)]
        if len(store.product_names) > 1:
            pairs = table.groupby(["product", "defect"], sort=False)
            groups += [(str(p), str(y), part) for (p, y), part in pairs]
        for product, defect, part in groups:
            rows.append(
                {"question": question, "product": product, "defect": defect}
                | wilson(int(part["right"].sum()), len(part))
            )
    return pd.DataFrame(rows)


def wilson(right: int, count: int) -> dict[str, float]:
    """Share and its 95 % Wilson interval: keys n, right, low, high (shares, rounded to 1e-4)."""
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return {
        "n": count,
        "right": round(right / count, 4),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
    }


def default_config(dataset: Dataset, image_size: int | None = None, **fields: Any) -> JudgeConfig:
    """A configuration with the data set's channels and, unless given, its side in pixels."""
    config = JudgeConfig(image_size or max(dataset.info.image_size), dataset.info.channels)
    return dataclasses.replace(config, **fields)
