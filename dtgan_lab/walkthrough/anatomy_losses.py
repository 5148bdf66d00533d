"""What the terms of the objective push: measured with the functions that training calls.

Nothing here trains a model for use: a discriminator is taught for a look at its verdicts, copies of
the networks take a few steps on one term alone.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dtgan_core import losses
from dtgan_core.batches import BalancedSampler, Batch, ImageStore
from dtgan_core.checkpoints import EXPORTED
from dtgan_core.config import Config
from dtgan_core.hardware import autocast
from dtgan_core.loop import frozen
from dtgan_core.networks import Networks, pick_domain
from dtgan_core.step import (
    Fakes,
    Latents,
    defect_map_health,
    discriminator_terms,
    generator_terms,
    learners,
    make_fakes,
    make_guides,
    r1_term,
)
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer, build_optimisers, channels_last, match_formats

# --- a discriminator for an export ---------------------------------------------------------------


def workbench(synth: Synthesizer, store: ImageStore, **train: Any) -> Trainer:
    """A trainer that writes nothing, with an export's G, M and E and a D that has learned nothing.

    Exports hold no D.  The trainer's own draws (`sampler`, `draw_latents`) and optimisers serve the
    measurements of this module.

    Args:
        synth: the export.
        store: images, as many pixels as the export wants.
        train: fields of `TrainConfig` to replace, such as seed or batch_size.
    """
    config = synth.config
    fields = {"kernels": "eager", **train}  # compiling costs more than a short lesson gains
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))
    bench = Trainer(config, store, device=synth.device)
    for name in EXPORTED:
        getattr(bench.nets, name).load_state_dict(getattr(synth, name).state_dict())
    return bench


def teach_discriminator(bench: Trainer, steps: int) -> pd.DataFrame:
    """Let D alone learn, (1), (6), (7) and R1, from real images and what a frozen G makes.

    Args:
        bench: its D is changed, the other networks are not.
        steps: batches, latent- and reference-guided in turn.

    Returns:
        One row a step: "step" and D's terms.
    """
    config, nets, optimiser = bench.config, bench.nets, bench.optimisers["D"]
    log = []
    with frozen(nets.G, nets.M, nets.E):
        for step in range(steps):
            batch = channels_last(bench.sampler.draw(step))
            latents = bench.draw_latents(step) if step % 2 == 0 else None
            with autocast(bench.precision, bench.device):
                guide, _ = make_guides(nets, config, batch, latents, batch.y_trg[:0])
                x_fake = nets.G(batch.x, *guide, batch.y == config.model.anchor)
                terms = discriminator_terms(nets, batch, x_fake)
            if step % config.train.r1_every == 0:
                terms["r1"] = config.train.r1_every * r1_term(nets, batch)
            losses.objective(terms, config.weights, 0.0).backward()
            match_formats(optimiser)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            log.append({"step": step, **{k: float(v.detach()) for k, v in terms.items()}})
    return pd.DataFrame(log)


@torch.no_grad()
def verdicts(bench: Trainer, store: ImageStore, batches: int) -> pd.DataFrame:
    """What D says of real images, and of fakes made of the same sources.

    Args:
        bench: the networks.
        store: images that D has not learned from.
        batches: how many batches to look at.

    Returns:
        One row an image: "image" ("real", "latent-guided" or "reference-guided"), "logit" of its
        domain's branch, "says_defect" and "says_product" (1 where the classifier names the defect
        that is, or was asked for, and the source's product; NaN where D has no such classifier).
    """
    nets, size = bench.nets, bench.config.train.batch_size
    sampler = BalancedSampler(store, size, bench.config.train.seed, flip=False)
    tables = []
    for step in range(batches):
        batch = sampler.draw(step)
        looked_at = {"real": (batch.x, batch.y)}
        for name in ("latent-guided", "reference-guided"):
            latents = bench.draw_latents(AFTER + step) if name == "latent-guided" else None
            guide, _ = make_guides(nets, bench.config, batch, latents, torch.arange(size))
            looked_at[name] = (nets.G(batch.x, *guide), batch.y_trg)
        for name, (x, y) in looked_at.items():
            said = nets.D(x, batch.p)
            columns = {"image": name, "logit": pick_domain(said.real, y).numpy()}
            columns["says_defect"] = _hits(said.defect, y)
            columns["says_product"] = _hits(said.product, batch.p)
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


AFTER = 1_000_000  # number of the first draw for a look: far behind those that D learned from


def _hits(logits: Tensor | None, truth: Tensor) -> np.ndarray:
    if logits is None:
        return np.full(len(truth), np.nan)
    return (logits.argmax(dim=1) == truth).float().numpy()


# --- what the losses push ------------------------------------------------------------------------


def pushes(nets: Networks, config: Config, batch: Batch, fakes: Fakes) -> dict[str, Tensor]:
    """Where each term of (8) would move the fake image: minus its weighted gradient.

    Only ways that lead through the image count: what a term asks of c~ or s~ directly is left out,
    and a term that does not look at the fake (our self-reconstruction) pushes nothing.

    Args:
        nets: the four networks.
        config: the experiment.
        batch: images and labels.
        fakes: what `step.make_fakes` made of the batch.

    Returns:
        Term -> (N, ch, H, W); each with its weight and sign in (8), w_ds as at the first step.
    """
    x_fake = fakes.x_fake.detach().clone().requires_grad_()
    terms, _ = generator_terms(nets, config, batch, fakes._replace(x_fake=x_fake))
    found = {}
    for name, term in terms.items():
        weighted = losses.objective({name: term}, config.weights, config.diversity_weight(0))
        (grad,) = torch.autograd.grad(
            weighted, x_fake, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found[name] = -grad
    return found


def gradient_norms(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None
) -> pd.DataFrame:
    """Who learns from what: the length of each weighted term's gradient in each network.

    Args:
        nets: the four networks.
        config: the experiment.
        batch: images and labels.
        latents: of a latent-guided step, or None for a reference-guided one.

    Returns:
        Index: terms of (8), those of D as "D: adv" and so on; columns: G, M, E and D. NaN where a
        step does not let this term reach this network.
    """
    active = learners(config, "latent" if latents is not None else "reference")
    passive = [getattr(nets, name) for name in ("G", "M", "E") if name not in active]
    norms: dict[str, dict[str, float]] = {}

    def measure(terms: dict[str, Tensor], names: tuple[str, ...], label: str) -> None:
        weights = [list(getattr(nets, name).parameters()) for name in names]
        for term, value in terms.items():
            total = losses.objective({term: value}, config.weights, config.diversity_weight(0))
            row = norms.setdefault(label + term, dict.fromkeys(("G", "M", "E", "D"), float("nan")))
            grads = torch.autograd.grad(
                total, [w for part in weights for w in part], retain_graph=True, allow_unused=True
            )
            for name, part in zip(names, weights, strict=True):
                mine, grads = grads[: len(part)], grads[len(part) :]
                found = [grad for grad in mine if grad is not None]
                if found:
                    row[name] = float(torch.stack(torch._foreach_norm(found)).norm())

    with frozen(*passive):
        fakes = make_fakes(nets, config, batch, latents)
        with frozen(nets.D):
            terms, _ = generator_terms(nets, config, batch, fakes)
            measure(terms, active, "")
        of_d = discriminator_terms(nets, batch, fakes.x_fake)
        measure({**of_d, "r1": r1_term(nets, batch)}, ("D",), "D: ")
    return pd.DataFrame(norms).T


@torch.no_grad()
def agreement(nets: Networks, config: Config, batch: Batch, latents: Latents) -> dict[str, float]:
    """How far (2) and (3) are met, beside the size of what is to be met (reading 8).

    Returns:
        Mean absolute values over the samples whose target is a defect (the last two: over those
        whose source shows one): "c put in", "c not recovered", "s put in", "s not recovered",
        "c of E", "FG of G not that c".
    """
    fakes = make_fakes(nets, config, batch, latents)
    c_rec, s_rec = nets.E(fakes.x_fake, batch.y_trg)
    health = {name: float(value) for name, value in defect_map_health(fakes, c_rec, s_rec).items()}
    shows = batch.y != config.model.anchor
    c_src = nets.E(batch.x, batch.y).c[shows]
    s_size = float(fakes.guide.s[fakes.kept].abs().mean())
    return {
        "c put in": health["c_abs"],
        "c not recovered": health["c_abs"] * health["c_rel_err"],
        "s put in": s_size,
        "s not recovered": s_size * health["s_rel_err"],
        "c of E": float(c_src.abs().mean()),
        "FG of G not that c": float((fakes.features.defect[shows] - c_src).abs().mean()),
    }


def learn_alone(
    nets: Networks, config: Config, batch: Batch, latents: Latents, term: str, steps: int
) -> Networks:
    """A copy of the networks after some steps on one term of (8) alone, always on the same batch.

    Args:
        nets: where to start; left as they are.
        config: weights, step sizes and `detach_targets` of the steps.
        batch: images and labels.
        latents: of the batch.
        term: such as "sd_rec" for (2).
        steps: how many.

    Raises:
        KeyError: the configuration has no such term.
    """
    nets = copy.deepcopy(nets)
    optimisers = build_optimisers(nets, config)
    with frozen(nets.D):
        for _ in range(steps):
            fakes = make_fakes(nets, config, batch, latents)
            terms, _ = generator_terms(nets, config, batch, fakes)
            w_ds = config.diversity_weight(0)
            losses.objective({term: terms[term]}, config.weights, w_ds).backward()
            for name in ("G", "M", "E"):
                match_formats(optimisers[name])
                optimisers[name].step()
                optimisers[name].zero_grad(set_to_none=True)
    return nets


def before_and_after(
    nets: Networks, config: Config, batch: Batch, latents: Latents, term: str, steps: int
) -> pd.DataFrame:
    """`agreement` before and after `learn_alone`, for both ways of treating what is to be met.

    Returns:
        Index: the quantities of `agreement`; columns: "before", "after, targets constant" and
        "after, as printed".
    """
    states = {"before": agreement(nets, config, batch, latents)}
    for name, detach in (("after, targets constant", True), ("after, as printed", False)):
        train = dataclasses.replace(config.train, detach_targets=detach)
        variant = dataclasses.replace(config, train=train)
        learned = learn_alone(nets, variant, batch, latents, term, steps)
        states[name] = agreement(learned, variant, batch, latents)
    return pd.DataFrame(states)
