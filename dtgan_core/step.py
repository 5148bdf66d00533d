"""One training step: the paper's terms, computed together so that nothing is computed twice.

A step serves one way of guidance.  G's encoder and background decoder run once on the source, its
defect decoder once on every (c, s) pair that equation (4) wants; the first of these images is the
fake of every other term, and D learns from the same fake before G does.

Who learns: D in every step; G, M and E in a latent-guided step; G alone in a reference-guided one
(our reading 6), with E too where `reference_steps_encoder` or `encoder_listens` says so.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dtgan_core import layers, losses
from dtgan_core.batches import Batch, moved
from dtgan_core.config import Config, ModelConfig
from dtgan_core.layers import Features, Guide, frozen, pick_domain, rows_where, take, waits
from dtgan_core.networks import Networks

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
    second: Guide  # (c2, s2), the second draw or reference, for the samples kept
    x_fake: Tensor  # (N, ch, H, W)
    mixed: list[Tensor]  # the other images of (4), for the samples kept
    masks: list[Tensor]  # of x_fake and of `mixed`; empty where G makes none
    kept: Tensor  # (n,) indices of samples whose target is a defect, those that (4) looks at
    kept_count: float | Tensor  # n, or the mean n a process where several share a batch


def learners(config: Config, guidance: Guidance) -> tuple[str, ...]:
    """Which of G, M and E a step of this guidance updates."""
    if guidance == "latent":
        return ("G", "M", "E")
    train = config.train
    return ("G", "E") if train.reference_steps_encoder or train.encoder_listens else ("G",)


def can_vary(config: Config, y_trg: Tensor) -> Tensor:
    """(N,) bool: targets that (2) and (4) look at.

    With the anchor a Normal target looks the same whatever the draw: nothing to recover or
    diversify (our reading 9).
    """
    if config.model.anchor_zero:
        return y_trg != config.model.anchor
    return torch.ones_like(y_trg, dtype=torch.bool)


def seen_by_4(config: Config, y_trg: Tensor) -> Tensor:
    """Indices of the samples that (4) looks at: a part of those that can vary, the first ones.

    Where the host would have to wait for their number, that of a batch in which every defect is
    wanted equally often; with a part of 1 all samples, for those that cannot vary count 0.
    """
    vary, share = can_vary(config, y_trg), config.train.diversity_share
    if share == 1 or not waits(y_trg):
        rows = rows_where(vary)
        return rows[: math.ceil(share * len(rows))]
    expected = len(y_trg) * (config.model.defects - config.model.anchor_zero)
    count = math.ceil(share * (expected // config.model.defects))
    return vary.to(torch.uint8).argsort(descending=True, stable=True)[:count]


def encode_defects(nets: Networks, config: Config, x: Tensor, y: Tensor) -> Guide:
    """E_y(x) of the images that show a defect; with the anchor the others' c and s are 0."""
    rows = rows_where(can_vary(config, y))
    if len(rows) == len(y):
        return nets.E(x, y)
    c, s = nets.E(take(x, rows), y[rows])
    n, shape = len(y), config.model.defect_shape
    zeros = c.new_zeros(n, *shape).contiguous(memory_format=torch.channels_last)
    return Guide(zeros.index_copy(0, rows, c), s.new_zeros(n, s.shape[1]).index_copy(0, rows, s))


def make_guides(
    nets: Networks, config: Config, batch: Batch, latents: Latents | None, kept: Tensor
) -> tuple[Guide, Guide]:
    """A guide (c~, s~) an image towards y_trg, and a second one of the images `kept`.

    From M if latents are given, else from E.
    """
    n = len(batch.x)
    y = torch.cat([batch.y_trg, batch.y_trg[kept]])
    if latents is not None:
        rows = torch.cat([torch.arange(n, device=y.device), n + kept])
        c, s = nets.M(latents.z[rows], y, [level[rows] for level in latents.noise])
    else:
        with torch.set_grad_enabled(config.train.reference_steps_encoder):
            c, s = encode_defects(nets, config, torch.cat([batch.x_ref, batch.x_ref2[kept]]), y)
    return Guide(c[:n], s[:n]), Guide(c[n:], s[n:])


