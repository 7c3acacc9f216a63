"""Which failures are worth another try: those that may pass by themselves. All tasks that are retried resume."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.errors import TrainingCrashedError
from moa.errors import HubUnavailableError

PASSING = (TrainingCrashedError, HubUnavailableError)  # a killed process, a Hub that does not answer


def may_pass(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Whether a failed task is tried again: never for what a person has to mend."""
    return isinstance(state.result(raise_on_failure=False), PASSING)


RETRIES: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [30, 300], "retry_condition_fn": may_pass}
