"""The paper's claims as a table: each with its figures, the tests it is judged by, and a verdict: yes, no, undecided
(the interval spans the bound) or unmeasured. The rule is `moa.evaluation.evidence`'s; what each claim asks:

C1  a swap changes less than SWAP_LIMIT outside the people of what it changes inside, and less than without MoA layers
C2  the scene stays the prior's: MoA changes it by less than SCENE_LIMIT of what another seed changes (suites of several
    seeds), and shows the prompt's scene in KEPT of the prior's images (suites with a classifier)
C3  IP is above the prior's
C4  what PC has above the PC with the suite's other prompts is KEPT of the prior's: a cosine of CLIP has no zero, and a
    share of it would count what every image has with every text
C5  images of several seeds differ by KEPT of what the prior's do
C6  both faces of a pair go to the right person more often than by chance, and look more like it than like the other
C7  the prompt's item is seen in KEPT of the prior's images; without a classifier, CLIP ranks the own prompt first
C8  the router's prior share is higher outside the person than inside
C9  without MoA layers more of the scene changes than with them, PC is lower and the scene is shown less often (the
    paper's appendix: "context mostly lost")
C10 without spacetime encoding IP is below MoA's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moa.evaluation.evidence import (
    KEPT,
    ClaimTest,
    Evidence,
    Judgement,
    as_figure,
    compared,
    kept,
    mean,
    percent,
    unmeasured,
)
from moa.evaluation.generate import Method
from moa.evaluation.intervals import Interval, bootstrap_interval, paired_difference, ratio_of_means
from moa.evaluation.tables import quotient, quotient_difference, units

SWAP_LIMIT = 0.5  # largest change outside the people for a change of 1 inside
SCENE_LIMIT = 0.5  # largest change of the scene for a change of 1 by another seed
CHANCE = 0.5  # share of images of two strangers whose faces are `assigned` (metrics.match_faces)
SWAP = ("change_outside", "change_inside")


@dataclass(frozen=True)
class Claim:
    """A claim, how it is measured and when it counts as true."""

    id: str
    claim: str
    measure: str
    criterion: str
    judge: Callable[[Evidence], Judgement]

    def on(self, evidence: Evidence) -> dict[str, Any]:
        """The claim's entry in `summary.json`."""
        found = self.judge(evidence)
        return {
            "id": self.id,
            "claim": self.claim,
            "measure": found.measure or self.measure,
            "criterion": found.criterion or self.criterion,
            "value": asdict(found.value) if found.value else None,
            "against": asdict(found.against) if found.against else None,
            "tests": [test.to_json() for test in found.tests],
            "verdict": found.verdict,
            "note": found.note,
        }


def make_claims(
    rows: pd.DataFrame,
    methods: Sequence[Method],
    *,
    swaps: pd.DataFrame | None,
    pairs: pd.DataFrame | None,
    router: dict[str, Any] | None,
    upper_bound: pd.DataFrame | None,
) -> list[dict[str, Any]]:
    """The `claims` of `summary.json` (datasets/FORMAT.md, section 6); none in a run without MoA.

    `rows`, `swaps` and `pairs` are the tables of the scores, `router` the content of router.json, `upper_bound` holds
    `subject` and `ip`.
    """
    moa = next((method for method in methods if method.kind == "moa"), None)
    if moa is None:
        return []
    evidence = Evidence.collect(rows, methods, moa, swaps=swaps, pairs=pairs, router=router, upper_bound=upper_bound)
    return [claim.on(evidence) for claim in CLAIMS]


def _swap_locality(run: Evidence) -> Judgement:
    rows, other = run.swaps.get(run.moa.name), run.swaps.get(run.no_moa.name) if run.no_moa else None
    own = None if rows is None else quotient(rows, *SWAP)
    if rows is None or rows.empty:
        return unmeasured("no two subjects share a class word, so nobody could be swapped")
    if own is None:
        return unmeasured("of no two images that differ by their subject both show a person")
    tests = [ClaimTest("change outside / inside, MoA", "ratio", own, SWAP_LIMIT, "below")]
    against = None
    if run.no_moa and other is not None:
        against = as_figure(run.no_moa.label, "ratio", quotient(other, *SWAP))
        if found := quotient_difference(other, rows, *SWAP):
            quantity = f"change outside / inside, MoA minus {run.no_moa.label}"
            tests.append(ClaimTest(quantity, "ratio", found, 0.0, "below"))
    note = "" if against else "the ablation without MoA layers is not in this run"
    return Judgement(as_figure(run.moa.label, "ratio", own), against, tuple(tests), note)


