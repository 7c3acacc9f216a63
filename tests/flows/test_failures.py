"""A failure that a person can mend is one sentence, in the logs too; one that nobody expected keeps its traceback."""

from __future__ import annotations

import errno
import logging
import os

import httpx
import pytest

from flows.errors import MissingInputError
from flows.failures import EVENTS_LOGGER, LOGGERS, sentence, without_tracebacks
from moa.errors import HubOfflineError
from preprocessing.errors import OutputError

LOST = RuntimeError("Failed to reach API")
LOST.__cause__ = httpx.ConnectError("Connection refused")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MissingInputError("run it first"), "run it first"),
        (OutputError("choose another"), "choose another"),
        (HubOfflineError(errno.EACCES, "no network"), "no network"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/train.log"), "runs/a/train.log'): free some space"),
        (OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "runs/a"), "Not a directory: 'runs/a'): see whose it is"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/a"), "runs/a'): see whose it is"),
        (httpx.ReadTimeout("read"), "server does not answer any more"),
        (LOST, "server does not answer any more"),
    ],
)
def test_what_a_person_can_mend_is_told_without_a_traceback(
    error: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert told in (sentence(error) or "")
    without_tracebacks()
    for name in LOGGERS:
        logging.getLogger(name).error("failed", exc_info=error)
    assert "failed" in caplog.text and "Traceback" not in caplog.text and type(error).__name__ not in caplog.text


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EBADF, "a bug"), KeyError("a bug")])
def test_what_nobody_expected_keeps_its_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert sentence(error) is None
    without_tracebacks()
    logging.getLogger(LOGGERS[0]).error("failed", exc_info=error)
    assert "a bug" in caplog.text


def test_events_that_cannot_be_sent_do_not_fill_the_screen(caplog: pytest.LogCaptureFixture) -> None:
    without_tracebacks()
    logging.getLogger(EVENTS_LOGGER).error("Service %r failed to process item %r", "EventsWorker", "x" * 2000)
    logging.getLogger(EVENTS_LOGGER).error("something else")
    assert caplog.messages == ["something else"]
