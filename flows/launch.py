"""Supervises one launched process: its output, its progress, and above all its end.

Training runs outside the flow process (`torchrun`), whose workers open sessions of their own; a signal to the process
group does not reach them. So whatever ends the flow - success, failure, a cancelled flow run, Ctrl-C, the wall-clock
limit, even SIGKILL - the whole tree has to end:

* the child gets SIGTERM from the kernel when the thread that started it dies (PR_SET_PDEATHSIG, Linux);
* every process of the tree carries a mark in its environment, by which it is found even when its parent is long gone;
* at the end the child gets SIGTERM, GRACE_SECONDS to save a checkpoint, and what is left then gets SIGKILL. Prefect
  itself kills after 30 s, hence the shorter grace.

    run_process(["torchrun", ...], log=Path("runs/x/train.log"), on_record=print)

Everything the process prints is appended to the log file; lines that are JSON objects are handed to `on_record`, the
others to `on_line`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flows.errors import ProcessCancelledError, ProcessFailedError, ProcessTimeoutError

GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL; Prefect's own limit is 30 s
POLL_SECONDS = 10.0  # between two questions whether the flow run was cancelled
TAIL_LINES = 40  # printed with a failure
MASK = "***"
MARK_VARIABLE = "MOA_LAUNCH"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def run_process(
    command: Sequence[str],
    *,
    log: Path,
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_line: Callable[[str], None] = lambda line: None,
    cancelled: Callable[[], bool] = lambda: False,
    time_limit: float | None = None,
    secrets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
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
        environment: variables added to those of this process.

    Raises:
        ProcessFailedError: exit status not zero; the message holds the last 40 lines.
        ProcessTimeoutError, ProcessCancelledError: the tree was ended for that reason.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    shown = mask(" ".join(command), secrets)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with log.open("a", encoding="utf-8", buffering=1) as log_file:

        def keep(line: str) -> str:
            line = mask(line, secrets)
            log_file.write(line + "\n")
            tail.append(line)
            return line

        def take(line: str) -> None:
            line = keep(line)
            record = _json_object(line)
            on_line(line) if record is None else on_record(record)

        child = Child(command, environment or {})
        try:
            child.watch(take, cancelled=cancelled, time_limit=time_limit, poll=poll)
        finally:
            child.end(grace)
            child.drain(lambda line: keep(line) and None)
    if child.status != 0:
        reason = (
            f"was ended by {signal.Signals(-child.status).name}"
            if child.status < 0
            else f"ended with exit status {child.status}"
        )
        raise ProcessFailedError(f"{shown} {reason}. Full output: {log}. Its last lines:\n" + "\n".join(tail))


class Child:
    """A started command, its output as a queue of lines, and all its descendants."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=1,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1", **environment, MARK_VARIABLE: self._mark},
            start_new_session=True,
            preexec_fn=_die_with_parent if _LIBC else None,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def status(self) -> int:
        """Exit status, negative for a signal. Waits for the end."""
        return self._process.wait()

    def watch(
        self, take: Callable[[str], None], *, cancelled: Callable[[], bool], time_limit: float | None, poll: float
    ) -> None:
        """Hands over the lines until the command has ended; raises when it is cancelled or takes too long."""
        start = next_poll = time.monotonic()
        while self._process.poll() is None:
            self.drain(take, wait=min(0.2, poll))
            now = time.monotonic()
            if time_limit is not None and now - start > time_limit:
                raise ProcessTimeoutError(
                    f"The wall-clock limit of {time_limit:g} s was reached; the process was ended."
                )
            if now >= next_poll:
                next_poll = now + poll
                if cancelled():
                    raise ProcessCancelledError("The flow run was cancelled; the process was ended.")
        self.end(grace=0)  # descendants that hold the pipe open
        self.drain(take)

    def drain(self, take: Callable[[str], None], wait: float = 0) -> None:
        """Hands over the lines that are there, waiting at most `wait` seconds for the first."""
        try:
            take(self._lines.get(timeout=wait) if wait else self._lines.get_nowait())
            while True:
                take(self._lines.get_nowait())
        except queue.Empty:
            return

    def tree(self) -> list[psutil.Process]:
        """Every living process that carries the mark."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self._mark]

    def end(self, grace: float) -> None:
        """SIGTERM to the command (torchrun tells its ranks), SIGKILL to whatever is left after `grace` seconds."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                deadline = time.monotonic() + grace
                while self.tree() and time.monotonic() < deadline:
                    time.sleep(0.2)
        finally:  # also when a second signal arrives during the grace
            while leftovers := self.tree():
                for process in leftovers:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(leftovers, timeout=1)
            self._process.wait()
            self._reader.join(timeout=2)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))


def mask(line: str, secrets: Sequence[str]) -> str:
    """Returns `line` with every secret replaced by `***`."""
    for secret in filter(None, secrets):
        line = line.replace(secret, MASK)
    return line


def flow_run_cancelled() -> Callable[[], bool]:
    """Returns a function that asks the Prefect server whether the current flow run is being cancelled.

    Prefect signals a cancelled run by SIGTERM, but not after a server outage; asking covers that. Outside a flow run
    the answer is always no, and an unreachable server counts as no.
    """
    from prefect import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return lambda: False
    run_id = context.flow_run.id

    def ask() -> bool:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run_id).state
        except Exception:  # any network or server error: the training itself is healthy
            return False
        return state is not None and (state.is_cancelling() or state.is_final())

    return ask


def _die_with_parent() -> None:
    """In the child, before exec: the kernel sends SIGTERM when the thread that started it ends."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mark_of(process: psutil.Process) -> str | None:
    """The mark in the environment of a living process; None for other, ended and foreign ones."""
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK_VARIABLE)
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return None
