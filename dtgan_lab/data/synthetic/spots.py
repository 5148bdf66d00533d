"""Spots of the synthetic SDI: ragged blobs (A), small bright or dark dots (B), dark specks (C).

Painters as in `synthetic_scratches`: random generator and `Surface` in, painted image out.
"""

from __future__ import annotations

import numpy as np

from dtgan_lab.data.synthetic.strokes import (
    add_light,
    brighter,
    curve,
    darken,
    paint,
    place_a,
    place_b,
    place_c,
    stroke,
    taper,
)
from dtgan_lab.data.synthetic.textures import (
    COLUMNS,
    ROWS,
    SIZE,
    Field,
    Surface,
    bump,
    noise,
    pick,
    ragged,
    smooth,
    specks,
    step,
)

# ---------------------------------------------------------------------------------- product A


def a_cluster(rng: np.random.Generator, surface: Surface) -> Field:
    """A ragged bright blob of crumbs."""
    column, row = place_a(rng, surface)
    high, wide = rng.uniform(4, 8.5), rng.uniform(4, 9)
    shape = bump(ROWS, row, high) * bump(COLUMNS - (ROWS - row) * rng.normal(0, 0.6), column, wide)
    crumbs = noise(rng, 0.8, 0.9) + 0.5 * noise(rng, 1.6, 1.6)
    cover = np.clip((shape * 2.7 + crumbs * 0.95 - 1.5) * 0.75, 0, 1) * (shape > 0.08)
    cover = cover * np.clip(0.8 + 0.3 * noise(rng, 0.8, 0.8), 0.2, 1.15)
    return paint(surface.image, cover, brighter(rng, surface.image, 85, 125))


def a_letters(rng: np.random.Generator, surface: Surface) -> Field:
    """A scrawl: short crossing strokes and crumbs, like worn letters."""
    column, row = place_a(rng, surface)
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    spread = rng.uniform(4, 9)
    for _ in range(int(rng.integers(5, 11))):
        start = (column + rng.normal(0, spread), row + rng.normal(0, spread * 0.6))
        line = curve(rng, start, rng.uniform(0.5, 2.6), rng.uniform(4, 12), rng.normal(0, 1.2), 0.4)
        cover = np.maximum(cover, stroke(line, taper(len(line), rng.uniform(1.2, 3.0))))
    crumbs = np.clip(0.75 + 0.55 * noise(rng, 0.75, 0.85), 0, 1.15)
    return paint(surface.image, cover * crumbs, brighter(rng, surface.image, 75, 120))


def a_chain(rng: np.random.Generator, surface: Surface) -> Field:
    """A blob with ever smaller ones strung out beside it."""
    column, row = place_a(rng, surface)
    angle = rng.uniform(-0.3, 0.9) if column < SIZE / 2 else np.pi - rng.uniform(-0.3, 0.9)
    line = curve(rng, (column, row), angle, rng.uniform(22, 46), rng.normal(0, 0.5), 0.2)
    shape = np.zeros((SIZE, SIZE), dtype=np.float32)
    size, place = rng.uniform(3.2, 4.8), 0.0
    while place < len(line) and size > 0.9:
        x, y = line[int(place)] + rng.normal(0, 0.7, 2)
        shape = np.maximum(shape, bump(COLUMNS, x, size * 0.75) * bump(ROWS, y, size))
        place, size = place + size * 1.9 + 1, size * rng.uniform(0.65, 0.9)
    crumbs = noise(rng, 0.9, 0.8)
    cover = np.clip((shape * 2.4 + 0.5 * crumbs - 1.05) * 0.9, 0, 1) * (shape > 0.2)
    cover = cover * np.clip(0.85 + 0.25 * noise(rng, 0.8, 0.8), 0.2, 1.15)
    return paint(surface.image, cover, brighter(rng, surface.image, 90, 125), keep=0.5)


def a_abrasion(rng: np.random.Generator, surface: Surface) -> Field:
    """A round abrasion: bright and dark arcs around one place, or dark pits with a bright heart."""
    column, row = place_a(rng, surface)
    radius = rng.uniform(6.5, 13)
    squash = rng.uniform(0.75, 1.2)
    distance = np.hypot((COLUMNS - column), (ROWS - row) * squash) / radius
    distance = distance + 0.16 * noise(rng, 2.5, 2.5)
    inside = step(1 - distance, 0.18)
    if rng.random() < 0.5:
        rings = np.sin(distance * rng.uniform(6, 9) + noise(rng, 2.2, 2.2) * 1.6)
        swirl = rings * np.clip(0.5 + 0.5 * noise(rng, 2, 2), 0, 1.3) + 0.75 * noise(rng, 0.8, 0.9)
        side = np.clip(
            ((COLUMNS - column) * rng.normal() + (ROWS - row) * rng.normal()) / radius, -1, 1
        )
        bright = np.clip(swirl + 0.4 * side, 0, 1.3) * 62
        dark = np.clip(-swirl + 0.4 * side, 0, 1.3) * 58
        return surface.image + inside * (bright - dark)
    crumbs = noise(rng, 0.9, 1.1)
    rim = bump(distance, 0.7, 0.25)
    dark = np.clip((crumbs + 0.9 * rim - 0.7) * 0.9, 0, 1) * inside
    image = paint(surface.image, dark, float(np.median(surface.image)) - rng.uniform(55, 80))
    heart = np.clip((bump(distance, 0, 0.33) * 2 + 0.6 * crumbs - 1) * 1.5, 0, 1) * inside
    return paint(image, heart, brighter(rng, surface.image, 55, 95))


