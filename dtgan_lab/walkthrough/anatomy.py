"""Taking a DT-GAN apart: shapes, sizes, and what its maps hold where a defect is or is not.

The measurements behind the notebook on networks and losses; `anatomy_losses` holds those of the
objective, `plots.anatomy` the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from dtgan_core.batches import ImageStore
from dtgan_core.config import Config, make_config
from dtgan_core.dataset import Dataset, DatasetError
from dtgan_core.images import image_to_array
from dtgan_core.layers import ResBlock
from dtgan_core.networks import Features, Generator, Guide, Networks
from dtgan_core.synthesis import Synthesizer

# --- sizes ---------------------------------------------------------------------------------------


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Residual blocks and whatever holds none of them: the rows of a table of layers."""
    for child, inner in module.named_children():
        holds_blocks = any(isinstance(m, ResBlock) for m in inner.modules() if m is not inner)
        opened = holds_blocks or isinstance(inner, nn.ModuleList | nn.ModuleDict)
        if opened and not isinstance(inner, ResBlock):
            yield from _parts(inner, f"{name}{child}.")
        else:
            yield name + child, inner


def layer_shapes(nets: Networks, config: Config) -> pd.DataFrame:
    """What every part of the four networks hands on, caught by hooks in one pass of zeros.

    Args:
        nets: the networks.
        config: the experiment they belong to.

    Returns:
        One row a part in the order of the calls: "network", "part", "output" (channels x height x
        width of one sample, or its length) and "parameters".
    """
    model, handles = config.model, []
    rows: list[tuple[str, str, str, int]] = []

    def watch(network: str, part: str, module: nn.Module) -> None:
        count = sum(weight.numel() for weight in module.parameters())

        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            rows.append((network, part, " x ".join(map(str, output.shape[1:])), count))

        handles.append(module.register_forward_hook(note))

    for network in ("G", "M", "E", "D"):
        for part, module in _parts(getattr(nets, network)):
            watch(network, part, module)
    x = torch.zeros(1, model.channels, model.image_size, model.image_size)
    y = torch.tensor([(model.anchor + 1) % model.defects])
    try:
        with torch.no_grad():
            nets.G(x, torch.ones(1, *model.defect_shape), torch.zeros(1, model.style_dim))
            z, noise = nets.M.draw(1, torch.Generator().manual_seed(0))
            nets.M(z, y, noise)
            nets.E(x, y)
            nets.D(x)
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows, columns=["network", "part", "output", "parameters"])


def parameter_counts(preset: str, ablations: str = "abcde") -> pd.DataFrame:
    """Parameters of every network under each configuration of Fig. 3.

    Args:
        preset: as `make_config` takes it.
        ablations: letters of the configurations.

    Returns:
        Index: "(a)" and so on; columns: G, M, E, D and "all".
    """
    counts = {}
    for letter in ablations:
        with torch.device("meta"):  # shapes without memory: preset `paper` has many millions
            nets = Networks(make_config(preset, letter).model)
        sizes = {n: sum(w.numel() for w in getattr(nets, n).parameters()) for n in "GMED"}
        counts[f"({letter})"] = {**sizes, "all": sum(sizes.values())}
    return pd.DataFrame(counts).T


# --- the same part with and without its defect ---------------------------------------------------


class Pairs(NamedTuple):
    """Images with a defect, and the same parts without it."""

    x: Tensor  # (N, ch, H, W) in [-1, 1]
    twin: Tensor  # as x, the defect-free twins
    mask: Tensor  # (N, H, W), 1 on the defect, 0 elsewhere
    y: Tensor  # (N,) defects
    p: Tensor  # (N,) products

    def pick(self, index: list[int]) -> Pairs:
        """The pairs of these numbers."""
        return Pairs(*(value[index] for value in self))

    def of(self, product: int, defect: int) -> list[int]:
        """Numbers of the pairs of one product and defect."""
        return ((self.p == product) & (self.y == defect)).nonzero().flatten().tolist()

    def clearest(self, product: int, defect: int) -> int:
        """Number of the pair of a product and defect whose defect changes the picture most."""
        change = (self.x - self.twin).abs().flatten(1).sum(dim=1)
        return max(self.of(product, defect), key=lambda number: float(change[number]))


