"""One rank that trains on three configurations in turn: refused, poisoned in step 2 on rank 1 alone, until SIGTERM.

Run under torchrun by test_ranks.py. Each launch of its own would start Python three times, which costs more than the
trainings.
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

import moa.train
from moa.distributed import ranks

torch.set_num_threads(1)
step, calls = moa.train.training_losses, 0


def poisoned(*args):
    global calls
    calls += 1
    losses = step(*args)
    if calls == 2 and os.environ["RANK"] == "1":
        object.__setattr__(losses, "total", losses.total * math.nan)
    return losses


def trained(config: str) -> None:
    """Leaves the exit status of this rank beside the configuration: ranks share their standard output."""
    status = moa.train.main([config])
    Path(config).with_name(f"status-of-rank-{os.environ['RANK']}").write_text(str(status))


refused, pair, endless = sys.argv[1:]
with ranks() as here:
    moa.train.ranks = lambda: nullcontext(here)  # one process group for all: a second one in a process may hang
    trained(refused)
    moa.train.training_losses = poisoned
    trained(pair)
    moa.train.training_losses = step
    trained(endless)
