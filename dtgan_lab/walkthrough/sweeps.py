"""Sweeps over styles and defects (Fig. 5), and the number behind them.

Fig. 5 shows one defect under many styles: the defect should change, the product should not.  How
far that holds is the spread over styles inside the defect against the spread outside of it
(`style_variation`), which is our own measure; the paper gives none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from dtgan_core.networks import Guide
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.measure.measures import MASK_REACH, dilated, most_changed, scaled

DEFECT_AREA = 40  # pixels of a defect at 64 x 64; the synthetic SDI's masks cover 32 and 49
LEVELS = 127.5  # grey levels for 1.0 of [-1, 1]


def between(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Styles on the straight way from one to another, both ends included.

    Args:
        first: (S,) or (1, S).
        second: the same.
        steps: how many, at least 2.

    Returns:
        (steps, S).
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected at least 2, the two ends")
    share = torch.linspace(0, 1, steps, device=first.device)[:, None]
    return torch.lerp(first.reshape(1, -1), second.reshape(1, -1), share)


def defects_on_parts(synth: Synthesizer, x: Tensor, guide: Guide) -> Tensor:
    """Every defect on every part, each with its own style.

    Args:
        synth: the model.
        x: (N, ch, H, W) in [-1, 1].
        guide: c and s of D defects.

    Returns:
        (N, D, ch, H, W) in [-1, 1].
    """
    n, d = len(x), len(guide.s)
    everywhere = Guide(guide.c.repeat(n, 1, 1, 1), guide.s.repeat(n, 1))
    return synth.paint(synth.background(x), everywhere).unflatten(0, (n, d))


def styles_on_defects(synth: Synthesizer, x: Tensor, c: Tensor, styles: Tensor) -> Tensor:
    """Every style on every defect, all on one part.

    Args:
        synth: the model.
        x: (1, ch, H, W) in [-1, 1].
        c: (D, C, h, w).
        styles: (K, S).

    Returns:
        (D, K, ch, H, W) in [-1, 1].
    """
    d, k = len(c), len(styles)
    guide = Guide(c.repeat_interleave(k, dim=0), styles.repeat(d, 1))
    return synth.paint(synth.background(x), guide).unflatten(0, (d, k))


# --- the number behind Fig. 5 --------------------------------------------------------------------


def spread_over_styles(sweep: Tensor) -> Tensor:
    """Standard deviation of every pixel over styles, in grey levels of 255.

    Args:
        sweep: (N, K, ch, H, W) in [-1, 1], K at least 2 (`Synthesizer.style_sweep`).

    Returns:
        (N, 1, H, W), averaged over channels.
    """
    return LEVELS * sweep.float().std(dim=1).mean(dim=1, keepdim=True)


def swept_masks(plain: Tensor, sweep: Tensor, area: int) -> Tensor:
    """Where a sweep has its defect: the pixels that change most, on average over styles.

    Args:
        plain: (N, ch, H, W), without a defect.
        sweep: (N, K, ch, H, W).
        area: pixels.

    Returns:
        bool (N, 1, H, W).
    """
    return most_changed((sweep - plain[:, None]).abs().mean(dim=1), area)


def style_variation(
    synth: Synthesizer, x: Tensor, c: Tensor, styles: Tensor, area: int | None = None
) -> pd.DataFrame:
    """How much a defect varies with its style, and how much the product does, image by image.

    The first half of the styles says where the defect is (`swept_masks`), the second half is
    measured: pixels chosen for their change under the same styles would count as varying by
    selection alone.

    Args:
        synth: the model, of any configuration.
        x: (N, ch, H, W) in [-1, 1].
        c: (N or 1, C, h, w), held fixed.
        styles: (K, S), K at least 4.
        area: pixels of a defect; default `DEFECT_AREA`, by area at other sizes.

    Returns:
        A row an image: inside and outside, the mean standard deviation over styles (grey levels) in
        the mask and beyond the dilated mask; level, that of the mean grey beyond it, which tells
        how much of `outside` is brightness of the whole part; ratio, inside over outside.

    Raises:
        ValueError: fewer than four styles.
    """
    half = len(styles) // 2
    if half < 2:
        raise ValueError(f"found {len(styles)} styles; expected at least 4, two for each half")
    side = x.shape[-1]
    area = area or max(1, round(DEFECT_AREA * (side / 64) ** 2))
    sweep = synth.style_sweep(x, c, styles)
    plain = synth.without_defect(synth.background(x))
    masks = swept_masks(plain, sweep[:, :half], area)
    spread = spread_over_styles(sweep[:, half:])
    beyond = ~dilated(masks, scaled(MASK_REACH, side))
    inside, outside = (
        (spread * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)) for mask in (masks, beyond)
    )
    grey = (sweep[:, half:].mean(dim=2) * beyond).sum(dim=(2, 3)) / beyond.sum(dim=(2, 3))  # (N, K)
    level = LEVELS * grey.std(dim=1)
    columns = {"inside": inside, "outside": outside, "level": level, "ratio": inside / outside}
    return pd.DataFrame({name: values.cpu().double() for name, values in columns.items()})


def variation_study(
    synth: Synthesizer,
    parts: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    styles: int = 32,
    seeds: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """`style_variation` of every product and defect, under styles of several seeds.

    Args:
        synth: the model.
        parts: product -> (N, ch, H, W), good parts.
        references: defect -> (R, ch, H, W); part number n takes its c from reference n modulo R.
        styles: drawn by M for each seed.
        seeds: of the styles.

    Returns:
        A row a product, defect, seed and image, with the columns of `style_variation`.
    """
    tables = []
    for defect, x_ref in references.items():
        maps = synth.reference_guides(x_ref, defect).c
        for product, x in parts.items():
            c = maps[torch.arange(len(x)) % len(maps)]
            for seed in seeds:
                drawn = synth.latent_guides(defect, seed, range(styles)).s
                found = style_variation(synth, x, c, drawn)
                found.insert(0, "image", range(len(x)))
                tables.append(found.assign(product=product, defect=defect, seed=seed))
    return pd.concat(tables, ignore_index=True)


def variation_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means of a `variation_study` with their spread over seeds.

    Returns:
        A row a product and defect: n (images a seed), seeds; inside, outside, level and ratio
        (mean inside over mean outside) as means over seeds, each with its `_std`.
    """
    keys = ["product", "defect"]
    by_seed = table.groupby([*keys, "seed"], sort=False)[["inside", "outside", "level"]].mean()
    by_seed["ratio"] = by_seed["inside"] / by_seed["outside"]
    cells = by_seed.groupby(level=keys, sort=False)
    sizes = table.groupby([*keys, "seed"], sort=False).size().groupby(level=keys, sort=False)
    result = pd.DataFrame({"n": sizes.first(), "seeds": sizes.size()})
    for column in ("inside", "outside", "level", "ratio"):
        result[column] = cells[column].mean()
        result[f"{column}_std"] = cells[column].std()
    return result.reset_index()
