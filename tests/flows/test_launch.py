"""The supervisor: output, failure, and that no process outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from flows.errors import ProcessCancelledError, ProcessFailedError, ProcessTimeoutError
from flows.launch import run_process

# A child that ignores SIGTERM and has a grandchild in its own session, ignoring it too, as torchrun's ranks may.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
grandchild = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print("pids", os.getpid(), grandchild.pid, flush=True)
time.sleep(300)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def assert_gone(pids: list[int]) -> None:
    """Waits shortly until none of the processes is alive."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return
        time.sleep(0.05)
    raise AssertionError(f"still alive: {alive}")


def test_records_lines_and_log(tmp_path: Path) -> None:
    records, lines = [], []
    command = python("""print("hello"); print('{"step": 3, "loss": 0.5}'); print("{not json")""")
    run_process(command, log=tmp_path / "train.log", on_record=records.append, on_line=lines.append)
    assert records == [{"step": 3, "loss": 0.5}]
    assert lines == ["hello", "{not json"]
    assert (tmp_path / "train.log").read_text().splitlines() == ["hello", '{"step": 3, "loss": 0.5}', "{not json"]


def test_the_log_of_a_second_run_is_appended(tmp_path: Path) -> None:
    for word in ("first", "second"):
        run_process(python(f"print('{word}')"), log=tmp_path / "train.log")
    assert (tmp_path / "train.log").read_text() == "first\nsecond\n"


def test_failure_shows_the_status_and_the_last_lines(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError) as error:
        run_process(python("""[print("line", i) for i in range(100)]; raise SystemExit(3)"""), log=tmp_path / "log")
    message = str(error.value)
    assert "exit status 3" in message and "line 99" in message and "line 60" in message and "line 59\n" not in message


def test_secrets_never_reach_log_callbacks_or_errors(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ProcessFailedError) as error:
        run_process(
            python("print('token hf_secret!'); raise SystemExit(1)"),
            log=tmp_path / "log",
            on_line=lines.append,
            secrets=["hf_secret"],
        )
    assert lines == ["token ***!"]
    assert "hf_secret" not in str(error.value) + (tmp_path / "log").read_text()


@pytest.mark.parametrize("reason", ["cancelled", "timeout", "callback"])
def test_stubborn_trees_end(tmp_path: Path, reason: str) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        if line.startswith("pids"):
            pids.extend(int(word) for word in line.split()[1:])
            if reason == "callback":
                raise KeyboardInterrupt

    expected = {"cancelled": ProcessCancelledError, "timeout": ProcessTimeoutError, "callback": KeyboardInterrupt}[
        reason
    ]
    with pytest.raises(expected):
        run_process(
            python(STUBBORN),
            log=tmp_path / "log",
            on_line=on_line,
            cancelled=lambda: reason == "cancelled" and len(pids) == 2,
            time_limit=2 if reason == "timeout" else None,
            poll=0.1,
            grace=0.3,
        )
    assert len(pids) == 2
    assert_gone(pids)


def test_descendants_of_a_command_that_ended_well_end_too(tmp_path: Path) -> None:
    pids: list[int] = []
    command = python("""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
        print(child.pid)
    """)
    run_process(command, log=tmp_path / "log", on_line=lambda line: pids.append(int(line)))
    assert_gone(pids)


def test_grace_lets_the_child_save_and_keeps_what_it_printed(tmp_path: Path) -> None:
    command = python("""
        import signal, sys, time
        def save(*_):
            print("checkpoint saved", flush=True); sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(300)
    """)
    seen: list[str] = []
    with pytest.raises(ProcessCancelledError):
        run_process(
            command, log=tmp_path / "log", on_line=seen.append, cancelled=lambda: bool(seen), poll=0.05, grace=10
        )
    assert "checkpoint saved" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")
def test_a_killed_supervisor_takes_its_child_along(tmp_path: Path) -> None:
    supervisor = python(f"""
        from pathlib import Path
        from flows.launch import run_process
        import sys
        child = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
        log = Path({str(tmp_path / "log")!r})
        run_process([sys.executable, "-c", child], log=log, on_line=lambda line: print(line, flush=True))
    """)
    process = subprocess.Popen(supervisor, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert_gone([pid])
