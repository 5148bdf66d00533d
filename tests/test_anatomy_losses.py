"""What the measurements of the objective say, against gradients and steps done by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from dtgan_core import losses
from dtgan_core.config import Config
from dtgan_core.networks import pick_domain
from dtgan_core.step import Latents, generator_terms, make_fakes
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.walkthrough import anatomy_losses
from tests import core_fixtures
from tests.core_fixtures import make_batch, same, snapshot, tiny_config, tiny_networks, tiny_store

TERMS = ["adv", "sd_rec", "d_rec", "ds", "cyc", "fg", "bg"]


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    folder = tmp_path_factory.mktemp("export")
    return Synthesizer.load(core_fixtures.write_tiny_export(folder))


def bench_of(synth: Synthesizer, seed: int = 0) -> Trainer:
    return anatomy_losses.workbench(synth, tiny_store(), seed=seed, precision="fp32")


def scene(detach: bool = False):
    """Networks, configuration, a batch with every target, and latents."""
    config = tiny_config(detach_targets=detach)
    nets = tiny_networks(config)
    batch = make_batch([0, 1, 2], [1, 2, 0])
    latents = Latents(*nets.M.draw(6, torch.Generator().manual_seed(2)))
    return nets, config, batch, latents


# --- a discriminator for an export ---------------------------------------------------------------


def test_workbench_has_the_export_and_a_fresh_discriminator(synth):
    bench = bench_of(synth, seed=3)
    for name in ("G", "M", "E"):
        assert same(snapshot(getattr(bench.nets, name)), snapshot(getattr(synth, name)))
    assert bench.config.train.seed == 3 and bench.out is None
    assert same(snapshot(bench.nets.D), snapshot(bench_of(synth, seed=3).nets.D))


def test_teaching_changes_d_alone(synth):
    bench = bench_of(synth)
    before = snapshot(bench.nets)
    log = anatomy_losses.teach_discriminator(bench, 3)
    after = snapshot(bench.nets)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"D"}
    assert list(log["step"]) == [0, 1, 2]
    assert {"adv", "fg", "bg", "r1"} <= set(log.columns)
    assert log[["adv", "fg", "bg"]].notna().all(axis=None)
    assert all(weight.requires_grad and weight.grad is None for weight in bench.nets.parameters())


def test_teaching_teaches_and_repeats(synth):
    logs = [anatomy_losses.teach_discriminator(bench_of(synth), 40) for _ in range(2)]
    assert logs[0].equals(logs[1])
    first, last = logs[0]["bg"].head(5).mean(), logs[0]["bg"].tail(5).mean()
    assert last < first


def test_verdicts_are_those_of_d(synth):
    bench = bench_of(synth)
    table = anatomy_losses.verdicts(bench, tiny_store(), 2)
    size = bench.config.train.batch_size
    assert table.groupby("image").size().to_dict() == dict.fromkeys(
        ("real", "latent-guided", "reference-guided"), 2 * size
    )
    assert set(table["says_product"]) <= {0.0, 1.0}
    batch = anatomy_losses.BalancedSampler(tiny_store(), size, 0, flip=False).draw(0)
    with torch.no_grad():
        said = bench.nets.D(batch.x)
    real = table[table["image"] == "real"].head(size)
    assert real["logit"].to_numpy() == pytest.approx(pick_domain(said.real, batch.y).numpy())
    right = (said.defect.argmax(dim=1) == batch.y).float()
    assert list(real["says_defect"]) == right.tolist()


def test_verdicts_without_classifiers_are_not_a_number(tmp_path):
    folder = core_fixtures.write_tiny_export(tmp_path, tiny_config("b"))
    bench = bench_of(Synthesizer.load(folder))
    table = anatomy_losses.verdicts(bench, tiny_store(), 1)
    assert table["says_defect"].isna().all() and table["says_product"].isna().all()


def cell(table: pd.DataFrame, row: str, column: str) -> float:
    return float(table[column].to_dict()[row])


# --- pushes and gradients ------------------------------------------------------------------------


def test_pushes_lower_the_weighted_loss():
    nets, config, batch, latents = scene()
    fakes = make_fakes(nets, config, batch, latents)
    found = anatomy_losses.pushes(nets, config, batch, fakes)
    assert sorted(found) == sorted(TERMS)
    for name, push in found.items():
        assert push.shape == batch.x.shape

        def value(x_fake: torch.Tensor, name: str = name) -> float:
            terms, _ = generator_terms(nets, config, batch, fakes._replace(x_fake=x_fake))
            w_ds = config.diversity_weight(0)
            return float(losses.objective({name: terms[name]}, config.weights, w_ds).detach())

        start = fakes.x_fake.detach()
        step = 1e-3 / float(push.norm())
        assert value(start + step * push) < value(start), name


def test_a_push_is_minus_the_gradient():
    nets, config, batch, latents = scene()
    fakes = make_fakes(nets, config, batch, latents)
    x_fake = fakes.x_fake.detach().requires_grad_()
    loss = losses.adversarial_g(pick_domain(nets.D(x_fake).real, batch.y_trg))
    (expected,) = torch.autograd.grad(loss, x_fake)
    found = anatomy_losses.pushes(nets, config, batch, fakes)["adv"]
    assert torch.allclose(found, -expected, atol=1e-7)


def with_self_rec(config: Config) -> Config:
    return dataclasses.replace(config, weights=dataclasses.replace(config.weights, self_rec=1.0))


def test_a_term_that_does_not_look_at_the_fake_pushes_nothing():
    nets, config, batch, latents = scene()
    config = with_self_rec(config)
    fakes = make_fakes(nets, config, batch, latents)
    found = anatomy_losses.pushes(nets, config, batch, fakes)
    assert not found["self_rec"].any()
    assert found["cyc"].any()


def test_gradient_norms_of_a_latent_guided_step():
    nets, config, batch, latents = scene()
    table = anatomy_losses.gradient_norms(nets, config, batch, latents)
    assert set(TERMS) <= set(table.index)
    assert table.loc["adv", ["G", "M"]].gt(0).all()
    assert np.isnan(cell(table, "adv", "E"))  # E takes no part in what D sees
    assert table.loc["sd_rec", ["G", "M", "E"]].gt(0).all()
    assert table.loc[TERMS, "D"].isna().all()
    assert cell(table, "D: adv", "D") > 0 and np.isnan(cell(table, "D: adv", "G"))
    terms, _ = generator_terms(nets, config, batch, make_fakes(nets, config, batch, latents))
    (config.weights.cyc * terms["cyc"]).backward()
    grads = [weight.grad for weight in nets.G.parameters() if weight.grad is not None]
    expected = float(torch.stack([grad.norm() for grad in grads]).norm())
    assert cell(table, "cyc", "G") == pytest.approx(expected, rel=1e-4)


def test_gradient_norms_of_a_reference_guided_step_reach_g_and_d_alone():
    nets, config, batch, _ = scene()
    table = anatomy_losses.gradient_norms(nets, config, batch, None)
    assert table[["M", "E"]].isna().all(axis=None)
    assert cell(table, "cyc", "G") > 0 and cell(table, "D: r1", "D") > 0
    assert all(weight.requires_grad and weight.grad is None for weight in nets.parameters())


# --- (2) and (3) alone ---------------------------------------------------------------------------


def test_agreement_by_hand():
    nets, config, batch, latents = scene()
    found = anatomy_losses.agreement(nets, config, batch, latents)
    with torch.no_grad():
        fakes = make_fakes(nets, config, batch, latents)
        c_rec, s_rec = nets.E(fakes.x_fake, batch.y_trg)
        c_src = nets.E(batch.x, batch.y).c
    asked = [0, 1]  # the third target is Normal
    shows = [1, 2]  # the first source is
    expected = {
        "c put in": fakes.guide.c[asked].abs().mean(),
        "c not recovered": (fakes.guide.c - c_rec)[asked].abs().mean(),
        "s put in": fakes.guide.s[asked].abs().mean(),
        "s not recovered": (fakes.guide.s - s_rec)[asked].abs().mean(),
        "c of E": c_src[shows].abs().mean(),
        "FG of G not that c": (fakes.features.defect - c_src)[shows].abs().mean(),
    }
    assert found == pytest.approx({name: float(v) for name, v in expected.items()}, rel=1e-5)


@pytest.mark.parametrize(("term", "lowered"), [("sd_rec", "c not recovered"), ("d_rec", None)])
def test_learning_one_term_alone_lowers_it_and_leaves_the_start(term, lowered):
    nets, config, batch, latents = scene(detach=True)
    start = snapshot(nets)

    def value(these) -> float:
        fakes = make_fakes(these, config, batch, latents)
        return float(generator_terms(these, config, batch, fakes)[0][term].detach())

    learned = anatomy_losses.learn_alone(nets, config, batch, latents, term, 15)
    assert value(learned) < value(nets)
    assert same(snapshot(nets), start)
    assert same(snapshot(learned.D), snapshot(nets.D))
    if lowered:
        after = anatomy_losses.agreement(learned, config, batch, latents)
        assert after[lowered] < anatomy_losses.agreement(nets, config, batch, latents)[lowered]


def test_learning_a_term_that_is_not_there():
    nets, config, batch, latents = scene()
    with pytest.raises(KeyError, match="no_such_term"):
        anatomy_losses.learn_alone(nets, config, batch, latents, "no_such_term", 1)


def test_before_and_after_takes_both_ways_of_targets():
    nets, config, batch, latents = scene()
    table = anatomy_losses.before_and_after(nets, config, batch, latents, "sd_rec", 15)
    assert list(table.columns) == ["before", "after, targets constant", "after, as printed"]
    assert table["before"].to_dict() == anatomy_losses.agreement(nets, config, batch, latents)
    constant = dataclasses.replace(
        config, train=dataclasses.replace(config.train, detach_targets=True)
    )
    learned = anatomy_losses.learn_alone(nets, constant, batch, latents, "sd_rec", 15)
    expected = anatomy_losses.agreement(learned, constant, batch, latents)
    assert table["after, targets constant"].to_dict() == expected
    assert not table.iloc[:, 1].equals(table.iloc[:, 2])
