from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dtgan_core import layers, losses, step
from dtgan_core.config import Config, make_config
from dtgan_core.layers import frozen
from dtgan_core.networks import Guide, Networks, Verdict, pick_domain
from dtgan_core.step import (
    Fakes,
    Guidance,
    Latents,
    defect_map_health,
    discriminator_terms,
    generator_terms,
    learners,
    make_fakes,
    r1_term,
)
from dtgan_core.training import Trainer
from tests.core_fixtures import (
    calls_of,
    gradients,
    make_batch,
    snapshot,
    tiny_config,
    tiny_networks,
    tiny_store,
)

NORMAL, SCRATCHES, SPOTS = 0, 1, 2
ALL_TARGETS = ([0, 1, 2, 1], [NORMAL, SCRATCHES, SPOTS, SCRATCHES])  # y, y_trg


def latents_for(nets: Networks, count: int, seed: int = 0) -> Latents:
    return Latents(*nets.M.draw(2 * count, torch.Generator().manual_seed(seed)))


def step_terms(
    config: Config, y: list[int], y_trg: list[int], guidance: Guidance = "latent"
) -> tuple[dict[str, Tensor], dict[str, Tensor], Fakes]:
    nets = tiny_networks(config)
    batch = make_batch(y, y_trg)
    latents = latents_for(nets, len(y)) if guidance == "latent" else None
    fakes = make_fakes(nets, config, batch, latents)
    terms, health = generator_terms(nets, config, batch, fakes)
    return terms, health, fakes


# --- which terms ---------------------------------------------------------------------------------

OF_A = {"adv", "sd_rec", "ds", "cyc"}
OF_G = {"a": OF_A, "b": OF_A | {"d_rec"}}
OF_G |= {"c1": OF_G["b"] | {"fg"}, "c2": OF_G["b"] | {"bg"}}
OF_G |= dict.fromkeys(("c", "d", "e1", "e2", "e"), OF_G["c1"] | {"bg"})


@pytest.mark.parametrize("guidance", ["latent", "reference"])
@pytest.mark.parametrize("letter", OF_G)
def test_every_configuration_has_its_terms(letter, guidance):
    config = tiny_config(letter)
    terms, health, fakes = step_terms(config, *ALL_TARGETS, guidance)
    assert set(terms) == OF_G[letter]
    assert all(value.shape == () and value.isfinite() for value in terms.values())
    losses.objective(terms, config.weights, 1.0).backward()
    # (a) compares two images, the others the four of (4); without the anchor Normal is kept
    assert len(fakes.mixed) == (1 if letter == "a" else 3)
    assert fakes.kept.tolist() == ([1, 2, 3] if letter in ("e", "e1") else [0, 1, 2, 3])
    assert len(fakes.mixed[0]) == len(fakes.kept)
    of_maps = {"c_abs", "c_rel_err", "c_spread"}
    assert set(health) == ({"s_rel_err"} if letter == "a" else {"s_rel_err"} | of_maps)


def weighed(y: list[int], **weights: float) -> tuple[Networks, Config, Any, Fakes]:
    config = make_config("tiny", weights=weights)
    nets, batch = tiny_networks(config), make_batch(y, ALL_TARGETS[1])
    return nets, config, batch, make_fakes(nets, config, batch, latents_for(nets, 4))


