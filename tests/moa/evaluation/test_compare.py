"""Two finished evaluations, paired: the differences, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.files import write_json
from moa.errors import EvaluationError
from moa.evaluation.compare import compare_runs, main
from moa.evaluation.score_tables import SCORES
from tests.moa.evaluation.test_summary import _table


def _evaluation(folder: Path, better: float = 0.0, precision: str = "fp32") -> Path:
    """A finished evaluation of a prior and MoA on three people, whose IP of MoA is better by some."""
    folder.mkdir()
    rows = _table(("prior", "moa"))
    rows["ip"] += better * (rows["method"] == "moa")
    SCORES.write(folder, rows.reindex(columns=SCORES.columns).astype(dict.fromkeys(SCORES.numbers, "float64")))
    people = [{"id": who, "word": "man", "digest": f"sha256:{who}"} for who in "abc"]
    write_json(folder / "suite.json", {"name": "tiny", "version": "1", "people": people})
    methods = [("prior", "Prior only", "prior"), ("moa", "MoA", "moa")]
    summary = {
        "format": "moa-evaluation/5",
        "methods": [dict(zip(("method", "label", "kind"), method, strict=True)) for method in methods],
        "provenance": {"commit": "abc", "adapter_digest": f"sha256:{better}"},
        "environment": {"precision": precision},
    }
    write_json(folder / "summary.json", summary)
    write_json(folder / "manifest.json", {})
    return folder


@pytest.fixture
def before(tmp_path) -> Path:
    return _evaluation(tmp_path / "before")


def test_rows_are_compared_in_pairs(before, tmp_path):
    found = compare_runs(before, _evaluation(tmp_path / "after", better=0.05))
    assert (found["format"], found["suite"], found["version"]) == ("moa-comparison/1", "tiny", "1")
    assert (found["before"]["adapter_digest"], found["after"]["adapter_digest"]) == ("sha256:0.0", "sha256:0.05")
    prior, moa = found["methods"]
    assert (prior["method"], prior["n"], prior["ip"]["n"], prior["ip"]["mean"]) == ("prior", 12, 4, 0)
    assert moa["ip"]["mean"] == pytest.approx(0.05) and moa["ip"]["low"] == pytest.approx(0.05)
    assert (moa["ip"]["n"], moa["pc"]["mean"], moa["item_shown"]) == (12, 0, None)


def test_a_method_that_one_run_lacks_is_not_compared(before, tmp_path):
    after = _evaluation(tmp_path / "after")
    summary = json.loads((before / "summary.json").read_text())
    write_json(before / "summary.json", summary | {"methods": summary["methods"][:1]})
    for runs in ((before, after), (after, before)):
        assert [method["method"] for method in compare_runs(*runs)["methods"]] == ["prior"]


@pytest.mark.parametrize(
    ("file", "part", "change", "said"),
    [
        ("summary.json", "provenance", {"evaluators": {"clip": {"weights": "sha256:9"}}}, "their clip models differ"),
        (
            "summary.json",
            "provenance",
            {"preparer": {"name": "PortraitPreparer"}},
            r"their preparers differ \(None and",
        ),
        ("suite.json", "images", {"steps": 9, "precision": "fp32"}, "their sampling options differ"),
    ],
)
def test_what_was_measured_or_sampled_otherwise_does_not_compare(before, tmp_path, file, part, change, said):
    after = _evaluation(tmp_path / "after")
    content = json.loads((after / file).read_text())
    content[part] = content.get(part, {}) | change
    (after / file).write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=said + ".*evaluate the earlier model again"):
        compare_runs(before, after)


def test_of_crops_that_differ_the_preparer_is_named_from_either_side(before, tmp_path):
    after = _evaluation(tmp_path / "after")
    people = json.loads((after / "suite.json").read_text())
    write_json(after / "suite.json", people | {"people": [{"id": "a", "word": "man", "digest": "sha256:other"}]})
    summary = json.loads((after / "summary.json").read_text())
    summary["provenance"]["preparer"] = {"name": "SegmentationPreparer", "weights": "sha256:1"}
    write_json(after / "summary.json", summary)
    for runs in ((before, after), (after, before)):
        with pytest.raises(EvaluationError, match="their preparers differ"):
            compare_runs(*runs)


def test_the_command_prints_a_table_and_writes_json(before, tmp_path, capsys):
    after = _evaluation(tmp_path / "after", better=0.05, precision="fp16")
    assert main([str(before), str(after), "--out", str(tmp_path / "comparison.json")]) == 0
    printed = capsys.readouterr().out
    assert "+0.050 (+0.050 to +0.050)" in printed and "made in fp16 and fp32" in printed
    assert "items shown" not in printed
    assert json.loads((tmp_path / "comparison.json").read_text()) == compare_runs(before, after)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("suite.json", {"version": "2"}, r"their versions differ \(1 and 2\)"),
        ("suite.json", {"name": "other"}, r"their suites differ \(tiny and other\)"),
        ("suite.json", {"people": []}, "their people differ, so their scores do not compare"),
        ("summary.json", {"format": "moa-evaluation/3"}, "summary.json: has format moa-evaluation/3, and only"),
        ("summary.json", {"methods": []}, "have no method in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(before, tmp_path, capsys, name, change, message):
    after = _evaluation(tmp_path / "after")
    write_json(after / name, json.loads((after / name).read_text()) | change)
    assert main([str(before), str(after)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error)


def test_unfinished_and_damaged_runs_are_refused(before, tmp_path, capsys):
    after = _evaluation(tmp_path / "after")
    rows = _table(("prior", "moa")).reindex(columns=SCORES.columns)
    SCORES.write(after, rows[:-1])
    assert main([str(before), str(after)]) == 1
    assert "1 rows of MoA are in one run only" in capsys.readouterr().err
    SCORES.write(after, rows.drop(columns="item_shown"))
    assert main([str(before), str(after)]) == 1
    assert "scores.parquet: lacks column item_shown" in capsys.readouterr().err
    (after / "manifest.json").unlink()
    assert main([str(before), str(after)]) == 1
    assert "is no finished evaluation, it lacks manifest.json" in capsys.readouterr().err


def test_lost_images_are_in_no_pair(before, tmp_path):
    after = tmp_path / "after"
    shutil.copytree(before, after)
    rows = _table(("prior", "moa"))
    rows.loc[rows.index[-1], ["outcome", "ip"]] = ["missing", np.nan]
    SCORES.write(after, rows.reindex(columns=SCORES.columns))
    assert [method["n"] for method in compare_runs(before, after)["methods"]] == [12, 11]
