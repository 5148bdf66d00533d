"""The reference path: an iteration as the equations are printed, nothing shared, nothing clever.

Every G(x; c, s) is a whole forward of its own, D and E look at one set of images a call, G's turn
makes its fakes anew, norms are PyTorch's, memory is contiguous, Adam goes from parameter to
parameter, all in float32.  `step` computes the same numbers fast: the tests hold the two together
loss by loss and gradient by gradient.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_core import kernels
from dtgan_core.batches import Batch
from dtgan_core.config import Config
from dtgan_core.losses import objective
from dtgan_core.networks import Guide, Networks, Painted
from dtgan_core.step import Latents, learners
from dtgan_core.training import Trainer


def plain_terms(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term of (8) and R1 for one batch: what D minimises, and what G, M and E minimise.

    All scalars with grad; R1 is unweighted, "ds" is 0 in a batch without a defect among its
    targets. Two draws an image in `latents`; without them c~ and s~ come from E.
    """
    return (
        discriminator_terms(nets, config, batch, latents, with_r1=True),
        generator_terms(nets, config, batch, latents),
    )


def discriminator_terms(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None, with_r1: bool
) -> dict[str, Tensor]:
    """(1) negated, (6) and (7) on real images, and R1 if asked for."""
    with kernels.use("plain"), torch.no_grad():
        guide = _guide(nets, batch, latents, 0)
        x_fake = _made(nets, batch.x, batch.y == config.model.anchor, guide).image
    x = batch.x.detach().clone().requires_grad_(with_r1)
    told = _judged(config, batch)
    real, fake = nets.D(x, batch.p), nets.D(x_fake[told], batch.p[told])
    real_logit = _branch(real.real, batch.y)
    fake_logit = _branch(fake.real, batch.y_trg[told])
    # log D_y(x) and log(1 - D_y~(x~)), where D is the sigmoid of its logit
    terms = {"adv": -F.logsigmoid(real_logit).mean() - F.logsigmoid(-fake_logit).mean()}
    if real.defect is not None:
        terms["fg"] = F.cross_entropy(real.defect, batch.y)
    if real.product is not None:
        terms["bg"] = F.cross_entropy(real.product, batch.p)
    if with_r1:
        (grad,) = torch.autograd.grad(real_logit.sum(), x, create_graph=True)
        terms["r1"] = 0.5 * grad.square().sum(dim=(1, 2, 3)).mean()
    return terms