def a_dots(rng: np.random.Generator, surface: Surface) -> Field:
    """A loose handful of bright dots, clearly larger than the specks of a normal plate."""
    column, row = place_a(rng, surface)
    shape = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.integers(3, 8))):
        x, y = column + rng.normal(0, 9), min(row + rng.normal(0, 5), SIZE - 4)
        size = rng.uniform(1.2, 2.6)
        tilt = (ROWS - y) * rng.normal(0, 0.4)
        shape = np.maximum(shape, bump(COLUMNS - tilt, x, size * 1.25) * bump(ROWS, y, size))
    cover = np.clip((shape * 1.9 + 0.3 * noise(rng, 0.7, 0.8) - 0.6) * 1.5, 0, 1) * (shape > 0.15)
    return paint(surface.image, cover, brighter(rng, surface.image, 85, 120), keep=0.4)


# ---------------------------------------------------------------------------------- product B


def b_dot(rng: np.random.Generator, surface: Surface) -> Field:
    """One to three small bright dots, a little lying, with a faint glow."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    for i in range(int(pick(rng, [1, 2, 3], p=[0.65, 0.2, 0.15]))):
        x, y = place_b(rng)
        size = rng.uniform(1.3, 2.2) * (1 if i == 0 else 0.8)
        tilt = (ROWS - y) * rng.normal(0, 0.5)
        dot = bump(COLUMNS - tilt, x, size * rng.uniform(0.9, 1.7)) * bump(ROWS, y, size)
        glow = bump(COLUMNS, x, size * 3) * bump(ROWS, y, size * 3)
        cover = np.maximum(cover, np.clip(dot * 1.5 - 0.25, 0, 1) + 0.1 * glow)
    return add_light(rng, surface, cover * np.clip(1 + 0.2 * noise(rng, 0.7, 0.7), 0, 2), 95, 165)


def b_dark(rng: np.random.Generator, surface: Surface) -> Field:
    """A small dark dot, often with a bright rim on one side."""
    x, y = place_b(rng)
    size = rng.uniform(1.7, 3.0)
    tilt = (ROWS - y) * rng.normal(0, 0.35)
    dot = bump(COLUMNS - tilt, x, size) * bump(ROWS, y, size * rng.uniform(0.9, 1.5))
    dot = np.clip((dot + 0.08 * noise(rng, 0.8, 0.8)) * 2 - 0.55, 0, 1) * (dot > 0.1)
    image = paint(surface.image, dot, 0.28 * smooth(surface.image, 6, 6), keep=0.3)
    side = bump(COLUMNS - tilt, x + rng.normal(0, 1.8), size * 1.5) * bump(
        ROWS, y + 1.5, size * 1.6
    )
    rim = np.clip(side * (1 - dot) - 0.35, 0, 1) * pick(rng, [0.3, 1.0])
    return image + rim * np.clip(0.7 + 0.5 * noise(rng, 0.8, 0.8), 0, 2) * 70


def b_cluster(rng: np.random.Generator, surface: Surface) -> Field:
    """Many tiny bright dots in one small region over a faint glow."""
    x, y = place_b(rng)
    size = rng.uniform(4.5, 8)
    shape = step(1 - np.maximum(abs(COLUMNS - x), abs(ROWS - y)) / (size * 1.4), 0.25)
    shape = shape * np.clip(0.9 + 0.3 * noise(rng, 2.5, 2.5), 0.2, 1.3)
    dots = specks(rng, np.clip(shape, 1e-9, 1) ** 2, int(size * rng.uniform(3, 6)), 0.75, 1.0)
    return add_light(rng, surface, 0.25 * shape + np.clip(dots, 0, 1.3), 70, 110)


def b_comet(rng: np.random.Generator, surface: Surface) -> Field:
    """A bright head with a thin tail, in a faint cloud."""
    x, y = place_b(rng)
    angle = rng.uniform(-0.6, 0.6) + pick(rng, [0, np.pi])
    line = curve(rng, (x, y), angle, rng.uniform(14, 32), rng.normal(0, 0.5), 0.15)
    tail = smooth(stroke(line, rng.uniform(1.8, 2.8) * np.linspace(1, 0.3, len(line))), 0.4, 0.4)
    head = bump(COLUMNS, x, rng.uniform(1.3, 2.2)) * bump(ROWS, y, rng.uniform(1.1, 1.8))
    cloud = bump(COLUMNS, x, rng.uniform(5, 10)) * bump(ROWS, y, rng.uniform(4, 8))
    tail = tail * np.clip(0.8 + 0.35 * noise(rng, 1, 1), 0, 2)
    cloud = cloud * np.clip(0.8 + 0.5 * noise(rng, 1, 1), 0, 2)
    return add_light(rng, surface, head + 0.75 * tail + 0.22 * cloud, 85, 130)


def b_haze(rng: np.random.Generator, surface: Surface) -> Field:
    """One or two faint ragged clouds with a few brighter crumbs in them."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.integers(1, 3))):
        x, y = place_b(rng)
        tilt = (ROWS - y) * rng.normal(0, 0.5)
        shape = bump(COLUMNS - tilt, x, rng.uniform(4, 8)) * bump(ROWS, y, rng.uniform(4, 7))
        crumbs = ragged(rng, 0.2, 0.9, 0.9)
        cover += shape * (0.45 + 0.4 * noise(rng, 1.4, 1.4) + 0.9 * crumbs)
    return add_light(rng, surface, np.clip(cover, 0, 1.4), 70, 100)


