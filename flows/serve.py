"""The Prefect UI with everything behind it: `python -m flows.serve [--port 4200] [--pools cpu gpu]`, or `make ui`.

Starts the server on 127.0.0.1, and on the next port the reports that run pages link to, creates the work pools that are
missing, deploys everything in prefect.yaml and starts one worker per pool, one run at a time each. What people set in
the UI stays: pools, their limits, and of schedules whether they are on, their times and their parameters. Ctrl-C ends
all of it, running flows included; the runs of these workers, and those of commands that were killed, are marked as
crashed, and a new run of the same name goes on from its files. Workers on other machines and their runs are left alone;
runs of a machine that is gone are marked by an automation (flows/heartbeats.py).
Logs: .prefect/server.log, .prefect/reports.log, .prefect/worker-<pool>.log.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import yaml

from flows.child import Child
from flows.errors import FlowError, ServeError
from flows.prefect_environment import PROJECT
from flows.settings import REPORTS_URL, runs_root

LOGS = Path(os.environ["PREFECT_HOME"])
POOLS = ("cpu", "gpu")
PORTS = range(1, 65535)  # of the server; the reports have the next
START_SECONDS = 300  # a fresh database on a slow machine takes 40 s
STOP_SECONDS = 10.0
PREFECT = [sys.executable, "-m", "prefect"]


def serve(port: int, pools: Sequence[str]) -> None:
    """Runs server and workers until one of them ends or a signal comes. Raises ServeError, naming the log to read."""
    if port not in PORTS:
        raise ServeError(f"{port} and the port after it cannot be had: choose one of {PORTS[0]} to {PORTS[-1]}")
    for wanted in (port, port + 1):
        if _is_taken(wanted):
            raise ServeError(f"Port {wanted} is in use: another server? Stop it, or choose others: make ui PORT=4300")
    url, reports = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    os.environ.update(_environment(url, reports))
    from flows.heartbeats import watch_runs  # Prefect reads the environment now
    from flows.server_state import mark_interrupted, missing_pools, schedules_kept

    with ExitStack() as stack:
        arguments = ["--root", str(runs_root()), "--port", str(port + 1)]
        shown = stack.enter_context(_running("reports", [sys.executable, "-m", "reports.server", *arguments]))
        print("Starting the Prefect server (the first start migrates its database: up to a minute) ...", flush=True)
        server = stack.enter_context(
            _running("server", [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)])
        )
        _wait_for(f"{url}/api/health", server)
        names = {pool: f"{socket.gethostname()}-{pool}" for pool in pools}
        stack.callback(mark_interrupted, names.values())
        mark_interrupted(names.values())
        watch_runs()
        print("Creating work pools and deployments ...", flush=True)
        for pool in missing_pools(POOLS):
            _prefect("work-pool", "create", pool, "--type", "process")
        with schedules_kept():
            _prefect("--no-prompt", "deploy", "--all")
        command = [*PREFECT, "worker", "start", "--type", "process", "--limit", "1"]
        workers = [
            stack.enter_context(_running(f"worker-{pool}", [*command, "--pool", pool, "--name", name]))
            for pool, name in names.items()
        ]
        print(_invitation(url, reports, pools), flush=True)
        while all(child.is_running for child in (server, shown, *workers)):
            time.sleep(0.5)
        raise ServeError(f"A process ended unexpectedly; see the logs in {LOGS}.")


def _environment(url: str, reports: str) -> dict[str, str]:
    """What server, worker and the flow runs they start share."""
    return {
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{url},{url.replace('127.0.0.1', 'localhost')}",
        REPORTS_URL: reports,
        "MOA_PROJECT_DIR": str(PROJECT),
        "PYTHONSAFEPATH": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def _running(name: str, command: Sequence[str]) -> Iterator[Child]:
    """A command in the background, its output in a log of that name, its whole tree ended on the way out."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("a", encoding="utf-8") as log:
        child = Child(list(command), output=log)
        try:
            yield child
        finally:
            child.end(STOP_SECONDS)


def _prefect(*arguments: str) -> None:
    """A `prefect` command run to its end."""
    done = subprocess.run([*PREFECT, *arguments], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServeError(f"`prefect {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-4000:]}")


def _wait_for(health: str, server: Child) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.is_running and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServeError(f"The Prefect server did not start; see {LOGS / 'server.log'}.")


def _invitation(url: str, reports: str, pools: Sequence[str]) -> str:
    prefect = shlex.quote(f"{Path(sys.executable).parent}/prefect")
    return f"""
Prefect UI         {url}
Reports            {reports}
Workers            {", ".join(pools)}
Deployments        {", ".join(deployments())}
Run the lifecycle  {prefect} deployment run 'lifecycle/miniature' --watch
                   (in {PROJECT}{"" if url.endswith(":4200") else f", with PREFECT_API_URL={url}/api"})
Ctrl-C ends everything.
"""


def deployments() -> list[str]:
    """What prefect.yaml deploys, as `<flow>/<name>`."""
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return [f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}" for one in declared]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Prefect server, worker, deployments.")
    parser.add_argument("--port", type=int, default=4200, help="port of the server on 127.0.0.1 (default 4200)")
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=["cpu"], help="pools to work on (default cpu)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell ignores it for commands in the background
        signal.signal(number, _stop)
    try:
        serve(given.port, given.pools)
    except KeyboardInterrupt:
        print("Everything was ended.")
        return 0
    except FlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
