"""Several processes on one batch: `torchrun --nproc-per-node 2 -m dtgan_core train ...`.

Every process draws the same global batch and latents, works on its own slice, and the gradients are
averaged before each optimiser step.  So the number of processes changes the speed and not the
experiment.  The gradients are averaged here, flattened, by `torch.distributed`, and not by
`DistributedDataParallel`: its reducer wants one forward a backward, while a step here shares the
fakes' graph between both players.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process among its fellows.

    Attributes:
        rank: number of this process, 0 for the one that writes files.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes logs, samples and checkpoints."""
        return self.rank == 0


def share(device: torch.device) -> Workers:
    """This process among those that share the work, by RANK and WORLD_SIZE; they need not meet.

    Args:
        device: "cuda" takes the GPU of LOCAL_RANK where there is one.

    Raises:
        ValueError: they are no such numbers.
    """
    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if world in ("", "1"):
        return Workers()
    if not rank.isdecimal() or not world.isdecimal() or int(rank) >= int(world):
        raise ValueError(
            f"found RANK={rank} and WORLD_SIZE={world} in the environment, expected the number of "
            "this process, from 0 on, and how many there are; set both, or neither"
        )
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Workers(int(rank), int(world))


def join(device: torch.device) -> Workers:
    """Join the processes that torchrun started; alone when it did not.

    Args:
        device: "cuda" communicates through NCCL and takes the GPU of the local rank, "cpu" Gloo.
    """
    workers = share(device)
    if workers.world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return workers


def leave(workers: Workers) -> None:
    """Leave the group that `join` joined."""
    if workers.world > 1:
        dist.destroy_process_group()


def wait(workers: Workers) -> None:
    """Wait until every process is here."""
    if workers.world > 1:
        dist.barrier()


def shard_pairs(values: Tensor, workers: Workers) -> Tensor:
    """The same share of (2 B, ...) values that hold first draws, then second draws."""
    first, second = values.chunk(2)
    return torch.cat([half[workers.rank :: workers.world] for half in (first, second)])


def average(tensors: Iterable[Tensor | None], workers: Workers) -> None:
    """Average tensors over all processes, in place, in one exchange."""
    present = [tensor for tensor in tensors if tensor is not None]
    if workers.world == 1 or not present:
        return
    flat = torch.cat([tensor.detach().float().reshape(-1) for tensor in present])
    dist.all_reduce(flat)
    flat /= workers.world
    for tensor, values in zip(present, flat.split([t.numel() for t in present]), strict=True):
        tensor.copy_(values.view(tensor.shape))
