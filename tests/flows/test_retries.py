"""What is tried again by itself, and what is not."""

from __future__ import annotations

import pytest
from prefect.states import exception_to_failed_state
from prefect.utilities.asyncutils import run_coro_as_sync

from flows.errors import ProcessCancelledError, ProcessTimeoutError, TrainingCrashedError, TrainingFailedError
from flows.evaluate import evaluate_pipeline, fetch_published
from flows.gate import pass_gate
from flows.publish import publish_model
from flows.retries import may_pass
from flows.train import choose_training, train_adapter
from moa.errors import AccessDeniedError, HubUnavailableError, LicenceRefusedError, MissingInputError


def retried(error: Exception) -> bool:
    return may_pass(None, None, run_coro_as_sync(exception_to_failed_state(error)))


@pytest.mark.parametrize("error", [TrainingCrashedError("killed"), HubUnavailableError("503")])
def test_what_may_pass_by_itself_is_tried_again(error: Exception) -> None:
    assert retried(error)


@pytest.mark.parametrize(
    "error",
    [
        TrainingFailedError("rank 0: ConfigChangedError"),
        ProcessCancelledError("by a person"),
        ProcessTimeoutError("too long"),
        MissingInputError("base"),
        LicenceRefusedError("terms"),
        AccessDeniedError("token"),
        ValueError("a bug"),
    ],
)
def test_what_a_person_has_to_mend_is_not(error: Exception) -> None:
    assert not retried(error)


def test_whatever_trains_or_talks_to_the_hub_is_tried_again() -> None:
    for task in (choose_training, train_adapter, publish_model, fetch_published, evaluate_pipeline, pass_gate):
        assert task.retries == 2 and task.retry_condition_fn is may_pass
