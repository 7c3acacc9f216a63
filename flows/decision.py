"""Whether a candidate may become `main`: a pure function of the summary of its evaluation.

Against a champion the question is non-inferiority: both are scored on the same people, prompts and seeds, and the low
end of the 95 % interval of MoA - champion (over people) has to lie above -tolerance, for IP and for PC. A
small suite with wide intervals promotes nothing it cannot vouch for; a tie promotes, unless the tolerance is 0. Without
a champion the candidate has to show that it personalizes: the low end of MoA - prior in IP has to lie above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.errors import MissingInputError

UNREADABLE = ("missing", "unreadable", "no_reference")  # outcomes of images that have no score


@dataclass(frozen=True)
class Decision:
    """`reasons` says in sentences why not, or is empty; `ip` and `pc` are the differences with their intervals."""

    rule: str
    against: dict[str, Any]
    n: int
    ip: dict[str, float | None] | None
    pc: dict[str, float | None] | None
    reasons: tuple[str, ...]

    @property
    def promote(self) -> bool:
        return not self.reasons


def decide(summary: dict[str, Any], *, champion: bool, tolerance_ip: float, tolerance_pc: float) -> Decision:
    """The decision on the MoA of an evaluation (datasets/FORMAT.md, section 6); `champion`: whether there is one.

    Raises MissingInputError when the summary lacks the comparison that is needed.
    """
    methods = {method["kind"]: method for method in reversed(summary["methods"])}  # the first of each kind
    against = methods.get("champion" if champion else "prior", {"method": "champion"})
    line = next((line for line in summary["comparisons"] if line["before"] == against["method"]), None)
    if line is None:
        raise MissingInputError(
            f"The evaluation does not compare MoA with the {against['method']}: run `python -m flows.evaluate` again, "
            "with the same preset and name."
        )
    bounds = {"ip": -tolerance_ip, "pc": -tolerance_pc} if champion else {"ip": 0.0}
    reasons = [_why_not(name, line[name], bound) for name, bound in bounds.items()]
    reasons += [_unscored(method) for method in (methods["moa"], against)]
    return Decision(
        rule=_rule(against["label"], bounds),
        against={key: against[key] for key in ("method", "label", "kind")},
        n=line["n"],
        ip=line["ip"],
        pc=line["pc"],
        reasons=tuple(filter(None, reasons)),
    )


def _rule(label: str, bounds: dict[str, float]) -> str:
    parts = [f"above {bound:g} in {name.upper()}" for name, bound in bounds.items()]
    return f"The low end of the 95 % interval of MoA - {label} has to lie {' and '.join(parts)}."


def _why_not(name: str, difference: dict[str, float | None] | None, bound: float) -> str:
    low = (difference or {}).get("low")
    if low is None:
        return f"{name.upper()} has no interval: the suite needs two people or more whose images are scored."
    if low > bound:
        return ""
    mean = (difference or {}).get("mean")
    return (
        f"{name.upper()}: the difference is {mean:+.4f}, the low end of its interval {low:+.4f} is not above {bound:g}."
    )


def _unscored(method: dict[str, Any]) -> str:
    count = sum(method["outcomes"].get(outcome, 0) for outcome in UNREADABLE)
    return f"{count} images of {method['label']} could not be scored; evaluate again." if count else ""
