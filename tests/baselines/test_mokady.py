"""Mask-based content transfer: shapes, every loss by hand, learning, masks against the truth."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_lab.baselines import mokady
from dtgan_lab.baselines.mokady import Layer, MokadyNetworks, MokadyWeights, transfer_terms
from tests.baselines.baseline_fixtures import tiny_loop
from tests.core_fixtures import SIZE, gradients, jumbled

TINY = mokady.PRESETS["tiny"].model


def networks() -> MokadyNetworks:
    torch.manual_seed(0)
    nets = MokadyNetworks(TINY)
    jumbled(nets, scale=0.05)
    return nets


def images(n: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n, 1, SIZE, SIZE, generator=generator) - 1


# --- networks ------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [preset.model for preset in mokady.PRESETS.values()])
def test_every_preset_fits_together(model):
    with torch.device("meta"):
        nets = MokadyNetworks(model)
        x = torch.zeros(2, model.channels, model.image_size, model.image_size)
    z, m = nets.transfer(x, x)
    assert z.shape == x.shape
    assert m.shape == (2, 1, model.image_size, model.image_size)
    side = model.image_size // 4
    assert nets.transfer.E_c(x).shape == (2, model.common, side, side)
    assert nets.transfer.E_s(x).shape == (2, model.separate, side, side)
    assert nets.confusion(nets.transfer.E_c(x)).shape == (2,)


def test_more_than_a_pair_is_refused():
    with pytest.raises(ValueError, match="expected 2, the pair"):
        replace(TINY, defects=3)


def test_a_layer_is_laid_over_by_its_mask_in_ranges_and_depends_on_its_reference():
    x, z = images(), images(seed=1)
    m = torch.zeros(3, 1, SIZE, SIZE)
    assert torch.equal(Layer(z, m).over(x), x)
    assert torch.equal(Layer(z, m + 1).over(x), z)
    assert torch.allclose(Layer(z, m + 0.25).over(x), 0.25 * z + 0.75 * x)
    T, x, b = networks().transfer, images(4), images(4, 1)
    with torch.no_grad():
        z, m = T(x, b)
        assert z.abs().max() <= 1
        assert m.min() >= 0 and m.max() <= 1
        assert torch.allclose(T(x[:1], b[:1]).z, z[:1], atol=1e-5)  # not on its batch
        assert not torch.allclose(T(x, b.flip(0)).z, z, atol=1e-4)  # but on its reference
        _, own = T.layer(T.E_c(b), T.E_s(b))
        expected = own * T.plain(T.E_c(b)) + (1 - own) * b
        assert torch.allclose(T.removed(b), expected, atol=1e-6)


# --- losses --------------------------------------------------------------------------------------
def test_every_term_and_the_confusion_by_hand():
    nets, a, b = networks(), images(), images(seed=1)
    T = nets.transfer
    weights = MokadyWeights()
    with torch.no_grad():
        terms = {k: (w, float(v)) for k, (w, v) in transfer_terms(nets, a, b, weights).items()}
        common_a, common_b, separate = T.E_c(a), T.E_c(b), T.E_s(b)
        nothing = torch.zeros_like(separate)

        def laid(common: Tensor, code: Tensor, x: Tensor) -> Tensor:
            z = torch.tanh(T.D_B(torch.cat([common, code], dim=1)))
            m = torch.sigmoid(F.avg_pool2d(T.D_m(code), 3, 1, 1, count_include_pad=False))
            return m * z + (1 - m) * x

        def plain(common: Tensor) -> Tensor:
            return torch.tanh(T.D_A(torch.cat([common, nothing], dim=1)))

        ab = laid(common_a, separate, a)
        z, m = T.layer(torch.cat([common_b, common_a]), torch.cat([separate, separate]))
        fooled = [-F.logsigmoid(nets.confusion(c)).mean() for c in (common_a, common_b)]
        expected = {
            "recon1_a": (15.0, F.mse_loss(plain(common_a), a)),
            "recon1_b": (15.0, F.mse_loss(laid(common_b, separate, plain(common_b)), b)),
            "recon2_a": (9.0, F.mse_loss(laid(common_a, nothing, a), a)),
            "recon2_b": (9.0, F.mse_loss(laid(common_b, separate, b), b)),
            "own": (15.0, F.mse_loss(z[:3], b)),
            "area": (0.1, m[:3].mean()),
            "cycle_common": (1.0, (T.E_c(ab) - common_a).square().mean()),
            "cycle_separate": (0.2, (T.E_s(ab) - separate).square().mean()),
            "confusion": (0.05, sum(fooled)),
        }
    assert terms.keys() == expected.keys()
    for name, (weight, value) in expected.items():
        assert terms[name][0] == weight
        assert terms[name][1] == pytest.approx(float(value), rel=1e-4), name
    d_a, d_b = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    by_hand = -torch.sigmoid(d_a).log().mean() - (1 - torch.sigmoid(d_b)).log().mean()
    assert float(mokady.confusion_loss(d_a, d_b)) == pytest.approx(float(by_hand))


def test_gradients_reach_every_weight_of_both_players():
    nets = networks()
    terms = transfer_terms(nets, images(), images(seed=1), MokadyWeights(confusion=1.0))
    sum(value for _, value in terms.values()).backward()  # type: ignore[union-attr]
    assert set(gradients(nets)) == {name for name, _ in nets.named_parameters()}


def test_what_d_a_makes_of_b_teaches_nobody_and_the_start_is_two_auto_encoders():
    nets, a, b = networks(), images(), images(seed=1)
    weights = MokadyWeights()
    transfer_terms(nets, a, b, weights)["recon1_b"][1].backward()
    assert not any(name.startswith("transfer.D_A") for name in gradients(nets))
    with torch.no_grad():
        T, first = nets.transfer, mokady.first_terms(nets, a, b, weights)
        rebuilt = {"recon1_a": F.mse_loss(T.plain(T.E_c(a)), a), "own": F.mse_loss(T(b, b).z, b)}
    for name, value in rebuilt.items():
        assert float(first[name][1]) == pytest.approx(float(value)), name


def test_the_price_of_a_mask_comes_in_after_the_start():
    config = mokady.PRESETS["laptop"]
    steps = [config.train.iterations * k // 32 for k in (0, 3, 4, 6, 11, 16, 20, 24, 32)]
    risen = [config.weights_at(step) for step in steps]
    assert risen[:2] == [None, None]
    assert [w.recon2 / 9 for w in risen[2:] if w] == pytest.approx([0, 0, 0.5, 1, 1, 1, 1])
    assert [w.area / 0.1 for w in risen[2:] if w] == pytest.approx([0, 0, 0, 0, 0.5, 1, 1])
    rates = [config.rate_at(config.train.iterations * k // 32) / 1e-3 for k in (0, 20, 26, 32)]
    assert rates == pytest.approx([1, 1, 0.5, 0.05])


# --- learning ------------------------------------------------------------------------------------
def test_halves_of_a_batch_are_the_two_domains(monkeypatch):
    loop = tiny_loop("mokady")
    seen: list[tuple[Tensor, Tensor]] = []
    real = mokady.first_terms

    def spy(nets: Any, a: Tensor, b: Tensor, weights: Any) -> Any:
        seen.append((a, b))
        return real(nets, a, b, weights)

    monkeypatch.setattr(mokady, "first_terms", spy)
    loop.step()
    ((a, b),) = seen
    assert len(a) == len(b) == 2
    store = loop.store
    for half, defect in ((a, 0), (b, 1)):
        known = store.to_float((store.defects == defect).nonzero().flatten())
        both = torch.cat([known, known.flip(3)])  # the sampler flips
        for x in half:
            assert (both - x).abs().flatten(1).max(dim=1).values.min() == 0


def test_a_few_images_are_learned():
    loop = tiny_loop("mokady", train={"batch_size": 8, "lr": 3e-3})
    logs = [loop.step() for _ in range(80)][3:]  # three are of the start
    for name in ("recon1_a", "recon1_b", "recon2_b", "own"):
        first, last = (float(torch.stack([log[name] for log in part]).mean()) for part in
                       (logs[:5], logs[-5:]))  # fmt: skip
        assert last < 0.6 * first, name
