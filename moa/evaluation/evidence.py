"""What claims are judged by: the tables of a run by method, and the two ways to judge a number, by the paired interval
against another method or by the share of the prior's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moa.evaluation.generate import Method
from moa.evaluation.intervals import Interval
from moa.evaluation.tables import as_people, difference, interval, ratio, readable, with_followed

KEPT = 0.95  # least share of the prior's figure


@dataclass(frozen=True)
class Figure:
    """A number of the table with the images behind it and its interval over identities."""

    label: str
    n: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a claim came to."""

    value: Figure | None
    against: Figure | None
    holds: bool | None
    note: str


@dataclass(frozen=True)
class Evidence:
    """All that claims are judged by. `rows` by method name hold readable images only; a method is None where the run
    has none of its kind."""

    rows: dict[str, pd.DataFrame]
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
        pairs: pd.DataFrame | None,
        router: dict[str, Any] | None,
        upper_bound: pd.DataFrame | None,
    ) -> Evidence:
        """Sorts a run's tables by method and finds MoA's prior and ablations, which must be on MoA's own base."""
        rows, two = with_followed(rows), as_people(pairs) if pairs is not None else None
        same_base = {method.role: method for method in methods if method.compared_with == moa.compared_with}
        return cls(
            rows={method.name: readable(rows, method.name) for method in methods},
            pairs={method.name: readable(two, method.name) for method in methods} if two is not None else {},
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


def compared(run: Evidence, before: Method | None, after: Method | None, column: str, sign: int, who: str) -> Verdict:
    """Whether a column is higher (`sign` +1) or lower (-1) after than before, by the paired interval."""
    if before is None or after is None:
        missing = who if before is None else "this ablation"
        return unmeasured(f"{missing} is not in this run", run.figure(after, column), run.figure(before, column))
    value, against, change = run.figure(after, column), run.figure(before, column), run.change(before, after, column)
    if change is None:
        return unmeasured("no image of one has its counterpart of the other", value, against)
    note = f"paired difference {signed(change)}"
    if change.low is None or change.high is None:
        return Verdict(value, against, None, f"{note}; a single identity has no interval")
    if change.low <= 0 <= change.high:
        return Verdict(value, against, False, f"{note}: not told from noise")
    if change.mean * sign < 0:
        return Verdict(value, against, False, f"{note}: the other way round")
    return Verdict(value, against, True, note)


def kept(run: Evidence, column: str, rows: dict[str, pd.DataFrame]) -> Verdict:
    """Whether MoA reaches the prior's mean of a column, up to `KEPT`."""
    value = mean(run.moa.label, rows[run.moa.name], column)
    if value is None:
        return unmeasured("the suite does not measure it")
    if run.prior is None:
        return unmeasured("the prior is not in this run", value)
    share = ratio(rows[run.prior.name], rows[run.moa.name], column)
    against = mean(run.prior.label, rows[run.prior.name], column)
    if share is None:
        return unmeasured("the prior's mean is not above 0, so there is no share of it", value, against)
    return Verdict(value, against, share.mean >= KEPT, f"{percent(share)} of the prior's")


def mean(label: str, rows: pd.DataFrame | None, column: str) -> Figure | None:
    """The mean of a column with its interval; None without rows or without a measurement in them."""
    return None if rows is None else as_figure(label, int(rows[column].notna().sum()), interval(rows, column))


def as_figure(label: str, n: int, found: Interval | None) -> Figure | None:
    """The interval under a label, with the number of images behind it."""
    return None if found is None else Figure(label, n, found.mean, found.low, found.high)


def unmeasured(why: str, value: Figure | None = None, against: Figure | None = None) -> Verdict:
    """The verdict on a claim that this run says nothing about, with what there is of its numbers."""
    return Verdict(value, against, None, f"not measured: {why}")


def signed(found: Interval) -> str:
    """A difference for a note: `+0.123 (+0.100 to +0.146)`."""
    bounds = "" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{bounds}"


def percent(found: Interval) -> str:
    """A share for a note: `97% (95% to 99%)`."""
    bounds = "" if found.low is None else f" ({found.low:.0%} to {found.high:.0%})"
    return f"{found.mean:.0%}{bounds}"
