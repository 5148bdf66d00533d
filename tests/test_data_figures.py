"""The data notebook's tables and figures, on arrays whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch
from PIL import Image

from dtgan_lab.data import ImageError
from dtgan_lab.plots import data as data_figures
from dtgan_lab.plots.figures import DEFECT_COLOURS

PRODUCTS = ["A", "B"]
DEFECTS = ["Normal", "Scratches", "Spots"]


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def overview(band: int = 6, tile: int = 40, side: int = 3) -> np.ndarray:
    """A picture as the data sheet's: tile k of block b is grey 60 + 40 b + 3 k, lines are black."""
    step = tile + 1
    block = side * step + 1
    picture = np.zeros((block, 3 * block + 2 * band), dtype=np.uint8)
    for b in range(3):
        for k in range(side * side):
            y, x = 1 + step * (k // side), 1 + b * (block + band) + step * (k % side)
            picture[y : y + tile, x : x + tile] = 60 + 40 * b + 3 * k
    return picture


@pytest.mark.parametrize("band", [4, 6])
def test_the_overview_is_cut_along_its_lines(band: int) -> None:
    blocks = data_figures.cut_overview(overview(band))
    assert len(blocks) == 3
    for b, block in enumerate(blocks):
        assert block.shape[0] == 9 and block.dtype == np.uint8
        assert min(block.shape[1:]) >= 34, "little of a photograph is lost"
        for k, tile in enumerate(block):
            assert np.unique(tile).tolist() == [60 + 40 * b + 3 * k], "no line, no neighbour"


def test_another_picture_is_not_cut() -> None:
    with pytest.raises(ValueError, match="0 black bands in a picture of 90 x 30 pixels"):
        data_figures.cut_overview(np.full((30, 90), 128, dtype=np.uint8))
    with pytest.raises(ValueError, match="1 black bands"):
        data_figures.cut_overview(overview()[:, :250])


def test_the_overview_is_read_from_three_files(tmp_path: Path) -> None:
    for defect, name in enumerate(("normal", "scratches", "spots")):
        Image.fromarray(overview() + np.uint8(defect)).convert("RGB").save(tmp_path / f"{name}.png")
    cells = data_figures.read_overview(tmp_path, size=16)
    assert list(cells) == [(p, d) for d in DEFECTS for p in ("A", "B", "C")]
    assert all(tiles.shape == (9, 16, 16) for tiles in cells.values())
    assert cells["B", "Scratches"][2, 8, 8] == 60 + 40 + 6 + 1
    (tmp_path / "spots.png").unlink()
    with pytest.raises(ImageError, match=r"spots\.png: not found"):
        data_figures.read_overview(tmp_path)
    Image.new("L", (90, 30), 128).save(tmp_path / "spots.png")
    with pytest.raises(ValueError, match=r"spots\.png: 0 black bands"):
        data_figures.read_overview(tmp_path)


def test_light_and_texture_are_told_apart() -> None:
    flat = np.stack([np.full((12, 12), level, dtype=np.uint8) for level in (90, 110)])
    halves = np.zeros((1, 12, 12), dtype=np.uint8)
    halves[:, :, 6:] = 100
    checkers = np.zeros((1, 12, 12), dtype=np.uint8)
    checkers[:, ::2, ::2] = checkers[:, 1::2, 1::2] = 100
    pictures = {("A", "flat"): flat, ("A", "halves"): halves, ("A", "checkers"): checkers}
    table = data_figures.surface_table(pictures, ["product", "kind"])
    assert table.index.names == ["product", "kind"]
    first = ["n", "brightness", "contrast", "grain"]
    assert table[first].to_numpy().tolist()[0] == [2, "100.0 ± 10.0", "0.0 ± 0.0", "0.0 ± 0.0"]
    assert table["contrast"].tolist()[1:] == ["50.0 ± 0.0"] * 2
    grain = [float(text.split()[0]) for text in table["grain"].tolist()]
    assert grain[1] < 20 < 40 < grain[2], "an edge is no grain"


def test_defects_are_measured() -> None:
    images = np.full((4, 64, 64), 100, dtype=np.uint8)
    masks = np.zeros((4, 64, 64), dtype=np.uint8)
    masks[0, 8:16, 32:48] = 255
    images[0, 8:16, 32:48] = 150
    masks[1, 0:4, 0:4] = masks[1, 60:64, 60:64] = 255
    images[1][masks[1] > 0] = 70
    masks[2] = 255
    table = data_figures.defect_table(
        images, masks, ["A", "B", "B", "B"], ["Spots", "Scratches", "Spots", "Normal"]
    )
    assert table["product"].tolist() == ["A", "B", "B"], "no mask, no row"
    assert table["area"].tolist() == pytest.approx([100 * 128 / 4096, 100 * 32 / 4096, 100])
    assert table["contrast"].tolist()[:2] == [50, -30] and np.isnan(table["contrast"][2])
    assert table["pieces"].tolist() == [1, 2, 1]
    assert table[["row", "column"]].to_numpy().tolist()[0] == pytest.approx([11.5 / 64, 39.5 / 64])
    empty = data_figures.defect_table(images[:1], 0 * masks[:1], ["A"], ["Spots"])
    assert empty.empty and list(empty.columns) == list(table.columns)


def test_a_split_by_image_finds_the_same_part_and_a_split_by_part_does_not() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat([f"tile-{k}" for k in range(24)], 6)
    classes = np.repeat(generator.permutation(["Normal", "Spots"] * 12), 6)
    centres = np.repeat(generator.standard_normal((24, 8)), 6, axis=0)
    features = centres + 0.01 * generator.standard_normal(centres.shape)
    table, nearest = data_figures.nearest_tables(features, classes, groups, [0, 1], folds=4)
    assert table["split"].tolist() == ["by image"] * 2 + ["by part"] * 2
    assert table["seed"].tolist() == [0, 1, 0, 1]
    assert table["same part"].tolist() == [100, 100, 0, 0]
    assert (table["balanced accuracy"][:2] == 100).all()
    assert (table["balanced accuracy"][2:] < 80).all(), "classes were dealt to parts at random"
    assert (groups[nearest["by image"]] == groups).all()
    assert (nearest["by image"] != np.arange(len(groups))).all(), "an image is not its own training"
    assert not (groups[nearest["by part"]] == groups).any()


def test_shares_are_of_all_draws_and_name_every_cell() -> None:
    drawn = [("B", "Spots")] * 3 + [("A", "Normal")]
    table = data_figures.shares(drawn, PRODUCTS, DEFECTS)
    assert table.index.tolist() == PRODUCTS and table.columns.tolist() == DEFECTS
    assert table.loc["B", "Spots"] == 75 and table.loc["A", "Normal"] == 25
    assert table.to_numpy().sum() == 100


def test_a_mask_is_outlined_beside_its_pixels() -> None:
    picture = np.full((9, 9), 0.5)
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[4, 4] = 255
    drawn = data_figures.outlined(picture, mask, "red")
    red = (drawn == to_rgb("red")).all(axis=2)
    assert red.sum() == 8 and not red[4, 4] and not red[3, 4] and red[2, 4] and red[4, 6]
    assert (drawn[~red] == 0.5).all()
    assert (data_figures.outlined(picture, 0 * mask) == 0.5).all()


def test_a_frame_is_painted_on_the_rim() -> None:
    drawn = data_figures.framed(np.full((10, 12), 0.5), "#0072B2", width=2)
    assert drawn.shape == (10, 12, 3)
    assert (drawn[2:-2, 2:-2] == 0.5).all()
    rim = np.ones((10, 12), dtype=bool)
    rim[2:-2, 2:-2] = False
    assert np.allclose(drawn[rim], to_rgb("#0072B2"))


def test_changes_are_counted_outside_the_widened_mask() -> None:
    twin = np.zeros((9, 9))
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[4, 4] = 255
    image = twin.copy()
    image[4, 4] = image[4, 6] = 1
    assert data_figures.changed_outside(image, twin, mask) == 0
    assert data_figures.changed_outside(image, twin, mask, margin=1) == 1
    image[0, 0] = image[4, 7] = 1
    assert data_figures.changed_outside(image, twin, mask) == 2


# ---------------------------------------------------------------------------------------- figures


@pytest.fixture
def sizes() -> pd.DataFrame:
    rows = {"A": [700, 290, 58], "B": [700, 117, 620]}
    return pd.DataFrame.from_dict(rows, orient="index", columns=DEFECTS)


def test_bars_and_dashes_stand_at_the_counts(sizes: pd.DataFrame) -> None:
    figure = data_figures.class_sizes(sizes // 2, sizes, "sizes")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.get_title() == "sizes"
    for container, dashes, defect in zip(axes.containers, axes.collections, DEFECTS, strict=True):
        assert container.get_label() == defect
        assert [bar.get_height() for bar in container] == (sizes[defect] // 2).tolist()
        assert container[0].get_facecolor()[:3] == to_rgb(DEFECT_COLOURS[defect])
        places = np.asarray(dashes.get_offsets())
        assert places[:, 1].tolist() == sizes[defect].tolist()
        middles = [bar.get_x() + bar.get_width() / 2 for bar in container]
        assert places[:, 0].tolist() == pytest.approx(middles)
    assert not data_figures.class_sizes(sizes, None, "").axes[0].collections


def test_maps_peak_where_the_defects_lie() -> None:
    masks = np.zeros((4, 64, 64), dtype=np.uint8)
    masks[:, 40:56, 8:24] = 255
    masks[0, 0:16, 48:64] = 255
    cells = {("A", "Scratches"): masks, ("B", "Spots"): masks[:, ::-1]}
    figure = data_figures.position_maps(cells, "places")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == 4 and len(shown) == 2, "cells without masks stay empty"
    first, second = (np.asarray(axes.images[0].get_array()) for axes in shown)
    assert np.unravel_index(first.argmax(), first.shape) == pytest.approx((47.5, 15.5), abs=1)
    assert np.unravel_index(second.argmax(), second.shape) == pytest.approx((15.5, 15.5), abs=1)
    assert first[8, 56] == pytest.approx(25, abs=1), "one picture of four"
    assert shown[0].get_title().startswith("A, Scratches\nn 4, peak 100.0 %")


def test_boxes_tell_area_and_contrast() -> None:
    table = pd.DataFrame(
        {
            "product": ["A", "A", "A", "B", "B", "B"] * 2,
            "defect": ["Scratches", "Spots"] * 6,
            "area": np.linspace(0.1, 9, 12),
            "contrast": np.linspace(-40, 40, 12),
        }
    )
    left, right = data_figures.defect_boxes(table, "both").axes
    assert left.get_yscale() == "log" and right.get_yscale() == "linear"
    assert "%" in left.get_ylabel() and "grey levels" in right.get_ylabel()
    assert [label.get_text() for label in left.get_xticklabels()] == PRODUCTS
    legend = left.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == ["Scratches", "Spots"]
    assert right.get_legend() is None
    for axes in (left, right):
        boxes = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        colours = [box.get_facecolor()[:3] for box in boxes]
        assert len(colours) == 4 and len(set(colours)) == 2, "two defects of two products"


def test_shares_are_written_into_their_cells() -> None:
    table = data_figures.shares([("A", "Spots")] * 3 + [("B", "Normal")], PRODUCTS, DEFECTS)
    left, right = data_figures.share_maps({"held": table, "drawn": table.T}, "shares").axes
    assert left.get_title() == "held" and right.get_title() == "drawn"
    written = [text.get_text() for text in left.texts]
    assert written == ["0.0", "0.0", "75.0", "25.0", "0.0", "0.0"]
    assert [label.get_text() for label in right.get_yticklabels()] == DEFECTS
