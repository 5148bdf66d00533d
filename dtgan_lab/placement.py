"""Putting a defect where you want it: a defect map c is spatial, so it can be moved like a picture.

    start = painted_places(change)                                       # (N, 2) pixels
    c = placed(guide.c, to_cells(start, 64, 16), to_cells(wanted, 64, 16), degrees=30.0)
    fakes = synth.paint(background, Guide(c, guide.s))

Places are (row, column), counted from the middle of the first cell or pixel, rows downwards.  c is
not zero where there is no defect: training asks for no such thing.  So a defect is looked for in
the picture, where the change against the model's own Normal is sharp, and not in c.  All of it is
our own addition: the paper moves defects between products, not on them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_lab.measure.measures import centroids, most_changed, scaled

SHARP_AREA = 20  # pixels (at 64 x 64) that tell where a defect lies
VEIL_REACH = 8  # pixels to every side; a change as wide as this is a veil, not a defect


def to_cells(places: Tensor, pixels: int, cells: int) -> Tensor:
    """(row, column) in an image of side `pixels` -> the same place in a map of side `cells`."""
    return (places + 0.5) * (cells / pixels) - 0.5


def placed(
    c: Tensor,
    start: Tensor,
    target: Tensor,
    degrees: float | Tensor = 0.0,
    factor: float | Tensor = 1.0,
    mirror: bool = False,
) -> Tensor:
    """Move, turn, scale and mirror defect maps in one sampling step; outside of them is zero.

    What lay at `start` comes to lie at `target`; everything else turns and grows around it.
    Bilinear: a shift by whole cells is exact, and so is no change at all.

    Args:
        c: (N, C, h, w), as what is returned.
        start: (2,) or (N, 2), (row, column) in cells.
        target: the same, where it is wanted; fractions of a cell count.
        degrees: counter-clockwise as seen; one number, or (N,).
        factor: growth, above 0; one number, or (N,).
        mirror: swap left and right, before turning.

    Raises:
        ValueError: a factor is not positive.
    """
    n, _, height, width = c.shape
    like: dict[str, Any] = {"device": c.device, "dtype": torch.float64}  # exact quarter turns
    angle = torch.as_tensor(degrees, **like).deg2rad().expand(n)
    growth = torch.as_tensor(factor, **like).expand(n)
    if not bool((growth > 0).all()):
        raise ValueError(f"factor is {factor}; expected above 0")
    sine, cosine, sign = angle.sin() / growth, angle.cos() / growth, -1 if mirror else 1
    back = torch.stack(  # (N, 2, 2), from a cell of the result to the cell it is taken from
        [torch.stack([cosine, sine], 1), sign * torch.stack([-sine, cosine], 1)], dim=1
    )
    start, target = start.to(**like).expand(n, 2), target.to(**like).expand(n, 2)
    # taken together first: no change is then exactly none, wherever the defect lies
    offset = start - torch.einsum("nij,nj->ni", back, target)
    cells = torch.stack(
        torch.meshgrid(torch.arange(height, **like), torch.arange(width, **like), indexing="ij"),
        dim=2,
    )
    taken = torch.einsum("nij,hwj->nhwi", back, cells) + offset[:, None, None]  # (N, h, w, 2)
    size = torch.tensor([height, width], **like)
    grid = ((2 * taken + 1) / size - 1).flip(3)  # grid_sample wants x first
    return F.grid_sample(c, grid.to(c.dtype), padding_mode="zeros", align_corners=False)


def cut_out(c: Tensor, around: Tensor, radius: float) -> Tensor:
    """Keep what lies near a place; the rest is zero, with a rim that fades over a cell.

    `around` is (row, column), (2,) or (N, 2), in cells as `radius`.
    """
    n, _, height, width = c.shape
    rows = torch.arange(height, device=c.device)[:, None]
    columns = torch.arange(width, device=c.device)[None, :]
    around = around.to(c.device).float().expand(n, 2)[:, None, None]  # (N, 1, 1, 2)
    distance = torch.hypot(rows - around[..., 0], columns - around[..., 1])  # (N, h, w)
    return c * (radius - distance).clamp(0, 1)[:, None].to(c.dtype)


def sharp_part(change: Tensor) -> Tensor:
    """A change (N, ch, H, W) without its veil: 3 x 3 means, less those of wider surroundings."""

    def mean(x: Tensor, reach: int) -> Tensor:
        return F.avg_pool2d(x, 2 * reach + 1, 1, reach, count_include_pad=False)

    return mean(change - mean(change, scaled(VEIL_REACH, change.shape[-1])), 1)


def painted_masks(change: Tensor) -> Tensor:
    """The pixels that changed most once the veil is taken off, bool (N, 1, H, W).

    `change` is G(x; c, s) - G(x; 0, s); as many as `SHARP_AREA`, by area at other sizes.
    """
    area = max(1, round(SHARP_AREA * (change.shape[-1] / 64) ** 2))
    return most_changed(sharp_part(change), area)


def painted_places(change: Tensor) -> Tensor:
    """Where a defect was painted, (N, 2) pixels: the centroid of `painted_masks`."""
    return centroids(painted_masks(change))
