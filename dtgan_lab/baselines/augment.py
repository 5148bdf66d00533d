"""Augmentation inside GAN training, for baselines with little data: DiffAugment and ADA.

D sees augmented images alone, real and fake ones drawn from the same augmentations, and gradients
flow through them into G. Grey or RGB, any device, float32.

    D(diff_augment(real, generator)), D(diff_augment(fake, generator))      # Zhao et al. 2020
    D(ada_augment(real, p, generator)), D(ada_augment(fake, p, generator))  # Karras et al. 2020

What is drawn depends on the generator, the number of images and their size, not on the images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.batches import moved, picked
from dtgan_core.files import typed

# Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020, Sec. 4
TRANSLATION, CUTOUT = 1 / 8, 1 / 2  # of the side

# Karras et al., "Training GANs with Limited Data", NeurIPS 2020, appendix B
BLIT_SHIFT = 1 / 8  # of the side, at most
SCALE_SPREAD = 0.2  # of log2 of a scale, standard deviation
SHIFT_SPREAD = 1 / 8  # of the side, standard deviation
BRIGHTNESS_SPREAD = 0.2
CONTRAST_SPREAD = 0.5  # of log2
SATURATION_SPREAD = 1.0  # of log2
ADA_INTERVAL = 4  # minibatches that r_t is taken over


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1) on the images' device."""
    return values.view(-1, 1, 1, 1).to(like)


# --- DiffAugment ---------------------------------------------------------------------------------


def colour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness moved by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5.

    Saturation is the distance to the mean over channels: grey images stay as they are. Not clipped,
    as in the paper.
    """
    bright, saturated, contrast = torch.rand((3, len(x)), generator=generator)
    x = x + _per_image(bright - 0.5, x)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * _per_image(2 * saturated, x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * _per_image(contrast + 0.5, x)


def translation(x: Tensor, generator: torch.Generator) -> Tensor:
    """A shift by whole pixels, an eighth of the side at most; zeros come in."""
    n, _, height, width = x.shape
    reach = [round(side * TRANSLATION) for side in (height, width)]
    down, right = (torch.randint(-r, r + 1, (n,), generator=generator) for r in reach)
    rows, columns = torch.arange(height) - down[:, None], torch.arange(width) - right[:, None]
    there = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    x = picked(x, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return x * there[:, None].to(x)


def cutout(x: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side set to 0; it may reach over the border."""
    n, _, height, width = x.shape
    inside = []
    for side in (height, width):
        long = round(side * CUTOUT)
        first = torch.randint(0, side + (1 - long % 2), (n, 1), generator=generator) - long // 2
        place = torch.arange(side)
        inside.append((place >= first) & (place < first + long))
    kept = ~(inside[0][:, :, None] & inside[1][:, None, :])
    return x * kept[:, None].to(x)


def diff_augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Zhao et al. 2020: colour, translation and cutout of every image, differentiable.

    x is (N, ch, H, W) in [-1, 1]; the same state of the CPU `generator` augments two batches alike.
    """
    return cutout(translation(colour(x, generator), generator), generator)


# --- ADA -----------------------------------------------------------------------------------------


def ada_augment(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """The pipeline "bgc" of Karras et al. 2020: pixel blitting, geometry, colour; differentiable.

    Every single transformation is made with probability p, on its own; p = 0 returns x itself, to
    the bit. Our departures: one bilinear look-up with mirrored borders instead of wavelet filters;
    grey images have no hue and no saturation. x is (N, 1 or 3, H, H) in [-1, 1]; the same state of
    the CPU `generator` augments two batches alike. ValueError: p is no probability, or the images
    are not square.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; expected a probability, 0 to 1")
    if x.shape[2] != x.shape[3]:
        raise ValueError(
            f"the images are {tuple(x.shape[2:])}; expected squares, for quarter turns"
        )
    if p == 0:
        return x
    return _recoloured(_warped(_blitted(x, p, generator), p, generator), p, generator)


def _chosen(n: int, p: float, generator: torch.Generator) -> Tensor:
    """Which of N images, bool (N,), each with probability p."""
    return torch.rand(n, generator=generator) < p


