"""Summaries: recomputed from rows by hand, failures counted, two runs compared in pairs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from moa.errors import ScoresError
from moa.evaluation.score import COLUMNS
from moa.evaluation.summary import compare, summarise
from tests.moa.evaluation.fakes import tiny_suite
from tests.moa.evaluation.test_generate import MOA, PRIOR

PEOPLE = ("a", "b", "c")


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two methods, three people, two prompts, two seeds, random scores."""
    rng = np.random.default_rng(0)
    keys = [(m, s, p, seed) for m in ("prior", "moa") for s in PEOPLE for p in ("hat", "beach") for seed in (0, 1)]
    table = pd.DataFrame(keys, columns=["method", "subject", "prompt_id", "seed"]).reindex(columns=COLUMNS)
    table["category"] = table["prompt_id"].map({"hat": "accessory", "beach": "context"})
    table["outcome"], table["face_x0"] = "scored", 1.0
    table["ip"], table["pc"] = rng.uniform(0, 1, len(table)), rng.uniform(-1, 1, len(table))
    table["face_size"] = rng.uniform(0, 0.5, len(table))
    table["context_change_outside"] = np.where(table["method"] == "moa", 0.25, np.nan)
    return table.astype({"context_change_inside": "float64"})


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


def test_the_file_has_its_heading_and_no_nan(rows):
    summary = summarise(rows, tiny_suite(), [PRIOR, MOA], {"command": "c"})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["format"], summary["suite"], summary["version"]) == ("moa-evaluation/1", "tiny", "1")
    assert summary["published"] == [{"method": "Theirs", "ip": 0.5, "pc": 0.2, "source": "a paper"}]
    prior = summary["methods"][0]
    assert (prior["kind"], prior["context_change_outside"]) == ("prior", None)


def test_no_face_counts_zero_and_lost_images_count_apart(rows):
    rows.loc[23, ["outcome", "ip", "face_x0"]] = ["no_face", 0.0, np.nan]
    rows.loc[22, ["outcome", "ip", "pc", "face_x0"]] = ["missing", np.nan, np.nan, np.nan]
    moa = _moa(rows)
    assert moa["outcomes"] == {"scored": 10, "no_face": 1, "missing": 1} and moa["n"] == 11
    assert moa["ip"]["mean"] == pytest.approx(rows["ip"][12:22].sum() / 11)
    assert moa["detection_rate"]["mean"] == pytest.approx(10 / 11)


def test_a_method_of_which_nothing_is_left_has_empty_scores(rows):
    lost = rows["method"] == "moa"
    rows.loc[lost, "outcome"] = "missing"
    moa = _moa(rows)
    assert moa["n"] == 0 and moa["ip"] == {"mean": None, "low": None, "high": None, "std": None}
    json.dumps(moa, allow_nan=False)


def test_rows_and_methods_must_match(rows):
    with pytest.raises(ScoresError, match=r"\['moa', 'prior'\].*asked for \['moa'\]"):
        summarise(rows, tiny_suite(), [MOA], {})


def test_runs_are_compared_row_by_row(rows):
    before = rows[rows["method"] == "moa"]
    after = before.assign(ip=before["ip"] + 0.05).sample(frac=1, random_state=0)
    difference = compare(before, after)
    assert difference["ip"]["mean"] == pytest.approx(0.05) and difference["ip"]["low"] == pytest.approx(0.05)
    assert difference["pc"]["mean"] == 0 and difference["n"] == 12
    with pytest.raises(ScoresError, match="1 of 12 rows exist in one run only"):
        compare(before, after[1:])
