"""Cheap references: real defects pasted, patches of the image itself, noise-shaped anomalies.

    made = paste_defects(x, x_ref, masks_ref, generator)   # copy-paste of real defects
    made = cut_paste(x, generator)                         # Li et al. 2021, patch and scar
    made = perlin_anomalies(x, textures, generator)        # Zavrtanik et al. 2021

All are functions of tensors and of a generator on the CPU. They return images as `Synthesizer`
does, (N, ch, H, W) in [-1, 1], and masks; outside its mask an image is the input, to the bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.batches import picked

COVERAGE = 0.24  # a turned mask's pixel is defect from this share on, about as in resized masks;
# a single pixel keeps at least a quarter wherever it falls between four
LEAST_KEPT = 0.9  # share of a mask that turning must leave in the image, or it is not turned
RING = 3  # pixels around a mask whose brightness is matched
TURN = 20.0  # degrees, at most, either way

# Li et al. 2021, Section 2.2 and supplement; scars in pixels of 256 x 256 images.
PATCH_AREA, PATCH_ASPECT = (0.02, 0.15), (0.3, 3.3)
SCAR_WIDTH, SCAR_LENGTH, SCAR_TURN, SCAR_SIDE = (2.0, 16.0), (10.0, 25.0), 45.0, 256
JITTER = 0.1

# Zavrtanik et al. 2021, Section 3.2
PERLIN_THRESHOLD, PERLIN_OPACITY = 0.5, (0.1, 1.0)
PERLIN_SCALES = 6  # lattices of 2^0 to 2^5 cells a side; finer ones are left out
PERLIN_LEAST = 0.01  # share of the pixels that an anomaly covers at least


class Pasted(NamedTuple):
    """Images (N, ch, H, W) in [-1, 1] with something on them, and bool masks of what may differ."""

    images: Tensor
    masks: Tensor


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count,) numbers, uniform between low and high."""
    return low + (high - low) * torch.rand(count, generator=generator)


# --- copy-paste ----------------------------------------------------------------------------------


