"""Summaries: recomputed from rows by hand, failures counted, methods and runs compared in pairs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from moa.errors import ScoresError
from moa.evaluation.generate import Method
from moa.evaluation.intervals import bootstrap_interval
from moa.evaluation.score_tables import SCORES
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.summary import summarise, unscored
from tests.moa.evaluation.fakes import CHAMPION, MOA, PRIOR, tiny_suite

PEOPLE = ("a", "b", "c")


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two methods, three people, two prompts, two seeds, random scores."""
    return _table(("prior", "moa"))


def _table(methods) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    keys = [(m, s, p, seed) for m in methods for s in PEOPLE for p in ("hat", "beach") for seed in (0, 1)]
    table = pd.DataFrame(keys, columns=["method", "subject", "prompt_id", "seed"]).reindex(columns=SCORES.columns)
    table = table.astype(dict.fromkeys(SCORES.numbers, "float64"))
    table["category"] = table["prompt_id"].map({"hat": "accessory", "beach": "context"})
    table["outcome"], table["face_x0"] = "scored", 1.0
    whose = table["subject"].where(table["method"] != "prior", "man")  # three men: they share the prior's images
    table["image"] = table["method"] + whose + table["prompt_id"] + table["seed"].astype(str)
    table["ip"], table["pc"] = rng.uniform(0, 1, len(table)), rng.uniform(-1, 1, len(table))
    table["face_size"] = rng.uniform(0, 0.5, len(table))
    table["context_change_outside"] = np.where(table["method"] == "moa", 0.25, np.nan)
    table["pc_rank"] = np.where(table["prompt_id"] == "hat", 1.0 + table["seed"], np.nan)
    return table


def _moa(rows):
    return summarise(rows, tiny_suite(), [PRIOR, MOA], {"command": "c"})["methods"][1]


def test_means_are_those_of_the_rows(rows):
    moa, chosen = _moa(rows), rows[rows["method"] == "moa"]
    assert moa["n"] == 12 and moa["ip"]["mean"] == pytest.approx(chosen["ip"].mean())
    assert moa["ip"]["std"] == pytest.approx(np.std(chosen["ip"]))  # FastComposer reports the population's
    assert moa["ip"]["low"] < moa["ip"]["mean"] < moa["ip"]["high"]
    hat = chosen[chosen["prompt_id"] == "hat"]
    assert moa["by_prompt"]["hat"]["pc"]["mean"] == pytest.approx(hat["pc"].mean())
    assert moa["by_category"]["accessory"] == moa["by_prompt"]["hat"]
    assert {name: part["n"] for name, part in moa["by_subject"].items()} == dict.fromkeys(PEOPLE, 4)
    assert moa["by_subject"]["a"]["ip"]["low"] is None  # one identity has no interval
    assert sum(part["n"] for part in moa["by_face_size"].values()) == 12
    assert moa["context_change_outside"]["mean"] == 0.25
    assert moa["compared_with"] == "prior"


def test_a_face_between_two_sizes_is_of_the_larger(rows):
    rows["face_size"] = rows["seed"].map({0: 0.15, 1: 0.3})
    sizes = _moa(rows)["by_face_size"]
    assert {size: part["n"] for size, part in sizes.items()} == {"below 15 %": 0, "15 to 30 %": 6, "30 % and more": 6}


def test_followed_is_the_share_of_first_ranks(rows):
    moa = _moa(rows)
    assert moa["followed"]["mean"] == 0.5  # the first seed's, of those that have a rank
    assert moa["by_category"]["accessory"]["followed"]["mean"] == 0.5
    assert moa["by_category"]["context"]["followed"] is None


def test_what_was_not_measured_is_null(rows):
    moa = _moa(rows)
    for column in ("context_change_inside", "swap_change_outside", "diversity_layout", "diversity_content"):
        assert moa[column] is None
    rows["diversity_layout"] = 0.5
    assert _moa(rows)["diversity_layout"]["mean"] == 0.5


def test_moa_is_compared_with_each_other_method():
    rows = _table(("prior", "champion", "moa"))
    rows.loc[(rows["method"] == "champion") & (rows["subject"] == "a"), "outcome"] = "missing"
    champion, moa = (rows[rows["method"] == name].reset_index() for name in ("champion", "moa"))
    of_prior, of_champion = summarise(rows, tiny_suite(), [PRIOR, MOA, CHAMPION], {})["comparisons"]
    assert (of_prior["before"], of_prior["after"], of_prior["n"]) == ("prior", "moa", 12)
    assert of_prior["context_change_outside"] is None
    assert (of_champion["before"], of_champion["n"]) == ("champion", 8)
    both = champion["subject"] != "a"
    assert of_champion["ip"]["mean"] == pytest.approx((moa["ip"] - champion["ip"])[both].mean())