def twin_pairs(dataset: Dataset, store: ImageStore) -> Pairs:
    """Every image of a split that has a mask and a defect-free twin.

    Args:
        dataset: the data set that `store` was loaded from.
        store: one split of it.

    Raises:
        DatasetError: the split has no such image (of the kit's sets, the synthetic SDI has them).
    """
    twins = dict(zip(dataset.manifest["path"], dataset.manifest["twin"], strict=True))
    index = [n for n, path in enumerate(store.paths) if twins[path] and store.mask_paths[n]]
    masks = store.masks()
    if not index or masks is None:
        raise DatasetError(
            f"{dataset.root}: found no image with a mask and a defect-free twin in the split "
            f"{store.split!r}, expected some; draw a set that has them: "
            "python data_scripts/make_synthetic_sdi.py --out DIR"
        )
    _, channels, height, width = store.images.shape
    arrays = [
        image_to_array(dataset.root / twins[store.paths[n]], channels, (height, width))
        for n in index
    ]
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return Pairs(
        x=store.to_float(torch.tensor(index)),
        twin=stacked.float() / 127.5 - 1,
        mask=(masks[index, 0] > 127).float(),
        y=store.defects[index],
        p=store.products[index],
    )


def strength(maps: Tensor) -> Tensor:
    """Mean |value| over the channels: (N, C, h, w) -> (N, h, w)."""
    return maps.detach().float().abs().mean(dim=1)


def relative_change(a: Tensor, b: Tensor) -> np.ndarray:
    """Mean |a - b| / mean |a| a sample; (N, C, h, w) each -> (N,)."""
    change = (a - b).abs().flatten(1).mean(dim=1) / a.abs().flatten(1).mean(dim=1).clamp(min=1e-12)
    return change.numpy()


def localisation(heat: Tensor, mask: Tensor) -> np.ndarray:
    """How well a heat map finds the defect: its area under the ROC curve over the cells.

    Args:
        heat: (N, h, w), any scale.
        mask: (N, H, W), 1 on the defect; a cell counts as defective where the mask touches it.

    Returns:
        (N,) in [0, 1]: 1 ranks every defective cell before every clean one, 0.5 is chance; NaN
        where all cells are alike.
    """
    cells = F.adaptive_max_pool2d(mask[:, None], heat.shape[-1])[:, 0].flatten(1) > 0.5
    return np.array(
        [
            roc_auc_score(truth, value) if 0 < truth.sum() < truth.size else np.nan
            for truth, value in zip(cells.numpy(), heat.flatten(1).numpy(), strict=True)
        ]
    )


def bottlenecks(synth: Synthesizer, pairs: Pairs) -> tuple[Features, Features]:
    """G's bottleneck of the twins, and of the same parts with their defect."""
    with torch.inference_mode():
        return synth.G.encode(pairs.twin), synth.G.encode(pairs.x)


def defect_moves(synth: Synthesizer, pairs: Pairs) -> pd.DataFrame:
    """What a defect changes in the two halves of the bottleneck, and whether it does so in place.

    Returns:
        One row a pair: "defect"; for BG and FG the size of the change over that of the half with
        the defect, and the `localisation` of the change.
    """
    clean, seen = bottlenecks(synth, pairs)
    table = pd.DataFrame({"defect": [synth.defects[int(y)] for y in pairs.y]})
    for name, a, b in zip(("BG", "FG"), clean, seen, strict=True):
        table[f"{name}: |change| / |{name}|"] = relative_change(b, a)
        table[f"{name}: AUC of the change"] = localisation(strength(b - a), pairs.mask)
    return table