def _context_kept(run: Evidence) -> Judgement:
    if run.prior is None:
        return unmeasured("the prior is not in this run", run.figure(run.moa, "context_change_outside"))
    change, shown = run.share("context_change_outside", of="seed_change_outside"), run.share("scene_shown")
    tests, measures, criteria = [], [], []
    if change:
        tests.append(ClaimTest("scene change, MoA's share of another seed's", "share", change, SCENE_LIMIT, "below"))
        measures.append(
            "change outside the person, MoA against the prior, and the prior against itself at another seed"
        )
        criteria.append(f"MoA changes less than {percent(SCENE_LIMIT)} of what another seed changes")
    if shown:
        tests.append(ClaimTest("scenes shown, MoA's share of the prior's", "share", shown, KEPT, "above"))
        measures.append("share of images that show the prompt's scene, by a classifier")
        criteria.append(f"MoA shows it in {percent(KEPT)} of the prior's share")
    if not tests:
        return unmeasured("the suite has one seed and no classifier of scenes")
    value, against = run.figure(run.moa, "context_change_outside"), None
    if change and (seed := run.figure(run.prior, "seed_change_outside")):
        against = replace(seed, label=f"{run.prior.label}, another seed")
    else:
        value, against = run.figure(run.moa, "scene_shown"), run.figure(run.prior, "scene_shown")
    return Judgement(value, against, tuple(tests), measure="; ".join(measures), criterion=", and ".join(criteria))


def _identity_preserved(run: Evidence) -> Judgement:
    found = compared(run, run.prior, run.moa, "above", [("ip", "IP")], "the prior")
    share, reached = _upper_bound_share(run), "no second photographs, so no upper bound"
    if share:
        bounds = "" if share.low is None or share.high is None else f" ({percent(share.low)} to {percent(share.high)})"
        reached = f"{percent(share.mean)}{bounds} of the upper bound, the IP of another photograph of the same person"
    return Judgement(found.value, found.against, found.tests, "; ".join(filter(None, (found.note, reached))))


def _prompt_kept(run: Evidence) -> Judgement:
    if run.figure(run.moa, "pc_margin"):
        return kept(run, "pc_margin", "PC above other prompts'")
    found = kept(run, "pc", "PC")
    note = "the suite has one prompt, so this is a share of PC itself, which has no zero" if found.tests else found.note
    return replace(found, note=note, measure="PC", criterion=f"MoA reaches {percent(KEPT)} of the prior's")


def _layout_diverse(run: Evidence) -> Judgement:
    return kept(run, "diversity_layout", "layout diversity", "the suite has one seed, and it takes two to differ")


def _two_people(run: Evidence) -> Judgement:
    rows, before = (_two_or_fewer(run, method) for method in (run.moa, run.prior))
    value = mean(run.moa.label, rows, "assigned")
    against = mean(run.prior.label, before, "assigned") if run.prior else None
    if rows is None or value is None:
        return unmeasured("the suite has no images of two subjects")
    assigned = Interval(value.n, value.mean, value.low, value.high, None)
    tests = [ClaimTest("share assigned right", "share", assigned, CHANCE, "above")]
    both = rows.dropna(subset=["ip", "leakage"])
    apart = paired_difference(both["leakage"].to_numpy(), both["ip"].to_numpy(), units(both))
    if apart is None:
        return Judgement(value, against, tuple(tests), "no image shows two faces")
    tests.append(ClaimTest("smaller IP minus leakage, where two faces are", "similarity", apart, 0.0, "above"))
    alike = rows["reference_similarity"].mean()
    return Judgement(value, against, tuple(tests), f"the references' own similarity is {alike:.3f}")


def _two_or_fewer(run: Evidence, method: Method | None) -> pd.DataFrame | None:
    """Images of two without those that show a third: the two faces that fit best of three are `assigned` in 65 % by
    chance."""
    rows = run.pairs.get(method.name) if method else None
    return None if rows is None else rows[rows["faces"] <= 2]


def _items_shown(run: Evidence) -> Judgement:
    if run.figure(run.moa, "item_shown"):
        found = kept(run, "item_shown", "items shown")
        measure = "share of images that show the prompt's item, by a classifier that sees pixels only"
        criterion = f"MoA reaches {percent(KEPT)} of the prior's share on the same prompts"
    else:
        asked = {name: rows[rows["category"].isin(["accessory", "action"])] for name, rows in run.rows.items()}
        found = kept(replace(run, rows=asked), "followed", "prompts ranked first")
        measure = "share of images of an accessory or action whose prompt CLIP ranks first of its category"
        criterion = f"MoA reaches {percent(KEPT)} of the prior's share; whether the thing is there was not looked at"
    return Judgement(found.value, found.against, found.tests, found.note, measure, criterion)


