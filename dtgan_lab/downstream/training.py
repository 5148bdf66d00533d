"""Training a downstream classifier on a training set, and what it is worth on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.batches import ImageStore, step_generator
from dtgan_lab.downstream.classifier import (
    ClassifierConfig,
    ClassifierNetwork,
    defect_loss,
    domain_loss,
    domain_weights,
    reversal_strength,
)
from dtgan_lab.downstream.training_set import TrainingSet
from dtgan_lab.measure.observers import (
    Score,
    answers_of,
    balanced_index,
    balanced_score,
    cells_of,
    coin_flips,
    fit,
    seeded,
)

if TYPE_CHECKING:
    from dtgan_lab.downstream.arms import Arm

JITTER = 0.2  # brightness is moved by up to so much of half the range; contrast times 1 +- so much
LIGHTING = 0.1  # spread of the colour shift along the principal axes (Krizhevsky et al. 2012)
CUTMIX_SHARE = 0.5  # of the batches (Yun et al. 2019, their CIFAR setting)
FALSE_REJECTS = 0.01  # share of good parts that an inspection may throw away
EVALUATED = 256  # images computed together


# --- batches -------------------------------------------------------------------------------------


class ClassifierBatch(NamedTuple):
    """x (B, ch, H, W) in [-1, 1], targets (B, defects), known, is_synthetic and weights (B,)."""

    x: Tensor
    targets: Tensor
    known: Tensor
    is_synthetic: Tensor
    weights: Tensor


class Batches:
    """Augmented batches in which every product x defect comes as often as any other.

    Rare ones are thereby oversampled, whether synthetic images fill them up or not. A batch is a
    function of (seed, step).
    """

    def __init__(
        self,
        taught: TrainingSet,
        arm: Arm,
        weights: Tensor,
        defects: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.taught, self.arm, self.weights, self.defects = taught, arm, weights, defects
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.cells = cells_of(taught.products, taught.defects, defects)
        self.axes = principal_axes(taught.images)

    def draw(self, step: int) -> ClassifierBatch:
        """The batch of a step."""
        generator = step_generator(f"{self.seed}/classifier", step)
        index = torch.tensor(balanced_index(self.cells, self.batch_size, generator))
        taught = self.taught
        x = (taught.images[index].float() / 127.5 - 1).to(self.device)
        targets = F.one_hot(taught.defects[index], self.defects).float().to(self.device)
        if self.arm.augment != "none":
            x = traditional(x, taught.flips[index], self.axes, generator)
        if self.arm.augment == "cutmix" and torch.rand(1, generator=generator) < CUTMIX_SHARE:
            x, targets = cut_mix(x, targets, generator)
        return ClassifierBatch(
            x,
            targets,
            taught.known[index].to(self.device),
            taught.is_synthetic[index].to(self.device),
            self.weights[index].to(self.device),
        )


def principal_axes(images: Tensor) -> Tensor:
    """Principal axes (ch, ch) of the colours of images, each as long as their spread along it.

    In units of [-1, 1]; of grey images the spread of all grey levels.
    """
    channels = images.shape[1]
    some = images[:: max(1, len(images) // 1000), :, ::4, ::4]
    pixels = some.transpose(0, 1).reshape(channels, -1).double() / 127.5
    covariance = torch.cov(pixels).view(channels, channels)
    values, axes = torch.linalg.eigh(covariance)
    return (axes * values.clamp_min(0).sqrt()).float()


def traditional(x: Tensor, flips: Tensor, axes: Tensor, generator: torch.Generator) -> Tensor:
    """The paper's traditional augmentation: flips, jitter and lighting (strengths: our reading).

    Flips only where the product allows them; brightness and contrast (and saturation, in colour)
    jittered; light shifted along the training set's principal colour axes, as Krizhevsky,
    Sutskever, Hinton, NIPS 2012, Section 4.1.
    """
    n, channels = x.shape[:2]
    x = coin_flips(x, flips, generator)
    chance = (2 * torch.rand((3, n, 1, 1, 1), generator=generator) - 1).to(x.device) * JITTER
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + chance[0]) + mean + chance[1]
    if channels == 3:
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * (1 + chance[2])
    light = LIGHTING * torch.randn((n, channels), generator=generator) @ axes.T  # (N, ch)
    return (x + light.view(n, channels, 1, 1).to(x.device)).clamp(-1, 1)


def cut_mix(x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix: a box of the neighbour's image, and its label by the share of the area.

    Yun et al., "CutMix", ICCV 2019, through torchvision. On small defects the label is often wrong:
    the box seldom holds the defect that it is paid for.
    """
    from torchvision.transforms.v2 import CutMix

    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global state
        torch.manual_seed(seed)
        mixed: tuple[Tensor, Tensor] = CutMix(num_classes=targets.shape[1])(x, targets)
    return mixed[0], mixed[1]


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A classifier in the state that `val` liked best."""

    network: ClassifierNetwork  # in evaluation mode
    iteration: int  # of that state
    val_balanced_accuracy: float  # share right, the mean over products x defects
    # how often its domain head is right on the training images that the domain loss counts,
    # real and synthetic ones of a class weighing the same (0.5 is chance), at that state;
    # None without synthetic images
    domain_accuracy: float | None


def train_classifier(
    taught: TrainingSet,
    val: ImageStore,
    arm: Arm,
    config: ClassifierConfig,
    seed: int,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Trained:
    """Train a classifier; the split `val` chooses among its states.

    Without reversal the domain head still learns, and the backbone does not hear of it: its
    accuracy says how much gives synthetic images away. The seed is that of initialisation, dropout,
    order and augmentation.
    """
    kinds = len(val.defect_names)
    weights = domain_weights(
        taught.is_synthetic, taught.defects, taught.products, val.anchor, arm.reversal
    )
    has_domain = bool(taught.is_synthetic.any())
    batches = Batches(taught, arm, weights, kinds, config.batch_size, seed, device)

    def loss_of(step: int) -> Tensor:
        strength, batch = 0.0, batches.draw(step)
        if arm.reversal != "off":
            strength = reversal_strength(step / config.iterations, config.gamma)
        found = answers_of(network, batch.x, strength)
        loss = defect_loss(found.defect, batch.targets, batch.known, val.anchor)
        if has_domain:
            loss = loss + domain_loss(found.domain, batch.is_synthetic, batch.weights)
        return loss

    with seeded(seed):
        network = ClassifierNetwork(config, kinds)
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        best = fit(
            network,
            config,
            loss_of,
            lambda state: scored(cast(ClassifierNetwork, state), val),
            config.check_every,
            averaged=False,
            title=f"classifier, {arm.title}, seed {seed}",
            progress=progress,
        )
    accuracy = domain_accuracy(network, taught, weights) if has_domain else None
    return Trained(network, best.iteration, best.right, accuracy)


# --- judging -------------------------------------------------------------------------------------


@torch.no_grad()
def answers(network: ClassifierNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Chances of the defects (N, defects) and of "synthetic" (N,), on the CPU, unaugmented."""
    network.eval()
    device = next(network.parameters()).device
    defects, domains = [], []
    for part in images.split(EVALUATED):
        answer = answers_of(network, part.to(device).float() / 127.5 - 1)
        defects.append(answer.defect.float().softmax(dim=1).cpu())
        domains.append(answer.domain.float().sigmoid().cpu())
    return torch.cat(defects), torch.cat(domains)


