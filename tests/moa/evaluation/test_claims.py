"""Claims: each judged on small tables where it holds, where it does not, where the interval spans its bound, and where
nothing measures it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from moa.evaluation.claims import make_claims
from moa.evaluation.evidence import ClaimTest, Judgement
from moa.evaluation.intervals import Interval, difference_of_ratios, ratio_of_means
from moa.evaluation.score_tables import SCORES
from tests.moa.evaluation.fakes import MOA, NO_MOA, NO_SPACETIME, PRIOR

METHODS = [PRIOR, MOA, NO_MOA, NO_SPACETIME]
PEOPLE = {"a": -0.03, "b": -0.01, "c": 0.01, "d": 0.03}  # by how much each is off the mean


SEEDS = 30  # makes enough images for a share to be told from another


def _rows(categories=("accessory", "context"), seeds=2, **columns) -> pd.DataFrame:
    """Images of four methods, four people, a prompt of each category, some seeds. `columns`: name -> {method: mean}."""
    table = pd.DataFrame(
        [(m.name, s, c, c, seed) for m in METHODS for s in PEOPLE for c in categories for seed in range(seeds)],
        columns=["method", "subject", "prompt_id", "category", "seed"],
    ).reindex(columns=SCORES.columns)
    table = table.astype(dict.fromkeys(SCORES.numbers, "float64")).assign(outcome="scored")
    whose = table["subject"].where(table["method"] != "prior", "man")
    table["image"] = table["method"] + whose + table["prompt_id"] + table["seed"].astype(str)
    for name, by_method in columns.items():
        table[name] = table["method"].map(by_method).astype("float64") + table["subject"].map(PEOPLE)
    return table


def _share(column, rows=None, **shares) -> pd.DataFrame:
    """Rows of which a share of each method's (0, 0.5, 1) has 1 in a column, the others 0: the first seeds'."""
    rows = _rows() if rows is None else rows
    first = rows["method"].map({name.replace("_", "-"): share for name, share in shares.items()})
    return rows.assign(**{column: (rows["seed"] < rows["seed"].nunique() * first).astype(float).where(first.notna())})


def _swaps(moa, no_moa=None) -> pd.DataFrame:
    """The comparisons of each two of the four people: inside 0.3, outside a mean by method and what the two are off."""
    outside = {"moa": moa} | ({"no-moa": no_moa} if no_moa else {})
    table = pd.DataFrame(
        [(m, a, b, "hat", seed) for m in outside for a, b in combinations(PEOPLE, 2) for seed in (0, 1)],
        columns=["method", "first", "second", "prompt_id", "seed"],
    )
    off = (table["first"].map(PEOPLE) + table["second"].map(PEOPLE)) / 10
    images = {side: table["method"] + table[side] + table["seed"].astype(str) for side in ("first", "second")}
    return table.assign(
        image=images["first"],
        other=images["second"],
        change_inside=0.3,
        change_outside=table["method"].map(outside) + off,
    )


def _pairs(assigned, ip, leakage) -> pd.DataFrame:
    """Images of two pairs, two seeds each; the prior's are assigned by chance."""
    table = pd.DataFrame(
        [(m.name, a, b, "hug", seed) for m in (PRIOR, MOA) for a, b in (("a", "b"), ("c", "d")) for seed in (0, 1)],
        columns=["method", "first", "second", "prompt_id", "seed"],
    )
    ours = table["method"] == "moa"
    return table.assign(
        image=table["method"] + table["first"] + table["seed"].astype(str),
        outcome="scored",
        faces=2,
        ip=np.where(ours, ip, 0.1),
        leakage=np.where(ours, leakage, 0.1),
        assigned=np.where(ours, [*([0] * 4), *assigned], [0, 1, 1, 0, 0, 0, 0, 0]),
        reference_similarity=0.2,
        pc=0.2,
    )


def _claim(number, rows=None, methods=METHODS, *, swaps=None, pairs=None, router=None, upper_bound=None):
    rows = _rows() if rows is None else rows
    claims = make_claims(rows, methods, swaps=swaps, pairs=pairs, router=router, upper_bound=upper_bound)
    json.dumps(claims, allow_nan=False)
    found = [claim for claim in claims if claim["id"] == number]
    assert len(claims) == 10 and len(found) == 1
    return found[0]


