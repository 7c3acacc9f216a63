"""What `make ui` finds on its Prefect server, and leaves as people have set it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import psutil
from prefect import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.states import Crashed

UNFINISHED = {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}
INTERRUPTED = "The worker was stopped. A new run of the same name goes on from the files."
RUN_OF_PROCESS = "PREFECT__FLOW_RUN_ID"  # environment variable of the process that a worker starts for a run
WORKER = "prefect.worker.name"  # label that a worker puts on its runs


def missing_pools(wanted: Sequence[str]) -> list[str]:
    """The pools that the server does not have: making one again would reset its limit and its description."""
    with get_client(sync_client=True) as client:
        there = {pool.name for pool in client.read_work_pools()}
    return [pool for pool in wanted if pool not in there]


@contextmanager
def schedules_kept() -> Iterator[None]:
    """Inside, everything may be deployed again, which replaces all schedules. Afterwards those that people had switched
    on are on again, and those that they had added (they have no slug) are there again."""
    with get_client(sync_client=True) as client:
        before = {deployment.id: list(deployment.schedules) for deployment in client.read_deployments()}
    yield
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            was = before.get(deployment.id, [])
            active = {schedule.slug for schedule in was if schedule.slug and schedule.active}
            for schedule in deployment.schedules:
                if schedule.slug in active and not schedule.active:
                    client.update_deployment_schedule(deployment.id, schedule.id, active=True)
            kept = [schedule.id for schedule in deployment.schedules]
            added = [schedule for schedule in was if not schedule.slug and schedule.id not in kept]
            if added:
                fields = set(DeploymentScheduleCreate.model_fields) & set(DeploymentSchedule.model_fields)
                made = [DeploymentScheduleCreate(**one.model_dump(include=fields)) for one in added]
                client.create_deployment_schedules(deployment.id, made)


def mark_interrupted(workers: Collection[str]) -> None:
    """Runs of these workers, which are stopped, do not run any more unless their process lives: says so in the UI."""
    alive = set(_living_runs())
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": UNFINISHED}))
        gone = [run for run in runs if run.labels.get(WORKER) in workers and str(run.id) not in alive]
        below = {"state": UNFINISHED, "parent_flow_run_id": {"any_": [str(run.id) for run in gone]}}
        for run in [*gone, *client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(below))]:
            client.set_flow_run_state(run.id, Crashed(message=INTERRUPTED), force=True)


def _living_runs() -> Iterator[str]:
    """Flow runs that a process of this machine is working on."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            if run := process.environ().get(RUN_OF_PROCESS):
                yield run
