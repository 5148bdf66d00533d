"""Moving defect maps: exact on maps of one cell, and what a network makes of a moved map."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer
from dtgan_lab.walkthrough.placement import (
    cut_out,
    map_centroids,
    mirrored,
    mixed,
    placed,
    rescaled,
    rotated,
    shifted,
    to_cells,
    to_pixels,
)
from dtgan_lab.walkthrough.placement_study import (
    defect_change,
    moved_defect,
    painted_directions,
    painted_masks,
    painted_places,
    placement_study,
    placement_summary,
    sharp_part,
    turning_study,
)
from tests.core_fixtures import SIZE, tiny_config, tiny_store, write_tiny_export


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    return Synthesizer.load(write_tiny_export(tmp_path_factory.mktemp("placement") / "export"))


def one_cell(row: int, column: int, channels: int = 3, side: int = 16) -> Tensor:
    """A map (1, channels, side, side) that is 1, 2, 3 ... in one cell and 0 elsewhere."""
    c = torch.zeros(1, channels, side, side)
    c[0, :, row, column] = torch.arange(1.0, channels + 1)
    return c


def some_maps(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def at(row: float, column: float) -> Tensor:
    return torch.tensor([row, column])


# --- places --------------------------------------------------------------------------------------


def test_cells_and_pixels_by_hand() -> None:
    # a cell covers 4 x 4 pixels: its middle is between the second and the third of them
    places = torch.tensor([[0.0, 15.0], [7.5, 1.25]])
    assert to_pixels(places, 64, 16).tolist() == [[1.5, 61.5], [31.5, 6.5]]
    assert torch.equal(to_cells(to_pixels(places, 64, 16), 64, 16), places)
    assert to_cells(at(5, 7), 16, 16).tolist() == [5, 7]


def test_the_centroid_of_one_cell_two_cells_and_none() -> None:
    assert map_centroids(one_cell(3, 11)).tolist() == [[3, 11]]
    both = torch.cat([one_cell(2, 4) - 3 * one_cell(6, 8), torch.zeros(1, 3, 16, 16)])
    # weights 1 and 3, whatever the sign; an empty map counts as its middle
    assert map_centroids(both).tolist() == [[5, 7], [7.5, 7.5]]


# --- moving --------------------------------------------------------------------------------------


def test_no_change_is_exactly_none() -> None:
    c = some_maps()
    for around in (at(0, 0), at(7.5, 7.5), at(3.25, 9)):
        assert torch.equal(placed(c, around, around), c)
    assert torch.equal(rotated(c, 0.0), c)
    assert torch.equal(rescaled(c, 1.0), c)
    assert torch.equal(shifted(c, at(0, 0)), c)


def test_a_cell_lands_where_it_is_wanted() -> None:
    assert torch.equal(placed(one_cell(3, 11), at(3, 11), at(8, 2)), one_cell(8, 2))
    assert torch.equal(shifted(one_cell(3, 11), at(-3, 4)), one_cell(0, 15))


def test_each_map_has_a_place_of_its_own() -> None:
    c = torch.cat([one_cell(3, 3), one_cell(5, 5)])
    moved = placed(c, map_centroids(c), torch.tensor([[1.0, 2.0], [9.0, 14.0]]))
    assert torch.equal(moved, torch.cat([one_cell(1, 2), one_cell(9, 14)]))


def test_a_shift_by_whole_cells_moves_bytes_and_fills_with_zeros() -> None:
    c = some_maps()
    moved = shifted(c, at(2, -3))
    assert torch.equal(moved[:, :, 2:, :-3], c[:, :, :-2, 3:])
    assert not moved[:, :, :2].any() and not moved[:, :, :, -3:].any()
    assert not shifted(c, at(16, 0)).any()


def test_a_shift_by_part_of_a_cell_shares_it_out() -> None:
    moved = shifted(one_cell(3, 11), at(0.25, 0.5))
    expected = 0.375 * (one_cell(3, 11) + one_cell(3, 12))
    expected += 0.125 * (one_cell(4, 11) + one_cell(4, 12))
    assert torch.equal(moved, expected)
    assert map_centroids(moved).tolist() == [[3.25, 11.5]]


def test_turning_is_counter_clockwise_and_four_quarters_are_a_whole() -> None:
    c = one_cell(8, 10)  # two to the right of (8, 8)
    assert torch.equal(rotated(c, 90.0, at(8, 8)), one_cell(6, 8))  # above it
    assert torch.equal(rotated(c, 180.0, at(8, 8)), one_cell(8, 6))
    assert torch.equal(rotated(c, -90.0, at(8, 8)), one_cell(10, 8))
    whole = some_maps()
    middle = at(7.5, 7.5)
    for _ in range(4):
        whole = rotated(whole, 90.0, middle)
    assert torch.allclose(whole, some_maps(), atol=1e-5)
    assert torch.allclose(rotated(some_maps(), 90.0, middle), some_maps().rot90(1, (2, 3)))


def test_a_map_turns_around_its_own_centroid() -> None:
    pair = one_cell(4, 10) + one_cell(4, 12)
    assert torch.equal(rotated(pair, 90.0), one_cell(3, 11) + one_cell(5, 11))


def test_scaling_moves_away_from_the_middle() -> None:
    pair = one_cell(4, 10) + one_cell(4, 12)
    grown = rescaled(pair, 2.0)
    assert map_centroids(grown).tolist() == [[4, 11]]
    assert torch.equal(grown[:, :, 4, 9], pair[:, :, 4, 10])
    assert torch.equal(grown[:, :, 4, 13], pair[:, :, 4, 12])
    with pytest.raises(ValueError, match=r"factor is 0.*above 0"):
        rescaled(pair, 0.0)


def test_mirrored_twice_is_what_it_was() -> None:
    c = some_maps()
    assert torch.equal(mirrored(mirrored(c)), c)
    assert torch.equal(mirrored(one_cell(3, 11)), one_cell(3, 4))
    around = at(3, 7)
    once = placed(one_cell(3, 11), around, around, mirror=True)
    assert torch.equal(once, one_cell(3, 3))
    assert torch.equal(placed(once, around, around, mirror=True), one_cell(3, 11))
    # mirrored first, turned then: right -> left -> below
    assert torch.equal(
        placed(one_cell(3, 9), around, around, degrees=90.0, mirror=True), one_cell(5, 7)
    )


def test_mixing_takes_the_stronger_in_every_cell() -> None:
    first, second = one_cell(2, 2) + one_cell(5, 5), -2 * one_cell(5, 5) + one_cell(9, 9)
    expected = one_cell(2, 2) - 2 * one_cell(5, 5) + one_cell(9, 9)
    assert torch.equal(mixed(first, second), expected)
    assert torch.equal(mixed(second, first), expected)
    assert torch.equal(mixed(first, -first), first)
    assert torch.equal(mixed(first, torch.zeros_like(first)), first)


def test_cutting_out_by_hand() -> None:
    c = torch.ones(1, 2, 16, 16)
    kept = cut_out(c, at(8, 8), radius=2.0)
    assert kept[0, 0, 8].tolist() == [0] * 7 + [1, 1, 1] + [0] * 6
    assert kept[0, 1, 9, 9] == pytest.approx(2 - 2**0.5)
    soft = cut_out(c, at(8, 8), radius=4.0, rim=4.0)
    assert soft[0, 0, 8, 8:13].tolist() == [1, 0.75, 0.5, 0.25, 0]


# --- what is painted -----------------------------------------------------------------------------


def test_a_veil_is_no_defect() -> None:
    change = torch.zeros(1, 1, 64, 64)
    change[:, :, :, :32] = 1.0  # a veil over half the picture, with an edge
    change[:, :, 40:44, 50:54] -= 0.9
    assert painted_places(change, area=16).tolist() != [[41.5, 51.5]]
    change[:, :, :, :32] = torch.linspace(1, 0, 32)
    change += 0.5
    assert painted_places(change, area=16).tolist() == [[41.5, 51.5]]
    assert int(painted_masks(change).sum()) == 20
    assert int(painted_masks(torch.randn(2, 1, 32, 32)).sum()) == 2 * 5
    assert float(sharp_part(torch.full((1, 1, 64, 64), 0.5)).abs().max()) < 1e-6


def sources(count: int) -> Tensor:
    return tiny_store().to_float(torch.arange(count))


def test_a_defects_change_is_against_the_models_own_normal(synth: Synthesizer) -> None:
    background = synth.background(sources(2))
    guide = synth.latent_guides("Spots", 0, range(4))
    change = defect_change(synth, background, guide)
    plain = synth.without_defect(background)
    assert change.shape == (4, 1, SIZE, SIZE)
    expected = synth.paint(background, guide) - plain[[0, 0, 1, 1]]
    assert torch.equal(change, expected)
    assert not defect_change(synth, background, Guide(0 * guide.c, guide.s)).any()


class Painter(Synthesizer):
    """A stand-in whose decoder paints the sum of c as it is."""

    def __init__(self, synth: Synthesizer) -> None:
        self.synth = synth

    def background(self, x: Tensor) -> Background:
        return Background(x, x)

    def without_defect(self, background: Background) -> Tensor:
        return torch.zeros_like(background.x)

    def paint(self, background: Background, guide: Guide) -> Tensor:
        return F.interpolate(guide.c.sum(dim=1, keepdim=True), (64, 64), mode="nearest")


def test_the_study_of_a_shift_by_nothing_finds_no_error(synth: Synthesizer) -> None:
    guide = synth.latent_guides("Spots", 0, range(3))
    table = placement_study(synth, sources(3), guide, [(0, 0)])
    assert table["error"].tolist() == [0, 0, 0]
    assert table["strength"].tolist() == pytest.approx([1, 1, 1])
    assert table["background_psnr"].tolist() == pytest.approx(table["unmoved_psnr"].tolist())


def test_the_study_leaves_out_places_outside_the_picture(synth: Synthesizer) -> None:
    guide = synth.latent_guides("Scratches", 0, range(4))
    table = placement_study(synth, sources(4), guide, [(0, 0), (0, SIZE), (3, 4)])
    assert set(table["offset"]) <= {0.0, 5.0} and 0.0 in set(table["offset"])
    assert (table["edge"] >= 0).all()
    alone = placement_study(synth, sources(4), guide, [(0, 0)], radius=2.0)
    assert alone["error"].tolist() != [0, 0, 0, 0]  # what was cut off is missing
    assert alone["unmoved_psnr"].tolist() == pytest.approx(table["unmoved_psnr"].tolist()[:4])


def test_the_study_finds_a_defect_that_a_generator_of_squares_moved(synth: Synthesizer) -> None:
    x = torch.zeros(1, 1, 64, 64)
    guide = Guide(one_cell(7, 7), torch.zeros(1, 4))
    table = placement_study(Painter(synth), x, guide, [(0, 8), (-12, 16), (28, 0)])
    assert table["error"].max() < 1.0
    assert table["offset"].tolist() == [8, 20, 28]
    assert table["edge"].min() < 6


def test_a_moved_defect_is_painted_where_it_was_asked_for(synth: Synthesizer) -> None:
    x, guide = torch.zeros(1, 1, 64, 64), Guide(one_cell(7, 7), torch.zeros(1, 4))
    place = to_pixels(at(9, 4), 64, 16)
    made, wanted = moved_defect(Painter(synth), x, guide, (37.5, 17.5))
    expected = F.interpolate(one_cell(9, 4).sum(1, keepdim=True), (64, 64), mode="nearest")
    # the place before is known to half a pixel, so a rim of the cell may be shared out
    assert float((made - expected).abs().max()) <= 6 * 0.25
    assert torch.equal(wanted, place[None])
    stayed, home = moved_defect(Painter(synth), x, guide)
    assert torch.equal(stayed, F.interpolate(guide.c.sum(1, keepdim=True), (64, 64)))
    assert (home - to_pixels(at(7, 7), 64, 16)).abs().max() <= 0.5
    turned, _ = moved_defect(synth, sources(1), synth.latent_guides("Spots", 0, [0]), degrees=90.0)
    assert turned.shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, -60])
def test_the_direction_of_a_drawn_line(degrees: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    along = (columns - 30) * angle.cos() - (rows - 34) * angle.sin()
    across = (columns - 30) * angle.sin() + (rows - 34) * angle.cos()
    line = ((along.abs() <= 7) & (across.abs() <= 0.8)).float()[None, None]
    direction, length = painted_directions(line)
    assert abs((float(direction) - degrees + 90) % 180 - 90) < 4
    assert float(length) > 0.8


def test_a_square_has_no_direction() -> None:
    square = torch.zeros(1, 1, 64, 64)
    square[:, :, 20:24, 30:35] = 1.0
    assert float(painted_directions(square)[1]) < 0.3


def test_turning_what_is_painted_as_it_is(synth: Synthesizer) -> None:
    """A bar of four cells: a quarter turn is a quarter turn."""
    guide = Guide(sum((one_cell(7, k) for k in range(6, 10)), torch.zeros(1)), torch.zeros(1, 4))
    table = turning_study(Painter(synth), torch.zeros(1, 1, 64, 64), guide, [0.0, 90.0])
    assert table["asked"].tolist() == [0, 90]
    assert table["error"].tolist() == pytest.approx([0, 0], abs=5)  # 20 of the 64 pixels count
    nothing = turning_study(
        Painter(synth), torch.zeros(1, 1, 64, 64), guide, [0.0], longer_than=1.0
    )
    assert nothing.empty


def test_the_summary_bins_by_hand() -> None:
    table = pd.DataFrame(
        {
            "image": [0, 1, 0, 1],
            "offset": [0.0, 4.0, 8.0, 8.0],
            "edge": [1.0] * 4,
            "error": [0.0, 2.0, 4.0, 6.0],
            "strength": [1.0, 1.0, 0.5, 0.7],
            "background_psnr": [30.0, 30.0, 20.0, 22.0],
            "unmoved_psnr": [30.0] * 4,
        }
    )
    summary = placement_summary(table, "offset", [0, 8, 16, 32])
    assert summary["n"].tolist() == [2, 2]
    assert summary["error"].tolist() == [1, 5]
    assert summary["error_p90"].tolist() == pytest.approx([1.8, 5.8])
    assert summary["background_psnr"].tolist() == [30, 21]


def test_maps_of_another_configuration_have_no_change(tmp_path: Path) -> None:
    """(d) has no anchor: a defect is what differs from the image itself."""
    other = Synthesizer.load(write_tiny_export(tmp_path / "export", tiny_config("d")))
    background = other.background(sources(1))
    guide = other.latent_guides("Spots", 0, [0])
    expected = other.paint(background, guide) - sources(1)
    assert torch.equal(defect_change(other, background, guide), expected)
