"""Strokes, paint and places: what the scratches and spots of the synthetic SDI are made with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dtgan_lab.data.synthetic.textures import SIZE, Field, Surface, noise, smooth

Points = NDArray[np.float64]  # (n, 2): column, row

_FINE = 4  # strokes are drawn this much larger, then averaged down: smooth edges


def stroke(points: Points, widths: NDArray[np.float64]) -> Field:
    """Coverage in [0, 1] of a stroke through points (n, 2), of `widths` (n,) px."""
    canvas = Image.new("L", (SIZE * _FINE, SIZE * _FINE))
    pen = ImageDraw.Draw(canvas)
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across /= np.maximum(np.hypot(across[:, 0], across[:, 1]), 1e-6)[:, None]
    side = across * widths[:, None] / 2
    outline = np.concatenate([points + side, (points - side)[::-1]]) * _FINE
    pen.polygon([(float(x), float(y)) for x, y in outline], fill=255)
    small = canvas.reduce(_FINE)
    return np.asarray(small, dtype=np.float32) / 255


def curve(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    bend: float,
    wobble: float = 0.0,
) -> Points:
    """A curve of `length` px from `start` (column, row); `bend` and `wobble` are radians in all."""
    count = max(8, int(length))
    position = np.linspace(0, 1, count)
    turn = angle + bend * (position - 0.5)
    if wobble > 0:
        turn = turn + np.cumsum(rng.normal(0, wobble / count**0.5, count))
    move = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (length / count)
    return np.asarray(start) + np.cumsum(move, axis=0)


def taper(count: int, width: float, head: float = 0.3, tail: float = 0.3) -> NDArray[np.float64]:
    """Widths that are `width` in the middle and fall to `head` and `tail` parts at the ends."""
    position = np.linspace(0, 1, count)
    shape = np.minimum(1, np.minimum(head + position * 5, tail + (1 - position) * 5))
    return width * shape


def paint(image: Field, cover: Field, level: float | Field, keep: float = 0.6) -> Field:
    """Lay grey level `level` over the image where `cover` is, keeping part of the grain."""
    grain = (image - smooth(image, 2.0, 2.0)) * keep
    cover = np.clip(smooth(cover, 0.4, 0.4), 0, 1)
    return image + cover * (level + grain - image)


def brighter(rng: np.random.Generator, image: Field, low: float, high: float) -> float:
    """A level `low` to `high` grey levels above the image's middle, at most 250."""
    return min(250.0, float(np.median(image)) + rng.uniform(low, high))


def place_a(rng: np.random.Generator, surface: Surface) -> tuple[float, float]:
    """Column and row of a defect on the plate of A, away from the border."""
    return rng.uniform(14, SIZE - 14), rng.uniform(18, surface.edge - 8)


def granular(rng: np.random.Generator, cover: Field, coarse: float) -> Field:
    """Break a soft cover into grains, with stronger and weaker stretches along it."""
    grains = np.clip(0.8 + 0.38 * noise(rng, coarse * 1.3, coarse), 0.1, 1.9)
    stretches = np.clip(0.9 + 0.35 * noise(rng, 7, 7), 0.25, 1.6)
    return cover * grains * stretches


def add_light(
    rng: np.random.Generator, surface: Surface, cover: Field, low: float, high: float
) -> Field:
    """Add light in proportion to `cover`; weaker where the sheet is dark, as in the figure."""
    local = smooth(surface.image, 6, 6)
    strength = rng.uniform(low, high) * np.clip(0.45 + local / 160, 0.5, 1.15)
    return surface.image + cover * strength


def place_b(rng: np.random.Generator) -> tuple[float, float]:
    """Column and row of a spot on B, around the middle as in the figure."""
    return float(np.clip(rng.normal(64, 24), 12, 116)), float(np.clip(rng.normal(62, 24), 12, 116))


def place_c(rng: np.random.Generator, surface: Surface) -> tuple[float, float]:
    """Column and row on C: nearly always on the bright part, now and then below the groove."""
    if rng.random() < 0.9:
        return rng.uniform(12, SIZE - 12), rng.uniform(16, surface.edge - 13)
    return rng.uniform(12, SIZE - 12), rng.uniform(surface.edge + 10, SIZE - 10)


def darken(rng: np.random.Generator, image: Field, cover: Field, low: float, high: float) -> Field:
    """Darken to `low` to `high` of the local brightness where `cover` is."""
    return paint(image, cover, smooth(image, 3, 3) * rng.uniform(low, high), keep=0.4)


def move_inside(points: Points, top: float, bottom: float) -> Points:
    """Move a curve into the image and between two rows, as far as its extent allows."""
    low, high = points.min(axis=0), points.max(axis=0)
    for axis, least, most in ((0, 5.0, SIZE - 5.0), (1, top, bottom)):
        points[:, axis] += max(0.0, least - low[axis])
        points[:, axis] -= max(0.0, high[axis] + max(0.0, least - low[axis]) - most)
    return points
