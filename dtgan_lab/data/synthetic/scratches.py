"""Scratches of the synthetic SDI: bright strokes (A), granular lines (B), dark hairs (C).

A painter takes a random generator and a `Surface` and returns a painted copy of its image, float32
(128, 128) in grey levels, not clipped. Which pixels count as the defect is decided later, from the
difference (see `synthetic_sdi.draw`). Shapes follow the overview figure of the SDI data set.
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
    place_c,
    stroke,
    taper,
)
from dtgan_lab.data.synthetic.textures import (
    ROWS,
    SIZE,
    Field,
    Surface,
    noise,
    pick,
    slanted,
    smooth,
    step,
)

# ---------------------------------------------------------------------------------- product A


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


# ---------------------------------------------------------------------------------- product B


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


# ---------------------------------------------------------------------------------- product C


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
