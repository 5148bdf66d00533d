"""A split held in memory as one uint8 tensor, and the balanced batches that training draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from dtgan_core.dataset import DatasetError
from dtgan_core.hardware import Workers


@dataclass(frozen=True)
class ImageStore:
    """All images of one split, decoded once.

    `images` are uint8 (N, C, H, W), 0 to 255; `products` and `defects` int64 (N,), indices into the
    names of all products and defects of the data set, also those this split does not hold (labels p
    and y); `anchor` is the index of the defect-free one. `flips`, bool (N, 2), says whether an
    image may be flipped (horizontally, vertically). N `paths`, in the order of the manifest, and
    `mask_paths`, '' where an image has no mask, are relative to `root`, the folder of the data set;
    `read_masks` decodes masks, by their paths and a (height, width).
    """

    images: torch.Tensor
    products: torch.Tensor
    defects: torch.Tensor
    paths: list[str]
    product_names: tuple[str, ...]
    defect_names: tuple[str, ...]
    anchor: int
    flips: torch.Tensor
    split: str
    root: Path
    mask_paths: list[str]
    read_masks: Callable[[Sequence[str], tuple[int, int]], torch.Tensor] | None = None
    _masks: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def load(
        cls,
        dataset: Any,
        split: str,
        image_size: int | tuple[int, int],
        channels: int,
        progress: bool = True,
    ) -> ImageStore:
        """Decode a split of a checked data set (`dtgan_lab.data.load_dataset`), such as "train".

        Images are squashed to `image_size` (side, or (height, width)), antialiased; `channels` is 1
        (grey) or 3 (RGB).
        """
        store: ImageStore = dataset.store(split, image_size, channels, progress)
        return store

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.paths)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to_float(self, index: torch.Tensor) -> torch.Tensor:
        """Images by index, int64 (n,), for the networks: float32 (n, C, H, W) in [-1, 1]."""
        chosen = self.images[index.to(self.device)]  # (n, C, H, W) uint8
        return chosen.to(torch.float32).div_(127.5).sub_(1.0)

    def to(self, device: torch.device | str) -> ImageStore:
        """The same store with its tensors on another device."""
        return replace(
            self,
            images=self.images.to(device),
            products=self.products.to(device),
            defects=self.defects.to(device),
            flips=self.flips.to(device),
            _masks=[mask.to(device) for mask in self._masks],
        )

    def masks(self) -> torch.Tensor | None:
        """Ground-truth masks, decoded at the first call: uint8 (N, 1, H, W), 0 or 255.

        Images without a mask file have an all-zero mask; None when no image has one. One that is
        not what was prepared raises DatasetError.
        """
        if not any(self.mask_paths):
            return None
        if not self._masks:
            assert self.read_masks is not None
            height, width = self.images.shape[2:]
            self._masks.append(self.read_masks(self.mask_paths, (height, width)).to(self.device))
        return self._masks[0]


@dataclass(frozen=True)
class Batch:
    """One draw of the sampler; all tensors on the store's device.

    `x`, float32 (B, C, H, W) in [-1, 1], are the sources, `y` and `p`, int64 (B,), their defects
    and products, `y_trg` the target defects; `x_ref` and `x_ref2`, as x, are references of `y_trg`,
    two images wherever the class has two. `moves`, int64 (B, 2, 2), says by how many pixels (down,
    right) D's view of a source and of its fake is moved; None leaves them where they are.
    """

    x: torch.Tensor
    y: torch.Tensor
    p: torch.Tensor
    y_trg: torch.Tensor
    x_ref: torch.Tensor
    x_ref2: torch.Tensor
    moves: torch.Tensor | None = None


def shard_batch(batch: Batch, workers: Workers) -> Batch:
    """This process's share of a global batch: every `world`-th image from `rank` on."""
    if workers.world == 1:
        return batch
    parts = {
        item.name: value[workers.rank :: workers.world]
        for item in fields(batch)
        if (value := getattr(batch, item.name)) is not None
    }
    return replace(batch, **parts)


