"""Training: the loop around `step`, the averaged weights, logs, checkpoints and resume.

Every random draw is a function of (seed, step), so a run that was killed and resumed sees the same
images and latents as one that was not, and on a CPU ends in the same bytes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dtgan_core import checkpoints, kernels, losses
from dtgan_core.checkpoints import CheckpointError, load_module, read_json, read_tensors
from dtgan_core.config import Config
from dtgan_core.data.images import to_png
from dtgan_core.data.store import BalancedSampler, Batch, ImageStore, step_generator
from dtgan_core.distributed import Workers, average, shard_batch, shard_pairs, wait
from dtgan_core.experiment import check_fit
from dtgan_core.files import write_atomic, write_json_atomic
from dtgan_core.hardware import autocast, describe, keep_freed_memory, resolve_precision
from dtgan_core.networks import Networks
from dtgan_core.samples import sample_grid
from dtgan_core.step import (
    Guidance,
    Latents,
    can_vary,
    discriminator_terms,
    frozen,
    generator_terms,
    learners,
    make_fakes,
    r1_term,
)

FOOTING = ("type", "threads", "precision", "kernels", "torch")  # what decides the last bits
SAME_DATA = ("manifest_sha256", "products", "defects")  # what a resumed run insists on


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the last good checkpoint is untouched."""


def build_networks(config: Config, device: torch.device | str = "cpu") -> Networks:
    """Fresh networks, initialised from the configuration's seed alone, in channels_last memory."""
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        nets = Networks(config.model)
    return nets.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_optimisers(
    nets: Networks, config: Config, fused: bool = True
) -> dict[str, torch.optim.Adam]:
    """One Adam a network; M has a step size of its own.

    Args:
        nets: the four networks.
        config: the experiment.
        fused: one kernel for all parameters; else one parameter after another (`plain`).
    """
    train = config.train
    return {
        name: torch.optim.Adam(
            getattr(nets, name).parameters(),
            lr=train.lr_mapping if name == "M" else train.lr,
            betas=(train.beta1, train.beta2),
            weight_decay=train.weight_decay,
            foreach=False,
            fused=fused,
        )
        for name in ("G", "M", "E", "D")
    }


