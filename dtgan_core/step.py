"""One training step: the paper's terms, computed together so that nothing is computed twice.

A step serves one way of guidance.  G's encoder and background decoder run once on the source, its
defect decoder once on every (c, s) pair that equation (4) wants; the first of these images is the
fake of every other term, and D learns from the same fake before G does.

Who learns: D in every step; G, M and E in a latent-guided step; G alone in a reference-guided one
(our reading 6), with E too where `reference_steps_encoder` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dtgan_core import losses
from dtgan_core.batches import Batch
from dtgan_core.config import Config
from dtgan_core.networks import Features, Guide, Networks, pick_domain, take

Guidance = Literal["latent", "reference"]


class Latents(NamedTuple):
    """Two latents an image with their pixel noise (MappingNetwork.draw): the pair of (4)."""

    z: Tensor  # (2 N, Z), first draws then second draws
    noise: list[Tensor]  # (2 N, 1, side, side) each


class Fakes(NamedTuple):
    """What G made of a batch, with all that later terms need again."""

    features: Features  # of the source
    background: Tensor  # of the source, decoded
    guide: Guide  # (c~, s~) of x_fake
    second: Guide  # the second draw or reference, (c2, s2)
    x_fake: Tensor  # (N, ch, H, W)
    mixed: list[Tensor]  # the other images of (4), for the samples kept
    kept: Tensor  # (n,) indices of the samples whose target is a defect
    kept_count: float  # n, or the mean n a process where several share a batch


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within, gradients flow through these modules but not into their weights."""
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)


def learners(config: Config, guidance: Guidance) -> tuple[str, ...]:
    """Which of G, M and E a step of this guidance updates."""
    if guidance == "latent":
        return ("G", "M", "E")
    return ("G", "E") if config.train.reference_steps_encoder else ("G",)


def can_vary(config: Config, y_trg: Tensor) -> Tensor:
    """(N,) bool: targets that (2) and (4) look at.

    With the anchor a Normal target looks the same whatever the draw: nothing to recover or
    diversify (our reading 9).
    """
    if config.model.anchor_zero:
        return y_trg != config.model.anchor
    return torch.ones_like(y_trg, dtype=torch.bool)


def make_guides(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None
) -> tuple[Guide, Guide]:
    """Two guides (c~, s~) an image towards y_trg: from M if latents are given, else from E."""
    y = batch.y_trg.repeat(2)
    if latents is not None:
        c, s = nets.M(latents.z, y, latents.noise)
    else:
        with torch.set_grad_enabled(config.train.reference_steps_encoder):
            c, s = nets.E(torch.cat([batch.x_ref, batch.x_ref2]), y)
    (c1, c2), (s1, s2) = c.chunk(2), s.chunk(2)
    return Guide(c1, s1), Guide(c2, s2)