def b_rough(rng: np.random.Generator, surface: Surface) -> Field:
    """A rough patch: bright crumbs around a dark heart."""
    x, y = place_b(rng)
    radius = rng.uniform(4.5, 8)
    distance = np.hypot(COLUMNS - x, (ROWS - y) * rng.uniform(0.8, 1.2)) / radius
    distance = distance + 0.18 * noise(rng, 2, 2)
    crumbs = noise(rng, 0.85, 0.85)
    dark = step(0.6 - distance, 0.15) * np.clip(0.55 + 0.45 * crumbs, 0, 1)
    bright = bump(distance, 0.75, 0.25) * np.clip(0.15 + 0.8 * crumbs, 0, 1.8)
    image = paint(surface.image, dark * 0.8, 0.45 * smooth(surface.image, 6, 6))
    return image + bright * rng.uniform(55, 85)


# ---------------------------------------------------------------------------------- product C


def c_speck(rng: np.random.Generator, surface: Surface) -> Field:
    """A small dark speck, often with a bright rim on its lower side."""
    x, y = place_c(rng, surface)
    size = rng.uniform(1.5, 2.8)
    tilt = (ROWS - y) * rng.normal(0, 0.6)
    dot = bump(COLUMNS - tilt, x, size * rng.uniform(0.9, 1.6)) * bump(ROWS, y, size)
    dot = np.clip((dot + 0.1 * noise(rng, 0.8, 0.8)) * 2.2 - 0.7, 0, 1) * (dot > 0.1)
    image = darken(rng, surface.image, dot, 0.3, 0.48)
    if rng.random() < 0.5:
        side = bump(COLUMNS, x + rng.normal(0, 1.5), size * 1.6) * bump(ROWS, y + size, size * 1.3)
        crumbs = np.clip(0.6 + 0.7 * noise(rng, 0.7, 0.7), 0, 2)
        image = image + np.clip(side * (1 - 1.6 * dot) - 0.2, 0, 1) * crumbs * rng.uniform(30, 55)
    return image


def c_clump(rng: np.random.Generator, surface: Surface) -> Field:
    """An irregular dark clump of several rounds, with small ones around it."""
    x, y = place_c(rng, surface)
    size, spread = rng.uniform(1.7, 3.3), rng.uniform(2, 4)
    shape = np.zeros((SIZE, SIZE), dtype=np.float32)
    for i in range(int(rng.integers(2, 6))):
        away = spread * (0.8 if i < 3 else 2.6)
        column, row = x + rng.normal(0, away), max(5.0, y + rng.normal(0, away * 0.8))
        part = size * rng.uniform(0.6, 1) * (1 if i < 3 else 0.6)
        shape = np.maximum(shape, bump(COLUMNS, column, part * 1.2) * bump(ROWS, row, part))
    cover = np.clip((shape + 0.2 * noise(rng, 1.1, 1.3)) * 2.0 - 0.75, 0, 1) * (shape > 0.12)
    return darken(rng, surface.image, cover * rng.uniform(0.85, 1), 0.42, 0.58)


def c_flake(rng: np.random.Generator, surface: Surface) -> Field:
    """A small slanted dark flake with a pale side."""
    x, y = place_c(rng, surface)
    angle = rng.uniform(-0.8, 0.8)
    line = curve(rng, (x, y), angle, rng.uniform(4.5, 8), rng.normal(0, 0.5))
    cover = stroke(line, taper(len(line), rng.uniform(2.4, 3.8), 0.5, 0.1))
    pale = np.roll(cover, (1, 1), (0, 1)) * (1 - cover)
    image = darken(
        rng, surface.image, cover * np.clip(1 + 0.2 * noise(rng, 1, 1), 0, 1.1), 0.33, 0.5
    )
    return image + pale * rng.uniform(0, 30)