def paste_defects(
    x: Tensor,
    x_ref: Tensor,
    masks_ref: Tensor,
    generator: torch.Generator,
    *,
    flips: Tensor | None = None,
    turn: float = TURN,
    feather: int = 2,
    match: bool = True,
) -> Pasted:
    """Cut real defects out by their masks and paste each onto another image (our reading).

    A defect is flipped where allowed, turned a little, and put where it fits. Its brightness is
    moved so that what surrounded it is as bright as what now surrounds it. Inside the mask the
    image is the defect's; over `feather` pixels outside it fades into the background, so that a
    scratch of one pixel stays as strong as it was. The idea is Dwibedi, Misra, Hebert, "Cut, Paste
    and Learn", ICCV 2017, and Ghiasi et al., "Simple Copy-Paste", CVPR 2021.

    Args:
        x: (N, ch, H, W) in [-1, 1], images to paste onto.
        x_ref: (N or 1, ch, H, W), images with a defect.
        masks_ref: (N or 1, 1, H, W), not zero where the defect is.
        generator: on the CPU.
        flips: bool (N, 2), whether a defect may be flipped (horizontally, vertically); None: both.
        turn: degrees, at most, either way; 0 keeps every pixel of a defect as it was.
        feather: width of the rim in pixels; 0 for a hard edge.
        match: whether brightness is matched.

    Raises:
        ValueError: a reference has an empty mask.
    """
    n = len(x)
    x_ref, masks = x_ref.expand(n, *x.shape[1:]), masks_ref.expand(n, 1, *x.shape[2:])
    masks = (masks != 0).to(x.dtype)
    empty = int((masks.flatten(1).amax(dim=1) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {n} references have an empty mask; expected some defect pixels in each. "
            "Leave Normal images and images without a mask out"
        )
    moved, core = _moved_defects(x_ref, masks, flips, turn, generator)
    if match:
        ring = _grown(core, RING + 1) - _grown(core, 1)
        moved = moved + _mean_over(x, ring) - _mean_over(moved, ring)
    alpha = _feathered(core, feather)
    images = torch.where(alpha > 0, x + alpha * (moved - x), x).clamp(-1, 1)
    return Pasted(torch.where(alpha > 0, images, x), alpha > 0)


def _moved_defects(
    x_ref: Tensor, masks: Tensor, flips: Tensor | None, turn: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Flipped, turned and shifted by whole pixels: images (N, ch, H, W), masks of 0 and 1."""
    n, channels, height, width = x_ref.shape
    coins = torch.rand((n, 2), generator=generator) < 0.5
    signs = 1 - 2.0 * (coins if flips is None else coins & flips.cpu())
    angle = torch.deg2rad(uniform(n, -turn, turn, generator))
    places = torch.rand((n, 2), generator=generator)
    top, left, high, wide = _boxes(masks)
    # first to the middle, so that turning keeps long scratches inside
    middle = torch.stack([left + (wide - 1) // 2, top + (high - 1) // 2], dim=1)
    centre = torch.tensor([(width - 1) // 2, (height - 1) // 2]).expand(n, 2)
    together = torch.cat([x_ref, masks], dim=1)
    both = rigid(together, middle, centre, angle, signs)
    kept = both[:, channels:].sum(dim=(1, 2, 3)) / masks.sum(dim=(1, 2, 3))
    pushed_out = kept.cpu() < LEAST_KEPT
    if pushed_out.any():
        angle = angle.masked_fill(pushed_out, 0)
        both = rigid(together, middle, centre, angle, signs)
    moved, core = both[:, :channels], (both[:, channels:] >= COVERAGE).to(x_ref.dtype)
    top, left, high, wide = _boxes(core)
    # uniform over all places where the mask stays in the image
    down = (places[:, 0] * (height - high + 1)).floor() - top
    right = (places[:, 1] * (width - wide + 1)).floor() - left
    shifted = shift(torch.cat([moved, core], dim=1), down.long(), right.long())
    return shifted[:, :channels], shifted[:, channels:]


def _boxes(masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of each mask's bounding box, int64 (N,) on the CPU."""
    sides = []
    for dim in (3, 2):
        line = (masks != 0).any(dim=dim)[:, 0].cpu()  # (N, H) or (N, W)
        size = line.shape[1]
        first = line.int().argmax(dim=1)
        sides.append((first, size - line.flip(1).int().argmax(dim=1) - first))
    (top, high), (left, wide) = sides
    return top, left, high, wide


def shift(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift images by int64 (N,) whole pixels, down and right; the border's pixels are repeated."""
    height, width = x.shape[2:]
    rows = (torch.arange(height) - down.cpu()[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - right.cpu()[:, None]).clamp(0, width - 1)
    return picked(x, rows, columns)


def rigid(x: Tensor, source: Tensor, target: Tensor, angle: Tensor, signs: Tensor) -> Tensor:
    """Flip and turn images about a point, which moves to another; outside lies the border.

    x is (N, channels, H, W); `source` and `target` (N, 2) are column and row in pixels, `angle`
    (N,) radians, `signs` (N, 2) -1 where flipped (horizontally, vertically).
    """
    height, width = x.shape[2:]
    local = _local(height, width, target, angle) * signs[:, None, None, :]  # (N, H, W, 2)
    place = local + source[:, None, None, :]
    grid = (2 * place + 1) / torch.tensor([width, height]) - 1  # grid_sample's unit
    return F.grid_sample(x, grid.to(x), padding_mode="border", align_corners=False)


def _local(height: int, width: int, centre: Tensor, angle: Tensor) -> Tensor:
    """Coordinates (column, row) of all pixels about a centre, turned back: (N, H, W, 2)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=2).float()
    away = pixels - centre[:, None, None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across = cos * away[..., 0] + sin * away[..., 1]
    return torch.stack([across, cos * away[..., 1] - sin * away[..., 0]], dim=3)


def _grown(masks: Tensor, pixels: int) -> Tensor:
    """Masks of 0 and 1, grown by so many pixels to every side."""
    return F.max_pool2d(masks, 2 * pixels + 1, stride=1, padding=pixels)


def _mean_over(x: Tensor, masks: Tensor) -> Tensor:
    """Mean of each channel over a mask, (N, ch, 1, 1); 0 where the mask is empty."""
    total = (x * masks).sum(dim=(2, 3), keepdim=True)
    return total / masks.sum(dim=(2, 3), keepdim=True).clamp_min(1)


def _feathered(core: Tensor, feather: int) -> Tensor:
    """1 in a mask, falling to 0 over `feather` pixels outside: (N, 1, H, W)."""
    alpha = core
    for pixel in range(1, feather + 1):
        alpha = torch.maximum(alpha, (1 - pixel / (feather + 1)) * _grown(core, pixel))
    return alpha


# --- CutPaste ------------------------------------------------------------------------------------


def cut_paste(x: Tensor, generator: torch.Generator) -> Pasted:
    """A patch of each image, its brightness and contrast jittered, pasted elsewhere on it.

    Area 2 to 15 % of the image, aspect 0.3 to 3.3. From Li, Sohn, Yoon, Pfister, "CutPaste", CVPR
    2021, Section 2.2.
    """
    n, _, height, width = x.shape
    area = uniform(n, *PATCH_AREA, generator) * height * width
    low, high = map(math.log, PATCH_ASPECT)
    aspect = uniform(n, low, high, generator).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1)  # (N, 2)
    return _cut_and_pasted(x, sides, torch.zeros(n), generator)


def cut_paste_scar(x: Tensor, generator: torch.Generator) -> Pasted:
    """The scar of CutPaste: a thin strip of each image, jittered, turned and pasted elsewhere.

    2 to 16 pixels wide, 10 to 25 long, turned by up to 45 degrees, as in the paper's images of 256
    pixels; in smaller images as much smaller, and no thinner than a pixel.
    """
    n = len(x)
    unit = min(x.shape[2:]) / SCAR_SIDE
    long, wide = (unit * uniform(n, *span, generator) for span in (SCAR_LENGTH, SCAR_WIDTH))
    coins = torch.rand(n, generator=generator) < 0.5  # lying or standing
    sides = torch.stack([long, wide], dim=1)
    sides = torch.where(coins[:, None], sides, sides.flip(1))
    angle = torch.deg2rad(uniform(n, -SCAR_TURN, SCAR_TURN, generator))
    return _cut_and_pasted(x, sides, angle, generator)


def _cut_and_pasted(x: Tensor, sides: Tensor, angle: Tensor, generator: torch.Generator) -> Pasted:
    """A rectangle of each image with sides (N, 2), in pixels, turned and put elsewhere."""
    n, _, height, width = x.shape
    size = torch.tensor([width, height])
    sides = torch.minimum(sides.round().clamp_min(1), size)
    room = size - sides
    corners = (torch.rand((2, n, 2), generator=generator) * (room + 1)).floor()
    half = (sides - 1) / 2
    source, target = corners[0] + half, corners[1] + half
    patch = rigid(x, source, target, angle, torch.ones(n, 2))
    chance = uniform(2 * n, 1 - JITTER, 1 + JITTER, generator).view(2, n, 1, 1, 1).to(x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    patch = (patch - mean) * chance[0] + mean + chance[1] - 1  # contrast, brightness
    inside = _local(height, width, target, angle).abs() <= half[:, None, None, :] + 0.5
    masks = inside.all(dim=3)[:, None].to(x.device)
    return Pasted(torch.where(masks, patch.clamp(-1, 1), x), masks)


# --- Perlin noise --------------------------------------------------------------------------------


def perlin_noise(
    count: int, height: int, width: int, cells: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Gradient noise on a lattice (K. Perlin, "Improving Noise", SIGGRAPH 2002).

    `cells` counts lattice cells down and across; (count, H, W), about -1 to 1, 0 on lattice points.
    """
    down, across = cells
    angle = 2 * math.pi * torch.rand((count, down + 1, across + 1), generator=generator)
    slopes = torch.stack([angle.cos(), angle.sin()], dim=3)  # row, column
    y = torch.arange(height) * (down / height)
    x = torch.arange(width) * (across / width)
    row, column = y.floor().long(), x.floor().long()
    v, u = (y - row)[:, None], (x - column)[None, :]  # (H, 1), (1, W) in [0, 1)

    def corner(i: int, j: int) -> Tensor:
        slope = slopes[:, row + i][:, :, column + j]  # (count, H, W, 2)
        return slope[..., 0] * (v - i) + slope[..., 1] * (u - j)

    fade_v, fade_u = _fade(v), _fade(u)
    above = torch.lerp(corner(0, 0), corner(0, 1), fade_u.expand(height, width))
    below = torch.lerp(corner(1, 0), corner(1, 1), fade_u.expand(height, width))
    return math.sqrt(2) * torch.lerp(above, below, fade_v.expand(height, width))


def _fade(t: Tensor) -> Tensor:
    return t**3 * (t * (6 * t - 15) + 10)


def perlin_anomalies(x: Tensor, textures: Tensor, generator: torch.Generator) -> Pasted:
    """A foreign texture in places where Perlin noise is high, blended with the image.

    x' = (1 - m) x + (1 - b) m x + b m a, with the opacity b between 0.1 and 1: Zavrtanik, Kristan,
    Skocaj, "DRAEM", ICCV 2021, Section 3.2. The texture a is one of `textures` (M, ch, H, H),
    turned by quarters, inverted in half of the cases, its brightness moved by up to 0.5 (our
    reading: the paper takes pictures of textures with three random augmentations).
    """
    n, _, height, width = x.shape
    scales = torch.randint(0, PERLIN_SCALES, (n, 2), generator=generator).tolist()
    longest = max(1, min(height, width) // 2)
    noise = torch.cat(
        [
            perlin_noise(1, height, width, (min(2**a, longest), min(2**b, longest)), generator)
            for a, b in scales
        ]
    )
    noise = rigid(
        noise[:, None],
        centre := torch.tensor([(width - 1) / 2, (height - 1) / 2]).expand(n, 2),
        centre,
        uniform(n, -math.pi / 2, math.pi / 2, generator),
        torch.ones(n, 2),
    )
    highest = noise.flatten(1).quantile(1 - PERLIN_LEAST, dim=1).clamp_max(PERLIN_THRESHOLD)
    masks = (noise >= highest[:, None, None, None]).to(x.device)
    chosen = torch.randint(0, len(textures), (n,), generator=generator)
    quarters = torch.randint(0, 4, (n,), generator=generator).tolist()
    a = torch.stack(
        [textures[i].rot90(k, (1, 2)) for i, k in zip(chosen.tolist(), quarters, strict=True)]
    ).to(x)
    signs = 1 - 2.0 * (torch.rand(n, generator=generator) < 0.5)
    offset = uniform(n, -0.5, 0.5, generator)
    a = (a * signs.view(n, 1, 1, 1).to(x) + offset.view(n, 1, 1, 1).to(x)).clamp(-1, 1)
    b = uniform(n, *PERLIN_OPACITY, generator).view(n, 1, 1, 1).to(x)
    return Pasted(torch.where(masks, torch.lerp(x, a, b.expand_as(x)), x), masks)
