"""Moving defect maps: exact on maps of one cell; and where a defect was painted."""

import pytest
import torch
from torch import Tensor

from dtgan_lab.placement import cut_out, painted_masks, painted_places, placed, sharp_part, to_cells


def one_cell(row: int, column: int, channels: int = 3, side: int = 16) -> Tensor:
    """A map (1, channels, side, side) that is 1, 2, 3 ... in one cell and 0 elsewhere."""
    c = torch.zeros(1, channels, side, side)
    c[0, :, row, column] = torch.arange(1.0, channels + 1)
    return c


def some_maps(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def at(row: float, column: float) -> Tensor:
    return torch.tensor([row, column])


def shifted(c: Tensor, by: Tensor) -> Tensor:
    return placed(c, torch.zeros_like(by), by)


def test_cells_pixels_and_cutting_out_by_hand():
    # a cell covers 4 x 4 pixels: its middle is between the second and the third of them
    pixels = torch.tensor([[1.5, 61.5], [31.5, 6.5]])
    assert to_cells(pixels, 64, 16).tolist() == [[0, 15], [7.5, 1.25]]
    assert to_cells(at(5, 7), 16, 16).tolist() == [5, 7]
    c = torch.ones(1, 2, 16, 16)
    kept = cut_out(c, at(8, 8), radius=2.0)
    assert kept[0, 0, 8].tolist() == [0] * 7 + [1, 1, 1] + [0] * 6
    assert kept[0, 1, 9, 9] == pytest.approx(2 - 2**0.5)
    assert cut_out(c, at(8, 8), radius=2.5)[0, 0, 8, 8:12].tolist() == [1, 1, 0.5, 0]


def test_no_change_is_none_and_a_shift_by_whole_cells_moves_bytes():
    c = some_maps()
    for around in (at(0, 0), at(7.5, 7.5), at(3.25, 9)):
        assert torch.equal(placed(c, around, around), c)
    moved = shifted(c, at(2, -3))
    assert torch.equal(moved[:, :, 2:, :-3], c[:, :, :-2, 3:])
    assert not moved[:, :, :2].any() and not moved[:, :, :, -3:].any()
    assert not shifted(c, at(16, 0)).any()


def test_a_cell_lands_where_it_is_wanted_and_part_of_a_shift_is_shared_out():
    assert torch.equal(placed(one_cell(3, 11), at(3, 11), at(8, 2)), one_cell(8, 2))
    assert torch.equal(shifted(one_cell(3, 11), at(-3, 4)), one_cell(0, 15))
    c = torch.cat([one_cell(3, 3), one_cell(5, 5)])
    moved = placed(c, torch.tensor([[3, 3], [5, 5]]), torch.tensor([[1, 2], [9, 14]]))
    assert torch.equal(moved, torch.cat([one_cell(1, 2), one_cell(9, 14)]))
    moved = shifted(one_cell(3, 11), at(0.25, 0.5))
    expected = 0.375 * (one_cell(3, 11) + one_cell(3, 12))
    expected += 0.125 * (one_cell(4, 11) + one_cell(4, 12))
    assert torch.equal(moved, expected)


def test_turning_is_counter_clockwise_and_four_quarters_are_a_whole():
    c = one_cell(8, 10)  # two to the right of (8, 8)
    assert torch.equal(placed(c, at(8, 8), at(8, 8), degrees=90.0), one_cell(6, 8))  # above it
    assert torch.equal(placed(c, at(8, 8), at(8, 8), degrees=180.0), one_cell(8, 6))
    assert torch.equal(placed(c, at(8, 8), at(8, 8), degrees=-90.0), one_cell(10, 8))
    whole = some_maps()
    middle = at(7.5, 7.5)
    for _ in range(4):
        whole = placed(whole, middle, middle, degrees=90.0)
    assert torch.allclose(whole, some_maps(), atol=1e-5)
    quarter = placed(some_maps(), middle, middle, degrees=90.0)
    assert torch.allclose(quarter, some_maps().rot90(1, (2, 3)))


def test_scaling_moves_away_from_the_middle_and_mirrored_twice_is_what_it_was():
    pair, middle = one_cell(4, 10) + one_cell(4, 12), at(4, 11)
    grown = placed(pair, middle, middle, factor=2.0)
    assert torch.equal(grown[:, :, 4, 9], pair[:, :, 4, 10])
    assert torch.equal(grown[:, :, 4, 13], pair[:, :, 4, 12])
    with pytest.raises(ValueError, match=r"factor is 0.*above 0"):
        placed(pair, middle, middle, factor=0.0)
    around = at(3, 7)
    once = placed(one_cell(3, 11), around, around, mirror=True)
    assert torch.equal(once, one_cell(3, 3))
    assert torch.equal(placed(once, around, around, mirror=True), one_cell(3, 11))
    # mirrored first, turned then: right -> left -> below
    both = placed(one_cell(3, 9), around, around, degrees=90.0, mirror=True)
    assert torch.equal(both, one_cell(5, 7))


def test_a_veil_is_no_defect():
    change = torch.zeros(1, 1, 64, 64)
    change[:, :, :, :32] = 1.0  # a veil over half the picture, with an edge
    change[:, :, 40:44, 50:55] -= 0.9
    assert painted_places(change).tolist() != [[41.5, 52]]
    change[:, :, :, :32] = torch.linspace(1, 0, 32)
    change += 0.5
    assert painted_places(change).tolist() == [[41.5, 52]]
    assert int(painted_masks(change).sum()) == 20
    assert int(painted_masks(torch.randn(2, 1, 32, 32)).sum()) == 2 * 5
    assert float(sharp_part(torch.full((1, 1, 64, 64), 0.5)).abs().max()) < 1e-6