def test_methods_on_another_base_are_compared_with_the_prior_there():
    """Between two bases everything differs."""
    names = ("prior", "moa", "ink-prior", "ink")
    there = [
        Method("ink-prior", "Ink: prior only", "prior", "d"),
        Method("ink", "Ink", "ablation", "d", compared_with="ink-prior"),
    ]
    comparisons = summarise(_table(names), tiny_suite(), [PRIOR, MOA, *there], {})["comparisons"]
    assert [(one["before"], one["after"]) for one in comparisons] == [("prior", "moa"), ("ink-prior", "ink")]


def test_every_statistic_says_over_how_many_images_it_is(rows):
    """A measurement that most images lack does not hide behind the number of all."""
    ours, one = rows["method"] == "moa", (rows["subject"] == "a") & (rows["prompt_id"] == "hat")
    rows.loc[ours & ~one, "context_change_outside"] = np.nan
    rows.loc[one, "item_shown"] = 1.0
    summary = summarise(rows, tiny_suite(), [PRIOR, MOA], {})
    moa, against = summary["methods"][1], summary["comparisons"][0]
    assert (moa["n"], moa["ip"]["n"], moa["context_change_outside"]["n"], moa["item_shown"]["n"]) == (12, 12, 2, 2)
    assert (against["n"], against["ip"]["n"], against["item_shown"]["n"]) == (12, 12, 2)
    assert moa["by_prompt"]["hat"]["item_shown"]["n"] == 2 and moa["by_prompt"]["beach"]["item_shown"] is None


def test_the_priors_images_count_once_and_its_intervals_are_over_prompts(rows):
    """Three people with one word share them; their rows are no independent images."""
    prior = summarise(rows, tiny_suite(), [PRIOR, MOA], {})["methods"][0]
    known = rows[rows["method"] == "prior"]
    assert (prior["n"], prior["pc"]["n"], prior["by_subject"]["a"]["n"], prior["by_prompt"]["hat"]["n"]) == (4, 4, 4, 2)
    assert prior["pc"]["mean"] == pytest.approx(known["pc"].mean())
    over_prompts = bootstrap_interval(known["pc"].to_numpy(), known["prompt_id"].to_numpy())
    assert (prior["pc"]["low"], prior["pc"]["high"]) == (over_prompts.low, over_prompts.high)
    assert prior["detection_rate"]["low"] == bootstrap_interval(np.ones(4), np.arange(4)).low  # all of four is little
    assert prior["by_prompt"]["hat"]["pc"]["low"] is None and prior["by_subject"]["a"]["pc"]["low"] is not None


def test_what_could_not_be_scored_is_named_once(rows):
    rows.loc[12, ["outcome", "image"]] = ["missing", "images/moa/a/hat/0.png"]
    rows.loc[rows["subject"] == "b", "outcome"] = "no_reference_face"
    rows.loc[rows["subject"] == "c", "outcome"] = "no_reference"
    lost = SuiteSubject("c", "man", None, None, "c", problem="c holds no photograph")
    pairs = pd.DataFrame({"outcome": ["unreadable", "no_reference", "scored"], "image": ["ab.png", "ac.png", "x.png"]})
    assert unscored(rows, pairs, [lost]) == [
        {"what": "subject c", "why": "c holds no photograph"},
        {"what": "subject b", "why": "no face was found in the reference: IP cannot be measured"},
        {"what": "images/moa/a/hat/0.png", "why": "the image is missing"},
        {"what": "ab.png", "why": "the image cannot be read"},
    ]


