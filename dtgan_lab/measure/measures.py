"""What quality is counted from: background, defect layers, crops; all plain functions of tensors.

Images are (N, ch, H, W) in [-1, 1], masks bool (N, 1, H, W).  Lengths in pixels are given for
64 x 64 images and grow with the side (`scaled`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 2.0  # from -1 to 1, so decibels equal those of 8-bit images (peak 255)
PSNR_LIMIT = 80.0  # dB; what an untouched background counts
MASK_REACH = 3  # pixels by which a mask is dilated
RING_REACH = 8  # pixels from the mask to the outer border of the ring around it
CROP_SIDE = 24


def scaled(pixels: int, side: int) -> int:
    """A length given at 64 pixels, at another side; at least one pixel."""
    return max(1, round(pixels * side / 64))


def dilated(masks: Tensor, pixels: int) -> Tensor:
    """Grow masks by so many pixels to every side (a square)."""
    grown = F.max_pool2d(masks.float(), 2 * pixels + 1, stride=1, padding=pixels)
    return grown > 0.5


def psnr_outside(x: Tensor, fakes: Tensor, masks: Tensor) -> Tensor:
    """Peak signal to noise of backgrounds outside masks, (N,) in dB, at most `PSNR_LIMIT`.

    NaN where a mask, of a change that was wanted, covers everything.
    """
    outside = (~masks).to(x.dtype)
    squares = (fakes - x).square().mean(dim=1, keepdim=True) * outside
    error = squares.sum(dim=(1, 2, 3)) / outside.sum(dim=(1, 2, 3))  # 0 / 0 is NaN
    return (10 * torch.log10(PEAK**2 / error)).clamp(max=PSNR_LIMIT)


def most_changed(change: Tensor, count: int) -> Tensor:
    """The `count` pixels that changed most: (N, ch, H, W) -> bool (N, 1, H, W)."""
    size = change.abs().mean(dim=1).flatten(1)  # (N, H * W)
    order = size.sort(dim=1, descending=True, stable=True).indices[:, :count]
    masks = torch.zeros_like(size, dtype=torch.bool).scatter_(1, order, True)
    return masks.view(-1, 1, *change.shape[2:])


def share_inside(change: Tensor, masks: Tensor, near: Tensor) -> Tensor:
    """How much of a change (N, ch, H, W) lies where the reference has its defect: shares (N,).

    As many most changed pixels are looked at as the reference's mask has; they may lie in `near`,
    such as the mask dilated. NaN for an empty mask.
    """
    shares = []
    for one, mask, allowed in zip(change, masks, near, strict=True):
        number = int(mask.sum())
        inside = most_changed(one[None], number)[0] & allowed
        shares.append(float(inside.sum()) / number if number else float("nan"))
    return torch.tensor(shares)


# --- diversity -----------------------------------------------------------------------------------


def layer_by_ring(x: Tensor, masks: Tensor) -> Tensor:
    """The defect layers of real images without twin: what differs from the defect's surroundings.

    Inside the dilated mask x minus the median of the ring around it, 0 outside. Where the mask
    leaves no ring, the median of the whole image is taken.
    """
    side = x.shape[-1]
    inner = dilated(masks, scaled(MASK_REACH, side))
    ring = dilated(masks, scaled(RING_REACH, side)) & ~inner
    ring = torch.where(ring.flatten(1).any(1)[:, None, None, None], ring, True)
    around = x.masked_fill(~ring.expand_as(x), float("nan"))
    level = around.flatten(2).nanmedian(dim=2).values[:, :, None, None]
    return torch.where(inner, x - level, 0.0)


def pairwise_l1(layers: Tensor) -> float:
    """Mean absolute difference of a pixel over all pairs; NaN for fewer than two layers."""
    if len(layers) < 2:
        return float("nan")
    return float(F.pdist(layers.flatten(1).float(), p=1).mean() / layers[0].numel())


def diversity(layers: Tensor, area: int | None = None) -> dict[str, float]:
    """How much defect layers (N, ch, H, W) differ from each other, in three ways.

    "diversity": mean pairwise L1 of a pixel, which grows with the strength of a layer, and to which
    a faint change all over the image counts as much as a defect. "relative_diversity": that divided
    by the mean of |layer|: 0 for equal layers, 2 for layers that touch different pixels.
    "core_diversity": mean pairwise L1 of the `area` most changed pixels alone, which a faint change
    all over the image does not move; NaN without `area`. NaN, too, where there are fewer than two
    layers or nothing to divide by.
    """
    spread, strength = pairwise_l1(layers), float(layers.abs().mean()) if len(layers) else 0.0
    core = float("nan")
    if area is not None and len(layers):
        core = pairwise_l1(torch.where(most_changed(layers, area), layers, 0.0))
    relative = spread / strength if strength > 0 else float("nan")
    return {"diversity": spread, "relative_diversity": relative, "core_diversity": core}


# --- copies --------------------------------------------------------------------------------------


def centroids(masks: Tensor) -> Tensor:
    """Mean (row, column) of each mask, (N, 2) float32; the middle of the image for an empty one."""
    height, width = masks.shape[2:]
    weight = masks.flatten(1).float()  # (N, H * W)
    rows = torch.arange(height).repeat_interleave(width).float().to(masks.device)
    columns = torch.arange(width).repeat(height).float().to(masks.device)
    total = weight.sum(dim=1)
    found = torch.stack([weight @ rows, weight @ columns], dim=1) / total.clamp(min=1)[:, None]
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2], device=masks.device)
    return torch.where((total > 0)[:, None], found, middle)


def crops(x: Tensor, masks: Tensor) -> Tensor:
    """What tells copies: the smoothed surroundings of each defect, without their brightness.

    The crop lies around the mask's centroid, moved inside the image: (N, ch * side * side), 3 x 3
    mean filtered, its own mean taken off.
    """
    height, width = x.shape[2:]
    side = scaled(CROP_SIDE, height)
    smooth = F.avg_pool2d(F.pad(x.float(), [1, 1, 1, 1], mode="replicate"), 3, stride=1)
    corner = (centroids(masks) - (side - 1) / 2 + 0.5).floor().long()  # halves up
    limits = torch.tensor([height - side, width - side], device=x.device)
    top, left = corner.clamp(min=0).minimum(limits).unbind(1)
    span = torch.arange(side, device=x.device)
    rows, columns = top[:, None] + span, left[:, None] + span  # (N, side)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    cut = smooth.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].flatten(1)
    return cut - cut.mean(dim=1, keepdim=True)
