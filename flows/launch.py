"""Supervises one launched process from its first line to its end.

    run_process(["torchrun", ...], log=Path("runs/x/train.log"), on_record=print)

Everything the process prints is appended to the log file; lines that are JSON objects are handed to `on_record`, the
others to `on_line`. Whatever ends the call - success, failure, a cancelled flow run, Ctrl-C, the wall-clock limit - no
process of the tree outlives it (flows/child.py).
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from flows.child import Child, describe_status
from flows.errors import ProcessCancelledError, ProcessFailedError, ProcessTimeoutError

GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL: time to save a checkpoint; Prefect itself kills after 30 s
POLL_SECONDS = 10.0  # between two questions whether the flow run was cancelled
TAIL_LINES = 40  # printed with a failure
MASK = "***"


def run_process(
    command: Sequence[str],
    *,
    log: Path,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
    cancelled: Callable[[], bool] = lambda: False,
    time_limit: float | None = None,
    secrets: Sequence[str] = (),
    grace: float = GRACE_SECONDS,
    poll: float = POLL_SECONDS,
) -> None:
    """Runs `command` to its end and returns if it succeeded; no process of its tree is left in any case.

    Args:
        log: file that everything printed is appended to.
        on_record: gets each printed line that is a JSON object.
        on_line: gets each other line.
        cancelled: asked every `poll` seconds; True ends the tree.
        time_limit: wall-clock seconds, None for no limit.
        secrets: texts replaced by `***` in the log, in the callbacks and in errors.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        ProcessFailedError: exit status not zero; the message holds the last 40 lines.
        ProcessTimeoutError, ProcessCancelledError: the tree was ended for that reason.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with log.open("a", encoding="utf-8", buffering=1) as log_file:

        def keep(line: str) -> None:
            log_file.write(line + "\n")
            tail.append(line)

        def take(line: str) -> None:
            line = mask(line, secrets)
            keep(line)
            record = _json_object(line)
            on_line(line) if record is None else on_record(record)

        child = Child(command, output=subprocess.PIPE)
        lines = _Lines(child.output)
        try:
            _watch(child, lines, take, cancelled=cancelled, time_limit=time_limit, poll=poll)
            child.end(grace=0)  # descendants that still hold the pipe open
            lines.drain(take)
        finally:
            child.end(grace)
            lines.drain(lambda line: keep(mask(line, secrets)))
    if child.status != 0:
        shown = mask(" ".join(command), secrets)
        last = "\n".join(tail)
        raise ProcessFailedError(f"{shown} {describe_status(child.status)}. Full output: {log}. Last lines:\n{last}")


def mask(line: str, secrets: Sequence[str]) -> str:
    """Returns `line` with every secret replaced by `***`."""
    for secret in filter(None, secrets):
        line = line.replace(secret, MASK)
    return line


def flow_run_cancelled() -> Callable[[], bool]:
    """Returns a function that asks the Prefect server whether the current flow run is being cancelled, or the one that
    a person started and that this is a part of.

    Prefect signals a cancelled run by SIGTERM, but not after a server outage; asking covers that. Outside a flow run
    the answer is always no, and an unreachable server counts as no.
    """
    from prefect import get_client
    from prefect.context import FlowRunContext
    from prefect.runtime import flow_run

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return lambda: False
    runs = {context.flow_run.id, UUID(flow_run.root_flow_run_id)}

    def ask() -> bool:
        try:
            with get_client(sync_client=True) as client:
                states = [client.read_flow_run(run).state for run in runs]
        except Exception:  # any network or server error: the training itself is healthy
            return False
        # Not any final state: "crashed" may be a guess about a run whose worker went away, "failed" a person's wish.
        return any(state is not None and (state.is_cancelling() or state.is_cancelled()) for state in states)

    return ask


class _Lines:
    """The lines of a pipe, read by a thread of their own so that the reader never waits for the pipe."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._queue: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self, consumer: Callable[[str], None], wait: float) -> None:
        """Hands over the lines that are there, waiting at most `wait` seconds for the first."""
        try:
            consumer(self._queue.get(timeout=wait))
        except queue.Empty:
            return
        for _ in range(self._queue.qsize()):
            consumer(self._queue.get_nowait())

    def drain(self, consumer: Callable[[str], None]) -> None:
        """Hands over everything, once the writers are gone."""
        self._thread.join(timeout=2)
        while not self._queue.empty():
            consumer(self._queue.get_nowait())

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                self._queue.put(line.rstrip("\n"))


def _watch(
    child: Child,
    lines: _Lines,
    take: Callable[[str], None],
    *,
    cancelled: Callable[[], bool],
    time_limit: float | None,
    poll: float,
) -> None:
    """Hands over lines until the command has ended; raises when it is cancelled or takes too long."""
    start = next_poll = time.monotonic()
    while child.is_running:
        lines.take(take, wait=min(0.2, poll))
        now = time.monotonic()
        if time_limit is not None and now - start > time_limit:
            raise ProcessTimeoutError(f"The wall-clock limit of {time_limit:g} s was reached; the process was ended.")
        if now >= next_poll:
            next_poll = now + poll
            if cancelled():
                raise ProcessCancelledError("The flow run was cancelled; the process was ended.")


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
