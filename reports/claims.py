"""The claims of the paper, each with what was measured here and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from reports.charts import Interval, interval_strip
from reports.evaluation_format import Claim, Measured

# holds -> (class of the style sheet, mark, words): never by colour alone
VERDICTS = {
    True: ("holds", "✓", "holds"),
    False: ("fails", "✕", "does not hold"),
    None: ("open", "–", "not measured here"),
}


@dataclass(frozen=True)
class ClaimRow:
    """One claim with its verdict; `strip` draws the figure and what it is held against on one scale ("" without)."""

    claim: Claim
    kind: str
    mark: str
    words: str
    strip: Markup


@dataclass(frozen=True)
class ClaimsTable:
    """`counts` are (words, kind, number of claims) for the verdicts that occur."""

    rows: list[ClaimRow]
    counts: list[tuple[str, str, int]]


def claims_table(claims: list[Claim]) -> ClaimsTable | None:
    """All claims in the order of the summary; None without any."""
    rows = [ClaimRow(claim, *VERDICTS[claim.holds], _strip(claim)) for claim in claims]
    kinds = [row.kind for row in rows]
    counts = [(words, kind, kinds.count(kind)) for kind, _, words in VERDICTS.values() if kind in kinds]
    return ClaimsTable(rows, counts) if rows else None


def _strip(claim: Claim) -> Markup:
    sides = [(side, tone) for side, tone in ((claim.value, "moa"), (claim.against, "prior")) if side]
    intervals = [interval for interval in (_interval(side, tone) for side, tone in sides) if interval]
    if not intervals:
        return Markup("")
    ends = [end for interval in intervals for end in (*interval.ends, interval.mean)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    return interval_strip(f"Claim {claim.id}", intervals, low=low, high=low + (high - low) * 1.05 or 1.0)


def _interval(side: Measured, tone: str) -> Interval | None:
    return None if side.mean is None else Interval(side.label, tone, side.mean, side.low, side.high)