def _router_separates(run: Evidence) -> Judgement:
    if run.router is None:
        return unmeasured("no router maps were recorded")
    images = pd.DataFrame(run.router["examples"])
    who, sides = images["subject"].to_numpy(), (images["foreground"].to_numpy(), images["background"].to_numpy())
    inside, outside = (bootstrap_interval(side, who) for side in sides)
    found = paired_difference(*sides, who)
    assert found is not None
    layers, steps = np.shape(run.router["background"])
    cells = np.array(run.router["background"], float) > np.array(run.router["foreground"], float)
    note = f"higher in {int(cells.sum())} of {cells.size} cells of {layers} layers x {steps} steps"
    test = ClaimTest("prior share, background minus person", "weight", found, 0.0, "above")
    value, against = as_figure("background", "weight", outside), as_figure("person", "weight", inside)
    return Judgement(value, against, (test,), note)


def _no_moa_loses_context(run: Evidence) -> Judgement:
    missing = "the ablation without MoA layers"
    more = compared(run, run.moa, run.no_moa, "above", [("context_change_outside", "scene change")], missing)
    less = compared(run, run.moa, run.no_moa, "below", [("pc", "PC"), ("scene_shown", "scenes shown")], missing)
    return Judgement(more.value, more.against, more.tests + less.tests, more.note)


def _no_spacetime_loses_identity(run: Evidence) -> Judgement:
    return compared(run, run.moa, run.no_spacetime, "below", [("ip", "IP")], "this ablation")


CLAIMS = (
    Claim(
        "C1",
        "A subject swap changes the person, not the scene",
        "change outside the people / change inside, between subjects at one prompt and seed",
        f"MoA's ratio is below {SWAP_LIMIT}, and below that of the ablation without MoA layers",
        _swap_locality,
    ),
    Claim(
        "C2",
        "The scene stays the prior's",
        "change outside the person against another seed's; share of images that show the prompt's scene",
        f"less than {percent(SCENE_LIMIT)} of the one, {percent(KEPT)} of the prior's of the other",
        _context_kept,
    ),
    Claim("C3", "The identity is preserved", "IP", "MoA's is above the prior's", _identity_preserved),
    Claim(
        "C4",
        "The prompt is followed",
        "PC less the mean PC of the same image with the suite's other prompts, of all categories",
        f"MoA reaches {percent(KEPT)} of the prior's",
        _prompt_kept,
    ),
    Claim(
        "C5",
        "Layouts vary over seeds as the prior's do",
        "layout diversity over seeds",
        f"MoA reaches {percent(KEPT)} of the prior's",
        _layout_diverse,
    ),
    Claim(
        "C6",
        "Two people keep their identities apart",
        "share of images of two in which both faces are nearer to their own reference (without images of three)",
        f"it is above {CHANCE} (chance), and the smaller IP above the leakage",
        _two_people,
    ),
    Claim(
        "C7",
        "Accessories and actions of the prompt appear",
        "share of images that show the prompt's item",
        f"MoA reaches {percent(KEPT)} of the prior's share",
        _items_shown,
    ),
    Claim(
        "C8",
        "The router leaves the background to the prior",
        "mean prior share of the router, outside and inside the person",
        "it is higher outside",
        _router_separates,
    ),
    Claim(
        "C9",
        "Without MoA layers the scene is lost",
        "change outside the person against the prior at one prompt and seed; PC; share of images that show the scene",
        "against MoA the first is higher, PC is lower, and so is the share of scenes where it is measured",
        _no_moa_loses_context,
    ),
    Claim(
        "C10",
        "Without spacetime encoding identity is lost",
        "IP",
        "the ablation's is below MoA's",
        _no_spacetime_loses_identity,
    ),
)


def _upper_bound_share(run: Evidence) -> Interval | None:
    """MoA's IP over that of another photograph, of the subjects who have one."""
    if run.upper_bound is None:
        return None
    both = run.rows[run.moa.name][["subject", "ip"]].merge(run.upper_bound, on="subject", suffixes=("", "_bound"))
    both = both.dropna()
    return ratio_of_means(both["ip"].to_numpy(), both["ip_bound"].to_numpy(), both["subject"].to_numpy())