def make_fakes(
    nets: Networks,
    config: Config,
    batch: Batch,
    latents: Latents | None,
    kept_count: float | None = None,
) -> Fakes:
    """Encode x and decode its background once, then render every defect-style pair of (4)."""
    kept = seen_by_4(config, batch.y_trg)
    first, second = make_guides(nets, config, batch, latents, kept)
    features = nets.G.encode(batch.x)
    background = nets.G.background(features, batch.x, batch.y == config.model.anchor)
    x_fake, mask = nets.G.paint(background, *first)
    c1, s1 = take(first.c, kept), first.s[kept]
    if config.model.split_style_defect:  # (c1, s2), (c2, s1), (c2, s2) beside (c1, s1)
        pairs = [(c1, second.s), (second.c, s1), (second.c, second.s)]
    else:
        pairs = [(second.c, second.s)]
    masks = [] if mask is None else [mask]
    mixed = [x_fake[kept]]
    if len(kept):
        images, mask = nets.G.paint(
            take(background, kept.repeat(len(pairs))),
            torch.cat([c for c, _ in pairs]),
            torch.cat([s for _, s in pairs]),
        )
        mixed = list(images.chunk(len(pairs)))
        masks += [] if mask is None else [mask]
    count = can_vary(config, batch.y_trg).float().sum() if kept_count is None else kept_count
    return Fakes(features, background, first, second, x_fake, mixed, masks, kept, count)


def seen_by_d(images: Tensor, batch: Batch, which: int) -> Tensor:
    """D's view of the sources (0) or of their fakes (1), moved as the batch says."""
    return images if batch.moves is None else moved(images, batch.moves[:, which])


def judged(model: ModelConfig, batch: Batch) -> Tensor | None:
    """(N,) bool, which fakes count for D: in (f) Normal made of Normal is a copy of its source."""
    if model.blend != "composed":
        return None
    return (batch.y != model.anchor) | (batch.y_trg != model.anchor)


