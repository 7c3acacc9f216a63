"""Runs of which nothing is heard any more: their machine lost its power, its network or its memory.

The engine of each flow run, of nested ones too, sends the server a heartbeat every 30 s (`prefect.toml`). An automation
of the server, shown in the UI, marks a run as crashed when nothing follows: what Prefect's documentation proposes
against zombie flows. The engine of a run that was marked while it lives goes on, and what it says at its end counts;
if its deployment has a limit, though, Prefect takes the slot from it and ends it within four minutes.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification, emit_event

from flows.server_state import GOES_ON

NAME = "Runs whose machine is gone"
HEARTBEAT = "prefect.flow-run.heartbeat"
ANYTHING = "prefect.flow-run.*"  # events are named after states, which flows may name: "Incomplete" is one, too
SILENCE = timedelta(seconds=180)  # six heartbeats: a server that is started again is back in less
MESSAGE = f"Nothing was heard of it for {SILENCE.seconds} s: its machine is gone. {GOES_ON}"


def watch_runs() -> None:
    """Makes the automation unless the server has it: people may switch it off or change it, deleted it comes back.

    Every run that is said to be running has to be heard of from now on, too: its machine may have died while no server
    was there.
    """
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(NAME):
            client.create_automation(_automation())
        running = FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING]}}})
        for run in client.read_flow_runs(flow_run_filter=running):
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
            emit_event(HEARTBEAT, resource=resource)


def _automation() -> AutomationCore:
    return AutomationCore(
        name=NAME,
        description=f"Marks a run as crashed when nothing was heard of it for {SILENCE.seconds} s.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={ANYTHING},
            match=ResourceSpecification({"prefect.resource.id": [ANYTHING]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=MESSAGE)],
    )