def test_the_self_reconstruction_is_there_when_it_weighs_something():
    """Ours: |x - G(x; E_y(x))| of Normal x, on the background that the fakes were painted on."""
    nets, config, batch, fakes = weighed(ALL_TARGETS[0], self_rec=2.0)
    with calls_of(nets.G.pool_background) as sizes:
        terms, _ = generator_terms(nets, config, batch, fakes)
    assert sizes == [4]  # the background of x_fake for (5), none for x itself
    normal = batch.y == config.model.anchor
    assert 0 < int(normal.sum()) < 4
    x_self = nets.G(batch.x, *nets.E(batch.x, batch.y))
    expected = losses.l1(batch.x, x_self, normal) * normal.float().mean()
    assert float(terms["self_rec"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    cycle = losses.l1(batch.x, nets.G(fakes.x_fake, *nets.E(batch.x, batch.y)))
    assert float(terms["cyc"].detach()) == pytest.approx(float(cycle.detach()), rel=1e-4)
    terms, _ = generator_terms(*weighed([1, 2, 1, 2], self_rec=2.0))  # none is Normal
    assert float(terms["self_rec"].detach()) == 0.0
    terms["self_rec"].backward()


def test_locality_looks_at_every_image_of_4():
    nets, config, batch, fakes = weighed(ALL_TARGETS[0], local=2.0)
    terms, _ = generator_terms(nets, config, batch, fakes)
    others = [losses.locality(batch.x[fakes.kept], image) for image in fakes.mixed]
    expected = losses.locality(batch.x, fakes.x_fake) + sum(others) / len(others)
    assert float(terms["local"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("letter", "expected"),
    [("a", {"adv"}), ("c1", {"adv", "fg"}), ("c2", {"adv", "bg"}), ("e", {"adv", "fg", "bg"})],
)
def test_d_learns_its_terms(letter, expected):
    nets, batch = tiny_networks(tiny_config(letter)), make_batch(*ALL_TARGETS)
    assert set(discriminator_terms(nets, batch, batch.x_ref)) == expected


# --- the values, against the equations written out -----------------------------------------------
@pytest.mark.parametrize("guidance", ["latent", "reference"])
def test_the_terms_are_the_equations(guidance):
    """Everything of (e), put together again from single calls of the networks."""
    config = tiny_config("e", detach_targets=False)
    nets = tiny_networks(config)
    batch = make_batch([0, 1, 2], [SPOTS, NORMAL, SCRATCHES])
    latents = latents_for(nets, 3) if guidance == "latent" else None
    G, M, E, D = nets.G, nets.M, nets.E, nets.D
    x, y, y_trg = batch.x, batch.y, batch.y_trg
    if latents is not None:
        c1, s1 = M(latents.z[:3], y_trg, [n[:3] for n in latents.noise])
        c2, s2 = M(latents.z[3:], y_trg, [n[3:] for n in latents.noise])
    else:
        (c1, s1), (c2, s2) = E(batch.x_ref, y_trg), E(batch.x_ref2, y_trg)
    fake = G(x, c1, s1)
    c_src, s_src = E(x, y)
    c_fake, s_fake = E(fake, y_trg)
    verdict = D(fake)
    k = [0, 2]  # the targets that have a defect
    four = [fake[k], *(G(x[k], c[k], s[k]) for c, s in ((c1, s2), (c2, s1), (c2, s2)))]
    expected = {
        "adv": losses.adversarial_g(pick_domain(verdict.real, y_trg)),
        "sd_rec": losses.l1(c1[k], c_fake[k]) + losses.l1(s1[k], s_fake[k]),
        "d_rec": losses.l1(G.encode(x).defect, c_src) + losses.l1(G.encode(fake).defect, c_fake),
        "ds": losses.diversity(four),
        "cyc": losses.l1(x, G(fake, c_src, s_src)),
        "fg": nn.functional.cross_entropy(verdict.defect, y_trg),
        "bg": nn.functional.cross_entropy(verdict.product, batch.p),
    }
    fakes = make_fakes(nets, config, batch, latents)
    found, health = generator_terms(nets, config, batch, fakes)
    assert torch.allclose(fakes.x_fake, fake, atol=1e-5)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name
    relative = (c1[k] - c_fake[k]).abs().mean() / c1[k].abs().mean()
    assert float(health["c_rel_err"]) == pytest.approx(float(relative.detach()), rel=1e-4)
    spread = (c1[k] - c2[k]).abs().mean() / c1[k].abs().mean()
    assert float(health["c_spread"]) == pytest.approx(float(spread.detach()), rel=1e-4)


def test_ds_terms_of_the_discriminator_are_the_equations():
    nets, targets = tiny_networks(tiny_config("e")), [SPOTS, NORMAL, SCRATCHES]
    batch, rows = make_batch([0, 1, 2], targets), [0, 1, 2]
    real, fake = nets.D(batch.x), nets.D(batch.x_ref)
    expected = {
        "adv": losses.adversarial_d(real.real[rows, rows], fake.real[rows, targets]),
        "fg": nn.functional.cross_entropy(real.defect, batch.y),
        "bg": nn.functional.cross_entropy(real.product, batch.p),
    }
    found = discriminator_terms(nets, batch, batch.x_ref)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4), name


@pytest.mark.parametrize("letter", ["d", "e"])
def test_a_background_is_decoded_once_in_the_fakes_of_a_step(letter):
    config = tiny_config(letter)
    nets = tiny_networks(config)
    with calls_of(nets.G.encoder, nets.G.background_decoder[0], nets.G.pool_background) as calls:
        make_fakes(nets, config, make_batch(*ALL_TARGETS), latents_for(nets, 4))
    assert calls == [4, 4, 4]


# --- who learns ----------------------------------------------------------------------------------


# Of preset `tiny`, guidance in turns: iteration 2 is latent-, 3 reference-guided, R1 is due in 8.
ITERATION = {"latent": 2, "reference": 3}


def spied_step(
    config: Config, guidance: Guidance
) -> tuple[Trainer, list[dict[str, dict[str, Tensor]]], list[tuple[str, ...]]]:
    """An iteration in which nobody steps: all gradients in D's and in G's turn, and who learns."""
    trainer = Trainer(config, tiny_store())
    trainer.nets.load_state_dict(tiny_networks(config).state_dict())
    found: list[dict[str, dict[str, Tensor]]] = []
    turns: list[tuple[str, ...]] = []

    def spy(names: tuple[str, ...], loss: Tensor) -> None:
        loss.backward()
        found.append({net: gradients(getattr(trainer.nets, net)) for net in "GMED"})
        turns.append(names)
        trainer.nets.zero_grad(set_to_none=True)

    trainer._learn = spy  # type: ignore[method-assign]
    trainer.step_count = ITERATION[guidance]
    trainer.step()
    return trainer, found, turns


@pytest.mark.parametrize(
    ("guidance", "encoder", "expected"),
    [
        ("latent", False, {"G", "M", "E"}),
        ("reference", False, {"G"}),
        ("reference", True, {"G", "E"}),
    ],
)
def test_gradients_reach_the_learners_and_nobody_else(guidance, encoder, expected):
    config = tiny_config("e", batch_size=4, reference_steps_encoder=encoder)
    trainer, (of_d, of_g), turns = spied_step(config, guidance)
    assert {net for net in "GMED" if of_d[net]} == {"D"}
    assert {net for net in "GMED" if of_g[net]} == expected
    assert turns == [("D",), learners(config, guidance)]
    # Nothing in them is left out, every kernel learns, but for the style of the anchor domain:
    # where c is zero nothing shows a style, so that branch has nothing to learn from (reading 9).
    for net in expected | {"D"}:
        gradient = (of_d if net == "D" else of_g)[net]
        for name, weight in getattr(trainer.nets, net).named_parameters():
            assert name in gradient and gradient[name].shape == weight.shape, f"{net}.{name}"
            idle = net == "M" and name.startswith(f"style.{NORMAL}.")
            if name.endswith("weight"):
                assert (gradient[name].count_nonzero() > 0) != idle, f"{net}.{name}"


def test_ds_gradient_comes_from_its_own_terms():
    config = tiny_config("e", batch_size=4)
    trainer, (of_d, _), _ = spied_step(config, "latent")
    nets, step = trainer.nets, ITERATION["latent"]
    batch = trainer.sampler.draw(2 * step)
    fakes = make_fakes(nets, config, batch, trainer.draw_latents(step))
    terms = discriminator_terms(nets, batch, fakes.x_fake)
    losses.objective(terms, config.weights, 0.0).backward()
    expected = gradients(nets.D)
    assert expected.keys() == of_d["D"].keys()
    for name, value in expected.items():
        assert torch.allclose(of_d["D"][name], value, rtol=1e-4, atol=1e-6), name
    assert not gradients(nets.G) and not gradients(nets.M) and not gradients(nets.E)


def test_frozen_lets_gradients_through_and_restores():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    with frozen(second):
        second(first(torch.ones(1, 2))).sum().backward()
    assert gradients(first) and not gradients(second)
    with pytest.raises(RuntimeError, match="boom"), frozen(second):
        raise RuntimeError("boom")
    assert all(weight.requires_grad for weight in second.parameters())


# --- detached targets ----------------------------------------------------------------------------
def with_leaf_guide(config: Config) -> tuple[Networks, Any, Fakes]:
    """Fakes whose c~ and s~ are leaves that x_fake does not depend on."""
    nets = tiny_networks(config)
    batch = make_batch([0, 1], [SCRATCHES, SPOTS])
    fakes = make_fakes(nets, config, batch, latents_for(nets, 2))
    guide = Guide(*(t.detach().requires_grad_() for t in fakes.guide))
    return nets, batch, fakes._replace(guide=guide, x_fake=fakes.x_fake.detach())


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({"detach_targets": True}, True),
        ({"detach_targets": False}, False),
        ({"detach_targets": True, "detach_drawn": False}, False),
    ],
)
def test_equation_2_moves_its_target_only_when_not_detached(settings, held):
    config = tiny_config("e", **settings)
    nets, batch, fakes = with_leaf_guide(config)
    terms, _ = generator_terms(nets, config, batch, fakes)
    terms["sd_rec"].backward()
    c, s = fakes.guide
    if held:
        assert c.grad is None and s.grad is None
    else:
        c_rec, s_rec = nets.E(fakes.x_fake, batch.y_trg)
        assert c.grad is not None and s.grad is not None
        assert torch.allclose(c.grad, (c - c_rec).sign() / c.numel(), atol=1e-7)
        assert torch.allclose(s.grad, (s - s_rec).sign() / s.numel(), atol=1e-7)
    assert gradients(nets.E)  # E learns from (2) in both cases


