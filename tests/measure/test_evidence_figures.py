"""Numbers and figures of the evidence notebooks, on sets whose answers are known."""

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from dtgan_lab.measure import evidence as ev
from dtgan_lab.measure.judge import Prediction
from dtgan_lab.measure.neighbours import Gallery, Nearest
from dtgan_lab.measure.sets import FLOOR, NORMAL
from dtgan_lab.plots import evidence as ef
from tests.distance_fixtures import Space

CELLS = [(p, d) for p in ("A", "B") for d in ("Scratches", "Spots")]
COUNT = 20  # images a product and defect
SPACE = Space("domain", 6)
FD = SPACE.label("FD")


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def cloud(seed: int, shift: float = 0.0) -> Gallery:
    """Random images, one distribution but for `shift`, with masks of their middle."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(len(CELLS) * COUNT, 1, 16, 16, generator=generator) + shift
    masks = torch.zeros(len(x), 1, 16, 16, dtype=torch.bool)
    masks[:, :, 6:10, 6:10] = True
    return Gallery(x.clamp(-1, 1), masks, [cell for cell in CELLS for _ in range(COUNT)])


class Clouds:
    """Stands in for `Yardsticks` where only fresh images are asked for."""

    def fresh(self, seed: int) -> Gallery:
        return cloud(1000 + seed)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    sets = {
        seed: {FLOOR: cloud(seed), NORMAL: cloud(10 + seed, 0.2), "far": cloud(20 + seed, 0.5)}
        for seed in (0, 1)
    }
    return ev.distance_study(Clouds(), sets, SPACE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def summary(rows: pd.DataFrame) -> pd.DataFrame:
    return ev.distance_summary(rows, SPACE)


# --- distances -----------------------------------------------------------------------------------
def test_columns_hold_products_defects_pairs_and_all():
    masks = ev.column_masks(cloud(0))
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    pairs = {f"{p} {d}": COUNT for p, d in CELLS}
    pooled = dict.fromkeys(("A", "B", "Scratches", "Spots"), 2 * COUNT)
    assert sizes == pooled | pairs | {"pooled": 4 * COUNT}
    assert (masks["A"] & masks["Spots"] == masks["A Spots"]).all()


def test_all_is_the_mean_of_the_products_alone_with_both_spreads(rows, summary):
    products = rows[rows["column"].isin(["A", "B"])]
    at = summary.set_index(["set", "column"])
    for name in (FLOOR, NORMAL, "far"):
        mean = products.loc[products["set"] == name, FD].mean()
        assert at.loc[(name, "All"), FD] == pytest.approx(mean)
        assert at.loc[(name, "All"), "n"] == 4 * COUNT
    pooled = at.loc[("far", "pooled"), FD]
    assert at.loc[("far", "All"), FD] != pytest.approx(pooled)  # it is no pooled distance
    # the spread over seeds and over subsamples
    one = rows[(rows["set"] == NORMAL) & (rows["column"] == "A")]
    told = at.loc[(NORMAL, "A")]
    assert told["seeds"] == 2
    assert told[f"{FD} seeds"] == pytest.approx(one[FD].std(ddof=1))
    assert told[f"{FD} spread"] == pytest.approx(one[f"{FD} spread"].mean())
    both = rows[(rows["set"] == NORMAL) & rows["column"].isin(["A", "B"])]
    squares = both.groupby("seed")[f"{FD} spread"].apply(lambda s: np.sqrt((s**2).sum()) / 2)
    assert at.loc[(NORMAL, "All"), f"{FD} spread"] == pytest.approx(squares.mean())


def test_words_follow_the_numbers_and_the_number_quoted_the_count(summary):
    assert ev.versus(summary, FD, "All", "far", FLOOR) == "farther than"
    assert ev.versus(summary, FD, "All", NORMAL, "far") == "nearer than"
    assert ev.versus(summary, FD, "All", FLOOR, FLOOR) == "not told apart from"
    unsure = summary.assign(**{f"{FD} spread": 100.0})
    assert ev.versus(unsure, FD, "All", "far", FLOOR) == "not told apart from"
    assert ev.quoted(summary, ["A", "All"]) == "FD"  # 40 images, 6 dimensions
    few = summary.assign(first=np.where(summary["column"] == "B", "KID", summary["first"]))
    assert ev.quoted(few, ["A"]) == "FD" and ev.quoted(few, ["A", "B"]) == "KID"


def test_table_keeps_the_order_and_tells_the_spread(summary):
    table = ev.number_table(summary, FD, ["B", "All", "A"])
    assert list(table.columns) == ["B", "All", "A"]
    told = summary[(summary["set"] == "far") & (summary["column"] == "B")].iloc[0]
    assert table.loc["far", "B"] == f"{told[FD]:.2f} ± {told[f'{FD} seeds']:.2f}"
    alone = summary.assign(**{f"{FD} seeds": np.nan})
    assert ev.number_table(alone, FD, ["B"]).loc["far", "B"] == f"{told[FD]:.2f}"


def test_dots_stand_where_the_numbers_are(summary):
    figure = ef.distance_dots(summary, FD, ["A", "All"], "dots")
    assert [axes.get_title() for axes in figure.axes] == ["A", "All"]
    at = summary.set_index(["set", "column"])[FD]
    marks = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [np.asarray(line.get_xdata())[0] for line in marks] == [
        at[name, "All"] for name in (FLOOR, NORMAL, "far")
    ]
    assert figure.axes[0].get_xscale() == ("log" if (at > 0).all() else "linear")
    below = summary.assign(**{FD: summary[FD] - summary[FD].mean()})
    assert (
        ef.distance_dots(below, FD, ["A"], "KID may be negative").axes[0].get_xscale() == "linear"
    )


# --- nearest neighbours --------------------------------------------------------------------------
def test_a_judge_is_asked_cell_by_cell():
    class Stub:
        """Sees scratches everywhere, on product A where the image is dark, else on B."""

        products, defects = ("A", "B"), ("Normal", "Scratches", "Spots")

        def __call__(self, x: Tensor) -> Prediction:
            defect, product = torch.ones(len(x), dtype=torch.int64), (x.mean(dim=(1, 2, 3)) > 0)
            return Prediction(defect, product.long(), torch.zeros(len(x), 3))

    x = torch.cat([-torch.ones(3, 1, 4, 4), torch.ones(1, 1, 4, 4)])
    cells = [("A", "Scratches"), ("A", "Spots"), ("B", "Scratches"), ("B", "Scratches")]
    judge: Any = Stub()
    told = ev.judged({"set": Gallery(x, None, cells)}, judge)
    assert told[["product", "defect"]].to_numpy().tolist() == [list(c) for c in cells[:3]]
    assert told["recognised"].tolist() == [1.0, 0.0, 1.0]
    assert told["kept"].tolist() == [1.0, 1.0, 0.5]


def nearest(scores: list[float], copies: list[bool]) -> Nearest:
    """An answer of a search."""
    count = len(scores)
    index = torch.zeros(count, 1, dtype=torch.int64)
    told = torch.tensor(scores, dtype=torch.float64)
    return Nearest(index, [[""]] * count, told[:, None], told, torch.tensor(copies))


def gallery_of(cells: list[tuple[str, str]]) -> Gallery:
    return Gallery(torch.zeros(len(cells), 1, 16, 16), None, cells)


def test_shares_of_copies_have_spread_and_interval():
    gallery = gallery_of([("A", "Spots")] * 2 + [("B", "Spots")] * 2)
    answers = [[True, True, False, False], [True, False, False, False]]
    rows = pd.concat(
        ev.nearest_rows("made", seed, gallery, {"image": nearest([0.1, 0.2, 1, 3], copies)})
        for seed, copies in enumerate(answers)
    )
    told = ev.copies_summary(rows).iloc[0]
    assert (told["n"], told["seeds"], told["copies"]) == (8, 2, 3 / 8)
    assert told["copies seeds"] == pytest.approx(np.std([0.5, 0.25], ddof=1))
    assert told["low"] < 3 / 8 < told["high"] and told["score"] == pytest.approx(0.6)
    by_product = ev.copies_summary(rows, ["product"]).set_index("product")["copies"]
    assert by_product.to_dict() == {"A": 0.75, "B": 0.0}
