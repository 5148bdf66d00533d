"""StyleGAN2 and BigGAN: shapes, classes, what each loss and penalty is, learning, augmentation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_lab.baselines import augment, biggan, stylegan2
from dtgan_lab.baselines.conditional import ClassGenerator, Draws, on_device, sample
from dtgan_lab.baselines.zoo import baseline
from tests.baselines.baseline_fixtures import tiny_loop
from tests.core_fixtures import SIZE, gradients, jumbled

GANS = ("stylegan2", "biggan")


def networks(method: str, seed: int = 0) -> tuple[ClassGenerator, nn.Module]:
    """A tiny G and D with jumbled weights."""
    torch.manual_seed(seed)
    loop = baseline(method)
    G, D = (kind(loop.presets["tiny"].model) for kind in (loop.generator, loop.discriminator))
    for net in (G, D):
        jumbled(net, seed, 0.05)
    return G, D


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- shapes and classes --------------------------------------------------------------------------


@pytest.mark.parametrize("method", GANS)
def test_laptop_fits_together(method):
    loop = baseline(method)
    model = loop.presets["laptop"].model
    with torch.device("meta"):
        G, D = loop.generator(model), loop.discriminator(model)
    y = torch.zeros(4, dtype=torch.long, device="meta")
    x = G(on_device(G.draw(4, random()), y.device), y)
    assert x.shape == (4, model.channels, model.image_size, model.image_size)
    assert D(x, y).shape == (4,)


@pytest.mark.parametrize("method", GANS)
def test_class_and_latent_change_the_image_and_the_class_the_verdict(method):
    G, D = networks(method)
    G.settle()
    with torch.no_grad():
        draws = G.draw(2, random())
        same = Draws(draws.z[:1].repeat(3, 1), [level[:1].repeat(3, 1, 1, 1) for level in draws[1]])
        images = G(same, torch.tensor([0, 1, 2]))
        assert not torch.allclose(images[0], images[1], atol=1e-3)
        assert not torch.allclose(images[1], images[2], atol=1e-3)
        two = G(draws, torch.tensor([1, 1]))
        assert not torch.allclose(two[0], two[1], atol=1e-3)
        logits = D(images[:1].repeat(3, 1, 1, 1), torch.tensor([0, 1, 2]))
        assert len(set(logits.tolist())) == 3


# --- StyleGAN2 -----------------------------------------------------------------------------------
def test_modulation_is_that_of_the_weights_and_keeps_unit_variance():
    """Scaling inputs and outputs equals a convolution of modulated weights a sample."""
    torch.manual_seed(0)
    layer = stylegan2.ModulatedConv(3, 5, 3, style_dim=4)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    s = layer.affine(w)
    weight = layer.conv.weight * layer.conv.scale
    expected = []
    for n in range(2):
        modulated = weight * s[n][None, :, None, None]  # equation (1)
        norm = torch.rsqrt(modulated.square().sum(dim=(1, 2, 3)) + 1e-8)  # equation (3)
        expected.append(F.conv2d(x[n : n + 1], modulated * norm[:, None, None, None], padding=1))
    assert torch.allclose(layer(x, w), torch.cat(expected), atol=1e-5)
    torch.manual_seed(0)
    layer = stylegan2.ModulatedConv(64, 64, 3, style_dim=8)
    out = layer(torch.randn(4, 64, 16, 16), 5 * torch.randn(4, 8))
    assert float(out[:, :, 2:-2, 2:-2].detach().std()) == pytest.approx(1, rel=0.1)


def test_path_length_of_a_linear_map_and_the_filter_that_doubles():
    """For G(w) = A w the length is |A^T n|, which is known."""
    torch.manual_seed(0)
    A = torch.randn(16, 3)
    w = torch.randn(2, 3, requires_grad=True)
    images = (w @ A.T).view(2, 1, 4, 4)
    noise = torch.randn(2, 1, 4, 4)
    expected = (noise.flatten(1) @ A / 4).norm(dim=1)  # sqrt of 16 pixels
    assert torch.allclose(stylegan2.path_lengths(images, w, noise), expected, atol=1e-5)
    # doubling is the filter of the paper
    x = torch.randn(1, 1, 8, 8)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = (taps[:, None] * taps[None]) / 16
    stuffed = torch.zeros(1, 1, 16, 16)
    stuffed[:, :, ::2, ::2] = x
    expected = F.conv2d(F.pad(stuffed, (2, 1, 2, 1)), kernel[None, None])
    assert torch.allclose(stylegan2.doubled(x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_the_deviation_channel_sees_a_batch_of_copies():
    x = torch.randn(8, 2, 4, 4)
    assert stylegan2.with_deviation(x).shape == (8, 3, 4, 4)
    copies = x[:1].repeat(8, 1, 1, 1)
    assert stylegan2.with_deviation(copies)[:, 2].max() < 1e-3
    apart = x.view(4, 2, 2, 4, 4).var(dim=0, unbiased=False).add(1e-8).sqrt().mean(dim=(1, 2, 3))
    assert torch.allclose(stylegan2.with_deviation(x)[:, 2, 0, 0], apart.repeat(4))


def test_penalties_come_seldom_with_their_weight_multiplied():
    loop = tiny_loop("stylegan2", train={"r1_every": 3})
    logs = [set(loop.step()) for _ in range(5)]
    assert ["r1" in log for log in logs] == [True, False, False, True, False]
    assert ["path" in log for log in logs] == [True, False, False, False, True]
    assert isinstance(loop, stylegan2.StyleGAN2)
    y = torch.zeros(4, dtype=torch.long)
    weight, _ = loop.g_terms(0, torch.zeros(4), y)["path"]
    assert weight == 4 * 2.0
    x = torch.zeros(4, 1, SIZE, SIZE)
    weight, _ = loop.d_terms(0, (torch.zeros(4), torch.zeros(4)), x, y)["r1"]
    assert weight == pytest.approx(3 * 0.1)


# --- BigGAN --------------------------------------------------------------------------------------
def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert float(biggan.hinge_d(real, fake)) == pytest.approx((0 + 1) / 2 + (0 + 2) / 2)
    assert float(biggan.hinge_g(fake)) == pytest.approx(0.5)


@pytest.mark.parametrize("sizes", [(5, 3), (3, 5)])
def test_orthogonality_by_hand(sizes):
    layer = biggan.linear(*sizes)
    jumbled(layer, scale=0.3)
    (weight,) = [w for n, w in layer.named_parameters() if n.endswith("weight.original")]
    gram = weight @ weight.T
    expected = (gram * (1 - torch.eye(len(gram)))).square().sum()
    assert torch.allclose(biggan.orthogonality(layer), expected, rtol=1e-4)
    nn.init.orthogonal_(weight)
    if len(weight) <= weight.shape[1]:
        assert biggan.orthogonality(layer) < 1e-6


def test_spectral_norm_holds_after_some_iterations():
    _, D = networks("biggan")
    x, y = torch.randn(2, 1, SIZE, SIZE), torch.tensor([0, 1])
    for _ in range(30):
        D(x, y)
    for name, module in D.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            largest = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
            assert largest == pytest.approx(1, rel=0.1), name


def test_standing_statistics_are_those_of_many_batches():
    """With them the first norm's maps have mean 0 and variance 1 over fresh images."""
    G, _ = networks("biggan")
    before = {name: value.clone() for name, value in G.state_dict().items()}
    G.settle()
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())
    assert isinstance(G, biggan.Generator)
    seen: list[Tensor] = []
    norm = G.blocks[0].norm1
    assert isinstance(norm, biggan.ClassNorm)
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    y = torch.arange(96) % 3
    with torch.no_grad():
        G(G.draw(96, random(7)), y)
    maps = (seen[0] - norm.mean[:, None, None]) / norm.variance.sqrt()[:, None, None]
    assert maps.mean(dim=(0, 2, 3)).abs().max() < 0.3
    assert maps.var(dim=(0, 2, 3)).median() == pytest.approx(1, rel=0.3)
    statistics = norm.mean.clone()
    G.settle()
    assert torch.equal(norm.mean, statistics)