def make_fakes(
    nets: Networks,
    config: Config,
    batch: Batch,
    latents: Latents | None,
    kept_count: float | None = None,
) -> Fakes:
    """Encode x and decode its background once, then render every defect-style pair of (4)."""
    first, second = make_guides(nets, config, batch, latents)
    features = nets.G.encode(batch.x)
    background = nets.G.background(features)
    x_fake = nets.G.render(background, first.c, first.s)
    kept = can_vary(config, batch.y_trg).nonzero().flatten()
    if config.model.split_style_defect:  # (c1, s2), (c2, s1), (c2, s2) beside (c1, s1)
        c = torch.cat([first.c, second.c, second.c])
        s = torch.cat([second.s, first.s, second.s])
    else:
        c, s = second
    draws = torch.arange(len(s) // len(batch.y_trg), device=kept.device)
    rows = (draws[:, None] * len(batch.y_trg) + kept).flatten()  # draw after draw
    count = float(len(kept)) if kept_count is None else kept_count
    if len(kept) == 0:
        return Fakes(features, background, first, second, x_fake, [x_fake[kept]], kept, count)
    backgrounds = take(background, kept.repeat(len(draws)))
    images = nets.G.render(backgrounds, take(c, rows), s[rows])
    mixed = list(images.chunk(len(draws)))
    return Fakes(features, background, first, second, x_fake, mixed, kept, count)


def discriminator_terms(nets: Networks, batch: Batch, x_fake: Tensor) -> dict[str, Tensor]:
    """(1) for D, and its classifiers on real images, (6) and (7): one call on real and fake."""
    real, fake = slice(None, len(batch.x)), slice(len(batch.x), None)
    verdict = nets.D(torch.cat([batch.x.to(x_fake.dtype), x_fake.detach()]))
    terms = {
        "adv": losses.adversarial_d(
            pick_domain(verdict.real[real], batch.y), pick_domain(verdict.real[fake], batch.y_trg)
        )
    }
    if verdict.defect is not None:
        terms["fg"] = losses.defect_classification(verdict.defect[real], batch.y)
    if verdict.product is not None:
        terms["bg"] = losses.product_classification(verdict.product[real], batch.p)
    return terms


def r1_term(nets: Networks, batch: Batch) -> Tensor:
    """R1 on the real images, in float32 and outside autocast."""
    with torch.autocast(batch.x.device.type, enabled=False):
        x = batch.x.detach().float().requires_grad_()
        return losses.r1(pick_domain(nets.D(x).real, batch.y), x)


def generator_terms(
    nets: Networks, config: Config, batch: Batch, fakes: Fakes
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term of (8) that G, M and E minimise, and what reading 8 wants watched.

    Returns:
        terms: "adv" (1), "sd_rec" (2), "d_rec" (3), "ds" (4), "cyc" (5), "fg" (6), "bg" (7) and
            ours, "self_rec" and "local", as far as the configuration has them; scalars with grad.
        health: scalars without grad, see `defect_map_health`.
    """
    n, y, y_trg = len(batch.x), batch.y, batch.y_trg
    constant = (lambda t: t.detach()) if config.train.detach_targets else (lambda t: t)
    keep = can_vary(config, y_trg)
    count = fakes.kept_count

    verdict = nets.D(fakes.x_fake)
    features_fake = nets.G.encode(fakes.x_fake)
    c, s = nets.E(torch.cat([batch.x.to(fakes.x_fake.dtype), fakes.x_fake]), torch.cat([y, y_trg]))
    (c_src, c_rec), (s_src, s_rec) = (c[:n], c[n:]), (s[:n], s[n:])
    background_fake = nets.G.background(features_fake)
    x_rec = nets.G.render(background_fake, c_src, s_src)

    terms = {"adv": losses.adversarial_g(pick_domain(verdict.real, y_trg))}
    c_trg, s_trg = fakes.guide
    if config.train.detach_drawn:
        c_trg, s_trg = constant(c_trg), constant(s_trg)
    if config.model.split_style_defect:
        terms["sd_rec"] = losses.style_defect_reconstruction(
            c_trg, c_rec, s_trg, s_rec, keep, count
        )
        terms["d_rec"] = losses.detached_defect(
            fakes.features.defect, constant(c_src), features_fake.defect, constant(c_rec)
        )
    else:
        terms["sd_rec"] = losses.style_reconstruction(s_trg, s_rec, keep, count)
    # Always there, so that processes which share a batch average the same terms.
    terms["ds"] = losses.diversity([fakes.x_fake[fakes.kept], *fakes.mixed], count)
    terms["cyc"] = losses.cycle(batch.x, x_rec)
    if config.weights.self_rec:
        normal = y == config.model.anchor
        good = normal.nonzero().flatten()
        if len(good) == 0:  # a small batch may hold none: one image then, which counts as 0
            good = torch.zeros_like(y[:1])
        x_self = nets.G.render(fakes.background[good], c_src[good], s_src[good])
        terms["self_rec"] = losses.self_reconstruction(batch.x[good], x_self, normal[good], n)
    if config.weights.local:  # of x_fake and of the images that else (4) alone looks at
        mixed = torch.cat(fakes.mixed)
        sources = take(batch.x, fakes.kept.repeat(len(fakes.mixed)))
        terms["local"] = losses.locality(batch.x, fakes.x_fake) + losses.locality(
            sources, mixed, count=count * len(fakes.mixed)
        )
    if verdict.defect is not None:
        terms["fg"] = losses.defect_classification(verdict.defect, y_trg)
    if verdict.product is not None:
        terms["bg"] = losses.product_classification(verdict.product, batch.p)
    return terms, defect_map_health(fakes, c_rec, s_rec)


@torch.no_grad()
def defect_map_health(fakes: Fakes, c_rec: Tensor, s_rec: Tensor) -> dict[str, Tensor]:
    """Signs of a collapsing defect map (the kit's reading 8).

    Returns:
        "c_abs": mean |c~|; "c_rel_err": |c~ - C_E(x~)| / |c~|; "s_rel_err" the same of styles;
        "c_spread": |c1 - c2| / |c~|, near 0 when every draw or reference gives the same map.
        Of the samples with a defect; scalars.
    """

    def mean_abs(t: Tensor) -> Tensor:
        return t[fakes.kept].float().abs().sum() / max(1, t[fakes.kept].numel())

    def relative(a: Tensor, b: Tensor) -> Tensor:
        return mean_abs(a - b) / mean_abs(a).clamp(min=1e-12)

    health = {"s_rel_err": relative(fakes.guide.s, s_rec)}
    if fakes.guide.c.shape[1]:
        health["c_abs"] = mean_abs(fakes.guide.c)
        health["c_rel_err"] = relative(fakes.guide.c, c_rec)
        health["c_spread"] = relative(fakes.guide.c, fakes.second.c)
    return health
