"""What stays on a server: pools, schedules that are on, runs of other machines. Killed commands do not run for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL
from prefect.states import Running

from flows.server_state import (
    PROCESS,
    RUN_OF_PROCESS,
    WORKER,
    _signs_of_life,
    label_with_process,
    mark_interrupted,
    missing_pools,
    schedules_kept,
)

pytestmark = [pytest.mark.prefect, pytest.mark.slow]
DECLARED = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *"), active=False, slug="nightly")
OF_SOMEBODY = DeploymentScheduleCreate(
    schedule=CronSchedule(cron="0 5 * * *"), active=True, parameters={"name": "mine"}
)


@flow(name="kept")
def kept(name: str = "") -> None: ...


@pytest.fixture
def client(server: None) -> Iterator[object]:
    with get_client(sync_client=True) as client:
        yield client


def deploy(client) -> UUID:
    """What `prefect deploy` does with a declaration whose schedule is off: all schedules are replaced."""
    flow_id = client.create_flow(kept)
    return client.create_deployment(flow_id=flow_id, name="kept", schedules=[DECLARED])


def schedules(client, deployment: UUID) -> dict[str | None, tuple[bool, str, dict]]:
    found = client.read_deployment(deployment).schedules
    return {one.slug: (one.active, one.schedule.cron, one.parameters) for one in found}


def test_pools_that_are_there_are_not_made_again(client) -> None:
    client.create_work_pool(WorkPoolCreate(name="cpu", type="process", concurrency_limit=3))
    assert missing_pools(["cpu", "gpu"]) == ["gpu"]


def test_schedules_that_people_switched_on_or_added_survive_a_deployment(client) -> None:
    deployment = deploy(client)
    with schedules_kept():
        assert deploy(client) == deployment
    assert schedules(client, deployment) == {"nightly": (False, "0 2 * * *", {})}, "off stays off"
    (nightly,) = client.read_deployment(deployment).schedules
    client.update_deployment_schedule(deployment, nightly.id, active=True)
    client.create_deployment_schedules(deployment, [OF_SOMEBODY])
    for _ in range(2):
        with schedules_kept():
            deploy(client)
        expected = {"nightly": (True, "0 2 * * *", {}), None: (True, "0 5 * * *", {"name": "mine"})}
        assert schedules(client, deployment) == expected


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_schedules_survive_a_deployment_that_fails_half_way(client, failure) -> None:
    deployment = deploy(client)
    (nightly, *_) = client.read_deployment(deployment).schedules
    parameters = {"name": failure.__name__}
    client.update_deployment_schedule(deployment, nightly.id, active=True, parameters=parameters)
    with pytest.raises(failure), schedules_kept():
        deploy(client)
        raise failure
    assert schedules(client, deployment)["nightly"] == (True, "0 2 * * *", parameters)


def test_times_and_parameters_that_people_changed_survive_a_deployment(client, capsys) -> None:
    deployment = deploy(client)
    (nightly,) = client.read_deployment(deployment).schedules
    # the test server is shared: each value differs from what another test may have left
    client.update_deployment_schedule(
        deployment, nightly.id, active=False, schedule=CronSchedule(cron="30 4 * * 1"), parameters={"name": "theirs"}
    )
    with schedules_kept():
        deploy(client)
        assert schedules(client, deployment)["nightly"] == (False, "0 2 * * *", {}), "the declaration has come back"
    assert schedules(client, deployment)["nightly"] == (False, "30 4 * * 1", {"name": "theirs"})
    assert "Schedule 'nightly'" in (told := capsys.readouterr().out) and "schedule, parameters" in told


def test_a_schedule_that_was_deleted_comes_back_as_it_is_declared(client, capsys) -> None:
    deployment = deploy(client)
    for schedule in client.read_deployment(deployment).schedules:
        client.update_deployment_schedule(deployment, schedule.id, schedule=CronSchedule(cron="30 4 * * 1"))
        client.delete_deployment_schedule(deployment, schedule.id)
    with schedules_kept():
        deploy(client)
    assert schedules(client, deployment) == {"nightly": (False, "0 2 * * *", {})}
    assert capsys.readouterr().out == ""


def test_only_the_own_workers_dead_runs_are_marked(client) -> None:
    deployment = deploy(client)

    def running(worker: str | None) -> UUID:
        run = client.create_flow_run_from_deployment(deployment)
        if worker:
            client.update_flow_run_labels(run.id, {WORKER: worker})
        client.set_flow_run_state(run.id, Running(), force=True)
        return run.id

    ours, alive, theirs, nobodys = running("here-cpu"), running("here-cpu"), running("there-gpu"), running(None)
    sleeper = [sys.executable, "-c", "print(flush=True); import time; time.sleep(300)"]
    environment = os.environ | {RUN_OF_PROCESS: str(alive)}
    with subprocess.Popen(sleeper, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        mark_interrupted(["here-cpu", "here-gpu"])
        process.kill()
    states = {run: client.read_flow_run(run).state.type.value for run in (ours, alive, theirs, nobodys)}
    assert states == {ours: "CRASHED", alive: "RUNNING", theirs: "RUNNING", nobodys: "RUNNING"}


COMMAND = """
import flows, sys, time
from uuid import UUID
from prefect import flow
from prefect.runtime import flow_run
from flows.server_state import label_with_process