def _blitted(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Left-right flips, quarter turns and whole-pixel shifts: pixels move, none is mixed."""
    n, _, side, _ = x.shape
    flip = _chosen(n, p, generator) & _chosen(n, 0.5, generator)
    x = torch.where(flip.view(n, 1, 1, 1).to(x.device), x.flip(3), x)
    turns = torch.randint(0, 4, (n,), generator=generator) * _chosen(n, p, generator)
    for k in range(1, 4):
        x = torch.where((turns == k).view(n, 1, 1, 1).to(x.device), x.rot90(k, (2, 3)), x)
    reach = round(side * BLIT_SHIFT)
    shifts = torch.randint(-reach, reach + 1, (2, n), generator=generator)
    shifts = shifts * _chosen(n, p, generator)
    return moved(x, shifts.T)


def _warped(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Scales, turns and a shift, in one look-up; images with none of them keep their pixels."""
    n = len(x)
    either = 1 - math.sqrt(1 - p)  # two turns, of which one at least happens with probability p

    def scale() -> Tensor:
        draw = SCALE_SPREAD * torch.randn(n, generator=generator)
        return torch.exp2(draw * _chosen(n, p, generator))

    def turn() -> Tensor:
        draw = math.pi * (2 * torch.rand(n, generator=generator) - 1)
        return _rotation(draw * _chosen(n, either, generator))

    isotropic = scale()
    first = turn()
    stretch = scale()
    second = turn()
    shift = 2 * SHIFT_SPREAD * torch.randn((n, 2, 1), generator=generator)  # the side is 2 units
    shift = shift * _chosen(n, p, generator).view(n, 1, 1)
    sides = torch.diag_embed(torch.stack([isotropic * stretch, isotropic / stretch], dim=1))
    turned = second @ sides @ first  # of places in the result, hence back and forth alike
    matrix = torch.cat([turned, shift], dim=2).to(x)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    still = (turned == torch.eye(2)).all(dim=(1, 2)) & (shift == 0).all(dim=(1, 2))
    return torch.where(still.view(n, 1, 1, 1).to(x.device), x, moved)


def _rotation(angle: Tensor) -> Tensor:
    """(N,) radians -> (N, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _recoloured(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, luma flip; hue and saturation where there are three channels."""
    n = len(x)
    bright = BRIGHTNESS_SPREAD * torch.randn(n, generator=generator) * _chosen(n, p, generator)
    draw = CONTRAST_SPREAD * torch.randn(n, generator=generator)
    contrast = torch.exp2(draw * _chosen(n, p, generator))
    flip = _chosen(n, p, generator) & _chosen(n, 0.5, generator)
    x = (x + _per_image(bright, x)) * _per_image(contrast, x)
    luma = x.mean(dim=1, keepdim=True)
    x = torch.where(flip.view(n, 1, 1, 1).to(x.device), x - 2 * luma, x)
    if x.shape[1] == 1:
        return x
    angle = math.pi * (2 * torch.rand(n, generator=generator) - 1) * _chosen(n, p, generator)
    draw = SATURATION_SPREAD * torch.randn(n, generator=generator)
    saturation = torch.exp2(draw * _chosen(n, p, generator))
    hue = _hue_rotation(angle).to(x)
    x = torch.einsum("nij,njhw->nihw", hue, x)
    luma = x.mean(dim=1, keepdim=True)
    return luma + (x - luma) * _per_image(saturation, x)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Turn of RGB about the grey axis (Rodrigues' formula): (N,) radians -> (N, 3, 3)."""
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3))
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)


# --- both behind one switch ----------------------------------------------------------------------


class Augmenter:
    """What every image goes through on its way to D: nothing, DiffAugment or ADA.

    ADA holds r_t at `target`: above it D overfits and p, the probability of each transformation,
    rises by up to 1 in `ramp` real images; below it p falls.
    """

    def __init__(self, kind: str, target: float, ramp: int) -> None:
        self.kind, self.target, self.ramp, self.p = kind, target, ramp, 0.0
        self._seen: list[tuple[float, int]] = []  # r_t and images of minibatches since p moved

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images, differentiably: float32 (N, ch, H, W) -> the same shape."""
        if self.kind == "diffaugment":
            return diff_augment(x, generator)
        return ada_augment(x, self.p, generator) if self.kind == "ada" else x

    def observe(self, d_real: Tensor) -> None:
        """Look at D's logits of a minibatch of augmented real images; p moves every fourth time.

        r_t = E[sign D(real)] (Karras et al. 2020, equation (1)): near 0 where D cannot tell, near 1
        where it knows the training images.
        """
        if self.kind != "ada":
            return
        self._seen.append((float(d_real.detach().float().sign().mean()), len(d_real)))
        if len(self._seen) == ADA_INTERVAL:
            images = sum(count for _, count in self._seen)
            r_t = sum(sign * count for sign, count in self._seen) / images
            self._seen = []
            if r_t != self.target:
                move = math.copysign(images / self.ramp, r_t - self.target)
                self.p = min(1.0, max(0.0, self.p + move))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain JSON; floats come back to the bit."""
        return {"ada_p": self.p, "ada_seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.p = typed(state.get("ada_p"), float, "ada_p")
        seen = typed(state.get("ada_seen"), list[list[float]], "ada_seen")
        self._seen = [(float(sign), int(count)) for sign, count in seen]
