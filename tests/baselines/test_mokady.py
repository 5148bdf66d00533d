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
@pytest.mark.parametrize(
    "model", [mokady.PRESETS["laptop"].model, *(replace(TINY, code=side) for side in (2, 4, 8))]
)
def test_every_preset_and_side_of_a_code_fits_together(model):
    with torch.device("meta"):
        nets = MokadyNetworks(model)
        x = torch.zeros(2, model.channels, model.image_size, model.image_size)
    z, m = nets.transfer(x, x)
    assert z.shape == x.shape
    assert m.shape == (2, 1, model.image_size, model.image_size)
    assert nets.transfer.E_c(x).shape == (2, model.max_width, model.code, model.code)
    assert nets.transfer.E_s(x).shape == (2, model.separate, model.code, model.code)
    assert nets.confusion(nets.transfer.E_c(x)).shape == (2,)


def test_another_side_of_a_code_and_more_than_a_pair_are_refused():
    with pytest.raises(ValueError, match="code is 3; expected a side of 2, 4 or 8"):
        replace(TINY, code=3)
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
            maps = T.D_B(common, code)
            m, z = torch.sigmoid(maps[:, :1]), torch.tanh(maps[:, 1:])
            return m * z + (1 - m) * x

        def plain(common: Tensor) -> Tensor:
            return torch.tanh(T.D_A(common, nothing))

        ab = laid(common_a, separate, a)
        fooled = [-F.logsigmoid(nets.confusion(c)).mean() for c in (common_a, common_b)]
        expected = {
            "recon1_a": (5.0, (plain(common_a) - a).abs().mean()),
            "recon1_b": (5.0, (laid(common_b, separate, plain(common_b)) - b).abs().mean()),
            "recon2_a": (1.0, (laid(common_a, nothing, a) - a).abs().mean()),
            "recon2_b": (1.0, (laid(common_b, separate, b) - b).abs().mean()),
            "cycle_common": (1.0, (T.E_c(ab) - common_a).square().mean()),
            "cycle_separate": (1.0, (T.E_s(ab) - separate).square().mean()),
            "confusion": (0.005, sum(fooled)),
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


# --- learning ------------------------------------------------------------------------------------
def test_halves_of_a_batch_are_the_two_domains(monkeypatch):
    loop = tiny_loop("mokady")
    seen: list[tuple[Tensor, Tensor]] = []
    real = transfer_terms

    def spy(nets: Any, a: Tensor, b: Tensor, weights: Any) -> Any:
        seen.append((a, b))
        return real(nets, a, b, weights)

    monkeypatch.setattr(mokady, "transfer_terms", spy)
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
    logs = [loop.step() for _ in range(80)]
    for name in ("recon1_a", "recon1_b", "recon2_a", "recon2_b"):
        first, last = (float(torch.stack([log[name] for log in part]).mean()) for part in
                       (logs[:5], logs[-5:]))  # fmt: skip
        assert last < 0.6 * first, name
