"""The first screen in numbers: four figures with their intervals, and the finding in one or two sentences made from
them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from reports.charts import Interval, interval_strip
from reports.evaluation_format import MethodSummary, Statistic
from reports.run_folder import Evaluation
from reports.shots import tones


@dataclass(frozen=True)
class Figure:
    """One headline figure: `value` of the shown method, `rivals` on the same base as (label, tone, mean), a strip of
    all with intervals."""

    title: str
    question: str
    value: Statistic
    percent: bool
    rivals: list[tuple[str, str, Statistic]]
    strip: Markup
    better: str


def figures(evaluation: Evaluation) -> list[Figure]:
    """IP, PC, detection rate, and change outside the person; a figure nobody measured is left out."""
    shown = evaluation.shown
    wanted = [
        ("Identity (IP)", "Is it the person?", "ip", False, "higher is better"),
        ("Prompt (PC)", "Is it what was asked for?", "pc", False, "higher is better"),
        ("Faces found", "Is there a face to recognise?", "detection_rate", True, "higher is better"),
        ("Scene change", "Did the scene stay the prior's?", "context_change_outside", False, "lower is better"),
    ]
    made = [_figure(evaluation, shown, *row) for row in wanted]
    return [figure for figure in made if figure]


def _figure(
    evaluation: Evaluation, shown: MethodSummary, title: str, question: str, name: str, percent: bool, better: str
) -> Figure | None:
    value = getattr(shown, name)
    if value is None or value.mean is None:
        return None
    named = tones(evaluation.methods)
    base = evaluation.prior
    same_base = [m for m in evaluation.methods if m is base or (base and m.compared_with == base.method) or m is shown]
    all_rows = [(method, getattr(method, name)) for method in same_base]
    rows = [
        (method, statistic) for method, statistic in all_rows if statistic is not None and statistic.mean is not None
    ]
    intervals = [Interval(m.label, named[m.method], s.mean, s.low, s.high) for m, s in rows]
    ends = [value for i in intervals for value in (i.mean, i.low, i.high) if value is not None]
    low, high = (0.0, 1.0) if name in ("ip", "detection_rate") else (min(0.0, *ends), max(ends) * 1.1 or 1.0)
    strip = interval_strip(f"{title} of each method with 95 % interval", intervals, low=low, high=high)
    rivals = [(m.label, named[m.method], s) for m, s in rows if m is not shown]
    return Figure(title, question, value, percent, rivals, strip, better)


def apart(a: Statistic, b: Statistic) -> bool | None:
    """Whether two intervals do not touch; None where one has no interval."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.low > b.high or b.low > a.high


def finding(evaluation: Evaluation) -> str:
    """What the numbers say, in words that follow from them: larger only where the intervals are apart."""
    moa, prior = evaluation.first("moa"), evaluation.prior
    ablation = next(iter(evaluation.ablations), None)
    if moa is None:
        return "This evaluation holds no MoA method; the figures are those of its last method."
    parts = [_identity(moa, prior), _prompt(moa, prior), _context(moa, ablation)]
    return " ".join(part for part in parts if part)


def _identity(moa: MethodSummary, prior: MethodSummary | None) -> str:
    if moa.ip.mean is None:
        return "No image could be scored for identity."
    if prior is None or prior.ip.mean is None:
        return f"Identity preservation is {moa.ip.mean:.3f}; no prior was measured beside it."
    more = "above" if moa.ip.mean > prior.ip.mean else "not above"
    note = {True: "the intervals are apart", False: "the intervals overlap", None: "no intervals"}[
        apart(moa.ip, prior.ip)
    ]
    return f"With a subject, identity is {moa.ip.mean:.3f}, {more} the {prior.ip.mean:.3f} of the prior alone ({note})."


def _prompt(moa: MethodSummary, prior: MethodSummary | None) -> str:
    if prior is None or prior.pc.mean is None or moa.pc.mean is None:
        return ""
    if apart(moa.pc, prior.pc) is False:
        return f"Prompt consistency, {moa.pc.mean:.3f}, is not told apart from the prior's {prior.pc.mean:.3f}."
    change = moa.pc.mean - prior.pc.mean
    return (
        f"Prompt consistency is {moa.pc.mean:.3f}, {abs(change):.3f} {'above' if change > 0 else 'below'} the prior's."
    )


def _context(moa: MethodSummary, ablation: MethodSummary | None) -> str:
    ours, theirs = moa.context_change_outside, ablation and ablation.context_change_outside
    if ours is None or ours.mean is None or not theirs or theirs.mean is None or ablation is None:
        return ""
    rival = f"“{ablation.label}” ({theirs.mean:.3f})"
    if apart(ours, theirs) is False:
        return f"Outside the person the picture changes by {ours.mean:.3f}, not told apart from {rival}."
    verb = "less" if ours.mean < theirs.mean else "no less"
    return f"Outside the person the picture changes by {ours.mean:.3f}, {verb} than with {rival}."
