"""A started command and its whole process tree, which ends with it.

Training runs outside the flow process, by `torchrun` where it has several processes, which open sessions of their own:
a signal to the process group does not reach them. So:

* the child gets SIGTERM from the kernel when the thread that started it dies (PR_SET_PDEATHSIG, Linux);
* every process of the tree carries a mark in its environment, by which it is found even when its parent is long gone;
* at the end the child gets SIGTERM and some time to save a checkpoint; what is left then gets SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

MARK_VARIABLE = "MOA_LAUNCH"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Child:
    """Starts `command` in a session of its own.

    Args:
        output: where stdout and stderr both go: a file, or subprocess.PIPE; None for where ours go.
        environment: variables beside those of this process.
        folder: where it runs; None for where this process does.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: IO[str] | int | None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._mark = uuid.uuid4().hex
        marks = ":".join(filter(None, [os.environ.get(MARK_VARIABLE), self._mark]))  # what it launches is ours too
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {}), MARK_VARIABLE: marks},
            cwd=folder,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent if _LIBC else None,
        )

    @property
    def output(self) -> IO[str]:
        """The pipe of what the tree prints."""
        assert self._process.stdout is not None, "output was not subprocess.PIPE"
        return self._process.stdout

    @property
    def is_running(self) -> bool:
        """Whether the command itself runs; descendants may outlive it."""
        return self._process.poll() is None

    @property
    def status(self) -> int:
        """Exit status, negative for a signal. Waits for the end."""
        return self._process.wait()

    def tree(self) -> list[psutil.Process]:
        """Every living process that carries the mark."""
        return [process for process in psutil.process_iter() if self._mark in _marks_of(process)]

    def end(self, grace: float) -> None:
        """SIGTERM to the command (torchrun tells its ranks), SIGKILL to whatever is left after `grace` seconds."""
        try:
            if self.is_running:
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


def describe_status(status: int) -> str:
    """`ended with exit status 3`, `was ended by SIGKILL`."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def _die_with_parent() -> None:
    """In the child, before exec: the kernel sends SIGTERM when the thread that started it ends."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _marks_of(process: psutil.Process) -> list[str]:
    """The marks in the environment of a living process; none for foreign ones."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return []
        return process.environ().get(MARK_VARIABLE, "").split(":")
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return []
