"""The gate's decision on a candidate in words: gate.json, for the first screen of a report and the index of runs."""

from __future__ import annotations

from dataclasses import dataclass

from reports.formats import Estimate, Gate
from reports.run_folder import Run
from reports.tables import judged

WORDS = {"promoted": ("yes", "✓", "promoted"), "rejected": ("no", "✕", "not promoted")}
STALE = "The decision is about adapter {}, which is not the one in export/ now."


@dataclass(frozen=True)
class Decision:
    """`kind`, `mark` and `words` are those of a verdict; `differences` are (score, MoA minus the rival, whether that
    is better), for a promotion asks only that it is not worse by more than a tolerance; `place` is where a promoted
    candidate went; `stale` says that another adapter was judged, or ""."""

    gate: Gate
    kind: str
    mark: str
    words: str
    differences: list[tuple[str, Estimate, str]]
    place: str
    stale: str


def decision(run: Run) -> Decision | None:
    """The decision on the run's candidate; None before there is one."""
    gate = run.gate
    if gate is None:
        return None
    digest, promoted = gate.candidate.adapter_digest, gate.decision == "promoted"
    return Decision(
        gate,
        *WORDS[gate.decision],
        [
            (name, value, judged(value, "↑"))
            for name, value in (("IP", gate.ip), ("PC", gate.pc))
            if value and value.mean is not None
        ],
        place=(run.promotion.tag or run.promotion.repo_id) if promoted and run.promotion else "",
        stale=STALE.format(digest) if run.adapter and digest and digest != run.adapter.digest else "",
    )