def discriminator_terms(nets: Networks, batch: Batch, x_fake: Tensor) -> dict[str, Tensor]:
    """(1) for D, and its classifiers on real images, (6) and (7): one call on real and fake."""
    real, fake = slice(None, len(batch.x)), slice(len(batch.x), None)
    x = seen_by_d(batch.x, batch, 0).to(x_fake.dtype)
    x_fake = seen_by_d(x_fake.detach(), batch, 1)
    verdict = nets.D(torch.cat([x, x_fake]), torch.cat([batch.p, batch.p]))
    terms = {
        "adv": losses.adversarial_d(
            pick_domain(verdict.real[real], batch.y),
            pick_domain(verdict.real[fake], batch.y_trg),
            judged(nets.D.config, batch),
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
        x = seen_by_d(batch.x.detach().float(), batch, 0).requires_grad_()
        return losses.r1(pick_domain(nets.D(x, batch.p).real, batch.y), x)


def generator_terms(
    nets: Networks, config: Config, batch: Batch, fakes: Fakes
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term of (8) that G, M and E minimise, and what reading 8 wants watched.

    Returns:
        terms: "adv" (1), "sd_rec" (2), "d_rec" (3), "ds" (4), "cyc" (5), "fg" (6), "bg" (7) and
            ours, "self_rec", "local", "area" and "shape", as far as the configuration has them;
            scalars with grad.
        health: scalars without grad, see `defect_map_health`.
    """
    n, y, y_trg = len(batch.x), batch.y, batch.y_trg
    constant = (lambda t: t.detach()) if config.train.detach_targets else (lambda t: t)
    keep = can_vary(config, y_trg)
    count = fakes.kept_count

    shown = judged(config.model, batch)
    verdict = nets.D(seen_by_d(fakes.x_fake, batch, 1), batch.p)
    features_fake = nets.G.encode(fakes.x_fake)
    both = torch.cat([batch.x.to(fakes.x_fake.dtype), fakes.x_fake])
    c, s = encode_defects(nets, config, both, torch.cat([y, y_trg]))
    (c_src, c_rec), (s_src, s_rec) = (c[:n], c[n:]), (s[:n], s[n:])
    background_fake = nets.G.background(features_fake, fakes.x_fake, y_trg == config.model.anchor)
    x_rec = nets.G.render(background_fake, c_src, s_src)

    terms = {"adv": losses.adversarial_g(pick_domain(verdict.real, y_trg), shown)}
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
    seen = count if config.train.diversity_share == 1 else len(fakes.kept)
    terms["ds"] = losses.diversity([fakes.x_fake[fakes.kept], *fakes.mixed], seen)
    terms["cyc"] = losses.cycle(batch.x, x_rec)
    if config.weights.self_rec and not fakes.masks:  # with masks a Normal part is itself
        normal = y == config.model.anchor
        good = rows_where(normal)
        if len(good) == 0:  # a small batch may hold none: one image then, which counts as 0
            good = torch.zeros_like(y[:1])
        x_self = nets.G.render(fakes.background[good], c_src[good], s_src[good])
        terms["self_rec"] = losses.self_reconstruction(batch.x[good], x_self, normal[good], n)
    if config.weights.local and not fakes.masks:
        # of x_fake and of the images that else (4) alone looks at
        mixed = torch.cat(fakes.mixed)
        sources = take(batch.x, fakes.kept.repeat(len(fakes.mixed)))
        terms["local"] = losses.locality(batch.x, fakes.x_fake) + losses.locality(
            sources, mixed, count=count * len(fakes.mixed)
        )
    if config.weights.area and fakes.masks:
        terms["area"] = losses.area(torch.cat(fakes.masks))
    if config.weights.shape and fakes.masks:
        terms["shape"] = shape_term(nets, config, fakes, y_trg, count)
    if verdict.defect is not None:
        terms["fg"] = losses.defect_classification(verdict.defect, y_trg, shown)
    if verdict.product is not None:
        terms["bg"] = losses.product_classification(verdict.product, batch.p, shown)
    return terms, defect_map_health(fakes, c_rec, s_rec)


def shape_term(
    nets: Networks, config: Config, fakes: Fakes, y_trg: Tensor, count: float | Tensor
) -> Tensor:
    """The defect half of (2) where it shows (ours, (f)): E's defect is to have the mask laid.

    c has far more numbers than a mark shows, so (2) alone is met best by an E that says the same of
    every image.  E alone learns from this: a decoder that heeds no c would be read best, and marks
    larger than real ones.  y_trg (N,) are the defects of the fakes; `count` as in `losses.mean_of`.
    """
    read = encode_defects(nets, config, fakes.x_fake.detach(), y_trg)
    rows = layers.rows_with_defect(read.c)
    with frozen(nets.G):
        _, found = nets.G.shape(take(read.c, rows), read.s.detach()[rows])
    return losses.shape_difference(found, fakes.masks[0].detach()[rows], count)


@torch.no_grad()
def defect_map_health(fakes: Fakes, c_rec: Tensor, s_rec: Tensor) -> dict[str, Tensor]:
    """Signs of a collapsing defect map (the kit's reading 8): scalars, of samples with a defect.

    "c_abs": mean |c~|; "c_rel_err": |c~ - C_E(x~)| / |c~|; "s_rel_err" the same of styles;
    "c_spread": |c1 - c2| / |c~|, near 0 when every draw or reference gives the same map.
    """
    c, s = fakes.guide.c[fakes.kept], fakes.guide.s[fakes.kept]

    def mean_abs(t: Tensor) -> Tensor:
        return t.float().abs().sum() / max(1, t.numel())

    def relative(a: Tensor, b: Tensor) -> Tensor:
        return mean_abs(a - b) / mean_abs(a).clamp(min=1e-12)

    health = {"s_rel_err": relative(s, s_rec[fakes.kept])}
    if c.shape[1]:
        health["c_abs"] = mean_abs(c)
        health["c_rel_err"] = relative(c, c_rec[fakes.kept])
        health["c_spread"] = relative(c, fakes.second.c)
    if fakes.masks:
        health["mask_area"] = fakes.masks[0].mean()
    return health
