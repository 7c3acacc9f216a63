"""The ranks of one training run: one process each, started by torchrun (or one process without it).

    torchrun --nproc_per_node 2 -m moa.train runs/<name>/config.json      gloo on CPU, nccl on GPU
    python -m moa.train runs/<name>/config.json                           one process, no process group

All communication of a step is one sum over ranks of one buffer (`GradientBuffer`): gradients, logged sums and the
stop flag travel together, so all ranks see the same numbers and take the same decisions without asking again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from moa.errors import TrainConfigError

# How long a rank waits for another that lives; one that ended is noticed at once. On CPUs one may encode images of 512
# pixels for hours (a part, in moa/latents.py) while the others have none left to encode.
TIMEOUTS = {"nccl": timedelta(minutes=10), "gloo": timedelta(days=1)}
_PR_SET_PDEATHSIG = 1
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # set by torchrun


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> None:
        """Replaces `tensor` by its sum over the ranks, the same bits on each."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def broadcast_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replaces each tensor by rank 0's."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def from_first(self, value: int) -> int:
        """Rank 0's value of an integer, on every rank. Also a barrier."""
        box = torch.tensor(value if self.first else 0, device=self.device)
        self.sum_(box)
        return int(box.item())

    def any(self, flag: bool) -> bool:
        """Whether it is true on at least one rank. Also a barrier."""
        box = torch.tensor(int(flag), device=self.device)
        self.sum_(box)
        return bool(box.item())

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.from_first(0)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Joins the process group that torchrun describes in the environment, and leaves it at the end.

    One GPU per rank where the machine has GPUs, else CPUs. A rank is killed with its launcher (Linux), so that a
    launcher that died leaves no rank behind. Raises `TrainConfigError` for more ranks than GPUs, and for several ranks
    that something else than torchrun has started; a lone process is rank 0, whatever is left in its environment.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if launched:
        rank, world, local, per_node = (int(os.environ[name]) for name in _NUMBERS)
        die_with_parent()
    elif (others := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise TrainConfigError(
            f"WORLD_SIZE is {others}, but torchrun did not start this process: start the ranks with torchrun, or unset "
            "WORLD_SIZE and RANK to train in one process"
        )
    else:
        rank, world, local, per_node = 0, 1, 0, 1
    gpus = torch.cuda.device_count()
    if 0 < gpus < per_node:
        raise TrainConfigError(
            f"{per_node} ranks on a machine with {gpus} GPU(s): start torchrun with --nproc_per_node {gpus} (in a "
            f"flow: --set launch.processes={gpus}), or hide the GPUs with CUDA_VISIBLE_DEVICES='' to train on CPUs"
        )
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if launched:
        backend = "nccl" if gpus else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUTS[backend], device_id=device if gpus else None)
    yield Ranks(rank, world, device)
    if launched:  # not after an error: the other ranks may be waiting in a collective, and torchrun ends them
        dist.destroy_process_group()


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends. Elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class StopRequest:
    """Becomes true when SIGTERM arrives: the step under way is finished and saved first."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handles SIGTERM inside the block and restores the former handler after it."""
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_: object) -> None:
        self.asked = True


class GradientBuffer:
    """Gradients of all parameters and `extra` more numbers, side by side in one fp32 tensor.

    Each parameter's `.grad` is a view into `flat`, so backward passes accumulate here and one all-reduce, one norm
    and one fill serve all of them. A parameter that took no part in the loss keeps gradient 0.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], extra: int):
        size = sum(p.numel() for p in parameters)
        self.flat = torch.zeros(size + extra, device=parameters[0].device)
        self.gradients, self.extra = self.flat[:size], self.flat[size:]
        for parameter, piece in zip(parameters, self.gradients.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)

    def clip_(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients down to global norm `max_norm`; returns the norm before, 0-dim."""
        norm = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
