"""Pictures of maps have the colours and shapes they say; figures show what they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from dtgan_core.config import make_config
from dtgan_core.networks import Features
from dtgan_lab.plots import anatomy as anatomy_figures
from dtgan_lab.plots.anatomy import heat, mosaic, push, signed

WHITE = np.ones(3)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    found = figure.findobj(lambda artist: isinstance(artist, Text))
    return "\n".join(artist.get_text() for artist in found if isinstance(artist, Text))


def bars_of(axes: Axes) -> list[Rectangle]:
    """The bars of a panel, in the order they were drawn."""
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def draw(figure: Figure) -> None:
    """Draw for good: layout and annotations are computed here."""
    figure.canvas.draw()


# --- maps as pictures ----------------------------------------------------------------------------


def test_heat_runs_from_dark_to_yellow():
    picture = heat(torch.tensor([[0.0, 1.0], [2.0, 4.0]]))
    assert picture.shape == (2, 2, 3)
    lightness = picture.mean(axis=2).ravel()
    assert list(lightness.argsort()) == [0, 1, 2, 3]
    viridis = plt.get_cmap("viridis")
    assert np.allclose(picture[1, 1], viridis(1.0)[:3])
    assert np.allclose(picture[1, 0], viridis(0.5)[:3])


def test_heat_with_a_limit_of_its_own():
    assert np.allclose(heat(np.array([[2.0]]), limit=4.0), plt.get_cmap("viridis")(0.5)[:3])
    assert np.allclose(heat(np.zeros((2, 2))), plt.get_cmap("viridis")(0.0)[:3])


def test_signed_is_blue_below_white_at_and_red_above_zero():
    below, zero, above = signed(np.array([[-2.0, 0.0, 2.0]]))[0]
    assert below[2] > below[0] and above[0] > above[2]
    assert np.allclose(zero, WHITE, atol=0.05)


def test_signed_does_not_move_zero_when_values_lie_on_one_side():
    picture = signed(np.array([[0.0, 3.0]]))
    assert np.allclose(picture[0, 0], WHITE, atol=0.05)


def test_push_averages_colours_and_cells():
    gradient = torch.zeros(3, 4, 4)
    gradient[:, 0, 0], gradient[0, 3, 3] = 4.0, -4.0  # means 1 and -1/3 of their 2 x 2 cells
    picture = push(gradient, share=1.0)
    assert picture.shape == (2, 2, 3)
    assert np.allclose(picture[0, 0], signed(np.array([[1.0]]), 1.0)[0, 0])
    assert np.allclose(picture[1, 1], signed(np.array([[-1 / 3]]), 1.0)[0, 0])
    assert np.allclose(picture[0, 1], WHITE, atol=0.05)


def test_push_is_not_paled_by_a_single_pixel():
    gradient = torch.ones(1, 32, 32)
    gradient[0, :2, :2] = 1e6
    red = signed(np.array([[1.0]]), 1.0)[0, 0]
    assert np.allclose(push(gradient, share=0.99)[-1, -1], red)


def test_mosaic_puts_channels_row_by_row_with_white_between():
    maps = torch.stack([torch.full((2, 3), value) for value in (-1.0, 1.0, 0.5)])
    picture = mosaic(maps, columns=2)
    assert picture.shape == (2 * 3 - 1, 2 * 4 - 1, 3)
    assert np.allclose(picture[0, 0], signed(np.array([[-1.0]]), 1.0)[0, 0])
    assert np.allclose(picture[1, 6], signed(np.array([[1.0]]), 1.0)[0, 0])
    assert np.allclose(picture[3:, :3], signed(np.full((2, 3), 0.5), 1.0))
    assert np.allclose(picture[2], WHITE)  # between the rows
    assert np.allclose(picture[:, 3], WHITE)  # between the columns
    assert np.allclose(picture[3:, 4:], WHITE)  # left over


# --- figures -------------------------------------------------------------------------------------


def test_channel_figure_shows_both_halves_and_their_change():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 8, 4, 4, generator=generator) for _ in range(4)]
    clean, seen = Features(maps[0], maps[1]), Features(maps[2], maps[3])
    picture = np.zeros((16, 16))
    figure = anatomy_figures.channel_figure([picture] * 3, clean, seen, "a title", columns=2)
    draw(figure)
    assert len(figure.axes) == 9
    for word in ("a title", "without", "with", "change", "BG channels", "FG channels"):
        assert word in texts(figure)
    shown = figure.axes[1].images[0].get_array()  # BG without
    assert shown is not None and shown.shape == (3 * 5 - 1, 2 * 5 - 1, 3)  # the 6 strongest of 8


def test_channel_figure_takes_the_strongest_channels():
    weak, strong = torch.full((1, 2, 4, 4), 0.01), torch.ones(1, 1, 4, 4)
    half = torch.cat([weak, strong, weak, strong, strong], dim=1)  # channels 2, 5 and 6 are strong
    features = Features(half, half)
    figure = anatomy_figures.channel_figure([np.zeros((4, 4))] * 3, features, features, "t", 1)
    shown = figure.axes[1].images[0].get_array()
    assert shown is not None
    expected = signed(np.array([[1.0]]), 1.0)[0, 0]
    for top in (0, 5, 10):
        assert np.allclose(shown[top, 0], expected, atol=1e-6)


@pytest.mark.parametrize("preset", ["tiny", "laptop", "paper"])
def test_network_map_names_networks_and_sizes(preset):
    model = make_config(preset).model
    figure = anatomy_figures.network_map(model)
    draw(figure)
    written = texts(figure)
    for word in (
        "encoder\nof G",
        "M: a branch",
        "E: a branch",
        "background decoder",
        "real or fake",
    ):
        assert word in written
    assert f"{model.defect_width} x 16 x 16" in written
    assert f"{model.channels} x {model.image_size} x {model.image_size}" in written
    for number in range(1, 8):
        assert f"({number})" in written


def test_network_map_refuses_one_decoder():
    with pytest.raises(ValueError, match="one decoder"):
        anatomy_figures.network_map(make_config("tiny", "c").model)


def test_paired_bars_have_the_values():
    frame = pd.DataFrame({"before": [1.0, 2.0, 3.0], "after": [0.5, 1.0, 4.0]}, list("abc"))
    figure = anatomy_figures.paired_bars(frame, [["a", "b"], ["c"]], "a title")
    draw(figure)
    first, second = figure.axes
    heights = [[bar.get_height() for bar in bars_of(axes)] for axes in (first, second)]
    assert heights == [[1.0, 2.0, 0.5, 1.0], [3.0, 4.0]]
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["before", "after"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["a", "b"]


def test_four_images_have_their_distances():
    distances = {"11 - 12": 1.0, "11 - 22": 3.0}
    figure = anatomy_figures.four_images([np.full((4, 4), k / 4) for k in range(4)], distances, "t")
    draw(figure)
    *pictures, bars = figure.axes
    assert [np.asarray(axes.images[0].get_array()).mean() for axes in pictures] == [
        0.0,
        0.25,
        0.5,
        0.75,
    ]
    assert [bar.get_width() for bar in bars_of(bars)] == [1.0, 3.0]


def test_gradient_table_leaves_blank_what_does_not_reach():
    frame = pd.DataFrame({"G": [0.5, 0.25], "M": [np.nan, 0.0]}, ["adv", "cyc"])
    figure = anatomy_figures.gradient_table({"one": frame, "two": 2 * frame}, "a title")
    draw(figure)
    written = texts(figure).split("\n")
    assert {"0.5", "0.25", "1", "adv", "cyc", "one", "two"} <= set(written)
    assert "nan" not in written and "0" not in written


def test_discriminator_lesson_shows_terms_and_images():
    log = pd.DataFrame({"step": range(20), "adv": np.linspace(2, 1, 20), "bg": np.zeros(20)})
    kinds = ["real", "latent-guided", "reference-guided"]
    verdicts = pd.DataFrame({"image": kinds * 4, "logit": np.arange(12.0)})
    figure = anatomy_figures.discriminator_lesson(log, verdicts, "a title")
    draw(figure)
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["real or fake (1)", "product (7)"]
    final = np.asarray(left.lines[0].get_ydata())[-1]
    assert final == pytest.approx(log["adv"].tail(2).mean())  # a running mean of two steps
    assert len(right.lines) == len(kinds)
