import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core import kernels, step
from dtgan_core.config import ABLATIONS, Config, make_config
from dtgan_core.kernels import norm_activate as instance_norm
from dtgan_core.layers import frozen
from dtgan_core.losses import objective
from dtgan_core.networks import Networks
from dtgan_core.step import Guidance, Latents, learners
from dtgan_core.training import Trainer
from dtgan_lab.data import Batch
from tests import reference as plain
from tests.core_fixtures import (
    gradients,
    make_batch,
    snapshot,
    tiny_config,
    tiny_networks,
    tiny_store,
)
from tests.reference import PlainTrainer, plain_iteration, plain_networks, plain_optimisers

Terms = dict[str, Tensor]


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Losses that stay in the dtype of their arguments, for comparisons in float64."""
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    return torch.float64


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Activations and absolute values without a kink.

    In float32 two right answers may stand on two sides of a kink, where gradients jump; without
    kinks all that is left between them is rounding.
    """

    def leaky_relu(x: Tensor, slope: float = 0.01, inplace: bool = False) -> Tensor:
        return slope * x + (1 - slope) * F.softplus(x)

    fused = kernels.norm_activate

    def norm_activate(x: Tensor, scale: Tensor, shift: Tensor, slope: float = 1) -> Tensor:
        y = fused(x, scale, shift)
        return y if slope == 1 else leaky_relu(y, slope)

    with monkeypatch.context() as patch:
        patch.setattr(F, "leaky_relu", leaky_relu)
        patch.setattr(kernels, "norm_activate", norm_activate)
        patch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))
        patch.setattr(Tensor, "abs", lambda self: (self.square() + 1e-2).sqrt())
        yield


def problem(
    config: Config, guidance: Guidance, dtype: torch.dtype
) -> tuple[Networks, Batch, Latents | None]:
    """Networks, four images with a target of each kind, and latents if they guide."""
    nets = tiny_networks(config).to(dtype)
    batch = make_batch([0, 1, 2, 1], [0, 1, 2, 1])
    images = {name: getattr(batch, name).to(dtype) for name in ("x", "x_ref", "x_ref2")}
    z, noise = nets.M.draw(8, torch.Generator().manual_seed(0))
    latents = Latents(z.to(dtype), [level.to(dtype) for level in noise])
    batch = dataclasses.replace(batch, **images)
    return nets, batch, latents if guidance == "latent" else None


def gradients_of(nets: Networks, names: tuple[str, ...]) -> Terms:
    return {
        f"{name}.{key}": value
        for name in names
        for key, value in gradients(getattr(nets, name)).items()
    }


def fast_path(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None, names: tuple[str, ...]
) -> tuple[Terms, Terms, Terms]:
    """D's terms, G's terms and all gradients, as `Trainer` computes them."""
    with frozen(*(getattr(nets, name) for name in "GME" if name not in names)):
        fakes = step.make_fakes(nets, config, batch, latents)
        d_terms = step.discriminator_terms(nets, batch, fakes.x_fake)
        d_terms["r1"] = step.r1_term(nets, batch)
        objective(d_terms, config.weights, 0.0).backward()
        found = gradients_of(nets, ("D",))
        with frozen(nets.D):
            g_terms, _ = step.generator_terms(nets, config, batch, fakes)
            objective(g_terms, config.weights, 1.0).backward()
    return d_terms, g_terms, {**found, **gradients_of(nets, names)}


def reference_path(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None, names: tuple[str, ...]
) -> tuple[Terms, Terms, Terms]:
    """The same from `plain_terms`, on a copy of the networks in contiguous memory."""
    nets = plain_networks(nets)
    assert nets.G.from_image.weight.is_contiguous()
    d_terms, g_terms = plain.plain_terms(nets, config, batch, latents)
    objective(d_terms, config.weights, 0.0).backward()
    found = gradients_of(nets, ("D",))
    nets.zero_grad()
    objective(g_terms, config.weights, 1.0).backward()
    return d_terms, g_terms, {**found, **gradients_of(nets, names)}


def compared(
    letter: str, guidance: Guidance, detach: bool, dtype: torch.dtype
) -> Iterator[tuple[Terms, Terms]]:
    """D's terms, G's terms and the gradients: (fast, plain) each."""
    config = tiny_config(letter, detach_targets=detach, reference_steps_encoder=detach)
    weights = dataclasses.replace(config.weights, self_rec=2.0 * detach, sd_rec=1.5, r1=0.5)
    weights = dataclasses.replace(weights, local=3.0 * detach, area=2.0)
    config = dataclasses.replace(config, weights=weights)
    nets, batch, latents = problem(config, guidance, dtype)
    names = learners(config, guidance)
    fast = fast_path(nets, config, batch, latents, names)
    return zip(fast, reference_path(nets, config, batch, latents, names), strict=True)