def test_images_of_two_have_their_table(rows):
    keys = [(m, a, b, "hug", seed) for m in ("prior", "moa") for a, b in (("a", "b"), ("b", "c")) for seed in (0, 1)]
    pairs = pd.DataFrame(keys, columns=["method", "first", "second", "prompt_id", "seed"])
    whose = pairs["first"].where(pairs["method"] != "prior", "men")  # they share the prior's images
    pairs["image"] = pairs["method"] + whose + pairs["seed"].astype(str)
    pairs["outcome"], pairs["faces"], pairs["pc"], pairs["reference_similarity"] = "scored", 2, 0.2, 0.1
    pairs["ip"], pairs["leakage"], pairs["assigned"] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0], 0.1, 1.0
    pairs.loc[7, ["outcome", "faces", "leakage", "assigned"]] = ["too_few_faces", 1, np.nan, 0]
    prior, moa = summarise(rows, tiny_suite(), [PRIOR, MOA], {}, pairs=pairs)["pairs"]
    assert prior["ip"]["mean"] == pytest.approx(0.15) and prior["two_faces"]["mean"] == 1 and prior["n"] == 2
    assert (moa["method"], moa["kind"], moa["n"]) == ("moa", "moa", 4)
    assert moa["ip"]["mean"] == pytest.approx(0.375) and moa["two_faces"]["mean"] == moa["assigned"]["mean"] == 0.75
    over_people = bootstrap_interval(pairs["ip"][4:].to_numpy(), pairs[["first", "second"]][4:].to_numpy(str))
    assert (moa["ip"]["low"], moa["ip"]["high"]) == (over_people.low, over_people.high)
    assert moa["leakage"]["mean"] == pytest.approx(0.1) and moa["outcomes"] == {"scored": 3, "too_few_faces": 1}
    pairs.loc[6, "outcome"] = "missing"
    assert summarise(rows, tiny_suite(), [PRIOR, MOA], {}, pairs=pairs)["pairs"][1]["n"] == 3


def test_the_upper_bound_is_of_those_with_a_second_photograph(rows):
    bound = pd.DataFrame({"subject": list(PEOPLE), "ip": [0.8, 0.6, np.nan]})
    upper = summarise(rows, tiny_suite(), [PRIOR, MOA], {}, upper_bound=bound)["upper_bound"]
    assert upper["n"] == 2 and upper["ip"]["mean"] == pytest.approx(0.7)
    nobody = summarise(rows, tiny_suite(), [PRIOR, MOA], {}, upper_bound=bound[2:])
    assert nobody["upper_bound"] is None


def test_claims_are_made_from_the_same_rows(rows):
    rows.loc[rows["method"] == "moa", "ip"] += 1
    claims = {claim["id"]: claim for claim in summarise(rows, tiny_suite(), [PRIOR, MOA], {})["claims"]}
    assert len(claims) == 10 and (claims["C3"]["verdict"], claims["C6"]["verdict"]) == ("yes", "unmeasured")


def test_the_file_has_its_heading_and_no_nan(rows):
    summary = summarise(rows, tiny_suite(), [PRIOR, MOA], {"command": "c"})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["format"], summary["suite"], summary["version"]) == ("moa-evaluation/5", "tiny", "1")
    assert summary["published"] == [{"method": "Theirs", "ip": 0.5, "pc": 0.2, "source": "a paper"}]
    prior = summary["methods"][0]
    assert (prior["kind"], prior["context_change_outside"], prior["compared_with"]) == ("prior", None, None)
    assert (summary["pairs"], summary["upper_bound"]) == (None, None)


def test_no_face_counts_zero_and_lost_images_count_apart(rows):
    rows.loc[23, ["outcome", "ip", "face_x0"]] = ["no_face", 0.0, np.nan]
    for row, outcome in enumerate(("missing", "unreadable", "no_reference"), start=20):
        rows.loc[row, ["outcome", "ip", "pc", "face_x0"]] = [outcome, np.nan, np.nan, np.nan]
    moa = _moa(rows)
    assert moa["outcomes"] == {"scored": 8, "no_face": 1, "missing": 1, "unreadable": 1, "no_reference": 1}
    assert moa["n"] == 9 and moa["ip"]["mean"] == pytest.approx(rows["ip"][12:20].sum() / 9)
    assert moa["detection_rate"]["mean"] == pytest.approx(8 / 9)


def test_a_method_of_which_nothing_is_left_has_empty_scores(rows):
    lost = rows["method"] == "moa"
    rows.loc[lost, "outcome"] = "missing"
    moa = _moa(rows)
    assert moa["n"] == 0 and moa["ip"] == {"n": 0, "mean": None, "low": None, "high": None, "std": None}
    json.dumps(moa, allow_nan=False)


def test_rows_and_methods_must_match(rows):
    with pytest.raises(ScoresError, match=r"\['moa', 'prior'\].*asked for \['moa'\]"):
        summarise(rows, tiny_suite(), [MOA], {})
