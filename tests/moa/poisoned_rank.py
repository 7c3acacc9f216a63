"""`moa.train` whose second step gives a loss that is not a number on rank 1. Run under torchrun by test_ranks.py."""

from __future__ import annotations

import math
import os
import sys

import torch

import moa.train

torch.set_num_threads(1)
calls = 0
step = moa.train.training_losses


def poisoned(*args):
    global calls
    calls += 1
    losses = step(*args)
    if calls == 2 and os.environ["RANK"] == "1":
        object.__setattr__(losses, "total", losses.total * math.nan)
    return losses


moa.train.training_losses = poisoned
sys.exit(moa.train.main())