def _by_method(prior=np.nan, moa=np.nan, no_moa=np.nan, no_spacetime=np.nan):
    return {"prior": prior, "moa": moa, "no-moa": no_moa, "no-spacetime": no_spacetime}


def _verdicts(claim) -> list[str]:
    return [test["verdict"] for test in claim["tests"]]


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.2, "yes", "no"),
        (-0.2, -0.1, "no", "yes"),
        (-0.1, 0.1, "undecided", "undecided"),
        (0.0, 0.0, "undecided", "undecided"),
        (None, None, "undecided", "undecided"),
    ],
)
def test_one_rule_the_whole_interval_lies_on_a_side_of_the_bound(low, high, above, below):
    found = Interval(4, 0.9, None if low is None else low + 0.95, None if high is None else high + 0.95, None)
    assert ClaimTest("q", "share", found, 0.95, "above").verdict == above
    assert ClaimTest("q", "share", found, 0.95, "below").verdict == below


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ("", "unmeasured"),
        ("y", "yes"),
        ("yy", "yes"),
        ("yn", "no"),
        ("nu", "no"),
        ("yu", "undecided"),
        ("uu", "undecided"),
    ],
)
def test_a_claim_of_several_tests_needs_all_of_them(tests, verdict):
    lows = {"y": 0.1, "n": -0.2, "u": -0.05}
    made = [ClaimTest("q", "ratio", Interval(4, 0.0, lows[t], lows[t] + 0.1, None), 0.0, "above") for t in tests]
    assert Judgement(None, None, tuple(made)).verdict == verdict


@pytest.mark.parametrize(
    ("moa", "no_moa", "verdicts", "verdict"),
    [
        (0.06, 0.24, ["yes", "yes"], "yes"),
        (0.18, 0.24, ["no", "yes"], "no"),
        (0.12, 0.09, ["yes", "no"], "no"),
        (0.15, 0.24, ["undecided", "yes"], "undecided"),  # half of the change inside
    ],
)
def test_c1_a_swap_stays_local(moa, no_moa, verdicts, verdict):
    claim = _claim("C1", swaps=_swaps(moa, no_moa))
    assert (_verdicts(claim), claim["verdict"], claim["value"]["n"]) == (verdicts, verdict, 12)
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((moa / 0.3, no_moa / 0.3))
    assert claim["value"]["low"] < claim["value"]["mean"] < claim["value"]["high"]
    assert (claim["value"]["label"], claim["against"]["label"]) == ("MoA", "Without MoA")
    test = claim["tests"][1]
    assert test["mean"] == pytest.approx((moa - no_moa) / 0.3) and (test["bound"], test["side"]) == (0, "below")
    assert test["n"] == 12


def test_c1_is_over_both_people_of_a_swap():
    swaps = _swaps(0.06, 0.24)
    swaps["change_outside"] += np.linspace(0, 0.03, len(swaps)) ** 2 * 30
    moa, without = (
        [table["change_outside"].to_numpy(), table["change_inside"].to_numpy()]
        for table in (swaps[swaps["method"] == name] for name in ("moa", "no-moa"))
    )
    people = swaps[["first", "second"]].to_numpy(str)[:12]
    share, less = _claim("C1", swaps=swaps)["tests"]
    for test, found in ((share, ratio_of_means(*moa, people)), (less, difference_of_ratios(without, moa, people))):
        assert (test["low"], test["high"]) == pytest.approx((found.low, found.high)) and found.low < found.high - 0.01


def test_c1_without_the_ablation_is_judged_by_the_limit_alone():
    claim = _claim("C1", methods=[PRIOR, MOA], swaps=_swaps(0.06))
    assert (claim["verdict"], claim["against"], len(claim["tests"])) == ("yes", None, 1)
    assert "not in this run" in claim["note"]


def test_a_swap_that_shows_nobody_is_no_want_of_people():
    nobody = _swaps(0.06).assign(change_inside=np.nan, change_outside=np.nan)
    for swaps, why in (
        (None, "share a class word"),
        (nobody, "both show a person"),
        (nobody[:0], "share a class word"),
    ):
        claim = _claim("C1", methods=[PRIOR, MOA], swaps=swaps)
        assert claim["verdict"] == "unmeasured" and why in claim["note"]


