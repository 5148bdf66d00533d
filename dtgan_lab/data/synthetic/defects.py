"""Which kinds of scratches and spots each product of the synthetic SDI has, and how often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dtgan_lab.data.synthetic import scratches, spots
from dtgan_lab.data.synthetic.textures import Field, Surface

DefectPainter = Callable[[np.random.Generator, Surface], Field]

# Painters of every product and defect with how often each is used.
DEFECTS: dict[tuple[str, str], tuple[tuple[DefectPainter, float], ...]] = {
    ("A", "Scratches"): (
        (scratches.a_strokes, 0.32),
        (scratches.a_bundle, 0.24),
        (scratches.a_wedge, 0.16),
        (scratches.a_ledge, 0.12),
        (scratches.a_hook, 0.16),
    ),
    ("A", "Spots"): (
        (spots.a_cluster, 0.3),
        (spots.a_letters, 0.2),
        (spots.a_chain, 0.15),
        (spots.a_abrasion, 0.2),
        (spots.a_dots, 0.15),
    ),
    ("B", "Scratches"): (
        (scratches.b_wide, 0.42),
        (scratches.b_vertical, 0.2),
        (scratches.b_pair, 0.2),
        (scratches.b_dotted, 0.1),
        (scratches.b_drop, 0.08),
    ),
    ("B", "Spots"): (
        (spots.b_dot, 0.3),
        (spots.b_dark, 0.2),
        (spots.b_cluster, 0.16),
        (spots.b_comet, 0.1),
        (spots.b_haze, 0.12),
        (spots.b_rough, 0.12),
    ),
    ("C", "Scratches"): (
        (scratches.c_hair, 0.56),
        (scratches.c_tick, 0.28),
        (scratches.c_wave, 0.16),
    ),
    ("C", "Spots"): ((spots.c_speck, 0.42), (spots.c_clump, 0.34), (spots.c_flake, 0.24)),
}


def paint_defect(rng: np.random.Generator, surface: Surface, product: str, defect: str) -> Field:
    """Paint one random defect of a class; float32 (128, 128), not clipped."""
    painters = DEFECTS[product, defect]
    chances = np.cumsum([weight for _, weight in painters])
    pick = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
    return painters[min(pick, len(painters) - 1)][0](rng, surface).astype(np.float32)
