"""Defects of the synthetic SDI, after the overview figure of the SDI data set.

Scratches are bright strokes (A), granular lines (B) and dark hairs (C); spots are ragged blobs (A),
small bright or dark dots (B) and dark specks (C). A painter takes a random generator and a
`Surface` and returns a painted copy of its image, float32 (128, 128) in grey levels, not clipped.
Which pixels count as the defect is decided later, from the difference (see `drawing.draw`).
"""

from __future__ import annotations

import numpy as np

from dtgan_lab.data.synthetic.strokes import (
    Points,
    add_light,
    brighter,
    curve,
    darken,
    granular,
    move_inside,
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
    slanted,
    smooth,
    specks,
    step,
)

# ----------------------------------------------------------------------------------- scratches of A


def a_strokes(rng: np.random.Generator, surface: Surface) -> Field:
    """One to three short, slanted, bright strokes with thin ends."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    angle = pick(rng, [-1, 1]) * rng.uniform(0.6, 1.75)
    for _ in range(int(pick(rng, [1, 2, 3], p=[0.45, 0.35, 0.2]))):
        length = rng.uniform(8, 26)
        line = curve(
            rng, place_a(rng, surface), angle + rng.normal(0, 0.15), length, rng.normal(0, 0.35)
        )
        widths = taper(len(line), rng.uniform(1.6, 3.0), 0.2, rng.uniform(0.2, 1))
        cover = np.maximum(cover, stroke(line, widths) * rng.uniform(0.8, 1))
    fibres = slanted(rng, float(np.tan(angle)), 4, 0.5)
    cover = cover * np.clip(0.95 + 0.2 * noise(rng, 0.7, 1.2) + 0.22 * fibres, 0.25, 1.2)
    return paint(surface.image, cover, brighter(rng, surface.image, 75, 115))


def a_bundle(rng: np.random.Generator, surface: Surface) -> Field:
    """A few short parallel strokes side by side, sometimes with a filled patch beside them."""
    column, row = place_a(rng, surface)
    angle = pick(rng, [-1, 1]) * rng.uniform(0.7, 1.7)
    count, gap = int(rng.integers(3, 7)), rng.uniform(2.2, 3.6)
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    for i in range(count):
        start = (column + (i - count / 2) * gap, row + rng.normal(0, 1.3))
        line = curve(
            rng, start, angle + rng.normal(0, 0.07), rng.uniform(6, 15), rng.normal(0, 0.3)
        )
        cover = np.maximum(cover, stroke(line, taper(len(line), rng.uniform(1.0, 2.2))))
    if rng.random() < 0.5:
        start = (column + pick(rng, [-1, 1]) * rng.uniform(10, 20), row + rng.normal(0, 6))
        line = curve(rng, start, angle, rng.uniform(6, 16), 0.0)
        hatch = 0.75 + 0.4 * slanted(rng, float(np.tan(angle)), 4, 0.6)
        cover = np.maximum(
            cover, stroke(line, taper(len(line), rng.uniform(3, 7), 0.7, 0.7)) * hatch
        )
    cover = cover * np.clip(0.95 + 0.25 * noise(rng, 0.7, 1.0), 0.3, 1.2)
    return paint(surface.image, cover, brighter(rng, surface.image, 70, 110))


def a_wedge(rng: np.random.Generator, surface: Surface) -> Field:
    """One long thick stroke, thin at one end, sometimes with a kink there."""
    length = rng.uniform(28, 58)
    angle = -rng.uniform(0.7, 1.5) if rng.random() < 0.5 else -np.pi + rng.uniform(0.7, 1.5)
    start = (rng.uniform(24, SIZE - 24), surface.edge - rng.uniform(2, 26))
    line = curve(rng, start, angle, length, rng.normal(0, 0.18), 0.08)
    widths = rng.uniform(3.2, 5.2) * np.linspace(1, 0.3, len(line)) * taper(len(line), 1, 0.3, 0.6)
    cover = stroke(line, widths)
    if rng.random() < 0.5:
        kink = curve(rng, (line[-1, 0], line[-1, 1]), angle + pick(rng, [-1, 1]) * 0.9, 8, 0.4)
        cover = np.maximum(cover, stroke(kink, taper(len(kink), 1.6, 1, 0.2)))
    fibres = slanted(rng, float(np.tan(angle)), 5, 0.5)
    cover = cover * np.clip(1.0 + 0.14 * noise(rng, 0.8, 0.8) + 0.14 * fibres, 0.4, 1.1)
    return paint(surface.image, cover, brighter(rng, surface.image, 95, 125), keep=0.4)


def a_ledge(rng: np.random.Generator, surface: Surface) -> Field:
    """A long, thick, gently curved stroke on the ledge, thinning out to one side."""
    length = rng.uniform(36, 100)
    start = (rng.uniform(2, SIZE - length * 0.8), surface.edge + rng.uniform(2, 8))
    line = curve(rng, start, rng.uniform(0.0, 0.12), length, -rng.uniform(0.1, 0.5), 0.1)
    widths = rng.uniform(2.6, 4.6) * np.linspace(1, 0.3, len(line)) * taper(len(line), 1, 0.2, 0.5)
    if rng.random() < 0.5:
        line[:, 0] = SIZE - 1 - line[:, 0]
    cover = stroke(line, widths) * np.clip(1 + 0.2 * noise(rng, 0.8, 1.5), 0.5, 1.1)
    return paint(surface.image, cover, brighter(rng, surface.image, 90, 125), keep=0.4)


def a_hook(rng: np.random.Generator, surface: Surface) -> Field:
    """Small hooks and open loops, one or two, often with a stroke beside them."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.integers(1, 3))):
        size = rng.uniform(9, 20)
        bend = pick(rng, [-1, 1]) * pick(rng, [rng.uniform(0.7, 2.0), rng.uniform(3.5, 5.0)])
        line = curve(rng, place_a(rng, surface), rng.uniform(0, 2 * np.pi), size, bend, 0.9)
        cover = np.maximum(cover, stroke(line, taper(len(line), rng.uniform(1.5, 2.8), 0.4, 0.3)))
    cover = cover * np.clip(1 + 0.25 * noise(rng, 0.8, 0.8), 0.35, 1.15)
    image = paint(surface.image, cover, brighter(rng, surface.image, 75, 115))
    if rng.random() < 0.35:
        image = a_strokes(rng, Surface(image, surface.edge))
    return image