@pytest.mark.parametrize(("moa", "verdict"), [(0.05, "yes"), (0.2, "no"), (0.1, "undecided")])
def test_c2_the_scene_changes_less_than_by_another_seed(moa, verdict):
    rows = _rows(context_change_outside=_by_method(moa=moa), seed_change_outside=_by_method(0.2))
    claim = _claim("C2", rows)
    assert claim["verdict"] == verdict and claim["tests"][0]["mean"] == pytest.approx(moa / 0.2)
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((moa, 0.2))
    assert claim["against"]["label"] == "Prior only, another seed" and claim["against"]["n"] == 4  # one man's images
    assert "less than 50 % of what another seed changes" in claim["criterion"] and "classifier" not in claim["measure"]


@pytest.mark.parametrize(("moa", "verdict"), [(1, "yes"), (0.5, "no")])
def test_c2_with_one_seed_is_judged_by_what_the_classifier_sees(moa, verdict):
    claim = _claim("C2", _share("scene_shown", _rows(seeds=SEEDS), prior=1, moa=moa))
    assert claim["verdict"] == verdict and claim["value"]["mean"] == moa and claim["against"]["mean"] == 1
    assert claim["measure"] == "share of images that show the prompt's scene, by a classifier"
    assert "95 % of the prior's share" in claim["criterion"]


def test_c2_with_both_needs_both():
    rows = _rows(context_change_outside=_by_method(moa=0.05), seed_change_outside=_by_method(0.2))
    claim = _claim("C2", _share("scene_shown", rows, prior=1, moa=0.5))
    assert (_verdicts(claim), claim["verdict"]) == (["yes", "no"], "no")
    assert claim["value"]["mean"] == pytest.approx(0.05) and " and " in claim["criterion"]


def test_c2_does_not_ask_the_ablation():
    """What the ablation does is C9's; C2 stands by itself."""
    rows = _rows(context_change_outside=_by_method(moa=0.05, no_moa=0.01), seed_change_outside=_by_method(0.2))
    assert _claim("C2", rows)["verdict"] == _claim("C2", rows, [PRIOR, MOA])["verdict"] == "yes"
    assert _claim("C9", rows)["verdict"] == "no"


def test_a_difference_within_the_noise_is_undecided():
    """The mean points the right way, but half of the people say the opposite."""
    rows = _rows(ip=_by_method(0.5, 0.51))
    rows.loc[rows["method"] == "moa", "ip"] += np.where(rows.loc[rows["method"] == "moa", "subject"] < "c", 0.2, -0.2)
    claim = _claim("C3", rows)
    assert claim["value"]["mean"] > claim["against"]["mean"] and claim["verdict"] == "undecided"


def test_c3_identity_against_the_prior_and_the_upper_bound():
    rows = _rows(ip=_by_method(0.1, 0.4))
    bound = pd.DataFrame({"subject": ["a", "b", "c"], "ip": [0.76, 0.76, np.nan]})  # no face in c's second photograph
    claim = _claim("C3", rows, upper_bound=bound)
    assert claim["verdict"] == "yes" and claim["tests"][0]["quantity"] == "IP, MoA minus Prior only"
    assert claim["tests"][0]["mean"] == pytest.approx(0.3) and claim["tests"][0]["n"] == 16
    assert claim["note"].startswith("50 % (33 % to 67 %) of the upper bound")  # a and b have 0.37 and 0.39
    assert "no second photographs" in _claim("C3", rows)["note"]
    assert _claim("C3", _rows(ip=_by_method(0.4, 0.1)))["verdict"] == "no"


OTHERS = {"C4": 0.1, "C5": 0.0}  # what the claim's figure is counted from


