"""How the training processes are started (`torchrun -m moa.train`), and what they say before they fail."""

from __future__ import annotations

import sys
from collections import deque

from flows.files import write_json
from moa.train_config import TrainConfig


def torchrun(training: TrainConfig, processes: int) -> list[str]:
    """The command that trains into `training.out`; its configuration file is written there first."""
    path = write_json(training.run_folder / "config.json", training.model_dump(mode="json"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return [*launcher, str(processes), "-m", "moa.train", str(path)]


class LastWords:
    """What the ranks said before they failed: their own message, else their traceback, without the launcher's."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=40)
        self._over = False

    def hear(self, line: str) -> None:
        self._over = self._over or "torch/distributed/elastic" in line  # from here on the launcher speaks
        if not self._over:
            self._lines.append(line)

    def __str__(self) -> str:
        own = [line for line in self._lines if line.startswith("rank 0: ")]
        return own[-1] if own else "\n".join(self._lines)

    def __bool__(self) -> bool:
        return bool(self._lines)
