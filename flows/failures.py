"""Failures that speak for themselves: the message is enough for a person, so tracebacks stay out of the logs."""

from __future__ import annotations

import logging

from flows.errors import FlowError
from moa.errors import MoAError
from preprocessing.errors import PreprocessingError
from reports.errors import ReportError

TOLD = (FlowError, MoAError, PreprocessingError, ReportError)
LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class _WithoutTraceback(logging.Filter):
    """Prefect logs each failure with its traceback; that of an expected one is of no use."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], TOLD):
            record.exc_info = record.exc_text = None
        return True


_FILTER = _WithoutTraceback()


def without_tracebacks() -> None:
    """From here on Prefect logs expected failures in one line. May be called again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