def scored(network: ClassifierNetwork, store: ImageStore) -> Score:
    """Share right and cross-entropy, each the mean over the products x defects there are."""
    chances, _ = answers(network, store.images)
    y = store.defects.cpu()
    cost = -chances.gather(1, y[:, None])[:, 0].clamp_min(1e-9).log()
    return balanced_score(chances.argmax(dim=1) == y, cost, store)


def domain_accuracy(
    network: ClassifierNetwork, taught: TrainingSet, weights: Tensor
) -> float | None:
    """Weighted share of training images whose domain is recognised; None if none counts."""
    counted = weights > 0
    kinds = [counted & kind for kind in (taught.is_synthetic, ~taught.is_synthetic)]
    if not all(kind.any() for kind in kinds):
        return None
    _, synthetic = answers(network, taught.images[counted])
    right = ((synthetic > 0.5) == taught.is_synthetic[counted]).float()
    shares = weights[counted]
    return float((right * shares).sum() / shares.sum())


def measures(chances: Tensor, store: ImageStore) -> dict[str, Any]:
    """What a classifier's chances (N, defects), of `answers`, on the images of a split are worth.

    n; error (share wrong, as the paper's error rate); balanced_error (mean over the defects, for
    splits with many more Normal images); error_by_product; recall by defect; recall_by_cell ("A
    Scratches", those that the split has); defect_recall (share of defective parts found when at
    most `FALSE_REJECTS` of the good ones are thrown away, the threshold put where it serves best)
    with n_normal and auroc, NaN where one of the two is missing; confusion (rows: true, columns:
    found).
    """
    # here, since every command of the kit imports this module and only this one needs it
    from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

    y, p, names = store.defects.cpu(), store.products.cpu(), store.defect_names
    found = chances.argmax(dim=1)
    wrong = (found != y).float()
    defective = (y != store.anchor).numpy()
    score = 1 - chances[:, store.anchor].double().numpy()
    recall = auroc = float("nan")
    if 0 < defective.sum() < len(defective):
        false_rejects, hits, _ = roc_curve(defective, score, drop_intermediate=False)
        recall = float(hits[false_rejects <= FALSE_REJECTS].max())
        auroc = float(roc_auc_score(defective, score))
    recalls = {names[d]: float(1 - wrong[y == d].mean()) for d in y.unique()}
    return {
        "n": len(y),
        "error": round(float(wrong.mean()), 6),
        "balanced_error": round(1 - sum(recalls.values()) / len(recalls), 6),
        "error_by_product": {
            store.product_names[q]: round(float(wrong[p == q].mean()), 6) for q in p.unique()
        },
        "recall": {name: round(share, 6) for name, share in recalls.items()},
        "recall_by_cell": {
            f"{store.product_names[q]} {names[d]}": round(1 - float(wrong[cell].mean()), 6)
            for q in p.unique()
            for d in y.unique()
            if (cell := (p == q) & (y == d)).any()
        },
        "defect_recall": round(recall, 6),
        "n_normal": int((~defective).sum()),
        "auroc": round(auroc, 6),
        "confusion": np.asarray(
            confusion_matrix(y.numpy(), found.numpy(), labels=range(len(names)))
        ).tolist(),
    }
