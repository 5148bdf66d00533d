"""Sweeps, and the spread over styles: by hand where the numbers are known."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer, to_uint8
from dtgan_lab.plots import sweeps as sweep_figures
from dtgan_lab.walkthrough.sweeps import (
    between,
    defects_on_parts,
    spread_over_styles,
    style_variation,
    styles_on_defects,
    swept_masks,
    variation_study,
    variation_summary,
)
from tests.core_fixtures import SIZE, tiny_config, tiny_store, write_tiny_export


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    return Synthesizer.load(write_tiny_export(tmp_path_factory.mktemp("sweeps") / "export"))


def sources(count: int, first: int = 0) -> Tensor:
    store = tiny_store()
    return store.to_float(torch.arange(first, first + count) % len(store))


def levels_apart(a: Tensor, b: Tensor) -> int:
    return int(np.abs(to_uint8(a).astype(int) - to_uint8(b).astype(int)).max())


# --- sweeps --------------------------------------------------------------------------------------


def test_between_two_styles_by_hand() -> None:
    path = between(torch.tensor([0.0, 4.0]), torch.tensor([[2.0, 0.0]]), 5)
    assert path.tolist() == [[0, 4], [0.5, 3], [1, 2], [1.5, 1], [2, 0]]
    with pytest.raises(ValueError, match="steps is 1"):
        between(torch.zeros(2), torch.ones(2), 1)


def test_every_defect_on_every_part(synth: Synthesizer) -> None:
    x, guide = sources(3), synth.latent_guides("Spots", 0, range(2))
    table = defects_on_parts(synth, x, guide)
    assert table.shape == (3, 2, 1, SIZE, SIZE)
    for n in range(3):
        for k in range(2):
            one = Guide(guide.c[k : k + 1], guide.s[k : k + 1])
            alone = synth.paint(synth.background(x[n : n + 1]), one)
            assert levels_apart(table[n, k][None], alone) <= 1
    assert levels_apart(table[:, 0], table[:, 1]) > 1


def test_every_style_on_every_defect(synth: Synthesizer) -> None:
    x, guide = sources(1), synth.latent_guides("Scratches", 0, range(3))
    table = styles_on_defects(synth, x, guide.c[:2], guide.s)
    assert table.shape == (2, 3, 1, SIZE, SIZE)
    sweep = synth.style_sweep(x, guide.c[1:2], guide.s)
    assert levels_apart(table[1], sweep[0]) <= 1
    assert levels_apart(table[0], table[1]) > 1


# --- the number ----------------------------------------------------------------------------------


def test_the_spread_of_two_grey_levels_by_hand() -> None:
    sweep = torch.zeros(1, 2, 2, 1, 2)
    sweep[0, 1, :, 0, 1] = 2 / 127.5  # one style is brighter by two levels in one pixel
    spread = spread_over_styles(sweep)
    assert spread.shape == (1, 1, 1, 2)
    assert spread.flatten().tolist() == pytest.approx([0, 2**0.5])  # n - 1 under the root


def test_the_mask_is_where_the_mean_change_is_largest() -> None:
    plain, sweep = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 1, 4, 4)
    sweep[0, 0, 0, 1, 2], sweep[0, 1, 0, 1, 2] = 0.3, -0.3  # not their sum, which is 0
    sweep[0, 0, 0, 3, 3] = 0.5
    assert swept_masks(plain, sweep, 1).nonzero().tolist() == [[0, 0, 1, 2]]


class Painter(Synthesizer):
    """A stand-in: the style's first number is the defect's grey, its second everything else's."""

    def __init__(self) -> None:
        pass

    def background(self, x: Tensor) -> Background:
        return Background(x, x)

    def without_defect(self, background: Background) -> Tensor:
        return background.x

    def paint(self, background: Background, guide: Guide) -> Tensor:
        copies = len(guide.s) // len(background.x)
        images = background.x.repeat_interleave(copies, dim=0) + guide.s[:, 1, None, None, None]
        images[:, :, 20:25, 30:38] += guide.s[:, 0, None, None, None]
        return images


def test_the_spread_inside_and_outside_by_hand() -> None:
    x, c = torch.zeros(2, 1, 64, 64), torch.zeros(1, 1, 16, 16)
    styles = torch.tensor([[0.5, 0.0], [0.6, 0.0], [0.0, 0.0], [0.4, 0.02]])
    table = style_variation(Painter(), x, c, styles, area=40)
    # the second half alone: 0 and 0.4 + 0.02 inside, 0 and 0.02 outside
    assert table["inside"].tolist() == pytest.approx([127.5 * 0.42 / 2**0.5] * 2)
    assert table["outside"].tolist() == pytest.approx([127.5 * 0.02 / 2**0.5] * 2)
    assert table["ratio"].tolist() == pytest.approx([21, 21])
    assert table["level"].tolist() == pytest.approx(table["outside"].tolist())  # an even veil


def test_too_few_styles_are_refused(synth: Synthesizer) -> None:
    guide = synth.latent_guides("Spots", 0, range(3))
    with pytest.raises(ValueError, match="found 3 styles; expected at least 4"):
        style_variation(synth, sources(1), guide.c[:1], guide.s)