def by_defect(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of the rows of every defect."""
    groups = table.groupby("defect")
    summary = groups.agg(["mean", "std"])
    summary[("images", "n")] = groups.size()
    return summary


def inside_outside(change: Tensor, mask: Tensor) -> tuple[float, float]:
    """Mean |change| on the masked pixels and off them; (N, ch, H, W), (N, H, W) 0/1."""
    size, inside = change.abs().mean(dim=1), mask > 0.5
    return float(size[inside].mean()), float(size[~inside].mean())


def correlation(a: Tensor, b: Tensor) -> np.ndarray:
    """Pearson's correlation of two samples over all their values; (N, ...) each -> (N,)."""
    a, b = (value.flatten(1) - value.flatten(1).mean(dim=1, keepdim=True) for value in (a, b))
    return F.cosine_similarity(a, b, dim=1).numpy()


# --- M -------------------------------------------------------------------------------------------


def mapping_variants(
    synth: Synthesizer, defect: str, draws: int, cells: int, seed: int
) -> dict[str, Guide]:
    """What M makes of latents, of other latents, and of the same under changes.

    Args:
        synth: the model.
        defect: the domain.
        draws: latents, N.
        cells: how far the map is moved to the right, round the edge.
        seed: of latents and noise.

    Returns:
        "z", "other z", "other noise" (same z) and "map moved" (same c and s, c moved).
    """
    generator = torch.Generator().manual_seed(seed)
    (z, noise), (other, other_noise) = (synth.M.draw(draws, generator) for _ in range(2))
    y = synth.label(defect, draws)
    with torch.inference_mode():
        first = synth.M(z, y, noise)
        return {
            "z": first,
            "other z": synth.M(other, y, other_noise),
            "other noise": synth.M(z, y, other_noise),
            "map moved": Guide(first.c.roll(cells, dims=3), first.s),
        }


def mapping_measures(
    synth: Synthesizer, x: Tensor, guides: dict[str, Guide], cells: int
) -> dict[str, float]:
    """How far `mapping_variants` differ, and whether the paint follows the map that was moved.

    Args:
        synth: the model.
        x: (1, ch, H, W), the part to paint on.
        guides: of `mapping_variants`.
        cells: as there.
    """
    ground, first = synth.background(x), guides["z"]
    bare = synth.paint(ground, Guide(torch.zeros_like(first.c), first.s))
    paint, moved = (synth.paint(ground, guides[name]) - bare for name in ("z", "map moved"))
    pixels = cells * (x.shape[-1] // first.c.shape[-1])
    return {
        "other z: |change of c| / |c|": relative_change(first.c, guides["other z"].c).mean(),
        "other noise: |change of c| / |c|": relative_change(
            first.c, guides["other noise"].c
        ).mean(),
        "map moved: r with the paint moved as far": correlation(
            paint.roll(pixels, dims=3), moved
        ).mean(),
        "map moved: r with the paint left in place": correlation(paint, moved).mean(),
    }


def mean_distance(images: Tensor) -> float:
    """Mean |difference| of all pairs of images in grey levels; (K, ch, H, W) in [-1, 1]."""
    distances = [(a - b).abs().mean() for a, b in combinations(images, 2)]
    return 127.5 * float(torch.stack(distances).mean())


# --- the defect's own decoder --------------------------------------------------------------------


@torch.no_grad()
def defect_layer(generator: Generator, x: Tensor, guide: Guide) -> tuple[Tensor, Tensor]:
    """What the defect decoder adds to the decoded background, and the image that comes of it.

    Args:
        generator: of configuration (d) or (e).
        x: (N, ch, H, W) in [-1, 1].
        guide: c (N, C, h, w), none of them all zero, and s (N, S).

    Returns:
        layer: (N, width, H, W), before it is added; image: (N, ch, H, W), not clipped.

    Raises:
        ValueError: the generator has one decoder for both.
    """
    if not generator.config.separate_decoders:
        raise ValueError("this generator decodes [BG, c] together; expected configuration (d), (e)")
    caught: list[Tensor] = []
    handle = generator.pool_defect.register_forward_hook(lambda *call: caught.append(call[2]))
    try:
        image = generator(x, guide.c, guide.s)
    finally:
        handle.remove()
    return caught[0], image


@torch.no_grad()
def blend_parts(generator: Generator, x: Tensor, guide: Guide) -> dict[str, Tensor]:
    """What meets where a defect is laid over a background, and what is due to their meeting.

    Args:
        generator: of configuration (d) or (e).
        x: (N, ch, H, W) in [-1, 1].
        guide: c (N, C, h, w), none of them all zero, and s (N, S).

    Returns:
        "background" and "defect", the decoded maps before they are added, (N, width, H, W), images
        where they are layered; "change" (N, ch, H, W), what the defect changes of the image; and
        "change on flat", the same over a background without any feature, its own mean everywhere.

    Raises:
        ValueError: the generator has one decoder for both.
    """
    layer, image = defect_layer(generator, x, guide)
    background = generator.background(generator.encode(x))
    flat = background.mean(dim=(2, 3), keepdim=True).expand_as(background).contiguous()
    nothing = torch.zeros_like(guide.c)
    on_flat = generator.render(flat, guide.c, guide.s)
    return {
        "background": background,
        "defect": layer,
        "change": image - generator.render(background, nothing, guide.s),
        "change on flat": on_flat - generator.render(flat, nothing, guide.s),
    }


def map_distances(drawn: Tensor, read: Tensor) -> dict[str, float]:
    """How far the defect maps that M draws lie from those that E reads.

    Args:
        drawn: (K, C, h, w), maps of M.
        read: (N, C, h, w), maps of E, of the same defect.

    Returns:
        "|c| drawn" and "|c| read", means; and the mean L1 distance, a number of c's own units, of
        two "drawn", of two "read", and of one of each, "drawn to read".
    """

    def between(a: Tensor, b: Tensor, pairs: int) -> float:
        distances = torch.cdist(a.flatten(1), b.flatten(1), p=1) / a[0].numel()
        return float(distances.sum() / pairs)  # a map's distance to itself is 0

    k, n = len(drawn), len(read)
    return {
        "|c| drawn": float(drawn.abs().mean()),
        "|c| read": float(read.abs().mean()),
        "two drawn": between(drawn, drawn, k * (k - 1)),
        "two read": between(read, read, n * (n - 1)),
        "drawn to read": between(drawn, read, k * n),
    }
