"""Pasted defects leave the rest of an image alone, and look as their papers say."""

import pytest
import torch
from torch import Tensor

from dtgan_lab.baselines.paste import (
    PATCH_AREA,
    PERLIN_LEAST,
    Pasted,
    cut_paste,
    cut_paste_scar,
    paste_defects,
    perlin_anomalies,
    perlin_noise,
    rigid,
    shift,
)

SIZE = 32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def surfaces(n: int, channels: int = 1, seed: int = 1, level: float = 0.0) -> Tensor:
    noise = torch.randn(n, channels, SIZE, SIZE, generator=seeded(seed))
    return (level + 0.05 * noise).clamp(-1, 1)


def marked(n: int, channels: int = 1, level: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images with an upright bar, 0.6 brighter than the rest, in the upper left; its masks."""
    x, masks = surfaces(n, channels, seed=2, level=level), torch.zeros(n, 1, SIZE, SIZE)
    masks[:, :, 3:11, 4:6] = 255
    return torch.where(masks > 0, x + 0.6, x), masks


def made(kind: str, x: Tensor, seed: int = 0) -> Pasted:
    generator = seeded(seed)
    if kind == "defect":
        return paste_defects(x, *marked(len(x), x.shape[1]), generator)
    if kind == "patch":
        return cut_paste(x, generator)
    if kind == "scar":
        return cut_paste_scar(x, generator)
    return perlin_anomalies(x, surfaces(5, x.shape[1], seed=9, level=0.4), generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["defect", "patch", "scar", "perlin"])
def test_outside_the_mask_no_pixel_changes_and_the_seed_decides(kind, channels):
    x = surfaces(16, channels)
    before = x.clone()
    images, masks = made(kind, x)
    assert images.shape == x.shape and masks.shape == (16, 1, SIZE, SIZE)
    assert masks.dtype == torch.bool and images.dtype == torch.float32
    assert torch.equal(x, before), "the input is not written to"
    outside = ~masks.expand_as(x)
    assert torch.equal(images[outside], x[outside])
    assert masks.flatten(1).any(dim=1).all() and not masks.flatten(1).all(dim=1).any()
    changed = (images != x).flatten(1).any(dim=1)
    assert changed.all()
    assert images.abs().max() <= 1
    assert torch.equal(images, made(kind, x).images)
    assert not torch.equal(images, made(kind, x, seed=1).images)


# --- copy-paste ----------------------------------------------------------------------------------
def test_unturned_a_defect_arrives_whole_and_wherever_it_fits():
    x_ref, masks = marked(64)
    x = torch.zeros(64, 1, SIZE, SIZE)
    images, found = paste_defects(x, x_ref, masks, seeded(), turn=0, feather=0, match=False)
    assert (found.sum(dim=(1, 2, 3)) == 16).all()
    bar = x_ref[:, :, 3:11, 4:6].flatten(1).sort(dim=1).values
    for n in range(64):
        assert torch.allclose(images[n][found[n]].sort().values, bar[n], atol=1e-5)
    rows = found.any(dim=3)[:, 0].int().argmax(dim=1)
    assert rows.min() <= 2 and rows.max() >= SIZE - 8 - 2, "every place gets its chance"


def test_brightness_is_matched_and_a_rim_fades_outside():
    x_ref, masks = marked(8, level=-0.5)
    x = surfaces(8, level=0.3)
    matched = paste_defects(x, x_ref, masks, seeded(), turn=0, feather=0)
    plain = paste_defects(x, x_ref, masks, seeded(), turn=0, feather=0, match=False)
    assert matched.images[matched.masks].mean() == pytest.approx(0.9, abs=0.07)
    assert plain.images[plain.masks].mean() < 0.2
    x_ref, masks = marked(8)
    x = surfaces(8)
    hard = paste_defects(x, x_ref, masks, seeded(), turn=0, feather=0)
    soft = paste_defects(x, x_ref, masks, seeded(), turn=0, feather=2)
    core = hard.masks
    assert torch.equal(hard.images[core], soft.images[core])
    assert (core & ~soft.masks).sum() == 0
    assert soft.masks.sum() > 2 * core.sum()


def test_flips_only_where_allowed():
    x_ref, masks = torch.zeros(64, 1, SIZE, SIZE), torch.zeros(64, 1, SIZE, SIZE)
    masks[:, :, 10:14, 10:14] = 1
    x_ref[:, :, 10:14, 10] = 1.0  # the left column is bright
    x = torch.full((64, 1, SIZE, SIZE), -1.0)

    def bright_on_the_left(allowed: bool) -> int:
        flips = torch.full((64, 2), allowed)
        images, found = paste_defects(
            x, x_ref, masks, seeded(), flips=flips, turn=0, feather=0, match=False
        )
        pieces = images[found].view(64, 4, 4)
        return int((pieces[:, :, 0] > 0.5).all(dim=1).sum())

    assert bright_on_the_left(False) == 64
    assert 16 < bright_on_the_left(True) < 48


def test_a_long_scratch_that_turning_would_push_out_stays_unturned():
    masks = torch.zeros(8, 1, SIZE, SIZE)
    masks[:, :, 5, :] = 1
    masks[:, :, 26, :] = 1  # two lines across the whole image: turned, their ends would be lost
    _, found = paste_defects(
        surfaces(8), surfaces(8), masks, seeded(), turn=45, feather=0, match=False
    )
    assert (found.sum(dim=(1, 2, 3)) >= 0.85 * 64).all()


def test_rigid_turns_shift_moves_whole_pixels_and_an_empty_mask_is_refused():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 2, 4] = 1  # above the middle
    middle = torch.tensor([[4.0, 4.0]])
    turned = rigid(x, middle, middle, torch.tensor([torch.pi / 2]), torch.ones(1, 2))
    assert turned[0, 0, 4, 6] == pytest.approx(1, abs=1e-5), "a quarter clockwise, seen on screen"
    moved = shift(x, torch.tensor([3]), torch.tensor([-4]))
    assert moved[0, 0, 5, 0] == 1 and moved.sum() == 1
    x_ref, masks = marked(3)
    masks[1] = 0
    with pytest.raises(ValueError, match="1 of 3 references have an empty mask"):
        paste_defects(surfaces(3), x_ref, masks, seeded())


# --- CutPaste and Perlin noise -------------------------------------------------------------------
def test_cut_paste_takes_patches_of_the_image_itself_and_scars_are_thin():
    ramp = torch.linspace(-0.8, 0.8, SIZE).expand(200, 1, SIZE, SIZE).contiguous()
    images, masks = cut_paste(ramp, seeded())
    share = masks.flatten(1).float().mean(dim=1)
    assert share.min() >= 0.6 * PATCH_AREA[0] and share.max() <= 1.4 * PATCH_AREA[1]
    moved = (images - ramp).abs().flatten(1).amax(dim=1)
    assert (moved > 0.2).float().mean() > 0.5, "patches come from elsewhere"

    def mean_area(size: int) -> float:
        x = torch.zeros(80, 1, size, size)
        return float(cut_paste_scar(x, seeded()).masks.float().sum(dim=(1, 2, 3)).mean())

    wide = mean_area(256)
    assert 0.7 * 9 * 17.5 < wide < 1.3 * 9 * 17.5
    assert 1 <= mean_area(64) < wide / 8


def test_perlin_noise_is_smooth_and_its_anomalies_show_the_texture():
    noise = perlin_noise(3, SIZE, SIZE, (4, 8), seeded())
    assert noise.shape == (3, SIZE, SIZE)
    assert noise[:, ::8, ::4].abs().max() < 1e-6
    assert 0.3 < noise.abs().max() <= 1.0
    assert noise.diff(dim=1).abs().max() < 0.5
    fine = perlin_noise(3, SIZE, SIZE, (16, 16), seeded())
    assert fine.diff(dim=1).abs().mean() > 2 * noise.diff(dim=1).abs().mean()
    x = torch.zeros(64, 1, SIZE, SIZE)
    images, masks = perlin_anomalies(x, torch.full((2, 1, SIZE, SIZE), 0.9), seeded())
    share = masks.flatten(1).float().mean(dim=1)
    assert share.min() >= 0.8 * PERLIN_LEAST and share.max() < 0.6
    # the texture is flat, so an anomaly is one opacity times one brightness
    assert max(float(images[n][masks[n]].std()) for n in range(64)) < 1e-5
    assert torch.stack([images[n][masks[n]].mean() for n in range(64)]).std() > 0.2
