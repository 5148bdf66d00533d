"""The loop that every system of the kit trains in: averaged weights, logs, checkpoints, resume.

A `Loop` knows no losses.  A system is a subclass that builds networks and optimisers and makes one
iteration, see the abstract methods: `training.Trainer` is DT-GAN, `baselines` holds the others.

Every random draw is a function of (seed, step), so a run that was killed and resumed sees the same
images and latents as one that was not, and on a CPU ends in the same bytes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dtgan_core import checkpoints, hardware
from dtgan_core.batches import BalancedSampler, Batch, ImageStore
from dtgan_core.checkpoints import CheckpointError, load_module, require_same
from dtgan_core.config import BOTTLENECK_SIZE, TrainConfig
from dtgan_core.files import clear_temporary, typed, write_atomic, write_json_atomic
from dtgan_core.hardware import Workers, describe, require_memory, resolve_precision
from dtgan_core.images import to_png
from dtgan_core.kernels import Kernels

ConfigT = TypeVar("ConfigT", bound=Any)  # as config.Config, with model, train and to_json
NetsT = TypeVar("NetsT", bound=nn.Module)


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the last good checkpoint is untouched."""


def match_formats(optimiser: torch.optim.Optimizer) -> None:
    """Bring gradients into their parameters' memory format, which fused Adam takes for granted."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is not None and grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(grad)


def adam(module: nn.Module, train: TrainConfig, lr: float | None = None) -> torch.optim.Adam:
    """Adam for all weights of a network, with `lr` as another step size than `train`'s."""
    return torch.optim.Adam(
        module.parameters(),
        lr=train.lr if lr is None else lr,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        fused=True,  # one kernel for all parameters
    )


def seeded(make: Callable[[], NetsT], seed: int, device: torch.device | str) -> NetsT:
    """Networks in channels_last memory; `make` draws their weights from PyTorch's generator."""
    with torch.random.fork_rng():
        with torch.device("meta"):  # which takes no memory
            count = sum(weight.numel() for weight in make().parameters())
        need = 4 * 4 * count  # with gradients and both moments of Adam
        require_memory(need, device, f"training {count:,} weights", "--set model.max_width=...")
        torch.manual_seed(seed)
        nets = make()
    return nets.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


