"""DiffAugment and ADA: seeded, differentiable, alike for real and fake, and p moves rightly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dtgan_lab.baselines.augment import (
    Augmenter,
    ada_augment,
    colour,
    cutout,
    diff_augment,
    translation,
)

SIZE = 16
Augment = Callable[[Tensor, torch.Generator], Tensor]
ALL: dict[str, Augment] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
    "diff": diff_augment,
    "ada": lambda x, generator: ada_augment(x, 0.7, generator),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 12, channels: int = 1, seed: int = 3) -> Tensor:
    return 2 * torch.rand(n, channels, SIZE, SIZE, generator=seeded(seed)) - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(ALL))
def test_seeded_and_shaped(name, channels):
    augment, x = ALL[name], images(channels=channels)
    out = augment(x, seeded())
    assert out.shape == x.shape and torch.isfinite(out).all()
    assert not torch.equal(out, x)
    torch.manual_seed(99)  # the global state decides nothing
    assert torch.equal(out, augment(x, seeded()))
    assert not torch.equal(out, augment(x, seeded(1)))


@pytest.mark.parametrize("name", list(ALL))
def test_real_and_fake_meet_the_same_augmentation(name):
    # all of them are affine in x: A(real) - A(fake) is A's linear part of the difference
    real, fake = images(seed=1), images(seed=2)
    one, other, middle = (ALL[name](x, seeded()) for x in (real, fake, (real + fake) / 2))
    assert torch.allclose(one + other, 2 * middle, atol=1e-4)


@pytest.mark.parametrize("name", list(ALL))
def test_gradients_are_those_of_the_function(name):
    x = images(2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, seeded(5)), x, fast_mode=True)


def test_grey_stays_unsaturated_and_colour_moves_brightness_by_half_at_most():
    flat = torch.zeros(500, 3, 4, 4)
    moved = colour(flat, seeded())
    assert moved.min() >= -0.5 and moved.max() <= 0.5 and moved.std() > 0.2
    assert (moved.amax(dim=1) - moved.amin(dim=1)).max() < 1e-6
    grey = images(4)
    together = colour(grey.expand(4, 3, SIZE, SIZE), seeded())
    assert torch.allclose(together[:, :1], colour(grey, seeded()), atol=1e-5)
    grey = images(50).expand(50, 3, SIZE, SIZE)
    out = ada_augment(grey, 1.0, seeded())
    assert (out.amax(dim=1) - out.amin(dim=1)).max() < 1e-4


def test_translation_brings_zeros_in_and_cutout_blanks_a_square_of_half_the_side_at_most():
    x = images(200) + 5  # no pixel is 0
    moved = translation(x, seeded())
    gone = (moved == 0).flatten(1).sum(dim=1)
    assert gone.min() == 0 and gone.max() == SIZE**2 - (SIZE - 2) ** 2
    for n in range(200):
        assert torch.isin(moved[n][moved[n] != 0], x[n]).all()
    cut = cutout(x, seeded())
    gone = (cut == 0).flatten(1).sum(dim=1)
    assert gone.max() == (SIZE // 2) ** 2 and gone.min() >= (SIZE // 4) ** 2
    assert torch.equal(cut[cut != 0], x[cut != 0])


# --- ADA -----------------------------------------------------------------------------------------
def test_p_is_the_share_of_images_that_change_a_probability():
    x = images(400)
    assert ada_augment(x, 0.0, seeded()) is x

    def changed(p: float) -> float:
        return float((ada_augment(x, p, seeded()) != x).flatten(1).any(dim=1).float().mean())

    assert changed(0.02) < changed(0.1) < changed(0.5) <= changed(1.0) == 1.0
    assert 0.05 < changed(0.02) < 0.25  # ten transformations, some of which may change nothing
    with pytest.raises(ValueError, match="p is 1.5; expected a probability"):
        ada_augment(images(), 1.5, seeded())
    with pytest.raises(ValueError, match="expected squares"):
        ada_augment(torch.zeros(1, 1, 8, 16), 0.5, seeded())


def test_the_strength_rises_where_d_overfits_and_falls_where_not():
    rising, falling = (Augmenter("ada", target=0.6, ramp=100) for _ in range(2))
    sure = torch.tensor([3.0, 2.0, 1.0, 4.0, 5.0])
    for _ in range(3):
        rising.observe(sure)
    assert rising.p == 0  # r_t is taken over four minibatches
    rising.observe(sure)
    assert rising.p == pytest.approx(20 / 100)
    falling.restore(rising.state())
    for _ in range(20):
        rising.observe(sure)
    assert rising.p == 1, "a probability"
    for _ in range(4):
        falling.observe(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]))
    assert falling.p == pytest.approx(0)
    for _ in range(4):
        falling.observe(-sure)
    assert falling.p == 0
    other = Augmenter("none", 0.6, 100)
    other.observe(sure)
    assert other.state() == {"ada_p": 0.0, "ada_seen": []}


def test_p_settles_where_d_is_as_sure_as_the_target():
    ada = Augmenter("ada", target=0.6, ramp=20_000)
    for _ in range(1600):  # a D that overfits less, the more is augmented: so many are called real
        right = torch.arange(64) < 64 * (1 - ada.p / 2)
        ada.observe(torch.where(right, 1.0, -1.0))
    assert ada.p == pytest.approx(0.4, abs=0.04)