@pytest.mark.parametrize(("number", "column"), [("C4", "pc"), ("C5", "diversity_layout")])
@pytest.mark.parametrize(
    ("moa", "spread", "verdict"),
    [(0.195, 0, "yes"), (0.3, 0, "yes"), (0.18, 0, "no"), (0.2, 0.02, "undecided"), (0.188, 0.02, "undecided")],
)
def test_c4_and_c5_keep_the_priors_by_the_whole_interval(number, column, moa, spread, verdict):
    """100 % with an interval from 93 % is not told from less than 95 %; nor is 94 % from more."""
    rows = _rows(**{column: _by_method(0.2 + OTHERS[number], moa + OTHERS[number])}).assign(pc_other=OTHERS[number])
    ours = rows["method"] == "moa"
    rows.loc[ours, column] += np.where(rows.loc[ours, "subject"].isin(["a", "d"]), spread, -spread)
    claim = _claim(number, rows)
    assert claim["verdict"] == verdict and claim["tests"][0]["mean"] == pytest.approx(moa / 0.2)
    assert (claim["tests"][0]["bound"], claim["tests"][0]["side"]) == (0.95, "above")
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((moa, 0.2))


def test_c4_is_no_share_of_what_every_image_has_with_every_prompt():
    """96 % of PC, but 80 % of what it has above the other prompts: whose prompt it is, is told worse by a fifth."""
    rows = _rows(pc=_by_method(0.25, 0.24))
    rows["pc_other"] = 0.2 + 0.9 * rows["subject"].map(PEOPLE)
    claim = _claim("C4", rows)
    assert claim["verdict"] == "no" and claim["tests"][0]["mean"] == pytest.approx(0.8)
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((0.04, 0.05))
    assert "less the mean PC" in claim["measure"] and "all categories" in claim["measure"] and claim["note"] == ""
    own, prior = ((rows["pc"] - rows["pc_other"])[rows["method"] == name].to_numpy() for name in ("moa", "prior"))
    found = ratio_of_means(own, prior, rows.loc[rows["method"] == "moa", "subject"].to_numpy())
    assert (claim["tests"][0]["low"], claim["tests"][0]["high"]) == pytest.approx((found.low, found.high))


def test_c4_in_a_suite_of_one_prompt_is_a_share_of_pc_and_says_so():
    claim = _claim("C4", _rows(pc=_by_method(0.25, 0.24)))
    assert claim["verdict"] == "yes" and claim["tests"][0]["mean"] == pytest.approx(0.96)
    assert claim["measure"] == "PC" and "one prompt" in claim["note"] and "no zero" in claim["note"]
    assert _claim("C4", _rows(pc=_by_method(moa=0.24)))["note"].startswith("not measured: ")


@pytest.mark.parametrize(
    ("assigned", "ip", "leakage", "verdicts", "verdict"),
    [
        ([1, 1, 1, 1], 0.6, 0.2, ["yes", "yes"], "yes"),
        ([1, 1, 1, 1], 0.2, 0.3, ["yes", "no"], "no"),  # the faces are more like the other person than like their own
        ([1, 0, 0, 1], 0.6, 0.2, ["undecided", "yes"], "undecided"),  # chance
        ([0, 0, 0, 0], 0.6, 0.2, ["no", "yes"], "no"),
    ],
)
def test_c6_two_people_are_kept_apart(assigned, ip, leakage, verdicts, verdict):
    claim = _claim("C6", pairs=_pairs(assigned, ip, leakage))
    assert (_verdicts(claim), claim["verdict"]) == (verdicts, verdict)
    assert claim["value"]["mean"] == np.mean(assigned) and claim["against"]["mean"] == 0.5
    assert claim["tests"][1]["mean"] == pytest.approx(ip - leakage)


def test_c6_is_not_judged_by_images_of_three():
    """The best two faces of three are assigned in two of three images, whoever they are."""
    pairs = _pairs([1, 0, 1, 0], 0.6, 0.2)
    claim = _claim("C6", pairs=pairs.assign(faces=pairs["seed"].map({0: 3, 1: 2})))
    assert (claim["value"]["mean"], claim["value"]["n"]) == (0, 2)


def test_c6_where_one_face_is_it_is_not_nearer_to_its_own():
    pairs = _pairs([1, 1, 1, 0], 0.6, 0.2)
    pairs.loc[7, ["outcome", "faces", "ip", "leakage"]] = ["too_few_faces", 1, 0.0, np.nan]
    claim = _claim("C6", pairs=pairs)
    assert (claim["value"]["n"], claim["value"]["mean"]) == (4, 0.75)
    assert (claim["tests"][1]["n"], claim["tests"][1]["mean"]) == (3, pytest.approx(0.4))