def generator_terms(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None
) -> dict[str, Tensor]:
    """(1) non-saturating, (2) to (5), (6) and (7) on fakes, and terms of ours."""
    G, E, D = nets.G, nets.E, nets.D
    normal, normal_fake = batch.y == config.model.anchor, batch.y_trg == config.model.anchor
    told, composed = _judged(config, batch), config.model.blend == "composed"
    x, y, y_trg = batch.x, batch.y, batch.y_trg
    split = config.model.split_style_defect
    with kernels.use("plain"):
        learns = config.train.reference_steps_encoder
        first, second = (_guide(nets, batch, latents, draw, learns) for draw in (0, 1))
        x_fake, mask = _made(nets, x, normal, first)
        verdict = D(x_fake[told], batch.p[told])
        c, s = E(x, y)
        c_fake, s_fake = E(x_fake, y_trg)
        x_rec = _made(nets, x_fake, normal_fake, Guide(c, s)).image
        others = [_made(nets, x, normal, guide) for guide in _other_guides(first, second, split)]
        fg_src, fg_fake = G.encode(x).defect, G.encode(x_fake).defect
        x_self = _made(nets, x, normal, Guide(c, s)).image

    keep = torch.ones_like(y_trg, dtype=torch.bool)
    if config.model.anchor_zero:  # a Normal target has nothing to recover or diversify (reading 9)
        keep = y_trg != config.model.anchor
    some = keep.nonzero().flatten()
    some = some[: math.ceil(config.train.diversity_share * len(some))]
    c_trg, s_trg = _targets(config, first)
    mixed = _pairs_of_4([image[some].clamp(-1, 1) for image, _ in [(x_fake, mask), *others]])
    terms = {
        "adv": -F.logsigmoid(_branch(verdict.real, y_trg[told])).mean(),
        "sd_rec": _distance(s_trg, s_fake, keep),
        "ds": torch.stack([_distance(one, other) for one, other in mixed]).sum(),
        "cyc": _distance(x, x_rec),
    }
    if split:
        terms["sd_rec"] = terms["sd_rec"] + _distance(c_trg, c_fake, keep)
        c, c_fake = _targets(config, Guide(c, c_fake))
        terms["d_rec"] = _distance(fg_src, c) + _distance(fg_fake, c_fake)
    if config.weights.self_rec and not composed:  # of Normal images; the others count as 0
        difference = (x - x_self).abs().mean(dim=(1, 2, 3))
        terms["self_rec"] = (difference * (y == config.model.anchor)).mean()
    if config.weights.local and not composed:
        changes = [_local_change(x[some], image[some]) for image, _ in others]
        terms["local"] = _local_change(x, x_fake) + torch.stack(changes).mean()
    if config.weights.area and mask is not None:
        masks = torch.cat([mask, *(m[some] for _, m in others if m is not None)])
        terms["area"] = (masks.mean(dim=(1, 2, 3)) - 0.02).clamp(min=0).mean()
    if config.weights.shape and mask is not None:  # x~ and the decoder are constant
        read = E(x_fake.detach(), y_trg)
        _, found = copy.deepcopy(G).requires_grad_(False).shape(read.c, read.s.detach())
        m, laid = found[keep], mask.detach()[keep]
        overlap = torch.minimum(m, laid).sum((1, 2, 3)) / torch.maximum(m, laid).sum((1, 2, 3))
        terms["shape"] = (1 - overlap).sum() / max(1, len(overlap))
    if verdict.defect is not None:
        terms["fg"] = F.cross_entropy(verdict.defect, y_trg[told])
    if verdict.product is not None:
        terms["bg"] = F.cross_entropy(verdict.product, batch.p[told])
    return terms


def _made(nets: Networks, x: Tensor, normal: Tensor, guide: Guide) -> Painted:
    """A whole forward of G: encode x, decode its background, lay the defect over it."""
    return nets.G.paint(nets.G.background(nets.G.encode(x), x, normal), *guide)


def _judged(config: Config, batch: Batch) -> Tensor:
    """(N,) bool, the fakes that D looks at: all but the copies that (f) makes of Normal."""
    anchor = config.model.anchor
    copies = (batch.y == anchor) & (batch.y_trg == anchor)
    return ~copies if config.model.blend == "composed" else torch.ones_like(copies)


def _guide(
    nets: Networks, batch: Batch, latents: Latents | None, draw: int, learns: bool = False
) -> Guide:
    """(c~, s~) of the first (0) or second (1) latent or reference; constant unless E learns."""
    y, n = batch.y_trg, len(batch.y_trg)
    if latents is None:
        c, s = nets.E((batch.x_ref, batch.x_ref2)[draw], y)
        return Guide(c, s) if learns else Guide(c.detach(), s.detach())
    part = slice(draw * n, (draw + 1) * n)
    return nets.M(latents.z[part], y, [noise[part] for noise in latents.noise])


def _other_guides(first: Guide, second: Guide, split: bool) -> list[Guide]:
    """Beside (c1, s1), what (4) compares: (c1, s2), (c2, s1), (c2, s2); in (a) the second alone."""
    (c1, s1), (c2, s2) = first, second
    return [Guide(c1, s2), Guide(c2, s1), second] if split else [second]