class Loop(ABC, Generic[ConfigT, NetsT]):
    """One experiment on one data set; in `out`, the folder of the run, or in memory alone.

    A ValueError refuses a configuration whose `defects`, `products` and `anchor` do not match the
    store, and one that the memory cannot hold. `data` is name, hash and licence of the data, for
    config.json and the card; `workers` is this process among those that share each batch.

    Attributes:
        method: name of the system, in config.json and the card.
        exported: children of the networks that are averaged and exported.
    """

    method: ClassVar[str]
    exported: ClassVar[tuple[str, ...]]
    maps: ClassVar[int] = 4  # of all channels at full size, kept in an iteration at the least
    kernels: Kernels = "eager"  # how norms are computed; only DT-GAN's are compiled

    def __init__(
        self,
        config: ConfigT,
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
        model, count = config.model, config.train.batch_size
        pixels = count // self.workers.world * (model.image_size // getattr(model, "fold", 1)) ** 2
        need = 2 * self.maps * model.widths(BOTTLENECK_SIZE)[0] * pixels  # 2: bytes in bf16
        lower = "--batch, --image-size or --set model.width=..."
        require_memory(need, self.device, f"an iteration of {count} images", lower)
        self.precision = resolve_precision(config.train.precision, self.device)
        if self.device.type == "cpu":
            hardware.keep_freed_memory()
        else:
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        self.store = store.to(self.device)
        self.sampler = BalancedSampler(self.store, config.train.batch_size, config.train.seed)
        self.nets = self.build()
        self.ema = copy.deepcopy(self.nets).requires_grad_(False)
        for name, _ in list(self.ema.named_children()):
            if name not in self.exported:
                delattr(self.ema, name)  # nothing samples from an averaged discriminator
        self.optimisers = self.build_optimisers()
        self.step_count = 0
        self.seconds = 0.0
        self._recent: dict[str, Tensor] = {}  # the last value of everything that is logged

    # --- what a system says of itself ------------------------------------------------------------

    @abstractmethod
    def build(self) -> NetsT:
        """Fresh networks on `device`, initialised from the seed alone (see `seeded`)."""

    @abstractmethod
    def build_optimisers(self) -> dict[str, torch.optim.Adam]:
        """One optimiser for each child of the networks that learns, under the child's name."""

    @abstractmethod
    def step(self) -> dict[str, Tensor]:
        """One iteration of all players, by `_learn`, then `_advance`; scalars for the log."""

    @abstractmethod
    def sample_picture(self) -> np.ndarray:
        """What the averaged networks make now, as one picture, uint8 (H, W, 3)."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside weights and moments, as plain JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    # --- for use in `step` -----------------------------------------------------------------------

    def _learn(self, names: tuple[str, ...], loss: Tensor) -> None:
        """One step of some networks down a loss."""
        loss.backward()
        parameters = [p for name in names for p in getattr(self.nets, name).parameters()]
        self.workers.average(p.grad for p in parameters)
        for name in names:
            match_formats(self.optimisers[name])
            self.optimisers[name].step()
            self.optimisers[name].zero_grad(set_to_none=True)

    def _advance(self) -> None:
        """The end of an iteration: average the weights and count it."""
        decay = self.config.ema_decay_at(self.step_count)
        learned = nn.ModuleList(getattr(self.nets, name) for name in self.exported)
        weights = [p.detach() for p in learned.parameters()]
        torch._foreach_lerp_(list(self.ema.parameters()), weights, 1.0 - decay)
        for kept, now in zip(self.ema.buffers(), learned.buffers(), strict=True):
            kept.copy_(now)  # such as the vectors of a power iteration
        self.step_count += 1

    # --- the run ---------------------------------------------------------------------------------

    def run(self, until: int | None = None, progress: bool = True) -> list[dict[str, float]]:
        """Train up to `until` iterations (default: the configuration's).

        Returns the log lines of this call, as they stand in RUN/log.jsonl. NonFiniteLossError: a
        loss became NaN or infinite.
        """
        train = self.config.train
        until = train.iterations if until is None else until
        hidden = None if progress and self.workers.writes else True  # None: without a terminal
        bar = tqdm(total=until, initial=self.step_count, desc="train", disable=hidden, unit="it")
        lines: list[dict[str, float]] = []
        if self.out and self.workers.writes:
            self._tidy(self.out)
        with bar:
            while self.step_count < until:
                start = time.perf_counter()
                log = self.step()
                self.workers.average(log.values())
                done = self.step_count
                if self.device.type == "cpu" or done % train.log_every == 0:
                    self._require_finite(log)
                self.seconds += time.perf_counter() - start
                self._recent |= log  # where guidances take turns, a line shows the last of each
                if done % train.log_every == 0 or done == until:
                    lines.append(self._log(self._recent, bar))
                if done % train.sample_every == 0 or done == until:
                    self.write_samples()
                if done % train.checkpoint_every == 0 or done == until:
                    # A loss is that of the weights before their update: look at those after it.
                    norms = torch._foreach_norm([p.detach() for p in self.nets.parameters()])
                    self._require_finite({**log, "weights": torch.stack(norms).sum()})
                    self.save()
                bar.update()
        return lines

    def _tidy(self, out: Path) -> None:
        """Make the folders that a run needs, now and not hours later, without a kill's remains."""
        folders = [out, out / "checkpoints", out / "samples"]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        clear_temporary(*folders, out / "export")
        if self.step_count == 0:
            (out / "log.jsonl").unlink(missing_ok=True)  # of a run that saved nothing

    def _require_finite(self, log: dict[str, Tensor]) -> None:
        values = torch.stack([value.float() for value in log.values()])
        if bool(values.isfinite().all()):
            return
        bad = [name for name, value in log.items() if not math.isfinite(float(value))]
        kept = self.out and checkpoints.step_folders(self.out)
        where = f"; the last good checkpoint is kept in {self.out}" if kept else ""
        raise NonFiniteLossError(
            f"iteration {self.step_count}: {', '.join(bad)} is not finite{where}. Train anew in "
            f"another folder, with a lower step size (now {self.config.train.lr:g}) or in fp32"
        )

    def _log(self, log: dict[str, Tensor], bar: Any) -> dict[str, float]:
        values = {name: round(float(value), 5) for name, value in log.items()}
        bar.set_postfix({k.split("/")[-1]: f"{v:.3f}" for k, v in list(values.items())[:4]})
        line = {"step": self.step_count, "seconds": round(self.seconds, 2), **values}
        if self.out and self.workers.writes:
            with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def write_samples(self) -> None:
        """Write a grid of what the averaged networks make now, RUN/samples/step-NNNNNNNN.png."""
        if self.out and self.workers.writes:
            path = self.out / "samples" / f"step-{self.step_count:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, to_png(self.sample_picture()))

    # --- saving and resuming ---------------------------------------------------------------------

    def save(self) -> None:
        """Write a step folder with everything that a resumed run needs; one process writes."""
        if self.out and self.workers.writes:
            tensors = {"networks": self.nets.state_dict(), "ema": self.ema.state_dict()}
            tensors["optimisers"] = {}
            for name, optimiser in self.optimisers.items():
                tensors["optimisers"] |= checkpoints.optimiser_tensors(optimiser, name)
            log = {name: float(value) for name, value in self._recent.items()}
            state = {"seconds": self.seconds, "log": log, **self.state()}
            self.out.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.out / "config.json", self.describe())
            checkpoints.save_step(self.out, self.step_count, tensors, state)
        self.workers.wait()

    def resume(self) -> None:
        """Go on from the run's newest whole checkpoint.

        CheckpointError: there is none, or the run had another configuration or other data.
        """
        assert self.out is not None
        read = type(self.config).from_json
        known = require_same(self.out / "config.json", self.describe(), read)
        self.data = {**known, **self.data}  # with what the weights were that it began with
        folder, state, tensors = checkpoints.newest_step(self.out)
        load_module(self.nets, tensors["networks"], folder)
        load_module(self.ema, tensors["ema"], folder)
        for name, optimiser in self.optimisers.items():
            checkpoints.load_optimiser(optimiser, tensors["optimisers"], name)
        self.step_count, self.seconds = state["step"], state["seconds"]
        self._recent = {name: torch.tensor(value) for name, value in state.get("log", {}).items()}
        try:
            self.restore(state)
        except ValueError as error:
            raise CheckpointError(f"{folder / 'state.json'}: {error}") from error
        if self.workers.writes:
            cut_log(self.out / "log.jsonl", self.step_count)

    def describe(self) -> dict[str, Any]:
        """Configuration, data and hardware, as config.json holds them."""
        return {
            "method": self.method,
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
        """Write the averaged networks with their card; returns the folder."""
        card = checkpoints.make_card(self.describe(), self.step_count, self.seconds)
        checkpoints.write_export(folder, self.ema.state_dict(), card)
        return folder


def cut_log(path: Path, step_count: int) -> None:
    """Drop lines of a log.jsonl that were written after a checkpoint, and what is no whole line."""
    if not path.is_file():
        path.unlink(missing_ok=True)  # a pipe, or a link that leads nowhere
        return
    *lines, _ = path.read_bytes().split(b"\n")  # the last one is empty, or cut off by a kill
    steps = [_step_of(line) for line in lines]
    if None in steps:
        told = f"{path}: {steps.count(None)} damaged lines are left out; the training goes on"
        warnings.warn(told, stacklevel=3)
    good = [line for line, step in zip(lines, steps, strict=True) if step and step <= step_count]
    write_atomic(path, b"".join(line + b"\n" for line in good))


def _step_of(line: bytes) -> int | None:
    """The iteration of a line of the log; None where it is damaged."""
    try:
        row = json.loads(line)
        return typed(row["step"], int) if typed(row, dict[str, float]) else None
    except (ValueError, KeyError, RecursionError):
        return None


def channels_last(batch: Batch) -> Batch:
    """The batch with its images in channels_last memory."""
    x, x_ref, x_ref2 = (
        images.contiguous(memory_format=torch.channels_last)
        for images in (batch.x, batch.x_ref, batch.x_ref2)
    )
    return dataclasses.replace(batch, x=x, x_ref=x_ref, x_ref2=x_ref2)


def check_fit(config: Any, store: ImageStore, workers: Workers) -> None:
    """Refuse (ValueError) labels, channels, size or batch that do not fit the data."""
    model = config.model
    found = (len(store.defect_names), len(store.product_names), store.anchor)
    expected = (model.defects, model.products, model.anchor)
    if found != expected:
        raise ValueError(
            f"the data has (defects, products, anchor) = {found}, the configuration {expected}; "
            "build it with `config_for(dataset, ...)`"
        )
    if config.train.batch_size % workers.world:
        raise ValueError(
            f"batch_size is {config.train.batch_size}; expected a multiple of the "
            f"{workers.world} processes that share it"
        )
    shape = (model.channels, model.image_size, model.image_size)
    if tuple(store.images.shape[1:]) != shape:
        raise ValueError(f"the images are {tuple(store.images.shape[1:])}, expected {shape}")
