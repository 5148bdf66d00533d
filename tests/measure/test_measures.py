"""Every measure of quality on cases counted by hand."""

import math

import pytest
import torch
from torch import Tensor

from dtgan_lab.measure import measures
from dtgan_lab.measure.measures import (
    PSNR_LIMIT,
    crops,
    dilated,
    diversity,
    layer_by_ring,
    most_changed,
    psnr_outside,
)


def nothing(count: int, side: int) -> Tensor:
    return torch.zeros(count, 1, side, side, dtype=torch.bool)


# --- background ----------------------------------------------------------------------------------
def test_psnr_by_hand():
    x = torch.zeros(3, 1, 4, 4)
    fakes = torch.zeros(3, 1, 4, 4)
    fakes[0] = 0.2  # 4 / 0.04 = 100: 20 dB
    fakes[1, 0, 0, 0] = 1.6  # one of 16 pixels: 4 / 0.16 = 25: 13.98 dB
    found = psnr_outside(x, fakes, nothing(3, 4))
    assert found[:2].tolist() == pytest.approx([20.0, 10 * math.log10(25)], abs=1e-4)
    assert found[2] == PSNR_LIMIT  # untouched
    masks = nothing(3, 4)
    masks[1, 0, 0, 0] = True
    masks[2] = True
    found = psnr_outside(x, fakes, masks)
    assert found[0] == pytest.approx(20.0, abs=1e-4)
    assert found[1] == PSNR_LIMIT  # the only change was wanted
    assert found[2].isnan()  # no background left
    # it equals that of eight-bit images
    x, fakes = torch.randint(0, 256, (2, 1, 3, 8, 8)).float()
    expected = 10 * math.log10(255**2 / float((x - fakes).square().mean()))
    found = psnr_outside(x / 127.5 - 1, fakes / 127.5 - 1, nothing(1, 8))
    assert float(found[0]) == pytest.approx(expected, abs=1e-4)


def test_most_changed_takes_exactly_k_and_share_inside_as_many_as_the_mask_has():
    change = torch.zeros(2, 2, 3, 3)
    change[0, :, 1, 1], change[0, :, 2, 0] = -0.9, 0.5
    change[0, 0, 0, 2] = 0.8  # 0.4 over both channels
    masks = most_changed(change, 2)
    assert masks.shape == (2, 1, 3, 3)
    assert masks[0, 0].nonzero().tolist() == [[1, 1], [2, 0]]
    assert masks[1].sum() == 2  # all alike: still k
    assert most_changed(change, 0).sum() == 0
    assert most_changed(change, 9).all()
    change = torch.zeros(3, 1, 4, 4)
    change[0, 0, 0, :2] = torch.tensor([0.9, -0.8])  # both where they should be
    change[1, 0, 0, 0], change[1, 0, 3, 3] = 0.5, -0.7  # one of two
    masks = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    masks[:2, 0, 0, :2] = True
    found = measures.share_inside(change, masks, dilated(masks, 1))
    assert found[:2].tolist() == [1.0, 0.5]
    assert found[2].isnan()


def test_dilated_scaled_centroids_and_pairwise_l1_by_hand():
    masks = nothing(1, 9)
    masks[0, 0, 4, 0] = True
    grown = dilated(masks, 2)
    assert grown.sum() == 5 * 3
    assert grown[0, 0, 2:7, :3].all()
    assert [measures.scaled(3, side) for side in (16, 64, 128)] == [1, 3, 6]
    masks = nothing(2, 5)
    masks[0, 0, 1, 2:5] = True
    masks[0, 0, 3, 3] = True
    assert measures.centroids(masks).tolist() == [[1.5, 3.0], [2.0, 2.0]]
    layers = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert measures.pairwise_l1(layers) == pytest.approx((1 + 3 + 2) / 3)
    assert math.isnan(measures.pairwise_l1(layers[:1]))


# --- diversity -----------------------------------------------------------------------------------
def test_layer_by_ring_by_hand():
    x = torch.full((1, 1, 64, 64), 0.25)
    x[:, :, :10] = -1.0  # far from the defect: not in the ring
    masks = nothing(1, 64)
    masks[0, 0, 38:42, 38:42] = True
    x[masks] = 0.75
    x[0, 0, 36, 36] = 0.35  # inside the dilated mask
    expected = torch.zeros(64, 64)
    expected[38:42, 38:42], expected[36, 36] = 0.5, 0.1
    assert torch.allclose(layer_by_ring(x, masks)[0, 0], expected, atol=1e-6)
    # where the mask covers everything
    x = torch.full((1, 1, 16, 16), 0.5)
    x[0, 0, 0, 0] = 1.0
    layer = layer_by_ring(x, ~nothing(1, 16))
    assert layer[0, 0, 0, 0] == 0.5 and layer.count_nonzero() == 1


def test_diversity_of_layers_apart_is_two_of_equal_ones_none_of_nothing_not_a_number():
    layers = torch.zeros(3, 1, 4, 4)
    for n in range(3):
        layers[n, 0, n] = 0.5
    found = diversity(layers, 4)
    assert found["relative_diversity"] == pytest.approx(2.0)
    assert found["diversity"] == pytest.approx(2 * 0.5 * 4 / 16)
    assert found["core_diversity"] == pytest.approx(found["diversity"])
    # of equal layers it is none, of nothing not a number
    layers = torch.rand(1, 1, 8, 8).expand(5, 1, 8, 8)
    names = ("diversity", "relative_diversity", "core_diversity")
    assert diversity(layers, 4) == dict.fromkeys(names, 0.0)
    assert all(math.isnan(value) for value in diversity(torch.zeros(0, 1, 4, 4), 3).values())
    assert math.isnan(diversity(torch.zeros(4, 1, 4, 4))["relative_diversity"])


def test_core_diversity_ignores_a_faint_change_of_everything():
    layers = torch.zeros(3, 1, 16, 16)
    layers[:, 0, 3, 3:7] = 1.0  # the same defect on all
    haze = 0.1 * torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    haze[:, 0, 3, 3:7] = 0
    found = diversity(layers + haze, 4)
    assert found["core_diversity"] == 0
    assert found["diversity"] > 0.02
    assert math.isnan(diversity(layers)["core_diversity"])


# --- copies --------------------------------------------------------------------------------------


def test_crops_forget_brightness_and_stay_inside():
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    masks = nothing(1, 64)
    masks[0, 0, 30, 40] = True
    crop = crops(x, masks)
    assert crop.shape == (1, 24 * 24)
    assert torch.allclose(crop, crops(x - 0.3, masks), atol=1e-6)
    around = x[0, 0, 18:44, 28:54].unfold(0, 3, 1).unfold(1, 3, 1).mean(dim=(2, 3))  # (24, 24)
    assert torch.allclose(crop[0], (around - around.mean()).flatten(), atol=1e-6)
    corner = nothing(1, 64)
    corner[0, 0, 0, 63] = True
    inside = nothing(1, 64)
    inside[0, 0, 11, 51] = True
    assert torch.equal(crops(x, corner), crops(x, inside))