def _pairs_of_4(images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of (4) as printed."""
    if len(images) == 2:
        return [(images[0], images[1])]
    x11, x12, x21, x22 = images
    # the first two summands, then m != n in {1, 2} against o in {1, 2}
    return [(x12, x21), (x11, x22)] + [(x12, x11), (x12, x22), (x21, x11), (x21, x22)]


def _local_change(x: Tensor, image: Tensor) -> Tensor:
    """Mean |x - image| over the 85 % of an image's pixels that changed least."""
    if not len(x):
        return x.new_zeros(())
    change = (x - image).abs().mean(dim=1).flatten(1).sort(dim=1).values
    return change[:, : round(0.85 * change.shape[1])].mean()


def _targets(config: Config, pair: Guide) -> tuple[Tensor, Tensor]:
    """First arguments of (2) and (3): constants, if the configuration says so."""
    first, second = pair
    return (first.detach(), second.detach()) if config.train.detach_targets else (first, second)


def _branch(logits: Tensor, y: Tensor) -> Tensor:
    return logits[torch.arange(len(y), device=y.device), y]


def _distance(a: Tensor, b: Tensor, keep: Tensor | None = None) -> Tensor:
    """E|a - b|_1, of the samples kept; 0 where none is."""
    if keep is not None:
        a, b = a[keep], b[keep]
    return (a - b).abs().mean() if len(a) else a.new_zeros(())


# --- learning ------------------------------------------------------------------------------------
def plain_networks(nets: Networks) -> Networks:
    """A copy in contiguous memory."""
    return copy.deepcopy(nets).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def plain_optimisers(nets: Networks, config: Config) -> dict[str, torch.optim.Adam]:
    """One Adam a network that takes parameter after parameter."""
    train = config.train
    rates = {"M": train.lr_mapping, "D": train.lr_d or train.lr}
    fields: dict[str, Any] = {"betas": (train.beta1, train.beta2)}
    fields |= {"weight_decay": train.weight_decay, "foreach": False}
    return {
        k: torch.optim.Adam(getattr(nets, k).parameters(), lr=rates.get(k, train.lr), **fields)
        for k in "GMED"
    }


def plain_iteration(
    nets: Networks,
    optimisers: dict[str, torch.optim.Adam],
    config: Config,
    batch: Batch,
    latents: Latents | None,
    step: int,
) -> dict[str, Tensor]:
    """One update of D, then one of G (with M and E) against the new D; the terms without grad."""
    r1_every = config.train.r1_every
    d_terms = discriminator_terms(nets, config, batch, latents, with_r1=step % r1_every == 0)
    if "r1" in d_terms:
        d_terms["r1"] = r1_every * d_terms["r1"]
    nets.zero_grad()
    objective(d_terms, config.weights, 0.0).backward()
    optimisers["D"].step()
    if step < config.train.d_first:
        return {f"d_{name}": value.detach() for name, value in d_terms.items()}

    g_terms = generator_terms(nets, config, batch, latents)
    nets.zero_grad()
    objective(g_terms, config.weights_at(step), config.diversity_weight(step)).backward()
    for name in learners(config, "latent" if latents is not None else "reference"):
        optimisers[name].step()
    terms = {**{f"d_{name}": value for name, value in d_terms.items()}, **g_terms}
    return {name: value.detach() for name, value in terms.items()}


class PlainTrainer:
    """A trainer's iterations on the reference path: same data, latents and updates."""

    def __init__(self, trainer: Trainer) -> None:
        self.source, self.config = trainer, trainer.config
        self.nets = plain_networks(trainer.nets)
        self.ema = copy.deepcopy(self.nets).requires_grad_(False)
        self.optimisers = plain_optimisers(self.nets, self.config)
        self.step_count = trainer.step_count

    def step(self) -> dict[str, Tensor]:
        """One iteration; returns scalars for the log, named as `Trainer.step` names them."""
        step = self.step_count
        log: dict[str, Tensor] = {}
        for guidance in self.source.guidances(step):
            batch = self.source.sampler.draw(2 * step + (guidance == "reference"))
            latents = self.source.draw_latents(step) if guidance == "latent" else None
            terms = plain_iteration(self.nets, self.optimisers, self.config, batch, latents, step)
            log |= {f"{guidance}/{name}": value for name, value in terms.items()}
        decay = self.config.ema_decay_at(step)
        for name in ("G", "M", "E"):
            averaged, trained = getattr(self.ema, name), getattr(self.nets, name)
            for a, b in zip(averaged.parameters(), trained.parameters(), strict=True):
                a.lerp_(b.detach(), 1.0 - decay)
        self.step_count += 1
        return log