# ----------------------------------------------------------------------------------- scratches of B


def _b_across(rng: np.random.Generator) -> Points:
    """A long curve that runs through the image, from one side to another."""
    target = np.array([rng.uniform(30, 98), rng.uniform(30, 98)])
    angle = rng.uniform(-0.7, 0.7) if rng.random() < 0.55 else rng.uniform(0.8, 2.3)
    length = rng.uniform(70, 170)
    start = target - 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    return curve(rng, (start[0], start[1]), angle, length, rng.normal(0, 0.4), 0.06)


def b_wide(rng: np.random.Generator, surface: Surface) -> Field:
    """One or two long granular scratches, straight or bent, with soft sides."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(pick(rng, [1, 2, 3], p=[0.6, 0.3, 0.1]))):
        line = _b_across(rng)
        width = rng.uniform(2.5, 8)
        ends = taper(len(line), width, rng.uniform(0.1, 1), rng.uniform(0.1, 1))
        soft = smooth(stroke(line, ends), width * 0.2 + 0.4, width * 0.2 + 0.3)
        cover = np.maximum(cover, soft * rng.uniform(0.6, 1))
    weave = np.clip(1 + 0.3 * noise(rng, 3, 0.65), 0.3, 1.8)
    return add_light(rng, surface, granular(rng, cover, 0.9) * weave, 52, 95)


def b_vertical(rng: np.random.Generator, surface: Surface) -> Field:
    """A thin, nearly vertical line, bright all along or fading at its end."""
    length = rng.uniform(60, 150)
    start = (rng.uniform(16, SIZE - 16), rng.uniform(-20, 40))
    line = curve(rng, start, np.pi / 2 + rng.normal(0, 0.02), length, rng.normal(0, 0.03))
    width = rng.uniform(1.1, 1.9)
    cover = stroke(line, taper(len(line), width, 1, 0.4))
    cover = cover * np.clip(0.95 + 0.3 * noise(rng, 3.5, 0.8), 0.3, 1.6)
    fade = 1 - step(ROWS - (start[1] + length - 14), 9) * pick(rng, [0.3, 0.9])
    return add_light(rng, surface, cover * fade, 70, 110)


def b_pair(rng: np.random.Generator, surface: Surface) -> Field:
    """Thin strokes that run side by side or cross each other."""
    cover = np.zeros((SIZE, SIZE), dtype=np.float32)
    start = np.array([rng.uniform(32, 86), rng.uniform(16, 64)])
    angle, length = rng.uniform(0.7, 2.4), rng.uniform(36, 90)
    crossing = rng.random() < 0.5
    for i in range(int(rng.integers(2, 4))):
        turn = angle + (pick(rng, [-1, 1]) * rng.uniform(0.3, 1.1) if crossing and i else 0.03 * i)
        place = start + rng.normal(0, 6 if crossing else 1.6, 2)
        line = curve(
            rng, (place[0], place[1]), turn, length * rng.uniform(0.5, 1), rng.normal(0, 0.5)
        )
        widths = taper(len(line), rng.uniform(1.3, 2.6), 0.2, 0.3)
        cover = np.maximum(cover, smooth(stroke(line, widths), 0.4, 0.4) * rng.uniform(0.65, 1))
    return add_light(rng, surface, 0.6 * cover + 0.55 * granular(rng, cover, 1.0), 65, 105)


def b_dotted(rng: np.random.Generator, surface: Surface) -> Field:
    """A double line of bright crumbs with a dark thread between them."""
    angle = rng.normal(0, 0.12) if rng.random() < 0.75 else rng.uniform(0.4, 1.2)
    length = rng.uniform(70, 140)
    start = (rng.uniform(-15, 25), rng.uniform(24, 98) - (30 if angle > 0.35 else 0))
    line = curve(rng, start, angle, length, rng.normal(0, 0.15), 0.18)
    gap = rng.uniform(3.0, 5.0)
    ones = np.ones(len(line))
    both = smooth(stroke(line, ones * (gap + 2.2)), 0.3, 0.3) - smooth(
        stroke(line, ones * gap * 0.7), 0.3, 0.3
    )
    cover = np.clip(both, 0, 1) * np.clip(0.9 * noise(rng, 0.9, 1.1) + 0.3, 0, 1.8)
    image = add_light(rng, surface, smooth(cover, 0.3, 0.3), 80, 120)
    thread = stroke(line, ones * 1.2) * np.clip(0.7 + 0.4 * noise(rng, 1, 3), 0, 1)
    return image - thread * 0.4 * smooth(surface.image, 3, 3)


def b_drop(rng: np.random.Generator, surface: Surface) -> Field:
    """A short, bright, pointed stroke, standing nearly upright."""
    start = (rng.uniform(18, SIZE - 18), rng.uniform(18, SIZE - 50))
    line = curve(
        rng, start, np.pi / 2 + rng.normal(0, 0.25), rng.uniform(14, 30), rng.normal(0, 0.2)
    )
    widths = rng.uniform(2.6, 4.4) * np.linspace(1, 0.25, len(line)) * taper(len(line), 1, 0.4, 0.5)
    cover = smooth(stroke(line, widths), 0.4, 0.4)
    return add_light(rng, surface, granular(rng, cover, 0.8) * 1.2, 85, 130)


# ----------------------------------------------------------------------------------- scratches of C


def c_hair(rng: np.random.Generator, surface: Surface) -> Field:
    """A thin dark curved hair, sometimes with kinks."""
    length = rng.uniform(22, 66)
    line = curve(
        rng,
        place_c(rng, surface),
        rng.uniform(0, 2 * np.pi),
        length,
        pick(rng, [-1, 1]) * rng.uniform(0.2, 2.2),
        rng.uniform(0.2, 1.1),
    )
    if rng.random() < 0.4:  # one or two kinks
        for at in rng.integers(4, len(line) - 3, int(rng.integers(1, 3))):
            turn = rng.normal(0, 0.8)
            spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            rest = line[at:] - line[at]
            line[at:] = line[at] + (rest[:, :1] * spin[0] + rest[:, 1:] * spin[1])
    line = move_inside(line, 6.0, surface.edge - 8)
    cover = stroke(line, taper(len(line), rng.uniform(1.0, 1.7), 0.6, 0.5))
    cover = cover * np.clip(0.95 + 0.15 * noise(rng, 1.5, 1.5), 0.5, 1.1)
    return darken(rng, surface.image, cover, 0.36, 0.58)


def c_tick(rng: np.random.Generator, surface: Surface) -> Field:
    """One or two short dark ticks, slanted, ragged or dotted."""
    image = surface.image
    angle = rng.uniform(-0.9, 0.3)
    for _ in range(int(pick(rng, [1, 2], p=[0.75, 0.25]))):
        length = rng.uniform(8, 16)
        line = curve(rng, place_c(rng, surface), angle, length, rng.normal(0, 0.6), 0.3)
        line = move_inside(line, 8.0, SIZE - 6.0)
        cover = stroke(line, taper(len(line), rng.uniform(1.4, 2.7), 0.3, 0.3))
        cover = cover * np.clip(0.9 + 0.4 * noise(rng, 0.9, 0.9), 0.1, 1.1)
        image = darken(rng, image, cover, 0.36, 0.52)
    return image


def c_wave(rng: np.random.Generator, surface: Surface) -> Field:
    """A short wavy hair, a little thicker, lying nearly flat."""
    line = curve(
        rng, place_c(rng, surface), rng.normal(0, 0.4), rng.uniform(14, 26), rng.normal(0, 1.2)
    )
    position = np.linspace(0, 1, len(line))
    line[:, 1] += rng.uniform(0.8, 2.0) * np.sin(position * rng.uniform(4, 8) + rng.uniform(0, 6))
    line = move_inside(line, 8.0, surface.edge - 9)
    cover = stroke(line, taper(len(line), rng.uniform(1.3, 1.9), 0.5, 0.3))
    return darken(rng, surface.image, cover, 0.36, 0.52)


# --------------------------------------------------------------------------------------- spots of A


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


# --------------------------------------------------------------------------------------- spots of B


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


# --------------------------------------------------------------------------------------- spots of C


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
