"""What claims are judged by: the tables of a run by method, figures with intervals, and one rule for all tests.

A test holds a difference or a ratio, with its 95 % interval over identities, against a bound: yes when the whole
interval lies on the claimed side, no when all of it lies on the other, else undecided. A judgement is yes when all its
tests are, no when one is, else undecided, and unmeasured without any test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from moa.evaluation.generate import Method
from moa.evaluation.intervals import Interval
from moa.evaluation.tables import as_swaps, difference, interval, ratio, readable, with_followed, with_margin

KEPT = 0.95  # least share of the prior's figure
Unit = Literal["share", "ratio", "similarity", "cosine", "distance", "weight"]  # explained in datasets/FORMAT.md
UNITS: dict[str, Unit] = {  # of the columns that claims are about
    "ip": "similarity",
    "pc": "cosine",
    "pc_margin": "cosine",
    "followed": "share",
    "item_shown": "share",
    "scene_shown": "share",
    "assigned": "share",
    "context_change_outside": "distance",
    "seed_change_outside": "distance",
    "diversity_layout": "distance",
}
Verdict = Literal["yes", "no", "undecided", "unmeasured"]
Side = Literal["above", "below"]


@dataclass(frozen=True)
class Figure:
    """A number of the table with the distinct images behind it and its interval."""

    label: str
    unit: Unit
    n: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClaimTest:
    """A quantity with its interval, the bound it is held against and the claimed side of it."""

    quantity: str
    unit: Unit
    found: Interval
    bound: float
    side: Side

    @property
    def verdict(self) -> Verdict:
        low, high = self.found.low, self.found.high
        if low is None or high is None:
            return "undecided"
        above, below = low > self.bound, high < self.bound
        if not (above or below):
            return "undecided"
        return "yes" if above == (self.side == "above") else "no"

    def to_json(self) -> dict[str, Any]:
        """As in datasets/FORMAT.md, section 6."""
        found = {"n": self.found.n, "mean": self.found.mean, "low": self.found.low, "high": self.found.high}
        named = {"quantity": self.quantity, "unit": self.unit, "bound": self.bound, "side": self.side}
        return named | found | {"verdict": self.verdict}


@dataclass(frozen=True)
class Judgement:
    """What a claim came to; `measure` and `criterion` replace the claim's own where they depend on the suite."""

    value: Figure | None
    against: Figure | None
    tests: tuple[ClaimTest, ...]
    note: str = ""
    measure: str | None = None
    criterion: str | None = None

    @property
    def verdict(self) -> Verdict:
        found = {test.verdict for test in self.tests}
        if not found:
            return "unmeasured"
        return "no" if "no" in found else "yes" if found == {"yes"} else "undecided"


@dataclass(frozen=True)
class Evidence:
    """All that claims are judged by. `rows`, `swaps` and `pairs` by method name hold readable images only; a method is
    None where the run has none of its kind."""

    rows: dict[str, pd.DataFrame]
    swaps: dict[str, pd.DataFrame]
    pairs: dict[str, pd.DataFrame]
    router: dict[str, Any] | None
    upper_bound: pd.DataFrame | None
    moa: Method
    prior: Method | None
    no_moa: Method | None
    no_spacetime: Method | None

    @classmethod
    def collect(
        cls,
        rows: pd.DataFrame,
        methods: Sequence[Method],
        moa: Method,
        *,
        swaps: pd.DataFrame | None,
        pairs: pd.DataFrame | None,
        router: dict[str, Any] | None,
        upper_bound: pd.DataFrame | None,
    ) -> Evidence:
        """Sorts a run's tables by method and finds MoA's prior and ablations, which must be on MoA's own base."""
        rows = with_margin(with_followed(rows))
        same_base = {method.role: method for method in methods if method.compared_with == moa.compared_with}
        return cls(
            rows={method.name: readable(rows, method) for method in methods},
            swaps={method.name: as_swaps(swaps, method) for method in methods} if swaps is not None else {},
            pairs={method.name: readable(pairs, method) for method in methods} if pairs is not None else {},
            router=router,
            upper_bound=upper_bound,
            moa=moa,
            prior=next((method for method in methods if method.name == moa.compared_with), None),
            no_moa=same_base.get("no_moa"),
            no_spacetime=same_base.get("no_spacetime"),
        )

    def figure(self, method: Method | None, column: str) -> Figure | None:
        """Mean of a column over a method's images of one person."""
        return mean(method.label, self.rows[method.name], column) if method else None

    def change(self, before: Method | None, after: Method | None, column: str) -> Interval | None:
        """Paired difference `after - before`."""
        return difference(self.rows[before.name], self.rows[after.name], column) if before and after else None

    def share(self, column: str, of: str | None = None) -> Interval | None:
        """MoA's mean of a column over the prior's (of its column `of`), of the images both have."""
        return ratio(self.rows[self.prior.name], self.rows[self.moa.name], column, of) if self.prior else None


def compared(
    run: Evidence, before: Method | None, after: Method | None, side: Side, columns: Sequence[tuple[str, str]], who: str
) -> Judgement:
    """Whether columns (name, what it is called) are higher or lower after than before; the first is the claim's figure.
    One that was not measured is not asked. `who` names the method that is missing."""
    first = columns[0][0]
    value, against = run.figure(after, first), run.figure(before, first)
    if before is None or after is None:
        return unmeasured(f"{who} is not in this run", value, against)
    tests = tuple(
        ClaimTest(f"{called}, {after.label} minus {before.label}", UNITS[column], found, 0.0, side)
        for column, called in columns
        if (found := run.change(before, after, column))
    )
    if not tests:
        return unmeasured("no image of one has its counterpart of the other", value, against)
    return Judgement(value, against, tests)


def kept(run: Evidence, column: str, called: str, why_not: str = "the suite does not measure it") -> Judgement:
    """Whether MoA reaches the prior's mean of a column, up to `KEPT`; `why_not` is said where nothing was measured."""
    value, against = run.figure(run.moa, column), run.figure(run.prior, column)
    if value is None:
        return unmeasured(why_not)
    if run.prior is None:
        return unmeasured("the prior is not in this run", value)
    share = run.share(column)
    if share is None:
        return unmeasured("the prior's mean is not above 0, so there is no share of it", value, against)
    return Judgement(
        value, against, (ClaimTest(f"{called}, MoA's share of the prior's", "share", share, KEPT, "above"),)
    )


def mean(label: str, rows: pd.DataFrame | None, column: str) -> Figure | None:
    """The mean of a column with its interval; None without rows or without a measurement in them."""
    return None if rows is None else as_figure(label, UNITS[column], interval(rows, column))


def as_figure(label: str, unit: Unit, found: Interval | None) -> Figure | None:
    """The interval under a label."""
    return None if found is None else Figure(label, unit, found.n, found.mean, found.low, found.high)


def unmeasured(why: str, value: Figure | None = None, against: Figure | None = None) -> Judgement:
    """The judgement on a claim that this run says nothing about, with what there is of its numbers."""
    return Judgement(value, against, (), f"not measured: {why}")


def percent(share: float) -> str:
    """A share as people read it: `95 %`."""
    return f"{100 * share:.0f} %"
