"""The claims of the paper, each with what was measured here, what it was held against, and the tests that judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from reports.charts import Interval
from reports.evaluation_format import Claim, ClaimTest, Measured, MethodSummary, Verdict
from reports.shots import tones
from reports.strips import bound_strip, interval_strip

# verdict -> (class of the style sheet, mark, words): never by colour alone
VERDICTS: dict[Verdict, tuple[str, str, str]] = {
    "yes": ("yes", "✓", "yes"),
    "no": ("no", "✕", "no"),
    "undecided": ("undecided", "?", "undecided"),
    "unmeasured": ("unmeasured", "–", "not measured"),
}
SHARE = "share"  # the unit that people read in percent
NEUTRAL = "soft"  # the tone of a figure that is no method's, such as a router's share


@dataclass(frozen=True)
class Judged:
    """One test of a claim: its verdict as mark and words, and a drawing of its interval and bound."""

    test: ClaimTest
    kind: str
    mark: str
    words: str
    strip: Markup
    percent: bool


@dataclass(frozen=True)
class ClaimRow:
    """One claim with its verdict; `strip` draws the figure and what it is held against on one scale ("" without)."""

    claim: Claim
    kind: str
    mark: str
    words: str
    strip: Markup
    percent: bool
    tests: list[Judged]


@dataclass(frozen=True)
class ClaimsTable:
    """`counts` are (words, kind, number of claims) for the verdicts that occur, `tones` those of methods by label."""

    rows: list[ClaimRow]
    counts: list[tuple[str, str, int]]
    tones: Mapping[str, str]

    def tone(self, figure: Measured) -> str:
        """The tone of a figure."""
        return _tone(figure, self.tones)

    @property
    def measured(self) -> list[ClaimRow]:
        """The claims that this suite says something about."""
        return [row for row in self.rows if row.kind != "unmeasured"]

    def of(self, kind: str) -> list[ClaimRow]:
        """The claims with that verdict."""
        return [row for row in self.rows if row.kind == kind]


def claims_table(claims: list[Claim], methods: list[MethodSummary]) -> ClaimsTable | None:
    """All claims in the order of the summary; None without any."""
    named = tones(methods)
    by_label = {method.label: named[method.method] for method in methods}
    rows = [_row(claim, by_label) for claim in claims]
    kinds = [row.kind for row in rows]
    counts = [(words, kind, kinds.count(kind)) for kind, _, words in VERDICTS.values() if kind in kinds]
    return ClaimsTable(rows, counts, by_label) if rows else None


def _row(claim: Claim, tones: Mapping[str, str]) -> ClaimRow:
    shares = any(figure.unit == SHARE for figure in (claim.value, claim.against) if figure)
    tests = [_test(test) for test in claim.tests]
    return ClaimRow(claim, *VERDICTS[claim.verdict], _strip(claim, tones), shares, tests)


def _tone(figure: Measured, tones: Mapping[str, str]) -> str:
    """The tone of the method that a figure is labelled with: "Prior only", or "Prior only, another seed"."""
    found = (tone for label, tone in tones.items() if figure.label == label or figure.label.startswith(f"{label}, "))
    return next(found, NEUTRAL)


def _strip(claim: Claim, tones: Mapping[str, str]) -> Markup:
    intervals = [
        Interval(side.label, _tone(side, tones), side.mean, side.low, side.high)
        for side in (claim.value, claim.against)
        if side
    ]
    if not intervals:
        return Markup("")
    ends = [end for interval in intervals for end in (*interval.ends, interval.mean)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    return interval_strip(f"Claim {claim.id}", intervals, low=low, high=low + (high - low) * 1.05 or 1.0)


def _test(test: ClaimTest) -> Judged:
    found = Interval(test.quantity, NEUTRAL, test.mean, test.low, test.high)
    kind, mark, _ = VERDICTS[test.verdict]
    percent = test.unit == SHARE
    return Judged(test, kind, mark, _words(test, percent), bound_strip(found, test.bound, test.side), percent)


def _words(test: ClaimTest, percent: bool) -> str:
    """Where the interval lies: "above 0", "not above 95 %", "spans 0"."""
    if test.low is None or test.high is None:
        return "no interval to judge by"
    bound = f"{test.bound * 100:g} %" if percent and test.bound else f"{test.bound:g}"
    side = f"{test.side} {bound}"
    return {"yes": side, "no": f"not {side}"}.get(test.verdict, f"spans {bound}")