@flow
def below() -> None:
    print("running", flush=True)
    time.sleep(300)

@flow
def killed() -> None:
    label_with_process(UUID(flow_run.id))
    below()

killed()
"""


def test_the_runs_of_a_killed_command_are_marked_and_nobody_elses(client) -> None:
    def states() -> dict[str, str]:
        found = client.read_flow_runs()
        names = {one.id: one.name for one in client.read_flows()}
        return {names[run.flow_id]: run.state.type.value for run in found if names[run.flow_id] in ("killed", "below")}

    elsewhere = client.create_flow_run(kept, state=Running())
    client.update_flow_run_labels(elsewhere.id, {PROCESS: "another-host 1 unknown"})
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
    with subprocess.Popen([sys.executable, "-c", COMMAND], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(line == b"running\n" for line in process.stdout)
        mark_interrupted()
        assert states() == {"killed": "RUNNING", "below": "RUNNING"}
        process.kill()
        process.wait()
        mark_interrupted()
    assert states() == {"killed": "CRASHED", "below": "CRASHED"}
    assert client.read_flow_run(elsewhere.id).state.type.value == "RUNNING"


def label_of(client, run: UUID) -> str:
    return str(client.read_flow_run(run).labels[PROCESS])


def test_a_number_that_another_process_got_later_is_not_the_command(client) -> None:
    """Nor is one that nobody has the end of a command: that of a container, which holds the lock, is known there."""
    run = client.create_flow_run(kept, state=Running())
    label_with_process(run.id)
    host, _, sign = label_of(client, run.id).split()
    client.update_flow_run_labels(run.id, {PROCESS: f"{host} {2**22 + 1} {sign}"})
    mark_interrupted()
    assert client.read_flow_run(run.id).state.type.value == "RUNNING"
    (folder := _signs_of_life()).joinpath("left").touch()
    client.update_flow_run_labels(run.id, {PROCESS: f"{host} {os.getpid()} left"})
    mark_interrupted()
    assert client.read_flow_run(run.id).state.type.value == "CRASHED"
    assert [file.name for file in folder.iterdir()] == [sign], "what is free is not kept, what is held is"


@pytest.mark.parametrize("label", ["", ".", "..", "here 1 ..", "here 1 1790000000", "here 1 /dev/null"])
def test_runs_of_which_nothing_is_known_are_left_alone(client, label: str) -> None:
    """Such as one of a container of the same host name with a Prefect home of its own, or of an earlier version."""
    run = client.create_flow_run(kept, state=Running())
    client.update_flow_run_labels(run.id, {PROCESS: label})
    mark_interrupted()
    assert client.read_flow_run(run.id).state.type.value == "RUNNING"
