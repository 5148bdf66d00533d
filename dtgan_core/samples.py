"""A quick look at what networks make: the grid that training writes now and then."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from dtgan_core.batches import ImageStore, step_generator

LATENT_COLUMNS = 2


def _first_of(store: ImageStore, product: int, defect: int, skip: int = 0) -> int | None:
    """Index of the (skip + 1)-th image of a cell, or of its last one; None for an empty cell."""
    cell = (store.products == product) & (store.defects == defect)
    found = cell.nonzero().flatten().tolist()
    return found[min(skip, len(found) - 1)] if found else None


@torch.no_grad()
def sample_grid(nets: Any, store: ImageStore, seed: int, rows: int = 1) -> np.ndarray:
    """One row a product: source, then a defect at a time latent-guided, reference and result.

    The reference comes from the next product that has the defect, so a row shows transfer across
    products.  The same seed and store give the same sources, references and latents every time.

    Args:
        nets: a module with G, M and E, such as the averaged networks.
        store: images to take sources and references from.
        seed: of the latents.
        rows: rows a product, each with a part, draws and references of its own.

    Returns:
        uint8 (height, width, 3), the tiles in one picture with white lines between.
    """
    device = store.device
    products, defects = range(len(store.product_names)), range(len(store.defect_names))
    tiles: list[Tensor] = []
    for p, row in ((p, row) for p in products for row in range(rows)):
        source = _first_of(store, p, store.anchor, skip=row)
        if source is None:
            continue
        x = store.to_float(torch.tensor([source]))
        background = nets.G.background(nets.G.encode(x))
        tiles.append(x)
        for y in (d for d in defects if d != store.anchor):
            label = torch.tensor([y], device=device)
            for column in range(LATENT_COLUMNS):
                z, noise = nets.M.draw(1, step_generator(f"{seed}/samples/{p}/{y}/{row}", column))
                guide = nets.M(z.to(device), label, [n.to(device) for n in noise])
                tiles.append(nets.G.render(background, *guide))
            donors = [(p + k) % len(products) for k in range(1, len(products) + 1)]
            found = [
                i for i in (_first_of(store, q, y, skip=3 + row) for q in donors) if i is not None
            ]
            x_ref = store.to_float(torch.tensor(found[:1]))
            tiles += [x_ref, nets.G.render(background, *nets.E(x_ref, label))]
    images = torch.cat(tiles).clamp(-1, 1).add(1).div(2).cpu()
    columns = 1 + (LATENT_COLUMNS + 2) * (len(defects) - 1)
    grid = make_grid(images, nrow=columns, padding=2, pad_value=1.0)
    return grid.mul(255).round().byte().permute(1, 2, 0).numpy()