def assert_same_losses(fast: Terms, reference: Terms, tolerance: float) -> None:
    assert fast.keys() == reference.keys()
    for name, value in reference.items():
        expected = float(value.detach())
        assert float(fast[name].detach()) == pytest.approx(expected, rel=tolerance), name


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("guidance", ["latent", "reference"])
@pytest.mark.parametrize("letter", ABLATIONS)
def test_fast_and_plain_path_are_the_same_mathematics(letter, guidance, detach, in_double):
    """In float64, where rounding is far below any mistake: every loss, every gradient tensor."""
    d_terms, g_terms, (fast, reference) = compared(letter, guidance, detach, in_double)
    assert_same_losses(*d_terms, tolerance=1e-9)
    assert_same_losses(*g_terms, tolerance=1e-9)
    assert fast.keys() == reference.keys()
    largest = {net: largest_of(reference, net) for net in {name[0] for name in reference}}
    for name, expected in reference.items():
        scale = float(expected.abs().max())
        # A bias that a norm takes off again has no gradient but rounding: nothing to divide by.
        scale = max(scale, 1e-5 * largest[name[0]])
        assert float((fast[name] - expected).abs().max()) <= 1e-9 * scale, name


def largest_of(values: Terms, net: str) -> float:
    return max(float(value.abs().max()) for name, value in values.items() if name[0] == net)


@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("guidance", ["latent", "reference"])
@pytest.mark.parametrize("letter", ["a", "c2", "e", "f"])  # rounding alone; the test above has all
def test_gradients_agree_in_float32(letter, guidance):
    """Each network's whole gradient to 1e-5 of its length; single tensors are for float64."""
    _, _, (fast, reference) = compared(letter, guidance, True, torch.float32)
    assert fast.keys() == reference.keys()
    for net in {name[0] for name in reference}:
        names = [name for name in reference if name[0] == net]
        difference = math.hypot(*(float((fast[k] - reference[k]).norm()) for k in names))
        length = math.hypot(*(float(reference[k].norm()) for k in names))
        assert difference <= 1e-5 * length, net


def test_the_comparison_sees_a_wrong_gradient(monkeypatch, in_double):
    """A norm whose backward is a millionth off does not pass, although its losses are right."""
    right = kernels._EagerNorm.backward

    def wrong(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, *others = right(ctx, *grads)
        assert grad_x is not None
        return grad_x * (1 + 1e-6), *others

    monkeypatch.setattr(kernels._EagerNorm, "backward", staticmethod(wrong))
    d_terms, g_terms, _ = compared("e", "latent", True, in_double)
    assert_same_losses(*d_terms, tolerance=1e-9)
    assert_same_losses(*g_terms, tolerance=1e-9)
    with pytest.raises(AssertionError, match=r"^G\."):
        test_fast_and_plain_path_are_the_same_mathematics("e", "latent", True, in_double)


def test_a_batch_of_normal_targets():
    """Nothing to diversify: equation (4) is 0 on both paths."""
    config = tiny_config("e")
    nets, batch, latents = problem(config, "latent", torch.float32)
    batch = dataclasses.replace(batch, y_trg=torch.zeros(4, dtype=torch.int64))
    _, fast, _ = fast_path(nets, config, batch, latents, ("G", "M", "E"))
    _, reference = plain.plain_terms(plain_networks(nets), config, batch, latents)
    assert float(reference["ds"]) == 0.0
    assert_same_losses(fast, reference, tolerance=1e-5)


# --- norms ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [True, False])
def test_plain_norms_switch(shared, monkeypatch):
    calls: list[int] = []
    torch_norm = F.instance_norm

    def counted(*args: Tensor, **kwargs: Tensor | float) -> Tensor:
        calls.append(1)
        return torch_norm(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "instance_norm", counted)
    x = torch.randn(3, 4, 8, 8)
    scale, shift = (torch.randn(1 if shared else 3, 4, 1, 1) for _ in range(2))
    fast = instance_norm(x, scale, shift)
    assert calls == []
    with kernels.use("plain"):
        reference = instance_norm(x, scale, shift)
    assert calls == [1]
    assert torch.allclose(fast, reference, atol=1e-5)
    with pytest.raises(RuntimeError, match="boom"), kernels.use("plain"):
        raise RuntimeError("boom")
    instance_norm(x, scale, shift)
    assert calls == [1]


# --- learning ------------------------------------------------------------------------------------
def test_plain_iterations_are_the_trainers():
    """Both ways of guidance, with and without R1; D learns before G looks at it."""
    trainer = Trainer(tiny_config("e", r1_every=2, lr=1e-3), tiny_store())
    reference = PlainTrainer(trainer)
    for number in range(4):
        fast, slow = trainer.step(), reference.step()
        # Adam without momentum turns rounding of a tiny gradient into a whole step: it adds up.
        for name, value in slow.items():
            tolerance = 1e-5 if number == 0 else 5e-3
            assert float(fast[name]) == pytest.approx(float(value), rel=tolerance), name
        assert set(fast) - set(slow) <= {
            f"{way}/{sign}"
            for way in ("latent", "reference")
            for sign in ("c_abs", "c_rel_err", "c_spread", "s_rel_err")
        }
    assert reference.step_count == 4
    pairs = zip(reference.ema.G.parameters(), trainer.ema.G.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=5e-3) for a, b in pairs)


