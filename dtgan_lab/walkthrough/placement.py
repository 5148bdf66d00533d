"""Putting a defect where you want it: a defect map c is spatial, so it can be moved like a picture.

    start = painted_places(defect_change(synth, background, guide))      # (N, 2) pixels
    c = placed(guide.c, to_cells(start, 64, 16), to_cells(wanted, 64, 16), degrees=30.0)
    fakes = synth.paint(background, Guide(c, guide.s))

`placement_study` measures what a model makes of a moved map, and has the first line's functions.

Places are (row, column), counted from the middle of the first cell or pixel, rows downwards.
Everything here is our own addition: the paper moves defects between products, not on them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def to_cells(places: Tensor, pixels: int, cells: int) -> Tensor:
    """(row, column) in an image of side `pixels` -> the same place in a map of side `cells`."""
    return (places + 0.5) * (cells / pixels) - 0.5


def to_pixels(places: Tensor, pixels: int, cells: int) -> Tensor:
    """Inverse of `to_cells`."""
    return (places + 0.5) * (pixels / cells) - 0.5


def map_centroids(c: Tensor) -> Tensor:
    """Centroid of |c|, summed over channels.

    It is where the defect lies only if c is close to zero elsewhere.  Training does not ask for
    that (AdaIN takes the level out again, our reading 8): see `placement_study.painted_places`
    for what a model really paints.

    Args:
        c: (N, C, h, w).

    Returns:
        (N, 2), (row, column) in cells; the middle of the map where c is zero.
    """
    n, _, height, width = c.shape
    weight = c.abs().sum(dim=1).double()  # (N, h, w)
    total = weight.sum(dim=(1, 2))
    rows = weight.sum(dim=2) @ torch.arange(height, device=c.device, dtype=torch.float64)
    columns = weight.sum(dim=1) @ torch.arange(width, device=c.device, dtype=torch.float64)
    found = torch.stack([rows, columns], dim=1) / total.clamp(min=1e-30)[:, None]
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2], device=c.device).expand(n, 2)
    return torch.where((total > 0)[:, None], found.float(), middle)


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
        c: (N, C, h, w).
        start: (2,) or (N, 2), (row, column) in cells.
        target: the same, where it is wanted; fractions of a cell count.
        degrees: counter-clockwise as seen; one number, or (N,).
        factor: growth, above 0; one number, or (N,).
        mirror: swap left and right, before turning.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: a factor is not positive.
    """
    n, _, height, width = c.shape
    like: dict[str, Any] = {
        "device": c.device,
        "dtype": torch.float64,
    }  # so that quarter turns stay exact
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


def shifted(c: Tensor, by: Tensor) -> Tensor:
    """Shift maps by (rows, columns) in cells, (2,) or (N, 2); what leaves the map is lost."""
    return placed(c, torch.zeros_like(by), by)


def rotated(c: Tensor, degrees: float | Tensor, around: Tensor | None = None) -> Tensor:
    """Turn maps counter-clockwise around a place (default: the centroid of |c|)."""
    around = map_centroids(c) if around is None else around
    return placed(c, around, around, degrees=degrees)


def rescaled(c: Tensor, factor: float | Tensor, around: Tensor | None = None) -> Tensor:
    """Grow maps around a place (default: the centroid of |c|)."""
    around = map_centroids(c) if around is None else around
    return placed(c, around, around, factor=factor)


def mirrored(c: Tensor) -> Tensor:
    """Swap left and right of the whole map."""
    return c.flip(3)


def mixed(first: Tensor, second: Tensor) -> Tensor:
    """Two maps in one: in every cell the one with the larger |c|, the first where they are equal.

    Args:
        first: (N, C, h, w).
        second: the same shape.
    """
    stronger = first.abs().sum(dim=1, keepdim=True) >= second.abs().sum(dim=1, keepdim=True)
    return torch.where(stronger, first, second)


def cut_out(c: Tensor, around: Tensor, radius: float, rim: float = 1.0) -> Tensor:
    """Keep what lies near a place; the rest is zero, with a rim that fades over `rim` cells.

    Args:
        c: (N, C, h, w).
        around: (2,) or (N, 2), (row, column) in cells.
        radius: in cells; beyond it nothing is left.
        rim: in cells, above 0.
    """
    n, _, height, width = c.shape
    rows = torch.arange(height, device=c.device)[:, None]
    columns = torch.arange(width, device=c.device)[None, :]
    around = around.to(c.device).float().expand(n, 2)[:, None, None]  # (N, 1, 1, 2)
    distance = torch.hypot(rows - around[..., 0], columns - around[..., 1])  # (N, h, w)
    return c * ((radius - distance) / rim).clamp(0, 1)[:, None].to(c.dtype)
