"""What the measurements of maps and sizes say of networks and data whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dtgan_core.config import make_config
from dtgan_core.networks import Features, Guide
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.data import DatasetError, ImageStore, load_dataset
from dtgan_lab.walkthrough import anatomy
from dtgan_lab.walkthrough.anatomy import Pairs
from tests import core_fixtures
from tests.core_fixtures import DEFECTS, SIZE, picture, save_picture, tiny_config, tiny_networks


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    folder = tmp_path_factory.mktemp("export")
    return Synthesizer.load(core_fixtures.write_tiny_export(folder))


def some_pairs(count: int = 4) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    x, twin = (2 * torch.rand(count, 1, SIZE, SIZE, generator=generator) - 1 for _ in range(2))
    mask = torch.zeros(count, SIZE, SIZE)
    mask[:, 4:8, 4:8] = 1
    y = torch.tensor([1, 2] * count)[:count]
    return Pairs(x, twin, mask, y, torch.arange(count) % 3)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["a", "b", "d", "e"])
def test_layer_shapes_list_every_parameter_once(ablation):
    config = tiny_config(ablation)
    nets = tiny_networks(config)
    shapes = anatomy.layer_shapes(nets, config)
    for network in "GMED":
        of_network = shapes[shapes["network"] == network]
        every = sum(weight.numel() for weight in getattr(nets, network).parameters())
        assert of_network["parameters"].sum() == every
        assert of_network["part"].is_unique
    assert not any(module._forward_hooks for module in nets.modules())


def test_layer_shapes_are_those_of_one_sample():
    config = tiny_config()
    shapes = anatomy.layer_shapes(tiny_networks(config), config).set_index(["network", "part"])
    assert shapes.loc[("G", "from_image"), "output"] == f"8 x {SIZE} x {SIZE}"
    assert shapes.loc[("G", "to_image"), "output"] == f"1 x {SIZE} x {SIZE}"
    assert shapes.loc[("M", "defect.1"), "output"] == "8 x 16 x 16"
    assert shapes.loc[("D", "real"), "output"] == "3"


def test_parameter_counts_are_those_of_real_networks():
    counts = anatomy.parameter_counts("tiny")
    assert list(counts.index) == ["(a)", "(b)", "(c)", "(d)", "(e)"]
    for letter in "abcde":
        nets = tiny_networks(make_config("tiny", letter))
        every = sum(weight.numel() for weight in nets.parameters())
        assert counts.loc[f"({letter})", "all"] == every
        assert counts.loc[f"({letter})", list("GMED")].sum() == every


# --- pairs ---------------------------------------------------------------------------------------


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """The tiny data set with a mask for every defect, and twins for all but product C's."""
    root = core_fixtures.write_tiny_dataset(tmp_path / "set")
    manifest = pd.read_csv(root / "manifest.csv", dtype=str, keep_default_na=False)
    for n, row in manifest.iterrows():
        if row["defect"] == DEFECTS[0]:
            continue
        inside = np.zeros((SIZE, SIZE, 1), dtype=np.uint8)
        inside[2:5, 3:9] = 255
        product = "ABC".index(row["product"])
        for column, image in (("masks", inside), ("twins", picture(product, 0, 7))):
            if column == "masks" or product < 2:
                path = f"{column}/{row['path']}"
                save_picture(root / path, image)
                manifest.loc[n, column.removesuffix("s")] = path
    manifest.to_csv(root / "manifest.csv", index=False)
    return root


def test_twin_pairs_take_what_has_mask_and_twin(twins):
    dataset = load_dataset(twins)
    store = ImageStore.load(dataset, "train", SIZE, 1, progress=False)
    pairs = anatomy.twin_pairs(dataset, store)
    assert len(pairs.x) == 2 * 2 * 3  # products A and B, two defects, three images
    assert set(pairs.p.tolist()) == {0, 1} and set(pairs.y.tolist()) == {1, 2}
    assert pairs.mask.unique().tolist() == [0, 1]
    assert pairs.mask[0].sum() == 3 * 6 and pairs.mask[0, 2, 3] == 1
    expected = torch.from_numpy(picture(1, 0, 7)[..., 0]).float() / 127.5 - 1
    assert torch.allclose(pairs.twin[pairs.of(1, 2)[0], 0], expected)