def test_g_answers_the_updated_d():
    config = tiny_config("e", lr=0.01)
    nets, batch, latents = problem(config, "latent", torch.float32)
    _, before = plain.plain_terms(nets, config, batch, latents)
    terms = plain_iteration(nets, plain_optimisers(nets, config), config, batch, latents, 1)
    adv, cyc = (float(before[name].detach()) for name in ("adv", "cyc"))
    assert abs(float(terms["adv"]) / adv - 1) > 1e-2
    assert float(terms["cyc"]) == pytest.approx(cyc, rel=1e-6)
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize(
    ("guidance", "encoder", "expected"),
    [("latent", False, "GMED"), ("reference", False, "GD"), ("reference", True, "GED")],
)
def test_plain_iteration_moves_the_learners(guidance, encoder, expected):
    config = tiny_config("e", reference_steps_encoder=encoder)
    nets, batch, latents = problem(config, guidance, torch.float32)
    before = snapshot(nets)
    plain_iteration(nets, plain_optimisers(nets, config), config, batch, latents, 0)
    after = snapshot(nets)
    assert {name[0] for name in before if not torch.equal(before[name], after[name])} == {*expected}


def test_r1_comes_when_it_is_due():
    config = tiny_config("e", r1_every=2)
    nets, batch, latents = problem(config, "latent", torch.float32)
    unweighted, _ = plain.plain_terms(nets, config, batch, latents)
    optimisers = plain_optimisers(nets, config)
    due = plain_iteration(nets, optimisers, config, batch, latents, 2)
    assert float(due["d_r1"]) == pytest.approx(2 * float(unweighted["r1"].detach()))
    assert "d_r1" not in plain_iteration(nets, optimisers, config, batch, latents, 3)


# --- bfloat16 ------------------------------------------------------------------------------------

ITERATIONS = 12
# Measured with three seeds: bf16 is at most 0.016 from the plain path, a doubled cycle weight at
# least 0.12, a doubled sd_rec weight (two seeds) 0.04.
BF16_TOLERANCE = 0.03


def running_means(path: Trainer | PlainTrainer) -> dict[str, float]:
    """Mean of every loss over the last eight of twelve iterations; R1 comes too seldom for one."""
    logs = [path.step() for _ in range(ITERATIONS)][4:]
    return {
        name: sum(float(log[name]) for log in logs) / len(logs)
        for name in logs[0]
        if "/" in name and not name.endswith(("d_r1", "c_abs", "c_spread", "_err"))
    }


def furthest(found: dict[str, float], expected: dict[str, float]) -> tuple[float, str]:
    return max((abs(found[name] / value - 1), name) for name, value in expected.items())


def test_bf16_follows_the_plain_path(monkeypatch):
    """With a cycle weight doubled by mistake it would not; kernels are those of long runs."""
    formulas = (kernels.forward_kernel, kernels.backward_kernel)
    monkeypatch.setattr(kernels, "compiled", lambda: formulas)
    monkeypatch.setattr(kernels, "why_not_compiled", lambda device: None)

    def trainer(cyc: float, precision: str) -> Trainer:
        schedule = {"iterations": 1000, "guidance": "both", "precision": precision}
        config = make_config("tiny", "e", weights={"cyc": cyc}, train=schedule)
        return Trainer(config, tiny_store())

    expected = running_means(PlainTrainer(trainer(5.0, "fp32")))
    assert len(expected) == 20  # ten losses a way of guidance
    right = trainer(5.0, "bf16")
    assert right.kernels == "compiled"
    assert furthest(running_means(right), expected) < (BF16_TOLERANCE, "")
    assert furthest(running_means(trainer(10.0, "bf16")), expected) > (2 * BF16_TOLERANCE, "")
