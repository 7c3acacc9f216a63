"""Whether a candidate may become `main`: a pure function of the summary of its evaluation.

A candidate has to personalize: the low end of the 95 % interval of MoA - prior in IP (over people, on the same prompts
and seeds) has to lie above 0. Against a champion the question is non-inferiority: the low end of MoA - champion has to
lie above -tolerance, for IP and for PC. A small suite with wide intervals promotes nothing it cannot vouch for; a tie
promotes, unless the tolerance is 0.

Each promoted model is the next one's champion, so a tolerance for each step would let a chain of them sink without
end. What the promotions before have given up is therefore taken from it: the sum of their mean differences, since
nobody was better. A gain pays back. On one suite that sum is what the champion lacks of the best mean so far, so noise
from training to training does not add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.errors import MissingInputError

SCORES = ("ip", "pc")
UNSCORED = ("missing", "unreadable")  # outcomes of images that have no score, though their person has a photograph
NOTHING = {score: 0.0 for score in SCORES}


@dataclass(frozen=True)
class Decision:
    """`reasons` says in sentences why not, or is empty; `ip` and `pc` are the differences to `against` with their
    intervals; `given_up` is what the promoted models will have given up with this one, 0 or more."""

    rule: str
    against: dict[str, Any]
    n: int
    ip: dict[str, float | None] | None
    pc: dict[str, float | None] | None
    given_up: dict[str, float]
    reasons: tuple[str, ...]

    @property
    def promote(self) -> bool:
        return not self.reasons


def decide(
    summary: dict[str, Any],
    *,
    champion: bool,
    tolerance_ip: float,
    tolerance_pc: float,
    above_prior_ip: float,
    given_up: dict[str, float],
) -> Decision:
    """The decision on the MoA of an evaluation (datasets/FORMAT.md, section 6).

    Args:
        champion: whether there is one.
        tolerance_ip, tolerance_pc: how much may be given up, by one promotion and by all together.
        above_prior_ip: what MoA - prior has to exceed.
        given_up: what the champion and those before it gave up, `ip` and `pc`.

    Raises MissingInputError when the summary lacks a comparison that is needed.
    """
    methods = {method["kind"]: method for method in reversed(summary["methods"])}  # the first of each kind
    prior = methods.get("prior", {"method": "prior", "label": "prior"})
    against = methods.get("champion", {"method": "champion"}) if champion else prior
    line = _comparison(summary, against["method"])
    bounds = {"ip": given_up["ip"] - tolerance_ip, "pc": given_up["pc"] - tolerance_pc} if champion else {}
    reasons = [_why_not(f"{score.upper()}, MoA - {against['label']}", line[score], bounds[score]) for score in bounds]
    above_prior = _comparison(summary, prior["method"])["ip"]
    reasons += [_why_not(f"IP, MoA - {prior['label']}", above_prior, above_prior_ip)]
    reasons += [_unscored(method) for method in (methods["moa"], against)]
    return Decision(
        rule=_rule(against["label"], prior["label"], above_prior_ip, bounds, given_up),
        against={key: against[key] for key in ("method", "label", "kind")},
        n=line["n"],
        ip=line["ip"],
        pc=line["pc"],
        given_up={score: _with(given_up[score], line[score]) for score in SCORES} if champion else NOTHING,
        reasons=tuple(filter(None, reasons)),
    )


def _comparison(summary: dict[str, Any], before: str) -> dict[str, Any]:
    found = next((line for line in summary["comparisons"] if line["before"] == before), None)
    if found is None:
        raise MissingInputError(
            f"The evaluation does not compare MoA with the {before}: run `python -m flows.evaluate` again, "
            "with the same preset and name."
        )
    return found


def _rule(label: str, prior: str, above: float, bounds: dict[str, float], given_up: dict[str, float]) -> str:
    parts = [f"above {_plain(bound)} in {score.upper()}" for score, bound in bounds.items()]
    asked = f"The low end of the 95 % interval of MoA - {prior} has to lie above {_plain(above)} in IP"
    if parts:
        asked += f", and that of MoA - {label} {' and '.join(parts)}"
    spent = [f"{_plain(amount)} in {score.upper()}" for score, amount in given_up.items() if round(amount, 4)]
    return f"{asked} (the promotions before gave up {' and '.join(spent)})." if spent else f"{asked}."


def _why_not(what: str, difference: dict[str, float | None] | None, bound: float) -> str:
    low = (difference or {}).get("low")
    if low is None:
        return f"{what} has no interval: the suite needs two people or more whose images are scored."
    if low > bound:
        return ""
    mean = (difference or {}).get("mean")
    return f"{what}: {mean:+.4f}, and the low end of its interval, {low:+.4f}, is not above {_plain(bound)}."


def _plain(value: float) -> str:
    """To four decimals, as scores are told: -0.008."""
    return f"{round(value, 4):g}"


def _with(given_up: float, difference: dict[str, float | None] | None) -> float:
    """What is given up with one more promotion, whose mean difference this is."""
    return round(max(0.0, given_up - ((difference or {}).get("mean") or 0.0)), 6)


def _unscored(method: dict[str, Any]) -> str:
    count = sum(method["outcomes"].get(outcome, 0) for outcome in UNSCORED)
    return f"{count} images of {method['label']} could not be scored; evaluate again." if count else ""
