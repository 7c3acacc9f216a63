"""What the stages have in common: what they need of each other, their progress, and what they say at the end.

The files of a stage are the truth about it. Each core leaves finished work alone; a stage is "up to date" when its
manifest, which names everything else by digest, is the same after the call as before it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.errors import MissingInputError

SECONDS_BETWEEN_UPDATES = 5.0  # an update costs the server 40 ms
SECONDS_AFTER_FAILURE = 60.0  # a failed update has tried for as long, and nobody watched the work meanwhile
INCOMPLETE = "Incomplete"  # name of the state of a flow run that came to its end, with something left out


@contextmanager
def announced(stage: str, manifest: Path) -> Iterator[None]:
    """Says of the work inside whether it wrote `manifest` or found it up to date."""
    before = _digest(manifest)
    yield
    unchanged = before is not None and before == _digest(manifest)
    get_run_logger().info("%s: %s (%s)", stage, "up to date" if unchanged else "done", manifest)


def conclude(result: Path, problem: str) -> Path | State[Path]:
    """What a flow returns: its result; with a problem, in a state that carries its sentence.

    The state is of Prefect's type COMPLETED: what could be done was done, and the stages after it go on.
    """
    return Completed(name=INCOMPLETE, message=problem, data=result) if problem else result


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


class Progress:
    """A progress artifact of the run page, updated every few seconds at most. Used as a context manager and called.

    with Progress("train", "Training") as progress:
        progress(10, 150, "loss 0.21")

    A Prefect server that is away does not end the work: a warning is logged once, and the server is tried again later.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._artifact: UUID | None = None
        self._last = self._paused_until = 0.0
        self._warned = False

    def __enter__(self) -> Self:
        self._show(0.0)
        return self

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """`done` of `total` units; `message` goes to the log."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_UPDATES:
            return
        self._last = now
        get_run_logger().info("%s: %d of %d %s", self._description, done, total, message)
        if now >= self._paused_until:
            self._show(100.0 * done / max(total, 1))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._show(100.0)

    def _show(self, percent: float) -> None:
        """Creates the artifact, or updates it."""
        try:
            if self._artifact is None:
                made = create_progress_artifact(progress=percent, key=self._key, description=self._description)
                self._artifact = cast(UUID, made)  # a coroutine in asynchronous flows only
            else:
                update_progress_artifact(artifact_id=self._artifact, progress=percent, description=self._description)
        except Exception as error:  # of the network, the server or its client: whatever it is, the work is healthy
            self._paused_until = time.monotonic() + SECONDS_AFTER_FAILURE
            if not self._warned:
                self._warned = True
                text = "%s goes on, but its progress is not shown in the UI while the Prefect server fails: %r"
                get_run_logger().warning(text, self._description, error)


def require(path: Path, stage: str) -> Path:
    """Returns `path`. Raises MissingInputError, naming the stage that writes it, when it is not there."""
    if not path.exists():
        raise MissingInputError(
            f"{path} is missing: run `python -m flows.{stage}` with the same preset and name first."
        )
    return path