def test_twin_pairs_without_twins_name_the_remedy(tmp_path):
    dataset = load_dataset(core_fixtures.write_tiny_dataset(tmp_path / "set"))
    store = ImageStore.load(dataset, "train", SIZE, 1, progress=False)
    with pytest.raises(DatasetError, match="make_synthetic_sdi.py --out DIR"):
        anatomy.twin_pairs(dataset, store)


def test_pairs_are_picked_by_product_defect_and_clearness():
    pairs = some_pairs(6)  # products 0 1 2 0 1 2, defects 1 2 1 2 1 2
    assert pairs.of(0, 1) == [0] and pairs.of(0, 2) == [3]
    assert torch.equal(pairs.pick([3, 0]).y, torch.tensor([2, 1]))
    alike = pairs._replace(p=torch.zeros(6, dtype=torch.int64), y=torch.ones(6, dtype=torch.int64))
    alike.x[4] = -alike.twin[4].sign()  # farther from its twin than any draw
    assert alike.clearest(0, 1) == 4


# --- measures ------------------------------------------------------------------------------------


def test_strength_and_relative_change_by_hand():
    a = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]]])  # (1, 2, 1, 2)
    assert anatomy.strength(a).tolist() == [[[1.5, 2.5]]]
    assert anatomy.relative_change(a, a + 1) == pytest.approx([1 / 2])
    assert anatomy.relative_change(a, a) == pytest.approx([0.0])


def test_localisation_ranks_cells():
    mask = torch.zeros(4, 8, 8)
    mask[:3, 0, 0] = 1  # one pixel makes the first of 4 x 4 cells defective; the last has none
    right, wrong, flat = torch.zeros(4, 4), torch.ones(4, 4), torch.ones(4, 4)
    right[0, 0], wrong[0, 0] = 1, 0
    found = anatomy.localisation(torch.stack([right, wrong, flat, right]), mask)
    assert found[:3].tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(found[3])