def test_c6_one_pair_has_no_interval():
    pairs = _pairs([1, 1, 1, 1], 0.6, 0.2)
    assert _claim("C6", pairs=pairs[pairs["first"] == "a"])["verdict"] == "undecided"


@pytest.mark.parametrize(("moa", "verdict"), [(1, "yes"), (0.5, "no")])
def test_c7_items_are_seen_by_the_classifier(moa, verdict):
    """Also where CLIP ranks every prompt first."""
    rows = _share("item_shown", _rows(seeds=SEEDS), prior=1, moa=moa).assign(pc_rank=1.0)
    rows.loc[rows["category"] == "context", "item_shown"] = np.nan
    claim = _claim("C7", rows)
    assert claim["verdict"] == verdict and (claim["value"]["mean"], claim["against"]["mean"]) == (moa, 1)
    assert claim["value"]["n"] == 4 * SEEDS and "classifier" in claim["measure"]  # the context prompt shows no item


@pytest.mark.parametrize(("moa", "verdict"), [(1, "yes"), (0.5, "no")])
def test_c7_without_a_classifier_says_that_clip_was_asked(moa, verdict):
    rows = _share("first", _rows(("accessory", "action", "context"), seeds=SEEDS), prior=1, moa=moa)
    claim = _claim("C7", rows.assign(pc_rank=np.where(rows["first"] == 1, 1.0, 3.0)))
    assert claim["verdict"] == verdict and claim["value"]["n"] == 2 * 4 * SEEDS  # the context prompt is not asked
    assert "CLIP ranks first" in claim["measure"] and "was not looked at" in claim["criterion"]


def test_c7_needs_an_accessory_or_an_action():
    rows = _rows().assign(pc_rank=1.0)
    assert _claim("C7", rows[rows["category"] == "context"])["verdict"] == "unmeasured"


@pytest.mark.parametrize(
    ("foreground", "verdict"), [([0.6, 0.59], "yes"), ([0.81, 0.8], "no"), ([0.6, 0.8], "undecided")]
)
def test_c8_the_router_separates(foreground, verdict):
    examples = [
        {"subject": who, "background": 0.7, "foreground": share} for who, share in zip("ab", foreground, strict=True)
    ]
    router = {"n": 2, "background": [[0.8, 0.7], [0.6, 0.9]], "foreground": [[0.4, 0.7], [0.65, 0.1]]}
    claim = _claim("C8", router=router | {"examples": examples})
    assert claim["verdict"] == verdict and claim["value"]["n"] == claim["tests"][0]["n"] == 2
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((0.7, np.mean(foreground)))
    assert claim["note"] == "higher in 2 of 4 cells of 2 layers x 2 steps"


@pytest.mark.parametrize(
    ("change", "pc", "scenes", "verdicts", "verdict"),
    [
        (0.3, 0.1, 0, ["yes", "yes", "yes"], "yes"),
        (0.3, 0.1, 1, ["yes", "yes", "undecided"], "undecided"),  # the scene is shown by both
        (0.3, 0.1, None, ["yes", "yes"], "yes"),
        (0.01, 0.1, 0, ["no", "yes", "yes"], "no"),
        (0.3, 0.3, None, ["yes", "no"], "no"),
    ],
)
def test_c9_without_moa_layers_the_context_is_lost(change, pc, scenes, verdicts, verdict):
    rows = _rows(context_change_outside=_by_method(moa=0.05, no_moa=change), pc=_by_method(0.2, 0.2, pc))
    rows = rows if scenes is None else _share("scene_shown", rows, prior=1, moa=1, no_moa=scenes)
    claim = _claim("C9", rows)
    assert (_verdicts(claim), claim["verdict"]) == (verdicts, verdict)
    assert (claim["value"]["mean"], claim["against"]["mean"]) == pytest.approx((change, 0.05))
    assert claim["value"]["label"] == "Without MoA"


