"""DT-GAN in the loop: who learns what in an iteration, and from which draws.

`loop` runs it, averages, logs and saves; `step` holds the terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtgan_core import checkpoints, kernels, losses
from dtgan_core.batches import Batch, ImageStore, sent, shard_batch, step_generator
from dtgan_core.checkpoints import CheckpointError
from dtgan_core.config import Config
from dtgan_core.hardware import autocast, shard_pairs
from dtgan_core.layers import frozen
from dtgan_core.loop import Loop, adam, channels_last, seeded
from dtgan_core.networks import Networks
from dtgan_core.step import (
    Guidance,
    Latents,
    can_vary,
    discriminator_terms,
    generator_terms,
    learners,
    make_fakes,
    r1_term,
)
from dtgan_core.synthesis import Synthesizer

LATENT_COLUMNS = 2  # random draws a defect in `sample_grid`


def build_optimisers(nets: Networks, config: Config) -> dict[str, torch.optim.Adam]:
    """One Adam a network; M and D have step sizes of their own."""
    train = config.train
    steps = {"M": train.lr_mapping, "D": train.lr_d or train.lr}
    return {k: adam(getattr(nets, k), train, steps.get(k)) for k in "GMED"}


class Trainer(Loop[Config, Networks]):
    """DT-GAN in any configuration of the ablation; what it takes, see `loop.Loop`."""

    method = "dtgan"
    exported, maps = checkpoints.EXPORTED, 64

    def build(self) -> Networks:
        """The four networks; norms are compiled where a run is long enough for it."""
        train = self.config.train
        self.kernels = kernels.resolve(train.kernels, train.iterations, self.device)
        return seeded(lambda: Networks(self.config.model), train.seed, self.device)

    def build_optimisers(self) -> dict[str, torch.optim.Adam]:
        """One Adam a network."""
        return build_optimisers(self.nets, self.config)

    def start_from(
        self, folder: str | Path, begin_as: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Begin with the averaged G, M and E of another model, whatever its products (ours).

        Returns as what each defect begins: as `begin_as` says, as the one of its name, or as one
        that is left. D is new. CheckpointError: no model there, or one that does not fit.
        """
        synth = Synthesizer.load(folder, self.device)
        times = max(1, self.config.model.channels // synth.config.model.channels)
        source = _sources(self.store, synth, begin_as or {})
        for name in self.exported:
            tensors = _of_domains(getattr(synth, name).state_dict(), len(synth.defects), source)
            tensors = {k: _in_colour(k, v, times) for k, v in tensors.items()}
            for nets in (self.nets, self.ema):
                checkpoints.load_module(getattr(nets, name), tensors, Path(folder))
        self.data = {**self.data, "started_from": synth.checkpoint_hash}
        return {a: synth.defects[y] for a, y in zip(self.store.defect_names, source, strict=True)}

    def guidances(self, step: int) -> tuple[Guidance, ...]:
        """The ways of guidance that iteration `step` trains."""
        turn: Guidance = "latent" if step % 2 == 0 else "reference"
        return ("latent", "reference") if self.config.train.guidance == "both" else (turn,)

    def draw_latents(self, step: int) -> Latents:
        """The two latents an image of iteration `step`, noise included; CPU draws, any device."""
        generator = step_generator(f"{self.config.train.seed}/latents", step)
        size = self.config.train.batch_size
        z, noise = self.nets.M.draw(2 * size, generator)
        if self.config.train.noise_per == "image":
            noise = [level[:size].repeat(2, 1, 1, 1) for level in noise]
        z, *noise = (sent(shard_pairs(v, self.workers), self.device) for v in (z, *noise))
        return Latents(z, noise)

    def draw_moves(self, guidance: Guidance, step: int) -> Tensor | None:
        """How far D's views of a batch are moved in iteration `step`, see `Batch.moves`."""
        reach = round(self.config.train.d_shift * self.config.model.image_size)
        if not reach:
            return None
        generator = step_generator(f"{self.config.train.seed}/moves/{guidance}", step)
        shape = (self.config.train.batch_size, 2, 2)
        return sent(torch.randint(-reach, reach + 1, shape, generator=generator), self.device)

    def step(self) -> dict[str, Tensor]:
        """One iteration: D, then G (with M and E), for each way of guidance it trains.

        Returns scalars for the log, still on the device, named "latent/cyc" and so on.
        """
        step = self.step_count
        log: dict[str, Tensor] = {}
        for guidance in self.guidances(step):
            whole = self.sampler.draw(2 * step + (guidance == "reference"))
            whole = replace(whole, moves=self.draw_moves(guidance, step))
            batch = channels_last(shard_batch(whole, self.workers))
            latents = self.draw_latents(step) if guidance == "latent" else None
            with kernels.use(self.kernels):
                terms = self._update(batch, latents, guidance, step, self._kept_count(whole))
            log |= {f"{guidance}/{name}": value.detach() for name, value in terms.items()}
        self._advance()
        return log

    def _kept_count(self, whole: Batch) -> float | None:
        """Mean number of targets with a defect a process, where several share a batch."""
        if self.workers.world == 1:
            return None
        return float(can_vary(self.config, whole.y_trg).sum()) / self.workers.world

    def _update(
        self,
        batch: Batch,
        latents: Latents | None,
        guidance: Guidance,
        step: int,
        kept_count: float | None,
    ) -> dict[str, Tensor]:
        config, nets = self.config, self.nets
        names = learners(config, guidance)
        passive = [getattr(nets, name) for name in ("G", "M", "E") if name not in names]
        with frozen(*passive):
            with autocast(self.precision, self.device):
                fakes = make_fakes(nets, config, batch, latents, kept_count)
                d_terms = discriminator_terms(nets, batch, fakes.x_fake)
            if step % config.train.r1_every == 0:
                d_terms["r1"] = config.train.r1_every * r1_term(nets, batch)
            self._learn(("D",), losses.objective(d_terms, config.weights, 0.0))
            if step < config.train.d_first:
                return {f"d_{k}": v for k, v in d_terms.items()}
            with frozen(nets.D):
                with autocast(self.precision, self.device):
                    g_terms, health = generator_terms(nets, config, batch, fakes)
                weights, w_ds = config.weights_at(step), config.diversity_weight(step)
                total = losses.objective(g_terms, weights, w_ds)
                self._learn(names, total)
        return {**{f"d_{k}": v for k, v in d_terms.items()}, **g_terms, **health}

    def sample_picture(self) -> np.ndarray:
        """What the averaged networks make now, as one picture (see `sample_grid`)."""
        return sample_grid(self.ema, self.store, self.config.train.seed)


def _sources(store: ImageStore, synth: Synthesizer, begin_as: Mapping[str, str]) -> list[int]:
    """For each defect the label, in the other model, of the one that it begins as."""
    defects = store.defect_names
    for found, known in ((begin_as, defects), (begin_as.values(), synth.defects)):
        if odd := sorted(set(found) - set(known)):
            raise CheckpointError(f"begin as: found {odd[0]!r}, expected of {', '.join(known)}")
    names = [begin_as.get(name, name) for name in defects]
    names[store.anchor] = synth.anchor
    left = [name for name in synth.defects if name not in names]
    strange = [y for y, name in enumerate(names) if name not in synth.defects]
    if len(strange) > len(left):
        told = f"{len(defects)} defects, the model to begin with {len(synth.defects)}"
        raise CheckpointError(f"the data has {told}: {', '.join(synth.defects)}; begin without it")
    for y, name in zip(strange, left, strict=False):
        names[y] = name
    return [synth.defects.index(name) for name in names]


def _of_domains(tensors: dict[str, Tensor], count: int, source: list[int]) -> dict[str, Tensor]:
    """Weights of M or E with their branches of defects chosen anew; others as they are."""
    found = dict[str, Tensor]()
    for name, value in tensors.items():
        part, number, *rest = name.split(".")
        if part in ("style", "defect") and number.isdigit():  # a branch of M
            same = [str(y) for y, k in enumerate(source) if k == int(number)]
            found |= {".".join([part, y, *rest]): value for y in same}
        else:  # E has all branches at once
            all_at_once = part in ("style", "to_defect")
            chosen = value.unflatten(0, (count, -1))[source].flatten(0, 1) if all_at_once else value
            found[name] = chosen
    return found


def _in_colour(name: str, value: Tensor, n: int) -> Tensor:
    """A weight of (f) for n as many channels: reads their mean, paints all of them alike."""
    if name in ("from_image.weight", "see.weight"):
        return value.repeat_interleave(n, dim=1) / n
    if name.startswith(("to_background.", "to_change.out.")):
        return value.repeat_interleave(n, dim=0)
    if name.startswith("to_change.narrow."):  # part and grain take more of `FullSize`'s channels
        return value[: len(value) - 2 * (n - 1)]
    if name == "to_change.sharpen.weight":
        return torch.cat([value[:, : -2 * n], value[:, -2:].repeat_interleave(n, 1) / n], dim=1)
    return value


# --- a quick look --------------------------------------------------------------------------------


def _one_of(store: ImageStore, product: int, defect: int, share: float, skip: int) -> int | None:
    """Index of an image of a cell, so far into it and some on; None for an empty cell."""
    found = ((store.products == product) & (store.defects == defect)).nonzero().flatten().tolist()
    return found[min(int(share * len(found)) + skip, len(found) - 1)] if found else None


@torch.no_grad()
def sample_grid(nets: Any, store: ImageStore, seed: int, rows: int = 1) -> np.ndarray:
    """One row a product: source, then a defect at a time latent-guided, reference and result.

    The reference comes from the next product that has the defect. The same seed and store give the
    same picture. `nets` has children G, M and E; each of the `rows` of a product has a part, draws
    and references of its own. -> uint8 (height, width, 3), tiles with white lines between.
    """
    device = store.device
    products, defects = range(len(store.product_names)), range(len(store.defect_names))
    tiles: list[Tensor] = []
    for p, row in ((p, row) for p in products for row in range(rows)):
        source = _one_of(store, p, store.anchor, row / rows, 0)
        if source is None:
            continue
        x = store.to_float(torch.tensor([source]))
        background = nets.G.background(nets.G.encode(x), x)
        tiles.append(x)
        for y in (d for d in defects if d != store.anchor):
            label = torch.tensor([y], device=device)
            for column in range(LATENT_COLUMNS):
                z, noise = nets.M.draw(1, step_generator(f"{seed}/samples/{p}/{y}/{row}", column))
                guide = nets.M(z.to(device), label, [n.to(device) for n in noise])
                tiles.append(nets.G.render(background, *guide))
            refs = (_one_of(store, (p + k + 1) % len(products), y, row / rows, 3) for k in products)
            x_ref = store.to_float(torch.tensor([next(i for i in refs if i is not None)]))
            tiles += [x_ref, nets.G.render(background, *nets.E(x_ref, label))]
    from torchvision.utils import make_grid  # slow to load

    x = torch.cat(tiles).clamp(-1, 1).add(1).div(2).cpu()
    columns = 1 + (LATENT_COLUMNS + 2) * (len(defects) - 1)
    return make_grid(x, columns, pad_value=1.0).mul(255).round().byte().permute(1, 2, 0).numpy()