# --- learning ------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", GANS)
def test_shapes_and_gradients_that_reach_every_weight(method):
    G, D = networks(method)
    y = torch.tensor([0, 1, 2, 0])
    for net in (G, D):
        for name, weight in net.named_parameters():
            if name.endswith("gate") or name.endswith("noise_strength"):
                weight.data.fill_(0.5)
    x = G(G.draw(4, random()), y)
    assert x.shape == (4, 1, SIZE, SIZE)
    assert D(x, y).shape == (4,)
    D(x, y).square().sum().backward()
    for net in (G, D):
        found = gradients(net)
        assert set(found) == {name for name, _ in net.named_parameters()}
        assert all(grad.abs().sum() > 0 for grad in found.values())


# --- augmentation --------------------------------------------------------------------------------
def test_both_players_see_augmented_images_alone(monkeypatch):
    loop = tiny_loop("biggan", augment={"kind": "diffaugment"})
    monkeypatch.setattr(augment, "diff_augment", lambda x, generator: 0 * x)
    seen: list[Tensor] = []
    loop.nets.D.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loop.step()
    assert len(seen) == 3  # twice D on real and fake, once G
    assert not any(x.detach().any() for x in seen)


def test_ada_is_told_by_the_logits_of_real_images():
    """D that calls every real image real drives p up, one that calls none real keeps it at 0."""
    for bias, expected in ((50.0, True), (-50.0, False)):
        loop = tiny_loop("stylegan2", augment={"kind": "ada", "ramp": 64})
        forward = loop.nets.D.forward
        loop.nets.D.forward = lambda x, y, f=forward, b=bias: f(x, y) + b
        for number in range(8):
            loop._teach_d(number)
        assert (loop.augmenter.p > 0) == expected


# --- an overfit ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "lr"), [("stylegan2", 5e-3), ("biggan", 2e-3)])
def test_a_few_images_are_learned(method, lr):
    """Made images come nearer to the nearest real one of three a class."""
    loop = tiny_loop(method, train={"batch_size": 8, "lr": lr, "ema_decay": 0.9})
    store, G = loop.store, loop.ema.G

    def distance() -> float:
        G.settle()
        found = []
        for y in range(3):
            real = store.to_float((store.defects == y).nonzero().flatten()).flatten(1)
            made = sample(G, torch.full((8,), y), 5, range(8)).flatten(1)
            found.append(torch.cdist(made, real).min(dim=1).values / math.sqrt(real.shape[1]))
        return float(torch.cat(found).mean())

    before = distance()
    for _ in range(60):
        loop.step()
    assert distance() < 0.6 * before
