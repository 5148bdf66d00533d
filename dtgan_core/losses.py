"""The paper's training objectives (section 3.2): one function an equation.

An L1 norm is the mean over a sample's elements, an expectation the mean over the batch, so a
weight means the same at every size (our reading).  `keep` marks the samples a term applies to:
with the anchor domain, Normal targets have nothing to recover and nothing to diversify (our
reading 9).
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.config import LossWeights

LOCAL_SHARE = 0.85  # of an image's pixels that a defect leaves alone, see `locality`
FREE_AREA = 0.02  # of an image's pixels that a mask may cover for nothing, see `area`


Count = float | Tensor | None  # what a sum over samples is divided by, see `mean_of`


def mean_of(per_sample: Tensor, keep: Tensor | None = None, count: Count = None) -> Tensor:
    """Mean over the samples kept; 0 when nothing is kept.  The host waits for no value.

    per_sample: (N,); keep: (N,) bool or 0/1, None keeps all; count: what to divide the sum by, by
    default the number kept.  A process that holds a share of a batch passes the mean number kept a
    process, so that shares average to the whole.
    """
    if keep is not None:
        per_sample = per_sample * keep.to(per_sample.dtype)
    if count is None:
        count = len(per_sample) if keep is None else keep.float().sum()
    count = count.clamp(min=1e-6) if isinstance(count, Tensor) else max(count, 1e-6)
    return per_sample.sum() / count


def l1(a: Tensor, b: Tensor, keep: Tensor | None = None, count: Count = None) -> Tensor:
    """Mean absolute difference a sample, in float32, over the samples kept (see `mean_of`).

    a, b: (N, ...); keep: (N,).
    """
    return mean_of((a.float() - b.float()).abs().flatten(1).mean(dim=1), keep, count)


# --- (1) adversarial, non-saturating as in StarGAN v2 (our reading 5) ----------------------------


def adversarial_d(real_logit: Tensor, fake_logit: Tensor, keep: Tensor | None = None) -> Tensor:
    """Equation (1) for D, negated: -E[log D_y(x)] - E[log(1 - D_y~(x~))].

    real_logit, fake_logit: (N,) logits of D_y for real images of domain y, and of D_y~ for fakes of
    the target domain y~; keep: (N,) bool, the fakes that count, see `mean_of`.
    """
    return F.softplus(-real_logit.float()).mean() + mean_of(F.softplus(fake_logit.float()), keep)


def adversarial_g(fake_logit: Tensor, keep: Tensor | None = None) -> Tensor:
    """Equation (1) for G, M and E in its non-saturating form: -E[log D_y~(x~)].

    fake_logit: (N,) logits of D_y~ for fakes of the target domain; keep: (N,) bool, those that
    count, see `mean_of`.
    """
    return mean_of(F.softplus(-fake_logit.float()), keep)


def r1(real_logit: Tensor, x: Tensor) -> Tensor:
    """R1 penalty: E[|grad_x D_y(x)|^2] / 2, to be weighted by gamma.

    real_logit: (N,) float32 logits of D_y(x), computed outside autocast; x: (N, ch, H, W) real
    images that require grad.
    """
    (grad,) = torch.autograd.grad(real_logit.sum(), x, create_graph=True)
    return 0.5 * grad.square().flatten(1).sum(dim=1).mean()


# --- (2) to (5) ----------------------------------------------------------------------------------


def style_reconstruction(
    s_trg: Tensor, s_rec: Tensor, keep: Tensor | None = None, count: Count = None
) -> Tensor:
    """Style half of equation (2): E[|s~ - S_E(x~)|_1]; all of it in (a).  s: (N, S)."""
    return l1(s_trg, s_rec, keep, count)


def style_defect_reconstruction(
    c_trg: Tensor,
    c_rec: Tensor,
    s_trg: Tensor,
    s_rec: Tensor,
    keep: Tensor | None = None,
    count: Count = None,
) -> Tensor:
    """Equation (2): E recovers from x~ the defect (N, C, h, w) and the style that were put in."""
    return l1(c_trg, c_rec, keep, count) + style_reconstruction(s_trg, s_rec, keep, count)


def detached_defect(fg_src: Tensor, c_src: Tensor, fg_fake: Tensor, c_fake: Tensor) -> Tensor:
    """Equation (3): what G takes out of an image agrees with what E finds in it.

    All (N, C, h, w): FG_G(x) and c = E_y(x), FG_G(x~) and c~ = E_y~(x~), as the paper prints it.
    """
    return l1(fg_src, c_src) + l1(fg_fake, c_fake)


def diversity(images: list[Tensor], count: Count = None) -> Tensor:
    """Equation (4): sum of the L1 distances of all pairs of images that differ in c, s or both.

    Images are compared as they would be shown, clipped to [-1, 1] (our reading): G's output is
    unbounded, and contrast that nobody can see is the cheapest diversity; without the clip the
    term ran away within 150 iterations of a small model.

    images: G(x; c1, s1), G(x; c1, s2), G(x; c2, s1), G(x; c2, s2): six pairs, the sum that (4)
    writes out; or, in (a), the two images of StarGAN v2's term; (N, ch, H, W) each.  count: see
    `mean_of`; N where the images are those of samples that have a defect.
    """
    pairs = combinations([image.float().clamp(-1, 1) for image in images], 2)
    return torch.stack([l1(first, second, None, count) for first, second in pairs]).sum()


def cycle(x: Tensor, x_rec: Tensor) -> Tensor:
    """Equation (5): E|x - G(x~; c, s)|_1 with c, s = E_y(x).  x: (N, ch, H, W)."""
    return l1(x, x_rec)


def self_reconstruction(x: Tensor, x_self: Tensor, normal: Tensor, count: float) -> Tensor:
    """Batch mean of |x - G(x; c, s)|_1 over Normal x, with c, s = E_y(x): ours, for short runs.

    With the anchor it makes the background path a plain auto-encoder of Normal images.  x, x_self:
    (n, ch, H, W), some images of a batch and what G makes of them; normal: (n,) bool, which of them
    are Normal, the others count as 0; count: images in the batch.
    """
    return l1(x, x_self, normal, count)


def locality(x: Tensor, images: Tensor, share: float = LOCAL_SHARE, count: Count = None) -> Tensor:
    """Batch mean of |x - x~| over the pixels of an image that changed least: ours, for short runs.

    A defect is local: where it is not, the part stays.  Which pixels those are is left to G; the
    `share` of them that changed least counts, so a change on fewer than the rest costs nothing,
    and one all over the part, of its brightness say, does.  x, images: (N, ch, H, W), sources and
    what became of them; share: of the pixels, 0 to 1; count: see `mean_of`.
    """
    change = (x.float() - images.float()).abs().mean(dim=1).flatten(1)  # (N, H * W)
    number = max(1, round(share * change.shape[1]))
    if not len(change):
        return change.sum()
    limit = change.detach().kthvalue(number, dim=1, keepdim=True).values
    per_sample = (change * (change <= limit)).sum(dim=1) / number  # (N,)
    return mean_of(per_sample, None, count)


def area(masks: Tensor, free: float = FREE_AREA) -> Tensor:
    """Batch mean of what a mask covers beyond `free` of the image: ours, for (f).

    A mark on fewer pixels costs nothing: with a price on every pixel masks close before D has
    learned what a defect is.  masks: (N, 1, H, W) in [0, 1]; free: share of the pixels, 0 to 1.
    """
    return (masks.float().flatten(1).mean(dim=1) - free).clamp(min=0).mean()


def shape_difference(masks: Tensor, targets: Tensor, count: Count = None) -> Tensor:
    """Batch mean of 1 - sum min(m, m~) / sum max(m, m~), one minus the IoU of soft masks: ours.

    Two empty masks do not differ.  masks, targets: (N, 1, H, W) in [0, 1]; count: see `mean_of`.
    """
    m, target = masks.float().flatten(1), targets.float().flatten(1)
    both, either = torch.minimum(m, target).sum(dim=1), torch.maximum(m, target).sum(dim=1)
    return mean_of((either - both) / either.clamp(min=1e-6), None, count)


# --- (6) and (7) ---------------------------------------------------------------------------------


def _cross_entropy(logits: Tensor, labels: Tensor, keep: Tensor | None) -> Tensor:
    """Mean over the samples kept."""
    if keep is None:
        return F.cross_entropy(logits.float(), labels)
    return mean_of(F.cross_entropy(logits.float(), labels, reduction="none"), keep)


def defect_classification(logits: Tensor, y: Tensor, keep: Tensor | None = None) -> Tensor:
    """Equation (6), one of its two terms: E[-log D_FG(y | x)].

    D learns it on real images with their y, G, M and E on fakes with their target (our reading 4).
    logits: (N, domains); y: (N,) labels; keep: (N,) bool, the images that count, see `mean_of`.
    """
    return _cross_entropy(logits, y, keep)


def product_classification(logits: Tensor, p: Tensor, keep: Tensor | None = None) -> Tensor:
    """Equation (7), one of its two terms: E[-log D_BG(p | x)]; as `defect_classification`."""
    return _cross_entropy(logits, p, keep)


# --- (8) -----------------------------------------------------------------------------------------


def objective(terms: dict[str, Tensor], weights: LossWeights, w_ds: float) -> Tensor:
    """Equation (8) for the player that minimises: the weighted sum, diversity with a minus.

    terms: any of "adv", "sd_rec", "ds", "cyc", "d_rec", "fg", "bg", "r1", and ours, "self_rec",
    "local", "area" and "shape"; scalars.  weights: those of (8) and of R1; w_ds: the weight of
    diversity at this step (it decays over the run).  KeyError: a term that (8) does not have.
    """
    factor = {**vars(weights), "adv": 1.0, "ds": -w_ds}
    return torch.stack([factor[name] * value for name, value in terms.items()]).sum()
