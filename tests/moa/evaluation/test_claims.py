"""Claims: each judged on small tables where it holds, where it does not, and where nothing measures it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moa.evaluation.claims import make_claims
from moa.evaluation.score import COLUMNS, NUMBER_COLUMNS
from tests.moa.evaluation.fakes import MOA, NO_MOA, NO_SPACETIME, PRIOR

METHODS = [PRIOR, MOA, NO_MOA, NO_SPACETIME]
PEOPLE = {"a": -0.03, "b": -0.01, "c": 0.01, "d": 0.03}  # by how much each is off the mean


def _rows(categories=("accessory", "context"), **columns) -> pd.DataFrame:
    """Images of four methods, four people, a prompt of each category, two seeds. `columns`: name -> {method: mean}."""
    table = pd.DataFrame(
        [(m.name, s, c, c, seed) for m in METHODS for s in PEOPLE for c in categories for seed in (0, 1)],
        columns=["method", "subject", "prompt_id", "category", "seed"],
    ).reindex(columns=COLUMNS)
    table = table.astype(dict.fromkeys(NUMBER_COLUMNS, "float64")).assign(outcome="scored")
    for name, by_method in columns.items():
        table[name] = table["method"].map(by_method).astype("float64") + table["subject"].map(PEOPLE)
    return table


def _ranked(**shares) -> pd.DataFrame:
    """Rows of which a share of each method's (0, 0.5, 1) has the own prompt first: the first seed's, both seeds'."""
    rows = _rows()
    first = rows["method"].map({name.replace("_", "-"): share for name, share in shares.items()}).fillna(0)
    return rows.assign(pc_rank=np.where(rows["seed"] < 2 * first, 1.0, 3.0))


def _pairs(assigned, ip, leakage) -> pd.DataFrame:
    """Images of two pairs, two seeds each; the prior's are assigned by chance."""
    table = pd.DataFrame(
        [(m.name, a, b, "hug", seed) for m in (PRIOR, MOA) for a, b in (("a", "b"), ("c", "d")) for seed in (0, 1)],
        columns=["method", "first", "second", "prompt_id", "seed"],
    )
    ours = table["method"] == "moa"
    return table.assign(
        outcome="scored",
        faces=2,
        ip=np.where(ours, ip, 0.1),
        leakage=np.where(ours, leakage, 0.1),
        assigned=np.where(ours, [*([0] * 4), *assigned], [0, 1, 1, 0, 0, 0, 0, 0]),
        reference_similarity=0.2,
        pc=0.2,
    )


def _claim(number, rows=None, methods=METHODS, *, pairs=None, router=None, upper_bound=None):
    rows = _rows() if rows is None else rows
    claims = make_claims(rows, methods, pairs=pairs, router=router, upper_bound=upper_bound)
    json.dumps(claims, allow_nan=False)
    found = [claim for claim in claims if claim["id"] == number]
    assert len(claims) == 10 and len(found) == 1
    return found[0]


def _by_method(prior=np.nan, moa=np.nan, no_moa=np.nan, no_spacetime=np.nan):
    return {"prior": prior, "moa": moa, "no-moa": no_moa, "no-spacetime": no_spacetime}


@pytest.mark.parametrize(
    ("moa", "no_moa", "holds"),
    [(0.06, 0.24, True), (0.18, 0.24, False), (0.12, 0.09, False)],  # inside is 0.3
)
def test_c1_a_swap_stays_local(moa, no_moa, holds):
    rows = _rows(swap_change_outside=_by_method(moa=moa, no_moa=no_moa), swap_change_inside=_by_method(0.3, 0.3, 0.3))
    claim = _claim("C1", rows)
    assert claim["holds"] is holds and claim["value"]["n"] == 16
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((moa / 0.3, no_moa / 0.3))
    assert claim["value"]["low"] < claim["value"]["mean"] < claim["value"]["high"]
    assert (claim["value"]["label"], claim["against"]["label"]) == ("MoA", "Without MoA")


def test_c1_without_the_ablation_is_judged_by_the_limit_alone():
    rows = _rows(swap_change_outside=_by_method(moa=0.06), swap_change_inside=_by_method(moa=0.3))
    claim = _claim("C1", rows, [PRIOR, MOA])
    assert claim["holds"] is True and claim["against"] is None and "not in this run" in claim["note"]


@pytest.mark.parametrize(
    ("moa", "no_moa", "c2", "c9"),
    [(0.05, 0.2, True, True), (0.2, 0.05, False, False), (0.2, 0.2, False, False)],
)
def test_c2_and_c9_the_scene_is_kept_with_moa_only(moa, no_moa, c2, c9):
    rows = _rows(context_change_outside=_by_method(moa=moa, no_moa=no_moa), pc=_by_method(0.2, 0.2, 0.1))
    kept, lost = _claim("C2", rows), _claim("C9", rows)
    assert (kept["holds"], lost["holds"]) == (c2, c9)
    assert kept["value"]["mean"] == lost["against"]["mean"] == pytest.approx(moa)
    assert kept["against"]["mean"] == lost["value"]["mean"] == pytest.approx(no_moa)
    assert "PC differs by -0.100" in lost["note"]
    said = {0.05: "paired difference -0.150", 0.2: "the other way round" if no_moa < moa else "not told from noise"}
    assert said[moa] in kept["note"]


def test_a_difference_within_the_noise_is_not_shown():
    """The mean points the right way, but half of the people say the opposite."""
    rows = _rows(ip=_by_method(0.5, 0.51))
    rows.loc[rows["method"] == "moa", "ip"] += np.where(rows.loc[rows["method"] == "moa", "subject"] < "c", 0.2, -0.2)
    claim = _claim("C3", rows)
    assert claim["value"]["mean"] > claim["against"]["mean"]
    assert claim["holds"] is False and "not told from noise" in claim["note"]


