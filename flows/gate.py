"""Candidate -> `main`, or not: `python -m flows.gate --preset miniature`.

Compares the evaluated candidate with the champion by the rule of flows/decision.py. Promoted: the repository's `main`
gets its files and a tag, with the scores on the model card, and `runs/<name>/promotion.json` says so. Rejected: the
candidate stays on its branch. Either way `runs/<name>/gate.json` holds the decision with its numbers, and the flow
succeeds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.artifacts import interval
from flows.begin import begin
from flows.champion import compared_champion
from flows.command import run
from flows.decision import decide
from flows.evaluated import read_summary
from flows.files import read_json, write_json
from flows.hub import main_commit
from flows.presets import PresetName
from flows.promotion import is_settled, overtaken, promote_candidate
from flows.retries import RETRIES
from flows.settings import LifecycleConfig
from flows.stage import announced, require


@task(cache_policy=NO_CACHE, **RETRIES)
def pass_gate(config: LifecycleConfig) -> Path:
    """Decides, promotes if so decided, and returns the path of gate.json. What was promoted once stays decided."""
    record = config.run / "gate.json"
    candidate = read_json(require(config.run / "publication.json", "publish"))
    summary = read_summary(config, candidate["adapter_digest"])
    with announced("gate", record):
        if is_settled(config, candidate["adapter_digest"]):
            return record
        limits = config.promote.model_dump(exclude={"tag"})
        champion = compared_champion(config)
        given_up = champion.given_up.model_dump()
        decision = decide(summary, champion=champion.source != "none", given_up=given_up, **limits)
        main = main_commit(config)
        reasons = [*decision.reasons, *(overtaken(config, main) if decision.promote else [])]
        decided = {
            **vars(decision),
            "decision": "rejected" if reasons else "promoted",
            "reasons": reasons,
            "candidate": {key: candidate[key] for key in ("repo_id", "branch", "commit", "adapter_digest")},
            "suite": f"{summary['suite']}, version {summary['version']}",
        }
        if not reasons:
            promote_candidate(config, summary, decided, main)
        return write_json(record, decided)


@task(cache_policy=NO_CACHE)
def show_decision(record: Path) -> None:
    """The decision, its rule and its numbers on the run page and in the log."""
    found: dict[str, Any] = read_json(record)
    title = f"Candidate {found['decision']}: {found['candidate']['branch']}@{found['candidate']['commit'][:8]}"
    reasons = found["reasons"]
    get_run_logger().info("%s %s", title, " ".join(reasons))
    lines = [f"## {title}", "", found["rule"], "", *(f"* {reason}" for reason in reasons), ""]
    lines += [f"| MoA - {found['against']['label']} | {found['n']} images of {found['suite']} |", "| --- | --- |"]
    lines += [f"| {name.upper()} | {interval(found[name])} |" for name in ("ip", "pc")]
    create_markdown_artifact(key="gate", markdown="\n".join(lines))


@flow(name="gate")
def gate(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Promotes the evaluated candidate to `main` unless it may be worse than the champion by more than the tolerance.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin("gate", preset, overrides, name)
    record = pass_gate(config)
    show_decision(record)
    return record


if __name__ == "__main__":
    sys.exit(run(gate))