def test_equation_3_moves_the_encoder_only_when_not_detached():
    for detach in (True, False):
        config = tiny_config("e", detach_targets=detach, detach_drawn=False)
        nets, batch, fakes = with_leaf_guide(config)
        terms, _ = generator_terms(nets, config, batch, fakes)
        terms["d_rec"].backward()
        assert gradients(nets.G)  # FG_G follows in both cases
        assert bool(gradients(nets.E)) != detach


# --- a batch of Normal targets -------------------------------------------------------------------
@pytest.mark.parametrize("guidance", ["latent", "reference"])
def test_a_batch_of_normal_targets(guidance):
    config = tiny_config("e")
    terms, health, fakes = step_terms(config, [0, 1, 2], [NORMAL] * 3, guidance)
    assert fakes.kept.numel() == 0 and all(len(image) == 0 for image in fakes.mixed)
    assert float(terms.get("ds", torch.zeros(())).detach()) == 0.0  # nothing to diversify
    assert float(terms["sd_rec"].detach()) == 0.0  # nothing to recover
    losses.objective(terms, config.weights, 1.0).backward()
    assert all(value.isfinite() for value in terms.values())
    # what is watched must not stop the run either (a NaN counts as a loss that went wrong)
    assert all(value.isfinite() for value in health.values()), health