class BalancedSampler:
    """Batches in which rare defects and products come as often as common ones.

    Source images: every non-empty cell (product, defect) as often as any other, within a batch as
    evenly as the batch size allows; uniform inside a cell. Targets: every defect as often as any
    other, independently of the source's own (so a target may equal it), but for cells without a
    real image (ours): of them D would learn one thing, that every image is a fake, and G to paint
    nothing there. References: of the target's defect, of any product that has it.

    A batch is a function of (seed, step) and nothing else, so no state needs saving.
    """

    def __init__(self, store: ImageStore, batch_size: int, seed: int, flip: bool = True) -> None:
        """Sort the images into cells; DatasetError: a defect without one has no reference."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.store, self.batch_size, self.seed, self.flip = store, batch_size, seed, flip
        by_cell: dict[tuple[int, int], list[int]] = {}
        labels = zip(store.products.tolist(), store.defects.tolist(), strict=True)
        for index, cell in enumerate(labels):
            by_cell.setdefault(cell, []).append(index)
        known = sorted(by_cell)
        self._cells = [by_cell[cell] for cell in known]
        self._targets = [[y for q, y in known if q == p] for p, _ in known]  # of a cell's product
        # _references[y]: for each product that has defect y, its images
        self._references = [
            [by_cell[cell] for cell in known if cell[1] == defect]
            for defect in range(len(store.defect_names))
        ]
        empty = [name for y, name in enumerate(store.defect_names) if not self._references[y]]
        if empty:
            raise DatasetError(
                f"{store.root}: the split {store.split!r} holds no image of "
                f"{', '.join(empty)}, expected at least one of every defect in "
                f"{store.defect_names}; add images or take the name out of dataset.json"
            )

    def draw(self, step: int) -> Batch:
        """The batch of a step, 0 or more: a function of (seed, step), whatever was drawn before."""
        generator = step_generator(self.seed, step)
        count = self.batch_size
        cells = stratified(len(self._cells), count, generator)
        targets = stratified(len(self._references), count, generator)
        for k, own in enumerate(self._targets[c] for c in cells):
            targets[k] = targets[k] if targets[k] in own else own[targets[k] % len(own)]
        # One column per decision, drawn at once: a torch call costs more than the decision.
        chances = torch.rand((count, 5), generator=generator, dtype=torch.float64).tolist()
        coins = torch.rand((3 * count, 2), generator=generator) < 0.5  # (3B, 2)

        sources = [_pick(self._cells[c], u[0]) for c, u in zip(cells, chances, strict=True)]
        pairs = [
            _pick_pair(self._references[y], u[1:]) for y, u in zip(targets, chances, strict=True)
        ]
        index = torch.tensor(sources + [a for a, _ in pairs] + [b for _, b in pairs])  # (3B,)
        index = sent(index, self.store.device)
        images = self.store.to_float(index)  # (3B, C, H, W)
        if self.flip:
            images = flipped(images, sent(coins, images.device) & self.store.flips[index])
        x, x_ref, x_ref2 = images.split(count)
        return Batch(
            x=x,
            y=self.store.defects[index[:count]],
            p=self.store.products[index[:count]],
            y_trg=sent(torch.tensor(targets), self.store.device),
            x_ref=x_ref,
            x_ref2=x_ref2,
        )


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """CPU values on a device, without waiting for what it is doing."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def step_generator(seed: int | str, step: int) -> torch.Generator:
    """A CPU generator that depends on (seed, step) alone; neighbours are unrelated.

    `seed` is a number, or a text such as "0/latents" for a stream beside the data's.
    """
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def stratified(kinds: int, count: int, generator: torch.Generator) -> list[int]:
    """`count` draws out of range(kinds), each kind as often as any other, give or take one."""
    rounds = [torch.randperm(kinds, generator=generator) for _ in range(-(-count // kinds))]
    drawn: list[int] = torch.cat(rounds)[:count].tolist()
    return drawn


def _pick(items: Sequence[int], chance: float) -> int:
    return items[int(chance * len(items))]


def _pick_pair(cells: list[list[int]], chances: list[float]) -> tuple[int, int]:
    """Two images of one defect, which differ where it has two; the product of each uniform."""
    first_cell = int(chances[0] * len(cells))
    first = _pick(cells[first_cell], chances[1])
    choices = [c for c in range(len(cells)) if c != first_cell or len(cells[c]) > 1]
    if not choices:
        return first, first
    second_cell = _pick(choices, chances[2])
    others = cells[second_cell]
    if second_cell == first_cell:
        others = [image for image in others if image != first]
    return first, _pick(others, chances[3])


def flipped(images: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    """Flip image i (n, C, H, W) left-right where coins[i, 0] and upside down where coins[i, 1]."""
    horizontal, vertical = coins[:, 0, None, None, None], coins[:, 1, None, None, None]
    images = torch.where(horizontal, images.flip(3), images)  # (n, C, H, W)
    return torch.where(vertical, images.flip(2), images)  # (n, C, H, W)


def picked(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """images[n, :, rows[n, i], columns[n, j]]: rows (N, H), columns (N, W) -> (N, ch, H, W)."""
    n, channels, height, width = images.shape
    rows, columns = rows.to(images.device), columns.to(images.device)
    images = images.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
    return images.gather(3, columns[:, None, None, :].expand(n, channels, height, width))


def moved(images: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Squares (N, ch, H, H) moved by int64 (N, 2) pixels, down and right; mirrored at borders."""
    side = images.shape[2]
    place = (torch.arange(side, device=moves.device) - moves[:, :, None]).abs()  # (N, 2, side)
    place = torch.where(place >= side, 2 * (side - 1) - place, place)
    return picked(images, place[:, 0], place[:, 1])