def test_equal_styles_vary_nothing(synth: Synthesizer) -> None:
    guide = synth.latent_guides("Spots", 0, [0])
    table = style_variation(synth, sources(2), guide.c, guide.s.repeat(4, 1))
    assert table["inside"].max() < 1e-3 and table["outside"].max() < 1e-3


@pytest.mark.parametrize("letter", ["a", "e"])
def test_the_study_covers_every_product_defect_and_seed(letter: str, tmp_path: Path) -> None:
    synth = Synthesizer.load(write_tiny_export(tmp_path / "export", tiny_config(letter)))
    parts = {"A": sources(2), "B": sources(3, first=9)}
    references = {"Scratches": sources(2, first=3), "Spots": sources(1, first=6)}
    table = variation_study(synth, parts, references, styles=4, seeds=(0, 5))
    assert len(table) == 2 * 2 * (2 + 3)
    assert (table["inside"] > 0).all() and np.isfinite(table["ratio"]).all()
    again = variation_study(synth, parts, references, styles=4, seeds=(0, 5))
    pd.testing.assert_frame_equal(table, again)
    summary = variation_summary(table)
    assert summary[["product", "defect"]].apply(tuple, axis=1).tolist() == [
        ("A", "Scratches"),
        ("B", "Scratches"),
        ("A", "Spots"),
        ("B", "Spots"),
    ]
    assert summary["n"].tolist() == [2, 3, 2, 3] and set(summary["seeds"]) == {2}


def test_the_summary_takes_the_ratio_of_means_by_hand() -> None:
    table = pd.DataFrame(
        {
            "product": "A",
            "defect": "Spots",
            "seed": [0, 0, 1, 1],
            "inside": [2.0, 4.0, 8.0, 12.0],
            "outside": [1.0, 2.0, 1.0, 3.0],
            "level": [1.0, 1.0, 0.0, 1.0],
            "ratio": [2.0, 2.0, 8.0, 4.0],
        }
    )
    row = variation_summary(table).iloc[0]
    assert (row["n"], row["seeds"]) == (2, 2)
    assert row["inside"] == 6.5 and row["outside"] == 1.75 and row["level"] == 0.75
    assert row["ratio"] == pytest.approx((3 / 1.5 + 10 / 2) / 2)
    assert row["ratio_std"] == pytest.approx(3 / 2**0.5)


# --- figures -------------------------------------------------------------------------------------


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    plt.close(figure)
    return figure


def test_the_bars_stand_as_high_as_the_table_says() -> None:
    summary = pd.DataFrame(
        {
            "product": ["A", "A"],
            "defect": ["Scratches", "Spots"],
            "n": [3, 3],
            "seeds": [2, 2],
            "inside": [10.0, 20.0],
            "inside_std": [1.0, 2.0],
            "outside": [4.0, 5.0],
            "outside_std": [0.5, 0.5],
            "ratio": [2.5, 4.0],
            "ratio_std": [0.1, 0.2],
        }
    )
    figure = drawn(sweep_figures.variation_bars({"(e)": summary}, "title"))
    heights = [bar.get_height() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert heights == [10, 20, 4, 5]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["2.5 x", "4.0 x"]
    both = drawn(sweep_figures.variation_bars({"(e)": summary, "(a)": summary}, "title"))
    assert [axes.get_title() for axes in both.axes] == ["(e)", "(a)"]


def test_sweep_rows_show_styles_and_spread(synth: Synthesizer) -> None:
    guide = synth.latent_guides("Spots", 0, range(4))
    sweep = synth.style_sweep(sources(2), guide.c[:1], guide.s)
    figure = drawn(sweep_figures.sweep_rows(sources(2), sweep, ["A", "B"], "title"))
    assert len(figure.axes) == 2 * (1 + 4 + 1)


def test_marks_lie_where_they_were_asked_for() -> None:
    pictures = [np.zeros((8, 8))] * 3
    places = [None, (2.0, 5.0), (7.0, 0.0)]
    figure = drawn(sweep_figures.marked_row([pictures], [places], ["a", "b", "c"], ["r"], "title"))
    lines = [axes.lines for axes in figure.axes]
    assert [len(found) for found in lines] == [0, 1, 1]
    assert lines[1][0].get_xydata().tolist() == [[5.0, 2.0]]  # type: ignore[union-attr]


def test_error_curves_name_their_bins() -> None:
    bins = pd.IntervalIndex.from_breaks([0, 1, 8], closed="left")
    summary = pd.DataFrame(
        {
            "n": [3, 4],
            "error": [0.0, 2.0],
            "error_p90": [1.0, 5.0],
            "background_psnr": [30.0, 28.0],
            "unmoved_psnr": [30.0, 30.0],
        },
        index=bins,
    )
    figure = drawn(sweep_figures.placement_curves({"Spots": summary}, "shift", "title"))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0 to 1", "1 to 8"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 2]  # type: ignore[union-attr]
