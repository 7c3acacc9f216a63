"""Which runs of a schedule keep their checkpoints: a gigabyte each with Stable Diffusion, and two in every run.

Where `runs_with_checkpoints` is set, the end of a lifecycle looks at the runs of the same preset and repository that
have it set too, and at no others (`--set runs_with_checkpoints=null` exempts one). Of those that are decided (the
gate has judged the adapter that is exported) the newest and the one that was promoted last keep their checkpoints, so
that they can be trained further; the others lose them, and the variants of their ablation too.

Nothing else is deleted, and nothing refers to a checkpoint but the training that wrote it: what runs start from and are
compared with are adapters, on the Hub or in `export/`. A run that is not decided, in use, unfinished or asked for more
steps keeps all (`moa.run_folder.drop_checkpoints`, which holds the run meanwhile).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.errors import BrokenFileError
from flows.files import read_json
from flows.settings import LifecycleConfig, runs_root


@task(cache_policy=NO_CACHE)
def thin_checkpoints(config: LifecycleConfig) -> None:
    """Deletes the checkpoints of the runs that need not keep them, and says whose."""
    from moa.run_folder import drop_checkpoints  # torch

    logger = get_run_logger()
    for run in runs_to_thin(config):
        if dropped := sum(drop_checkpoints(folder, logger.warning) for folder in (run, *run.glob("ablations/*"))):
            logger.info(
                "%s: %d checkpoints deleted, so it cannot be trained further; its adapter and its results stay "
                "(runs_with_checkpoints=%d)",
                run,
                dropped,
                config.runs_with_checkpoints,
            )


def runs_to_thin(config: LifecycleConfig) -> list[Path]:
    """The decided runs of the schedule but the newest, by when their adapters were exported, and the promoted one."""
    if config.runs_with_checkpoints is None:
        return []
    decided = [run for run in runs_root().iterdir() if _is_of(run, config) and _decision(run)]
    newest = sorted(decided, key=lambda run: (_time_of(run / "export/manifest.json"), run.name), reverse=True)
    promoted = [run for run in newest if _decision(run) == "promoted"]
    last = max(promoted, key=lambda run: _time_of(run / "promotion.json"), default=None)
    return [run for run in newest[config.runs_with_checkpoints :] if run != last]


def _time_of(record: Path) -> int:
    return record.stat().st_mtime_ns if record.is_file() else 0


def _is_of(run: Path, config: LifecycleConfig) -> bool:
    """Whether a run belongs to the same schedule and may lose its checkpoints."""
    found = _read(run / "lifecycle.json")
    publish = found.get("publish", {})
    return found.get("runs_with_checkpoints") is not None and (
        (found.get("preset"), publish.get("repo_id"), publish.get("endpoint"))
        == (config.preset, config.publish.repo_id, config.publish.endpoint)
    )


def _decision(run: Path) -> str | None:
    """What the gate said of the adapter that the run has exported; None where it has not judged that one."""
    gate, exported = _read(run / "gate.json"), _read(run / "export/manifest.json").get("digest")
    judged = gate.get("candidate", {}).get("adapter_digest")
    return gate.get("decision") if exported is not None and judged == exported else None


def _read(path: Path) -> dict[str, Any]:
    """A record of a run; empty where there is none that can be read."""
    try:
        found = read_json(path)
    except (OSError, BrokenFileError):
        return {}
    return found if isinstance(found, dict) else {}
