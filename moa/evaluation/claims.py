"""The paper's claims as a table: each with a number, the baseline or ablation beside it, a criterion, and whether it
holds here.

A comparison of two methods holds when the whole 95 % interval of the paired difference lies on the claimed side; a
threshold is asked of the mean. `holds` is None where the run does not measure the claim, and False where it does and
the claim fails or cannot be told from noise; `note` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from moa.evaluation.evidence import (
    KEPT,
    Evidence,
    Figure,
    Verdict,
    as_figure,
    compared,
    kept,
    mean,
    percent,
    signed,
    unmeasured,
)
from moa.evaluation.generate import Method
from moa.evaluation.intervals import Interval, ratio_of_means

SWAP_LIMIT = 0.5  # largest change outside the person for a change of 1 inside
CHANCE = 0.5  # share of images of two strangers whose faces are `assigned` (metrics.match_faces)


@dataclass(frozen=True)
class Claim:
    """A claim, how it is measured and when it counts as true."""

    id: str
    claim: str
    measure: str
    criterion: str
    judge: Callable[[Evidence], Verdict]


def make_claims(
    rows: pd.DataFrame,
    methods: Sequence[Method],
    *,
    pairs: pd.DataFrame | None,
    router: dict[str, Any] | None,
    upper_bound: pd.DataFrame | None,
) -> list[dict[str, Any]]:
    """The `claims` of `summary.json` (datasets/FORMAT.md, section 6); none in a run without MoA.

    `rows` and `pairs` are the tables of the scores, `router` the content of router.json, `upper_bound` holds `subject`
    and `ip`.
    """
    moa = next((method for method in methods if method.kind == "moa"), None)
    if moa is None:
        return []
    evidence = Evidence.collect(rows, methods, moa, pairs=pairs, router=router, upper_bound=upper_bound)
    return [
        {"id": claim.id, "claim": claim.claim, "measure": claim.measure, "criterion": claim.criterion}
        | asdict(claim.judge(evidence))
        for claim in CLAIMS
    ]


def _swap_locality(run: Evidence) -> Verdict:
    value, against = _swap_ratio(run, run.moa), _swap_ratio(run, run.no_moa)
    if value is None:
        return unmeasured("no two subjects share a class word, so nobody could be swapped")
    holds = value.mean < SWAP_LIMIT and (against is None or value.mean < against.mean)
    return Verdict(value, against, holds, "" if against else "the ablation without MoA layers is not in this run")


def _context_kept(run: Evidence) -> Verdict:
    return compared(run, run.no_moa, run.moa, "context_change_outside", -1, "the ablation without MoA layers")


def _identity_preserved(run: Evidence) -> Verdict:
    verdict = compared(run, run.prior, run.moa, "ip", +1, "the prior")
    share = _upper_bound_share(run)
    reached = "no second photographs, so no upper bound"
    if share:
        reached = f"{percent(share)} of the upper bound, the IP of another photograph of the same person"
    return Verdict(verdict.value, verdict.against, verdict.holds, f"{verdict.note}; {reached}")


def _prompt_kept(run: Evidence) -> Verdict:
    return kept(run, "pc", run.rows)


def _layout_diverse(run: Evidence) -> Verdict:
    return kept(run, "diversity_layout", run.rows)


def _two_people(run: Evidence) -> Verdict:
    rows = run.pairs.get(run.moa.name)
    value = mean(run.moa.label, rows, "assigned")
    if rows is None or value is None:
        return unmeasured("the suite has no images of two subjects")
    against = mean(run.prior.label, run.pairs.get(run.prior.name), "assigned") if run.prior else None
    own, leakage, alike = (rows[column].mean() for column in ("ip", "leakage", "reference_similarity"))
    if pd.isna(leakage):
        note = "no image shows two faces"
    else:
        note = f"smaller IP {own:.3f}, leakage {leakage:.3f} (the references' own similarity is {alike:.3f})"
    if value.low is None:
        return Verdict(value, against, None, f"{note}; a single pair has no interval")
    return Verdict(value, against, bool(value.low > CHANCE and leakage < own), note)


def _accessories_followed(run: Evidence) -> Verdict:
    chosen = {name: rows[rows["category"].isin(["accessory", "action"])] for name, rows in run.rows.items()}
    return kept(run, "followed", chosen)


def _router_separates(run: Evidence) -> Verdict:
    if run.router is None:
        return unmeasured("no router maps were recorded")
    background, foreground = (np.array(run.router[side], np.float64) for side in ("background", "foreground"))
    known = ~np.isnan(background) & ~np.isnan(foreground)  # layers x steps
    if not known.any():
        return unmeasured("no recorded image shows a person")
    n, more, cells = int(run.router["n"]), int((background > foreground)[known].sum()), int(known.sum())
    value = Figure("background", n, float(background[known].mean()))
    against = Figure("person", n, float(foreground[known].mean()))
    layers, steps = background.shape
    note = f"higher in {more} of {cells} cells of {layers} layers x {steps} steps; no interval: the maps are means"
    return Verdict(value, against, value.mean > against.mean and more > cells / 2, note)


def _no_moa_loses_context(run: Evidence) -> Verdict:
    verdict = compared(run, run.moa, run.no_moa, "context_change_outside", +1, "MoA")
    prompts = run.change(run.moa, run.no_moa, "pc")
    note = f"{verdict.note}; PC differs by {signed(prompts)}" if prompts else verdict.note
    return Verdict(verdict.value, verdict.against, verdict.holds, note)


def _no_spacetime_loses_identity(run: Evidence) -> Verdict:
    return compared(run, run.moa, run.no_spacetime, "ip", -1, "MoA")


_INTERVAL = "the 95 % interval of the paired difference"
CLAIMS = (
    Claim(
        "C1",
        "A subject swap changes the person, not the scene",
        "change outside the person / change inside, between subjects at one prompt and seed",
        f"MoA's ratio is below {SWAP_LIMIT} and below that of the ablation without MoA layers",
        _swap_locality,
    ),
    Claim(
        "C2",
        "The scene stays the prior's",
        "change outside the person against the prior at one prompt and seed",
        f"{_INTERVAL} to the ablation without MoA layers lies below 0",
        _context_kept,
    ),
    Claim("C3", "The identity is preserved", "IP", f"{_INTERVAL} to the prior lies above 0", _identity_preserved),
    Claim("C4", "The prompt is followed", "PC", f"MoA reaches {KEPT:.0%} of the prior's mean", _prompt_kept),
    Claim(
        "C5",
        "Layouts vary over seeds as the prior's do",
        "layout diversity over seeds",
        f"MoA reaches {KEPT:.0%} of the prior's mean",
        _layout_diverse,
    ),
    Claim(
        "C6",
        "Two people keep their identities apart",
        "share of images of two in which both faces are nearer to their own reference",
        f"its 95 % interval lies above {CHANCE} (chance), and leakage is below the smaller IP",
        _two_people,
    ),
    Claim(
        "C7",
        "Accessories and actions of the prompt appear",
        "share of images of these categories whose own prompt CLIP ranks first of its category",
        f"MoA reaches {KEPT:.0%} of the prior's share",
        _accessories_followed,
    ),
    Claim(
        "C8",
        "The router leaves the background to the prior",
        "mean prior share of the router",
        "higher outside the person than inside, in the mean and in most layers and steps",
        _router_separates,
    ),
    Claim(
        "C9",
        "Without MoA layers the scene is lost",
        "change outside the person against the prior at one prompt and seed",
        f"{_INTERVAL}, ablation - MoA, lies above 0",
        _no_moa_loses_context,
    ),
    Claim(
        "C10",
        "Without spacetime encoding identity is lost",
        "IP",
        f"{_INTERVAL}, ablation - MoA, lies below 0",
        _no_spacetime_loses_identity,
    ),
)


def _swap_ratio(run: Evidence, method: Method | None) -> Figure | None:
    """Change outside over change inside under a swap, a ratio of means."""
    if method is None:
        return None
    rows = run.rows[method.name].dropna(subset=["swap_change_inside", "swap_change_outside"])
    outside, inside = rows["swap_change_outside"].to_numpy(), rows["swap_change_inside"].to_numpy()
    return as_figure(method.label, len(rows), ratio_of_means(outside, inside, rows["subject"].to_numpy()))


def _upper_bound_share(run: Evidence) -> Interval | None:
    """MoA's IP over that of another photograph, of the subjects who have one."""
    if run.upper_bound is None:
        return None
    both = run.rows[run.moa.name][["subject", "ip"]].merge(run.upper_bound, on="subject", suffixes=("", "_bound"))
    both = both.dropna()
    return ratio_of_means(both["ip"].to_numpy(), both["ip_bound"].to_numpy(), both["subject"].to_numpy())