def test_c3_identity_against_the_prior_and_the_upper_bound():
    rows = _rows(ip=_by_method(0.1, 0.4))
    bound = pd.DataFrame({"subject": ["a", "b"], "ip": [0.76, 0.76]})
    claim = _claim("C3", rows, upper_bound=bound)
    assert claim["holds"] is True and "paired difference +0.300" in claim["note"]
    assert "50% (49% to 51%) of the upper bound" in claim["note"]  # a and b have 0.37 and 0.39
    assert "no second photographs" in _claim("C3", rows)["note"]
    assert _claim("C3", _rows(ip=_by_method(0.4, 0.1)))["holds"] is False


@pytest.mark.parametrize(("number", "column"), [("C4", "pc"), ("C5", "diversity_layout")])
@pytest.mark.parametrize(("moa", "holds"), [(0.195, True), (0.3, True), (0.18, False)])
def test_c4_and_c5_stay_within_five_percent_of_the_prior(number, column, moa, holds):
    claim = _claim(number, _rows(**{column: _by_method(0.2, moa)}))
    assert claim["holds"] is holds and f"{moa / 0.2:.0%}" in claim["note"]
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((moa, 0.2))


@pytest.mark.parametrize(
    ("assigned", "ip", "leakage", "holds"),
    [
        ([1, 1, 1, 1], 0.6, 0.2, True),
        ([1, 1, 1, 1], 0.2, 0.3, False),  # the faces are more like the other person than like their own
        ([1, 0, 0, 1], 0.6, 0.2, False),  # chance
    ],
)
def test_c6_two_people_are_kept_apart(assigned, ip, leakage, holds):
    claim = _claim("C6", pairs=_pairs(assigned, ip, leakage))
    assert claim["holds"] is holds and claim["value"]["mean"] == np.mean(assigned) and claim["against"]["mean"] == 0.5
    assert f"smaller IP {ip:.3f}, leakage {leakage:.3f}" in claim["note"]


def test_c6_one_pair_has_no_interval():
    pairs = _pairs([1, 1, 1, 1], 0.6, 0.2)
    claim = _claim("C6", pairs=pairs[pairs["first"] == "a"])
    assert claim["holds"] is None and "no interval" in claim["note"]


@pytest.mark.parametrize(("moa", "holds"), [(1, True), (0.5, False)])
def test_c7_accessories_are_followed(moa, holds):
    claim = _claim("C7", _ranked(prior=1, moa=moa))
    assert claim["holds"] is holds and (claim["value"]["mean"], claim["against"]["mean"]) == (moa, 1)
    assert claim["value"]["n"] == 8  # the context prompt is not asked


def test_c7_needs_an_accessory_or_an_action():
    rows = _ranked(prior=1, moa=1)
    assert _claim("C7", rows[rows["category"] == "context"])["holds"] is None


@pytest.mark.parametrize(("foreground", "holds"), [(0.4, True), (0.9, False)])
def test_c8_the_router_separates(foreground, holds):
    router = {"n": 6, "background": [[0.8, 0.7], [0.6, None]], "foreground": [[foreground, 0.3], [0.65, 0.1]]}
    claim = _claim("C8", router=router)
    assert claim["holds"] is holds and claim["value"]["n"] == 6 and claim["value"]["low"] is None
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((0.7, (foreground + 0.95) / 3))
    assert f"higher in {2 if holds else 1} of 3 cells of 2 layers x 2 steps" in claim["note"]


@pytest.mark.parametrize(("no_spacetime", "holds"), [(0.3, True), (0.5, False), (0.4, False)])
def test_c10_without_spacetime_identity_is_lower(no_spacetime, holds):
    claim = _claim("C10", _rows(ip=_by_method(0.1, 0.4, no_spacetime=no_spacetime)))
    assert claim["holds"] is holds and claim["value"]["label"] == "Without spacetime"
    assert claim["value"]["mean"] == pytest.approx(no_spacetime)


def test_what_a_run_does_not_measure_is_said():
    rows = _rows(ip=_by_method(moa=0.4))
    claims = make_claims(rows[rows["method"] == "moa"], [MOA], pairs=None, router=None, upper_bound=None)
    assert {claim["id"]: claim["holds"] for claim in claims} == {f"C{n}": None for n in range(1, 11)}
    assert all(claim["note"].startswith("not measured: ") for claim in claims)
    assert claims[2]["value"]["mean"] == pytest.approx(0.4)  # MoA's own number is shown


def test_one_person_proves_nothing():
    rows = _rows(ip=_by_method(0.1, 0.4))
    claim = _claim("C3", rows[rows["subject"] == "a"])
    assert claim["holds"] is None and "a single identity has no interval" in claim["note"]


def test_lost_images_count_for_nobody():
    rows = _rows(ip=_by_method(0.1, 0.4))
    rows.loc[(rows["method"] == "moa") & (rows["seed"] == 1), "outcome"] = "missing"
    assert _claim("C3", rows)["value"]["n"] == 8


def test_ablations_of_another_base_are_not_asked():
    rows = _rows(context_change_outside=_by_method(moa=0.05, no_moa=0.2))
    assert _claim("C2", rows)["holds"] is True
    elsewhere = [PRIOR, MOA, replace(NO_MOA, compared_with="community"), NO_SPACETIME]
    assert _claim("C2", rows, elsewhere)["holds"] is None


def test_without_moa_there_is_nothing_to_claim():
    assert make_claims(_rows(), [PRIOR, NO_MOA], pairs=None, router=None, upper_bound=None) == []
