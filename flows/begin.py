"""How every stage begins: the configuration of the run, checked before anything is written, then written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from prefect import get_run_logger
from prefect.runtime import flow_run

from flows.failures import without_tracebacks
from flows.overrides import dated
from flows.preflight import check
from flows.publication import require_published
from flows.remembered import kept_settings, recall
from flows.server_state import label_with_process
from flows.settings import LifecycleConfig, write_lifecycle
from flows.trained import refuse_other_training, require_trained

AFTER_PUBLISHING = ("evaluate", "gate", "ablate")
_whole: ContextVar[LifecycleConfig | None] = ContextVar("lifecycle", default=None)


@contextmanager
def one_configuration(config: LifecycleConfig) -> Iterator[None]:
    """Inside, stages begin with `config`, whatever another command makes the run remember meanwhile."""
    token = _whole.set(config)
    try:
        yield
    finally:
        _whole.reset(token)


def begin(stage: str, preset: str, overrides: list[str] | None, name: str | None) -> LifecycleConfig:
    """The configuration of a run at the beginning of `stage`, now in `runs/<name>/lifecycle.json`.

    `{date}` and `{time}` in the name are those for which the flow run was scheduled (UTC); a retry keeps them.

    Raises:
        OverrideError, UnknownPresetError: the parameters do not resolve.
        ConfigChangedError (moa's), SettingsChangedError: the run was trained with other settings.
        MissingInputError: an earlier stage has to run first.
        PreflightError: something that the stage needs is missing.
    """
    without_tracebacks()
    if flow_run.parent_flow_run_id is None:
        label_with_process(UUID(flow_run.id))
    given = overrides or []
    config = _whole.get() or recall(preset, given, dated(name, flow_run.scheduled_start_time))
    if kept := kept_settings(config.run / "lifecycle.json", given):
        get_run_logger().info("Settings that this run remembers: %s", " ".join(kept))
    refuse_other_training(config)
    require_earlier(config, stage)
    check(config, stage)
    get_run_logger().info("Configuration: %s", write_lifecycle(config))
    return config


def require_earlier(config: LifecycleConfig, stage: str) -> None:
    """Raises MissingInputError, or SettingsChangedError, unless the stages before this one are done as they are set."""
    if stage == "publish":
        require_trained(config)
    elif stage in AFTER_PUBLISHING:
        require_published(config)
