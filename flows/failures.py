"""Failures that speak for themselves: one sentence is enough for a person, so tracebacks stay out of the logs."""

from __future__ import annotations

import logging

import httpx

from flows.errors import FlowError
from moa.errors import MoAError
from preprocessing.disk import FULL, NOT_OURS
from preprocessing.errors import PreprocessingError
from reports.errors import ReportError

AGAIN = "The same command goes on where this one stopped"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
EVENTS_LOGGER = "prefect._internal.concurrency"
_TOLD = (FlowError, MoAError, PreprocessingError, ReportError)


def sentence(error: BaseException) -> str | None:
    """What a failure says to a person; None for one that nobody expected, whose traceback is worth reading."""
    if isinstance(error, _TOLD):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full ({error}): free some space. {AGAIN}"
    if isinstance(error, OSError) and error.errno in NOT_OURS:
        return f"a file cannot be read or written ({error}): see whose it is and how it is mounted. {AGAIN}"
    if is_of_server(error):
        return f"the Prefect server does not answer any more ({error!r}). {AGAIN}"
    return None


def is_of_server(error: BaseException) -> bool:
    """Whether a failure is one of the connection to the Prefect server; `moa.hub` tells those to a Hub."""
    return isinstance(error, httpx.TransportError) or bool(error.__cause__ and is_of_server(error.__cause__))


class _WithoutTraceback(logging.Filter):
    """Prefect logs each failure with its traceback; that of an expected one is of no use."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] and sentence(record.exc_info[1]):
            record.exc_info = record.exc_text = None
        return True


class _WithoutLostEvents(logging.Filter):
    """Prefect prints each event that a server could not be sent, two thousand letters each, after a warning of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "failed to process item" not in str(record.msg)


_FILTER, _EVENTS_FILTER = _WithoutTraceback(), _WithoutLostEvents()


def without_tracebacks() -> None:
    """From here on Prefect logs expected failures in one line. May be called again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    logging.getLogger(EVENTS_LOGGER).addFilter(_EVENTS_FILTER)
