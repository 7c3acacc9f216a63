"""Runs of which nothing is heard any more are marked as crashed, by an automation that people may change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.server.events.schemas.automations import EventTrigger
from prefect.states import Crashed, Running

from flows.heartbeats import HEARTBEAT, MESSAGE, NAME, SILENCE, _automation, watch_runs
from flows.prefect_environment import declared
from flows.stage import INCOMPLETE

LATE, IN_TIME = SILENCE + timedelta(seconds=5), SILENCE - timedelta(seconds=5)
OTHER_STATES = ("Suspended", "AwaitingRetry", "TimedOut", INCOMPLETE)  # names that differ from their types


@flow(name="heard of")
def heard_of() -> None: ...


@pytest.fixture
def client(server: None) -> Iterator[SyncPrefectClient]:
    """Of a server that has no automation of ours, neither before nor after."""
    with get_client(sync_client=True) as client:
        yield client
        for made in client.read_automations_by_name(NAME):
            client.delete_automation(made.id)


def state_of(client: SyncPrefectClient, run: UUID) -> tuple[str, str | None]:
    state = client.read_flow_run(run).state
    assert state is not None
    return state.type.value, state.message


def test_three_heartbeats_may_be_lost() -> None:
    assert 3 * timedelta(seconds=int(declared()["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])) < SILENCE


@pytest.mark.parametrize("name", ["heartbeat", *(kind.value.capitalize() for kind in StateType), *OTHER_STATES])
def test_whatever_state_a_run_comes_to_it_was_heard_of(name: str) -> None:
    trigger = EventTrigger.model_validate(_automation().trigger.model_dump())
    assert trigger.expects(event := f"prefect.flow-run.{name}")
    assert trigger.starts_after(event) == (name == "heartbeat"), "in another state it may stay for hours"


@pytest.mark.prefect
@pytest.mark.slow
def test_the_automation_is_made_once_and_stays_as_people_set_it(client: SyncPrefectClient) -> None:
    watch_runs()
    (made,) = client.read_automations_by_name(NAME)
    assert made.enabled
    client.pause_automation(made.id)
    watch_runs()
    (kept,) = client.read_automations_by_name(NAME)
    assert kept.id == made.id and not kept.enabled
    client.delete_automation(made.id)
    watch_runs()
    (again,) = client.read_automations_by_name(NAME)
    assert again.enabled and again.trigger == made.trigger


@pytest.mark.prefect
@pytest.mark.slow
def test_a_run_that_is_silent_for_too_long_is_marked_and_no_other(client: SyncPrefectClient) -> None:
    """Prefect goes by the times that events carry: the silence need not be waited for."""
    silent, heard = (client.create_flow_run(heard_of, state=Running()).id for _ in range(2))
    watch_runs()  # as `make ui` does when it finds them; no engine sends anything of them
    for run, after in ((heard, IN_TIME), (heard, 2 * IN_TIME), (silent, LATE)):
        time.sleep(0.5)  # on SQLite, Prefect loses some of the events that come all at once
        resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
        emit_event(HEARTBEAT, resource=resource, occurred=datetime.now(UTC) + after)
    deadline = time.monotonic() + 60
    while state_of(client, silent)[0] == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert state_of(client, silent) == ("CRASHED", MESSAGE)
    assert state_of(client, heard)[0] == "RUNNING"


@flow(name="called crashed")
def called_crashed() -> None:
    """As a command whose machine slept."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run.id), Crashed(message=MESSAGE), force=True)


@pytest.mark.prefect
@pytest.mark.slow
def test_what_a_run_says_at_its_end_counts_though_it_was_called_crashed(client: SyncPrefectClient) -> None:
    state = called_crashed(return_state=True)
    assert state.is_completed()
    assert state_of(client, state.state_details.flow_run_id)[0] == "COMPLETED"