def match_formats(optimiser: torch.optim.Optimizer) -> None:
    """Bring gradients into their parameters' memory format, which fused Adam takes for granted."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is not None and grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(grad)


class Trainer:
    """One experiment on one data set.

    Args:
        config: the experiment; its `defects`, `products` and `anchor` must match the store.
        store: the training split.
        out: folder of the run, or None to keep everything in memory.
        device: "cpu" or "cuda".
        data: name, hash and licence of the data, for config.json and the card.
        workers: this process among those that share each batch; default: alone.

    Raises:
        ValueError: configuration and store do not fit.
    """

    def __init__(
        self,
        config: Config,
        store: ImageStore,
        out: Path | None = None,
        device: torch.device | str = "cpu",
        data: dict[str, Any] | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.workers = workers or Workers()
        check_fit(config, store, self.workers)
        self.config, self.out, self.data = config, out, data or {}
        self.device = torch.device(device)
        self.precision = resolve_precision(config.train.precision, self.device)
        self.kernels = kernels.resolve(config.train.kernels, config.train.iterations, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        else:
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        self.store = store.to(self.device)
        self.sampler = BalancedSampler(self.store, config.train.batch_size, config.train.seed)
        self.nets = build_networks(config, self.device)
        self.ema = copy.deepcopy(self.nets).requires_grad_(False)
        del self.ema.D  # nothing samples from an averaged discriminator
        self.optimisers = build_optimisers(self.nets, config)
        self.step_count = 0
        self.seconds = 0.0

    # --- one iteration ---------------------------------------------------------------------------

    def guidances(self, step: int) -> tuple[Guidance, ...]:
        """The ways of guidance that iteration `step` trains."""
        if self.config.train.guidance == "both":
            return ("latent", "reference")
        return ("latent",) if step % 2 == 0 else ("reference",)

    def draw_latents(self, step: int) -> Latents:
        """The two latents an image of iteration `step`, noise included; CPU draws, any device."""
        generator = step_generator(f"{self.config.train.seed}/latents", step)
        size = self.config.train.batch_size
        z, noise = self.nets.M.draw(2 * size, generator)
        if self.config.train.noise_per == "image":
            noise = [level[:size].repeat(2, 1, 1, 1) for level in noise]
        z, *noise = (shard_pairs(value, self.workers).to(self.device) for value in (z, *noise))
        return Latents(z, noise)

    def step(self) -> dict[str, Tensor]:
        """One iteration: D, then G (with M and E), for each way of guidance it trains.

        Returns:
            Scalars for the log, still on the device, named "latent/cyc" and so on.
        """
        step, config = self.step_count, self.config
        log: dict[str, Tensor] = {}
        for guidance in self.guidances(step):
            whole = self.sampler.draw(2 * step + (guidance == "reference"))
            batch = channels_last(shard_batch(whole, self.workers))
            latents = self.draw_latents(step) if guidance == "latent" else None
            with kernels.use(self.kernels):
                terms = self._update(batch, latents, guidance, step, self._kept_count(whole))
            log |= {f"{guidance}/{name}": value.detach() for name, value in terms.items()}
        decay = config.ema_decay_at(step)
        torch._foreach_lerp_(
            list(self.ema.parameters()), list(self._averaged_parameters()), 1.0 - decay
        )
        self.step_count += 1
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
            with frozen(nets.D):
                with autocast(self.precision, self.device):
                    g_terms, health = generator_terms(nets, config, batch, fakes)
                weights, w_ds = config.weights_at(step), config.diversity_weight(step)
                total = losses.objective(g_terms, weights, w_ds)
                self._learn(names, total)
        return {**{f"d_{k}": v for k, v in d_terms.items()}, **g_terms, **health}

    def _learn(self, names: tuple[str, ...], loss: Tensor) -> None:
        loss.backward()
        parameters = [p for name in names for p in getattr(self.nets, name).parameters()]
        average((p.grad for p in parameters), self.workers)
        for name in names:
            match_formats(self.optimisers[name])
            self.optimisers[name].step()
            self.optimisers[name].zero_grad(set_to_none=True)

    def _averaged_parameters(self) -> Iterator[Tensor]:
        for name in checkpoints.EXPORTED:
            yield from (p.detach() for p in getattr(self.nets, name).parameters())

    # --- the run ---------------------------------------------------------------------------------

    def run(self, until: int | None = None, progress: bool = True) -> list[dict[str, float]]:
        """Train up to `until` iterations (default: the configuration's), logging as it goes.

        Returns:
            The log lines of this call, as they stand in RUN/log.jsonl.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite.
        """
        train = self.config.train
        until = train.iterations if until is None else until
        show = progress and sys.stderr.isatty() and self.workers.writes
        bar = tqdm(total=until, initial=self.step_count, desc="train", disable=not show, unit="it")
        recent: dict[str, Tensor] = {}
        lines: list[dict[str, float]] = []
        if self.out and self.step_count == 0 and self.workers.writes:
            (self.out / "log.jsonl").unlink(missing_ok=True)  # of a run that saved nothing
        with bar:
            while self.step_count < until:
                start = time.perf_counter()
                log = self.step()
                average(log.values(), self.workers)
                done = self.step_count
                if self.device.type == "cpu" or done % train.log_every == 0:
                    self._require_finite(log)
                self.seconds += time.perf_counter() - start
                recent |= log  # where guidances take turns, a line shows the last of each
                if done % train.log_every == 0 or done == until:
                    lines.append(self._log(recent, bar))
                if done % train.sample_every == 0 or done == until:
                    self.write_samples()
                if done % train.checkpoint_every == 0 or done == until:
                    # A loss is that of the weights before their update: look at those after it.
                    norms = torch._foreach_norm([p.detach() for p in self.nets.parameters()])
                    self._require_finite({**log, "weights": torch.stack(norms).sum()})
                    self.save()
                bar.update()
        return lines

    def _require_finite(self, log: dict[str, Tensor]) -> None:
        values = torch.stack([value.float() for value in log.values()])
        if bool(values.isfinite().all()):
            return
        bad = [name for name, value in log.items() if not math.isfinite(float(value))]
        where = f"; the last good checkpoint is kept in {self.out}" if self.out else ""
        raise NonFiniteLossError(
            f"iteration {self.step_count}: {', '.join(bad)} is not finite{where}. Lower the step "
            f"size (now {self.config.train.lr:g}) or train in fp32, and resume"
        )

    def _log(self, log: dict[str, Tensor], bar: Any) -> dict[str, float]:
        values = {name: round(float(value), 5) for name, value in log.items()}
        bar.set_postfix({k.split("/")[-1]: f"{v:.3f}" for k, v in list(values.items())[:4]})
        line = {"step": self.step_count, "seconds": round(self.seconds, 2), **values}
        if self.out and self.workers.writes:
            self.out.mkdir(parents=True, exist_ok=True)
            with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def write_samples(self) -> None:
        """Write a grid of what the averaged networks make now, RUN/samples/step-NNNNNNNN.png."""
        if self.out is None or not self.workers.writes:
            return
        folder = self.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"step-{self.step_count:08d}.png", to_png(self.sample_picture()))

    def sample_picture(self) -> np.ndarray:
        """What the averaged networks make now, as one picture (see `samples.sample_grid`)."""
        return sample_grid(self.ema, self.store, self.config.train.seed)

    # --- saving and resuming ---------------------------------------------------------------------

    def save(self) -> None:
        """Write a step folder with everything that a resumed run needs; one process writes."""
        if self.out is not None and self.workers.writes:
            self._save(self.out)
        wait(self.workers)

    def _save(self, out: Path) -> None:
        moments: dict[str, Tensor] = {}
        for name, optimiser in self.optimisers.items():
            moments |= checkpoints.optimiser_tensors(optimiser, name)
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(out / "config.json", self.describe())
        files = {
            "networks": self.nets.state_dict(),
            "ema": self.ema.state_dict(),
            "optimisers": moments,
        }
        checkpoints.save_step(out, self.step_count, files, {"seconds": self.seconds})

    def resume(self) -> None:
        """Go on from the run's newest whole checkpoint.

        Raises:
            CheckpointError: there is none, it is damaged, or the run had another configuration or
                other data.
        """
        assert self.out is not None
        saved, mine = read_json(self.out / "config.json"), self.describe()
        for part, keys in (("config", list(mine["config"])), ("data", SAME_DATA)):
            if not isinstance(saved, dict) or not isinstance(saved.get(part), dict):
                raise CheckpointError(
                    f"{self.out}/config.json: found no {part}, expected that of a run; "
                    "restore it from where it came, or choose another --out"
                )
            for key in keys:
                found, expected = saved[part].get(key), json.loads(json.dumps(mine[part].get(key)))
                if found != expected:
                    raise CheckpointError(
                        f"{self.out}/config.json: found {part}.{key} = {found}, expected "
                        f"{expected}; resume with the same arguments or choose another --out"
                    )
        self._warn_of_other_footing(saved.get("hardware"))
        folder = checkpoints.latest_step(self.out)
        load_module(self.nets, read_tensors(folder / "networks.safetensors"), folder)
        load_module(self.ema, read_tensors(folder / "ema.safetensors"), folder)
        moments = read_tensors(folder / "optimisers.safetensors")
        for name, optimiser in self.optimisers.items():
            checkpoints.load_optimiser(optimiser, moments, name)
        state = read_json(folder / "state.json")
        self.step_count, self.seconds = int(state["step"]), float(state["seconds"])
        if self.workers.writes:
            self._cut_log()

    def _warn_of_other_footing(self, before: Any) -> None:
        """Say when the run goes on in other arithmetic, and so not in the same bytes."""
        now = self.describe()["hardware"]
        changed = [
            f"{name} was {before[name]} and is {now[name]}"
            for name in FOOTING
            if isinstance(before, dict) and name in before and before[name] != now[name]
        ]
        if changed:
            warnings.warn(
                f"{self.out}: the run goes on, but not in the same bytes: {', '.join(changed)}",
                stacklevel=3,
            )

    def _cut_log(self) -> None:
        """Drop log lines that were written after the checkpoint, and a half-written last line."""
        assert self.out is not None
        path = self.out / "log.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > self.step_count:
                break
            kept.append(line)
        write_atomic(path, "".join(kept).encode())

    def describe(self) -> dict[str, Any]:
        """Configuration, data and hardware, as config.json holds them."""
        return {
            "config": self.config.to_json(),
            "data": {
                **self.data,
                "products": list(self.store.product_names),
                "defects": list(self.store.defect_names),
            },
            "hardware": {
                **describe(self.device, self.precision),
                "kernels": self.kernels,
                "processes": self.workers.world,
            },
        }

    def export(self, folder: Path) -> Path:
        """Write the averaged G, M and E with their card; returns the folder."""
        card = checkpoints.make_card(self.describe(), self.step_count, self.seconds)
        checkpoints.write_export(folder, self.ema.state_dict(), card)
        return folder


def channels_last(batch: Batch) -> Batch:
    """The batch with its images in channels_last memory."""
    images = {
        name: getattr(batch, name).contiguous(memory_format=torch.channels_last)
        for name in ("x", "x_ref", "x_ref2")
    }
    return dataclasses.replace(batch, **images)
