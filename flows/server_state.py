"""What `make ui` and commands find on a Prefect server: what people have set stays, runs whose process is gone end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import UUID

import psutil
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Crashed

SETTINGS = ("active", "schedule", "parameters")  # of a schedule: what can be changed in the UI
UNFINISHED = {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}
GOES_ON = "A new run of the same name goes on from the files."
INTERRUPTED = f"Its process is gone. {GOES_ON}"
RUN_OF_PROCESS = "PREFECT__FLOW_RUN_ID"  # environment variable of the process that a worker starts for a run
WORKER = "prefect.worker.name"  # label that a worker puts on its runs
PROCESS = "moa.process"  # label that a run gets as it begins: `<host> <process> <sign of life, a file>`


def missing_pools(wanted: Sequence[str]) -> list[str]:
    """The pools that the server does not have: making one again would reset its limit and its description."""
    with get_client(sync_client=True) as client:
        there = {pool.name for pool in client.read_work_pools()}
    return [pool for pool in wanted if pool not in there]


@contextmanager
def schedules_kept() -> Iterator[None]:
    """Inside, everything may be deployed again, which replaces all schedules. Afterwards those that were there (they
    are known by their slug) are as people had set them, and those that people had added (no slug) are there again.

    So what prefect.yaml says of a schedule counts when the schedule is made: what differs is printed.
    """
    with get_client(sync_client=True) as client:
        before = {deployment.id: list(deployment.schedules) for deployment in client.read_deployments()}
    try:
        yield
    finally:  # also of what was deployed before a failure
        with get_client(sync_client=True) as client:
            for deployment in client.read_deployments():
                was = before.get(deployment.id, [])
                _set_again(client, deployment, {schedule.slug: schedule for schedule in was if schedule.slug})
                _add_again(client, deployment, [schedule for schedule in was if not schedule.slug])


def _add_again(client: SyncPrefectClient, deployment: DeploymentResponse, was: Sequence[DeploymentSchedule]) -> None:
    """Gives a deployment the schedules back that people had added."""
    kept = [schedule.id for schedule in deployment.schedules]
    if added := [schedule for schedule in was if schedule.id not in kept]:
        fields = set(DeploymentScheduleCreate.model_fields) & set(DeploymentSchedule.model_fields)
        made = [DeploymentScheduleCreate(**one.model_dump(include=fields)) for one in added]
        client.create_deployment_schedules(deployment.id, made)


def _set_again(
    client: SyncPrefectClient, deployment: DeploymentResponse, was: Mapping[str, DeploymentSchedule]
) -> None:
    """Gives the schedules of a deployment the settings that they had, by slug."""
    for schedule in deployment.schedules:
        if (old := was.get(schedule.slug or "")) is None:
            continue
        lost = {name: getattr(old, name) for name in SETTINGS if getattr(old, name) != getattr(schedule, name)}
        if lost:
            client.update_deployment_schedule(deployment.id, schedule.id, **lost)
            print(
                f"Schedule {schedule.slug!r} of {deployment.entrypoint} keeps what was set on the server: "
                f"{', '.join(lost)} (delete it in the UI and start again to have prefect.yaml's)"
            )


def label_with_process(run: UUID) -> None:
    """Says on the server which process a flow run is: this one."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(run, {PROCESS: f"{socket.gethostname()} {os.getpid()} {_sign_of_life()}"})


def mark_interrupted(workers: Collection[str] = ()) -> None:
    """Runs of these workers, which are stopped, do not run any more unless their process lives: says so in the UI.

    The same for runs of this machine whose process was killed; those on other machines are left alone.
    """
    alive = set(_living_runs())
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": UNFINISHED}))
        gone = [run for run in runs if run.labels.get(WORKER) in workers and str(run.id) not in alive]
        gone += [run for run in runs if _is_gone(str(run.labels.get(PROCESS, "")))]
        below = {"state": UNFINISHED, "parent_flow_run_id": {"any_": [str(run.id) for run in gone]}}
        for run in [*gone, *client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(below))]:
            client.set_flow_run_state(run.id, Crashed(message=INTERRUPTED), force=True)
    for file in _signs_of_life().glob("*"):
        if _is_free(file):
            file.unlink(missing_ok=True)  # by another command, just now


def _is_gone(process: str) -> bool:
    """Whether the process that a run's label names was one of this machine and has ended.

    Its number does not tell: in a container of the same host name it is somebody else's or nobody's. The lock of its
    file does; of a process whose file is not among this host's, in this Prefect home, nothing is known.
    """
    return _is_free(_signs_of_life() / Path(process.rpartition(" ")[2]).name)


@cache
def _sign_of_life() -> str:
    """The name of a file that this process holds locked; the system lets go of it when the process ends, in any way."""
    _signs_of_life().mkdir(parents=True, exist_ok=True)
    file, name = tempfile.mkstemp(dir=_signs_of_life())
    fcntl.flock(file, fcntl.LOCK_EX)
    return Path(name).name


def _signs_of_life() -> Path:
    """The folder of these files, of processes of this host."""
    return Path(os.environ["PREFECT_HOME"], "processes", socket.gethostname())


def _is_free(file: Path) -> bool:
    """Whether a file is there and nobody holds its lock; not where the file system has no locks."""
    try:
        with file.open("rb") as sign:
            fcntl.flock(sign, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _living_runs() -> Iterator[str]:
    """Flow runs that a process of this machine is working on."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            if run := process.environ().get(RUN_OF_PROCESS):
                yield run