def test_inside_outside_and_correlation_by_hand():
    change, mask = torch.zeros(1, 1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    change[0, 0] = torch.tensor([[-4.0, 1.0], [2.0, 0.0]])
    assert anatomy.inside_outside(change, mask) == pytest.approx((4.0, 1.0))
    a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    b = torch.tensor([[3.0, 1.0, -1.0], [7.0, 8.0, 9.0], [1.0, 5.0, 9.0]])
    assert anatomy.correlation(a, b) == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


def test_mean_distance_is_over_pairs_in_grey_levels():
    images = torch.tensor([0.0, 0.2, 0.6]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    assert anatomy.mean_distance(images) == pytest.approx(127.5 * (0.2 + 0.6 + 0.4) / 3)


def test_defect_moves_are_those_of_the_bottlenecks(synth):
    pairs = some_pairs()
    table = anatomy.defect_moves(synth, pairs)
    clean, seen = anatomy.bottlenecks(synth, pairs)
    assert isinstance(clean, Features)
    assert torch.equal(seen.defect, synth.G.encode(pairs.x).defect)
    assert torch.equal(clean.background, synth.G.encode(pairs.twin).background)
    expected = (seen.defect - clean.defect).abs().mean(dim=(1, 2, 3))
    expected = expected / seen.defect.abs().mean(dim=(1, 2, 3))
    assert table["FG: |change| / |FG|"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    assert list(table["defect"]) == [DEFECTS[y] for y in pairs.y.tolist()]
    summary = anatomy.by_defect(table)
    assert list(summary[("images", "n")]) == [2, 2]
    first = table[table["defect"] == "Spots"].iloc[:, 1].to_numpy(dtype=float)
    assert summary.loc["Spots"].iloc[0] == pytest.approx(first.mean())
    assert summary.loc["Spots"].iloc[1] == pytest.approx(first.std(ddof=1))


# --- M and the defect's decoder ------------------------------------------------------------------


def test_mapping_variants_change_what_they_say(synth):
    guides = anatomy.mapping_variants(synth, "Spots", draws=3, cells=4, seed=0)
    first, other, grain, moved = guides.values()
    assert torch.equal(first.s, grain.s) and not torch.equal(first.c, grain.c)  # s has no noise
    assert not torch.equal(first.s, other.s)
    assert torch.equal(moved.s, first.s)
    assert torch.equal(moved.c[..., 4:], first.c[..., :-4])
    assert torch.equal(moved.c[..., :4], first.c[..., -4:])
    again = anatomy.mapping_variants(synth, "Spots", draws=3, cells=4, seed=0)
    assert torch.equal(again["z"].c, first.c)


def test_mapping_measures_see_paint_that_follows_its_map(synth):
    guides = anatomy.mapping_variants(synth, "Scratches", draws=3, cells=4, seed=0)
    x = torch.zeros(1, 1, SIZE, SIZE)
    values = anatomy.mapping_measures(synth, x, guides, cells=4)
    moved, in_place = list(values.values())[2:]
    assert moved > 0.5 and moved > in_place
    still = anatomy.mapping_measures(synth, x, {**guides, "map moved": guides["z"]}, cells=4)
    assert list(still.values())[3] == pytest.approx(1.0, abs=1e-5)
    same = anatomy.mapping_measures(synth, x, {**guides, "other z": guides["z"]}, cells=4)
    assert list(same.values())[0] == 0


def test_defect_layer_is_what_render_adds(synth):
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(2, 1, SIZE, SIZE)
    c = torch.randn(2, *synth.config.model.defect_shape, generator=generator)
    s = torch.randn(2, synth.config.model.style_dim, generator=generator)
    layer, image = anatomy.defect_layer(synth.G, x, Guide(c, s))
    background = synth.G.background(synth.G.encode(x))
    sum_of_both = torch.nn.functional.leaky_relu(background + layer, 0.2)
    assert torch.allclose(synth.G.to_image(sum_of_both), image, atol=1e-5)
    assert not synth.G.pool_defect._forward_hooks


def test_defect_layer_needs_a_decoder_of_its_own():
    config = tiny_config("c")
    nets = tiny_networks(config)
    guide = Guide(torch.ones(1, *config.model.defect_shape), torch.zeros(1, 16))
    with pytest.raises(ValueError, match="decodes"):
        anatomy.defect_layer(nets.G, torch.zeros(1, 1, SIZE, SIZE), guide)


@pytest.mark.parametrize("blend", ["pooled", "layered"])
def test_what_meets_in_an_activation_and_what_is_only_added(blend):
    nets = tiny_networks(make_config("tiny", "e", model={"blend": blend}))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 1, SIZE, SIZE, generator=generator)
    model = nets.G.config
    c = torch.randn(2, *model.defect_shape, generator=generator)
    s = torch.randn(2, model.style_dim, generator=generator)
    parts = anatomy.blend_parts(nets.G, x, Guide(c, s))
    image = nets.G(x, c, s) - nets.G(x, torch.zeros_like(c), s)
    assert torch.allclose(parts["change"], image, atol=1e-5)
    same = torch.allclose(parts["change"], parts["change on flat"], atol=1e-4)
    assert same == (blend == "layered")
    if blend == "layered":
        assert torch.allclose(parts["change"], parts["defect"], atol=1e-4)


def test_map_distances_tell_a_gap_from_a_spread():
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(8, 2, 4, 4, generator=generator)
    same = anatomy.map_distances(torch.randn(9, 2, 4, 4, generator=generator), read)
    assert same["drawn to read"] == pytest.approx(same["two read"], rel=0.15)
    assert same["two drawn"] == pytest.approx(2 / np.pi**0.5, rel=0.15)  # E|a - b| of N(0, 1)
    apart = anatomy.map_distances(read + 5, read)
    assert apart["two drawn"] == pytest.approx(apart["two read"], rel=1e-4)
    assert apart["drawn to read"] > 3 * apart["two read"]
    assert apart["|c| drawn"] > 4 > apart["|c| read"]
