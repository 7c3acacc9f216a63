"""The first screen in numbers: four figures with their intervals, of how many people and prompts they are, and the
finding in two sentences made from the paired comparisons, so that they say no more than the tables below them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from reports.charts import Interval
from reports.evaluation_format import MethodSummary, Statistic
from reports.page import score
from reports.run_folder import Evaluation
from reports.shots import tones
from reports.strips import interval_strip
from reports.tables import UNDECIDED, verdict


@dataclass(frozen=True)
class Figure:
    """One headline figure: `value` of the shown method, None where nobody measured it, `rivals` on the same base as
    (label, tone, mean), a strip of all with intervals on the scale `low` to `high`."""

    title: str
    question: str
    value: Statistic | None
    percent: bool
    rivals: list[tuple[str, str, Statistic]]
    strip: Markup
    low: float
    high: float
    better: str


def figures(evaluation: Evaluation) -> list[Figure]:
    """IP, PC, detection rate, and change outside the person."""
    shown = evaluation.shown
    wanted = [
        ("Identity (IP)", "Is it the person?", "ip", False, "higher is better"),
        ("Prompt (PC)", "Is it what was asked for?", "pc", False, "higher is better"),
        ("Faces found", "Is there a face to recognise?", "detection_rate", True, "higher is better"),
        ("Scene change", "Did the scene stay the prior’s?", "context_change_outside", False, "lower is better"),
    ]
    return [_figure(evaluation, shown, *row) for row in wanted]


def _figure(
    evaluation: Evaluation, shown: MethodSummary, title: str, question: str, name: str, percent: bool, better: str
) -> Figure:
    value = getattr(shown, name)
    named = tones(evaluation.methods)
    base = evaluation.prior
    same_base = [m for m in evaluation.methods if m is base or (base and m.compared_with == base.method) or m is shown]
    all_rows = [(method, getattr(method, name)) for method in same_base]
    rows = [
        (method, statistic) for method, statistic in all_rows if statistic is not None and statistic.mean is not None
    ]
    intervals = [Interval(m.label, named[m.method], s.mean, s.low, s.high) for m, s in rows]
    ends = [0.0, *(value for i in intervals for value in (i.mean, i.low, i.high) if value is not None)]
    low, high = (0.0, 1.0) if name in ("ip", "detection_rate") else (min(ends), max(ends) * 1.1 or 1.0)
    strip = interval_strip(f"{title} of each method with 95 % interval", intervals, low=low, high=high)
    rivals = [(m.label, named[m.method], s) for m, s in rows if m is not shown]
    measured = value if value is not None and value.mean is not None else None
    return Figure(title, question, measured, percent, rivals, strip, low, high, better)


def scope(evaluation: Evaluation) -> str:
    """What the figures are of: "6 people x 8 prompts x 2 seeds"; what the files do not say is left out."""
    shown, suite = evaluation.shown, evaluation.suite
    counts = [
        (len(shown.by_subject), "person", "people"),
        (len(shown.by_prompt), "prompt", "prompts"),
        (len(suite.seeds) if suite else 0, "seed", "seeds"),
    ]
    return " x ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)


def finding(evaluation: Evaluation) -> str:
    """What the numbers say of MoA beside its prior, and then beside its first ablation, in words that follow from them:
    higher or lower only where the paired interval excludes 0."""
    moa, prior, ablation = evaluation.first("moa"), evaluation.prior, next(iter(evaluation.ablations), None)
    if moa is None:
        return "This evaluation holds no MoA method; the figures are those of its last method."
    identity = _against(evaluation, "ip", "identity (IP)", moa, prior, "the prior’s")
    prompt = _against(evaluation, "pc", "prompt consistency (PC)", moa, prior, "the prior’s")
    scene = _against(evaluation, "context_change_outside", "scene change", moa, ablation, "its")
    paid = _against(evaluation, "ip", "identity", moa, ablation, "its", known=True)
    first, second = ("; ".join(filter(None, parts)) for parts in ((identity, prompt), (scene, paid)))
    if second and ablation:
        second = f"beside “{ablation.label}”, {second}"
    said = " ".join(f"{part[0].upper()}{part[1:]}." for part in (first, second) if part)
    return said or "No image could be scored."


def _against(
    evaluation: Evaluation,
    name: str,
    title: str,
    moa: MethodSummary,
    rival: MethodSummary | None,
    whose: str,
    known: bool = False,
) -> str:
    """One score of MoA beside that of a rival, with the paired difference where it tells the two apart; `known`: its
    own figure has been said."""
    ours, theirs = getattr(moa, name), getattr(rival, name, None)
    if ours is None or ours.mean is None:
        return ""
    own = f"{title} is" if known else f"{title} is {score(ours.mean)}"
    if rival is None or theirs is None or theirs.mean is None:
        return "" if known else own
    paired = next((c for c in evaluation.summary.comparisons if c.before == rival.method), None)
    return f"{own}{'' if known else ','} {_said(getattr(paired, name, None))} {whose} {score(theirs.mean)}"


def _said(difference: Statistic | None) -> str:
    """What a paired difference says, before the figure it is to."""
    if difference is None or difference.mean is None:
        return "not compared in pairs with"
    found = verdict(difference)
    return "not told apart from" if found in UNDECIDED else f"{found} by {abs(difference.mean):.3f} than"
