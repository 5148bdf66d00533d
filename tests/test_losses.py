"""Every equation of section 3.2 against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from dtgan_core import losses
from dtgan_core.config import LossWeights


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def images(*values: float) -> Tensor:
    """One image of one channel and one row a call, (1, 1, 1, n)."""
    return torch.tensor(values).view(1, 1, 1, -1)


# --- the L1 distance -----------------------------------------------------------------------------

# |a - b| = [[1, 3], [0, 4]]: 2 for the first sample, 2 for the second; and [[6, 0]]: 3
A = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 5.0]])
B = torch.tensor([[2.0, -1.0], [3.0, 0.0], [6.0, 5.0]])


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ([True, True, True], 7 / 3),
        ([False, True, True], 2.5),  # (2 + 3) / 2: the mean over those kept, not over all
        ([False, False, True], 3.0),
        ([False, False, False], 0.0),
    ],
)
def test_l1_is_the_mean_over_elements_then_the_samples_kept(keep, expected):
    # samples: (1 + 3) / 2 = 2, (0 + 4) / 2 = 2, (6 + 0) / 2 = 3; mean (2 + 2 + 3) / 3
    assert float(losses.l1(A, B)) == pytest.approx(7 / 3)
    assert float(losses.l1(A, B, torch.tensor(keep))) == pytest.approx(expected)
    assert float(losses.l1(A, B, torch.tensor(keep).float())) == pytest.approx(expected)


def test_l1_sends_nothing_to_samples_that_are_not_kept_and_counts_in_float32():
    a = A.clone().requires_grad_()
    losses.l1(a, B, torch.tensor([True, False, True])).backward()
    # d/da = sign(a - b) / 2 elements / 2 samples kept
    expected = torch.tensor([[-0.25, 0.25], [0.0, 0.0], [-0.25, 0.0]])
    assert a.grad is not None and torch.equal(a.grad, expected)
    a = torch.full((1, 3000), 0.01, dtype=torch.bfloat16)
    assert losses.l1(a, torch.zeros_like(a)).dtype == torch.float32
    assert float(losses.l1(a, torch.zeros_like(a))) == pytest.approx(float(a[0, 0]), rel=1e-5)


def test_l1_of_shares_averages_to_that_of_the_whole():
    keep = torch.tensor([False, True, True])
    # two processes, two samples with a defect: one a process in the mean, wherever they lie
    first = losses.l1(A[:2], B[:2], keep[:2], count=1.0)
    second = losses.l1(A[2:], B[2:], keep[2:], count=1.0)
    assert float((first + second) / 2) == pytest.approx(2.5)  # as over the whole batch, above
    assert float(losses.l1(A[:1], B[:1], keep[:1], count=1.0)) == 0.0


# --- (1) -----------------------------------------------------------------------------------------
def test_equation_1_for_d_falls_as_d_gets_better():
    # real: -log sigmoid(0) = log 2, -log sigmoid(2) = log(1 + e^-2)
    # fake: -log(1 - sigmoid(-1)) = log(1 + e^-1), -log(1 - sigmoid(3)) = log(1 + e^3)
    expected = (math.log(2) + softplus(-2)) / 2 + (softplus(-1) + softplus(3)) / 2
    found = losses.adversarial_d(torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 3.0]))
    assert float(found) == pytest.approx(expected, rel=1e-6)
    real, fake = torch.tensor([0.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    losses.adversarial_d(real, fake).backward()
    # d/dreal log(1 + e^-real) = -1/2, d/dfake log(1 + e^fake) = 1/2 at 0
    assert real.grad is not None and float(real.grad) == pytest.approx(-0.5)
    assert fake.grad is not None and float(fake.grad) == pytest.approx(0.5)


def test_equation_1_for_g_does_not_saturate_and_both_survive_extreme_logits():
    logit = torch.tensor([1.0, -20.0], requires_grad=True)
    loss = losses.adversarial_g(logit)
    # -log sigmoid: log(1 + e^-1) and log(1 + e^20) = 20 but for 2e-9
    assert float(loss.detach()) == pytest.approx((softplus(-1) + 20) / 2, rel=1e-6)
    loss.backward()
    # d/dlogit = -(1 - sigmoid(logit)) / 2: about -1/2 where D is sure of the fake
    assert logit.grad is not None and float(logit.grad[1]) == pytest.approx(-0.5)
    huge = torch.tensor([1000.0])
    assert float(losses.adversarial_d(-huge, huge)) == pytest.approx(2000.0)
    assert float(losses.adversarial_g(-huge)) == pytest.approx(1000.0)


# --- R1 ------------------------------------------------------------------------------------------
def test_r1_of_a_linear_discriminator():
    # D(x) = 3 x1 - 4 x2: the gradient is (3, -4) everywhere, |.|^2 = 25, half of it 12.5
    x = torch.tensor([[0.3, 0.1], [5.0, -7.0]]).view(2, 1, 1, 2).requires_grad_()
    weight = torch.tensor([3.0, -4.0], requires_grad=True)
    penalty = losses.r1((x.flatten(1) * weight).sum(1), x)
    assert float(penalty.detach()) == pytest.approx(12.5)
    # as a function of the weight: |w|^2 / 2, whose gradient is w itself
    penalty.backward()
    assert weight.grad is not None and weight.grad.tolist() == pytest.approx([3.0, -4.0])


def test_r1_of_a_quadratic_discriminator():
    # D(x) = a |x|^2, a = 2: gradient 2 a x = 4 x, |.|^2 = 16 |x|^2
    # |x|^2 = 1 + 4 = 5 and 0 + 1 = 1: halves 40 and 8, mean 24
    x = torch.tensor([[1.0, 2.0], [0.0, -1.0]]).view(2, 1, 1, 2).requires_grad_()
    a = torch.tensor(2.0, requires_grad=True)
    penalty = losses.r1(a * x.square().flatten(1).sum(1), x)
    assert float(penalty.detach()) == pytest.approx(24.0)
    # 2 a^2 mean|x|^2 = 6 a^2, whose gradient is 12 a = 24
    penalty.backward()
    assert a.grad is not None and float(a.grad) == pytest.approx(24.0)


# --- (2), (3), (5) -------------------------------------------------------------------------------
def test_equation_2():
    sd_rec = losses.style_defect_reconstruction
    c_trg = torch.tensor([0.0, 2.0, 1.0, 1.0]).view(2, 1, 1, 2)
    c_rec = torch.tensor([1.0, 0.0, 1.0, 2.0]).view(2, 1, 1, 2)
    s_trg = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    s_rec = torch.tensor([[1.0, 4.0, 1.0], [2.0, 2.0, 2.0]])
    # c: samples (1 + 2) / 2 = 1.5 and (0 + 1) / 2 = 0.5, mean 1; s: 3 / 3 = 1 and 2, mean 1.5
    assert float(sd_rec(c_trg, c_rec, s_trg, s_trg)) == pytest.approx(1.0)
    assert float(losses.style_reconstruction(s_trg, s_rec)) == pytest.approx(1.5)
    assert float(sd_rec(c_trg, c_rec, s_trg, s_rec)) == pytest.approx(2.5)
    # a Normal target first: 0.5 and 2 of the second sample remain
    keep = torch.tensor([False, True])
    assert float(sd_rec(c_trg, c_rec, s_trg, s_rec, keep)) == pytest.approx(2.5)
    assert float(losses.style_reconstruction(s_trg, s_rec, keep)) == pytest.approx(2.0)
    assert float(sd_rec(c_trg, c_rec, s_trg, s_trg, keep)) == pytest.approx(0.5)


def test_equation_3():
    # |FG(x) - c| = (|1 - 0| + |2 - 4|) / 2 = 1.5; |FG(x~) - c~| = (|0 - 3| + |0 - 0|) / 2 = 1.5
    src, none = {"fg_src": images(1, 2), "c_src": images(0, 4)}, images(0, 0)
    found = losses.detached_defect(**src, fg_fake=none, c_fake=images(3, 0))
    assert float(found) == pytest.approx(3.0)
    src["c_src"] = images(1, 2)
    found = losses.detached_defect(**src, fg_fake=images(0, 8), c_fake=none)
    assert float(found) == pytest.approx(4.0)


def test_equation_5_and_the_self_reconstruction():
    # (|0.5 - 0| + |-1 - 1| + |0.25 - 0.25| + |0 + 1|) / 4 = 3.5 / 4
    found = losses.cycle(images(0.5, -1, 0.25, 0), images(0, 1, 0.25, -1))
    assert float(found) == pytest.approx(0.875)
    # (|1 - 0.5| + |0 + 1|) / 2
    x, x_self = images(1, 0), images(0.5, -1)  # the Normal one in a batch of three
    yes, no = torch.tensor([True]), torch.tensor([False])
    assert float(losses.self_reconstruction(x, x_self, yes, 3)) == pytest.approx(0.75 / 3)
    assert float(losses.self_reconstruction(x, x_self, no, 3)) == 0.0


def test_locality_counts_what_changed_least_and_is_free_where_a_defect_is():
    x = torch.zeros(1, 1, 2, 4)
    changed = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5, -0.6, 9.0, -8.0]).view(1, 1, 2, 4)
    # the six of eight that changed least: 0.1 to 0.6
    assert float(losses.locality(x, changed, share=0.75)) == pytest.approx(2.1 / 6)
    assert float(losses.locality(x, changed, share=0.25)) == pytest.approx(0.3 / 2)
    assert float(losses.locality(x, changed, 0.75, 3)) == pytest.approx(2.1 / 6 / 3)
    x = torch.zeros(2, 1, 4, 4)
    image = torch.full((2, 1, 4, 4), 0.1)
    image[0, 0, 0, :2] = 1.0  # an eighth of the pixels: a stroke
    image.requires_grad_()
    losses.locality(x, image).backward()
    assert image.grad is not None
    assert float(image.grad[0, 0, 0, :2].abs().max()) == 0.0
    assert float(image.grad[0, 0, 1:].min()) > 0.0
    assert float(losses.locality(x[:0], x[:0])) == 0.0


# --- (4) -----------------------------------------------------------------------------------------
def test_equation_4_is_the_sum_over_all_six_pairs_alike():
    c1s1, c1s2, c2s1, c2s2 = (images(v) for v in (0.0, 0.1, 0.3, 0.7))
    # the two printed first: |c1s2 - c2s1| = 0.2, |c1s1 - c2s2| = 0.7
    # the sum, m != n, o: (1,2) against (1,1) 0.1 and (2,2) 0.6, (2,1) against (1,1) 0.3, (2,2) 0.4
    expected = 0.2 + 0.7 + 0.1 + 0.6 + 0.3 + 0.4
    assert float(losses.diversity([c1s1, c1s2, c2s1, c2s2])) == pytest.approx(expected)
    for odd in range(4):  # one image of four differs by 1: it has three pairs
        values = [images(1.0 if n == odd else 0.0) for n in range(4)]
        assert float(losses.diversity(values)) == pytest.approx(3.0)
    # in (a) there is one pair
    assert float(losses.diversity([images(0.0, 1.0), images(0.5, 0.0)])) == pytest.approx(0.75)


def test_equation_4_compares_what_can_be_seen_by_a_count_of_samples():
    # clipped to [-1, 1]: 5 and 1 are the same white, -9 and 5 differ by 2
    assert float(losses.diversity([images(5.0), images(1.0)])) == 0.0
    assert float(losses.diversity([images(-9.0), images(5.0)])) == pytest.approx(2.0)
    bright = images(5.0).requires_grad_()
    losses.diversity([bright, images(0.0)]).backward()
    assert bright.grad is not None and float(bright.grad.abs().max()) == 0.0
    first = torch.tensor([0.0, 0.0]).view(2, 1, 1, 1)
    second = torch.tensor([1.0, 0.25]).view(2, 1, 1, 1)
    assert float(losses.diversity([first, second])) == pytest.approx(0.625)
    # of three processes' five samples these are two: 1.25 / (5 / 3)
    assert float(losses.diversity([first, second], 5 / 3)) == pytest.approx(0.75)


# --- (6), (7) ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "classification", [losses.defect_classification, losses.product_classification]
)
def test_equations_6_and_7(classification):
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(6)]])
    # softmax: (2, 1, 1) / 4 and (1, 1, 6) / 8; -log of 2/4 and of 1/8: log 2 and log 8
    found = classification(logits, torch.tensor([0, 1]))
    assert float(found) == pytest.approx((math.log(2) + math.log(8)) / 2, rel=1e-6)


# --- (8) -----------------------------------------------------------------------------------------

WEIGHTS = LossWeights(
    sd_rec=2.0, ds=99.0, cyc=3.0, d_rec=5.0, fg=7.0, bg=11.0, r1=13.0, self_rec=17.0, local=19.0
)
TERMS = ("adv", "sd_rec", "ds", "cyc", "d_rec", "fg", "bg", "r1", "self_rec", "local")


def test_equation_8_by_hand_has_no_other_terms():
    values = {name: torch.tensor(10.0**-n) for n, name in enumerate(TERMS)}
    # ds takes the weight of the step (0.5), not that of the configuration (99)
    expected = 1 + 0.2 - 0.005 + 3e-3 + 5e-4 + 7e-5 + 11e-6 + 13e-7 + 17e-8 + 19e-9
    assert float(losses.objective(values, WEIGHTS, 0.5)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(KeyError, match="perceptual"):
        losses.objective({"adv": torch.tensor(1.0), "perceptual": torch.tensor(1.0)}, WEIGHTS, 0)


@pytest.mark.parametrize(
    ("name", "factor"), zip(TERMS, (1, 2, -0.25, 3, 5, 7, 11, 13, 17, 19), strict=True)
)
def test_equation_8_term_by_term(name, factor):
    value = torch.tensor(4.0, requires_grad=True)
    total = losses.objective({name: value}, WEIGHTS, 0.25)
    assert float(total.detach()) == pytest.approx(4 * factor)
    total.backward()
    assert value.grad is not None and float(value.grad) == pytest.approx(factor)
