"""What a model makes of a moved defect map: where the defect comes, how it turns, what it costs.

c is not zero where there is no defect: training asks for no such thing.  So a defect is looked for
in the picture, where the change against the model's own Normal is sharp, and not in c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer
from dtgan_lab.measure.measures import (
    MASK_REACH,
    centroids,
    dilated,
    most_changed,
    psnr_outside,
    scaled,
)
from dtgan_lab.walkthrough.placement import cut_out, placed, to_cells

SHARP_AREA = 20  # pixels (at 64 x 64) that tell where a defect lies
VEIL_REACH = 8  # pixels to every side; a change as wide as this is a veil, not a defect


def defect_change(synth: Synthesizer, background: Background, guide: Guide) -> Tensor:
    """What a defect changes, G(x; c, s) - G(x; 0, s), (N * K, ch, H, W)."""
    plain = synth.without_defect(background)
    copies = len(guide.s) // len(plain)
    return synth.paint(background, guide) - plain.repeat_interleave(copies, dim=0)


def sharp_part(change: Tensor) -> Tensor:
    """A change without its veil: 3 x 3 means, less the mean of the wider surroundings.

    Args:
        change: (N, ch, H, W).
    """

    def mean(x: Tensor, reach: int) -> Tensor:
        return F.avg_pool2d(x, 2 * reach + 1, 1, reach, count_include_pad=False)

    return mean(change - mean(change, scaled(VEIL_REACH, change.shape[-1])), 1)


def painted_masks(change: Tensor, area: int | None = None) -> Tensor:
    """The pixels that changed most once the veil is taken off, bool (N, 1, H, W).

    Args:
        change: (N, ch, H, W), from `defect_change`.
        area: how many; default `SHARP_AREA` for 64 x 64 pixels, by area at other sizes.
    """
    if area is None:
        area = max(1, round(SHARP_AREA * (change.shape[-1] / 64) ** 2))
    return most_changed(sharp_part(change), area)


def painted_places(change: Tensor, area: int | None = None) -> Tensor:
    """Where a defect was painted, (N, 2) pixels: the centroid of `painted_masks`."""
    return centroids(painted_masks(change, area))


def moved_defect(
    synth: Synthesizer,
    x: Tensor,
    guide: Guide,
    to: tuple[float, float] | None = None,
    **changes: Any,
) -> tuple[Tensor, Tensor]:
    """Paint defects at another place than where they lie of themselves.

    Args:
        synth: a model with c.
        x: (N, ch, H, W) in [-1, 1].
        guide: c and s, one an image.
        to: (row, column) in pixels; default: each stays where it is.
        changes: degrees, factor, mirror, as `placement.placed` takes them.

    Returns:
        Pictures (N, ch, H, W) in [-1, 1], and the places asked for, (N, 2) pixels.
    """
    side, cells = x.shape[-1], guide.c.shape[-1]
    background = synth.background(x)
    home = painted_places(defect_change(synth, background, guide))
    wanted = home if to is None else torch.tensor(to, device=home.device).expand_as(home)
    start, target = (to_cells(at, side, cells) for at in (home, wanted))
    c = placed(guide.c, start, target, **changes)
    return synth.paint(background, Guide(c, guide.s)), wanted


def placement_study(
    synth: Synthesizer,
    x: Tensor,
    guide: Guide,
    offsets: Sequence[tuple[int, int]],
    radius: float | None = None,
) -> pd.DataFrame:
    """Ask for a defect at another place, and measure where it comes.

    Args:
        synth: a model with c (not configuration (a)).
        x: (N, ch, H, W) in [-1, 1].
        guide: c and s, one an image.
        offsets: shifts (rows, columns) in pixels.
        radius: cells around the defect that are moved (`cut_out`); default: the whole map.

    Returns:
        A row an offset and image, of places inside the picture: offset (pixels), edge (pixels from
        the wanted place to the nearest border), error (pixels between wanted and found place),
        strength (sharp change there over that before the shift), background_psnr (dB, outside the
        dilated most changed pixels) and unmoved_psnr (the same with the defect at its own place).
    """
    side, cells = x.shape[-1], guide.c.shape[-1]
    background = synth.background(x)
    x = background.x
    at_home = defect_change(synth, background, guide)
    home, before = painted_places(at_home), _strength(at_home)
    start = to_cells(home, side, cells)
    c = guide.c if radius is None else cut_out(guide.c, start, radius)
    plain = synth.without_defect(background)
    unmoved = _background_psnr(x, plain, at_home)
    rows: list[pd.DataFrame] = []
    for offset in offsets:
        wanted = home + torch.tensor(offset, device=home.device)
        moved = placed(c, start, to_cells(wanted, side, cells))
        change = defect_change(synth, background, Guide(moved, guide.s))
        table = pd.DataFrame(
            {
                "image": range(len(x)),
                "offset": float(torch.tensor(offset).float().norm()),
                "edge": torch.cat([wanted, side - 1 - wanted], 1).amin(1).cpu(),
                "error": (painted_places(change) - wanted).norm(dim=1).cpu(),
                "strength": (_strength(change) / before).cpu(),
                "background_psnr": _background_psnr(x, plain, change).cpu(),
                "unmoved_psnr": unmoved.cpu(),
            }
        )
        rows.append(table[table["edge"] >= 0])
    return pd.concat(rows, ignore_index=True)


# --- turning -------------------------------------------------------------------------------------


def painted_directions(change: Tensor) -> tuple[Tensor, Tensor]:
    """The direction in which a defect runs: the long axis of its most changed pixels.

    Args:
        change: (N, ch, H, W), from `defect_change`.

    Returns:
        Degrees counter-clockwise from the horizontal, (N,), -90 to 90; and how long the defect is
        for its width, (N,), from 0 (as wide as long: the direction means nothing) to 1 (a line).
    """
    masks = painted_masks(change)
    middle = centroids(masks)
    height, width = masks.shape[2:]
    weight = masks[:, 0].float() / masks.sum(dim=(2, 3))[:, :, None]  # (N, H, W)
    down = torch.arange(height, device=change.device)[:, None] - middle[:, 0, None, None]
    right = torch.arange(width, device=change.device)[None, :] - middle[:, 1, None, None]
    down, right = down.expand_as(weight), right.expand_as(weight)
    along, across = (
        (weight * right.square()).sum((1, 2)),
        (weight * down.square()).sum((1, 2)),
    )
    slope = -2 * (weight * down * right).sum((1, 2))  # rows run downwards
    spread = torch.hypot(slope, along - across)
    return 0.5 * torch.atan2(slope, along - across).rad2deg(), spread / (along + across)


def turning_study(
    synth: Synthesizer,
    x: Tensor,
    guide: Guide,
    degrees: Sequence[float],
    longer_than: float = 0.8,
) -> pd.DataFrame:
    """Turn defect maps around their defects, and measure by how much the painted defects turn.

    Args:
        synth: a model with c.
        x: (N, ch, H, W) in [-1, 1].
        guide: c and s, one an image, of defects that have a direction.
        degrees: asked for, counter-clockwise.
        longer_than: only defects count that are that long before (`painted_directions`).

    Returns:
        A row an angle and image: asked, turned (degrees, -90 to 90: a line has no front), error
        (degrees, 0 to 90).
    """
    side, cells = x.shape[-1], guide.c.shape[-1]
    background = synth.background(x)
    at_home = defect_change(synth, background, guide)
    start = to_cells(painted_places(at_home), side, cells)
    before, length = painted_directions(at_home)
    chosen = (length > longer_than).cpu()
    rows = []
    for angle in degrees:
        turned_map = placed(guide.c, start, start, degrees=angle)
        after, _ = painted_directions(defect_change(synth, background, Guide(turned_map, guide.s)))
        turned = _of_a_line(after - before)
        rows.append(
            pd.DataFrame(
                {
                    "image": chosen.nonzero().flatten(),
                    "asked": angle,
                    "turned": turned.cpu()[chosen],
                    "error": _of_a_line(turned - angle).abs().cpu()[chosen],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _of_a_line(degrees: Tensor) -> Tensor:
    """Angles between lines, brought into -90 to 90."""
    return (degrees + 90) % 180 - 90


def _strength(change: Tensor) -> Tensor:
    """Mean sharp change of the pixels that changed most, (N,)."""
    mask = painted_masks(change)
    size = sharp_part(change).abs().mean(dim=1, keepdim=True) * mask
    return size.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


def _background_psnr(x: Tensor, plain: Tensor, change: Tensor) -> Tensor:
    """`psnr_outside` of the dilated most changed pixels, (N,) dB."""
    wanted = dilated(painted_masks(change), scaled(MASK_REACH, x.shape[-1]))
    return psnr_outside(x, plain + change, wanted)


def placement_summary(table: pd.DataFrame, by: str, edges: Sequence[float]) -> pd.DataFrame:
    """Median and 90th percentile of a `placement_study` in bins of one of its columns.

    Args:
        table: from `placement_study`.
        by: "offset" or "edge".
        edges: borders of the bins, rising; a bin holds its lower border and not its upper one.

    Returns:
        A row a bin: n, error and error_p90 (pixels), strength, background_psnr, unmoved_psnr.
    """
    bins = pd.cut(table[by], list(edges), right=False)
    groups = table.groupby(bins, observed=True)
    result = pd.DataFrame({"n": groups.size()})
    result["error"] = groups["error"].median()
    result["error_p90"] = groups["error"].quantile(0.9)
    for name in ("strength", "background_psnr", "unmoved_psnr"):
        result[name] = groups[name].median()
    return result