def test_a_batch_size_of_one_trains_and_without_the_anchor_normal_targets_are_targets():
    trainer = Trainer(tiny_config("e", batch_size=1, iterations=6), tiny_store())
    trainer.run(progress=False)
    assert trainer.step_count == 6
    terms, health, fakes = step_terms(tiny_config("d"), [1, 2], [NORMAL] * 2)
    assert len(fakes.kept) == 2
    assert float(terms["ds"].detach()) > 0
    assert float(terms["sd_rec"].detach()) > 0
    assert all(value.isfinite() for value in health.values())


# --- R1 ------------------------------------------------------------------------------------------
def test_r1_is_computed_in_float32_under_autocast():
    config = tiny_config("e")
    nets = tiny_networks(config)
    batch = make_batch(*ALL_TARGETS)
    plain = r1_term(nets, batch)
    dtypes: list[torch.dtype] = []

    def note(module: nn.Module, args: tuple[Tensor], verdict: Verdict) -> None:
        dtypes.extend([args[0].dtype, verdict.real.dtype])

    nets.D.register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        assert nets.D(batch.x).real.dtype == torch.bfloat16  # autocast does reach D elsewhere
        dtypes.clear()
        under_autocast = r1_term(nets, batch)
    assert dtypes == [torch.float32, torch.float32]
    assert torch.equal(plain, under_autocast)
    under_autocast.backward()
    assert all(weight.dtype == torch.float32 for weight in gradients(nets.D).values())
    assert gradients(nets.D)["trunk.0.weight"].count_nonzero() > 0
    assert batch.x.grad is None and not batch.x.requires_grad


