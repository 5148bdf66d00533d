import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core.config import ABLATIONS, ModelConfig, make_config
from dtgan_core.layers import activate, take
from dtgan_core.networks import DefectBranch, Networks, noise_sizes, pick_domain
from tests.core_fixtures import SIZE, calls_of, drawn, jumbled, tiny_config, tiny_networks

NORMAL, SCRATCHES, SPOTS = 0, 1, 2


def small_networks(letter: str, channels: int = 1, blend: str = "pooled") -> Networks:
    model = {"channels": channels, "blend": blend}
    nets = Networks(make_config("tiny", letter, model=model).model)
    jumbled(nets)
    return nets


def guide_of(nets: Networks, y: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    z, noise = nets.M.draw(len(y), torch.Generator().manual_seed(seed))
    c, s = nets.M(z, torch.tensor(y), noise)
    return c, s


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


# --- sizes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, {"G": 32_634_883, "M": 3_259_072, "E": 20_360_640, "D": 20_263_683}),
        (128, {"G": 33_632_003, "M": 3_259_072, "E": 20_832_576, "D": 20_735_619}),
    ],
)
def test_a_has_the_size_of_starganv2(size, expected):
    sizes = {"image_size": size, "width": 2**14 // size, "max_width": 512, "style_dim": 64}
    with torch.device("meta"):  # shapes alone: 77 million weights would take seconds to draw
        nets = Networks(make_config("paper", "a", model=sizes).model)
    for name, size in expected.items():
        assert sum(weight.numel() for weight in getattr(nets, name).parameters()) == size, name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("letter", ABLATIONS)
def test_every_configuration_runs(letter, channels):
    nets = small_networks(letter, channels)
    model = nets.G.config
    x, y = drawn(3, channels, SIZE, SIZE), torch.tensor([NORMAL, SCRATCHES, SPOTS])
    depth = 0 if letter == "a" else 8  # half of the 16 channels at the bottleneck
    features = nets.G.encode(x)
    assert features.background.shape == (3, 16 - depth, 16, 16)
    assert features.defect.shape == (3, depth, 16, 16)
    z, noise = nets.M.draw(3, torch.Generator().manual_seed(0))
    for c, s in (nets.M(z, y, noise), nets.E(x, y)):
        assert c.shape == (3, depth, 16, 16)
        assert s.shape == (3, model.style_dim)
        fake = nets.G(x, c, s)
        assert fake.shape == x.shape
        assert fake.isfinite().all()
    verdict = nets.D(x, torch.arange(3))
    assert verdict.real.shape == (3, 3)
    assert (verdict.defect is not None) == model.fg_classifier
    assert (verdict.product is not None) == model.bg_classifier
    for logits in (verdict.defect, verdict.product):
        assert logits is None or logits.shape == (3, 3)


def test_the_numbers_of_defects_and_products_are_free():
    model = make_config("tiny", model={"defects": 5, "products": 2, "anchor": 3}).model
    nets = Networks(model)
    verdict = nets.D(drawn(2, 1, SIZE, SIZE))
    assert verdict.real.shape == (2, 5)
    assert verdict.defect is not None and verdict.defect.shape == (2, 5)
    assert verdict.product is not None and verdict.product.shape == (2, 2)
    c, _ = guide_of(nets, [3, 4])
    assert c[0].count_nonzero() == 0
    assert c[1].count_nonzero() > 0


@pytest.mark.parametrize("resample", ["pool", "fold"])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_bottleneck_is_16_at_every_size(size, resample):
    model = ModelConfig(
        image_size=size, width=4, max_width=8, style_dim=4, hidden_dim=8, resample=resample
    )
    nets = Networks(model)
    x, y = drawn(1, 1, size, size), torch.tensor([1])
    c, s = nets.E(x, y)
    assert nets.G.encode(x).background.shape == (1, 4, 16, 16)
    assert c.shape == (1, 4, 16, 16)
    assert nets.G(x, c, s).shape == x.shape


def test_encode_splits_the_channels_and_forward_is_the_three_steps():
    nets = small_networks("e")
    x = drawn(2, 1, SIZE, SIZE)
    h = nets.G.encoder(nets.G.from_image(x))
    features = nets.G.encode(x)
    assert torch.equal(features.background, h[:, :8])
    assert torch.equal(features.defect, h[:, 8:])
    c, s = guide_of(nets, [SCRATCHES, SPOTS])
    steps = nets.G.render(nets.G.background(nets.G.encode(x)), c, s)
    assert torch.equal(nets.G(x, c, s), steps)


# --- computed once, used often -------------------------------------------------------------------
@pytest.mark.parametrize("letter", ["d", "e"])
def test_the_background_is_decoded_once_for_any_defects_and_hears_no_style(letter):
    nets = small_networks(letter)
    x = drawn(2, 1, SIZE, SIZE)
    with calls_of(nets.G.encoder) as encoded, calls_of(*nets.G.background_decoder) as decoded:
        background = nets.G.background(nets.G.encode(x))
        for seed in range(4):
            nets.G.render(background, *guide_of(nets, [SCRATCHES, SPOTS], seed))
        nets.G.render(background, *guide_of(nets, [SPOTS] * 10))
    assert encoded == [2]
    assert decoded == [2] * len(nets.G.background_decoder)
    features = nets.G.encode(x)  # and a style cannot touch it
    for module in (nets.G.defect_decoder, nets.G.pool_defect):
        jumbled(module, seed=5)
    assert torch.equal(nets.G.background(features), background)


@pytest.mark.parametrize("letter", ["a", "b", "d", "e"])
def test_k_copies_are_k_single_renders(letter):
    nets = small_networks(letter)
    background = nets.G.background(nets.G.encode(drawn(2, 1, SIZE, SIZE)))
    y = [SCRATCHES, SPOTS, NORMAL, SPOTS, SPOTS, SCRATCHES]  # three for each of two images
    c, s = guide_of(nets, y)
    together = nets.G.render(background, c, s)
    for k in range(3):
        assert close(together[k::3], nets.G.render(background, c[k::3], s[k::3]))
    assert not close(together[0], together[1])


@pytest.mark.parametrize("letter", ["d", "e"])
def test_pooling_apart_is_one_convolution_over_the_concatenation(letter):
    nets = small_networks(letter)
    G = nets.G
    seen: dict[str, Tensor] = {}
    for name in ("pool_background", "pool_defect"):
        layer = getattr(G, name)
        layer.register_forward_pre_hook(lambda m, args, n=name: seen.__setitem__(n, args[0]))
    found = G(drawn(2, 1, SIZE, SIZE), *guide_of(nets, [SCRATCHES, SPOTS]))
    both = torch.cat([seen["pool_background"], seen["pool_defect"]], dim=1)
    weight = torch.cat([G.pool_background.weight, G.pool_defect.weight], dim=1)
    pooled = F.conv2d(both, weight, G.pool_background.bias)
    assert close(found, G.to_image(activate(pooled)))


@pytest.mark.parametrize("letter", ["d", "e"])
def test_layered_images_are_the_background_and_a_defect_that_knows_nothing_of_it(letter):
    G = small_networks(letter, blend="layered").G
    c, s = drawn(2, *G.config.defect_shape), drawn(2, G.config.style_dim)
    layers = []
    for seed in (1, 2):
        background = G.background(G.encode(drawn(2, 1, SIZE, SIZE, seed=seed)))
        assert background.shape == (2, 1, SIZE, SIZE)
        layers.append(G.render(background, c, s) - background)
    assert close(layers[0], layers[1]) and layers[0].abs().max() > 0.01
    assert not hasattr(G, "to_image")
    pooled = small_networks(letter).G  # there, the background shows through
    seen = [pooled.background(pooled.encode(drawn(2, 1, SIZE, SIZE, seed=n))) for n in (1, 2)]
    changes = [pooled.render(h, c, s) - pooled.to_image(activate(h)) for h in seen]
    assert not close(changes[0], changes[1])


def test_before_d_layers_make_no_difference():
    for letter in ("a", "c"):
        layered = small_networks(letter, blend="layered").state_dict()
        assert layered.keys() == small_networks(letter).state_dict().keys()


@pytest.mark.parametrize("letter", ["b", "c"])
def test_before_d_one_decoder_takes_both_under_the_style(letter):
    nets = small_networks(letter)
    with calls_of(*nets.G.decoder) as sizes:
        background = nets.G.background(nets.G.encode(drawn(2, 1, SIZE, SIZE)))
        assert sizes == []
        nets.G.render(background, *guide_of(nets, [SCRATCHES, SPOTS]))
    assert sizes == [2] * len(nets.G.decoder)


# --- the anchor domain ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("letter", "zero"), [("e", True), ("e1", True), ("d", False), ("e2", False)]
)
def test_the_anchors_defect_map_is_exactly_zero_where_its_switch_is_on(letter, zero):
    nets = small_networks(letter)
    y = [NORMAL, SCRATCHES, NORMAL, SPOTS]
    of_m, _ = guide_of(nets, y)
    of_e, _ = nets.E(drawn(4, 1, SIZE, SIZE), torch.tensor(y))
    for c in (of_m, of_e):
        assert all((c[n].count_nonzero() == 0) == zero for n in (0, 2))
        assert all(c[n].count_nonzero() > c[n].numel() / 2 for n in (1, 3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_c_zero_the_style_changes_no_byte_and_has_no_gradient(precision):
    nets = small_networks("e")
    x = drawn(4, 1, SIZE, SIZE)
    c, s = guide_of(nets, [NORMAL, SCRATCHES, NORMAL, SPOTS])  # beside images with a defect
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        background = nets.G.background(nets.G.encode(x))
        first = nets.G.render(background, c, s)
        second = nets.G.render(background, c, 10 * s + 3)
        bare = nets.G.to_image(activate(background))
    one, two = (image.detach().float().numpy() for image in (first, second))
    for n in (0, 2):
        assert one[n].tobytes() == two[n].tobytes()
    for n in (1, 3):
        assert not torch.equal(first[n], second[n])
    # ... and the defect branch contributes exactly nothing
    assert torch.equal(first[[0, 2]], bare[[0, 2]])
    s = s.detach().requires_grad_()
    nets.G(x, c.detach(), s).square().sum().backward()
    assert s.grad is not None
    assert s.grad[[0, 2]].count_nonzero() == 0
    assert all(s.grad[n].count_nonzero() > 0 for n in (1, 3))


# --- M -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("letter", "heard"), [("e", True), ("e2", True), ("e1", False)])
def test_pixel_noise_reaches_the_defect_map_and_not_the_style(letter, heard):
    nets = small_networks(letter)
    z, noise = nets.M.draw(2, torch.Generator().manual_seed(0))
    y = torch.tensor([SCRATCHES, SPOTS])
    assert [n.shape for n in noise] == ([(2, 1, k, k) for k in noise_sizes()] if heard else [])
    first, second = nets.M(z, y, noise), nets.M(z, y, [n + 1 for n in noise])
    assert torch.equal(first.s, second.s)
    assert torch.equal(first.c, second.c) != heard
    assert noise_sizes() == [4, 8, 16]  # up to the defect map
    for level in range(len(noise)):  # every level is heard
        louder = [n + 1 if k == level else n for k, n in enumerate(noise)]
        assert not torch.equal(nets.M(z, y, louder).c, first.c)


def test_a_drawn_style_is_a_part_of_z() -> None:
    model = make_config("tiny", "f").model
    M = Networks(model).M
    z, noise = M.draw(2, torch.Generator().manual_seed(0))
    assert torch.equal(M(z, torch.tensor([1, 2]), noise).s, z[:, : model.style_dim])


def shifted_branch() -> DefectBranch:
    branch = DefectBranch(make_config("tiny", model={"places": "shifted"}).model)
    jumbled(branch)
    return branch


def a_noise(place: tuple[int, int], count: int = 1) -> list[Tensor]:
    """Noise whose finest level is highest at a place and else is 0, as the others are."""
    noise = [torch.zeros(count, 1, side, side) for side in noise_sizes()]
    noise[-1][:, 0, *place] = 1e-9  # moves the map and is not seen in it
    return noise


def test_drawn_maps_are_moved_to_where_the_noise_is_highest_one_by_one():
    branch, hidden = shifted_branch(), drawn(1, 32)
    reach = branch.REACH
    middle = branch(hidden, a_noise((reach, reach)))  # not moved
    for place in ((0, 0), (reach + 2, reach - 3), (2 * reach, 2 * reach)):
        down, right = place[0] - reach, place[1] - reach
        assert close(branch(hidden, a_noise(place)), middle.roll((down, right), dims=(2, 3)))
    assert not close(middle, middle.roll(1, dims=3))
    both = [torch.cat(pair) for pair in zip(a_noise((0, 3)), a_noise((9, 9)), strict=True)]
    apart = [branch(hidden, a_noise(place)) for place in ((0, 3), (9, 9))]
    assert close(branch(hidden.expand(2, -1), both), torch.cat(apart))
    # torus: nothing in a map says where its edges were
    flat = branch(torch.zeros(1, 32), a_noise((5, 5)))
    start = branch.seed.bias.view(4, 4, -1).mean(dim=(0, 1))
    with torch.no_grad():
        branch.seed.bias.copy_(start.repeat(16))
    even = branch(torch.zeros(1, 32), a_noise((5, 5)))
    assert flat.flatten(2).std(dim=2).min() > 1e-3
    assert even.flatten(2).std(dim=2).max() < 1e-4


def test_places_are_spread_evenly_belong_to_e_and_learning_passes_through():
    branch = shifted_branch()
    _, noise = tiny_networks(tiny_config()).M.draw(2000, torch.Generator().manual_seed(1))
    span = 2 * branch.REACH + 1
    place = noise[-1][:, 0, :span, :span].flatten(1).argmax(dim=1)
    counts = torch.bincount(place, minlength=span**2)
    assert counts.min() > 0
    assert counts.max() < 45  # 16.5 on average
    hidden = drawn(3, 32).requires_grad_()
    branch(hidden, [n[:3] for n in noise]).square().sum().backward()
    assert hidden.grad is not None
    assert (hidden.grad.abs().sum(dim=1) > 0).all()
    # places belong to the noise of (e)
    assert "circular" in {c.padding_mode for c in shifted_branch().convs}
    quiet = DefectBranch(make_config("tiny", "d", model={"places": "shifted"}).model)
    assert {c.padding_mode for c in quiet.convs} == {"zeros"}
    with pytest.raises(ValueError, match="learned, shifted"):
        make_config("tiny", model={"places": "everywhere"})


def test_draw_is_a_function_of_its_generator_and_belongs_to_its_image():
    nets = small_networks("e")
    draws = [nets.M.draw(3, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    (z, noise), (z_again, noise_again), (z_other, _) = draws
    assert z.shape == (3, nets.M.config.latent_dim)
    assert torch.equal(z, z_again) and not torch.equal(z, z_other)
    assert all(torch.equal(a, b) for a, b in zip(noise, noise_again, strict=True))
    c, s = guide_of(nets, [SPOTS, SPOTS])
    assert not close(c[0], c[1])
    assert not close(s[0], s[1])
    # noise belongs to its image
    z, noise = nets.M.draw(2, torch.Generator().manual_seed(0))
    y = torch.tensor([SCRATCHES, SPOTS])
    other = [torch.cat([n[:1], n[1:] + 1]) for n in noise]
    before, after = nets.M(z, y, noise).c, nets.M(z, y, other).c
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


# --- branches ------------------------------------------------------------------------------------
def changed(before: Tensor, after: Tensor) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def test_pick_domain_and_labels_of_one_batch_do_not_mix():
    branches = torch.arange(12).view(2, 3, 2)  # two images, three domains, two numbers each
    assert pick_domain(branches, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]
    nets = tiny_networks(tiny_config("e"))
    x, y = drawn(3, 1, SIZE, SIZE), torch.tensor([SPOTS, NORMAL, SCRATCHES])
    together = nets.E(x, y)
    for n in range(3):
        alone = nets.E(x[n : n + 1], y[n : n + 1])
        assert close(together.c[n], alone.c[0])
        assert close(together.s[n], alone.s[0])


@pytest.mark.parametrize("domain", [NORMAL, SCRATCHES, SPOTS])
def test_m_takes_the_branch_of_y(domain):
    nets = small_networks("d")
    y = [NORMAL, SCRATCHES, SPOTS]
    of_domain = [label == domain for label in y]
    for branch, moves in ((nets.M.style[domain], 1), (nets.M.defect[str(domain)], 0)):
        before = guide_of(nets, y)
        jumbled(branch, seed=1)
        after = guide_of(nets, y)
        assert changed(before[moves], after[moves]) == of_domain
        assert changed(before[1 - moves], after[1 - moves]) == [False] * 3


@pytest.mark.parametrize("domain", [NORMAL, SCRATCHES, SPOTS])
def test_e_takes_the_branch_of_y(domain):
    nets = small_networks("d")
    model = nets.E.config
    x, y = drawn(3, 1, SIZE, SIZE), torch.tensor([NORMAL, SCRATCHES, SPOTS])
    of_domain = [label == domain for label in y.tolist()]
    for layer, wide, moves, stays in (
        (nets.E.style, model.style_dim, "s", "c"),
        (nets.E.to_defect, model.defect_width, "c", "s"),
    ):
        before = nets.E(x, y)
        with torch.no_grad():
            layer.weight[domain * wide : (domain + 1) * wide] += 1
        after = nets.E(x, y)
        assert changed(getattr(before, moves), getattr(after, moves)) == of_domain
        assert changed(getattr(before, stays), getattr(after, stays)) == [False] * 3


@pytest.mark.parametrize("domain", [NORMAL, SCRATCHES, SPOTS])
def test_d_takes_the_branch_of_y(domain):
    nets = small_networks("e")
    x, y = drawn(3, 1, SIZE, SIZE), torch.tensor([NORMAL, SCRATCHES, SPOTS])
    before = nets.D(x)
    with torch.no_grad():
        nets.D.real.weight[domain] += 1
    after = nets.D(x)
    picked = changed(pick_domain(before.real, y), pick_domain(after.real, y))
    assert picked == [label == domain for label in y.tolist()]
    assert before.defect is not None and after.defect is not None
    assert torch.equal(before.defect, after.defect)


def test_d_fg_reads_deep_features_and_d_bg_the_image():
    """Reading 3: changing D's trunk changes D_FG and real/fake, not D_BG."""
    nets = small_networks("e")
    x = drawn(2, 1, SIZE, SIZE)
    before = nets.D(x)
    jumbled(nets.D.trunk, seed=3)
    after = nets.D(x)
    assert before.defect is not None and after.defect is not None
    assert before.product is not None and after.product is not None
    assert not torch.equal(before.real, after.real)
    assert not torch.equal(before.defect, after.defect)
    assert torch.equal(before.product, after.product)


def test_rows_taken_twice_add_up_their_gradients_in_order():
    """In the same bits every time, whichever thread comes first."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn(8, 16, 64, 64, generator=generator)
        rows = torch.arange(6).repeat(3)
        weight = torch.randn(18, 16, 64, 64, generator=generator)
        found = []
        for _ in range(40):
            leaf = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
            (take(leaf, rows) * weight).sum().backward()
            assert leaf.grad is not None
            found.append(leaf.grad)
        assert all(torch.equal(found[0], other) for other in found)
        assert torch.equal(found[0][:6], weight[:6] + weight[6:12] + weight[12:])
        assert not found[0][6:].any()
    finally:
        torch.set_num_threads(before)
