"""Defect-free surfaces of the synthetic SDI: brushed metal (A), dark grain (B), matte plate (C).

The looks follow the overview figures of the SDI data set that come with the DT-GAN paper. All
arithmetic is single-threaded numpy and scipy.ndimage in float32, so one seed gives one image
whatever the number of threads. Images are (128, 128), grey levels 0 to 255, row 0 on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.floating]  # float32 in practice; numpy's stubs widen it
Painter = Callable[[np.random.Generator], "Surface"]

SIZE = 128
ROWS = np.arange(SIZE, dtype=np.float32)[:, None]
COLUMNS = np.arange(SIZE, dtype=np.float32)[None, :]


@dataclass(frozen=True)
class Surface:
    """A defect-free image and the one place on it that defects take notice of.

    Attributes:
        image: float32 (128, 128), grey levels.
        edge: row of the ledge (A) or of the groove's middle (C); 128 where there is none (B).
    """

    image: Field
    edge: float


def pick(
    rng: np.random.Generator, values: Sequence[float], p: Sequence[float] | None = None
) -> float:
    """One of `values` as a plain number, so that it does not widen float32 fields."""
    return float(rng.choice(values, p=p))


def smooth(field: Field, down: float, across: float) -> Field:
    """Blur with standard deviations `down` (rows) and `across` (columns), in pixels.

    Wide blurs are three box passes, whose cost does not grow with the width.
    """
    for axis, sigma in ((0, down), (1, across)):
        if sigma > 2.5:
            width = int(round((4.0 * sigma * sigma + 1.0) ** 0.5))
            for _ in range(3):
                field = ndimage.uniform_filter1d(field, width, axis=axis, mode="reflect")
        elif sigma > 0:
            field = ndimage.gaussian_filter1d(field, sigma, axis=axis, truncate=3.0)
    return field


def noise(
    rng: np.random.Generator, down: float, across: float, shape: tuple[int, int] = (SIZE, SIZE)
) -> Field:
    """Smooth random field of mean 0 and standard deviation 1, float32 `shape`."""
    field = smooth(rng.standard_normal(shape, dtype=np.float32), down, across)
    field -= field.mean()
    return field / max(float(field.std()), 1e-6)


def shift_columns(tall: Field, shift: Field) -> Field:
    """Cut a (128, 128) window out of (128 + 2 * pad, 128), each column moved by its own `shift`."""
    pad = (tall.shape[0] - SIZE) // 2
    position = ROWS + pad + shift[None, :]
    top = np.floor(position).astype(np.intp)
    part = (position - top).astype(np.float32)
    upper = np.take_along_axis(tall, top, axis=0)
    lower = np.take_along_axis(tall, top + 1, axis=0)
    return upper * (1 - part) + lower * part


def slanted(rng: np.random.Generator, slope: float, along: float, across: float) -> Field:
    """Streaky noise that climbs `slope` rows per column; `along` and `across` are blurs in px."""
    steep = abs(slope) > 1
    climb = 1 / slope if steep else slope
    pad = int(abs(climb) * SIZE / 2) + 3
    tall = noise(rng, across, along, (SIZE + 2 * pad, SIZE))
    field = shift_columns(tall, climb * (COLUMNS[0] - SIZE / 2))
    return field.T if steep else field


def bump(position: Field, centre: float, width: float) -> Field:
    """Gaussian hill of height 1 along rows or columns."""
    return np.exp(-0.5 * ((position - centre) / width) ** 2, dtype=np.float32)


def step(position: Field, width: float) -> Field:
    """Smooth step from 0 to 1 over about 2 * `width` pixels around 0."""
    return (0.5 + 0.5 * np.tanh(position / width)).astype(np.float32)


def ragged(rng: np.random.Generator, density: float, down: float, across: float) -> Field:
    """Random islands that cover about the fraction `density`, soft at their shores, in [0, 1]."""
    field = noise(rng, down, across)
    level = float(np.quantile(field, 1 - density))
    return np.clip((field - level) * 1.6, 0, 1)


def specks(
    rng: np.random.Generator, weight: Field, count: int, size: float, stretch: float = 1.5
) -> Field:
    """Tiny dots at random places, peak height about 1 before the random brightness.

    `weight` (128, 128) is the density of places, `size` the blur of a dot in px, `stretch` its
    width over its height.
    """
    field = np.zeros(SIZE * SIZE, dtype=np.float32)
    total = np.cumsum(weight.ravel().astype(np.float64))
    places = np.searchsorted(total, rng.random(count) * total[-1])
    field[np.minimum(places, SIZE * SIZE - 1)] = rng.uniform(0.3, 1.0, count)
    across = size * stretch
    return smooth(field.reshape(SIZE, SIZE), size, across) * (2 * np.pi * size * across)


def wander(rng: np.random.Generator, scale: float, amplitude: float) -> Field:
    """Random curve over the columns, float32 (128,), standard deviation `amplitude` px."""
    return noise(rng, 0, scale, (1, SIZE))[0] * amplitude


# ---------------------------------------------------------------------------------- product A


def _brush(rng: np.random.Generator, edge: float) -> Field:
    """Horizontal brush lines, in grey levels; rows and images differ in strength."""
    pad = 12
    tall = (SIZE + 2 * pad, SIZE)
    fine = noise(rng, 0.45, rng.uniform(14, 40), tall)
    dashes = noise(rng, 0.55, rng.uniform(2.0, 4.5), tall)
    tilt = rng.normal(0, 0.012) * (COLUMNS[0] - SIZE / 2) + wander(rng, 25, 0.5)
    tilt = np.clip(tilt, -pad + 2, pad - 2)
    zone = 0.55 + 0.45 * np.clip(noise(rng, rng.uniform(6, 18), 0, (SIZE, 1)), -1, 2)
    strength = pick(rng, [3.5, 7.0, 11.0], p=[0.35, 0.4, 0.25]) * rng.uniform(0.8, 1.25)
    lines = shift_columns(fine, tilt) * strength + shift_columns(dashes, tilt) * rng.uniform(4, 8)
    if rng.random() < 0.35:  # wider, darker grooves between the lines
        wide = shift_columns(noise(rng, 1.1, rng.uniform(20, 45), tall), tilt)
        lines -= np.clip(wide - 0.7, 0, 2) * rng.uniform(14, 36)
        lines += np.clip(-wide - 0.8, 0, 2) * rng.uniform(8, 22)
    below = step(ROWS - edge, 2)
    return lines * zone * (1 - 0.6 * below)


def _pits(rng: np.random.Generator, edge: float) -> Field:
    """Bands of short dark dashes, in grey levels (negative)."""
    across = rng.uniform(1.2, 2.2)
    slope = pick(rng, [0.0, 0.0, 0.3, 0.5]) * pick(rng, [-1, 1])
    marks = slanted(rng, slope, across, 0.75)
    level = rng.uniform(0.9, 1.8)
    band = bump(ROWS, rng.uniform(0.3, 1.0) * edge, rng.uniform(5, 28))
    patch = np.clip(0.8 + 0.6 * noise(rng, 12, 18), 0, 1.6)
    marks = smooth(np.clip(marks - level, 0, 1.1), 0.45, 0.45)
    return -marks * rng.uniform(22, 48) * band * np.minimum(patch, 1.2)


def _haze(rng: np.random.Generator, edge: float) -> Field:
    """A brighter, slightly scuffed patch, in grey levels."""
    centre_row, centre_column = rng.uniform(0.3, 0.95) * edge, rng.uniform(0, SIZE)
    patch = bump(ROWS, centre_row, rng.uniform(8, 28)) * bump(
        COLUMNS, centre_column, rng.uniform(18, 60)
    )
    slope = pick(rng, [-1, 1]) * rng.uniform(0.25, 1.4)
    scuffs = slanted(rng, slope, rng.uniform(1.6, 4.5), rng.uniform(0.8, 1.3))
    flakes = noise(rng, 0.8, 2.2)
    cloud = np.clip(0.6 + 0.7 * noise(rng, 5, 9), 0, 2)
    strength = rng.uniform(6, 20)
    scuffs = 0.6 + (0.55 * scuffs + 0.4 * flakes) * np.clip(0.5 + 0.6 * noise(rng, 7, 7), 0, 2)
    return patch * strength * scuffs * cloud * (1 - step(ROWS - edge, 1.0))


def surface_a(rng: np.random.Generator) -> Surface:
    """Brushed metal with a ledge below: brush lines, pits, haze and bright specks."""
    edge = rng.uniform(0.815, 0.86) * SIZE
    line = edge + rng.normal(0, 0.014) * (COLUMNS - SIZE / 2) + wander(rng, 14, 0.3)
    line = line + wander(rng, 1.5, 0.2)
    line = line.astype(np.float32)
    base = pick(rng, [100.0, 126.0, 142.0], p=[0.22, 0.4, 0.38]) + rng.normal(0, 7)
    height = ROWS / edge
    light = 8 * bump(height, 0.0, 0.25) - 10 * bump(height, rng.uniform(0.4, 0.65), 0.22)
    light = light + rng.uniform(0, 40) * bump(height, rng.uniform(0.88, 1.0), rng.uniform(0.1, 0.2))
    light = light + noise(rng, 5, 0, (SIZE, 1)) * rng.uniform(2, 5)
    light = light + noise(rng, 14, 30) * rng.uniform(2, 5) + rng.normal(0, 0.05) * (COLUMNS - 64)
    plate = base + light
    ledge = np.clip(base * 0.6 + 33, 0, base - 4) + rng.normal(0, 5) + 3 * noise(rng, 3, 40)
    below = step(ROWS - line, pick(rng, [0.5, 0.8, 2.5], p=[0.55, 0.3, 0.15]))
    image = plate * (1 - below) + ledge * below
    shadow = np.clip(
        1 + 0.3 * noise(rng, 1, 9, (1, SIZE)) + 0.2 * noise(rng, 0, 1, (1, SIZE)), 0, 2
    )
    image -= rng.uniform(4, 24) * bump(ROWS - line - 1.2, 0, rng.uniform(0.8, 1.7)) * shadow
    glint = np.clip(noise(rng, 1, 6, (1, SIZE)) + rng.uniform(-0.8, 0.6), 0, 2)
    image += rng.uniform(0, 26) * bump(ROWS - line + 1.0, 0, 0.7) * glint
    image += _brush(rng, edge)
    image += noise(rng, 0.6, 1.1) * rng.uniform(2.6, 5.2)
    image += noise(rng, 1.1, 1.8) * rng.uniform(2.0, 4.5)
    image += _a_marks(rng, edge, line)
    return Surface(image.astype(np.float32), edge)


def _a_marks(rng: np.random.Generator, edge: float, line: Field) -> Field:
    """What disturbs normal images of A: pits, haze, specks, dark streaks; grey levels."""
    marks = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(pick(rng, [0, 1, 2], p=[0.35, 0.4, 0.25]))):
        marks += _pits(rng, edge)
    for _ in range(int(pick(rng, [0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):
        marks += _haze(rng, edge)
    near = 0.25 + 3 * bump(ROWS - line, 0, 2.5) + 0.6 * step(ROWS - edge, 2)
    near = near * np.clip(1 + 0.8 * noise(rng, 8, 12), 0.05, 4)
    small, large = int(rng.integers(6, 55)), int(rng.integers(1, 11))
    marks += specks(rng, near, small, 0.55) * rng.uniform(25, 60)
    marks += specks(rng, near, large, 0.75) * rng.uniform(60, 110)
    if rng.random() < 0.2:  # rolled-in dark band near the top or on the ledge
        row = pick(rng, [rng.uniform(2, 24), edge + rng.uniform(5, 12)])
        streak = np.clip(noise(rng, 0.8, 22) + 0.4, 0, 2)
        marks -= streak * bump(ROWS, row, rng.uniform(1, 4)) * rng.uniform(15, 40)
    return marks


# ---------------------------------------------------------------------------------- product B


def _light_b(rng: np.random.Generator) -> Field:
    """Uneven light of B: one broad maximum along the rows, falling off to dark; grey levels."""
    peak = pick(rng, [rng.uniform(-10, 40), rng.uniform(40, 90), rng.uniform(90, 140)])
    level = pick(rng, [80.0, 102.0, 130.0], p=[0.3, 0.35, 0.35]) * rng.uniform(0.85, 1.12)
    spread = rng.uniform(42, 85)
    floor = rng.uniform(0.15, 0.35)
    row = peak + wander(rng, 30, 6)[None, :] + rng.normal(0, 0.18) * (COLUMNS - 64)
    hill = bump(ROWS - row, 0, spread)
    side = 1 + rng.normal(0, 0.0011) * (COLUMNS - 64)
    if rng.random() < 0.12:  # a side that lies nearly in the dark
        side = side * (0.35 + 0.65 * step(pick(rng, [-1, 1]) * (COLUMNS - rng.uniform(40, 88)), 30))
    return (level * (floor + (1 - floor) * hill) * side).astype(np.float32)


def _streaks(rng: np.random.Generator) -> Field:
    """Bright vertical streaks in bands, relative to the light."""
    field = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        lines = noise(rng, rng.uniform(4, 14), rng.uniform(0.45, 0.62))
        level = rng.uniform(0.5, 1.3)
        band = step(COLUMNS - rng.uniform(-20, 110), rng.uniform(1, 6))
        band = band * step(
            rng.uniform(12, 45) - (COLUMNS - rng.uniform(-10, 115)), rng.uniform(1, 8)
        )
        reach = bump(ROWS, rng.uniform(0, SIZE), rng.uniform(30, 90))
        field += np.clip(lines - level, 0, 1.6) * band * reach * rng.uniform(0.3, 0.7)
    for _ in range(int(rng.integers(0, 4))):  # single long lines
        column = rng.uniform(0, SIZE) + 0.02 * rng.normal() * (ROWS - 64)
        reach = np.clip(noise(rng, 10, 0, (SIZE, 1)) * 0.6 + 0.5, 0, 1.5)
        field += bump(COLUMNS - column, 0, 0.55) * reach * rng.uniform(0.12, 0.4)
    return field


def surface_b(rng: np.random.Generator) -> Surface:
    """Dark grainy sheet under uneven light with a fine vertical weave and, often, streaks.

    Streaks come as often with defects as without, unlike in the figure, so that they belong to
    the product and never tell the class.
    """
    light = _light_b(rng)
    grain = noise(rng, 0.8, 0.75) * rng.uniform(0.055, 0.085)
    grain += noise(rng, 1.4, 1.3) * rng.uniform(0.03, 0.055)
    grain += noise(rng, rng.uniform(3, 9), 0.6) * rng.uniform(0.012, 0.04)
    grain += noise(rng, 0.6, rng.uniform(5, 12)) * rng.uniform(0.0, 0.02)
    grain += noise(rng, 6, 5) * rng.uniform(0.01, 0.03)
    grain += noise(rng, 1.5, 30) * rng.uniform(0.0, 0.025) + noise(rng, 40, 3) * 0.012
    if rng.random() < 0.45:
        grain += _streaks(rng)
    few = int(rng.integers(0, 14))
    grain += specks(rng, light, few, 0.6) * rng.uniform(0.1, 0.28)
    if rng.random() < 0.3:  # a fine, faint hatching
        hatch = slanted(rng, pick(rng, [-1, 1]) * rng.uniform(0.5, 3), 6, 0.6)
        grain += np.clip(hatch - 1.2, 0, 2) * np.clip(noise(rng, 12, 12), 0, 2) * 0.06
    # dark places keep some grain: it falls with the light, but more slowly
    image = light + grain * (0.6 * light + 34) + noise(rng, 0.6, 0.6) * 1.2
    return Surface(image.astype(np.float32), float(SIZE))


# ---------------------------------------------------------------------------------- product C


def _relief(rng: np.random.Generator) -> Field:
    """Embossed granular texture lit from the upper left, standard deviation 1."""
    height = noise(rng, 0.75, 0.75) + 0.7 * noise(rng, 1.5, 1.5)
    lit = 0.6 * (height - np.roll(height, (1, 1), (0, 1))) + 0.6 * height
    lit += 0.8 * noise(rng, 0.75, 0.75)
    return (lit - lit.mean()) / lit.std()


def _groove_edges(rng: np.random.Generator, centre: Field) -> tuple[Field, Field]:
    """Upper and lower border of the groove for every column, (1, 128) each, maybe chipped."""
    half = rng.uniform(2.8, 3.4)
    upper, lower = centre - half, centre + half
    upper = upper + wander(rng, 8, 0.08)[None, :]
    lower = lower + wander(rng, 5, 0.12)[None, :]
    if rng.random() < 0.35:  # ragged stretch
        where = bump(COLUMNS, rng.uniform(0, SIZE), rng.uniform(6, 16))
        lower = lower + where * np.abs(wander(rng, 1.3, 1.0))[None, :] * 1.1
        upper = upper + where * wander(rng, 1.3, 0.5)[None, :]
    return upper.astype(np.float32), lower.astype(np.float32)


def _smudges(rng: np.random.Generator, groove: float) -> Field:
    """Soft dirty clouds, mostly near the top; grey levels (negative, now and then positive)."""
    field = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.integers(0, 5))):
        row = pick(rng, [rng.uniform(0, 22), rng.uniform(10, groove)])
        spot = bump(ROWS, row, rng.uniform(3, 12)) * bump(
            COLUMNS, rng.uniform(0, SIZE), rng.uniform(3, 18)
        )
        cloud = np.clip(0.5 + 0.7 * noise(rng, 2.0, 2.4), 0, 2)
        field += spot * cloud * pick(rng, [-1, -1, -1, 0.6]) * rng.uniform(7, 20)
    return field


def surface_c(rng: np.random.Generator) -> Surface:
    """Matte plate: bright granular upper part, dark groove, darker lower part, smudges."""
    bright = rng.uniform(117, 160)
    groove = rng.uniform(79.5, 82.5)
    centre = groove + rng.normal(0.004, 0.0025) * (COLUMNS - 64)
    upper, lower = _groove_edges(rng, centre.astype(np.float32))
    relief = _relief(rng)
    top = bright * (0.985 + 0.05 * (ROWS / groove) - 0.07 * bump(ROWS, 0, 12))
    bottom = bright * rng.uniform(0.70, 0.765) * (1.02 - 0.0012 * (ROWS - groove))
    below = step(ROWS - lower, 0.55)
    mottle = noise(rng, 4, 4.5) * rng.uniform(1.8, 3.6) + noise(rng, 14, 18) * rng.uniform(2, 4.5)
    mottle += noise(rng, 2.2, 2.2) * rng.uniform(1.5, 3.0)
    top = top + mottle + relief * rng.uniform(5.6, 8.2)
    bottom = bottom + 0.5 * mottle + relief * rng.uniform(3.6, 5.4)
    image = top * (1 - below) + bottom * below
    fade = bump(upper - ROWS, 0, rng.uniform(4.2, 5.8)) * (upper > ROWS)
    image -= bright * rng.uniform(0.25, 0.36) * fade
    rim = np.clip(noise(rng, 1, 12, (1, SIZE)) * 0.6 + rng.uniform(-0.4, 0.8), 0, 1.4)
    image += rng.uniform(4, 16) * bump(ROWS - upper, -1.6, 0.6) * rim
    inside = step(ROWS - upper, 0.5) * (1 - below)
    dark = bright * rng.uniform(0.38, 0.5) + noise(rng, 0.6, 5) * 1.5
    dark = dark + bright * rng.uniform(0, 0.07) * bump(ROWS - upper, 1.0, 0.8)
    image = image * (1 - inside) + dark * inside
    image += _smudges(rng, groove) * (1 - inside)
    image += _c_marks(rng, bright)
    side = 1 + rng.normal(0, 0.0005) * (COLUMNS - 64)
    image = image * side + noise(rng, 0.5, 0.5) * 1.3
    return Surface(image.astype(np.float32), groove)


def _c_marks(rng: np.random.Generator, bright: float) -> Field:
    """What normal images of C carry: the line near the top, a chipped top border, faint specks."""
    marks = np.zeros((SIZE, SIZE), dtype=np.float32)
    if rng.random() < 0.65:
        row = rng.uniform(11, 14) + rng.normal(0, 0.004) * (COLUMNS - 64)
        reach = np.clip(0.8 + 0.5 * noise(rng, 1, 15, (1, SIZE)), 0, 1.5)
        marks -= bump(ROWS - row, 0, 0.6) * reach * rng.uniform(6, 19)
    if rng.random() < 0.4:  # the border of the plate shows at the very top
        reach = np.clip(noise(rng, 1, 7, (1, SIZE)) + rng.uniform(-1.0, 0.8), 0, 1)
        marks -= step(0.5 - ROWS, 0.6) * reach * bright * 0.5
    marks -= specks(rng, np.ones((SIZE, SIZE), np.float32), int(rng.integers(0, 7)), 0.7) * 14
    return marks


SURFACES: dict[str, Painter] = {"A": surface_a, "B": surface_b, "C": surface_c}