def test_r1_looks_at_the_branch_of_the_real_label():
    nets = tiny_networks(tiny_config("e"))
    batch = make_batch([SCRATCHES, SCRATCHES], [NORMAL, SPOTS])
    before = r1_term(nets, batch)
    with torch.no_grad():
        nets.D.real.weight[[NORMAL, SPOTS]] += 1
    assert torch.equal(r1_term(nets, batch), before)
    with torch.no_grad():
        nets.D.real.weight[SCRATCHES] += 1
    assert not torch.equal(r1_term(nets, batch), before)


# --- what training watches of the defect map (the kit's reading 8) -------------------------------
def constructed(c1: list[float], c2: list[float], s1: list[float]) -> Fakes:
    """Fakes with defect maps and styles of one number an image, all images kept but the first."""
    n = len(c1)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values).view(n, 1, 1, 1)

    nothing = Fakes._make([None] * len(Fakes._fields))
    return nothing._replace(
        guide=Guide(column(c1), torch.tensor(s1).view(n, 1)),
        second=Guide(column(c2)[1:], torch.zeros(n - 1, 1)),
        kept=torch.arange(1, n),
    )


def test_health_of_constructed_guides():
    fakes = constructed(c1=[100.0, 2.0, -4.0], c2=[0.0, 5.0, -4.0], s1=[100.0, 1.0, 3.0])
    c_rec = torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1, 1)
    s_rec = torch.tensor([[0.0], [1.0], [1.0]])
    health = defect_map_health(fakes, c_rec, s_rec)
    # of the last two: mean |c| = (2 + 4) / 2 = 3; |c - c_rec| = (1 + 2) / 2, over 3: 0.5
    assert float(health["c_abs"]) == pytest.approx(3.0)
    assert float(health["c_rel_err"]) == pytest.approx(0.5)
    # |c1 - c2| = (3 + 0) / 2 = 1.5, over 3: 0.5
    assert float(health["c_spread"]) == pytest.approx(0.5)
    # |s - s_rec| = (0 + 2) / 2 = 1, mean |s| = 2: 0.5
    assert float(health["s_rel_err"]) == pytest.approx(0.5)


def test_health_of_a_map_that_shrank_to_nothing_is_finite():
    shrunk = constructed(c1=[0.0] * 3, c2=[0.0] * 3, s1=[1.0] * 3)
    health = defect_map_health(shrunk, torch.ones(3, 1, 1, 1), torch.ones(3, 1))
    assert float(health["c_abs"]) == 0.0
    assert all(value.isfinite() for value in health.values())


# --- where the host would have to wait ---------------------------------------------------------
class NeverWaits(TorchDispatchMode):
    """Refuses what makes a host wait for a GPU: values that become numbers or shapes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        assert name not in ("nonzero", "_local_scalar_dense", "masked_select", "equal"), name
        if name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError("indexed by a mask")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guidance", ["latent", "reference"])
@pytest.mark.parametrize("letter", ["a", "e", "f"])
def test_a_step_without_one_wait_for_the_device_learns_the_same(letter, guidance, monkeypatch):
    y, y_trg = [0, 1, 2, 0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0, 2, 0, 1]

    def learned(mode: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config = tiny_config(letter, diversity_share=0.25, d_first=0, batch_size=9)
        trainer = Trainer(config, tiny_store())
        latents = latents_for(trainer.nets, 9) if guidance == "latent" else None
        with mode:
            terms = trainer._update(make_batch(y, y_trg), latents, guidance, 0, None)
        return terms, snapshot(trainer.nets)

    terms, weights = learned(nullcontext())
    with pytest.raises(AssertionError), NeverWaits():
        torch.ones(2).nonzero()
    for module in (layers, step):
        monkeypatch.setattr(module, "waits", lambda values: True)
    without, same_weights = learned(NeverWaits())
    assert terms.keys() == without.keys()
    for name, value in terms.items():
        torch.testing.assert_close(without[name], value, rtol=2e-3, atol=1e-5, msg=name)
    moved = [(weights[name] - same_weights[name]).abs().max() for name in weights]
    assert max(moved) < 5e-4
