"""How the training processes are started (`torchrun -m moa.train`; without the launcher where there is only one), and
what they say: while they train, and before they fail."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows.files import write_json
from flows.stage import Progress
from moa.train_config import TrainConfig

ACCEPTED = ("start", "resume", "finished")  # events after which the training runs, or ran, under its configuration
RANK = re.compile(r"rank (\d+): ")


class Draft:
    """The configuration of a training that is being tried: a hidden file of its run until the training accepts it.

    So `config.json` always says how the run was trained, also after a training that was refused, and two flows that try
    the same run do not overwrite each other's.
    """

    def __init__(self, training: TrainConfig) -> None:
        self._training = training
        training.run_folder.mkdir(parents=True, exist_ok=True)
        file, name = tempfile.mkstemp(prefix=".config-", suffix=".json", dir=training.run_folder)
        os.close(file)
        self.path = write_json(Path(name), training.model_dump(mode="json"))

    def hear(self, record: dict[str, Any]) -> None:
        """Takes an event of the training; the draft becomes `config.json` when it was accepted."""
        if record.get("event") in ACCEPTED and self.path.is_file():
            write_json(self._training.run_folder / "config.json", self._training.model_dump(mode="json"))
            self.path.unlink()

    def discard(self) -> None:
        """Removes what was not accepted."""
        self.path.unlink(missing_ok=True)


def training_command(config: Path, processes: int) -> list[str]:
    """The command that trains as a configuration file says. One process needs no launcher, which would import PyTorch
    as well, for seconds. The launcher would leave a folder of its logs in /tmp at each call, empty, since what is
    printed goes to the supervisor: there is none."""
    training = ["-m", "moa.train", str(config)]
    if processes == 1:
        return [sys.executable, *training]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    return [sys.executable, *launcher, "--nproc-per-node", str(processes), *training]


class LastWords:
    """What the ranks said before they failed: their own message, else their traceback, without the launcher's."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=200)
        self._over = False

    def hear(self, line: str) -> None:
        self._over = self._over or "torch/distributed/elastic" in line  # from here on the launcher speaks
        if not self._over:
            self._lines.append(line)

    @property
    def message(self) -> str | None:
        """The last message of rank 0, all its lines; None when it left none, as a process does that was killed."""
        lines = list(self._lines)
        ranks = [(index, match[1]) for index, line in enumerate(lines) if (match := RANK.match(line))]
        own = [index for index, rank in ranks if rank == "0"]
        if not own:
            return None
        end = next((index for index, _ in ranks if index > own[-1]), len(lines))
        return "\n".join(lines[own[-1] : end])

    def __str__(self) -> str:
        return self.message or "\n".join(list(self._lines)[-40:])

    def __bool__(self) -> bool:
        return bool(self._lines)


def follow(record: dict[str, Any], draft: Draft, steps: int, progress: Progress) -> None:
    """Metrics lines move the progress bar, and before the first step the images that are encoded do; validations and
    other events go to the log. Events also tell what was accepted."""
    draft.hear(record)
    if record.get("event") == "latents":
        progress(record["done"], record["total"], "images encoded")
    elif "loss" in record:
        progress(record["step"], steps, f"loss {record['loss']:.4f}" if record["loss"] is not None else "")
    elif "validation_loss" in record or "event" in record:
        get_run_logger().info("train: %s", {key: value for key, value in record.items() if key != "inputs"})