@pytest.mark.parametrize(("no_spacetime", "verdict"), [(0.3, "yes"), (0.5, "no"), (0.4, "undecided")])
def test_c10_without_spacetime_identity_is_lower(no_spacetime, verdict):
    claim = _claim("C10", _rows(ip=_by_method(0.1, 0.4, no_spacetime=no_spacetime)))
    assert claim["verdict"] == verdict and claim["value"]["label"] == "Without spacetime"
    assert claim["value"]["mean"] == pytest.approx(no_spacetime)


@pytest.mark.parametrize(
    ("number", "column", "figures", "tests"),
    [
        ("C2", "scene_shown", "share", ["share"]),
        ("C3", "ip", "similarity", ["similarity"]),
        ("C4", "pc", "cosine", ["share"]),
        ("C5", "diversity_layout", "distance", ["share"]),
        ("C9", "context_change_outside", "distance", ["distance"]),
    ],
)
def test_figures_and_tests_say_what_they_are_in(number, column, figures, tests):
    claim = _claim(number, _rows(**{column: _by_method(0.5, 0.6, 0.7, 0.4)}))
    assert [claim[side]["unit"] for side in ("value", "against")] == [figures] * 2
    assert [test["unit"] for test in claim["tests"]] == tests


def test_figures_of_swaps_pairs_and_routers_say_what_they_are_in():
    examples = [{"subject": who, "background": 0.9, "foreground": 0.5} for who in PEOPLE]
    router = {"examples": examples, "background": [[0.9]], "foreground": [[0.5]]}
    swap, two = _claim("C1", swaps=_swaps(0.06, 0.24)), _claim("C6", pairs=_pairs([1, 1, 1, 1], 0.6, 0.1))
    shares = _claim("C8", router=router)
    assert [claim["value"]["unit"] for claim in (swap, two, shares)] == ["ratio", "share", "weight"]
    assert [[test["unit"] for test in claim["tests"]] for claim in (swap, two, shares)] == [
        ["ratio", "ratio"],
        ["share", "similarity"],
        ["weight"],
    ]


def test_what_a_run_does_not_measure_is_said():
    rows = _rows(ip=_by_method(moa=0.4))
    claims = make_claims(rows[rows["method"] == "moa"], [MOA], swaps=None, pairs=None, router=None, upper_bound=None)
    assert {claim["id"]: claim["verdict"] for claim in claims} == {f"C{n}": "unmeasured" for n in range(1, 11)}
    assert all(claim["note"].startswith("not measured: ") and claim["tests"] == [] for claim in claims)
    assert all(claim["measure"] and claim["criterion"] for claim in claims)
    assert claims[2]["value"]["mean"] == pytest.approx(0.4)  # MoA's own number is shown


def test_one_person_proves_nothing():
    rows = _rows(ip=_by_method(0.1, 0.4))
    assert _claim("C3", rows[rows["subject"] == "a"])["verdict"] == "undecided"


def test_lost_images_count_for_nobody():
    rows = _rows(ip=_by_method(0.1, 0.4))
    for seed, outcome in ((0, "no_reference"), (1, "missing")):
        rows.loc[(rows["method"] == "moa") & (rows["seed"] == seed) & (rows["category"] == "context"), "outcome"] = (
            outcome
        )
    assert _claim("C3", rows)["value"]["n"] == 8


def test_ablations_of_another_base_are_not_asked():
    rows = _rows(context_change_outside=_by_method(moa=0.05, no_moa=0.2), pc=_by_method(0.2, 0.2, 0.1))
    assert _claim("C9", rows)["verdict"] == "yes"
    elsewhere = [PRIOR, MOA, replace(NO_MOA, compared_with="community"), NO_SPACETIME]
    assert _claim("C9", rows, elsewhere)["verdict"] == "unmeasured"


def test_the_prior_is_that_of_moas_base_whichever_comes_first():
    rows = _rows(ip=_by_method(0.1, 0.4))
    claim = _claim("C3", rows, [replace(PRIOR, name="ink-prior", label="Ink: prior only"), *METHODS])
    assert (claim["verdict"], claim["against"]["label"]) == ("yes", "Prior only")


def test_without_moa_there_is_nothing_to_claim():
    assert make_claims(_rows(), [PRIOR, NO_MOA], swaps=None, pairs=None, router=None, upper_bound=None) == []
